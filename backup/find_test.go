package backup_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"example.com/tykupgrade/backup"
)

// A set is found by its directory, its id and as the latest; if one cannot be opened,
// nobody knows which is the latest.
func TestFind(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := backup.Find(dir, "latest"); !errors.Is(err, backup.ErrNotASet) {
		t.Errorf("an empty directory: %v", err)
	}
	if _, err := backup.Find("", "latest"); err == nil {
		t.Error("the latest of nothing")
	}
	first := takePlain(t, dir, text("a", "1"))
	second := takePlain(t, dir, text("a", "2"))
	for name, want := range map[string]*backup.Set{"latest": second, first.ID: first,
		first.Dir: first} {
		if set, err := backup.Find(dir, name); err != nil || set.ID != want.ID {
			t.Errorf("%s: %+v %v", name, set, err)
		}
	}
	if set, err := backup.Find("", first.Dir); err != nil || set.ID != first.ID {
		t.Errorf("%+v %v", set, err)
	}
	if got, err := first.RescueDir(""); err != nil || got != filepath.Join(dir, "rescued") {
		t.Errorf("%s %v", got, err)
	}
	if _, err := first.RescueDir(dir + "/."); err == nil {
		t.Error("sets of what is replaced go among the sets")
	}
	if err := os.Truncate(filepath.Join(first.Dir, "manifest.json"), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Find(dir, "latest"); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("%v", err)
	}
}
