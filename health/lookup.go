package health

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

// What a lookup can wait for.
const (
	otherLookups = "other lookups were still running"
	noNameServer = "no answer from a name server"
)

// A lookup is what a try knows of its host name. http.Transport keeps the deadline of a request
// from its dialer, and drops the dialer's error when the request's time ends first. A nil lookup
// notes nothing.
type lookup struct {
	until time.Time // of the try; zero: no deadline
	waits atomic.Pointer[string]
}

type lookupKey struct{}

// watchLookup makes the context of a request, whose lookups are noted whatever the transport is.
func watchLookup(ctx context.Context) (context.Context, *lookup) {
	l := &lookup{}
	l.until, _ = ctx.Deadline()
	return httptrace.WithClientTrace(context.WithValue(ctx, lookupKey{}, l), &httptrace.ClientTrace{
		DNSStart: func(i httptrace.DNSStartInfo) { l.wait(i.Host, noNameServer) },
		DNSDone: func(i httptrace.DNSDoneInfo) {
			if i.Err == nil {
				l.done()
			}
		},
	}), l
}

func (l *lookup) wait(host, what string) {
	if l != nil {
		text := clean(host) + ": " + what
		l.waits.Store(&text)
	}
}

func (l *lookup) done() {
	if l != nil {
		l.waits.Store(nil)
	}
}

// cause returns err, or the lookup that did not end before the try did.
func (l *lookup) cause(ctx context.Context, err error) error {
	if text := l.waits.Load(); text != nil && ctx.Err() != nil && !errors.Is(err, ErrLookup) {
		return fmt.Errorf("%w: %s: %w", ErrLookup, *text, context.Cause(ctx))
	}
	return err
}
