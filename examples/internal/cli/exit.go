package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
)

// Exit codes of every command.
const (
	Yes         = 0   // success: the work is done, or the check passed
	No          = 1   // failure: the work or the check failed
	Usage       = 2   // invalid flags or arguments, or an invalid file of a flag
	Unknown     = 3   // the result is unknown
	Busy        = 4   // another process holds the lock
	Refused     = 5   // refused before anything changed
	Interrupted = 130 // by Ctrl-C or SIGTERM
)

// Codes explains the exit codes in a help text.
const Codes = `Exit codes: 0 yes or done, 1 no or failed, 2 wrong usage, 3 unknown, 4 another
process holds the lock, 5 refused before anything changed, 130 interrupted.
`

// exit is an error that knows its exit code.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string { return e.err.Error() }
func (e *exit) Unwrap() error { return e.err }

// errSilent ends a command that has printed its answer.
var errSilent = errors.New("the answer is printed")

// Exit returns err with an exit code. If err is nil, the command exits with the code and prints
// nothing more. Exit returns nil for a nil err and the code [Yes].
func Exit(code int, err error) error {
	switch {
	case err == nil && code == Yes:
		return nil
	case err == nil:
		err = errSilent
	}
	return &exit{code, err}
}

// Wrong returns an error about flags, arguments or files, with the exit code [Usage].
func Wrong(format string, a ...any) error { return Exit(Usage, fmt.Errorf(format, a...)) }

// Refuse returns err with the exit code [Refused], which means that nothing changed. It returns nil
// for nil.
func Refuse(err error) error {
	if err == nil {
		return nil
	}
	return Exit(Refused, err)
}

// Code returns the exit code of an error: its own code, [Interrupted] or [No].
func Code(err error) int {
	var e *exit
	switch {
	case err == nil:
		return Yes
	case errors.As(err, &e):
		return e.code
	case errors.Is(err, context.Canceled):
		return Interrupted
	}
	return No
}

// Hinter is an error with a next step.
type Hinter interface{ Hint() string }

// Advice returns err with a hint in terms of the command. It returns nil for nil.
func Advice(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &advice{err, hint}
}

type advice struct {
	err  error
	hint string
}

func (a *advice) Error() string { return a.err.Error() }
func (a *advice) Unwrap() error { return a.err }
func (a *advice) Hint() string  { return a.hint }

// Cases are the meanings of kinds of errors in a command.
type Cases []struct {
	Kind error // for errors.Is
	Code int   // the exit code
	Hint string
}

// Translate returns err with the exit code and the hint of the first case that it matches. A case
// without a hint keeps that of err. Translate returns err itself if it matches none, or has a code of
// its own.
func Translate(err error, cases Cases) error {
	for _, c := range cases {
		if errors.Is(err, c.Kind) && Code(err) == No {
			if c.Hint != "" {
				err = Advice(err, c.Hint)
			}
			return Exit(c.Code, err)
		}
	}
	return err
}

// Explain splits an error into its cause and the next step, which is the outermost hint. It removes
// the hint from the end of the cause. Of errors that were joined, such as one for each host, it
// returns a line each and the first hint. A line with another hint keeps it.
func Explain(err error) (cause, hint string) {
	switch e := err.(type) {
	case *exit:
		return Explain(e.err)
	case *advice:
		cause, _ = Explain(e.err)
		return strings.TrimSuffix(cause, "; "+e.hint), e.hint
	case interface{ Unwrap() []error }:
		if all := e.Unwrap(); len(all) > 1 && errors.Join(all...).Error() == err.Error() {
			return explainAll(all)
		}
	}
	cause = err.Error()
	var h Hinter
	if !errors.As(err, &h) {
		return cause, ""
	}
	hint = h.Hint()
	for e := error(h.(error)); ; {
		var inner Hinter
		if errors.As(e, &inner) {
			if own := inner.Hint(); own != "" {
				cause = strings.TrimSuffix(cause, "; "+own)
			}
		}
		next := errors.Unwrap(e)
		if next == nil {
			return cause, hint
		}
		e = next
	}
}

func explainAll(all []error) (causes, hint string) {
	lines := make([]string, len(all))
	for i, err := range all {
		line, next := Explain(err)
		switch {
		case hint == "":
			hint = next
		case next != "" && next != hint:
			line += "; " + next
		}
		lines[i] = line
	}
	return strings.Join(lines, "\n"), hint
}

// fileHint returns the next step after an error of the file system, or "".
func fileHint(err error) string {
	at := (*fs.PathError)(nil)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "check the path"
	case errors.Is(err, fs.ErrExist):
		return "name another file"
	case errors.Is(err, fs.ErrPermission):
		return "check the owner and the mode of the file"
	case errors.Is(err, syscall.EISDIR):
		return "name a file instead of a directory"
	case errors.Is(err, syscall.ENOTDIR) && errors.As(err, &at) && strings.HasSuffix(at.Op, "stat"):
		return "check the path, which leads through a file"
	case errors.Is(err, syscall.ENOTDIR):
		return "name a directory instead of a file"
	case errors.Is(err, syscall.ENOSPC):
		return "free space on the disk"
	}
	return ""
}
