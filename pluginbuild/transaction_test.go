package pluginbuild

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// guardedModule is a module with a vendor directory and files of an unusual
// mode and time, and for root of another owner.
func guardedModule(t *testing.T) (dir string, state func() map[string]string) {
	t.Helper()
	dir = t.TempDir()
	old := time.Date(2021, 2, 3, 4, 5, 6, 7, time.UTC)
	for name, content := range map[string]string{"go.mod": "module x\n", "go.sum": "",
		"vendor/modules.txt": "# x\n", "vendor/a/a.go": "package a\n"} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o750), os.WriteFile(path, []byte(content),
			0o640), os.Chtimes(path, old, old)); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(filepath.Join(dir, "go.mod"), 1234, 567); err != nil {
			t.Fatal(err)
		}
	}
	return dir, func() map[string]string {
		all := map[string]string{}
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if d.IsDir() && strings.HasPrefix(d.Name(), asidePrefix) {
				return fs.SkipDir
			}
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			st := info.Sys().(*syscall.Stat_t)
			all[strings.TrimPrefix(path, dir)] = strings.Join([]string{info.Mode().String(),
				info.ModTime().UTC().String(),
				string(rune(st.Uid)), string(rune(st.Gid)), string(data)}, "|")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
}

// spoil does to the module what commands do.
func spoil(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{"go.mod", "go.sum", "go.work", "vendor/b.go"} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("new"),
			0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// Every state that a kill can leave, among them those inside of saving, of
// putting back and of finishing.
func TestRecoverFromEveryState(t *testing.T) {
	t.Parallel()
	move := func(t *testing.T, from, to string) {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		leave func(t *testing.T, tx *transaction)
		found bool
		kept  bool // the new state counts
	}{
		"copies, no journal yet": {leave: func(t *testing.T, tx *transaction) {
			move(t, tx.backup(vendorName), filepath.Join(tx.dir, vendorName))
			_ = os.Remove(tx.backup(journalName))
			_ = os.WriteFile(tx.backup(".go.sum.tmp-123"), nil, 0o600)
		}},
		"journal, vendor not moved yet": {found: true, leave: func(t *testing.T, tx *transaction) {
			move(t, tx.backup(vendorName), filepath.Join(tx.dir, vendorName))
		}},
		"saved, nothing run": {found: true, leave: func(*testing.T, *transaction) {}},
		"commands have run": {found: true, leave: func(t *testing.T, tx *transaction) {
			spoil(t,
				tx.dir)
		}},
		"go.mod has vanished": {found: true, leave: func(t *testing.T,
			tx *transaction) {
			_ = os.Remove(filepath.Join(tx.dir, "go.mod"))
		}},
		"files put back, vendor not": {found: true, leave: func(t *testing.T, tx *transaction) {
			spoil(t, tx.dir)
			move(t, tx.backup("go.mod"), filepath.Join(tx.dir, "go.mod"))
			_ = os.Remove(filepath.Join(tx.dir, "go.work"))
		}},
		"new vendor half removed": {found: true, leave: func(t *testing.T, tx *transaction) {
			spoil(t, tx.dir)
			_ = os.Remove(filepath.Join(tx.dir, "vendor/b.go"))
		}},
		"all put back, journal still there": {found: true, leave: func(t *testing.T, tx *transaction) {
			spoil(t, tx.dir)
			for _, s := range tx.Files {
				if err := tx.restore(s); err != nil {
					t.Fatal(err)
				}
			}
			if err := tx.restoreVendor(); err != nil {
				t.Fatal(err)
			}
		}},
		"committed, old state not removed yet": {kept: true, leave: func(t *testing.T, tx *transaction) {
			spoil(t, tx.dir)
			if err := tx.commit(); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, state := guardedModule(t)
			want := state()
			tx, recovered, err := begin(dir, "5.2.5", true)
			if err != nil || recovered.Found {
				t.Fatal(recovered, err)
			}
			c.leave(t, tx)
			if c.kept {
				want = state()
				maps.DeleteFunc(want, func(name, _ string) bool {
					return strings.HasPrefix(name,
						"/"+backupDir)
				})
			}
			tx.unlock() // as a kill does
			found, err := Recover(dir)
			if err != nil || found.Found != c.found {
				t.Fatalf("recovered %+v, %v", found, err)
			}
			if got := state(); !maps.Equal(got, want) {
				t.Errorf("the module is\n%q\ninstead of\n%q", got, want)
			}
		})
	}
}

// What a person did to the module after a kill is not lost, also when the recovery is
// interrupted and repeated.
func TestRecoverKeepsLaterWork(t *testing.T) {
	t.Parallel()
	dir, state := guardedModule(t)
	want := state()
	tx, _, err := begin(dir, "5.2.5", true)
	if err != nil {
		t.Fatal(err)
	}
	tx.unlock()
	spoil(t, dir)
	// The first recovery ended after it had moved go.mod.
	first := &transaction{dir: dir}
	if err := first.acquire(); err != nil {
		t.Fatal(err)
	}
	first.journal = tx.journal
	first.aside = filepath.Join(dir, asidePrefix+tx.Started.Format("20060102T150405Z"))
	if err := first.clear("go.mod"); err != nil {
		t.Fatal(err)
	}
	first.unlock()
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("newer"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Recover(dir)
	if err != nil || !r.Found || strings.Join(r.Moved, " ") != "go.mod go.sum go.work vendor" ||
		r.Aside != first.aside {
		t.Fatalf("%+v, %v", r, err)
	}
	for name, content := range map[string]string{"go.mod": "new", "go.mod.2": "newer", "go.sum": "new",
		"go.work": "new", "vendor/b.go": "new"} {
		if got, err := os.ReadFile(filepath.Join(r.Aside, name)); err != nil || string(got) != content {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if got := state(); !maps.Equal(got, want) {
		t.Errorf("the module is\n%q\ninstead of\n%q", got, want)
	}
}

// A backup that cannot be trusted is reported and left alone.
func TestRecoverRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		file, content, want string
	}{
		"damaged copy":       {"go.mod", "x", "damaged"},
		"unreadable journal": {journalName, "{", "by hand"},
		"other format":       {journalName, `{"format":2}`, "by hand"},
		"foreign name": {journalName,
			`{"format":1,"files":[{"name":"../../etc/passwd","absent":true}]}`, "never saves"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, state := guardedModule(t)
			tx, _, err := begin(dir, "5.2.5", true)
			if err != nil {
				t.Fatal(err)
			}
			spoil(t, dir)
			if err := os.WriteFile(tx.backup(c.file), []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			tx.unlock()
			was := state()
			_, err = Recover(dir)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir) {
				t.Errorf("error %v, want %q in it", err, c.want)
			}
			if _, _, err := begin(dir, "5.2.5", true); err == nil {
				t.Error("a new transaction begins on top")
			}
			if !maps.Equal(was, state()) {
				t.Error("something was changed")
			}
		})
	}
}
