package installation

import (
	"errors"
	"fmt"
	"strings"
)

// Errors that callers match with errors.Is.
var (
	// ErrFile: the file is invalid. No other system was contacted.
	ErrFile = errors.New("the file is wrong")
	// ErrRefused: a check failed. Error.Check is its name if Options.Without can skip it.
	ErrRefused = errors.New("refused")
	// ErrSecret: a secret of the file cannot be read.
	ErrSecret = errors.New("the secret cannot be read")
	// ErrNotAccepted: the run in the journal is done, but neither accepted nor reverted.
	ErrNotAccepted = errors.New("the run is done and not accepted")
	// ErrUnfinished: the run in the journal is not finished.
	ErrUnfinished = errors.New("the run is not finished")
	// ErrNoRun: the journal holds no run.
	ErrNoRun = errors.New("the journal holds no run")
	// ErrReverted: the run was reverted and cannot be resumed, because its backup may be old.
	ErrReverted = errors.New("the run was reverted")
)

// Error is an error of this package. Errors of the packages that it joins keep their own types.
type Error struct {
	Op     string // the action, such as "read" or "check plugin"
	Object string // such as a file, a key or a bundle
	Kind   error  // one of the sentinels above, or nil
	Err    error  // the cause, or nil
	Next   string // what to do
	Retry  bool   // the same call can succeed later

	Check Check // ErrRefused: the check that failed; empty: it cannot be skipped
}

func (e *Error) Error() string {
	text := strings.TrimSpace(e.Op + " " + e.Object)
	switch {
	case e.Err != nil:
		text += ": " + e.Err.Error()
	case e.Kind != nil:
		text += ": " + e.Kind.Error()
	}
	text = strings.TrimPrefix(text, ": ")
	if hint := e.Hint(); hint != "" {
		text += "; " + hint
	}
	return text
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
func (e *Error) Hint() string {
	if e.Check == "" {
		return e.Next
	}
	skip := fmt.Sprintf("or skip the check %s, which the journal records", e.Check)
	if e.Next == "" {
		return skip
	}
	return e.Next + ", " + skip
}

// Retryable reports whether the same call can succeed later.
func (e *Error) Retryable() bool { return e.Retry }

// Check is a check that can be skipped.
type Check string

// The checks.
const (
	CheckBackup    Check = "backup"    // there is a verified backup
	CheckDatabase  Check = "database"  // the backup has every database that a component uses
	CheckPreflight Check = "preflight" // the plugin loads in the new gateway
	// every plugin that an active API uses is in the file, with signatures that gateways accept
	CheckAPIs     Check = "apis"
	CheckPublish  Check = "publish"  // the bundle server has the bundle
	CheckBalancer Check = "balancer" // a load balancer takes hosts out of traffic
	CheckFindings Check = "findings" // versions, licences and configuration fit together
	CheckBaseline Check = "baseline" // every host is healthy before the upgrade
	CheckGates    Check = "gates"    // the gates hold before the upgrade
)

// Checks returns all checks.
func Checks() []Check {
	return []Check{CheckBackup, CheckDatabase, CheckPreflight, CheckAPIs, CheckPublish, CheckBalancer,
		CheckFindings, CheckBaseline, CheckGates}
}

// refuse returns the error of a failed check and remembers it for [Upgrade.Refused].
func (u *Upgrade) refuse(check Check, err error) error {
	var own *Error
	if errors.As(err, &own) && own.Kind == ErrRefused {
		u.remember(own.Check)
		return err
	}
	u.remember(check)
	return &Error{Kind: ErrRefused, Check: check, Err: err}
}

func (u *Upgrade) remember(check Check) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.refused[check] = true
}

// Refused returns the checks that have failed since [New], in the order of [Checks].
func (u *Upgrade) Refused() []Check {
	u.mu.Lock()
	defer u.mu.Unlock()
	var all []Check
	for _, c := range Checks() {
		if u.refused[c] {
			all = append(all, c)
		}
	}
	return all
}

// overridden returns the journal's text about a skipped check.
func overridden(check Check, why error) string {
	var own *Error
	if errors.As(why, &own) && own.Kind == ErrRefused {
		why = own.Err
	}
	return fmt.Sprintf("without the check %s: %v", check, why)
}
