package backup

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"example.com/tykupgrade/backup/internal/step"
)

// copies duplicates the descriptors of a file, as a command that is being started does until it
// runs, and returns how many there were.
func copies(t *testing.T, path string) (n int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		var number int
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err != nil || to != path {
			continue
		}
		if _, err := fmt.Sscan(fd.Name(), &number); err != nil {
			t.Fatal(err)
		}
		c, err := syscall.Dup(number)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Close(c) })
		n++
	}
	return n
}

// Released locks of Take, Prune and Restore are free, also while another goroutine starts a
// command.
func TestLockAfterAFork(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := copies(t, filepath.Join(dir, lockName))
	unlock()
	again, err := lock(dir)
	if err != nil || n == 0 {
		t.Fatalf("the directory: %v, with %d copies", err, n)
	}
	again()

	s := &Set{Dir: filepath.Join(dir, "set")}
	manifest := filepath.Join(s.Dir, step.ManifestName)
	if err := os.Mkdir(s.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(manifest, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	release, err := s.hold()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.hide(dir); err == nil {
		t.Fatal("a set in use was removed")
	}
	n = copies(t, manifest)
	release()
	if _, err := s.hide(dir); err != nil || n == 0 {
		t.Errorf("the set: %v, with %d copies", err, n)
	}
}
