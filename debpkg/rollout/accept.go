package rollout

import (
	"context"
	"errors"
	"fmt"
)

// Accept keeps the run in o.Journal for good: it calls the Accept of each step of each target
// that is done, which removes what Undo would have needed. It is for runs that ended with
// OutcomeDone or OutcomePartial. From its beginning on the run can no longer be undone or
// resumed; after an error or a crash call Accept again.
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
