package fleet

import (
	"errors"
	"strings"
)

// Errors that callers match with errors.Is.
var (
	// ErrInventory: the inventory is invalid. No host was contacted.
	ErrInventory = errors.New("the inventory is wrong")
	// ErrNotInstalled: the host does not have the package.
	ErrNotInstalled = errors.New("the package is not installed")
	// ErrUnhealthy: a host, a gate or a canary failed its checks.
	ErrUnhealthy = errors.New("unhealthy")
	// ErrCache: the cached bundle of a gateway cannot be replaced.
	ErrCache = errors.New("the cached bundle cannot be replaced")
	// ErrVetoed: a hook vetoed the run.
	ErrVetoed = errors.New("a hook refused")
)

// Error is an error of this package. Errors of debpkg, health and rollout keep their own types.
type Error struct {
	Op     string // the action, such as "read" or "replace bundle"
	Object string // a file or a host
	Kind   error  // one of the sentinels above, or nil
	Err    error  // the cause, or nil
	Next   string // what to do
	Retry  bool   // the same call can succeed later
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(strings.TrimSpace(e.Op + " " + e.Object))
	switch {
	case e.Err != nil:
		b.WriteString(": " + e.Err.Error())
	case e.Kind != nil:
		b.WriteString(": " + e.Kind.Error())
	}
	if e.Next != "" {
		b.WriteString("; " + e.Next)
	}
	return b.String()
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
