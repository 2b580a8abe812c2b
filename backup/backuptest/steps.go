package backuptest

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"

	"example.com/tykupgrade/backup"
)

// cancel ends the context at many moments of a run. Nothing may be left.
func (c Case) cancel(t *testing.T) {
	cause := errors.New("the operator pressed stop")
	moments := c.Cancels
	if moments == 0 {
		moments = 12
	}
	for at := range moments {
		dir := t.TempDir()
		ctx, cancel := context.WithCancelCause(t.Context())
		var events atomic.Int32
		if at == 0 {
			cancel(cause)
		}
		_, err := backup.Take(ctx, dir, backup.Options{Progress: func(backup.Event) {
			if int(events.Add(1)) == at {
				cancel(cause)
			}
		}}, c.Source(t))
		cancel(cause)
		sets, _ := backup.List(dir)
		if err == nil {
			if len(sets) == 0 {
				t.Error("no error and no set")
			}
			return // the run is over before this moment, and before later ones
		}
		if !errors.Is(err, context.Canceled) || !errors.Is(err, cause) {
			t.Errorf("cancelled at event %d: %v", at, err)
		}
		if left := Leftovers(t, dir); len(left) > 0 || len(sets) > 0 {
			t.Errorf("cancelled at event %d, left: %v %v", at, left, sets)
		}
	}
}

func (c Case) broken(t *testing.T) {
	dir := t.TempDir()
	_, err := backup.Take(t.Context(), dir, backup.Options{}, c.Broken(t))
	if err == nil {
		t.Fatal("a broken source was backed up")
	}
	t.Log(err)
	if c.Secret != "" && strings.Contains(err.Error(), c.Secret) {
		t.Errorf("the error shows the secret: %v", err)
	}
	var e *backup.Error
	if !errors.As(err, &e) {
		t.Errorf("%T is not an *Error", err)
	}
	if sets, _ := backup.List(dir); len(sets) > 0 || len(Leftovers(t, dir)) > 0 {
		t.Errorf("left: %v %v", sets, Leftovers(t, dir))
	}
}

func (c Case) export(t *testing.T, set *backup.Set) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]backup.ExportOptions{"set.tar.zst": {}, "set.tar.zst.age": {
		Recipients: []age.Recipient{id.Recipient()}}} {
		path := filepath.Join(t.TempDir(), name)
		if err := set.Export(t.Context(), path, o); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		in := t.TempDir()
		with := backup.ImportOptions{Identities: []age.Identity{id}}
		if len(o.Recipients) == 0 {
			if _, err := backup.Import(t.Context(), t.TempDir(), bytes.NewReader(data),
				with); !errors.Is(err, backup.ErrUnsafe) {
				t.Errorf("an export that is not encrypted, with an identity: %v", err)
			}
			with.AllowPlain = true
		}
		again, err := backup.Import(t.Context(), in, bytes.NewReader(data), with)
		if err != nil || again.ID != set.ID {
			t.Fatalf("%s: %v", name, err)
		}
		for range 8 {
			broken := bytes.Clone(data)
			if at := rand.IntN(len(broken)); rand.IntN(2) == 0 {
				broken[at] ^= 1 << rand.IntN(8)
			} else {
				broken = broken[:at]
			}
			in := t.TempDir()
			if s, err := backup.Import(t.Context(), in, bytes.NewReader(broken), with); err == nil &&
				!sameSet(s, set) {
				t.Errorf("%s: a damaged export became another set", name)
			} else if err != nil && len(Leftovers(t, in)) > 0 {
				t.Errorf("%s: left %v", name, Leftovers(t, in))
			}
		}
	}
}

func sameSet(a, b *backup.Set) bool {
	x, _ := os.ReadFile(filepath.Join(a.Dir, "manifest.sha256"))
	y, _ := os.ReadFile(filepath.Join(b.Dir, "manifest.sha256"))
	return bytes.Equal(x, y)
}

func (c Case) restore(t *testing.T, set *backup.Set) {
	r := c.Restorer(t)
	st, ok := set.Component(r.Name())
	if !ok {
		t.Fatalf("no component %q", r.Name())
	}
	if err := r.Prove(t.Context(), st); !errors.Is(err, backup.ErrDiffers) {
		t.Errorf("the empty target equals the set: %v", err)
	}
	dry, err := set.Restore(t.Context(), backup.RestoreOptions{DryRun: true}, r)
	if err != nil || dry.Components[0].State != backup.StatePlanned ||
		len(dry.Components[0].Items) == 0 {
		t.Fatalf("dry run: %+v %v", dry, err)
	}
	if err := r.Prove(t.Context(), st); !errors.Is(err, backup.ErrDiffers) {
		t.Errorf("a dry run restored: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := set.Restore(ctx, backup.RestoreOptions{}, r); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	report, err := set.Restore(t.Context(), backup.RestoreOptions{}, r)
	if err != nil || report.Components[0].State != backup.StateVerified ||
		len(report.Components[0].Items) == 0 {
		t.Fatalf("restore: %+v %v", report, err)
	}
	if err := r.Prove(t.Context(), st); err != nil {
		t.Errorf("after the restore: %v", err)
	}
	// A second time it is refused, or finds nothing to do.
	if report, err := set.Restore(t.Context(), backup.RestoreOptions{}, r); err != nil &&
		!errors.Is(err, backup.ErrNotEmpty) {
		t.Errorf("second restore: %+v %v", report, err)
	}
	// A damaged set changes nothing.
	damaged := copySet(t, set)
	path := filepath.Join(damaged, set.Files[0].Path)
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	bad, err := backup.Open(damaged)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bad.Restore(t.Context(), backup.RestoreOptions{},
		c.Restorer(t)); set.Files[0].Size > 0 && !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("a damaged set was restored: %v", err)
	}
}

func (c Case) differs(t *testing.T, set *backup.Set) {
	p := c.Source(t).(backup.Prover)
	c.Change(t)
	err := set.Verify(t.Context(), backup.VerifyOptions{Level: backup.LevelLive,
		Against: []backup.Prover{p}})
	if !errors.Is(err, backup.ErrDiffers) {
		t.Errorf("a changed system equals the set: %v", err)
	}
	t.Log(err)
}

// clock prunes with a clock that is an hour off, which must not change the order of sets.
func (c Case) clock(t *testing.T) {
	dir := t.TempDir()
	var ids []string
	for range 2 {
		set, err := backup.Take(t.Context(), dir, backup.Options{}, c.Source(t))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, set.ID)
	}
	for _, off := range []time.Duration{-time.Hour, time.Hour} {
		now := func() time.Time { return time.Now().Add(off) }
		out, err := backup.Prune(t.Context(), dir, backup.Policy{Keep: 1, MaxAge: 2 * time.Hour,
			DryRun: true, Now: now})
		if off < 0 && (err == nil || len(out.Removed) > 0) {
			t.Errorf("clock behind: both sets are from the future, and one goes: %+v %v", out, err)
		}
		if off > 0 && (err != nil || !slices.Equal(out.Removed, ids[:1])) {
			t.Errorf("clock ahead: %+v %v, want %s removed", out, err, ids[0])
		}
	}
}
