package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// asking is how many targets ask works on at a time.
const asking = 16

// ask calls the Ask of every step that the run still has to do, before it changes any target. It
// returns an [ErrRefused] that names every target whose Ask failed.
func (r *runner) ask(ctx context.Context) error {
	if r.mode != ModeRun && r.mode != ModeResume {
		return nil
	}
	var todo []Target
	for _, w := range r.waves {
		for _, t := range w.Targets {
			asked := slices.ContainsFunc(t.Steps, func(s Step) bool { return s.Ask != nil })
			if asked && (r.mode == ModeRun || r.status(t.Name) == StatusPending) {
				todo = append(todo, t)
			}
		}
	}
	errs := make([]error, len(todo))
	slots := make(chan struct{}, asking)
	var wg sync.WaitGroup
	for i, t := range todo {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = r.askTarget(ctx, t)
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return r.fail(nil, errors.Join(err, context.Cause(ctx)), "")
	}
	if err := errors.Join(errs...); err != nil {
		return r.fail(ErrRefused, err, "nothing was started: fix each named cause, then call it again")
	}
	return nil
}

func (r *runner) askTarget(ctx context.Context, t Target) error {
	for _, s := range t.Steps {
		if s.Ask == nil {
			continue
		}
		timeout := s.Timeout
		if timeout == 0 {
			timeout = r.o.StepTimeout
		}
		during, cancel := context.WithTimeoutCause(ctx, timeout, ErrDeadline)
		err := guard(func() error { return s.Ask(during) })
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %s: %s", t.Name, s.Name, r.j.clean(err.Error()))
		}
	}
	return nil
}
