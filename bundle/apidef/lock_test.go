package apidef

import (
	"errors"
	"path/filepath"
	"testing"

	"example.com/tykupgrade/internal/lab"
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
	copies := lab.Copies(t, dir)
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
