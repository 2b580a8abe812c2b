package health

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// WaitError reports why a [Wait] failed.
type WaitError struct {
	Probes int // number of probes
	// [ErrDeadline], the context's error with its cause, or the failure that ended the wait.
	Err error
	// One error for each probe without enough passes, in the order of the arguments: its last
	// failure, or how many passes it has.
	Last []error
}

func (e *WaitError) Error() string {
	s := fmt.Sprintf("wait for %d health probes: %v", e.Probes, e.Err)
	for i, err := range e.Last {
		if errors.Is(e.Err, err) {
			continue
		}
		if i == 3 {
			return s + fmt.Sprintf("; and %d more", len(e.Last)-i)
		}
		s += "; " + err.Error()
	}
	return s
}

// Unwrap returns Err, then Last.
func (e *WaitError) Unwrap() []error { return append([]error{e.Err}, e.Last...) }

// Hint returns the next step of the first probe's error.
func (e *WaitError) Hint() string {
	var own *Error
	if errors.As(e, &own) {
		return own.Hint()
	}
	return ""
}

// Retryable reports whether a longer wait can succeed.
func (e *WaitError) Retryable() bool {
	var own *Error
	return !errors.As(e.Err, &own) || own.Retryable()
}

// Once tries each probe one time. A failed probe is in the report; it is not an error. An error
// means that ctx ended first, or that a probe or the policy is invalid. An invalid argument is
// found before the first try.
func Once(ctx context.Context, p Policy, probes ...Probe) (Report, error) {
	w, err := newWaiter(p, probes)
	if err != nil {
		return Report{}, err
	}
	w.once = true
	return w.run(ctx)
}

// Wait repeats the probes until all have, at the same time, as many passes in a row as p
// demands. It ends early if a probe fails FailureThreshold times in a row, or permanently, such
// as by a certificate for another name. It then cancels the other tries with that error as
// their cause. The error is a [*WaitError], unless an argument is invalid. The report always
// has the last result of each probe.
//
// The count starts again after a result that is not a pass or after a changed Instance of a
// [Check]. It also does if a gateway's own check is older than the last counted one, as after a
// restart. Several goroutines may call Wait. It leaves no goroutine behind.
func Wait(ctx context.Context, p Policy, probes ...Probe) (Report, error) {
	w, err := newWaiter(p, probes)
	if err != nil {
		return Report{}, err
	}
	return w.run(ctx)
}

// waiter belongs to one goroutine. Its workers only try probes.
type waiter struct {
	p      Policy
	probes []*tracked
	once   bool
	start  time.Time
	queue  queue // probes without a running try
	done   int   // probes with all passes that they need
	tried  int   // probes with at least one try
}

func newWaiter(p Policy, probes []Probe) (*waiter, error) {
	p, err := p.withDefaults()
	if err != nil {
		return nil, err
	}
	if len(probes) == 0 {
		return nil, errors.New("check health: no probes given")
	}
	w := &waiter{p: p}
	names := map[string]bool{}
	for _, probe := range probes {
		if err := probe.validate(); err != nil {
			return nil, err
		}
		name := probe.name()
		if names[name] {
			return nil, newError(name, "", fmt.Errorf("%w: duplicate probe name", ErrInvalid),
				"probe it once, or set Name", false)
		}
		names[name] = true
		if probe.Timeout == 0 {
			probe.Timeout = p.TryTimeout
		}
		w.probes = append(w.probes, &tracked{probe: probe, index: len(w.probes)})
	}
	w.queue = slices.Clone(w.probes) // all due at once: a heap already
	return w, nil
}

type outcome struct {
	index  int
	result Result
}

func (w *waiter) run(parent context.Context) (Report, error) {
	w.start = time.Now().UTC()
	deadline, cancelDeadline := context.WithTimeoutCause(parent, w.p.Deadline, ErrDeadline)
	defer cancelDeadline()
	ctx, cancel := context.WithCancelCause(deadline)
	defer cancel(nil)

	workers := min(w.p.Concurrency, len(w.probes))
	jobs, outcomes := make(chan int), make(chan outcome)
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for i := range jobs {
				outcomes <- outcome{i, w.probes[i].probe.Check(ctx, w.p.Client)}
			}
		})
	}
	defer running.Wait()
	defer close(jobs)

	var reason error
	idle, ended := workers, false
	timer := time.NewTimer(0)
	defer timer.Stop()
	for !ended || idle < workers {
		var hand chan int
		due := -1
		timer.Stop()
		if !ended && idle > 0 && len(w.queue) > 0 {
			due = w.queue[0].index
			if wait := time.Until(w.queue[0].next); wait <= 0 {
				hand = jobs
			} else {
				timer.Reset(wait)
			}
		}
		stop := ctx.Done()
		if ended {
			stop = nil
		}
		select {
		case hand <- due:
			heap.Pop(&w.queue)
			idle--
		case o := <-outcomes:
			idle++
			switch {
			case ended && reason == nil: // all had passed
			case ended || ctx.Err() != nil:
				w.keep(o)
			default:
				if err := w.take(o); err != nil || w.once && w.tried == len(w.probes) || !w.once &&
					w.done == len(w.probes) {
					ended, reason = true, err
					cancel(err)
				}
			}
		case <-stop:
			ended = true
			reason = ErrDeadline
			if parent.Err() != nil {
				reason = stoppedBy(parent)
			}
		case <-timer.C:
		}
	}
	report := w.report()
	if reason == nil || w.once && errors.Is(reason, ErrDeadline) {
		return report, nil
	}
	e := &WaitError{Probes: len(w.probes), Err: reason}
	for _, t := range w.probes {
		if !t.done {
			e.Last = append(e.Last, t.lack(w.p))
		}
	}
	// All probes may pass and still not have enough passes.
	report.Status, report.Error = worst(report.Status, Unknown), printable(e.Error())
	w.p.Log.Error("health wait failed", "err", e)
	return report, e
}

// keep stores the outcome of a try that finished after the end of the wait. It keeps an earlier
// result if the try was only interrupted.
func (w *waiter) keep(o outcome) {
	t := w.probes[o.index]
	var stop *stopped
	if t.tries == 0 || !errors.As(o.result.Err, &stop) {
		t.tries++
		t.note(o.result)
	}
}

// take counts an outcome. An error ends the wait.
func (w *waiter) take(o outcome) error {
	t, r := w.probes[o.index], o.result
	if t.tries++; t.tries == 1 {
		w.tried++
	}
	r = t.seen(r)
	t.note(r)
	counted := t.count(w.p, r)
	now := time.Now()
	started := now.Sub(w.start) >= w.p.Startup
	if r.Status == Fail && started {
		t.failures++
	} else if r.Status != Fail {
		t.failures = 0
	}
	done := t.passes >= w.p.SuccessThreshold && now.Sub(t.first) >= w.p.For
	if done != t.done {
		t.done = done
		if done {
			w.done++
		} else {
			w.done--
		}
	}
	pause := w.pause(t.misses)
	t.next = now.Add(pause)
	if !w.once {
		heap.Push(&w.queue, t)
	}
	if w.p.Event != nil {
		w.p.Event(Event{Index: o.index, Result: r, Try: t.tries, Counted: counted, Passes: t.passes,
			Failures: t.failures,
			Needed:   w.p.SuccessThreshold, Next: pause, Done: w.done, Of: len(w.probes)})
	}
	w.p.Log.Debug("health probe", "probe", r.Probe, "status", r.Status, "try", t.tries, "passes",
		t.passes, "err", r.Error)
	if w.once {
		return nil
	}
	var own *Error
	if started && errors.As(r.Err, &own) && !own.Retryable() {
		return r.Err
	}
	if w.p.FailureThreshold > 0 && t.failures >= w.p.FailureThreshold {
		return fmt.Errorf("%d failures in a row: %w", t.failures, r.Err)
	}
	return nil
}

func (w *waiter) pause(misses int) time.Duration {
	limit := w.p.Interval
	for range misses {
		if limit *= 2; limit >= w.p.MaxInterval {
			limit = w.p.MaxInterval
			break
		}
	}
	return rand.N(limit) + 1
}
