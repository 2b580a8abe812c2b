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
	// Another release than the expected one answers.
	ErrVersion = errors.New("wrong version")
	// The program itself reports a failure.
	ErrUnhealthy = errors.New("unhealthy")
	// The gateway's /ready reports that it is not ready.
	ErrNotReady = errors.New("not ready")
	// The gateway answers before its first own check.
	ErrNotYetKnown = errors.New("not yet known")
	// The gateway's own checks no longer run.
	ErrStale = errors.New("stale")
	// The HTTP status, a header or the body is not the expected one.
	ErrUnexpected = errors.New("unexpected answer")
	// No complete answer arrived in time.
	ErrNoAnswer = errors.New("no answer in time")
	// DNS did not resolve the host name in time.
	ErrLookup = errors.New("host name not resolved")
	// The probe is invalid. Nothing was sent.
	ErrInvalid = errors.New("invalid probe")
	// The deadline of a Wait passed.
	ErrDeadline = errors.New("deadline passed before enough passes")
)

// kinds are the sentinels that an [Error] of a probe can have as its Kind.
var kinds = []error{ErrVersion, ErrUnhealthy, ErrNotReady, ErrNotYetKnown, ErrStale, ErrUnexpected,
	ErrNoAnswer, ErrLookup, ErrMalformed, ErrLogUnreadable, ErrInvalid}

// Error reports why one try of one probe did not pass.
type Error struct {
	Op     string // "check"
	Object string // the probe's name
	URL    string // without password and query
	Kind   error  // a sentinel of this package, or nil
	Err    error  // the cause; it wraps Kind
	Next   string // what to do; may be empty
	Retry  bool   // another try of the same probe can succeed
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

// Error returns "check object at URL: cause; what to do".
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

// Unwrap returns Kind, if set, and Err.
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

// stopped reports that a context ended. It wraps the context's error and cause.
type stopped struct{ err, cause error }

func (s *stopped) Error() string   { return "stopped: " + s.cause.Error() }
func (s *stopped) Unwrap() []error { return []error{s.err, s.cause} }

func stoppedBy(ctx context.Context) error {
	return &stopped{err: ctx.Err(), cause: context.Cause(ctx)}
}

// transportError rewords an error of net/http or a dialer. It drops the URL, whose query may
// hold a key.
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
		dns       *net.DNSError
	)
	switch {
	case errors.Is(err, ErrLookup):
		return lookupHint, false, err
	case errors.As(err, &dns):
		return lookupHint, false, fmt.Errorf("%w: %w", ErrLookup, err)
	case errors.Is(err, errTryTimeout), errors.Is(err, context.DeadlineExceeded), errors.As(err,
		&timeout) && timeout.Timeout():
		return "", false, fmt.Errorf("%w: no complete answer within %v", ErrNoAnswer, limit)
	case errors.As(err, &host):
		return "use the certificate's host name in the URL, or set ServerName", true, err
	case errors.As(err, &authority):
		return "pass the CA that signed it", true, err
	case errors.As(err, &invalid):
		return "renew the certificate or pass its CA", true, err
	case errors.As(err, &record), strings.Contains(err.Error(),
		"server gave HTTP response to HTTPS client"):
		return "use http:// for this port", true, err
	case errors.As(err, &remote) && remote.Op == "remote error":
		// This is a TLS alert. crypto/tls does not export its type.
		return "the server refused the TLS handshake: check the client certificate",
			strings.Contains(err.Error(), "certificate"), err
	case strings.HasPrefix(err.Error(), "net/http: invalid header field"):
		return "correct the probe's headers", true, err
	}
	return "", false, err
}

const lookupHint = "check the host name and the name servers of this machine"

var errTryTimeout = errors.New("time limit of one try")
