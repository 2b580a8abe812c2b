package backup_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/backuptest"
	"example.com/tykupgrade/internal/atomicfile"
)

// plain is a source made of one function.
type plain struct {
	name   string
	size   int64
	backup func(ctx context.Context, w *backup.Writer) error
}

func (p plain) Name() string { return p.name }

func (p plain) Plan(context.Context) (backup.Estimate, error) {
	return backup.Estimate{Bytes: p.size}, nil
}

func (p plain) Backup(ctx context.Context, w *backup.Writer) (backup.Component, error) {
	return backup.Component{Items: 1}, p.backup(ctx, w)
}

func text(name, content string) plain {
	return plain{name: name, backup: func(ctx context.Context, w *backup.Writer) error {
		_, err := w.Create(ctx, "file", nil, func(out io.Writer) error {
			_, err := io.WriteString(out, content)
			return err
		})
		return err
	}}
}

func takePlain(t *testing.T, dir string, sources ...backup.Source) *backup.Set {
	t.Helper()
	set, err := backup.Take(t.Context(), dir, backup.Options{}, sources...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestTakeRefuses(t *testing.T) {
	t.Parallel()
	for name, sources := range map[string][]backup.Source{
		"nothing":        nil,
		"same name":      {text("a", ""), text("a", "")},
		"inside another": {text("a/b", ""), text("a", "")},
		"escaping":       {text("../a", "")},
		"absolute":       {text("/a", "")},
		"not clean":      {text("a//b", "")},
		"empty":          {text("", "")},
		"manifest":       {text("manifest.json", "")},
		"hidden":         {text(".a", "")},
		"not UTF-8":      {text("a\xff", "")},
	} {
		dir := filepath.Join(t.TempDir(), "sets")
		if _, err := backup.Take(t.Context(), dir, backup.Options{}, sources...); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the directory was made", name)
		}
	}
	dir := t.TempDir()
	bad := plain{name: "a", backup: func(ctx context.Context, w *backup.Writer) error {
		_, err := w.Create(ctx, "../../escaped", nil, func(io.Writer) error { return nil })
		return err
	}}
	if _, err := backup.Take(t.Context(), dir, backup.Options{}, bad); err == nil {
		t.Error("a source wrote outside its directory")
	}
	if left := backuptest.Leftovers(t, dir); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// One failing source stops the others, and its error is the one that counts.
func TestTakeAllOrNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	boom := errors.New("boom")
	waits := plain{name: "waits", backup: func(ctx context.Context, _ *backup.Writer) error {
		<-ctx.Done()
		return ctx.Err()
	}}
	fails := plain{name: "fails", backup: func(context.Context, *backup.Writer) error { return boom }}
	_, err := backup.Take(t.Context(), dir, backup.Options{}, text("good", "x"), waits, fails)
	if !errors.Is(err, boom) || errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if sets, _ := backup.List(dir); len(sets) > 0 || len(backuptest.Leftovers(t, dir)) > 0 {
		t.Errorf("left %v %v", sets, backuptest.Leftovers(t, dir))
	}
}

func TestTakeLockAndSweep(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// What killed runs leave, and what looks like it but is somebody else's.
	for _, name := range []string{".20261123T000000Z-00000000.partial",
		".20261123T000000Z-00000001.removed", ".mine.partial", "notes"} {
		write(t, dir, name+"/x", "x", 0o600)
	}
	inside := plain{name: "a", backup: func(ctx context.Context, w *backup.Writer) error {
		_, err := backup.Take(ctx, dir, backup.Options{}, text("b", "x"))
		if !errors.Is(err, backup.ErrLocked) {
			t.Errorf("second run: %v", err)
		}
		if _, err := backup.Prune(ctx, dir, backup.Policy{Keep: 1}); !errors.Is(err, backup.ErrLocked) {
			t.Errorf("prune: %v", err)
		}
		return text("a", "x").backup(ctx, w)
	}}
	takePlain(t, dir, inside)
	entries, _ := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "2026") {
			names = append(names, e.Name())
		}
	}
	if want := []string{".lock", ".mine.partial", "notes"}; !slices.Equal(names, want) {
		t.Errorf("left %v, want %v", names, want)
	}
	takePlain(t, dir, text("b", "x")) // the lock is free again
}

func TestTakeNoSpace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	huge := text("a", "x")
	huge.size = 1 << 60
	_, err := backup.Take(t.Context(), dir, backup.Options{}, huge)
	var e *backup.Error
	if !errors.Is(err, backup.ErrNoSpace) || !errors.As(err, &e) || !e.Retryable() || e.Hint() == "" {
		t.Errorf("got %v", err)
	}
}

// A set is verified before it gets its name.
func TestTakeVerifies(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	lies := plain{name: "a", backup: func(ctx context.Context, w *backup.Writer) error {
		f, err := w.Create(ctx, "file", nil, func(out io.Writer) error { return nil })
		if err != nil {
			return err
		}
		partial := backuptest.Leftovers(t, dir)[0]
		return os.WriteFile(filepath.Join(dir, partial, f.Path), []byte("changed behind our back"), 0o600)
	}}
	if _, err := backup.Take(t.Context(), dir, backup.Options{}, lies); !errors.Is(err,
		backup.ErrDamaged) {
		t.Errorf("got %v", err)
	}
	if sets, _ := backup.List(dir); len(sets) > 0 || len(backuptest.Leftovers(t, dir)) > 0 {
		t.Error("something is left")
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	set := takePlain(t, dir, text("a", "x"))
	if _, err := backup.Open(dir); !errors.Is(err, backup.ErrNotASet) {
		t.Errorf("the directory above: %v", err)
	}
	hidden := filepath.Join(dir, "."+set.ID+".partial")
	if err := os.CopyFS(hidden, os.DirFS(set.Dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Open(hidden); !errors.Is(err, backup.ErrNotASet) {
		t.Errorf("a set under construction: %v", err)
	}
	if err := os.Remove(filepath.Join(set.Dir, "manifest.sha256")); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Open(set.Dir); !errors.Is(err, backup.ErrNotASet) {
		t.Errorf("without its checksum: %v", err)
	}
	data := []byte(`{"schema":99,"id":"20261123T000000Z-00000000","tool":"tool 9"}`)
	if _, err := backup.ParseManifest(data); err == nil || errors.Is(err, backup.ErrDamaged) ||
		!strings.Contains(err.Error(), "tool 9") {
		t.Errorf("a newer schema: %v", err)
	}
}

func TestVerifyUnexpected(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(dir string) error{
		"file": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "a/more"), nil,
				0o600)
		},
		"top file": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "more"), nil,
				0o600)
		},
		"directory": func(dir string) error { return os.Mkdir(filepath.Join(dir, "a/more"), 0o700) },
		"link":      func(dir string) error { return os.Symlink("file", filepath.Join(dir, "a/more")) },
		"missing":   func(dir string) error { return os.Remove(filepath.Join(dir, "a/file")) },
		"became a link": func(dir string) error {
			return errors.Join(os.Rename(filepath.Join(dir, "a/file"), dir+"-moved"),
				os.Symlink(dir+"-moved", filepath.Join(dir, "a/file")))
		},
		"became a pipe": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "a/file")), syscall.Mkfifo(filepath.Join(dir,
				"a/file"), 0o600))
		},
	} {
		set := takePlain(t, t.TempDir(), text("a", "x"))
		if err := spoil(set.Dir); err != nil {
			t.Fatal(err)
		}
		err := set.Verify(t.Context(), backup.VerifyOptions{Level: backup.LevelFiles})
		if !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		if err := set.Export(t.Context(), filepath.Join(t.TempDir(), "x"),
			backup.ExportOptions{}); err == nil {
			t.Errorf("%s: was exported", name)
		}
	}
}

func TestVerifyLevels(t *testing.T) {
	t.Parallel()
	set := takePlain(t, t.TempDir(), text("a", "x"))
	if err := set.Verify(t.Context(), backup.VerifyOptions{Level: backup.LevelLive}); err == nil ||
		errors.Is(err, backup.ErrDamaged) {
		t.Errorf("level live with nothing to compare with: %v", err)
	}
	if err := set.Verify(t.Context(), backup.VerifyOptions{Level: 9}); err == nil {
		t.Error("level 9 was accepted")
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var ids []string // newest first
	for range 4 {
		ids = slices.Insert(ids, 0, takePlain(t, dir, text("a", "x")).ID)
		time.Sleep(2 * time.Millisecond) // each its own start
	}
	if _, err := backup.Prune(t.Context(), dir, backup.Policy{}); err == nil {
		t.Error("a policy without limits was accepted")
	}
	out, err := backup.Prune(t.Context(), dir, backup.Policy{Keep: 2, DryRun: true})
	if err != nil || !slices.Equal(out.Removed, ids[2:]) || !slices.Equal(out.Kept, ids[:2]) ||
		out.Verified != ids[0] {
		t.Errorf("dry run: %+v %v", out, err)
	}
	if sets, _ := backup.List(dir); len(sets) != 4 {
		t.Fatalf("a dry run removed: %d left", len(sets))
	}
	// The two newest are damaged: the newest that verifies stays, though it is
	// beyond the number and the age.
	for _, id := range ids[:2] {
		if err := os.Truncate(filepath.Join(dir, id, "a/file"), 0); err != nil {
			t.Fatal(err)
		}
	}
	later := func() time.Time { return time.Now().Add(time.Hour) }
	out, err = backup.Prune(t.Context(), dir, backup.Policy{Keep: 1, MaxAge: time.Minute, Now: later})
	if !errors.Is(err, backup.ErrDamaged) || out.Verified != ids[2] || !slices.Equal(out.Kept,
		ids[2:3]) || !slices.Equal(out.Removed, []string{ids[0], ids[1], ids[3]}) {
		t.Errorf("%+v %v", out, err)
	}
	// None verifies: nothing goes.
	if err := os.Truncate(filepath.Join(dir, ids[2], "a/file"), 0); err != nil {
		t.Fatal(err)
	}
	out, err = backup.Prune(t.Context(), dir, backup.Policy{MaxAge: time.Minute, Now: later})
	if err == nil || len(out.Removed) > 0 {
		t.Errorf("%+v %v", out, err)
	}
	if sets, _ := backup.List(dir); len(sets) != 1 {
		t.Errorf("%d left", len(sets))
	}
}

// Prune makes its renames durable with one sync of the directory, whatever number of sets goes.
func TestPruneSyncsOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 4 {
		takePlain(t, dir, text("a", "x"))
	}
	var syncs atomic.Int32
	defer atomicfile.OnSyncDir(func(d string) {
		if d == dir {
			syncs.Add(1)
		}
	})()
	for _, want := range []struct {
		removed int
		syncs   int32
	}{{3, 1}, {0, 0}} {
		syncs.Store(0)
		out, err := backup.Prune(t.Context(), dir, backup.Policy{Keep: 1})
		if err != nil || len(out.Removed) != want.removed || syncs.Load() != want.syncs {
			t.Errorf("%d syncs for %d sets, want %+v: %v", syncs.Load(), len(out.Removed), want, err)
		}
	}
}

// Prune leaves a set that a restore is reading.
func TestPruneDuringRestore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := takePlain(t, dir, text("a", "x"))
	time.Sleep(2 * time.Millisecond)
	takePlain(t, dir, text("a", "x"))
	r := restorer{name: "a", restore: func(ctx context.Context) error {
		out, err := backup.Prune(ctx, dir, backup.Policy{Keep: 1})
		if !errors.Is(err, backup.ErrLocked) || len(out.Removed) > 0 {
			t.Errorf("%+v %v", out, err)
		}
		return nil
	}}
	if _, err := old.Restore(t.Context(), backup.RestoreOptions{}, r); err != nil {
		t.Fatal(err)
	}
	if out, err := backup.Prune(t.Context(), dir, backup.Policy{Keep: 1}); err != nil ||
		len(out.Removed) != 1 {
		t.Errorf("%+v %v", out, err)
	}
}

// restorer is a Restorer made of functions; nil ones succeed.
type restorer struct {
	name                 string
	plan, restore, prove func(ctx context.Context) error
}

func call(ctx context.Context, f func(context.Context) error) error {
	if f == nil {
		return nil
	}
	return f(ctx)
}

func (r restorer) Name() string { return r.name }
func (r restorer) Plan(ctx context.Context, _ *backup.Stored) ([]backup.Item, error) {
	return []backup.Item{{Name: "file", Action: backup.ActionCreate}}, call(ctx, r.plan)
}
func (r restorer) Restore(ctx context.Context, _ *backup.Stored,
	_ func(backup.Event)) ([]backup.Item, error) {
	return []backup.Item{{Name: "file", Action: backup.ActionCreate}}, call(ctx, r.restore)
}
func (r restorer) Prove(ctx context.Context, _ *backup.Stored) error { return call(ctx, r.prove) }

func TestRestoreStops(t *testing.T) {
	t.Parallel()
	set := takePlain(t, t.TempDir(), text("a", "x"), text("b", "y"), text("c", "z"))
	boom := errors.New("boom")
	fails := func(context.Context) error { return boom }
	unreached := func(context.Context) error { t.Error("went on"); return nil }
	states := func(r backup.Report) (out []backup.State) {
		for _, c := range r.Components {
			out = append(out, c.State)
		}
		return out
	}
	// A refusal of one stops all before anything changes.
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, restorer{name: "a",
		restore: unreached}, restorer{name: "b", plan: fails}); !errors.Is(err, boom) {
		t.Error(err)
	}
	report, err := set.Restore(t.Context(), backup.RestoreOptions{}, restorer{name: "a",
		restore: fails}, restorer{name: "b", restore: unreached})
	if want := []backup.State{backup.StateFailed, backup.StatePlanned,
		backup.StateNotRequested}; !errors.Is(err, boom) || !slices.Equal(states(report), want) {
		t.Errorf("%v %v", states(report), err)
	}
	report, err = set.Restore(t.Context(), backup.RestoreOptions{}, restorer{name: "a", prove: fails})
	if !errors.Is(err, boom) || report.Components[0].State != backup.StateRestored ||
		report.Components[0].Reason == "" {
		t.Errorf("%+v %v", report, err)
	}
	for name, to := range map[string][]backup.Restorer{"none": nil, "unknown": {restorer{name: "d"}},
		"twice": {restorer{name: "a"}, restorer{name: "a"}}} {
		if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, to...); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
