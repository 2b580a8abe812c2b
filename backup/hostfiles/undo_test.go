package hostfiles_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/backuptest"
	"example.com/tykupgrade/backup/hostfiles"
)

// A restore that was killed between the owner and the mode of a directory, and an edit of either.
func TestUndoOwnerOrMode(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("changing the owner needs root")
	}
	const before, inSet, other = 12345, 0, 54321
	for _, c := range []struct {
		owner int
		mode  fs.FileMode
		edit  bool
	}{
		{inSet, 0o755, false}, {inSet, 0o700, false}, {before, 0o755, false}, {before, 0o700, false},
		{other, 0o755, true}, {other, 0o700, true}, {inSet, 0o711, true}, {before, 0o711, true},
	} {
		root := t.TempDir()
		write(t, root, "opt/d/f", "in the set", 0o640)
		dir := filepath.Join(root, "opt/d")
		is := func(owner int, mode fs.FileMode) {
			t.Helper()
			if err := errors.Join(os.Chown(dir, owner, 0), os.Chmod(dir, mode)); err != nil {
				t.Fatal(err)
			}
		}
		is(inSet, 0o755)
		set := takePlain(t, t.TempDir(), &hostfiles.Source{FS: os.DirFS(root), Paths: []string{"/opt"}})
		is(before, 0o700)
		to := &hostfiles.Restore{Root: root, Paths: []string{"/opt"}, Rescue: t.TempDir()}
		old := contents(t, root)
		if _, err := set.Restore(t.Context(), backup.RestoreOptions{Keep: true}, to); err != nil {
			t.Fatal(err)
		}
		is(c.owner, c.mode)
		left := contents(t, root)
		_, err := set.Undo(t.Context(), to)
		want := old
		if c.edit {
			want = left
		}
		if errors.Is(err, hostfiles.ErrEdited) != c.edit || !c.edit && err != nil {
			t.Errorf("owner %d, mode %v: %v", c.owner, c.mode, err)
		}
		if got := contents(t, root); got != want {
			t.Errorf("owner %d, mode %v: got\n%s\nwant\n%s", c.owner, c.mode, got, want)
		}
	}
}

// Undo changes nothing if a file is neither as the restore wrote it nor as it was before, and
// names the file. DropEdits undoes it too.
func TestUndoSparesEdits(t *testing.T) {
	t.Parallel()
	needGNU(t)
	rewrite := func(name, text string) func(*testing.T, string) {
		return func(t *testing.T, root string) { write(t, root, name, text, 0o640) }
	}
	mode := func(name string, to fs.FileMode) func(*testing.T, string) {
		return func(t *testing.T, root string) {
			if err := os.Chmod(filepath.Join(root, name), to); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name   string
		remote bool
		edit   func(t *testing.T, root string)
		edited string // what the error names; empty: no edit
		same   bool   // the edit is of a file that the restore left alone
	}{
		{"a replaced file", false, rewrite("opt/a", "edited"), "/opt/a", false},
		{"a created file", false, rewrite("opt/new", "edited"), "/opt/new", false},
		{"the mode of a file", false, mode("opt/a", 0o600), "/opt/a", false},
		{"the mode of a directory", false, mode("opt/d", 0o711), "/opt/d/", false},
		{"a file became a link", false, func(t *testing.T, root string) {
			a := filepath.Join(root, "opt/a")
			if err := errors.Join(os.Remove(a), os.Symlink("same", a)); err != nil {
				t.Fatal(err)
			}
		}, "/opt/a", false},
		{"through a Runner", true, rewrite("opt/a", "edited"), "/opt/a", false},
		{"nothing", true, func(*testing.T, string) {}, "", false},
		{"undone by hand", false, rewrite("opt/a", "before the restore"), "", false},
		{"removed", false, func(t *testing.T, root string) {
			if err := errors.Join(os.Remove(filepath.Join(root, "opt/a")),
				os.Remove(filepath.Join(root, "opt/new"))); err != nil {
				t.Fatal(err)
			}
		}, "", false},
		{"a file that the restore left alone", false, rewrite("opt/same", "edited"), "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			for _, name := range []string{"opt/a", "opt/new", "opt/same", "opt/d/f"} {
				write(t, root, name, "in the set", 0o640)
			}
			source := &hostfiles.Source{FS: os.DirFS(root), Paths: []string{"/opt"}}
			to := &hostfiles.Restore{Root: root, Paths: []string{"/opt"}, Rescue: t.TempDir()}
			prefix := ""
			if c.remote {
				prefix = root
				source = &hostfiles.Source{Runner: localRunner, Paths: []string{root + "/opt"}}
				to = &hostfiles.Restore{Runner: localRunner, Paths: []string{root}, Rescue: t.TempDir()}
			}
			set := takePlain(t, t.TempDir(), source)
			write(t, root, "opt/a", "before the restore", 0o640)
			mode("opt/d", 0o700)(t, root)
			if err := os.Remove(filepath.Join(root, "opt/new")); err != nil {
				t.Fatal(err)
			}
			state := func() string { // without the file that the restore leaves alone
				lines := slices.DeleteFunc(strings.Split(contents(t, root), "\n"), func(line string) bool {
					return strings.HasPrefix(line, "opt/same")
				})
				return strings.Join(lines, "\n")
			}
			before := state()
			if _, err := set.Restore(t.Context(), backup.RestoreOptions{Keep: true}, to); err != nil {
				t.Fatal(err)
			}
			c.edit(t, root)
			edited := backuptest.Tree(t, root)
			report, err := set.Undo(t.Context(), to)
			if c.edited != "" {
				var e *backup.Error
				if !errors.Is(err, hostfiles.ErrEdited) || !errors.As(err, &e) ||
					!strings.Contains(e.Hint(), "DropEdits") ||
					!strings.Contains(err.Error(), ": "+prefix+c.edited+";") {
					t.Fatalf("%+v %v", report, err)
				}
				if after := backuptest.Tree(t, root); after != edited {
					t.Errorf("something changed:\n%s\nit was\n%s", after, edited)
				}
				to.DropEdits = true
				report, err = set.Undo(t.Context(), to)
			}
			if err != nil || report.Components[0].State != backup.StateUndone {
				t.Fatalf("%+v %v", report, err)
			}
			if after := state(); after != before {
				t.Errorf("after Undo:\n%s\nwant\n%s", after, before)
			}
			data, err := os.ReadFile(filepath.Join(root, "opt/same"))
			if want := map[bool]string{true: "edited", false: "in the set"}[c.same]; string(data) != want {
				t.Errorf("the file that the restore left alone: %q, %v", data, err)
			}
		})
	}
}
