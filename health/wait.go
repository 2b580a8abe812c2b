package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// Policy says how probes are repeated. The zero value waits for two passes of
// each probe, at most two minutes.
type Policy struct {
	// Passes is how many passes in a row each probe must show, 0: two. Of a
	// gateway only passes count that rest on a newer own check, which it makes
	// every ten seconds: the second proves that the checks go on.
	Passes int
	// For is how long the passes in a row must at least span, from the first
	// to the last.
	For time.Duration
	// AcceptWarn makes a warning count as a pass.
	AcceptWarn bool
	// Failures is how many failures in a row end the wait, 0: none does, the
	// deadline decides. What is unknown is neither pass nor failure.
	Failures int
	// Startup is the time from the beginning in which failures do not count.
	Startup time.Duration
	// Deadline is the limit of the whole wait, 0: two minutes.
	Deadline time.Duration
	// Interval is the time between two tries of a probe, 0: one second. It
	// doubles with each try in a row that does not pass, up to MaxInterval, 0:
	// ten seconds; and the pause taken is a random part of it (full jitter).
	Interval, MaxInterval time.Duration
	// TryTimeout is the limit of one try of a probe without a Timeout of its
	// own, 0: DefaultTimeout.
	TryTimeout time.Duration
	// Concurrency is how many tries run at a time, 0: 256.
	Concurrency int

	Client *http.Client // nil: one of NewClient
	Event  func(Event)  // called after each try, one at a time; nil: nobody listens
	Log    *slog.Logger // nil: silent
}

// Event tells of one try within a [Wait].
type Event struct {
	Index    int // of the probe, in the order given
	Result   Result
	Try      int           // of this probe, from 1
	Counted  bool          // whether the try added to Passes
	Passes   int           // in a row, with this try
	Failures int           // in a row, with this try
	Needed   int           // passes in a row
	Next     time.Duration // until the next try
	Done     int           // probes that have all passes they need
	Of       int           // probes
}

func (p Policy) withDefaults() (Policy, error) {
	if p.Passes < 0 || p.Failures < 0 || p.Concurrency < 0 || p.For < 0 || p.Startup < 0 || p.Deadline < 0 ||
		p.Interval < 0 || p.MaxInterval < 0 || p.TryTimeout < 0 {
		return p, errors.New("health policy: a number or duration is negative")
	}
	orDuration := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	orDuration(&p.Deadline, 2*time.Minute)
	orDuration(&p.Interval, time.Second)
	orDuration(&p.MaxInterval, max(10*time.Second, p.Interval))
	orDuration(&p.TryTimeout, DefaultTimeout)
	if p.Passes == 0 {
		p.Passes = 2
	}
	if p.Concurrency == 0 {
		p.Concurrency = 256
	}
	switch {
	case p.MaxInterval < p.Interval:
		return p, fmt.Errorf("health policy: MaxInterval %v is shorter than Interval %v", p.MaxInterval, p.Interval)
	case p.For >= p.Deadline:
		return p, fmt.Errorf("health policy: passes that span %v do not fit into a deadline of %v", p.For, p.Deadline)
	}
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	return p, nil
}

// WaitError is a [Wait] that did not end well. It wraps why: [ErrDeadline], the
// context's error and its cause, or the failure that ended it; and what each
// probe said last.
type WaitError struct {
	Probes int // how many there are
	Err    error
	Last   []error // of the probes that had not passed, in their order
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

// Unwrap lets errors.Is and errors.As find the reason, then what the probes
// said last.
func (e *WaitError) Unwrap() []error { return append([]error{e.Err}, e.Last...) }

// Hint is the next step that the first probe's error names.
func (e *WaitError) Hint() string {
	var own *Error
	if errors.As(e, &own) {
		return own.Hint()
	}
	return ""
}

// Retryable says whether waiting longer can help.
func (e *WaitError) Retryable() bool {
	var own *Error
	return !errors.As(e.Err, &own) || own.Retryable()
}

// Once tries each probe one time and reports. What the probes found is in the
// report alone; an error means that a probe or the policy is invalid, and
// nothing was asked, or that ctx ended first.
func Once(ctx context.Context, p Policy, probes ...Probe) (Report, error) {
	w, err := newWaiter(p, probes)
	if err != nil {
		return Report{}, err
	}
	w.once = true
	return w.run(ctx)
}

// Wait repeats the probes until all of them have, at the same time, the passes
// in a row that p asks for. It ends early when one fails too often or in a way
// that no repetition mends (a certificate for another name): the context of
// the other tries is then cancelled with that error as its cause. The report
// holds the last result of each probe also when the error is not nil.
//
// A pass is undone by a later result that is not one, by a changed Instance of
// a [Check], and by a gateway whose own check is older than the last one
// counted, as happens after a restart: counting begins anew.
func Wait(ctx context.Context, p Policy, probes ...Probe) (Report, error) {
	w, err := newWaiter(p, probes)
	if err != nil {
		return Report{}, err
	}
	return w.run(ctx)
}

// waiter is run by one goroutine; workers only try.
type waiter struct {
	p      Policy
	probes []*tracked
	once   bool
	start  time.Time
	done   int
}

// tracked is a probe with what its tries added up to.
type tracked struct {
	probe    Probe
	last     Result
	lastErr  string
	tries    int
	passes   int
	failures int
	misses   int       // tries in a row that did not pass, for the interval
	first    time.Time // end of the first pass in a row
	evidence time.Time // of the last pass counted
	instance string
	done     bool
	next     time.Time
	running  bool
}

func newWaiter(p Policy, probes []Probe) (*waiter, error) {
	p, err := p.withDefaults()
	if err != nil {
		return nil, err
	}
	if len(probes) == 0 {
		return nil, errors.New("health: no probes given")
	}
	w := &waiter{p: p}
	names := map[string]bool{}
	for _, probe := range probes {
		if err := probe.validate(); err != nil {
			return nil, err
		}
		name := probe.name()
		if names[name] {
			return nil, &Error{Probe: name, Err: errors.New("two probes have this name"), hint: "ask it once, or give each a name", permanent: true}
		}
		names[name] = true
		if probe.Timeout == 0 {
			probe.Timeout = p.TryTimeout
		}
		w.probes = append(w.probes, &tracked{probe: probe})
	}
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
		due, wait := w.due()
		var hand chan int
		if !ended && idle > 0 && due >= 0 && wait <= 0 {
			hand = jobs
		}
		if !ended && hand == nil && due >= 0 && idle > 0 {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
		stop := ctx.Done()
		if ended {
			stop = nil
		}
		select {
		case hand <- due:
			w.probes[due].running = true
			idle--
		case o := <-outcomes:
			idle++
			switch {
			case ended && reason == nil: // all had passed
			case ended || ctx.Err() != nil:
				w.keep(o)
			default:
				if err := w.take(o); err != nil || w.finished() {
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
		if !t.done && t.last.Err != nil {
			e.Last = append(e.Last, t.last.Err)
		}
	}
	// Probes that pass are not enough where the wait asked for more.
	report.Status, report.Error = worst(report.Status, Unknown), printable(e.Error())
	w.p.Log.Error("health wait failed", "err", e)
	return report, e
}

// due is the probe that is to be tried next and the time until then; -1 when
// all are being tried or, with once, have been.
func (w *waiter) due() (int, time.Duration) {
	best := -1
	for i, t := range w.probes {
		if t.running || w.once && t.tries > 0 {
			continue
		}
		if best < 0 || t.next.Before(w.probes[best].next) {
			best = i
		}
		if t.next.IsZero() {
			break
		}
	}
	if best < 0 {
		return -1, 0
	}
	return best, time.Until(w.probes[best].next)
}

func (w *waiter) finished() bool {
	if !w.once {
		return w.done == len(w.probes)
	}
	for _, t := range w.probes {
		if t.tries == 0 {
			return false
		}
	}
	return true
}

// keep takes the outcome of a try that the end of the wait met: what it found,
// not that it was stopped.
func (w *waiter) keep(o outcome) {
	t := w.probes[o.index]
	var stop *stopped
	if t.tries == 0 || !errors.As(o.result.Err, &stop) {
		t.tries++
		t.note(o.result)
	}
}

func (t *tracked) note(r Result) {
	t.last = r
	if r.Err != nil {
		t.lastErr = r.Error
	}
}

// take counts an outcome. An error ends the wait.
func (w *waiter) take(o outcome) error {
	t, r := w.probes[o.index], o.result
	t.running = false
	t.tries++
	t.note(r)
	counted := t.count(w.p, r)
	now := time.Now()
	if r.Status == Fail && now.Sub(w.start) >= w.p.Startup {
		t.failures++
	} else if r.Status != Fail {
		t.failures = 0
	}
	done := t.passes >= w.p.Passes && now.Sub(t.first) >= w.p.For
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
	if w.p.Event != nil {
		w.p.Event(Event{Index: o.index, Result: r, Try: t.tries, Counted: counted, Passes: t.passes, Failures: t.failures,
			Needed: w.p.Passes, Next: pause, Done: w.done, Of: len(w.probes)})
	}
	w.p.Log.Debug("health probe", "probe", r.Probe, "status", r.Status, "try", t.tries, "passes", t.passes, "err", r.Error)
	if w.once {
		return nil
	}
	var own *Error
	if errors.As(r.Err, &own) && !own.Retryable() {
		return r.Err
	}
	if w.p.Failures > 0 && t.failures >= w.p.Failures {
		return fmt.Errorf("%d failures in a row: %w", t.failures, r.Err)
	}
	return nil
}

// count adds r to the passes in a row, and says whether it did.
func (t *tracked) count(p Policy, r Result) bool {
	if r.Status != Pass && !(p.AcceptWarn && r.Status == Warn) {
		t.passes = 0
		t.misses++
		return false
	}
	t.misses = 0
	switch {
	case t.passes == 0, r.instance != t.instance, r.Evidence.Before(t.evidence):
		t.passes, t.first = 0, time.Now()
	case r.Kind == KindGateway && r.Evidence.Equal(t.evidence):
		// The same own check again: it says nothing new.
		return false
	}
	t.passes++
	t.evidence, t.instance = r.Evidence, r.instance
	return true
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
