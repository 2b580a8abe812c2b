package backup_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/backup"
)

// A set that somebody else could have made is not restored.
func TestRestoreAuthor(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(dir string) error{
		"writable set":    func(dir string) error { return os.Chmod(dir, 0o777) },
		"writable above":  func(dir string) error { return os.Chmod(filepath.Dir(dir), 0o777) },
		"somebody else's": func(dir string) error { return os.Chown(dir, 65534, 65534) },
		"group of somebody": func(dir string) error {
			return errors.Join(os.Chown(dir, -1, 65534),
				os.Chmod(dir, 0o770))
		},
		// sticky protects names, not what is written into a file
		"writable and sticky": func(dir string) error { return os.Chmod(dir, 0o777|os.ModeSticky) },
		"writable file": func(dir string) error {
			return os.Chmod(filepath.Join(dir, "a/file"), 0o666)
		},
		"writable manifest": func(dir string) error {
			return os.Chmod(filepath.Join(dir, "manifest.json"), 0o602)
		},
		"writable component": func(dir string) error { return os.Chmod(filepath.Join(dir, "a"), 0o777) },
		"somebody else's file": func(dir string) error {
			return os.Chown(filepath.Join(dir, "a/file"), 65534, 0)
		},
		"somebody else's above": func(dir string) error { return os.Chown(filepath.Dir(dir), 65534, 0) },
	} {
		if os.Geteuid() != 0 && !strings.HasPrefix(name, "writable") {
			continue
		}
		set := takePlain(t, t.TempDir(), text("a", "x"))
		if err := spoil(set.Dir); err != nil {
			t.Fatal(err)
		}
		for _, dry := range []bool{true, false} {
			if _, err := set.Restore(t.Context(), backup.RestoreOptions{DryRun: dry},
				restorer{name: "a"}); !errors.Is(err, backup.ErrUnsafe) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := set.Undo(t.Context(), restorer{name: "a"}); !errors.Is(err, backup.ErrUnsafe) {
			t.Errorf("%s: undo: %v", name, err)
		}
	}
}

// A link such as latest names a set.
func TestOpenThroughLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	set := takePlain(t, dir, text("a", "x"))
	latest := filepath.Join(dir, "latest")
	if err := os.Symlink(set.ID, latest); err != nil {
		t.Fatal(err)
	}
	again, err := backup.Open(latest)
	if err == nil {
		err = again.Verify(t.Context(), backup.VerifyOptions{})
	}
	if err != nil || again.ID != set.ID {
		t.Error(err)
	}
	if sets, err := backup.List(dir); len(sets) != 1 || err != nil {
		t.Errorf("%d sets, %v", len(sets), err)
	}
}

// A set from the future does not take the place of today's, and stays.
func TestPruneFuture(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	takePlain(t, dir, text("a", "x"))
	time.Sleep(2 * time.Millisecond)
	future := takePlain(t, dir, text("a", "x"))
	now := func() time.Time { return time.Now().Add(-time.Hour) } // both are from the future
	out, err := backup.Prune(t.Context(), dir, backup.Policy{Keep: 1, Now: now})
	if err == nil || len(out.Removed) > 0 {
		t.Errorf("%+v %v", out, err)
	}
	// Only one is: today's is the newest, and no other goes for it.
	between := func() time.Time { return future.Start.Add(-6 * time.Minute) }
	out, err = backup.Prune(t.Context(), dir, backup.Policy{Keep: 1, Now: between})
	if err == nil || !strings.Contains(err.Error(), "future") || !slices.Contains(out.Kept,
		future.ID) {
		t.Errorf("%+v %v", out, err)
	}
}

// undoable counts what Set.Restore asks of it.
type undoable struct {
	restorer
	calls *[]string
}

func (u undoable) Undo(ctx context.Context, _ *backup.Stored) (bool, error) {
	*u.calls = append(*u.calls, "undo "+u.name)
	return u.name == "a", ctx.Err()
}

func (u undoable) Accept(_ context.Context, _ *backup.Stored) error {
	*u.calls = append(*u.calls, "accept "+u.name)
	return nil
}

// What was restored is taken back where a later component fails, last one first.
func TestRestoreUndo(t *testing.T) {
	t.Parallel()
	set := takePlain(t, t.TempDir(), text("a", "x"), text("b", "y"), text("c", "z"))
	boom := errors.New("boom")
	var calls []string
	a, b := undoable{restorer{name: "a"}, &calls}, undoable{restorer{name: "b"}, &calls}
	c := restorer{name: "c", restore: func(context.Context) error { return boom }}
	report, err := set.Restore(t.Context(), backup.RestoreOptions{}, a, b, c)
	if !errors.Is(err, boom) || strings.Join(calls, ", ") != "undo b, undo a" ||
		report.Components[0].State != backup.StateUndone || report.Components[0].Reason == "" {
		t.Errorf("%v %+v %v", calls, report, err)
	}
	calls = nil
	b.prove = func(context.Context) error { return backup.ErrDiffers }
	if report, err = set.Restore(t.Context(), backup.RestoreOptions{}, a, b); err == nil ||
		strings.Join(calls, ", ") != "undo b, undo a" ||
		report.Components[1].State != backup.StateUndone {
		t.Errorf("%v %+v %v", calls, report, err)
	}
	calls, b.prove = nil, nil
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{Keep: true}, a, b); err != nil ||
		len(calls) > 0 {
		t.Errorf("%v %v", calls, err)
	}
	report, err = set.Undo(t.Context(), a, b)
	var states []string
	for _, x := range report.Components {
		states = append(states, string(x.State))
	}
	if err != nil || strings.Join(calls, ", ") != "undo b, undo a" ||
		strings.Join(states, " ") != "undone nothing_to_undo not_requested" {
		t.Errorf("%v %v %v", calls, states, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if report, err = set.Undo(ended, a); !errors.Is(err, context.Canceled) ||
		report.Components[0].State != backup.StateFailed || report.Components[0].Reason == "" {
		t.Errorf("%+v %v", report, err)
	}
	calls = nil
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, a, b); err != nil ||
		strings.Join(calls, ", ") != "accept a, accept b" {
		t.Errorf("%v %v", calls, err)
	}
}

// A kind that nobody registered is refused before anything is published.
func TestUnknownKind(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := backup.Take(t.Context(), dir, backup.Options{}, kinded{text("a", "x")})
	if !errors.Is(err, backup.ErrUnknownKind) {
		t.Errorf("got %v", err)
	}
	if sets, _ := backup.List(dir); len(sets) > 0 {
		t.Error("a set is left")
	}
	defer func() {
		if recover() == nil {
			t.Error("a second registration was accepted")
		}
	}()
	check := func(context.Context, *backup.Stored) error { return io.EOF }
	backup.RegisterKind("safety-test", check)
	backup.RegisterKind("safety-test", check)
}

type kinded struct{ plain }

func (k kinded) Backup(ctx context.Context, w *backup.Writer) (backup.Component, error) {
	c, err := k.plain.Backup(ctx, w)
	c.Kind = "nobody's"
	return c, err
}
