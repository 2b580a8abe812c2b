package bundle

import (
	"errors"
	"fmt"
	"strings"
)

// What a caller may want to tell apart with errors.Is.
var (
	ErrStructure = errors.New("not a well-formed bundle")
	ErrLimit     = errors.New("larger than the limits allow")
	ErrChecksum  = errors.New("checksum does not match the files")
	ErrSignature = errors.New("signature does not match the files and the key")
	ErrUnsigned  = errors.New("bundle is not signed")
	ErrKey       = errors.New("key cannot be used")
	ErrNotFound  = errors.New("the gateway finds no file to load")
	ErrNoUpgrade = errors.New("no single bundle serves both gateway versions")
)

// Error says what was being done, to what, and why it failed.
type Error struct {
	Op     string // "write bundle", "verify bundle" …
	Object string // the file, entry or manifest field; may be empty
	Err    error

	hint  string
	retry bool
}

func (e *Error) Error() string {
	s := e.Op
	if e.Object != "" {
		s += " " + e.Object
	}
	s += ": " + e.Err.Error()
	if e.hint != "" {
		s += "; " + e.hint
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Retryable says whether the same call may succeed later: true where reading
// or writing failed, false where the content is bad.
func (e *Error) Retryable() bool { return e.retry }

// Hint is the next step; empty where there is none to suggest.
func (e *Error) Hint() string { return e.hint }

// ManifestError holds the findings for which a manifest was refused.
type ManifestError struct {
	Findings []Finding // those of severity Refused, at least one
}

func (e *ManifestError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "write bundle: manifest refused: ")
	for i, f := range e.Findings {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "%s: %s; %s", f.Path, f.Problem, f.Remedy)
	}
	return b.String()
}

// Retryable is false: the manifest or the files must change first.
func (e *ManifestError) Retryable() bool { return false }

// Hint is the remedy of the first finding.
func (e *ManifestError) Hint() string {
	if len(e.Findings) == 0 {
		return ""
	}
	return e.Findings[0].Remedy
}
