package backuptest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"example.com/tykupgrade/backup"
)

// killSetEnv names the set that the helper process restores.
const killSetEnv = "BACKUPTEST_KILL_SET"

// RestoreHelper must be the first call of the test that [KilledRestore] names. In the helper
// process it restores the set and does not return. Elsewhere it does nothing.
func RestoreHelper(restorer func() backup.Restorer) {
	dir := os.Getenv(killSetEnv)
	if dir == "" {
		return
	}
	set, err := backup.Open(dir)
	if err == nil {
		fmt.Println("BEGINS")
		_, err = set.Restore(context.Background(), backup.RestoreOptions{}, restorer())
	}
	if err != nil {
		fmt.Println("FAILED", err)
		os.Exit(1)
	}
	fmt.Println("RESTORED")
	os.Exit(0)
}

// KilledRestore describes a restore for a test that kills it.
type KilledRestore struct {
	Helper string   // name of the test that calls [RestoreHelper] first
	Env    []string // added to the helper's environment
	Set    *backup.Set
	// Restorer returns the helper's restorer, in this process.
	Restorer func() backup.Restorer
	// Reset restores the state of the target before a restore.
	Reset func(t *testing.T)
	// Settle waits until everything that the killed process started or holds, such as a lease,
	// has ended. Nil: nothing.
	Settle func(t *testing.T)
	// State returns a description of the whole target, including everything that a restore
	// could leave there.
	State func(t *testing.T) string
}

// Run restores in another process and kills it with SIGKILL at n random moments. After a kill, it
// restores again, or every other time calls Undo if the restorer is a [backup.Undoer]. It fails the
// test unless the target then has exactly the new or the old state.
func (k KilledRestore) Run(t *testing.T, n int) {
	k.Reset(t)
	before := k.State(t)
	whole, out := k.run(t, -1)
	if !bytes.Contains(out, []byte("RESTORED")) {
		t.Fatalf("helper: %s", out)
	}
	after := k.State(t)
	if before == after {
		t.Fatal("the restore changes nothing: the test shows nothing")
	}
	cut := 0
	// There are more than n kills only if none of them hit a restore at work.
	for i := 0; i < n || (cut == 0 && i < 10*n); i++ {
		k.Reset(t)
		if _, out := k.run(t, rand.N(whole)); bytes.Contains(out, []byte("FAILED")) {
			t.Fatalf("helper: %s", out)
		}
		cut += k.recover(t, before, after, i%2 == 1)
	}
	t.Logf("%d kills, %d of them hit a restore at work", n, cut)
	if cut == 0 {
		t.Error("no kill hit a restore at work: the test shows nothing")
	}
}

// RunMoments is Run for a helper that kills itself at the moment that env sets. Moments count from
// 0. RunMoments ends when a restore finishes before its moment.
func (k KilledRestore) RunMoments(t *testing.T, env func(moment int) []string) {
	k.Reset(t)
	before := k.State(t)
	if _, err := k.Set.Restore(t.Context(), backup.RestoreOptions{}, k.Restorer()); err != nil {
		t.Fatal(err)
	}
	after := k.State(t)
	cut := 0
	for i := 0; ; i++ {
		k.Env = env(i)
		k.Reset(t)
		_, out := k.run(t, -1)
		switch {
		case bytes.Contains(out, []byte("FAILED")) || !bytes.Contains(out, []byte("BEGINS")):
			t.Fatalf("moment %d: helper: %s", i, out)
		case bytes.Contains(out, []byte("RESTORED")):
			t.Logf("%d moments, at %d of them a restore was at work", i, cut)
			if cut == 0 {
				t.Error("no kill hit a restore at work: the test shows nothing")
			}
			return
		}
		cut += k.recover(t, before, after, i%2 == 1)
	}
}

// recover continues after a kill, and returns 1 if that hit a restore at work.
func (k KilledRestore) recover(t *testing.T, before, after string, back bool) (cut int) {
	t.Helper()
	if k.Settle != nil {
		k.Settle(t)
	}
	left := k.State(t)
	if left != before && left != after {
		cut = 1
	}
	if _, undoes := k.Restorer().(backup.Undoer); undoes && back {
		report, err := k.Set.Undo(t.Context(), k.Restorer())
		if err != nil {
			t.Fatalf("undo after a kill: %v\nleft:\n%s", err, left)
		}
		got := k.State(t)
		if got != before && (got != after || left != after) {
			t.Errorf("before:\n%s\nkilled:\n%s\nafter undo:\n%s", before, left, got)
		}
		undone := slices.ContainsFunc(report.Components, func(c backup.ComponentReport) bool {
			return c.State == backup.StateUndone
		})
		if left == after && undone != (got == before) { // a finished restore
			t.Errorf("the target changed: %v, and Undo reports %+v", got != left, report)
		}
		return cut
	}
	_, err := k.Set.Restore(t.Context(), backup.RestoreOptions{}, k.Restorer())
	if err != nil && k.Set.Accept(t.Context(), k.Restorer()) == nil { // it was complete, but not accepted
		_, err = k.Set.Restore(t.Context(), backup.RestoreOptions{}, k.Restorer())
	}
	if got := k.State(t); err != nil || got != after {
		t.Errorf("%v\nkilled:\n%s\nafter the next restore:\n%s\nwant:\n%s", err, left, got, after)
	}
	return cut
}

// run restores in another process, and kills it after a time; negative: never. It returns
// how long the restore took.
func (k KilledRestore) run(t *testing.T, after time.Duration) (time.Duration, []byte) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+k.Helper+"$")
	cmd.Env = append(append(os.Environ(), killSetEnv+"="+k.Set.Dir, "GORACE=atexit_sleep_ms=0"),
		k.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	line := make([]byte, 4096)
	m, _ := pipe.Read(line)
	out.Write(line[:m])
	began := time.Now()
	if after >= 0 {
		time.Sleep(after)
		_ = cmd.Process.Kill()
	}
	_, _ = out.ReadFrom(pipe)
	took := time.Since(began)
	_ = cmd.Wait()
	return took, out.Bytes()
}
