package preflight

import (
	"errors"
	"slices"
	"syscall"
)

// Errors that callers match with errors.Is.
var (
	// ErrNotELF: the file is not an ELF file.
	ErrNotELF = errors.New("not an ELF file")
	// ErrUnsupported: the ELF file is 32-bit, big-endian, an object file or a core dump.
	ErrUnsupported = errors.New("unsupported kind of ELF file")
	// ErrMalformed: the file is truncated, damaged or forged.
	ErrMalformed = errors.New("malformed file")
	// ErrNoMember: the archive does not have the requested file.
	ErrNoMember = errors.New("no such file in the archive")
	// ErrCompression: the standard library cannot read the package's compression.
	ErrCompression = errors.New("unsupported compression")
	// ErrTarget: the [Target] has an unknown value, or a plugin or the gateway is missing.
	ErrTarget = errors.New("invalid target")
)

// kinds are all sentinels.
var kinds = []error{ErrNotELF, ErrUnsupported, ErrMalformed, ErrNoMember, ErrCompression, ErrTarget}

// Error reports that a file cannot be read or compared.
type Error struct {
	Op     string // "inspect", "read bundle"
	Object string // the file, as the caller named it
	Kind   error  // one of the sentinels, or nil
	Err    error  // the cause
	Next   string // what to do; may be empty
	Retry  bool   // the same call may succeed later: the disk under TMPDIR is full
}

// Error returns "op object: cause; what to do".
func (e *Error) Error() string {
	s := e.Op + " " + e.Object + ": " + e.Err.Error()
	if e.Next != "" {
		s += "; " + e.Next
	}
	return s
}

// Unwrap returns Kind, if set, and Err.
func (e *Error) Unwrap() []error {
	if e.Kind == nil {
		return []error{e.Err}
	}
	return []error{e.Kind, e.Err}
}

// Hint returns Next.
func (e *Error) Hint() string { return e.Next }

// Retryable reports whether the same call may succeed later.
func (e *Error) Retryable() bool { return e.Retry }

func fail(op, object string, err error) *Error {
	// An inner Error, as of a spooled member, is complete.
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
		return "pass the output of dpkg-deb --fsys-tarfile as a tar"
	case errors.Is(err, syscall.ENOSPC):
		return "free space there or set TMPDIR to another disk, then try again"
	}
	return ""
}
