package main

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"example.com/tykupgrade/examples/internal/cli"
)

// A directory that another process has locked is exit code 4, and is not touched.
func TestPublishLocked(t *testing.T) {
	t.Parallel()
	dir := setup(t)
	if err := os.Mkdir(dir+"/served", 0o700); err != nil {
		t.Fatal(err)
	}
	publish := func() (int, string) {
		code, _, errOut := call(t, dir, "publish", "-dir", "DIR/served", "DIR/plugin.so", "a.zip")
		return code, errOut
	}
	held, err := os.Open(dir + "/served")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(held.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if code, errOut := publish(); code != cli.Busy ||
		!strings.Contains(errOut, "served: another process holds the lock\n  wait for it\n") {
		t.Errorf("locked: %d %s", code, errOut)
	}
	if left, err := os.ReadDir(dir + "/served"); err != nil || len(left) != 0 {
		t.Errorf("locked: %v, %v", left, err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if code, errOut := publish(); code != cli.Yes {
		t.Errorf("free: %d %s", code, errOut)
	}
}
