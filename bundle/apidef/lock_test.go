package apidef

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A command that is being started has copies of all descriptors until it runs. They hold no lock
// that was released.
func TestLockAfterAFork(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	journal := filepath.Join(dir, "journal")
	unlock, err := lock("apply", journal)
	if err != nil {
		t.Fatal(err)
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	copies := 0
	for _, fd := range fds {
		var n int
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err != nil || to != dir {
			continue
		}
		if _, err := fmt.Sscan(fd.Name(), &n); err != nil {
			t.Fatal(err)
		}
		c, err := syscall.Dup(n)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = syscall.Close(c) }()
		copies++
	}
	var e *Error
	if _, err := lock("apply", journal); !errors.Is(err, ErrLocked) || !errors.As(err, &e) || !e.Retry {
		t.Errorf("while it is held: %v", err)
	}
	unlock()
	again, err := lock("apply", journal)
	if err != nil || copies == 0 {
		t.Fatalf("%v, with %d copies", err, copies)
	}
	again()
}
