package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// DrainOptions sets how to wait for a server's last session. The zero value requires three readings
// in a row, 200 ms apart, within five minutes.
type DrainOptions struct {
	Readings int           // in a row without sessions and queue; 0: 3
	Interval time.Duration // between readings; 0: 200 ms
	Deadline time.Duration // for sessions that do not end, such as streams; 0: 5 minutes
	Force    bool          // at the deadline, end the remaining sessions and continue

	// Grace is how long persistent clients, such as those with a cookie, may use a drained
	// server. Then a [Maintainer] turns them away. 0: 5 seconds.
	Grace time.Duration
}

func (o DrainOptions) withDefaults() DrainOptions {
	if o.Deadline == 0 {
		o.Deadline = 5 * time.Minute
	}
	if o.Grace == 0 {
		o.Grace = 5 * time.Second
	}
	return o
}

// timeout is that of a step which waits for sessions twice: drained, then in maintenance.
func (o DrainOptions) timeout() time.Duration { return stepTimeout(2 * o.Deadline) }

// stepTimeout lets a deadline inside a step pass before the step's own; 0 keeps the run's.
func stepTimeout(deadline time.Duration) time.Duration {
	if deadline == 0 {
		return 0
	}
	return deadline + DefaultStepTimeout
}

// UpOptions sets how to wait until the load balancer sends traffic again. The zero value requires
// three readings in a row, 200 ms apart, within two minutes.
type UpOptions struct {
	Readings int
	Interval time.Duration
	Deadline time.Duration
}

// WaitDrained returns once the server is out and several readings have shown no session and no
// queue. One reading can fall between two queued requests. The error is an [ErrTimeout] or that of
// ctx.
func WaitDrained(ctx context.Context, b Balancer, server string, o DrainOptions) error {
	return waitSessions(ctx, b, server, o, "drain", func(s State) bool { return s.Drained }, nil)
}

// WaitIdle returns once several readings have shown no session and no queue. It is for servers that
// get no new sessions although they are not drained, such as those of an idle colour.
func WaitIdle(ctx context.Context, b Balancer, server string, o DrainOptions) error {
	return waitSessions(ctx, b, server, o, "wait for the sessions of",
		func(State) bool { return true }, nil)
}

// TakeOut drains a server and returns once its sessions have ended. With a [Maintainer] it also
// puts the server into maintenance, so that persistent clients stay away.
func TakeOut(ctx context.Context, b Balancer, server string, o DrainOptions) error {
	if err := b.Drain(ctx, server); err != nil {
		return err
	}
	return awaitOut(ctx, b, server, o)
}

// awaitOut is TakeOut of a server that is being drained.
func awaitOut(ctx context.Context, b Balancer, server string, o DrainOptions) error {
	o = o.withDefaults()
	m, ok := b.(Maintainer)
	b = insistent{b}
	if !ok {
		return WaitDrained(ctx, b, server, o)
	}
	// Maintenance comes last, because some load balancers end the sessions of servers in
	// maintenance. It comes before the last session has ended only if clients keep using the
	// drained server.
	start, begun := time.Now(), int64(-1)
	persist := func(s State) bool {
		if begun < 0 {
			begun = s.Total
		}
		return s.Drained && s.Total > begun && time.Since(start) >= o.Grace
	}
	out := func(s State) bool { return s.Drained }
	if err := waitSessions(ctx, b, server, o, "drain", out, persist); err != nil {
		return err
	}
	if err := m.Maintain(ctx, server); err != nil {
		return err
	}
	return WaitDrained(ctx, b, server, o)
}

// insistent drains a server again if something puts it back, such as a reload of the load balancer.
type insistent struct{ Balancer }

func (i insistent) State(ctx context.Context, server string) (State, error) {
	s, err := i.Balancer.State(ctx, server)
	if err == nil && !s.Drained {
		err = i.Drain(ctx, server)
	}
	return s, err
}

func waitSessions(ctx context.Context, b Balancer, server string, o DrainOptions, want string,
	out, enough func(State) bool,
) error {
	o = o.withDefaults()
	last, err := wait(ctx, waiting{
		op: want, server: server, readings: o.Readings, interval: o.Interval,
		deadline: o.Deadline, enough: enough,
		read: func(ctx context.Context) (State, error) { return b.State(ctx, server) },
		good: func(s State) bool { return out(s) && s.Sessions == 0 && s.Queue == 0 },
		next: "end the long-lived sessions, allow more time, or set DrainOptions.Force",
	})
	if err == nil || !errors.Is(err, ErrTimeout) || !o.Force || last == nil || !out(*last) {
		return err
	}
	if i, ok := b.(insistent); ok {
		b = i.Balancer
	}
	k, ok := b.(Killer)
	if !ok {
		var e *Error
		if errors.As(err, &e) {
			e.Next = "this load balancer cannot end sessions: end them on the server, or allow more time"
		}
		return err
	}
	return k.Kill(ctx, server)
}

// WaitUp returns once several readings have shown the server up. Without this wait, a measurement
// with two hosts lost 1,170 of 4,604 requests. The error is an [ErrTimeout] or that of ctx.
func WaitUp(ctx context.Context, b Balancer, server string, o UpOptions) error {
	return waitUp(ctx, b, server, o, func(State) bool { return false })
}

// waitUp ignores some pools.
func waitUp(ctx context.Context, b Balancer, server string, o UpOptions,
	ignore func(State) bool) error {
	if o.Deadline == 0 {
		o.Deadline = 2 * time.Minute
	}
	_, err := wait(ctx, waiting{
		op: "bring up", server: server, readings: o.Readings, interval: o.Interval, deadline: o.Deadline,
		read: func(ctx context.Context) (State, error) {
			every, err := pools(ctx, b, server)
			var counted []State
			for _, s := range every {
				if !ignore(s) {
					counted = append(counted, s)
				}
			}
			return Merge(counted), err
		},
		good: State.in,
		next: "check the load balancer's health check of the server, and the service itself",
	})
	return err
}

// waiting is a wait for the load balancer.
type waiting struct {
	op, server         string
	readings           int
	interval, deadline time.Duration
	read               func(context.Context) (State, error)
	good               func(State) bool // for several readings in a row
	enough             func(State) bool // ends the wait at once; nil: nothing does
	next               string
}

func (w waiting) fail(kind, err error, retry bool) *Error {
	return &Error{Op: w.op, Object: w.server, Kind: kind, Err: err, Retry: retry}
}

func wait(ctx context.Context, w waiting) (last *State, err error) {
	if w.readings < 0 || w.interval < 0 || w.deadline < 0 {
		return nil, w.fail(ErrInvalid, errors.New("readings, interval and deadline must not be negative"),
			false)
	}
	if w.readings == 0 {
		w.readings = 3
	}
	if w.interval == 0 {
		w.interval = 200 * time.Millisecond
	}
	over := time.After(w.deadline)
	// A reading that hangs does not outlast the deadline by much.
	during, cancel := context.WithTimeout(ctx, w.deadline+5*time.Second)
	defer cancel()
	var lastErr error
	for row := 0; ; {
		s, err := w.read(during)
		// A complete reading is worth more than a later one that was cut short.
		if err == nil {
			last, lastErr = &s, nil
		} else if during.Err() == nil || last == nil {
			lastErr = err
		}
		if err != nil && during.Err() == nil && final(err) {
			return last, w.fail(nil, err, false)
		}
		if row++; err != nil || !w.good(s) {
			row = 0
		}
		if row == w.readings || err == nil && w.enough != nil && w.enough(s) {
			return last, nil
		}
		select {
		case <-ctx.Done():
			return last, w.fail(nil, errors.Join(ctx.Err(), context.Cause(ctx)), false)
		case <-over:
			e := w.fail(ErrTimeout, lastErr, true)
			if e.Last, e.Next = last, w.next; lastErr == nil {
				e.Err = fmt.Errorf("%w after %v: %s", ErrTimeout, w.deadline, last.words())
			} else {
				e.Err = fmt.Errorf("%w after %v: %w", ErrTimeout, w.deadline, lastErr)
			}
			return last, e
		case <-time.After(w.interval):
		}
	}
}

func (s State) words() string {
	text := fmt.Sprintf("up %t, drained %t, %d sessions, %d queued", s.Up, s.Drained, s.Sessions,
		s.Queue)
	if s.Changing {
		text += ", checks are changing"
	}
	if s.Detail != "" {
		text += " (" + s.Detail + ")"
	}
	return text
}
