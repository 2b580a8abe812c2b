package backup_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/internal/lab/backuptest"
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
	for _, name := range []string{".20261123T000000Z-00000000.partial", ".20261123T000000Z-00000001.removed", ".mine.partial", "notes"} {
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
	if _, err := backup.Take(t.Context(), dir, backup.Options{}, lies); !errors.Is(err, backup.ErrDamaged) {
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
	if _, err := backup.ParseManifest(data); err == nil || errors.Is(err, backup.ErrDamaged) || !strings.Contains(err.Error(), "tool 9") {
		t.Errorf("a newer schema: %v", err)
	}
}

func TestVerifyUnexpected(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(dir string) error{
		"file":      func(dir string) error { return os.WriteFile(filepath.Join(dir, "a/more"), nil, 0o600) },
		"top file":  func(dir string) error { return os.WriteFile(filepath.Join(dir, "more"), nil, 0o600) },
		"directory": func(dir string) error { return os.Mkdir(filepath.Join(dir, "a/more"), 0o700) },
		"link":      func(dir string) error { return os.Symlink("file", filepath.Join(dir, "a/more")) },
		"missing":   func(dir string) error { return os.Remove(filepath.Join(dir, "a/file")) },
		"became a link": func(dir string) error {
			return errors.Join(os.Rename(filepath.Join(dir, "a/file"), dir+"-moved"), os.Symlink(dir+"-moved", filepath.Join(dir, "a/file")))
		},
		"became a pipe": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "a/file")), syscall.Mkfifo(filepath.Join(dir, "a/file"), 0o600))
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
		if err := set.Export(t.Context(), filepath.Join(t.TempDir(), "x"), backup.ExportOptions{}); err == nil {
			t.Errorf("%s: was exported", name)
		}
	}
}

func TestVerifyLevels(t *testing.T) {
	t.Parallel()
	set := takePlain(t, t.TempDir(), text("a", "x"))
	if err := set.Verify(t.Context(), backup.VerifyOptions{Level: backup.LevelLive}); err == nil || errors.Is(err, backup.ErrDamaged) {
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
	if err != nil || !slices.Equal(out.Removed, ids[2:]) || !slices.Equal(out.Kept, ids[:2]) || out.Verified != ids[0] {
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
	if !errors.Is(err, backup.ErrDamaged) || out.Verified != ids[2] || !slices.Equal(out.Kept, ids[2:3]) || !slices.Equal(out.Removed, []string{ids[0], ids[1], ids[3]}) {
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
	if out, err := backup.Prune(t.Context(), dir, backup.Policy{Keep: 1}); err != nil || len(out.Removed) != 1 {
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
func (r restorer) Restore(ctx context.Context, _ *backup.Stored, _ func(backup.Event)) ([]backup.Item, error) {
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
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, restorer{name: "a", restore: unreached}, restorer{name: "b", plan: fails}); !errors.Is(err, boom) {
		t.Error(err)
	}
	report, err := set.Restore(t.Context(), backup.RestoreOptions{}, restorer{name: "a", restore: fails}, restorer{name: "b", restore: unreached})
	if want := []backup.State{backup.StateFailed, backup.StatePlanned, backup.StateNotRequested}; !errors.Is(err, boom) || !slices.Equal(states(report), want) {
		t.Errorf("%v %v", states(report), err)
	}
	report, err = set.Restore(t.Context(), backup.RestoreOptions{}, restorer{name: "a", prove: fails})
	if !errors.Is(err, boom) || report.Components[0].State != backup.StateRestored || report.Components[0].Reason == "" {
		t.Errorf("%+v %v", report, err)
	}
	for name, to := range map[string][]backup.Restorer{"none": nil, "unknown": {restorer{name: "d"}}, "twice": {restorer{name: "a"}, restorer{name: "a"}}} {
		if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, to...); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Files that change while they are read are read again; one that never rests
// is an error.
func TestFilesChanging(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write(t, root, "etc/restless", "0", 0o600)
	changes := 2
	fsys := changingFS{os.DirFS(root), func() {
		if changes--; changes >= 0 {
			write(t, root, "etc/restless", strings.Repeat("x", changes+1), 0o600)
		}
	}}
	src := &backup.Files{FS: fsys, Paths: []string{"/etc/restless"}}
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, src)
	if err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(filepath.Join(set.Dir, "config/etc/restless")); string(data) != "x" {
		t.Errorf("read %q", data)
	}
	changes = 1000
	_, err = backup.Take(t.Context(), t.TempDir(), backup.Options{}, src)
	var e *backup.Error
	if !errors.Is(err, backup.ErrChanged) || !errors.As(err, &e) || !e.Retryable() {
		t.Errorf("got %v", err)
	}
}

// changingFS calls a function whenever a file has been read to its end.
type changingFS struct {
	fs.FS
	change func()
}

func (c changingFS) Lstat(name string) (fs.FileInfo, error)     { return fs.Lstat(c.FS, name) }
func (c changingFS) ReadLink(name string) (string, error)       { return fs.ReadLink(c.FS, name) }
func (c changingFS) Stat(name string) (fs.FileInfo, error)      { return fs.Stat(c.FS, name) }
func (c changingFS) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(c.FS, name) }

func (c changingFS) Open(name string) (fs.File, error) {
	f, err := c.FS.Open(name)
	if info, e := fs.Stat(c.FS, name); err == nil && e == nil && info.Mode().IsRegular() {
		return changingFile{f, c.change}, nil
	}
	return f, err
}

type changingFile struct {
	fs.File
	change func()
}

func (f changingFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	if errors.Is(err, io.EOF) {
		f.change()
	}
	return n, err
}

func TestFilesDefaults(t *testing.T) {
	t.Parallel()
	set := takePlain(t, t.TempDir(), &backup.Files{FS: os.DirFS(tykHost(t))})
	var got []string
	for _, f := range set.Files {
		name := strings.TrimPrefix(f.Path, "config/")
		if f.Link != "" {
			name += " -> " + f.Link
		}
		got = append(got, name)
	}
	want := []string{
		"etc/default/tyk-gateway", "etc/systemd/system/tyk-gateway.service.d/x.conf", "lib/systemd/system/tyk-gateway.service",
		"opt/odd/a name with spaces\nand a \\ in it", "opt/tyk-gateway/apps/app_sample.json", "opt/tyk-gateway/event_handlers/sample/a.js",
		"opt/tyk-gateway/middleware/sample.js", "opt/tyk-gateway/policies/policies.json", "opt/tyk-gateway/templates/error_500.json",
		"opt/tyk-gateway/templates/link -> ../../odd/a name with spaces\nand a \\ in it", "opt/tyk-gateway/templates/playground/index",
		"opt/tyk-gateway/tyk.conf", "opt/tyk-pump/pump.conf",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	// A link that leads nowhere is kept, and told.
	root := tykHost(t)
	if err := os.Symlink("nowhere", filepath.Join(root, "opt/tyk-gateway/apps/dangling")); err != nil {
		t.Fatal(err)
	}
	set = takePlain(t, t.TempDir(), &backup.Files{FS: os.DirFS(root)})
	if w := set.Components[0].Warnings; len(w) != 1 || !strings.Contains(w[0], "apps/nowhere") {
		t.Errorf("warnings %q", w)
	}
	// The dashboard is not installed, the pump's file is gone.
	if err := os.Remove(filepath.Join(root, "opt/tyk-pump/pump.conf")); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, &backup.Files{FS: os.DirFS(root)}); err == nil || !strings.Contains(err.Error(), "/opt/tyk-pump/pump.conf") {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, &backup.Files{FS: fstest.MapFS{}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a host without Tyk: %v", err)
	}
}

// JSON would change such a name silently.
func TestFilesNotUTF8(t *testing.T) {
	t.Parallel()
	for what, make := range map[string]func(root string) error{
		"name": func(root string) error { return os.WriteFile(filepath.Join(root, "etc", "a\xff"), nil, 0o600) },
		"link": func(root string) error { return os.Symlink("a\xff", filepath.Join(root, "etc", "l")) },
	} {
		root := t.TempDir()
		write(t, root, "etc/b", "b", 0o600)
		if err := make(root); err != nil {
			t.Skipf("%s: %v", what, err) // a file system that allows only UTF-8
		}
		_, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, &backup.Files{FS: os.DirFS(root), Paths: []string{"/etc"}})
		if err == nil || !strings.Contains(err.Error(), "UTF-8") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestFilesRefuses(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]*backup.Files{
		"neither":   {},
		"relative":  {FS: fstest.MapFS{}, Paths: []string{"etc"}},
		"not clean": {FS: fstest.MapFS{}, Paths: []string{"/etc/../etc"}},
		"root":      {FS: fstest.MapFS{}, Paths: []string{"/"}},
		"pattern":   {FS: fstest.MapFS{}, Paths: []string{"/etc/["}},
	} {
		if _, err := f.Plan(t.Context()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Nothing is written into a set: it would not verify any more.
func TestSetsAreLeftAlone(t *testing.T) {
	t.Parallel()
	root, dir := tykHost(t), t.TempDir()
	set := takePlain(t, dir, &backup.Files{FS: os.DirFS(root)})
	write(t, root, "opt/tyk-gateway/tyk.conf", "replaced", 0o600)
	before := [2]map[string]string{tree(t, root), tree(t, dir)}
	for _, rescue := range []string{set.Dir, filepath.Join(set.Dir, "config/new")} {
		for _, dry := range []bool{true, false} {
			_, err := set.Restore(t.Context(), backup.RestoreOptions{DryRun: dry}, &backup.FilesRestore{Root: root, Rescue: rescue})
			var e interface{ Hint() string }
			if !errors.As(err, &e) || !strings.Contains(e.Hint(), "directory") {
				t.Errorf("%s: %v", rescue, err)
			}
		}
	}
	inside := filepath.Join(set.Dir, "config", "more")
	if _, err := backup.Take(t.Context(), inside, backup.Options{}, text("a", "")); err == nil {
		t.Error("took a set inside of another")
	}
	if err := set.Export(t.Context(), filepath.Join(set.Dir, "x.tar.zst"), backup.ExportOptions{}); err == nil {
		t.Error("exported into the set")
	}
	if _, err := backup.Import(t.Context(), inside, strings.NewReader("")); err == nil || !strings.Contains(err.Error(), "is a set") {
		t.Errorf("import: %v", err)
	}
	for i, d := range []string{root, dir} {
		if after := tree(t, d); !maps.Equal(after, before[i]) {
			t.Errorf("something changed: %v", after)
		}
	}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, &backup.FilesRestore{Root: root, Rescue: filepath.Join(dir, "rescued")}); err != nil {
		t.Error(err)
	}
	if sets, err := backup.List(dir); err != nil || len(sets) != 1 {
		t.Errorf("%d sets, %v", len(sets), err)
	}
}

// Mode, owner, time and links come back; what was there is kept; what is the
// same is left alone.
func TestFilesRestore(t *testing.T) {
	t.Parallel()
	for name, remote := range map[string]bool{"local": false, "remote": true} {
		t.Run(name, func(t *testing.T) { t.Parallel(); filesRestore(t, remote) })
	}
}

func filesRestore(t *testing.T, remote bool) {
	root := tykHost(t)
	if os.Geteuid() == 0 {
		if err := os.Chown(filepath.Join(root, "opt/tyk-pump/pump.conf"), 12345, 54321); err != nil {
			t.Fatal(err)
		}
	}
	src := &backup.Files{FS: os.DirFS(root)}
	r := &backup.FilesRestore{Root: root, Rescue: t.TempDir()}
	inSet := func(p string) string { return p }
	if remote {
		needGNU(t)
		src = &backup.Files{Runner: localRunner, Paths: []string{root + "/opt", root + "/etc"}}
		r = &backup.FilesRestore{Runner: localRunner, Rescue: t.TempDir()}
		inSet = func(p string) string { return root + p }
	}
	set := takePlain(t, t.TempDir(), src)
	before := tree(t, root)

	write(t, root, "opt/tyk-gateway/tyk.conf", "{}", 0o600)
	write(t, root, "opt/tyk-gateway/apps/new.json", "stays", 0o600)
	pump := filepath.Join(root, "opt/tyk-pump/pump.conf")
	link := filepath.Join(root, "opt/tyk-gateway/templates/link")
	if err := errors.Join(os.Remove(pump), os.Remove(link), os.Chmod(filepath.Join(root, "etc/default/tyk-gateway"), 0o600)); err != nil {
		t.Fatal(err)
	}
	write(t, root, "opt/tyk-gateway/templates/link", "a file where the link was", 0o600)

	noRescue := *r
	noRescue.Rescue = ""
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, &noRescue); err == nil {
		t.Error("files were replaced without a rescue directory")
	}
	report, err := set.Restore(t.Context(), backup.RestoreOptions{}, r)
	if err != nil {
		t.Fatal(err)
	}
	actions := map[string]backup.Action{}
	for _, i := range report.Components[0].Items {
		actions[i.Name] = i.Action
	}
	for name, want := range map[string]backup.Action{
		"/opt/tyk-gateway/tyk.conf": backup.ActionReplace, "/opt/tyk-pump/pump.conf": backup.ActionCreate,
		"/opt/tyk-gateway/templates/link": backup.ActionReplace, "/etc/default/tyk-gateway": backup.ActionReplace,
		"/opt/tyk-gateway/middleware/sample.js": backup.ActionSame,
	} {
		if actions[inSet(name)] != want {
			t.Errorf("%s: %q, want %q", name, actions[inSet(name)], want)
		}
	}
	after := tree(t, root)
	if after["opt/tyk-gateway/apps/new.json"] == "" {
		t.Error("a file that the set does not have is gone")
	}
	delete(after, "opt/tyk-gateway/apps/new.json")
	for name, want := range before {
		if after[name] != want {
			t.Errorf("%s:\n got %s\nwant %s", name, after[name], want)
		}
	}
	for name := range after {
		if before[name] == "" {
			t.Errorf("left over: %s", name)
		}
	}
	kept, err := backup.List(r.Rescue)
	if err != nil || len(kept) != 1 || kept[0].Components[0].Items != 3 {
		t.Fatalf("rescued: %v %v", kept, err)
	}
	// The rescue set is the way back.
	if _, err := kept[0].Restore(t.Context(), backup.RestoreOptions{}, r); err != nil {
		t.Error(err)
	}
	if data, _ := os.ReadFile(filepath.Join(root, "opt/tyk-gateway/tyk.conf")); string(data) != "{}" {
		t.Errorf("tyk.conf is %q", data)
	}
	one := &backup.FilesRestore{Root: r.Root, Runner: r.Runner, Rescue: r.Rescue, Only: []string{inSet("/opt/*/tyk.conf")}}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, one); err != nil {
		t.Error(err)
	}
	if data, _ := os.ReadFile(link); string(data) != "a file where the link was" {
		t.Error("Only did not leave the others alone")
	}
	one.Only = []string{"/no/such"}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, one); err == nil {
		t.Error("Only that hits nothing was accepted")
	}
}

// tree describes every file below root.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		rel, _ := filepath.Rel(root, p)
		content := ""
		if d.Type() == fs.ModeSymlink {
			content, err = os.Readlink(p)
			out[rel] = "link " + content
			return err
		}
		data, err := os.ReadFile(p)
		out[rel] = strings.Join([]string{info.Mode().String(), info.ModTime().UTC().String(), string(data), time.Unix(int64(st.Uid), int64(st.Gid)).String()}, "|")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A failure half way brings back what was replaced and removes what was made.
func TestFilesRestoreRollback(t *testing.T) {
	t.Parallel()
	needGNU(t)
	for _, remote := range []bool{false, true} {
		root := t.TempDir()
		write(t, root, "a", "old a", 0o600)
		write(t, root, "b", "old b", 0o600)
		src := &backup.Files{Runner: localRunner, Paths: []string{root + "/a", root + "/b"}}
		set := takePlain(t, t.TempDir(), src)
		if err := os.Remove(filepath.Join(root, "b")); err != nil {
			t.Fatal(err)
		}
		write(t, root, "a", "new a", 0o600)
		r := &backup.FilesRestore{Rescue: t.TempDir()}
		ctx, cancel := context.WithCancel(t.Context())
		if remote {
			moves := 0
			r.Runner = func(ctx context.Context, argv []string, in io.Reader, out, errOut io.Writer) error {
				if slices.Contains(argv, "mv") {
					if moves++; moves == 1 {
						defer cancel()
						err := localRunner(ctx, argv, in, out, errOut)
						return errors.Join(err, errors.New("connection lost"))
					}
				}
				return localRunner(ctx, argv, in, out, errOut)
			}
		}
		progress := func(e backup.Event) {
			if e.Phase == backup.PhaseRestore && e.Items == 1 && !remote {
				cancel()
			}
		}
		_, err := set.Restore(ctx, backup.RestoreOptions{Progress: progress}, r)
		cancel()
		if err == nil {
			t.Fatal("no error")
		}
		if data, _ := os.ReadFile(filepath.Join(root, "a")); string(data) != "new a" {
			t.Errorf("remote %v: a is %q after %v", remote, data, err)
		}
		if left := tree(t, root); len(left) != 1 {
			t.Errorf("remote %v: left %v", remote, left)
		}
	}
}

// A remote file that changes while tar reads it makes tar end with 1.
func TestFilesRemoteChanging(t *testing.T) {
	t.Parallel()
	needGNU(t)
	root := t.TempDir()
	write(t, root, "a", "content", 0o600)
	runs := 0
	flaky := func(ctx context.Context, argv []string, in io.Reader, out, errOut io.Writer) error {
		err := localRunner(ctx, argv, in, out, errOut)
		if slices.Contains(argv, "tar") {
			if runs++; runs == 1 {
				_, _ = io.WriteString(errOut, "tar: a: file changed as we read it\n")
				return exitError(1)
			}
		}
		return err
	}
	set := takePlain(t, t.TempDir(), &backup.Files{Runner: flaky, Paths: []string{root + "/a"}})
	if runs != 2 || len(set.Files) != 1 {
		t.Errorf("%d runs, %d files", runs, len(set.Files))
	}
	broken := func(ctx context.Context, argv []string, in io.Reader, out, errOut io.Writer) error {
		if slices.Contains(argv, "tar") {
			var whole bytes.Buffer
			err := localRunner(ctx, argv, in, &whole, errOut)
			_, _ = out.Write(whole.Bytes()[:whole.Len()/8])
			return err
		}
		return localRunner(ctx, argv, in, out, errOut)
	}
	if _, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, &backup.Files{Runner: broken, Paths: []string{root + "/a"}}); err == nil {
		t.Error("half an archive was accepted")
	}
}

type exitError int

func (e exitError) Error() string { return "exit status" }
func (e exitError) ExitCode() int { return int(e) }
