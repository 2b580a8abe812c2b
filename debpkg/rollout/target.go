package rollout

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// failed counts a target that failed and was undone, or could not be.
func (r *runner) failed(name string, why error, canary bool) {
	r.mu.Lock()
	r.failures[name] = r.j.clean(why.Error())
	n := len(r.failures)
	r.mu.Unlock()
	switch {
	case r.stuck(name):
		r.halt(fmt.Errorf("%s could not be undone (%w)", name, errBudget))
	case canary:
		r.halt(fmt.Errorf("canary %s failed (%w)", name, errBudget))
	case n > r.budget:
		r.halt(fmt.Errorf("failed targets: %d, allowed: %d (%w)", n, r.budget, errBudget))
	}
}

func (r *runner) stuck(name string) bool {
	return r.status(name) == StatusNotRestored
}

// one brings a target through its steps, and back if one fails.
func (r *runner) one(ctx context.Context, w Wave, t Target) error {
	if r.status(t.Name) == StatusDone && r.trusted(ctx, t) {
		return nil
	}
	if err := r.hook(ctx, HookEvent{Point: BeforeTarget, Wave: w.Name, Target: t.Name}); err != nil {
		r.halt(err)
		return nil // not begun
	}
	defer r.work(t.Name)()
	err := r.steps(ctx, w, t)
	if err != nil {
		_ = r.hook(ctx, HookEvent{Point: OnFailure, Wave: w.Name, Target: t.Name,
			Status: r.status(t.Name), Error: err.Error()})
	}
	_ = r.hook(ctx, HookEvent{Point: AfterTarget, Wave: w.Name, Target: t.Name,
		Status: r.status(t.Name)})
	return err
}

func (r *runner) steps(ctx context.Context, w Wave, t Target) error {
	if err := r.j.add(Record{Kind: KindTarget, Wave: w.Name, Target: t.Name}); err != nil {
		r.halt(err)
		return nil // not begun
	}
	for _, s := range t.Steps {
		err := r.step(ctx, t, s)
		if err == nil && r.o.OnBudgetExceeded == Rollback && errors.Is(r.stopping(), errBudget) {
			err = errBudget // all will be undone, so more work is in vain
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", s.Name, err)
			r.undoTarget(ctx, t, err)
			return err
		}
	}
	if err := r.j.add(Record{Kind: KindEnd, Target: t.Name, Status: StatusDone}); err != nil {
		r.halt(err)
	}
	return nil
}

func (r *runner) status(name string) Status {
	r.j.mu.Lock()
	defer r.j.mu.Unlock()
	return r.j.rep.target(name).Status
}

// trusted looks at a target that the journal calls done.
func (r *runner) trusted(ctx context.Context, t Target) bool {
	ctx = context.WithValue(ctx, memoKey{}, &memo{verifying: true})
	for _, s := range t.Steps {
		ctx, cancel := r.stepContext(ctx, t, s)
		err := guard(func() error {
			if s.Done != nil {
				if done, err := s.Done(ctx); err != nil || !done {
					return errors.Join(fmt.Errorf("%s is no longer done", s.Name), err)
				}
			}
			if s.Check != nil {
				return s.Check(ctx)
			}
			return nil
		})
		cancel()
		if err != nil {
			_ = r.j.add(Record{Kind: KindVerify, Target: t.Name, Step: s.Name, Error: err.Error()})
			return false
		}
	}
	return r.j.add(Record{Kind: KindVerify, Target: t.Name, OK: true}) == nil
}

// step does one step with its retries.
func (r *runner) step(ctx context.Context, t Target, s Step) error {
	if s.Done != nil {
		start := time.Now()
		ctx, cancel := r.stepContext(ctx, t, s)
		done, err := guard2(func() (bool, error) { return s.Done(ctx) })
		if done && err == nil && s.Check != nil {
			err = guard(func() error { return s.Check(ctx) })
			done = err == nil
		}
		cancel()
		if done && err == nil {
			return r.j.add(Record{Kind: KindSkip, Target: t.Name, Step: s.Name, Took: time.Since(start)})
		}
	}
	return r.attempts(ctx, s.Retry, Record{Target: t.Name, Step: s.Name}, func() error {
		ctx, cancel := r.stepContext(ctx, t, s)
		defer cancel()
		err := s.Do(ctx)
		if err == nil && s.Check != nil {
			err = s.Check(ctx)
		}
		if cause := context.Cause(ctx); err != nil && cause == ErrDeadline {
			err = fmt.Errorf("%w (%w)", err, cause)
		}
		return err
	})
}

// attempts calls f until it succeeds, no retries are left, or an error is final. rec names the step
// in the records.
func (r *runner) attempts(ctx context.Context, retry Retry, rec Record, f func() error) error {
	wait := retry.Wait
	for n := 1; ; n++ {
		if err := ctx.Err(); err != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		rec.Kind, rec.Attempt, rec.OK, rec.Error, rec.Took = KindStart, n, false, "", 0
		if err := r.j.add(rec); err != nil && !rec.Undo {
			return err
		}
		start := time.Now()
		err := guard(f)
		rec.Kind, rec.OK, rec.Took = KindStep, err == nil, time.Since(start)
		if err != nil {
			rec.Error = err.Error()
		}
		jerr := r.j.add(rec)
		if err == nil {
			if rec.Undo {
				return nil
			}
			return jerr
		}
		if n >= retry.Attempts || final(err) {
			return err
		}
		if retry.MaxWait > 0 {
			wait = min(wait, retry.MaxWait)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return errors.Join(err, ctx.Err(), context.Cause(ctx))
		}
		wait *= 2
	}
}

func (r *runner) stepContext(ctx context.Context, t Target,
	s Step) (context.Context, context.CancelFunc) {
	timeout := s.Timeout
	if timeout == 0 {
		timeout = r.o.StepTimeout
	}
	m := memo{r: r, target: t.Name, step: s.Name}
	if outer := memoOf(ctx); outer != nil {
		m.verifying = outer.verifying
	}
	ctx = context.WithValue(ctx, memoKey{}, &m)
	return context.WithTimeoutCause(ctx, timeout, ErrDeadline)
}

// guard turns a panic of a step into an error, so that other targets still reach a safe state.
func guard(f func() error) error {
	_, err := guard2(func() (bool, error) { return true, f() })
	return err
}

func guard2(f func() (bool, error)) (ok bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			ok, err = false, fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}
