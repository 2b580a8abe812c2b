package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// forward runs or resumes the waves and reports the outcome.
func (r *runner) forward(ctx context.Context) Outcome {
	for _, w := range r.waves {
		if r.wave(ctx, w); r.stopping() != nil {
			break
		}
	}
	switch halted := r.stopping(); {
	case r.j.rep.Count(StatusNotRestored) > 0:
		return OutcomeNotRestored
	case errors.Is(halted, errBudget) && r.o.OnBudgetExceeded == Rollback:
		return r.undoAll(ctx, ModeRun)
	case errors.Is(halted, errBudget):
		return OutcomeHeld
	case halted != nil:
		return OutcomeStopped
	case len(r.failures) > 0:
		return OutcomePartial
	}
	return OutcomeDone
}

// errBudget marks a halt because of failing targets.
var errBudget = errors.New("beyond the failure budget")

func (r *runner) stopping() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.halted
}

// halt keeps the first reason.
func (r *runner) halt(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.halted == nil {
		r.halted = why
		_ = r.j.add(Record{Kind: KindHalt, Error: why.Error()})
	}
}

func (r *runner) wave(ctx context.Context, w Wave) {
	if err := r.j.add(Record{Kind: KindWave, Wave: w.Name}); err != nil {
		r.halt(err)
		return
	}
	if err := r.hook(ctx, HookEvent{Point: BeforeWave, Wave: w.Name}); err != nil {
		r.halt(err)
		return
	}
	defer func() { _ = r.hook(ctx, HookEvent{Point: AfterWave, Wave: w.Name}) }()
	canary := min(w.Canary.Count, len(w.Targets))
	first := map[string]bool{}
	for _, t := range w.Targets[:canary] {
		first[t.Name] = true
	}
	left, others := r.leftUnderWay(ctx, w.Targets)
	if r.targets(ctx, w, left, first); r.stopping() != nil {
		return
	}
	rest := others
	if canary > 0 {
		var canaries []Target
		rest = nil
		for _, t := range others {
			if first[t.Name] {
				canaries = append(canaries, t)
			} else {
				rest = append(rest, t)
			}
		}
		if r.targets(ctx, w, canaries, first); r.stopping() != nil {
			return
		}
		if !r.passed(w, canary) && !r.soak(ctx, w, canary) {
			return
		}
	}
	r.targets(ctx, w, rest, first)
}

// leftUnderWay separates the targets that an earlier process left under way from the others. They
// come first, or too many targets would be out. Of them, those out of service come before those
// that serve, because draining a server may have to wait for others to come back.
func (r *runner) leftUnderWay(ctx context.Context, targets []Target) (left, others []Target) {
	underWay := func(t Target) bool {
		s := r.status(t.Name)
		return s == StatusRunning || s == StatusNotRestored
	}
	if !slices.ContainsFunc(targets, underWay) {
		return nil, targets
	}
	var serving []Target
	for _, t := range targets {
		switch {
		case !underWay(t):
			others = append(others, t)
		case t.out != nil && !t.out(ctx):
			serving = append(serving, t)
		default:
			left = append(left, t)
		}
	}
	return append(left, serving...), others
}

// passed reports whether the canary has soaked and has not been changed since.
func (r *runner) passed(w Wave, canary int) bool {
	r.j.mu.Lock()
	defer r.j.mu.Unlock()
	soaked := r.j.rep.soaked[w.Name]
	for _, t := range w.Targets[:canary] {
		if soaked < r.j.rep.target(t.Name).ended {
			return false
		}
	}
	return soaked > 0
}

// targets works on a sliding window of the targets and returns once all that have begun have ended.
func (r *runner) targets(ctx context.Context, w Wave, targets []Target, canary map[string]bool) {
	window := make(chan struct{}, max(1, w.MaxUnavailable.Of(len(w.Targets))))
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, t := range targets {
		window <- struct{}{}
		if err := r.o.Control.wait(ctx, r.paused); err != nil {
			if ctx.Err() != nil {
				err = fmt.Errorf("the context has ended: %w", context.Cause(ctx))
			}
			r.halt(err)
		}
		if r.stopping() != nil {
			return
		}
		wg.Go(func() {
			defer func() { <-window }()
			switch err := r.one(ctx, w, t); {
			case err == nil:
			case ctx.Err() != nil && !r.stuck(t.Name):
				// Cut short and undone: not the target's failure.
				r.halt(fmt.Errorf("the context has ended: %w", context.Cause(ctx)))
			case r.j.broken() != nil && !r.stuck(t.Name):
				r.halt(r.j.broken())
			case !errors.Is(err, errBudget):
				r.failed(t.Name, err, canary[t.Name])
			}
		})
	}
}

func (r *runner) paused(yes bool) {
	kind := KindContinue
	if yes {
		kind = KindPause
	}
	_ = r.j.add(Record{Kind: kind})
}

// soak lets the canary run under its watch. It undoes a canary that fails.
func (r *runner) soak(ctx context.Context, w Wave, canary int) bool {
	if w.Canary.Soak == 0 && w.Canary.Watch == nil {
		return true
	}
	if err := r.j.add(Record{Kind: KindSoak, Wave: w.Name}); err != nil {
		r.halt(err)
		return false
	}
	during, end := r.o.Control.during(ctx)
	err := soak(during, w.Canary.Soak, w.Canary.Watch)
	end()
	switch {
	case errors.Is(err, ErrStopped):
		r.halt(ErrStopped)
		return false
	case ctx.Err() != nil:
		r.halt(fmt.Errorf("the context has ended while the canary soaked: %w", context.Cause(ctx)))
		return false
	case err == nil:
		if err := r.j.add(Record{Kind: KindSoak, Wave: w.Name, OK: true}); err != nil {
			r.halt(err)
			return false
		}
		return true
	}
	_ = r.j.add(Record{Kind: KindSoak, Wave: w.Name, Error: err.Error()})
	for _, t := range w.Targets[:canary] {
		r.undoTarget(ctx, t, err)
		r.failed(t.Name, fmt.Errorf("soak: %w", err), true)
		if r.stuck(t.Name) {
			break // as in undoAll
		}
	}
	return false
}
