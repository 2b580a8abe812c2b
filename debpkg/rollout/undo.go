package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// undoTarget undoes the steps of a target, last step first. Each has a deadline of its own and does
// not end with ctx. It stops at the first step that cannot be undone and returns the cause. Another
// step could put a broken host back into service.
func (r *runner) undoTarget(ctx context.Context, t Target, why error) (stuck error) {
	ctx = context.WithoutCancel(ctx)
	defer r.work(t.Name)()
	if r.status(t.Name) != StatusRunning {
		// A crash from here on leaves a target that is no longer done.
		_ = r.j.add(Record{Kind: KindTarget, Target: t.Name, Undo: true})
	}
	status, text := StatusUndone, ""
	if why != nil {
		text = why.Error()
	}
	for _, s := range slices.Backward(t.Steps) {
		r.j.mu.Lock()
		changed, _ := r.j.rep.target(t.Name).changed(s.Name)
		r.j.mu.Unlock()
		if !changed || s.Undo == nil {
			continue
		}
		s.Timeout = max(r.o.UndoTimeout, s.Timeout)
		err := r.attempts(ctx, s.Retry, Record{Target: t.Name, Step: s.Name, Undo: true}, func() error {
			ctx, cancel := r.stepContext(ctx, t, s)
			defer cancel()
			return s.Undo(ctx)
		})
		if err != nil {
			stuck = fmt.Errorf("undo %s: %w", s.Name, err)
			status, text = StatusNotRestored, errors.Join(why, stuck).Error()
			break
		}
	}
	_ = r.j.add(Record{Kind: KindEnd, Target: t.Name, Status: status, Error: text})
	return stuck
}

// undoAll undoes every change of the run, the last wave first and the last target of a wave first,
// with the parallelism of the wave. If a target cannot be undone, no further one begins, because
// each could take one more host out of service. A run that undoes itself continues after ctx has
// ended. Control stops both.
func (r *runner) undoAll(ctx context.Context, mode Mode) Outcome {
	stuck := false
	for _, w := range slices.Backward(r.waves) {
		backward := slices.Clone(w.Targets)
		slices.Reverse(backward)
		left, others := r.leftUnderWay(ctx, backward)
		window := make(chan struct{}, max(1, w.MaxUnavailable.Of(len(w.Targets))))
		var wg sync.WaitGroup
		var stop error
		for _, t := range append(left, others...) {
			if !r.touched(t) {
				continue
			}
			window <- struct{}{}
			stop = r.o.Control.wait(ctx, r.paused)
			if mode != ModeUndo && !errors.Is(stop, ErrStopped) {
				stop = nil
			}
			r.mu.Lock()
			end := stuck || stop != nil
			r.mu.Unlock()
			if end {
				break
			}
			wg.Go(func() {
				defer func() { <-window }()
				err := r.undoTarget(ctx, t, nil)
				if err != nil {
					_ = r.hook(ctx, HookEvent{Point: OnFailure, Wave: w.Name, Target: t.Name,
						Status: r.status(t.Name), Error: err.Error()})
				}
				_ = r.hook(ctx, HookEvent{Point: AfterTarget, Wave: w.Name, Target: t.Name,
					Status: r.status(t.Name)})
				if err != nil {
					r.mu.Lock()
					stuck, r.failures[t.Name] = true, r.j.clean(err.Error())
					r.mu.Unlock()
				}
			})
		}
		wg.Wait()
		switch {
		case stuck:
			return OutcomeNotRestored
		case stop != nil:
			if !errors.Is(stop, ErrStopped) {
				stop = fmt.Errorf("the context has ended: %w", context.Cause(ctx))
			}
			r.mu.Lock()
			r.halted = nil // what made the run undo itself is not what ends it
			r.mu.Unlock()
			r.halt(stop)
			return OutcomeStopped
		}
	}
	return OutcomeUndone
}

// touched reports whether the run made a change on the target that can be undone.
func (r *runner) touched(t Target) bool {
	r.j.mu.Lock()
	defer r.j.mu.Unlock()
	for _, s := range t.Steps {
		if changed, _ := r.j.rep.target(t.Name).changed(s.Name); changed && s.Undo != nil {
			return true
		}
	}
	return false
}

// Accept makes the run in o.Journal final. It calls Step.Accept for each step of each done target,
// which removes what Undo needs. The run must have ended with OutcomeDone or OutcomePartial. Once
// Accept has begun, the run can no longer be undone or resumed. After an error or a crash, call
// Accept again.
func Accept(ctx context.Context, waves []Wave, o Options) (*Report, error) {
	return begin(ctx, waves, o, ModeAccept)
}

func (r *runner) acceptAll(ctx context.Context) Outcome {
	for _, w := range r.waves {
		for _, t := range w.Targets {
			if r.status(t.Name) != StatusDone {
				continue
			}
			if err := r.acceptTarget(ctx, t); err != nil {
				r.mu.Lock()
				r.failures[t.Name] = r.j.clean(err.Error())
				r.mu.Unlock()
			}
			if ctx.Err() != nil {
				r.halt(fmt.Errorf("the context has ended: %w", context.Cause(ctx)))
				return OutcomeStopped
			}
		}
	}
	if len(r.failures) > 0 {
		return OutcomePartial
	}
	return OutcomeAccepted
}

func (r *runner) acceptTarget(ctx context.Context, t Target) error {
	var errs []error
	for _, s := range t.Steps {
		if s.Accept == nil {
			continue
		}
		ctx, cancel := r.stepContext(ctx, t, s)
		err := guard(func() error { return s.Accept(ctx) })
		cancel()
		if err != nil {
			err = fmt.Errorf("accept %s: %w", s.Name, err)
			_ = r.j.add(Record{Kind: KindInfo, Target: t.Name, Step: s.Name, Text: err.Error()})
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
