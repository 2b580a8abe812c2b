package backuptest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"example.com/tykupgrade/backup"
)

// killEnv tells the helper process where to write sets.
const killEnv = "BACKUPTEST_KILL_DIR"

// Helper is what the test named in [Kill] calls first: in the helper process it
// takes one set after the other until it is killed, and does not return.
func Helper(sources func() []backup.Source) {
	dir := os.Getenv(killEnv)
	if dir == "" {
		return
	}
	for i := 0; ; i++ {
		if _, err := backup.Take(context.Background(), dir, backup.Options{Reserve: -1},
			sources()...); err != nil {
			fmt.Println("FAILED", err)
			os.Exit(1)
		}
		fmt.Println("TAKEN")
	}
}

// Kill runs the test binary again n times with the named test, which must call
// [Helper], and kills it with SIGKILL at a random moment. Every set that opens
// then is complete, and the next run removes what was left. env is added to
// the helper's environment.
func Kill(t *testing.T, helper string, n int, env ...string) {
	dir := t.TempDir()
	sets, leftovers := 0, 0
	for i := range n {
		cmd := exec.Command(os.Args[0], "-test.run=^"+helper+"$")
		cmd.Env = append(append(os.Environ(), killEnv+"="+dir, "GORACE=atexit_sleep_ms=0"), env...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// The first set shows that it works; the moment counts from there.
		line := make([]byte, 64)
		m, _ := out.Read(line)
		if !bytes.HasPrefix(line[:m], []byte("TAKEN")) {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			t.Fatalf("helper: %s", line[:m])
		}
		// Every second kill waits for a set that is being built: on a busy machine a moment by
		// the clock comes before the next set has begun.
		for end := time.Now().Add(time.Minute); i%2 == 0 && len(Leftovers(t, dir)) == 0 &&
			time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		if i%4 != 0 {
			time.Sleep(time.Duration(rand.Int64N(int64(30 * time.Millisecond))))
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		left := Leftovers(t, dir)
		if leftovers += len(left); len(left) > 1 {
			t.Errorf("a run did not remove what the one before left: %v", left)
		}
		complete, err := backup.List(dir)
		if err != nil {
			t.Errorf("a set that looks complete does not open: %v", err)
		}
		for _, s := range complete {
			if err := s.Verify(t.Context(), backup.VerifyOptions{}); err != nil {
				t.Errorf("a set that opens is not complete: %v", err)
			}
			if err := os.RemoveAll(s.Dir); err != nil {
				t.Fatal(err)
			}
		}
		sets += len(complete)
	}
	t.Logf("%d kills: %d sets were complete, %d were cut off", n, sets, leftovers)
	if leftovers == 0 {
		t.Error("no kill hit a set that was being built: the test shows nothing")
	}
}
