package rollout

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync"
)

// Run takes every target through its steps, wave by wave. It returns the report whether or not it
// fails. An error is an *[Error].
//
// The context of each step ends with ctx. Run then undoes the targets that are under way, with a
// context of its own, and leaves the done ones. Steps of different targets may run concurrently,
// steps of one target never do.
func Run(ctx context.Context, waves []Wave, o Options) (*Report, error) {
	return begin(ctx, waves, o, ModeRun)
}

// Resume continues the run in o.Journal after a crash, a stop or a failure. The waves must be the
// same as at its beginning.
//
// Resume trusts a target that the journal calls done only if the Done and the Check of each
// of its steps confirm it. Otherwise it repeats the steps, as it does for a target that was
// under way or undone. In each wave, targets that were under way come first, because they may
// be out of service. After a crash during an undo, Resume goes forward again.
func Resume(ctx context.Context, waves []Wave, o Options) (*Report, error) {
	return begin(ctx, waves, o, ModeResume)
}

// Undo undoes the run in o.Journal. It starts with the last wave, and in each wave with the targets
// that were under way. It leaves targets alone that the run did not change.
func Undo(ctx context.Context, waves []Wave, o Options) (*Report, error) {
	return begin(ctx, waves, o, ModeUndo)
}

// runner is one call of Run, Resume or Undo.
type runner struct {
	o      Options
	mode   Mode
	waves  []Wave
	j      *journal
	budget int
	who    Owner
	aside  string // the new name of the journal of the finished run before

	mu       sync.Mutex
	failures map[string]string
	working  map[string]int // targets that are worked on
	halted   error          // why no further target begins
}

// fail wraps the error of a call that began nothing.
func (r *runner) fail(kind, err error, next string) error {
	object := "rollout"
	if r.o.Journal != "" {
		object = "rollout with journal " + r.o.Journal
	}
	return &Error{Op: string(r.mode), Object: object, Kind: kind, Err: err, Next: next}
}

func begin(ctx context.Context, waves []Wave, o Options, mode Mode) (_ *Report, err error) {
	r := &runner{o: o, mode: mode, waves: waves, failures: map[string]string{},
		working: map[string]int{}, who: self(o.Actor)}
	if err := errors.Join(validate(waves), o.validate()); err != nil {
		return nil, r.fail(ErrInvalid, err, "")
	}
	if err := ctx.Err(); err != nil {
		return nil, r.fail(nil, err, "")
	}
	targets := 0
	for _, w := range waves {
		targets += len(w.Targets)
	}
	r.budget = o.Budget.Of(targets)
	if r.o.StepTimeout == 0 {
		r.o.StepTimeout = DefaultStepTimeout
	}
	if r.o.UndoTimeout == 0 {
		r.o.UndoTimeout = DefaultUndoTimeout
	}
	r.j = newJournal(o)
	if o.Journal == "" && mode != ModeRun {
		return nil, r.fail(ErrNoRun, nil, "set Options.Journal")
	}
	var from *Owner
	if o.Journal != "" {
		var unlock func() error
		if unlock, from, err = lock(o.Journal+".lock", r.who, o.Shared); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, unlock()) }()
		if err := r.load(ctx); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, r.j.close()) }()
	} else if err := r.ask(ctx); err != nil {
		return nil, err
	}
	if err := r.header(from); err != nil {
		return r.j.rep, err
	}
	outcome := r.all(ctx)
	_ = r.hook(ctx, HookEvent{Point: AfterRun, Outcome: outcome, Error: r.j.rep.Halt})
	jerr := r.j.add(Record{Kind: KindDone, Outcome: outcome})
	return r.j.rep, r.result(ctx, outcome, jerr)
}

func (r *runner) all(ctx context.Context) Outcome {
	if err := r.hook(ctx, HookEvent{Point: BeforeRun}); err != nil {
		r.halt(err)
		return OutcomeStopped
	}
	if r.mode == ModeAccept {
		return r.acceptAll(ctx)
	}
	defer r.probe(ctx)()
	if r.mode == ModeUndo {
		return r.undoAll(ctx, r.mode)
	}
	return r.forward(ctx)
}

// result turns the outcome into the error of the call.
func (r *runner) result(ctx context.Context, outcome Outcome, jerr error) error {
	if outcome == OutcomeDone || outcome == OutcomeAccepted || r.mode == ModeUndo &&
		outcome == OutcomeUndone {
		return jerr
	}
	e := &Error{
		Op: string(r.mode), Object: "rollout", Outcome: outcome, Halt: r.j.rep.Halt,
		Targets: r.failures, Err: jerr, Retry: outcome != OutcomeUndone,
		Next: outcome.next(),
	}
	if len(r.failures) > 0 {
		e.Kind = ErrFailed
	}
	switch {
	case ctx.Err() != nil:
		e.Err = errors.Join(ctx.Err(), context.Cause(ctx), jerr)
	case errors.Is(r.halted, ErrStopped), errors.Is(r.halted, ErrVetoed), errors.Is(r.halted,
		ErrProbes):
		e.Err = errors.Join(cause(r.halted), jerr)
	case r.j.broken() != nil:
		e.Err = r.j.broken()
	}
	return e
}

// cause is the sentinel: the halt has the details already.
func cause(err error) error {
	for _, s := range []error{ErrStopped, ErrVetoed, ErrProbes} {
		if errors.Is(err, s) {
			return s
		}
	}
	return err
}

// load opens the journal and checks that the mode fits what is in it.
func (r *runner) load(ctx context.Context) (err error) {
	if r.mode != ModeRun {
		// Opening would create it.
		if has, err := exists(r.o.Journal); err != nil {
			return r.fail(nil, err, nextForPermission(err))
		} else if !has {
			return r.fail(ErrNoRun, nil, "check the path of the journal, or call Run")
		}
	}
	if err := r.j.open(r.o.Shared); err != nil {
		return err
	}
	defer func() {
		if err != nil && r.j.f != nil {
			err = errors.Join(err, r.j.f.Close())
			if r.j.seq == 0 { // it was created, and nothing was begun
				err = errors.Join(err, os.Remove(r.o.Journal))
			}
		}
	}()
	rep := r.j.rep
	switch {
	case r.mode == ModeRun && rep.Outcome.Finished():
		if err := r.ask(ctx); err != nil {
			return err
		}
		to, err := r.j.aside()
		if err != nil {
			return r.fail(nil, err, "rename the journal of the finished run")
		}
		r.aside = to
		return r.j.open(r.o.Shared)
	case r.mode == ModeRun && r.j.seq > 0:
		return r.fail(ErrUnfinished, nil, "call Resume or Undo, or name another journal")
	case r.mode != ModeRun && r.j.seq == 0:
		return r.fail(ErrNoRun, nil, "call Run")
	case rep.accepting && r.mode != ModeAccept:
		return r.fail(ErrAccepted, nil, "call Run to begin a new one")
	case rep.Plan != planDigest(r.waves, r.o.About) && r.j.seq > 0:
		next := "restore them to continue that run, or name another journal for a new one"
		if rep.Outcome.Finished() {
			next = "that run is finished: call Run to begin a new one"
		}
		return r.fail(ErrPlanChanged, nil, next)
	case r.mode == ModeAccept && !rep.accepting && rep.Outcome != OutcomeDone &&
		rep.Outcome != OutcomePartial:
		return r.fail(ErrUnfinished, nil, "call Resume or Undo first")
	}
	return r.ask(ctx)
}

func (r *runner) header(from *Owner) error {
	err := r.j.add(Record{Kind: KindRun, Mode: r.mode, Who: &r.who, Plan: planDigest(r.waves,
		r.o.About)})
	if err != nil {
		return err
	}
	if from != nil {
		why := fmt.Sprintf("took over the lock of %s, which no longer runs", from)
		if err := r.j.add(Record{Kind: KindTakeover, Error: why}); err != nil {
			return err
		}
	}
	if r.aside != "" {
		if err := r.j.add(Record{Kind: KindInfo, Text: "the journal of the finished run before is " +
			r.aside}); err != nil {
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
		_, _ = fmt.Fprintf(h, "about %q\n", about)
	}
	for _, w := range waves {
		_, _ = fmt.Fprintf(h, "wave %q\n", w.Name)
		for _, t := range w.Targets {
			_, _ = fmt.Fprintf(h, "target %q\n", t.Name)
			for _, s := range t.Steps {
				_, _ = fmt.Fprintf(h, "step %q\n", s.Name)
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}
