package rollout

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Errors that callers match with errors.Is.
var (
	// ErrStopped: Control.Stop was called. Resume continues the run.
	ErrStopped = errors.New("stopped between targets")
	// ErrFailed: at least one target failed. Error.Targets names them.
	ErrFailed = errors.New("targets failed")
	// ErrUnfinished: the journal holds a run that is not finished. Resume or Undo it.
	ErrUnfinished = errors.New("the journal holds an unfinished run")
	// ErrNoRun: there is no run to resume or undo.
	ErrNoRun = errors.New("the journal holds no run")
	// ErrPlanChanged: waves, targets, steps or versions differ from those of the journal.
	ErrPlanChanged = errors.New("waves, targets, steps or versions differ from those in the journal")
	// ErrJournal: the journal was changed or damaged. Error.Line is the first bad line.
	ErrJournal = errors.New("the journal is damaged")
	// ErrLocked: another run holds the lock. Error.Owner names its owner, if known.
	ErrLocked = errors.New("another run holds the lock")
	// ErrDeadline is the cause in the context of a step whose timeout has passed.
	ErrDeadline = errors.New("the step's timeout has passed")
	// ErrLastServer: a drain would have left too few servers.
	ErrLastServer = errors.New("too few servers would stay up")
	// ErrTimeout: the load balancer did not report the wanted state in time. Error.Last is
	// its last report.
	ErrTimeout = errors.New("timed out")
	// ErrAccepted: the run was accepted, so it can no longer be undone or resumed.
	ErrAccepted = errors.New("the run was accepted")
	// ErrVetoed: a hook failed at one of the Before points. Resume continues the run.
	ErrVetoed = errors.New("vetoed by a hook")
	// ErrProbes: more probes failed than Prober.Allowed. Resume continues the run.
	ErrProbes = errors.New("too many probes failed")
	// ErrRefused: the Ask of a step failed. Nothing was started.
	ErrRefused = errors.New("a target cannot be worked on")
	// ErrInvalid: waves or options are invalid. Nothing was started.
	ErrInvalid = errors.New("invalid")
)

// Error is an error of this package with its details. The fields after Retry are set only for the
// sentinels that their comments name.
type Error struct {
	Op     string // the action, such as "run" or "drain"
	Object string // the journal or the server
	Kind   error  // one of the sentinels above, or nil
	Err    error  // the cause, or nil
	Next   string // what to do; it names calls of this package
	Retry  bool   // the same call can succeed later

	Outcome Outcome           // of a run that did not finish every target
	Halt    string            // why no further target was started
	Targets map[string]string // ErrFailed: the failure of each target
	Owner   *Owner            // ErrLocked: nil if unknown
	Line    int               // ErrJournal
	Last    *State            // ErrTimeout: nil if no report arrived
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(strings.TrimSpace(e.Op + " " + e.Object))
	if e.Kind != nil && (e.Err == nil || !errors.Is(e.Err, e.Kind)) && e.Outcome == "" {
		b.WriteString(": " + e.Kind.Error())
	}
	if e.Outcome != "" {
		b.WriteString(": " + e.Outcome.words())
		if e.Halt != "" {
			b.WriteString(": " + e.Halt)
		}
		b.WriteString(e.failed())
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if e.Next != "" {
		b.WriteString("; " + e.Next)
	}
	return b.String()
}

// failed lists at most three targets. The report has all of them.
func (e *Error) failed() string {
	if len(e.Targets) == 0 {
		return ""
	}
	const most = 3
	var names []string
	for name := range e.Targets {
		names = append(names, name)
	}
	slices.Sort(names)
	var parts []string
	for _, name := range names[:min(most, len(names))] {
		parts = append(parts, name+": "+e.Targets[name])
	}
	text := fmt.Sprintf("; failed: %d (%s", len(names), strings.Join(parts, "; "))
	if len(names) > most {
		text += "; …"
	}
	return text + ")"
}

// Unwrap returns Kind and Err, for errors.Is and errors.As.
func (e *Error) Unwrap() []error {
	var all []error
	for _, err := range []error{e.Kind, e.Err} {
		if err != nil {
			all = append(all, err)
		}
	}
	return all
}

// Hint returns what to do next. It may be empty.
func (e *Error) Hint() string { return e.Next }

// Retryable reports whether the same call can succeed later.
func (e *Error) Retryable() bool { return e.Retry }

// final reports whether err says that another attempt is useless.
func final(err error) bool {
	var re interface{ Retryable() bool }
	return errors.As(err, &re) && !re.Retryable()
}
