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

// What a probe found, for errors.Is.
var (
	ErrVersion     = errors.New("wrong version")                        // another release than the expected one answers
	ErrUnhealthy   = errors.New("unhealthy")                            // the program says so itself
	ErrNotReady    = errors.New("not ready")                            // /ready of a gateway says so
	ErrNotYetKnown = errors.New("not yet known")                        // "pass" before the gateway's first check
	ErrStale       = errors.New("stale")                                // the gateway's own checks no longer run
	ErrUnexpected  = errors.New("unexpected answer")                    // an HTTP status, header or body that proves nothing or the opposite
	ErrNoAnswer    = errors.New("no answer in time")                    // connected or not, nothing whole came
	ErrDeadline    = errors.New("deadline passed before enough passes") // of a Wait
)

// Error is one try of one probe that did not pass.
type Error struct {
	Probe string // its name
	URL   string // without password and query
	Err   error

	hint      string
	permanent bool
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "check %s", e.Probe)
	if e.URL != "" {
		fmt.Fprintf(&b, " at %s", e.URL)
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	if e.hint != "" {
		fmt.Fprintf(&b, "; %s", e.hint)
	}
	return b.String()
}

// Unwrap lets errors.Is find the sentinels of this package, the context's
// error and its cause.
func (e *Error) Unwrap() error { return e.Err }

// Hint is what to do next; it may be empty.
func (e *Error) Hint() string { return e.hint }

// Retryable says whether another try can succeed without somebody changing the
// probe.
func (e *Error) Retryable() bool { return !e.permanent }

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
		dns       *net.DNSError
		timeout   interface{ Timeout() bool }
	)
	switch {
	case errors.Is(err, errTryTimeout), errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "", false, fmt.Errorf("%w: nothing whole within %v", ErrNoAnswer, limit)
	case errors.As(err, &host):
		return "name the certificate's host in the URL or as server name", true, err
	case errors.As(err, &authority):
		return "give the CA that signed it", true, err
	case errors.As(err, &invalid):
		return "renew the certificate or give its CA", true, err
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return "use http:// for this port", true, err
	case errors.As(err, &remote) && remote.Op == "remote error":
		// A TLS alert, whose type crypto/tls keeps to itself.
		return "the server refused the TLS handshake: check the client certificate", strings.Contains(err.Error(), "certificate"), err
	case strings.HasPrefix(err.Error(), "net/http: invalid header field"):
		return "correct the headers that are sent", true, err
	case errors.As(err, &dns) && dns.IsNotFound:
		return "check the host name", false, err
	}
	return "", false, err
}

var errTryTimeout = errors.New("time limit of one try")
