package backuptest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"example.com/tykupgrade/backup"
)

// TreeCase describes a source of files for [RunTree].
type TreeCase struct {
	// Source returns a source that reads root/app, a link that it follows.
	Source func(t *testing.T, root string) backup.Source
	// Restorer returns a restorer that writes below root, from which the files of Source are
	// gone.
	Restorer func(t *testing.T, root string) backup.Restorer
}

// RunTree backs up a component that is a symbolic link to a directory, removes all of it, and
// restores it. It compares the link, modes and owners of files and directories, empty directories,
// and dangling links.
func RunTree(t *testing.T, c TreeCase) {
	root := t.TempDir()
	if err := os.Chmod(filepath.Dir(root), 0o755); err != nil { // other users own parts of the tree
		t.Fatal(err)
	}
	buildTree(t, root)
	before := Tree(t, root)
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, c.Source(t, root))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(root, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	report, err := set.Restore(t.Context(), backup.RestoreOptions{}, c.Restorer(t, root))
	if err != nil {
		t.Fatalf("%+v: %v", report, err)
	}
	if after := Tree(t, root); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	// A different mode is a difference, also of a directory.
	st, _ := set.Component(c.Restorer(t, root).Name())
	if err := os.Chmod(filepath.Join(root, "data/app/private"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := c.Restorer(t, root).Prove(t.Context(), st); err == nil {
		t.Error("a directory that everybody can read equals the set")
	}
}

func buildTree(t *testing.T, root string) {
	t.Helper()
	for _, dir := range []struct {
		name string
		mode fs.FileMode
	}{{"data", 0o711}, {"data/app", 0o751}, {"data/app/private", 0o700}, {"data/app/empty", 0o711},
		{"data/app/open", 0o755 | fs.ModeSticky}} {
		path := filepath.Join(root, dir.name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, dir.mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]fs.FileMode{"app.conf": 0o640, "private/key": 0o600,
		"open/read me": 0o444, "open/run": 0o755} {
		path := filepath.Join(root, "data/app", name)
		if err := os.WriteFile(path, []byte("content of "+name), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"app": "data/app", "data/app/masked": "/dev/null",
		"data/app/dangling": "nowhere"} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 { // owners are root's to give
		for _, name := range []string{"data/app/private", "data/app/private/key", "data/app/dangling"} {
			if err := os.Lchown(filepath.Join(root, name), 12345, 54321); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Tree describes everything below root, one line each: type, mode, owner, time and content of
// files, and targets of links. It leaves out the times of links and directories.
func Tree(t testing.TB, root string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %v", rel, info.Mode())
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			line += fmt.Sprintf(" %d:%d", st.Uid, st.Gid)
		}
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %s %q", info.ModTime().UTC(), data)
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
