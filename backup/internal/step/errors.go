// Package step has what package backup and its backends share: the error of a failed step, the end
// of contexts, reading and counting.
//
// It contains no rule of an outside system.
package step

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// Errors that callers match with errors.Is. Package backup exports them.
var (
	ErrLocked      = errors.New("another run holds the lock")
	ErrNoSpace     = errors.New("not enough free space")
	ErrNotASet     = errors.New("not a complete backup set")
	ErrDamaged     = errors.New("the set is damaged")
	ErrChanged     = errors.New("changed while it was read")
	ErrNotEmpty    = errors.New("the target is not empty")
	ErrTooNew      = errors.New("newer than the target can load")
	ErrDiffers     = errors.New("the target differs from the set")
	ErrNotAllowed  = errors.New("the server does not allow it")
	ErrUnsafe      = errors.New("refused as unsafe")
	ErrUnknownKind = errors.New("no imported package knows this kind of component")
)

// Error is documented in package backup, which exports it.
type Error struct {
	Op     string // the action, such as "back up", "verify" or "restore"
	Object string // a component, a file or a server's address; never a password
	Kind   error  // a sentinel that callers match with errors.Is, or nil
	Err    error  // the cause, or nil
	Next   string // what to do; may be empty
	Retry  bool   // the same call can succeed later
}

// Error returns "op object: cause; what to do".
func (e *Error) Error() string {
	s := e.Op + " " + e.Object
	if e.Kind != nil && !errors.Is(e.Err, e.Kind) {
		s += ": " + e.Kind.Error()
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Next != "" {
		s += "; " + e.Next
	}
	return s
}

// Unwrap returns Kind and Err.
func (e *Error) Unwrap() []error {
	var out []error
	for _, err := range []error{e.Kind, e.Err} {
		if err != nil {
			out = append(out, err)
		}
	}
	return out
}

// Hint returns what to do, from e or from its cause. It may be empty.
func (e *Error) Hint() string {
	var h interface{ Hint() string }
	if e.Next == "" && errors.As(e.Err, &h) {
		return h.Hint()
	}
	return e.Next
}

// Retryable reports whether the same call can succeed later.
func (e *Error) Retryable() bool { return e.Retry || Retryable(e.Err) }

// Fail adds op and object to err, unless an error in its chain already has both. It also adds the
// sentinel and the hint for a full disk.
func Fail(op, object string, err error) error {
	var e *Error
	if errors.As(err, &e) && e.Op == op && e.Object == object {
		return err
	}
	out := &Error{Op: op, Object: object, Err: err, Retry: Retryable(err)}
	full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
	if full && !errors.Is(err, ErrNoSpace) {
		out.Kind, out.Retry, out.Next = ErrNoSpace, true, FreeSpaceHint
	}
	return out
}

// FreeSpaceHint is the hint for a full disk.
const FreeSpaceHint = "free some space, remove old sets with Prune, or choose another directory"

// Retryable reports whether an error in the chain is retryable.
func Retryable(err error) bool {
	var r interface{ Retryable() bool }
	return errors.As(err, &r) && r.Retryable()
}

// Damaged marks a finding with [ErrDamaged]. It leaves alone the end of a context and errors of the
// reading system.
func Damaged(err error) error {
	var errno syscall.Errno
	if errors.Is(err, ErrDamaged) || errors.Is(err, context.Canceled) ||
		errors.Is(err, context.DeadlineExceeded) || errors.As(err, &errno) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}
