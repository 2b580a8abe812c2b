package preflight

import (
	"errors"
	"syscall"
)

// What a caller may want to tell apart; reach them with errors.Is.
var (
	// ErrNotELF is matched by files that are no ELF files at all.
	ErrNotELF = errors.New("not an ELF file")
	// ErrUnsupported is matched by ELF files that no Go plugin or gateway this
	// package can judge is: 32-bit, big-endian, object files, core dumps.
	ErrUnsupported = errors.New("unsupported kind of ELF file")
	// ErrMalformed is matched by truncated, damaged or forged files.
	ErrMalformed = errors.New("malformed file")
	// ErrNoMember is matched when an archive does not hold the file asked for.
	ErrNoMember = errors.New("no such file in the archive")
	// ErrCompression is matched by packages whose members are compressed in a
	// way that the standard library cannot read.
	ErrCompression = errors.New("unsupported compression")
	// ErrTarget is matched when a [Target] names something unknown.
	ErrTarget = errors.New("invalid target")
)

// Error is a file that could not be read or judged.
type Error struct {
	Op   string // "inspect", "read package"
	Name string // the file, as the caller named it
	Err  error

	hint string
}

func (e *Error) Error() string {
	s := e.Op + " " + e.Name + ": " + e.Err.Error()
	if e.hint != "" {
		s += "; " + e.hint
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Hint is the next step, or empty.
func (e *Error) Hint() string {
	if inner, ok := errors.AsType[*Error](e.Err); ok && e.hint == "" {
		return inner.Hint()
	}
	return e.hint
}

// Retryable is true only for a full disk under the temporary directory: once
// it has been cleared, the same call can succeed.
func (e *Error) Retryable() bool { return errors.Is(e.Err, syscall.ENOSPC) }

func fail(op, name string, err error) *Error {
	// An inner Error, as of a spooled member, already says it all.
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Op: op, Name: name, Err: err, hint: hintFor(err)}
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
