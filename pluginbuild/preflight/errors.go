package preflight

import (
	"errors"
	"slices"
	"syscall"
)

// Errors that callers match with errors.Is.
var (
	// ErrNotELF is matched by files that are no ELF files at all.
	ErrNotELF = errors.New("not an ELF file")
	// ErrUnsupported is matched by ELF files that no Go plugin or gateway this
	// package can judge is: 32-bit, big-endian, object files, core dumps.
	ErrUnsupported = errors.New("unsupported kind of ELF file")
	// ErrMalformed is matched by truncated, damaged or forged files.
	ErrMalformed = errors.New("malformed file")
	// ErrNoMember is matched when an archive does not hold the requested file.
	ErrNoMember = errors.New("no such file in the archive")
	// ErrCompression is matched by packages whose members are compressed in a
	// way that the standard library cannot read.
	ErrCompression = errors.New("unsupported compression")
	// ErrTarget is matched when a [Target] names something unknown.
	ErrTarget = errors.New("invalid target")
)

// kinds are all sentinels.
var kinds = []error{ErrNotELF, ErrUnsupported, ErrMalformed, ErrNoMember, ErrCompression, ErrTarget}

// Error is a file that could not be read or judged.
type Error struct {
	Op     string // "inspect", "read bundle"
	Object string // the file, as the caller named it
	Kind   error  // one of the sentinels; nil for others, as of the file system
	Err    error  // the cause
	Next   string // what to do; may be empty
	Retry  bool   // the same call may succeed later: the disk under TMPDIR is full
}

func (e *Error) Error() string {
	s := e.Op + " " + e.Object + ": " + e.Err.Error()
	if e.Next != "" {
		s += "; " + e.Next
	}
	return s
}

// Unwrap returns the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Kind == nil {
		return []error{e.Err}
	}
	return []error{e.Kind, e.Err}
}

// Hint is the next step, or empty.
func (e *Error) Hint() string { return e.Next }

// Retryable reports whether the same call may succeed later.
func (e *Error) Retryable() bool { return e.Retry }

func fail(op, object string, err error) *Error {
	// An inner Error, as of a spooled member, already says it all.
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	e := &Error{Op: op, Object: object, Err: err, Next: hintFor(err), Retry: errors.Is(err,
		syscall.ENOSPC)}
	if i := slices.IndexFunc(kinds, func(k error) bool { return errors.Is(err, k) }); i >= 0 {
		e.Kind = kinds[i]
	}
	return e
}

func hintFor(err error) string {
	switch {
	case errors.Is(err, ErrNotELF):
		return "name the .so file of the plugin or the gateway's own binary, not a script or an archive"
	case errors.Is(err, ErrMalformed):
		return "copy or build the file again and compare its size and checksum with the original"
	case errors.Is(err, ErrCompression):
		return "pass what dpkg-deb --fsys-tarfile prints, as a tar"
	case errors.Is(err, syscall.ENOSPC):
		return "free some space there or point TMPDIR elsewhere, then try again"
	}
	return ""
}
