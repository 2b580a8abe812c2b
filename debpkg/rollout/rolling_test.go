package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
)

// lb is a load balancer in memory that logs into a fleet.
type lb struct {
	f     *fleet
	mu    sync.Mutex
	state map[string]rollout.State
	most  int // servers drained at a time
}

func newLB(f *fleet, servers ...string) *lb {
	b := &lb{f: f, state: map[string]rollout.State{}}
	for _, s := range servers {
		b.state[s] = rollout.State{Up: true}
	}
	return b
}

func (b *lb) Drain(ctx context.Context, server string) error {
	b.mu.Lock()
	b.state[server] = rollout.State{Drained: true}
	out := 0
	for _, s := range b.state {
		if s.Drained {
			out++
		}
	}
	b.most = max(b.most, out)
	b.mu.Unlock()
	return b.f.did(ctx, server+" out")
}

func (b *lb) Ready(ctx context.Context, server string) error {
	b.mu.Lock()
	b.state[server] = rollout.State{Up: true}
	b.mu.Unlock()
	return b.f.did(ctx, server+" in")
}

func (b *lb) State(_ context.Context, server string) (rollout.State, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.state[server]
	if !ok {
		return s, errors.New("no such server")
	}
	return s, nil
}

func (f *fleet) installs(name, server string) rollout.Host {
	act := func(what string) func(context.Context) error {
		return func(ctx context.Context) error { return f.did(ctx, name+" "+what) }
	}
	return rollout.Host{Name: name, Server: server, Install: rollout.Step{Do: act("install"),
		Undo: act("revert")}, Healthy: act("healthy"), Restored: act("restored")}
}

func TestRolling(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		b := newLB(f, "s1", "s2")
		gateways, err := rollout.Rolling("gateways", []rollout.Host{f.installs("g1", "s1"),
			f.installs("g2", "s2")}, rollout.RollingOptions{Balancer: b})
		if err != nil {
			t.Fatal(err)
		}
		pumps, err := rollout.Rolling("pumps", []rollout.Host{f.installs("p", "")},
			rollout.RollingOptions{})
		if err != nil {
			t.Fatal(err)
		}
		waves := []rollout.Wave{gateways, pumps}
		path := filepath.Join(t.TempDir(), "journal")
		if _, err := rollout.Run(t.Context(), waves, rollout.Options{Journal: path}); err != nil {
			t.Fatal(err)
		}
		want(t, "there", f.said(), "s1 out, g1 install, g1 healthy, s1 in, s2 out, g2 install, g2 "+
			"healthy, s2 in, p install, p healthy")
		f.log = nil
		if _, err := rollout.Undo(t.Context(), waves, rollout.Options{Journal: path}); err != nil {
			t.Fatal(err)
		}
		want(t, "and back", f.said(), "p revert, p restored, s2 out, g2 revert, g2 restored, s2 in, s1 "+
			"out, g1 revert, g1 restored, s1 in")
	})
}

// A host that could not be restored stays out, and no other is drained then.
func TestRollingNeverDrainsTheLastServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		b := newLB(f, "s1", "s2")
		hosts := []rollout.Host{f.installs("g1", "s1"), f.installs("g2", "s2")}
		w, err := rollout.Rolling("g", hosts, rollout.RollingOptions{Balancer: b,
			MaxUnavailable: rollout.CountOrPercent{Count: 2}})
		if err != nil {
			t.Fatal(err)
		}
		// Parallelism that the guard does not allow makes hosts wait.
		path := filepath.Join(t.TempDir(), "journal")
		b.most = 0
		if _, err = rollout.Run(t.Context(), []rollout.Wave{w},
			rollout.Options{Journal: path}); err != nil {
			t.Fatal(err)
		}
		if _, err = rollout.Undo(t.Context(), []rollout.Wave{w},
			rollout.Options{Journal: path}); err != nil {
			t.Fatal(err)
		}
		if b.most != 1 {
			t.Errorf("%d of 2 servers were out at a time", b.most)
		}
		// One that stays out does not let another go.
		f.fail["g1 revert"], f.fail["g1 healthy"] = errors.New("no such version"), errors.New("sick")
		_, err = rollout.Run(t.Context(), []rollout.Wave{w}, rollout.Options{})
		if err == nil || b.most != 1 {
			t.Fatalf("%d were out, error %v", b.most, err)
		}
		f.fail = map[string]error{}
		// One that is out for another reason is not waited for.
		b.state["s1"], b.state["s2"] = rollout.State{}, rollout.State{Up: true}
		f.log = nil
		if w, err = rollout.Rolling("g", hosts, rollout.RollingOptions{Balancer: b}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		rep, err := rollout.Run(t.Context(), []rollout.Wave{{Name: "w", Targets: w.Targets[1:]}},
			rollout.Options{})
		if err == nil || !strings.Contains(err.Error(), "0 other servers are up, want 1") ||
			time.Since(start) > time.Minute {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		want(t, "statuses", statuses(rep), "g2 undone")
		for _, min := range []int{-1, 3} {
			f.log, b.state = nil, newLB(f, "s1").state
			w, err := rollout.Rolling("g", hosts[:1], rollout.RollingOptions{Balancer: b, MinUp: min})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := rollout.Run(t.Context(), []rollout.Wave{w}, rollout.Options{}); (err == nil) != (min < 0) {
				t.Errorf("MinUp %d: %v", min, err)
			}
		}
	})
}

func TestStrategiesRefuse(t *testing.T) {
	t.Parallel()
	f := newFleet()
	if _, err := rollout.Rolling("g", []rollout.Host{f.installs("g1", "s1")},
		rollout.RollingOptions{}); err == nil {
		t.Error("a server without a load balancer was accepted")
	}
	if _, err := rollout.Rolling("g", []rollout.Host{{Name: "x"}},
		rollout.RollingOptions{}); err == nil {
		t.Error("a host without functions was accepted")
	}
	if _, err := rollout.BlueGreen(nil, rollout.BlueGreenOptions{Active: "a", Idle: "a"}); err == nil {
		t.Error("one colour was accepted")
	}
}

// colours is a switch in memory.
type colours struct {
	f   *fleet
	now string
}

func (c *colours) Active(context.Context) (string, error) { return c.now, nil }

func (c *colours) Set(ctx context.Context, colour string) error {
	c.now = colour
	return c.f.did(ctx, "to "+colour)
}

func TestBlueGreen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			name, bad, want, now string
			watch                func(context.Context) error
			beyond               rollout.BudgetAction
		}{
			{"good", "", "g install, g healthy, g healthy, to green", "green", nil, rollout.Hold},
			{"not healthy at the last look", "g healthy", "g install, g healthy, g revert, g restored",
				"blue", nil, rollout.Hold},
			{"soak fails", "", "g install, g healthy, g healthy, to green, to blue", "blue", bad,
				rollout.Hold},
			{"soak fails, undo all", "", "g install, g healthy, g healthy, to green, to blue, g " +
				"revert, g restored", "blue", bad, rollout.Rollback},
		} {
			f := newFleet()
			sw := &colours{f: f, now: "blue"}
			if c.bad != "" {
				f.fail[c.bad] = errors.New("boom")
			}
			waves, err := rollout.BlueGreen([]rollout.Host{f.installs("g", "")}, rollout.BlueGreenOptions{
				Switch: sw, Active: "blue", Idle: "green", Soak: time.Hour, Watch: c.watch})
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			_, err = rollout.Run(t.Context(), waves, rollout.Options{OnBudgetExceeded: c.beyond})
			want(t, c.name, f.said(), c.want)
			if sw.now != c.now || (err == nil) != (c.now == "green") {
				t.Errorf("%s: traffic goes to %s, error %v", c.name, sw.now, err)
			}
			if err == nil && time.Since(start) != time.Hour {
				t.Errorf("%s: took %v", c.name, time.Since(start))
			}
		}
	})
}

func bad(ctx context.Context) error {
	select {
	case <-time.After(time.Minute):
		return errors.New("error rate")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Sessions of the time before the switch are awaited before a host is touched.
func TestBlueGreenWaitsForOldSessions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		sw := &colours{f: f, now: "blue"}
		busyUntil := time.Now().Add(time.Minute)
		b := stateFunc(func() (rollout.State, error) {
			if time.Now().Before(busyUntil) {
				return rollout.State{Up: true, Sessions: 1}, nil
			}
			return rollout.State{Up: true}, nil
		})
		waves, err := rollout.BlueGreen([]rollout.Host{f.installs("g", "s")}, rollout.BlueGreenOptions{
			Switch: sw, Active: "blue", Idle: "green", Balancer: b})
		if err != nil {
			t.Fatal(err)
		}
		early := func(_ context.Context, what string) error {
			if (what == "g install" || what == "g revert") && time.Now().Before(busyUntil) {
				t.Errorf("%s while a session goes on", what)
			}
			return nil
		}
		f.hook = early
		o := rollout.Options{Journal: filepath.Join(t.TempDir(), "journal")}
		if _, err := rollout.Run(t.Context(), waves, o); err != nil {
			t.Fatal(err)
		}
		busyUntil = time.Now().Add(time.Minute)
		if _, err := rollout.Undo(t.Context(), waves, o); err != nil {
			t.Fatal(err)
		}
		want(t, "steps", f.said(), "g install, g healthy, g healthy, to green, to blue, g "+
			"revert, g restored")
	})
}

// A plan made before somebody else switched changes nothing.
func TestBlueGreenStalePlan(t *testing.T) {
	t.Parallel()
	f := newFleet()
	sw := &colours{f: f, now: "green"}
	waves, err := rollout.BlueGreen([]rollout.Host{f.installs("g", "")}, rollout.BlueGreenOptions{
		Switch: sw, Active: "blue", Idle: "green"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rollout.Run(t.Context(), waves, rollout.Options{}); err == nil ||
		!strings.Contains(err.Error(), "plan again") {
		t.Errorf("error %v", err)
	}
	want(t, "steps", f.said(), "")
}

func TestSelect(t *testing.T) {
	t.Parallel()
	f := newFleet()
	waves := []rollout.Wave{f.wave("w", "a"), f.wave("x", "b", "c")}
	one, err := rollout.Select(waves, "c", "upgrade")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rollout.Run(t.Context(), one, rollout.Options{}); err != nil {
		t.Fatal(err)
	}
	want(t, "steps", f.said(), "c upgrade")
	for _, c := range [][2]string{{"d", ""}, {"c", "upgrad"}} {
		if _, err := rollout.Select(waves, c[0], c[1]); err == nil {
			t.Errorf("%q was found", c)
		}
	}
}

func TestAllBalancers(t *testing.T) {
	t.Parallel()
	f := newFleet()
	one, two := newLB(f, "s"), newLB(f, "s")
	all := rollout.All(one, two)
	two.state["s"] = rollout.State{Drained: true, Sessions: 2, Queue: 1, Detail: "busy"}
	s, err := all.State(t.Context(), "s")
	if err != nil || s != (rollout.State{Sessions: 2, Queue: 1, Detail: "busy"}) {
		t.Errorf("%+v, %v", s, err)
	}
	if err := all.Drain(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	if s, _ := all.State(t.Context(), "s"); !s.Drained || s.Up {
		t.Errorf("%+v", s)
	}
	f.fail["s in"] = errors.New("refused")
	if err := all.Ready(t.Context(), "s"); err == nil || strings.Count(err.Error(), "refused") != 2 {
		t.Errorf("error %v", err)
	}
	if k := all.(rollout.Killer); k.Kill(t.Context(), "s") == nil {
		t.Error("ending sessions succeeded where nobody can")
	}
}

// Readings must be in a row: a server between two requests is not drained.
func TestWaitDrainedWantsReadingsInARow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sessions := []int{1, 0, 0, 1, 0, 0, 0}
		n := 0
		b := stateFunc(func() (rollout.State, error) {
			s := rollout.State{Drained: true, Sessions: sessions[n]}
			n++
			return s, nil
		})
		if err := rollout.WaitDrained(t.Context(), b, "s", rollout.DrainOptions{}); err != nil ||
			n != len(sessions) {
			t.Errorf("%d readings, %v", n, err)
		}
		// A load balancer that cannot be asked is not a drained one, and forcing
		// needs one that can end sessions.
		for _, b := range []stateFunc{
			func() (rollout.State, error) { return rollout.State{Drained: true}, errors.New("socket gone") },
			func() (rollout.State, error) { return rollout.State{Drained: true, Queue: 1}, nil },
		} {
			err := rollout.WaitDrained(t.Context(), b, "s", rollout.DrainOptions{Force: true,
				Deadline: time.Second})
			if be := (*rollout.Error)(nil); !errors.As(err, &be) {
				t.Errorf("error %v", err)
			}
		}
	})
}

type stateFunc func() (rollout.State, error)

func (stateFunc) Drain(context.Context, string) error {
	return errors.New(
		"unscripted")
}
func (stateFunc) Ready(context.Context, string) error {
	return errors.New(
		"unscripted")
}
func (f stateFunc) State(context.Context, string) (rollout.State, error) { return f() }

// A load balancer that checks by itself has to be given the time to notice.
func TestChecked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		var said []string
		up := true
		note := func(what string) func(context.Context, string) error {
			return func(_ context.Context, server string) error {
				said = append(said, what+" "+
					server)
				return nil
			}
		}
		b := rollout.NewChecked(rollout.CheckedOptions{
			Out: note("out"), In: note("in"), Settle: 10 * time.Second,
			Check: func(context.Context, string) (bool, error) { return up, nil },
		})
		start := time.Now()
		for range 2 { // a repeated drain does not wait again
			if err := rollout.TakeOut(ctx, b, "h1", rollout.DrainOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(start); d < 10*time.Second || d > 12*time.Second {
			t.Errorf("drained in %v", d)
		}
		start = time.Now()
		if err := errors.Join(b.Ready(ctx, "h1"), rollout.WaitUp(ctx, b, "h1",
			rollout.UpOptions{})); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d < 10*time.Second {
			t.Errorf("ready in %v", d)
		}
		want(t, "calls", strings.Join(said, ", "), "out h1, in h1")
		up = false
		if err := rollout.WaitUp(ctx, b, "h1", rollout.UpOptions{}); !errors.Is(err, rollout.ErrTimeout) {
			t.Errorf("a server whose check fails is up: %v", err)
		}
		ended, cancel := context.WithCancel(ctx)
		cancel()
		if err := b.Drain(ended, "h2"); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		// Without a balancer nothing waits for anything but readings.
		n := rollout.None()
		if err := errors.Join(rollout.TakeOut(ctx, n, "h", rollout.DrainOptions{}), n.Ready(ctx, "h"),
			rollout.WaitUp(ctx, n, "h", rollout.UpOptions{})); err != nil {
			t.Error(err)
		}
	})
}

func TestReportHTML(t *testing.T) {
	t.Parallel()
	f := newFleet()
	f.fail["a ready"] = errors.New("<script>alert(1)</script>")
	rep, _ := rollout.Run(t.Context(), []rollout.Wave{f.wave("w", "a", "b")}, rollout.Options{})
	var b strings.Builder
	if err := rep.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	for _, never := range []string{"<script", "http://", "https://", "src=", "ZgotmplZ"} {
		if strings.Contains(page, never) {
			t.Errorf("the page has %q", never)
		}
	}
	for _, want := range []string{"&lt;script&gt;", "held", "1 more pending", "undo drain",
		"prefers-color-scheme: dark", "max-width:640px",
		fmt.Sprint(rep.Who[0].PID)} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}
