package bundle

import (
	"errors"
	"fmt"
	"strings"
)

// Errors that callers match with errors.Is.
var (
	ErrStructure = errors.New("not a well-formed bundle")
	ErrLimit     = errors.New("larger than the limits allow")
	ErrChecksum  = errors.New("checksum does not match the files")
	ErrSignature = errors.New("signature does not match the files and the key")
	ErrUnsigned  = errors.New("bundle is not signed")
	ErrKey       = errors.New("key cannot be used")
	ErrManifest  = errors.New("manifest refused")
	ErrExpected  = errors.New("not the expected bundle")
	ErrNotFound  = errors.New("the gateway finds no file to load")
	ErrNoUpgrade = errors.New("no single bundle serves both gateway versions")
	ErrOutage    = errors.New("running gateways would lose the plugin")
	ErrServer    = errors.New("the bundle server does not serve this bundle")
	ErrPublished = errors.New("another run has published under this name and is not accepted")
	ErrLocked    = errors.New("another process holds the lock")
	ErrChanged   = errors.New("somebody else changed the published file")
	ErrAccepted  = errors.New("the publication is accepted and the old bundle is removed")
)

// Error is the error type of this package. Its text is "Op Object: cause; Next". It holds no
// secrets.
type Error struct {
	Op     string // what was attempted: "write bundle", "verify bundle"
	Object string // the file, entry or manifest field; may be empty
	Kind   error  // a sentinel of this package; nil if a read or a write failed
	Err    error  // the cause; nil if Kind is the whole cause
	Next   string // what to do; may be empty
	Retry  bool   // the same call may succeed later

	Findings []Finding // of ErrManifest: those of severity Refused, at least one
}

// Error returns the text for people: what failed, the cause and the next step.
func (e *Error) Error() string {
	s := e.Op
	if e.Object != "" {
		s += " " + e.Object
	}
	switch {
	case len(e.Findings) > 0:
		var lines []string
		for _, f := range e.Findings {
			lines = append(lines, fmt.Sprintf("%s: %s; %s", f.Path, f.Problem, f.Remedy))
		}
		return s + ": " + e.Kind.Error() + ": " + strings.Join(lines, "\n")
	case e.Err == nil && e.Kind != nil:
		s += ": " + e.Kind.Error()
	case e.Err != nil && e.Kind != nil && !errors.Is(e.Err, e.Kind):
		s += ": " + e.Kind.Error() + ": " + e.Err.Error()
	case e.Err != nil:
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

// Retryable reports whether the same call may succeed later. It is true if a read, a write or a
// request failed, and false if the content is bad.
func (e *Error) Retryable() bool { return e.Retry }

// Hint returns the next step, or an empty string.
func (e *Error) Hint() string {
	if e.Next == "" && len(e.Findings) > 0 {
		return e.Findings[0].Remedy
	}
	return e.Next
}
