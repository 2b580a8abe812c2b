package rollout

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// CheckedOptions describes a load balancer that takes no commands. It decides by health checks of
// its own which servers get traffic.
type CheckedOptions struct {
	// Out makes the server fail the balancer's check while it still serves. In makes it pass
	// again. They may create and remove a file that the check looks at. Nil: the service does
	// so itself. Gateways from 5.14 with graceful_shutdown_delay_seconds answer /ready with 503
	// after SIGTERM, and serve until the delay has passed.
	Out, In func(ctx context.Context, server string) error

	// Check makes the same request as the balancer's check, such as GET /ready. Nil: every
	// server that is not out counts as up.
	Check func(ctx context.Context, server string) (bool, error)

	// Settle is the time that a change needs to take full effect: the check's interval times
	// its count, plus the longest request. Drain waits for it if Out is set. Ready always
	// waits.
	Settle time.Duration
}

// Checked is a [Balancer] for a load balancer that only follows its own health checks. [NewChecked]
// makes one.
type Checked struct {
	o   CheckedOptions
	mu  sync.Mutex
	out map[string]bool
}

var _ Balancer = (*Checked)(nil)

// NewChecked returns a [Checked]. It remembers in memory which servers are out, so a resumed run
// drains a server again.
func NewChecked(o CheckedOptions) *Checked { return &Checked{o: o, out: map[string]bool{}} }

// None returns a [Balancer] that does nothing, for hosts without a load balancer. Requests to a
// host fail while it restarts.
func None() *Checked { return NewChecked(CheckedOptions{}) }

// Drain calls Out and waits for Settle.
func (c *Checked) Drain(ctx context.Context, server string) error {
	if c.o.Out != nil && !c.isOut(server) {
		if err := c.o.Out(ctx, server); err != nil {
			return fmt.Errorf("drain %s: %w", server, err)
		}
		if err := settle(ctx, c.o.Settle); err != nil {
			return fmt.Errorf("drain %s: %w", server, err)
		}
	}
	c.mark(server, true)
	return nil
}

// Ready calls In and waits for Settle.
func (c *Checked) Ready(ctx context.Context, server string) error {
	if c.o.In != nil {
		if err := c.o.In(ctx, server); err != nil {
			return fmt.Errorf("make %s ready: %w", server, err)
		}
	}
	c.mark(server, false)
	if err := settle(ctx, c.o.Settle); err != nil {
		return fmt.Errorf("make %s ready: %w", server, err)
	}
	return nil
}

// State calls Check for a server that is not out. It cannot count sessions. Drain has waited for
// them already.
func (c *Checked) State(ctx context.Context, server string) (State, error) {
	switch {
	case c.isOut(server):
		return State{Drained: true}, nil
	case c.o.Check == nil:
		return State{Up: true}, nil
	}
	up, err := c.o.Check(ctx, server)
	if err != nil {
		return State{}, fmt.Errorf("check %s: %w", server, err)
	}
	return State{Up: up}, nil
}

func (c *Checked) isOut(server string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out[server]
}

func (c *Checked) mark(server string, out bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out[server] = out
}

func settle(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return errors.Join(ctx.Err(), context.Cause(ctx))
	}
}
