package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// undoTarget takes a target back, last step first. It has a deadline of its
// own for each step and does not end with ctx. It stops at the first step that
// cannot be undone: going on could put a broken host back into service.
func (r *runner) undoTarget(ctx context.Context, t Target, why error) {
	ctx = context.WithoutCancel(ctx)
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
		s.Timeout = r.o.UndoTimeout
		err := r.attempts(ctx, s.Retry, Record{Target: t.Name, Step: s.Name, Undo: true}, func() error {
			ctx, cancel := r.stepContext(ctx, t, s)
			defer cancel()
			return s.Undo(ctx)
		})
		if err != nil {
			status = StatusFailed
			text = errors.Join(why, fmt.Errorf("undo %s: %w", s.Name, err)).Error()
			break
		}
	}
	_ = r.j.add(Record{Kind: KindEnd, Target: t.Name, Status: status, Error: text})
}

// undoAll undoes whatever the run changed, the last wave first and the last
// target of a wave first, with the parallelism of the wave. When a target
// cannot be undone no further one begins: each would take another host out of
// service beside the one that is stuck.
func (r *runner) undoAll(ctx context.Context) Outcome {
	stuck := false
	for _, w := range slices.Backward(r.waves) {
		window := make(chan struct{}, max(1, w.Parallel.Of(len(w.Targets))))
		var wg sync.WaitGroup
		for _, t := range slices.Backward(w.Targets) {
			if !r.touched(t) {
				continue
			}
			window <- struct{}{}
			r.mu.Lock()
			stop := stuck || ctx.Err() != nil
			r.mu.Unlock()
			if stop {
				break
			}
			wg.Go(func() {
				defer func() { <-window }()
				r.undoTarget(ctx, t, nil)
				if r.status(t.Name) == StatusFailed {
					r.mu.Lock()
					stuck = true
					r.mu.Unlock()
				}
			})
		}
		wg.Wait()
		if stuck {
			return OutcomeFailed
		}
		if ctx.Err() != nil {
			return OutcomeStopped
		}
	}
	return OutcomeUndone
}

// touched says whether the run changed something on the target that can be
// undone.
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
