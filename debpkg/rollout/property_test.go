package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/debpkg/rollout/rollouttest"
	"example.com/tykupgrade/internal/lab"
)

func TestMain(m *testing.M) {
	lab.TempInMemory() // each record of a journal is synced
	goleak.VerifyTestMain(m)
}

// story is what happens to a fleet: calls that end in the middle, then one that goes through.
type story struct {
	hosts, parallel int
	modes           []string // of each server before
	failing         []string // "host step", until the last call
	canary          bool
	rollback        bool
	calls           []call
	last            string // resume or undo
}

type call struct {
	name  string
	after int // records
}

func drawStory(t *rapid.T) story {
	s := story{
		hosts:    rapid.IntRange(1, 5).Draw(t, "hosts"),
		canary:   rapid.Bool().Draw(t, "canary"),
		rollback: rapid.Bool().Draw(t, "rollback"),
		last:     rapid.SampledFrom([]string{"resume", "undo"}).Draw(t, "last"),
	}
	s.parallel = rapid.IntRange(1, s.hosts).Draw(t, "parallel")
	for i := range s.hosts {
		s.modes = append(s.modes, rapid.SampledFrom([]string{"ready", "ready", "ready", "drain",
			"maint"}).Draw(t, fmt.Sprint("mode", i)))
		for _, step := range []string{"install", "healthy", "revert"} {
			if rapid.IntRange(0, 9).Draw(t, fmt.Sprint(step, i)) == 0 {
				s.failing = append(s.failing, fmt.Sprintf("g%d %s", i, step))
			}
		}
	}
	s.calls = append(s.calls, call{"run", rapid.IntRange(2, 60).Draw(t, "run ends after")})
	for i := range rapid.IntRange(0, 3).Draw(t, "more calls") {
		s.calls = append(s.calls, call{rapid.SampledFrom([]string{"resume", "undo"}).Draw(t,
			fmt.Sprint("call", i)), rapid.IntRange(0, 60).Draw(t, fmt.Sprint("ends after", i))})
	}
	return s
}

// play returns what is wrong.
func (s story) play(ctx context.Context, dir string) (bad []string) {
	var mu sync.Mutex
	wrong := func(format string, a ...any) {
		mu.Lock()
		defer mu.Unlock()
		bad = append(bad, fmt.Sprintf(format, a...))
	}
	var names []string
	for i := range s.hosts {
		names = append(names, fmt.Sprint("s", i))
	}
	lb := rollouttest.NewBalancer(names...)
	ready := 0
	for i, mode := range s.modes {
		lb.SetMode(names[i], mode)
		if mode == "ready" {
			ready++
		}
	}
	at := make([]string, s.hosts)
	failing := s.failing
	var hosts []rollout.Host
	for i, server := range names {
		at[i] = "old"
		act := func(step string, f func()) func(context.Context) error {
			return func(context.Context) error {
				mu.Lock()
				fails := slices.Contains(failing, fmt.Sprintf("g%d %s", i, step))
				mu.Unlock()
				if f != nil {
					if lb.Mode(server) != "maint" {
						wrong("%s of g%d while its server is in %s", step, i, lb.Mode(server))
					}
					f()
				}
				out := 0
				for j, mode := range s.modes {
					if mode == "ready" && lb.Mode(names[j]) != "ready" {
						out++
					}
				}
				if ready > 1 && out == ready {
					wrong("no server is left during %s of g%d", step, i)
				}
				if fails {
					return errors.New("bad luck")
				}
				return nil
			}
		}
		set := func(v string) func() {
			return func() {
				mu.Lock()
				at[i] = v
				mu.Unlock()
			}
		}
		hosts = append(hosts, rollout.Host{
			Name: fmt.Sprint("g", i), Server: server, Healthy: act("healthy", nil),
			Install: rollout.Step{Do: act("install", set("new")), Undo: act("revert", set("old")),
				Done: func(context.Context) (bool, error) {
					mu.Lock()
					defer mu.Unlock()
					return at[i] == "new", nil
				}},
		})
	}
	minUp := 0
	if ready <= 1 {
		minUp = -1
	}
	// Each call is a process of its own, which knows only the journal and the balancer.
	waves := func() []rollout.Wave {
		w, err := rollout.Rolling("w", hosts, rollout.RollingOptions{Balancer: lb, MinUp: minUp,
			MaxUnavailable: rollout.CountOrPercent{Count: s.parallel}})
		if err != nil {
			wrong("%v", err)
		}
		if s.canary {
			w.Canary.Count = 1
		}
		return []rollout.Wave{w}
	}
	o := rollout.Options{Journal: filepath.Join(dir, "journal"),
		Budget: rollout.CountOrPercent{Count: 1}}
	if s.rollback {
		o.OnBudgetExceeded = rollout.Rollback
	}
	verbs := map[string]rollouttest.Call{"run": rollout.Run, "resume": rollout.Resume,
		"undo": rollout.Undo}
	for _, c := range s.calls {
		_ = rollouttest.CrashAfter(ctx, c.after, verbs[c.name], waves(), o)
	}
	mu.Lock()
	failing = nil
	mu.Unlock()
	rep, err := verbs[s.last](ctx, waves(), o)
	if err != nil {
		wrong("%s: %v", s.last, err)
	}
	want := map[string]string{"resume": "new", "undo": "old"}[s.last]
	for i := range names {
		if at[i] != want {
			wrong("g%d has the %s version after %s", i, at[i], s.last)
		}
		if got := lb.Mode(names[i]); got != s.modes[i] {
			wrong("s%d was in %s, is in %s", i, s.modes[i], got)
		}
	}
	last := map[string]string{}
	for _, entry := range lb.Log() {
		mode, server, _ := strings.Cut(entry, " ")
		restored := s.modes[slices.Index(names, server)] == "drain" // logged as drain, too
		if mode == "drain" && last[server] == "maint" && !restored {
			wrong("%s came back to persistent clients in the middle of the work", server)
		}
		last[server] = mode
	}
	if len(bad) > 0 && rep != nil {
		var b strings.Builder
		_ = rep.WriteText(&b)
		bad = append(bad, b.String(), strings.Join(lb.Log(), ", "))
	}
	return bad
}

// Whatever fails and wherever the process is killed: at last every host has the wanted version
// and every server is in its former state, nothing was installed under traffic, and a server
// stayed up all the while.
func TestAnyStoryEndsWell(t *testing.T) {
	t.Parallel()
	shm := onMemory(t)
	rapid.Check(t, func(rt *rapid.T) {
		s := drawStory(rt)
		dir, err := os.MkdirTemp(shm, "")
		if err != nil {
			t.Fatal(err)
		}
		var bad []string
		synctest.Test(t, func(t *testing.T) { bad = s.play(t.Context(), dir) })
		if len(bad) > 0 {
			rt.Fatalf("%+v\n%s", s, strings.Join(bad, "\n"))
		}
	})
}

// Stories that once ended badly.
func TestStoriesEndWell(t *testing.T) {
	t.Parallel()
	ready := func(n int) []string { return slices.Repeat([]string{"ready"}, n) }
	for name, s := range map[string]story{
		"a repeated drain opens a half upgraded host to persistent clients": {hosts: 2, parallel: 1,
			modes: ready(2), calls: []call{{"run", 7}, {"resume", 4}}, last: "undo"},
		"a drain is cut off before an undo": {hosts: 5, parallel: 4, modes: ready(5),
			failing: []string{"g3 healthy"}, calls: []call{{"run", 38}, {"resume", 2}, {"resume", 7}},
			last: "undo"},
		"one that serves is resumed before the canary that is out": {hosts: 3, parallel: 2,
			modes: []string{"ready", "maint", "ready"}, failing: []string{"g0 revert", "g2 healthy"},
			canary: true, calls: []call{{"run", 4}, {"resume", 2}, {"resume", 14}, {"undo", 10}},
			last: "resume"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shm := onMemory(t)
			for range 20 {
				dir, err := os.MkdirTemp(shm, "")
				if err != nil {
					t.Fatal(err)
				}
				var bad []string
				synctest.Test(t, func(t *testing.T) { bad = s.play(t.Context(), dir) })
				if len(bad) > 0 {
					t.Fatal(strings.Join(bad, "\n"))
				}
			}
		})
	}
}
