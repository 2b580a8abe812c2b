package backup

import "example.com/tykupgrade/backup/internal/step"

// Errors that callers match with errors.Is.
var (
	ErrLocked      = step.ErrLocked
	ErrNoSpace     = step.ErrNoSpace
	ErrNotASet     = step.ErrNotASet
	ErrDamaged     = step.ErrDamaged
	ErrChanged     = step.ErrChanged
	ErrNotEmpty    = step.ErrNotEmpty
	ErrTooNew      = step.ErrTooNew
	ErrDiffers     = step.ErrDiffers
	ErrNotAllowed  = step.ErrNotAllowed
	ErrUnsafe      = step.ErrUnsafe // another user could have made or could change what is used
	ErrUnknownKind = step.ErrUnknownKind
)

// Error is a failed step. Its text is "op object: cause; what to do". Unwrap returns Kind and Err,
// Hint returns what to do, and Retryable reports whether the same call can succeed later. Object
// never contains a password.
type Error = step.Error
