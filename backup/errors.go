package backup

import (
	"context"
	"errors"
	"fmt"
)

// Decisions that are the caller's.
var (
	ErrLocked     = errors.New("another run holds the lock")
	ErrNoSpace    = errors.New("not enough free space")
	ErrNotASet    = errors.New("not a complete backup set")
	ErrDamaged    = errors.New("the set is damaged")
	ErrChanged    = errors.New("changed while it was read")
	ErrNotEmpty   = errors.New("the target is not empty")
	ErrTooNew     = errors.New("newer than the target can load")
	ErrDiffers    = errors.New("the target differs from the set")
	ErrNotAllowed = errors.New("the server does not allow it")
)

// Error is a failed step: what was being done, to what, and why. Object never
// holds a password.
type Error struct {
	Op     string // "back up", "verify", "restore", …
	Object string // a component, a file, a server's address
	Err    error
	Next   string // the next step; may be empty
	Retry  bool   // the same call may succeed later
}

func (e *Error) Error() string {
	s := e.Op + " " + e.Object + ": " + e.Err.Error()
	if e.Next != "" {
		s += "; " + e.Next
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Hint is the next step, of e or of what caused it; it may be empty.
func (e *Error) Hint() string {
	var h interface{ Hint() string }
	if e.Next == "" && errors.As(e.Err, &h) {
		return h.Hint()
	}
	return e.Next
}

// Retryable says whether the same call may succeed later.
func (e *Error) Retryable() bool { return e.Retry }

// fail wraps err once with what was being done. An error that already names
// op and object passes through, so that layers need not know of each other.
func fail(op, object string, err error) error {
	var e *Error
	if errors.As(err, &e) && e.Op == op && e.Object == object {
		return err
	}
	return &Error{Op: op, Object: object, Err: err, Retry: retryable(err)}
}

// retryable asks the cause, so that wrapping loses nothing.
func retryable(err error) bool {
	var r interface{ Retryable() bool }
	return errors.As(err, &r) && r.Retryable()
}

// ended is nil until ctx ends; then it matches both ctx.Err() and the cause.
func ended(ctx context.Context) error {
	err := ctx.Err()
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && cause != err {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

// withEnd makes sure that an error that the end of ctx caused says so: some
// clients report neither the context's error nor its cause.
func withEnd(ctx context.Context, err error) error {
	e := ended(ctx)
	if err == nil || e == nil || (errors.Is(err, ctx.Err()) && errors.Is(err, context.Cause(ctx))) {
		return err
	}
	return fmt.Errorf("%w: %w", err, e)
}
