package haproxy

import (
	"errors"
	"strings"
)

// Errors that callers match with errors.Is.
var (
	// ErrUnreachable: HAProxy did not answer.
	ErrUnreachable = errors.New("no answer from HAProxy")
	// ErrPermission: the socket lacks "level admin".
	ErrPermission = errors.New("the socket does not permit it")
	// ErrNotFound: HAProxy has no such backend, server, map or key.
	ErrNotFound = errors.New("HAProxy does not have it")
	// ErrRefused: HAProxy refused a command, or accepted it without the wanted effect.
	ErrRefused = errors.New("HAProxy refused")
	// ErrInvalid: a field or an argument is invalid. Nothing was sent.
	ErrInvalid = errors.New("invalid")
)

// Error is a failed operation on HAProxy.
type Error struct {
	Op     string // a command of the Runtime API, or "check"
	Object string // the address of the socket
	Kind   error  // one of the sentinels above
	Err    error  // the cause, or nil
	Next   string // what to do
	Retry  bool   // HAProxy did not answer: it may later

	Answer string // HAProxy's own words; empty if it did not answer
}

func (e *Error) Error() string {
	why := e.Answer
	if e.Err != nil {
		why = e.Err.Error()
	}
	return e.Op + " on haproxy at " + e.Object + ": " + why + "; " + e.Next
}

// Unwrap returns Kind and Err, for errors.Is and errors.As.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// Hint returns what to do next.
func (e *Error) Hint() string { return e.Next }

// Retryable reports whether the same call can succeed later.
func (e *Error) Retryable() bool { return e.Retry }

// refusal returns the error for HAProxy's answer.
func refusal(address, command, answer string) *Error {
	e := &Error{
		Op: command, Object: address, Answer: answer, Kind: ErrRefused,
		Next: "see the Runtime API in HAProxy's management guide",
	}
	switch low := strings.ToLower(answer); {
	case strings.Contains(low, "permission denied"):
		e.Kind, e.Next = ErrPermission, `give the socket "level admin" in haproxy.cfg`
	case strings.Contains(low, "no such") || strings.Contains(low, "can't find") ||
		strings.Contains(low, "unknown map"):
		e.Kind, e.Next = ErrNotFound, "check the names of backend, server and map against haproxy.cfg"
	}
	return e
}

func invalid(address string, err error) *Error {
	return &Error{Op: "check names", Object: address, Kind: ErrInvalid, Err: err,
		Next: "use the names in haproxy.cfg"}
}
