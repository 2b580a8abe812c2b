package backup

import (
	"os"
	"path/filepath"
	"testing"

	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/internal/lab"
)

// Released locks of Take, Prune and Restore are free, also while another goroutine starts a
// command.
func TestLockAfterAFork(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := lab.Copies(t, filepath.Join(dir, lockName))
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
	n = lab.Copies(t, manifest)
	release()
	if _, err := s.hide(dir); err != nil || n == 0 {
		t.Errorf("the set: %v, with %d copies", err, n)
	}
}
