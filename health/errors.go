package health

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
)

// Errors that callers match with errors.Is.
var (
	// another release than the expected one answers
	ErrVersion = errors.New("wrong version")
	// the program reports a failure itself
	ErrUnhealthy = errors.New("unhealthy")
	// a gateway's /ready reports it
	ErrNotReady = errors.New("not ready")
	// "pass" before the gateway's first check
	ErrNotYetKnown = errors.New("not yet known")
	// the gateway's own checks no longer run
	ErrStale = errors.New("stale")
	// an HTTP status, header or body other than expected
	ErrUnexpected = errors.New("unexpected answer")
	// connected or not, no whole answer arrived
	ErrNoAnswer = errors.New("no answer in time")
	ErrLookup   = errors.New("host name not resolved") // by DNS, in time
	// refused before anything was sent
	ErrInvalid  = errors.New("invalid probe")
	ErrDeadline = errors.New("deadline passed before enough passes") // of a Wait
)

// kinds are the sentinels that an [Error] of a probe can have as its Kind.
var kinds = []error{ErrVersion, ErrUnhealthy, ErrNotReady, ErrNotYetKnown, ErrStale, ErrUnexpected,
	ErrNoAnswer, ErrLookup, ErrMalformed, ErrLogUnreadable, ErrInvalid}

// Error is one try of one probe that did not pass.
type Error struct {
	Op     string // "check"
	Object string // the probe's name
	URL    string // without password and query
	Kind   error  // a sentinel of this package, or nil
	Err    error  // the cause; it wraps Kind
	Next   string // what to do; may be empty
	Retry  bool   // another try can succeed without a change of the probe
}

func newError(probe, url string, err error, next string, retry bool) *Error {
	e := &Error{Op: "check", Object: probe, URL: url, Err: err, Next: next, Retry: retry}
	for _, kind := range kinds {
		if errors.Is(err, kind) {
			e.Kind = kind
			break
		}
	}
	return e
}

// Error reads "check object at URL: cause; what to do".
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", e.Op, e.Object)
	if e.URL != "" {
		fmt.Fprintf(&b, " at %s", e.URL)
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	if e.Next != "" {
		fmt.Fprintf(&b, "; %s", e.Next)
	}
	return b.String()
}

// Unwrap lets errors.Is find the sentinels of this package, the context's
// error and its cause.
func (e *Error) Unwrap() []error {
	if e.Kind == nil {
		return []error{e.Err}
	}
	return []error{e.Kind, e.Err}
}

// Hint returns Next.
func (e *Error) Hint() string { return e.Next }

// Retryable returns Retry.
func (e *Error) Retryable() bool { return e.Retry }

// stopped is a context that ended: its error and its cause.
type stopped struct{ err, cause error }

func (s *stopped) Error() string   { return "stopped: " + s.cause.Error() }
func (s *stopped) Unwrap() []error { return []error{s.err, s.cause} }

func stoppedBy(ctx context.Context) error {
	return &stopped{err: ctx.Err(), cause: context.Cause(ctx)}
}

// transportError rewords what net/http or a dialer said. Its URL is dropped:
// the query may hold a key.
func transportError(err error, limit time.Duration) (hint string, permanent bool, cause error) {
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	var (
		host      x509.HostnameError
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		remote    *net.OpError
		timeout   interface{ Timeout() bool }
	)
	switch {
	case errors.Is(err, ErrLookup):
		return "check the host name and the name servers of this machine", false, err
	case errors.Is(err, errTryTimeout), errors.Is(err, context.DeadlineExceeded), errors.As(err,
		&timeout) && timeout.Timeout():
		return "", false, fmt.Errorf("%w: nothing whole within %v", ErrNoAnswer, limit)
	case errors.As(err, &host):
		return "use the certificate's host name in the URL, or set ServerName", true, err
	case errors.As(err, &authority):
		return "give the CA that signed it", true, err
	case errors.As(err, &invalid):
		return "renew the certificate or give its CA", true, err
	case errors.As(err, &record), strings.Contains(err.Error(),
		"server gave HTTP response to HTTPS client"):
		return "use http:// for this port", true, err
	case errors.As(err, &remote) && remote.Op == "remote error":
		// A TLS alert, whose type crypto/tls keeps to itself.
		return "the server refused the TLS handshake: check the client certificate",
			strings.Contains(err.Error(), "certificate"), err
	case strings.HasPrefix(err.Error(), "net/http: invalid header field"):
		return "correct the headers that are sent", true, err
	}
	return "", false, err
}

var errTryTimeout = errors.New("time limit of one try")
