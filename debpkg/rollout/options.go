package rollout

import (
	"errors"
	"fmt"
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
	// exists while a run goes on. Empty: no journal and no lock, and a crash cannot be
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
