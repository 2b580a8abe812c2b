package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
)

// fleet is a set of hosts with a version each, changed by steps and logged.
type fleet struct {
	mu   sync.Mutex
	log  []string
	at   map[string]string // version by host
	fail map[string]error  // by "host step" or "host undo step"
	hook func(ctx context.Context, what string) error
}

func newFleet() *fleet { return &fleet{at: map[string]string{}, fail: map[string]error{}} }

func (f *fleet) did(ctx context.Context, what string) error {
	f.mu.Lock()
	f.log = append(f.log, what)
	err, hook := f.fail[what], f.hook
	f.mu.Unlock()
	if hook != nil {
		if herr := hook(ctx, what); herr != nil {
			return herr
		}
	}
	return err
}

// host drains, upgrades with a saved record of the old version, and readies.
func (f *fleet) host(name string) rollout.Target {
	act := func(what string) func(context.Context) error {
		return func(ctx context.Context) error { return f.did(ctx, name+" "+what) }
	}
	return rollout.Target{Name: name, Steps: []rollout.Step{
		{Name: "drain", Do: act("drain"), Undo: act("undo drain")},
		{
			Name: "upgrade",
			Done: func(context.Context) (bool, error) {
				f.mu.Lock()
				defer f.mu.Unlock()
				return f.at[name] == "new", nil
			},
			Do: func(ctx context.Context) error {
				if err := rollout.Save(ctx, map[string]string{"was": "old"}); err != nil {
					return err
				}
				f.mu.Lock()
				f.at[name] = "new"
				f.mu.Unlock()
				return f.did(ctx, name+" upgrade")
			},
			Undo: func(ctx context.Context) error {
				var saved map[string]string
				if ok, err := rollout.Saved(ctx, &saved); err != nil || !ok || saved["was"] != "old" {
					return fmt.Errorf("saved record is missing: %v %v", saved, err)
				}
				f.mu.Lock()
				f.at[name] = "old"
				f.mu.Unlock()
				return f.did(ctx, name+" undo upgrade")
			},
		},
		{Name: "ready", Do: act("ready"), Undo: act("undo ready")},
	}}
}

func (f *fleet) wave(name string, hosts ...string) rollout.Wave {
	w := rollout.Wave{Name: name}
	for _, h := range hosts {
		w.Targets = append(w.Targets, f.host(h))
	}
	return w
}

func (f *fleet) said() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.log, ", ")
}

func statuses(r *rollout.Report) string {
	var s []string
	for _, t := range r.Targets {
		s = append(s, t.Name+" "+string(t.Status))
	}
	return strings.Join(s, ", ")
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

func TestRunInOrder(t *testing.T) {
	t.Parallel()
	f := newFleet()
	rep, err := rollout.Run(t.Context(), []rollout.Wave{f.wave("dashboards", "d"), f.wave("gateways",
		"a", "b")}, rollout.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want(t, "steps", f.said(), "d drain, d upgrade, d ready, a drain, a upgrade, a ready, b drain, "+
		"b upgrade, b ready")
	want(t, "statuses", statuses(rep), "d done, a done, b done")
	if rep.Outcome != rollout.OutcomeDone {
		t.Errorf("outcome %q", rep.Outcome)
	}
}

func TestFailureWithinTheBudgetUndoesThatHostAndGoesOn(t *testing.T) {
	t.Parallel()
	f := newFleet()
	f.fail["a ready"] = errors.New("not healthy")
	rep, err := rollout.Run(t.Context(), []rollout.Wave{f.wave("w", "a", "b", "c")},
		rollout.Options{Budget: rollout.CountOrPercent{Percent: 34}})
	var e *rollout.Error
	if !errors.As(err, &e) || e.Outcome != rollout.OutcomePartial ||
		e.Targets["a"] != "ready: not healthy" {
		t.Fatalf("error %v", err)
	}
	want(t, "steps", f.said(), "a drain, a upgrade, a ready, a undo ready, a undo upgrade, a undo "+
		"drain, b drain, b upgrade, b ready, c drain, c upgrade, c ready")
	want(t, "statuses", statuses(rep), "a undone, b done, c done")
}

func TestBeyondTheBudget(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		beyond          rollout.BudgetAction
		outcome         rollout.Outcome
		statuses, steps string
	}{
		{rollout.Hold, rollout.OutcomeHeld, "a done, b undone, c pending",
			"b drain, b upgrade, b undo upgrade, b undo drain"},
		{rollout.Rollback, rollout.OutcomeUndone, "a undone, b undone, c pending",
			"b drain, b upgrade, b undo upgrade, b undo drain, a undo ready, a undo upgrade, a undo drain"},
	} {
		f := newFleet()
		f.fail["b upgrade"] = errors.New("boom")
		rep, err := rollout.Run(t.Context(), []rollout.Wave{f.wave("w", "a", "b", "c")},
			rollout.Options{OnBudgetExceeded: c.beyond})
		var e *rollout.Error
		if !errors.As(err, &e) || e.Outcome != c.outcome {
			t.Fatalf("error %v", err)
		}
		want(t, "statuses", statuses(rep), c.statuses)
		want(t, "steps", f.said(), "a drain, a upgrade, a ready, "+c.steps)
	}
}

// A host that cannot be undone is left out of service and ends the run, even
// inside the budget.
func TestUndoFails(t *testing.T) {
	t.Parallel()
	f := newFleet()
	f.fail["a ready"] = errors.New("boom")
	f.fail["a undo upgrade"] = errors.New("no such version")
	rep, err := rollout.Run(t.Context(), []rollout.Wave{f.wave("w", "a", "b")},
		rollout.Options{Budget: rollout.CountOrPercent{Count: 2}, OnBudgetExceeded: rollout.Rollback})
	var e *rollout.Error
	if !errors.As(err, &e) || e.Outcome != rollout.OutcomeNotRestored || e.Hint() == "" {
		t.Fatalf("error %v", err)
	}
	want(t, "steps", f.said(), "a drain, a upgrade, a ready, a undo ready, a undo upgrade")
	want(t, "statuses", statuses(rep), "a not_restored, b pending")
	if !strings.Contains(rep.Targets[0].Error, "boom") || !strings.Contains(rep.Targets[0].Error,
		"undo upgrade: no such version") {
		t.Errorf("error %q", rep.Targets[0].Error)
	}
}

func TestCanary(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		w := f.wave("w", "a", "b", "c", "d")
		w.MaxUnavailable = rollout.CountOrPercent{Count: 3}
		w.Canary = rollout.Canary{Count: 1, Soak: time.Hour}
		var rest time.Time
		f.hook = func(_ context.Context, what string) error {
			if what == "b drain" {
				rest = time.Now()
			}
			return nil
		}
		start := time.Now()
		if _, err := rollout.Run(t.Context(), []rollout.Wave{w}, rollout.Options{}); err != nil {
			t.Fatal(err)
		}
		if rest.Sub(start) != time.Hour {
			t.Errorf("the rest began after %v", rest.Sub(start))
		}
	})
}

func TestCanaryThatFailsStopsTheRunWhateverTheBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, watch := range map[string]func(context.Context) error{
			"soak": func(ctx context.Context) error {
				select {
				case <-time.After(time.Minute):
					return errors.New("went bad")
				case <-ctx.Done():
					return nil
				}
			},
			"step": nil,
		} {
			f := newFleet()
			w := f.wave("w", "a", "b")
			w.Canary = rollout.Canary{Count: 1, Soak: time.Hour, Watch: watch}
			if name == "step" {
				f.fail["a ready"] = errors.New("went bad")
			}
			rep, err := rollout.Run(t.Context(), []rollout.Wave{w},
				rollout.Options{Budget: rollout.CountOrPercent{Count: 2}})
			var e *rollout.Error
			if !errors.As(err, &e) || !strings.Contains(e.Halt, "canary a failed") {
				t.Fatalf("%s: error %v", name, err)
			}
			want(t, name+" statuses", statuses(rep), "a undone, b pending")
			want(t, name+" steps", f.said(), "a drain, a upgrade, a ready, a undo ready, a undo upgrade, "+
				"a undo drain")
		}
	})
}

func TestRetryAndDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		start := time.Now()
		step := rollout.Step{Name: "s", Timeout: time.Second, Retry: rollout.Retry{Attempts: 5,
			Wait: 10 * time.Second, MaxWait: 30 * time.Second},
			Do: func(ctx context.Context) error {
				at = append(at, time.Since(start))
				if len(at) == 4 {
					return nil
				}
				<-ctx.Done()
				return ctx.Err()
			}}
		rep, err := rollout.Run(t.Context(), one(step), rollout.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if want := []time.Duration{0, 11 * time.Second, 32 * time.Second,
			63 * time.Second}; !slices.Equal(at, want) {
			t.Errorf("tried at %v, want %v", at, want)
		}
		if s := rep.Targets[0].Steps[0]; s.Attempts != 4 || s.Took != 63*time.Second || !s.OK {
			t.Errorf("step %+v", s)
		}
	})
}

type final struct{ error }

func (final) Retryable() bool { return false }

func TestStepFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		for name, c := range map[string]struct {
			step  rollout.Step
			tries int
			want  string
		}{
			"not retryable": {rollout.Step{Do: func(context.Context) error {
				tries++
				return fmt.Errorf("wrapped: %w", final{errors.New("no")})
			}}, 1, "wrapped: no"},
			"retries used": {rollout.Step{Do: func(context.Context) error {
				tries++
				return errors.New("busy")
			}}, 3, "busy"},
			"deadline": {rollout.Step{Timeout: time.Second, Do: func(ctx context.Context) error {
				tries++
				<-ctx.Done()
				return ctx.Err()
			}}, 3, rollout.ErrDeadline.Error()},
			"panic": {rollout.Step{Do: func(context.Context) error { tries++; panic("oops") }}, 3,
				"panic: oops"},
			"check": {rollout.Step{Do: func(context.Context) error { tries++; return nil },
				Check: func(context.Context) error { return errors.New("not there") }}, 3, "not there"},
			"check after done": {rollout.Step{
				Done:  func(context.Context) (bool, error) { return true, nil },
				Do:    func(context.Context) error { tries++; return nil },
				Check: func(context.Context) error { return errors.New("not really") }}, 3, "not really"},
			"done cannot be told, so Do decides": {rollout.Step{
				Done: func(context.Context) (bool, error) { return false, errors.New("ssh lost") },
				Do:   func(context.Context) error { tries++; return errors.New("really") }}, 3, "really"},
		} {
			tries = 0
			c.step.Name, c.step.Retry = "s", rollout.Retry{Attempts: 3}
			rep, err := rollout.Run(t.Context(), one(c.step), rollout.Options{})
			if err == nil || tries != c.tries || !strings.Contains(rep.Targets[0].Error, c.want) {
				t.Errorf("%s: %d tries, error %v", name, tries, err)
			}
		}
	})
}

func one(steps ...rollout.Step) []rollout.Wave {
	return []rollout.Wave{{Name: "w", Targets: []rollout.Target{{Name: "t", Steps: steps}}}}
}

// What was done before the run is skipped, and not undone by it.
func TestSkipWhatIsDone(t *testing.T) {
	t.Parallel()
	f := newFleet()
	f.at["a"] = "new"
	f.fail["a ready"] = errors.New("boom")
	rep, err := rollout.Run(t.Context(), []rollout.Wave{f.wave("w", "a")}, rollout.Options{})
	if err == nil {
		t.Fatal("no error")
	}
	want(t, "steps", f.said(), "a drain, a ready, a undo ready, a undo drain")
	if s := rep.Targets[0].Steps[1]; !s.Skipped || s.Attempts != 0 {
		t.Errorf("upgrade %+v", s)
	}
}

func TestContextEnds(t *testing.T) {
	t.Parallel()
	f := newFleet()
	cause := errors.New("operator pressed stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	f.hook = func(ctx context.Context, what string) error {
		switch what {
		case "b upgrade":
			cancel(cause)
			<-ctx.Done()
			return ctx.Err()
		case "b undo upgrade", "b undo drain":
			if ctx.Err() != nil {
				t.Errorf("%s: context has ended", what)
			}
			if _, ok := ctx.Deadline(); !ok {
				t.Errorf("%s: no deadline", what)
			}
		}
		return nil
	}
	// Even with Rollback, stopping is not a failure: what is done stays.
	rep, err := rollout.Run(ctx, []rollout.Wave{f.wave("w", "a", "b", "c")},
		rollout.Options{OnBudgetExceeded: rollout.Rollback})
	if !errors.Is(err, context.Canceled) || !errors.Is(err, cause) {
		t.Errorf("error %v", err)
	}
	want(t, "statuses", statuses(rep), "a done, b undone, c pending")
	if rep.Outcome != rollout.OutcomeStopped {
		t.Errorf("outcome %q", rep.Outcome)
	}
}

func TestPauseContinueStop(t *testing.T) {
	t.Parallel()
	f := newFleet()
	var c rollout.Control
	var kinds []rollout.Kind
	f.hook = func(_ context.Context, what string) error {
		switch what {
		case "a upgrade":
			c.Pause()
		case "b upgrade":
			c.Stop()
		}
		return nil
	}
	rep, err := rollout.Run(t.Context(), []rollout.Wave{f.wave("w", "a", "b", "c")},
		rollout.Options{Control: &c, Progress: func(r rollout.Record) {
			kinds = append(kinds, r.Kind)
			if r.Kind == rollout.KindPause {
				go c.Continue()
			}
		}})
	if !errors.Is(err, rollout.ErrStopped) {
		t.Errorf("error %v", err)
	}
	want(t, "statuses", statuses(rep), "a done, b done, c pending")
	if !slices.Contains(kinds, rollout.KindPause) || !slices.Contains(kinds, rollout.KindContinue) {
		t.Errorf("kinds %v", kinds)
	}
}

func TestValidation(t *testing.T) {
	t.Parallel()
	do := func(context.Context) error { t.Error("something ran"); return nil }
	step := rollout.Step{Name: "s", Do: do}
	waves := []rollout.Wave{
		{Name: "w", MaxUnavailable: rollout.CountOrPercent{Count: 1, Percent: 5},
			Targets: []rollout.Target{{Name: "t", Steps: []rollout.Step{step, step}},
				{Name: "t", Steps: []rollout.Step{{Name: "x"}}}}},
		{Name: "w", Canary: rollout.Canary{Count: -1}, Targets: []rollout.Target{{Name: "u"},
			{Steps: []rollout.Step{{Name: "s", Do: do, Timeout: -1}}}}},
	}
	_, err := rollout.Run(t.Context(), waves, rollout.Options{Budget: rollout.CountOrPercent{
		Percent: 101}, StepTimeout: -1, OnBudgetExceeded: 7})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{`target "t": duplicate step name "s"`, `duplicate target name "t"`,
		`step "x" has no Do`, `duplicate wave name "w"`, "canary count -1", `target "u" has no steps`,
		"target without a name", "invalid timeout or retry", "1 targets and 5 %", "step timeout -1ns"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	if _, err := rollout.Run(t.Context(), nil, rollout.Options{}); err == nil {
		t.Error("no targets were accepted")
	}
}

func TestCountOrPercent(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		share rollout.CountOrPercent
		n     int
		want  int
	}{{rollout.CountOrPercent{Percent: 25}, 10, 2}, {rollout.CountOrPercent{Percent: 25}, 3, 0},
		{rollout.CountOrPercent{Count: 5}, 3, 3}, {rollout.CountOrPercent{}, 9, 0},
		{rollout.CountOrPercent{Percent: 100}, 7, 7}} {
		if got := c.share.Of(c.n); got != c.want {
			t.Errorf("%+v of %d = %d, want %d", c.share, c.n, got, c.want)
		}
	}
}
