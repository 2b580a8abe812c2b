// Package backuptest has conformance tests for backup sources and restorers. [Run] is for all of
// them, [RunTree] for sources of files, [Kill] and [KilledRestore] for kill -9, and [Damage] for a
// changed set.
//
// [Case] describes a source for [Run]. The tests of package hostfiles are a complete example.
package backuptest

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/backup"
)

// Case describes a source for its conformance test.
type Case struct {
	// Source returns a source of a live system that is not empty.
	Source func(t *testing.T) backup.Source
	// Restorer returns a restorer for an empty system of its own.
	Restorer func(t *testing.T) backup.Restorer
	// Change changes the live system, so that it differs from earlier sets. Nil: the source is
	// not a Prover.
	Change func(t *testing.T)
	// Broken returns a source that fails and has Secret in its configuration.
	Broken func(t *testing.T) backup.Source
	Secret string
	// Variant leaves out what only the form of a set decides: export, damage, clock. Set it
	// for another way to take a set that has the form of one in a full run.
	Variant bool
	// Cancels is at how many moments of a run its context ends; 0: 12.
	Cancels int
}

// Run runs the conformance test.
func Run(t *testing.T, c Case) {
	dir := t.TempDir()
	set := c.take(t, dir)
	t.Run("manifest", func(t *testing.T) { c.manifest(t, set) })
	t.Run("levels", func(t *testing.T) { c.levels(t, set) })
	t.Run("cancel", func(t *testing.T) { c.cancel(t) })
	t.Run("broken", func(t *testing.T) { c.broken(t) })
	if !c.Variant {
		t.Run("export", func(t *testing.T) { c.export(t, set) })
		t.Run("clock", func(t *testing.T) { c.clock(t) })
		t.Run("damage", func(t *testing.T) { Damage(t, set, 60) })
	}
	t.Run("restore", func(t *testing.T) { c.restore(t, set) })
	if c.Change != nil {
		t.Run("differs", func(t *testing.T) { c.differs(t, set) })
	}
}

func (c Case) take(t *testing.T, dir string) *backup.Set {
	t.Helper()
	src := c.Source(t)
	var last backup.Event
	set, err := backup.Take(t.Context(), dir, backup.Options{Label: "conformance",
		Progress: func(e backup.Event) {
			if e.Component != src.Name() {
				t.Errorf("event of component %q", e.Component)
			}
			if e.Phase == backup.PhaseBackup {
				last = e
			}
		}}, src)
	if err != nil {
		t.Fatal(err)
	}
	if comp := set.Components[0]; !last.Done || last.Items != comp.Items || last.Bytes != comp.Bytes {
		t.Errorf("last event %+v, component has %d items, %d bytes", last, comp.Items, comp.Bytes)
	}
	if left := Leftovers(t, dir); len(left) > 0 {
		t.Errorf("left next to the set: %v", left)
	}
	return set
}

func (c Case) manifest(t *testing.T, set *backup.Set) {
	comp := set.Components[0]
	if comp.Kind == "" || comp.Consistency == "" || comp.Method == "" || comp.Topology == "" ||
		comp.Items == 0 || comp.Bytes == 0 || comp.End.Before(comp.Start) {
		t.Errorf("incomplete: %+v", comp)
	}
	data, err := os.ReadFile(filepath.Join(set.Dir, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Secret != "" && bytes.Contains(data, []byte(c.Secret)) {
		t.Error("the manifest holds the secret")
	}
	err = filepath.WalkDir(set.Dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v", p, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	cmd := exec.Command("sha256sum", "--check", "--strict", "--quiet", "manifest.sha256")
	cmd.Dir = set.Dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("sha256sum: %v\n%s", err, out)
	}
}

func (c Case) levels(t *testing.T, set *backup.Set) {
	again, err := backup.Open(set.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []backup.Level{backup.LevelFiles, backup.LevelStructure} {
		if err := again.Verify(t.Context(), backup.VerifyOptions{Level: l}); err != nil {
			t.Errorf("level %v: %v", l, err)
		}
	}
	if p, ok := c.Source(t).(backup.Prover); ok {
		if err := again.Verify(t.Context(), backup.VerifyOptions{Level: backup.LevelLive,
			Against: []backup.Prover{p}}); err != nil {
			t.Errorf("level live: %v", err)
		}
	}
}

// Leftovers returns everything in a directory of sets except the sets and the lock.
func Leftovers(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		if e.Name() != ".lock" && strings.HasPrefix(e.Name(), ".") {
			left = append(left, e.Name())
		}
	}
	return left
}
