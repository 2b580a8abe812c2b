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

// killEnv is the directory in which the helper process writes sets.
const killEnv = "BACKUPTEST_KILL_DIR"

// Helper must be the first call of the test that [Kill] names. In the helper process it takes sets
// until it is killed, and does not return. Elsewhere it does nothing.
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

// Kill runs the test binary n times with the test named helper, which must call [Helper], and sends
// SIGKILL at a random moment. It fails the test unless every set that opens is complete and the
// next run removes all leftovers. env is added to the helper's environment.
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
		// The first set shows that the helper works. The moment counts from there.
		line := make([]byte, 64)
		m, _ := out.Read(line)
		if !bytes.HasPrefix(line[:m], []byte("TAKEN")) {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			t.Fatalf("helper: %s", line[:m])
		}
		// Every second kill waits for a set that is being built. On a busy machine, a
		// random moment often comes before the next set has begun.
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
