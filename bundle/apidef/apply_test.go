package apidef_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/bundle/apidef"
)

// killed ends the process at a random call, before or after the call took
// effect: what kill -9 does to a program that waits for its store.
type killed struct {
	apidef.Store
	left  int // calls until the end; negative: never
	after bool
	inner apidef.Store
}

type death struct{}

func (k *killed) tick(f func()) {
	if k.left == 0 {
		if k.after {
			f()
		}
		panic(death{})
	}
	k.left--
	f()
}

func (k *killed) API(ctx context.Context, id string) (a apidef.API, err error) {
	k.tick(func() { a, err = k.Store.API(ctx, id) })
	return
}

func (k *killed) Replace(ctx context.Context, was, next apidef.API) (err error) {
	k.tick(func() { err = k.Store.Replace(ctx, was, next) })
	return
}

// later is a killed store whose writes take effect with Commit.
type later struct{ *killed }

func (l later) Commit(ctx context.Context, changed []apidef.API) (err error) {
	l.tick(func() { err = l.inner.(apidef.Committer).Commit(ctx, changed) })
	return
}

// wrap keeps a store a Committer if it is one.
func (k *killed) wrap() apidef.Store { return k.over(k.Store) }

func (k *killed) over(inner apidef.Store) apidef.Store {
	k.inner = inner
	if _, ok := inner.(apidef.Committer); ok {
		return later{k}
	}
	return k
}

func (k *killed) Same(a, b apidef.API) bool {
	if c, ok := k.inner.(apidef.Comparer); ok {
		return c.Same(a, b)
	}
	return string(a.Classic) == string(b.Classic) && string(a.OAS) == string(b.OAS)
}

// dies runs f until it ends or is killed.
func dies(f func() error) (err error, died bool) {
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(death); !ok {
				panic(p)
			}
			died = true
		}
	}()
	return f(), false
}

// Whatever sequence of kills, resumes and reverts: in the end every API has its
// new document after an Apply that succeeded, and its very first one after a
// Revert that did.
func TestPlanKillResumeRevert(t *testing.T) {
	t.Parallel()
	for name, makeBench := range benches {
		for seed := range uint64(25) {
			r := rand.New(rand.NewPCG(seed, 1))
			b := makeBench(t)
			ids := []string{"c1", "c2", "o1"}
			before := map[string]string{}
			for _, id := range append(ids, "c3") {
				before[id] = b.read(id)
			}
			p, err := apidef.NewPlan(t.Context(), b.store, change())
			if err != nil {
				t.Fatal(err)
			}
			journal := filepath.Join(t.TempDir(), "journal")
			var steps []string
			finished, reverting := false, false
			for range 12 {
				k := &killed{Store: b.store, left: r.IntN(14), after: r.IntN(2) == 0}
				reverting = reverting || r.IntN(4) == 0
				var died bool
				if reverting {
					err, died = dies(func() error { return apidef.Revert(t.Context(), k.wrap(), journal) })
				} else {
					err, died = dies(func() error { return apidef.Apply(t.Context(), k.wrap(), p, journal) })
				}
				steps = append(steps, fmt.Sprint("revert ", reverting, " left ", k.left, " died ", died,
					" err ", err))
				if finished = !died && err == nil; finished {
					break
				}
				if err != nil {
					t.Fatalf("%s seed %d: %v", name, seed, steps)
				}
			}
			if !finished {
				k := &killed{Store: b.store, left: -1}
				if err := apidef.Revert(t.Context(), k.wrap(), journal); err != nil {
					t.Fatalf("%s seed %d: %v\n%v", name, seed, err, steps)
				}
				reverting = true
			}
			for _, id := range ids {
				now := b.read(id)
				bad := strings.Contains(now, "a.zip") || !strings.Contains(now, "n.zip")
				if reverting {
					bad = strings.Contains(now, "n.zip") || name == "directory" && now != before[id]
				}
				if bad {
					t.Fatalf("%s seed %d: %s is %s\n%v", name, seed, id, now, steps)
				}
			}
			if b.read("c3") != before["c3"] {
				t.Fatalf("%s seed %d: an API that is not of the plan changed", name, seed)
			}
			if _, err := os.Stat(journal); reverting == (err == nil) {
				t.Fatalf("%s seed %d: journal %v after %v", name, seed, err, steps)
			}
		}
	}
}

// A store that fails in the middle gets everything back that it had.
func TestAllOrNothing(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for name, makeBench := range benches {
		for at := range 3 {
			b := makeBench(t)
			p, err := apidef.NewPlan(t.Context(), b.store, change())
			if err != nil {
				t.Fatal(err)
			}
			journal := filepath.Join(t.TempDir(), "journal")
			f := &failing{Store: b.store, at: at, err: boom}
			err = apidef.Apply(t.Context(), (&killed{Store: f, left: -1}).over(b.store), p, journal)
			if !errors.Is(err, boom) || errors.Is(err, apidef.ErrPartial) {
				t.Errorf("%s: %v", name, err)
			}
			for _, id := range []string{"c1", "c2", "o1"} {
				if now := b.read(id); strings.Contains(now, "n.zip") {
					t.Errorf("%s at %d: %s is %s", name, at, id, now)
				}
			}
			// The same when the caller gives up.
			ctx, cancel := context.WithCancel(t.Context())
			f = &failing{Store: b.store, at: at, err: context.Canceled, hook: cancel}
			if err := apidef.Apply(ctx, (&killed{Store: f, left: -1}).over(b.store), p,
				journal); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", name, err)
			}
			if now := b.read("c1"); strings.Contains(now, "n.zip") {
				t.Errorf("%s at %d, cancelled: %s", name, at, now)
			}
		}
	}
}

// failing is a store whose Replace fails once.
type failing struct {
	apidef.Store
	at   int
	err  error
	hook func()
}

func (f *failing) Replace(ctx context.Context, was, next apidef.API) error {
	if f.at--; f.at == -1 {
		if f.hook != nil {
			f.hook()
		}
		return f.err
	}
	return f.Store.Replace(ctx, was, next)
}

func TestJournalOfSomebodyElse(t *testing.T) {
	t.Parallel()
	b := directory(t)
	p, err := apidef.NewPlan(t.Context(), b.store, change("c1"))
	if err != nil {
		t.Fatal(err)
	}
	inside := filepath.Join(b.store.(apidef.Directory).Path, "journal")
	if err := apidef.Apply(t.Context(), b.store, p, inside); err == nil ||
		!strings.Contains(err.Error(), "in app_path") {
		t.Errorf("a journal in app_path: %v", err)
	}
	journal := filepath.Join(t.TempDir(), "journal")
	if err := apidef.Apply(t.Context(), b.store, p, journal); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(journal, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := apidef.Revert(t.Context(), b.store, journal); !errors.Is(err, apidef.ErrJournal) {
		t.Errorf("a journal that anybody may write: %v", err)
	}
	if err := os.WriteFile(journal, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(journal, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := apidef.Revert(t.Context(), b.store, journal); !errors.Is(err, apidef.ErrJournal) {
		t.Errorf("a damaged journal: %v", err)
	}
}
