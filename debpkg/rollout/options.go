package rollout

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Mode is what a call does with the run in the journal.
type Mode string

// The modes of a run.
const (
	ModeRun    Mode = "run"
	ModeResume Mode = "resume"
	ModeUndo   Mode = "undo"
	ModeAccept Mode = "accept"
)

// BudgetAction is what a run does when more targets fail than the budget allows.
type BudgetAction int

const (
	// Hold starts no further target. Targets that have begun finish, and the others stay as
	// they are.
	Hold BudgetAction = iota
	// Rollback also undoes every change of the run, the last one first.
	Rollback
)

// Defaults of Options.
const (
	DefaultStepTimeout = 15 * time.Minute
	DefaultUndoTimeout = 15 * time.Minute
)

// Options of a run. The zero value runs without a journal, one target at a time, and stops at the
// first failure.
type Options struct {
	// Journal is the file that records the run. A file with ".lock" added to its name exists
	// while a run is under way. Empty: there is no journal and no lock, and the run cannot be
	// resumed after a crash.
	Journal string

	// Shared lets the members of the journal's group read it and continue the run: its mode is
	// 0660 instead of 0600. Their Shared must be set too.
	Shared bool

	// Actor is the person behind the run, such as the one who started a CI job. The journal
	// records it. Empty: the user who called sudo, if there is one.
	Actor string

	// Budget is how many targets of the whole run may fail, as a count or as a percentage of
	// all targets. The run undoes a target that failed, and continues while the budget lasts.
	Budget           CountOrPercent
	OnBudgetExceeded BudgetAction

	// StepTimeout limits one attempt of a step without a Timeout of its own. 0:
	// [DefaultStepTimeout].
	StepTimeout time.Duration
	// UndoTimeout limits one attempt to undo a step, unless the step's own Timeout is longer.
	// It applies after ctx has ended too. 0: [DefaultUndoTimeout].
	UndoTimeout time.Duration

	Control  *Control     // nil: the run cannot be paused or stopped between targets
	Progress func(Record) // called with each record, one at a time; nil: not called
	Hooks    []Hook
	Prober   *Prober // nil: no probes are sent

	// Secrets are replaced by "[redacted]" in records and in what steps save.
	Secrets []string

	// About describes the run, such as its versions. Resume and Undo need the same text, as
	// they need the same waves.
	About string
}

func (o Options) validate() error {
	if o.StepTimeout < 0 || o.UndoTimeout < 0 {
		return fmt.Errorf("invalid step timeout %v or undo timeout %v: want 0 or more",
			o.StepTimeout, o.UndoTimeout)
	}
	if o.OnBudgetExceeded != Hold && o.OnBudgetExceeded != Rollback {
		return fmt.Errorf("unknown OnBudgetExceeded %d: want Hold or Rollback", o.OnBudgetExceeded)
	}
	return errors.Join(o.Budget.validate("failure budget"), o.Prober.validate(), o.validateHooks())
}

// Control pauses, continues and stops a run between targets. Targets that have
// begun finish. The zero value is ready to use. Any goroutine may call its
// methods, before and during a run.
type Control struct {
	mu      sync.Mutex
	paused  chan struct{} // closed when the pause ends; nil: not paused
	stopped bool
	onStop  func() // nil: nothing to end at once
}

// Pause keeps further targets from beginning until Continue or Stop.
func (c *Control) Pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.paused == nil && !c.stopped {
		c.paused = make(chan struct{})
	}
}

func (c *Control) isPaused() bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.paused != nil
}

// Continue ends a pause.
func (c *Control) Continue() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.release()
}

// Stop ends a run or an undo before the next target. It ends the soak of a canary at once, and
// Resume repeats that soak from scratch.
func (c *Control) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	c.release()
	if c.onStop != nil {
		c.onStop()
	}
}

// during returns a context that also ends, with ErrStopped as its cause, when
// the run is stopped.
func (c *Control) during(ctx context.Context) (context.Context, context.CancelFunc) {
	if c == nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onStop = func() { cancel(ErrStopped) }
	if c.stopped {
		c.onStop()
	}
	return ctx, func() {
		c.mu.Lock()
		c.onStop = nil
		c.mu.Unlock()
		cancel(nil)
	}
}

func (c *Control) release() {
	if c.paused != nil {
		close(c.paused)
		c.paused = nil
	}
}

// wait returns once a target may begin, or why none may.
func (c *Control) wait(ctx context.Context, onPause func(bool)) error {
	if c == nil {
		return ctx.Err()
	}
	for said := false; ; {
		c.mu.Lock()
		paused, stopped := c.paused, c.stopped
		c.mu.Unlock()
		switch {
		case stopped:
			return ErrStopped
		case ctx.Err() != nil:
			return ctx.Err()
		case paused == nil:
			if said {
				onPause(false)
			}
			return nil
		}
		if !said {
			onPause(true)
			said = true
		}
		select {
		case <-paused:
		case <-ctx.Done():
		}
	}
}
