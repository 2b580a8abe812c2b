package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
)

// The exit codes of every command.
const (
	Yes         = 0   // done, or the answer is yes
	No          = 1   // failed, or the answer is no
	Usage       = 2   // wrong flags, arguments or file
	Unknown     = 3   // the answer cannot be known
	Busy        = 4   // somebody else is at work
	Refused     = 5   // refused before anything changed
	Interrupted = 130 // by Ctrl-C or SIGTERM
)

// Codes explains the exit codes in a help text.
const Codes = `Exit codes: 0 yes or done, 1 no or failed, 2 wrong usage, 3 unknown, 4 somebody
else is at work, 5 refused before anything changed, 130 interrupted.
`

// exit is an error that knows its exit code.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string { return e.err.Error() }
func (e *exit) Unwrap() error { return e.err }

// errSilent ends a command whose answer is printed already.
var errSilent = errors.New("the answer is printed")

// Exit gives an error its exit code. A nil err ends the command with the code and
// prints nothing more; with code Yes it is nil.
func Exit(code int, err error) error {
	switch {
	case err == nil && code == Yes:
		return nil
	case err == nil:
		err = errSilent
	}
	return &exit{code, err}
}

// Wrong is a mistake in flags, arguments or files.
func Wrong(format string, a ...any) error { return Exit(Usage, fmt.Errorf(format, a...)) }

// Refuse says that nothing was changed; nil stays nil.
func Refuse(err error) error {
	if err == nil {
		return nil
	}
	return Exit(Refused, err)
}

// Code is the exit code of an error: its own, that of an interruption, or No.
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

// Hinter is an error that knows the next step.
type Hinter interface{ Hint() string }

// Advice is an error with the next step in the words of the command.
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

// Explain splits an error into its cause and the next step. The outermost hint
// counts; the text of an error that ends with its own hint loses it.
func Explain(err error) (cause, hint string) {
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

// fileHint is the next step after an error of the file system that has none of its own.
func fileHint(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "check the path"
	case errors.Is(err, fs.ErrExist):
		return "name another file"
	case errors.Is(err, fs.ErrPermission):
		return "check the owner and the mode of the file"
	case errors.Is(err, syscall.EISDIR):
		return "name a file instead of a directory"
	case errors.Is(err, syscall.ENOTDIR):
		return "name a directory instead of a file"
	case errors.Is(err, syscall.ENOSPC):
		return "free space on the disk"
	}
	return ""
}
