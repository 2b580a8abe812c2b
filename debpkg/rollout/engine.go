package rollout

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// Mode says what a call does with the journal.
type Mode string

// The modes of a run.
const (
	ModeRun    Mode = "run"
	ModeResume Mode = "resume"
	ModeUndo   Mode = "undo"
)

// Decisions for the caller. They are matched with errors.Is.
var (
	// ErrStopped: Control.Stop was called; Resume goes on.
	ErrStopped = errors.New("stopped between targets as asked")
	// ErrUnfinished: the journal holds a run; Resume or Undo it.
	ErrUnfinished = errors.New("the journal holds a run already")
	// ErrNoRun: there is nothing to resume or undo.
	ErrNoRun = errors.New("the journal holds no run")
	// ErrPlanChanged: the waves are not those that the journal was begun with.
	ErrPlanChanged = errors.New("the waves, targets, steps or versions differ from those that the journal was begun with")
	// ErrDeadline is the cause in the context of a step whose time has passed.
	ErrDeadline = errors.New("the step's deadline has passed")
)

// Beyond says what happens when there are more failures than the budget allows.
type Beyond int

const (
	// Hold begins no further target, lets those that have begun end, and
	// leaves what is done as it is.
	Hold Beyond = iota
	// UndoRun also undoes all that the run changed, last first.
	UndoRun
)

// Defaults of Options.
const (
	DefaultStepTimeout = 15 * time.Minute
	DefaultUndoTimeout = 15 * time.Minute
)

// Options of a run. The zero value runs without a journal, one target at a
// time, and holds at the first failure.
type Options struct {
	// Journal is the file that the run is recorded in; beside it stands a file
	// with ".lock" added to the name while a run goes on. Empty: neither is
	// kept, and a crash cannot be resumed.
	Journal string

	// Budget is how many targets of the whole run may fail, as a count or as
	// a percentage of all targets. A target that failed is undone; while the
	// budget lasts the run goes on.
	Budget Share
	Beyond Beyond

	StepTimeout time.Duration // of an attempt of a step that names none; 0: DefaultStepTimeout
	UndoTimeout time.Duration // of an attempt to undo a step, unless its own Timeout is longer; it runs even when ctx has ended; 0: DefaultUndoTimeout

	Control *Control     // nil: the run cannot be paused or stopped between targets
	Event   func(Record) // called with each record, one at a time; nil: not called
	Secrets []string     // replaced by "[redacted]" in records, and in the text of what steps save

	// About is what the run is for, such as the versions: one that resumes or
	// undoes it must say the same, as it must have the same waves.
	About string
}

func (o Options) validate() error {
	if o.StepTimeout < 0 || o.UndoTimeout < 0 {
		return fmt.Errorf("step timeout %v and undo timeout %v must not be negative", o.StepTimeout, o.UndoTimeout)
	}
	if o.Beyond != Hold && o.Beyond != UndoRun {
		return fmt.Errorf("unknown choice %d of what to do beyond the budget", o.Beyond)
	}
	return o.Budget.validate("failure budget")
}

// Error is a run that did not bring every target to its end.
type Error struct {
	Outcome Outcome
	Halt    string
	Targets map[string]string // what failed, by target
	Err     error             // the context's error, ErrStopped, or a failing journal
}

func (e *Error) Error() string {
	text := fmt.Sprintf("roll out: %s", e.Outcome)
	if e.Halt != "" {
		text += ": " + e.Halt
	}
	if n := len(e.Targets); n > 0 {
		text += fmt.Sprintf("; failed: %d", n)
		for name, why := range e.Targets {
			if n == 1 {
				text += fmt.Sprintf(" (%s: %s)", name, why)
			}
		}
	}
	return text + "; " + e.Hint()
}

// Unwrap returns what ended the run early, if it was not a failing target.
func (e *Error) Unwrap() error { return e.Err }

// Hint says what to do next.
func (e *Error) Hint() string {
	switch e.Outcome {
	case OutcomeFailed:
		return "look at the targets that are marked failed: they may be out of service"
	case OutcomeUndone:
		return "nothing is changed; mend the cause and begin a new run"
	default:
		return "mend the cause, then resume or undo the run"
	}
}

// Retryable is true when Resume can bring the run further.
func (e *Error) Retryable() bool { return e.Outcome != OutcomeUndone }

// Run brings every target through its steps, wave by wave. The report is
// returned with and without an error; the error is an *[Error] unless nothing
// was begun at all.
//
// When ctx ends, running steps see it, targets that are under way are undone
// with a context of their own, and those that are done stay. Step functions of
// different targets may run side by side; those of one target never do.
func Run(ctx context.Context, waves []Wave, o Options) (*Report, error) {
	return begin(ctx, waves, o, ModeRun)
}

// Resume goes on with the run in o.Journal after a crash, a stop or a failure.
// A target that the journal calls done is trusted only when the Done and the
// Check of each of its steps that has them say so; otherwise its steps are gone
// through again, as are those of a target that was under way or undone. Of a
// wave, those that were under way come first: they may be out of service. After
// a crash during an undo, Resume goes forward again and Undo goes on undoing.
// The waves must be the ones that the run was begun with.
func Resume(ctx context.Context, waves []Wave, o Options) (*Report, error) {
	return begin(ctx, waves, o, ModeResume)
}

// Undo undoes what the run in o.Journal did, the last wave first, and of a wave
// those that were under way. Targets that it did not change are left alone.
func Undo(ctx context.Context, waves []Wave, o Options) (*Report, error) {
	return begin(ctx, waves, o, ModeUndo)
}

// runner is one call of Run, Resume or Undo.
type runner struct {
	o      Options
	waves  []Wave
	j      *journal
	budget int

	mu       sync.Mutex
	failures map[string]string
	halted   error // why no further target begins
}

func begin(ctx context.Context, waves []Wave, o Options, mode Mode) (_ *Report, err error) {
	if err := errors.Join(validate(waves), o.validate()); err != nil {
		return nil, fmt.Errorf("%s rollout: %w", mode, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s rollout: %w", mode, err)
	}
	targets := 0
	for _, w := range waves {
		targets += len(w.Targets)
	}
	r := &runner{o: o, waves: waves, budget: o.Budget.Of(targets), failures: map[string]string{}}
	if r.o.StepTimeout == 0 {
		r.o.StepTimeout = DefaultStepTimeout
	}
	if r.o.UndoTimeout == 0 {
		r.o.UndoTimeout = DefaultUndoTimeout
	}
	r.j = &journal{path: o.Journal, secrets: o.Secrets, event: o.Event, now: time.Now, rep: &Report{}}
	if o.Journal == "" && mode != ModeRun {
		return nil, fmt.Errorf("%s rollout: %w: no journal named", mode, ErrNoRun)
	}
	var from *Owner
	if o.Journal != "" {
		var unlock func() error
		if unlock, from, err = lock(o.Journal + ".lock"); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, unlock()) }()
		if err := r.load(mode); err != nil {
			return nil, fmt.Errorf("%s rollout with journal %s: %w", mode, o.Journal, err)
		}
		defer func() { err = errors.Join(err, r.j.f.Close()) }()
	}
	if err := r.header(mode, from); err != nil {
		return r.j.rep, err
	}
	var outcome Outcome
	if mode == ModeUndo {
		outcome = r.undoAll(ctx, mode)
	} else {
		outcome = r.forward(ctx)
	}
	jerr := r.j.add(Record{Kind: KindDone, Outcome: outcome})
	if outcome == OutcomeDone || mode == ModeUndo && outcome == OutcomeUndone {
		return r.j.rep, jerr
	}
	e := &Error{Outcome: outcome, Halt: r.j.rep.Halt, Targets: r.failures, Err: jerr}
	switch {
	case ctx.Err() != nil:
		e.Err = errors.Join(ctx.Err(), context.Cause(ctx), jerr)
	case errors.Is(r.halted, ErrStopped):
		e.Err = errors.Join(ErrStopped, jerr)
	case r.j.broken() != nil:
		e.Err = r.j.broken()
	}
	return r.j.rep, e
}

// load opens the journal and checks that the mode fits what is in it.
func (r *runner) load(mode Mode) error {
	if mode != ModeRun {
		// Opening would create it.
		if has, err := exists(r.o.Journal); err != nil {
			return err
		} else if !has {
			return ErrNoRun
		}
	}
	f, recs, err := openJournal(r.o.Journal)
	if err != nil {
		return err
	}
	switch {
	case mode == ModeRun && len(recs) > 0:
		err = fmt.Errorf("%w: resume it, undo it, or name a new journal", ErrUnfinished)
	case mode != ModeRun && len(recs) == 0:
		err = ErrNoRun
	case len(recs) > 0 && recs[0].Plan != planDigest(r.waves, r.o.About):
		err = fmt.Errorf("%w: bring them back to go on with that run, or name a new journal for a new one", ErrPlanChanged)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r.j.f, r.j.seq, r.j.rep = f, int64(len(recs)), BuildReport(recs)
	return nil
}

func (r *runner) header(mode Mode, from *Owner) error {
	who := self()
	if err := r.j.add(Record{Kind: KindRun, Mode: mode, Who: &who, Plan: planDigest(r.waves, r.o.About)}); err != nil {
		return err
	}
	if from != nil {
		why := fmt.Sprintf("took over the lock of %s, which no longer runs", from)
		if err := r.j.add(Record{Kind: KindTakeover, Error: why}); err != nil {
			return err
		}
	}
	// A crash may have come before the plan was whole, so it is written again.
	for _, w := range r.waves {
		for i := 0; i < len(w.Targets); i += 1000 {
			var names []string
			for _, t := range w.Targets[i:min(i+1000, len(w.Targets))] {
				if r.j.rep.target(t.Name) == nil {
					names = append(names, t.Name)
				}
			}
			if len(names) == 0 {
				continue
			}
			if err := r.j.add(Record{Kind: KindPlan, Wave: w.Name, Names: names}); err != nil {
				return err
			}
		}
	}
	return nil
}

// planDigest covers the names and their order: functions cannot be compared.
func planDigest(waves []Wave, about string) string {
	h := sha256.New()
	if about != "" {
		fmt.Fprintf(h, "about %q\n", about)
	}
	for _, w := range waves {
		fmt.Fprintf(h, "wave %q\n", w.Name)
		for _, t := range w.Targets {
			fmt.Fprintf(h, "target %q\n", t.Name)
			for _, s := range t.Steps {
				fmt.Fprintf(h, "step %q\n", s.Name)
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// forward runs or resumes the waves and says how it ended.
func (r *runner) forward(ctx context.Context) Outcome {
	for _, w := range r.waves {
		if r.wave(ctx, w); r.stopping() != nil {
			break
		}
	}
	switch halted := r.stopping(); {
	case r.j.rep.Count(StatusFailed) > 0:
		return OutcomeFailed
	case errors.Is(halted, errBeyond) && r.o.Beyond == UndoRun:
		return r.undoAll(ctx, ModeRun)
	case errors.Is(halted, errBeyond):
		return OutcomeHeld
	case halted != nil:
		return OutcomeStopped
	case len(r.failures) > 0:
		return OutcomePartial
	}
	return OutcomeDone
}

// errBeyond marks a halt because of failing targets.
var errBeyond = errors.New("beyond the failure budget")

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
	canary := min(w.Canary.Count, len(w.Targets))
	left, rest := r.leftUnderWay(w.Targets[canary:])
	if len(left) > 0 {
		r.targets(ctx, w, left, false)
		if r.stopping() != nil {
			return
		}
	}
	if canary > 0 {
		left, others := r.leftUnderWay(w.Targets[:canary])
		r.targets(ctx, w, append(left, others...), true)
		if r.stopping() != nil {
			return
		}
		if !r.proved(w, canary) && !r.soak(ctx, w, canary) {
			return
		}
	}
	r.targets(ctx, w, rest, false)
}

// leftUnderWay parts the targets that an earlier process left under way, which
// may be out of service, from the others: they come first, or more than the
// allowed number would be out.
func (r *runner) leftUnderWay(targets []Target) (left, others []Target) {
	for _, t := range targets {
		if s := r.status(t.Name); s == StatusRunning || s == StatusFailed {
			left = append(left, t)
		} else {
			others = append(others, t)
		}
	}
	return left, others
}

// proved says whether the canary has soaked, and has not been worked on since.
func (r *runner) proved(w Wave, canary int) bool {
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

// targets works on a sliding window of the targets and returns once all that
// were begun have ended.
func (r *runner) targets(ctx context.Context, w Wave, targets []Target, canary bool) {
	window := make(chan struct{}, max(1, w.Parallel.Of(len(w.Targets))))
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
			case !errors.Is(err, errBeyond):
				r.failed(t.Name, err, canary)
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

// soak leaves the canary running and watched; what fails is undone.
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

// failed counts a target that failed and was undone, or could not be.
func (r *runner) failed(name string, why error, canary bool) {
	r.mu.Lock()
	r.failures[name] = r.j.redact(why.Error())
	n := len(r.failures)
	r.mu.Unlock()
	switch {
	case r.stuck(name):
		r.halt(fmt.Errorf("%s could not be undone (%w)", name, errBeyond))
	case canary:
		r.halt(fmt.Errorf("canary %s failed (%w)", name, errBeyond))
	case n > r.budget:
		r.halt(fmt.Errorf("failed targets: %d, allowed: %d (%w)", n, r.budget, errBeyond))
	}
}

func (r *runner) stuck(name string) bool {
	return r.status(name) == StatusFailed
}

// one brings a target through its steps, and back if one fails.
func (r *runner) one(ctx context.Context, w Wave, t Target) error {
	if r.status(t.Name) == StatusDone && r.trusted(ctx, t) {
		return nil
	}
	if err := r.j.add(Record{Kind: KindTarget, Wave: w.Name, Target: t.Name}); err != nil {
		r.halt(err)
		return nil // not begun
	}
	for _, s := range t.Steps {
		err := r.step(ctx, t, s)
		if err == nil && r.o.Beyond == UndoRun && errors.Is(r.stopping(), errBeyond) {
			err = errBeyond // all will be undone, so going on is in vain
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

// attempts calls f until it succeeds, its retries are used up, or an error
// says that trying again is in vain. rec names the step in the records.
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
		var re interface{ Retryable() bool }
		if n >= retry.Attempts || (errors.As(err, &re) && !re.Retryable()) {
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

func (r *runner) stepContext(ctx context.Context, t Target, s Step) (context.Context, context.CancelFunc) {
	timeout := s.Timeout
	if timeout == 0 {
		timeout = r.o.StepTimeout
	}
	ctx = context.WithValue(ctx, memoKey{}, &memo{r: r, target: t.Name, step: s.Name})
	return context.WithTimeoutCause(ctx, timeout, ErrDeadline)
}

// guard turns a panic of a step into its failure, so that other targets are
// still brought to a safe state.
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

type memoKey struct{}

type memo struct {
	r            *runner
	target, step string
}

// Save keeps v, as JSON, with the step that ctx belongs to: the record of what
// was there before a change, for instance, saved before the change is made. It
// is durable when Save returns, and the step's Done, Check and Undo find it
// with [Saved], also in a later process. A later Save replaces it. Options.Secrets
// are redacted in it, and one of more than a MiB is refused: the report keeps
// what every target saved last.
func Save(ctx context.Context, v any) error {
	m, ok := ctx.Value(memoKey{}).(*memo)
	if !ok {
		return errors.New("save for step: the context is not one that a step was called with")
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("save for step %s of %s: %w", m.step, m.target, err)
	}
	if len(data) > maxNote {
		return fmt.Errorf("save for step %s of %s: %d bytes are over the limit of %d; save where it is kept instead", m.step, m.target, len(data), maxNote)
	}
	return m.r.j.add(Record{Kind: KindNote, Target: m.target, Step: m.step, Note: data})
}

// Saved decodes into v what the step saved last, and says whether there was
// anything.
func Saved(ctx context.Context, v any) (bool, error) {
	m, ok := ctx.Value(memoKey{}).(*memo)
	if !ok {
		return false, errors.New("read what a step saved: the context is not one that a step was called with")
	}
	m.r.j.mu.Lock()
	_, note := m.r.j.rep.target(m.target).changed(m.step)
	m.r.j.mu.Unlock()
	if note == nil {
		return false, nil
	}
	if err := json.Unmarshal(note, v); err != nil {
		return false, fmt.Errorf("read what step %s of %s saved: %w", m.step, m.target, err)
	}
	return true, nil
}
