package apidef

import "errors"

// Errors that callers match with errors.Is.
var (
	ErrDefinition = errors.New("cannot use the API definition")
	ErrChanged    = errors.New("the store holds another document than the one that was read")
	ErrNotFound   = errors.New("unknown API")
	ErrAuth       = errors.New("the store refuses the key")
	ErrReadOnly   = errors.New("the store refuses writes")
	ErrOutage     = errors.New("running gateways would lose the plugin")
	ErrJournal    = errors.New("the journal belongs to another change")
	ErrPartial    = errors.New("some APIs are changed and some are not")
	ErrLocked     = errors.New("another process holds the lock")
)

// Error is the error type of this package. Its text is "Op Object: Kind: cause; Next", without keys
// and secrets.
type Error struct {
	Op     string // what was attempted: "list APIs", "replace API"
	Object string // the API's ID, a file or an address without secrets
	Kind   error  // a sentinel of this package; nil if a request, a read or a write failed
	Err    error  // the cause; nil if Kind is the whole cause
	Next   string // what to do; may be empty
	Retry  bool   // the same call may succeed later
}

// Error returns the text for people: what failed, the cause and the next step.
func (e *Error) Error() string {
	s := e.Op
	if e.Object != "" {
		s += " " + e.Object
	}
	if e.Kind != nil {
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

// Unwrap returns Kind and Err for errors.Is and errors.As.
func (e *Error) Unwrap() []error {
	var all []error
	for _, err := range []error{e.Kind, e.Err} {
		if err != nil {
			all = append(all, err)
		}
	}
	return all
}

// Hint returns the next step, or an empty string.
func (e *Error) Hint() string { return e.Next }

// Retryable reports whether the same call may succeed later.
func (e *Error) Retryable() bool { return e.Retry }
