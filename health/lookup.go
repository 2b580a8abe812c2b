package health

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

// The things that a lookup waits for.
const (
	otherLookups = "other lookups were still running"
	noNameServer = "no answer from a name server"
)

// lookup is the state of a try's host name lookup. It is separate from the dialer, because
// http.Transport hides a request's deadline from its dialer. It also drops the dialer's error if
// the request's time ends first. A nil lookup notes nothing.
type lookup struct {
	until time.Time // of the try; zero: no deadline
	waits atomic.Pointer[string]
}

type lookupKey struct{}

// watchLookup returns a context for a request whose lookups it notes, with any transport.
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
