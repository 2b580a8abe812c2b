package rollout

import (
	"context"
	"errors"
	"fmt"
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
	ModeAccept Mode = "accept"
)

// BudgetAction says what happens when more targets fail than the budget allows.
type BudgetAction int

const (
	// Hold begins no further target, lets those that have begun end, and leaves the
	// others as they are.
	Hold BudgetAction = iota
	// Rollback also undoes everything that the run changed, last first.
	Rollback
)

// Defaults of Options.
const (
	DefaultStepTimeout = 15 * time.Minute
	DefaultUndoTimeout = 15 * time.Minute
)

// Options of a run. The zero value runs without a journal, one target at a time, and
// holds at the first failure.
type Options struct {
	// Journal is the file that records the run. A file with ".lock" added to its name
	// exists while a run is under way. Empty: no journal and no lock, and a crash cannot be
	// resumed.
	Journal string

	// Shared lets the members of the journal's group read it and continue the run: its mode is
	// 0660 instead of 0600. Their Shared must be set too.
	Shared bool

	// Actor is who runs it, for the journal, such as the person behind a CI job. Empty: the
	// user who called sudo, if there is one.
	Actor string

	// Budget is how many targets of the whole run may fail, as a count or as a percentage
	// of all targets. A target that failed is undone, and the run continues while the
	// budget lasts.
	Budget           CountOrPercent
	OnBudgetExceeded BudgetAction

	// StepTimeout is for one attempt of a step that has no Timeout of its own. 0:
	// DefaultStepTimeout.
	StepTimeout time.Duration
	// UndoTimeout is for one attempt to undo a step, unless the step's own Timeout is
	// longer. It runs even when ctx has ended. 0: DefaultUndoTimeout.
	UndoTimeout time.Duration

	Control  *Control     // nil: the run cannot be paused or stopped between targets
	Progress func(Record) // called with each record, one at a time; nil: not called
	Hooks    []Hook
	Prober   *Prober // nil: nothing shows what the run does to requests

	// Secrets are replaced by "[redacted]" in records and in what steps save.
	Secrets []string

	// About is what the run is for, such as the versions. Resume and Undo must be given
	// the same text, as they must be given the same waves.
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

// Stop ends the run, or an undo, before the next target; a canary's soak ends at
// once, and begins again from scratch on resume. The run can be resumed later.
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
