package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// former is the administrative state of a server before a run touched it, as the step that
// drains the server saves it.
type former struct {
	Out  []string        `json:"out,omitempty"` // pools that had it out of service
	None bool            `json:"none"`          // no pool had it in service
	Kept json.RawMessage `json:"kept,omitempty"`
}

func keep(ctx context.Context, b Balancer, server string) (former, error) {
	p, err := pools(ctx, b, server)
	if err != nil {
		return former{}, err
	}
	f := former{None: len(p) > 0}
	for _, s := range p {
		if s.Drained {
			f.Out = append(f.Out, s.Pool)
		} else {
			f.None = false
		}
	}
	if k, ok := b.(Keeper); ok {
		f.Kept, err = k.Keep(ctx, server)
	}
	return f, err
}

// restore leaves alone what the balancer changed itself, such as health.
func (f former) restore(ctx context.Context, b Balancer, server string) error {
	k, ok := b.(Keeper)
	switch {
	case ok && f.Kept != nil:
		return k.Restore(ctx, server, f.Kept)
	case f.None:
		return b.Drain(ctx, server)
	}
	return b.Ready(ctx, server)
}

// waitUp waits in the pools that had the server in service before.
func (f former) waitUp(ctx context.Context, b Balancer, server string, o UpOptions) error {
	if f.None {
		return nil
	}
	return waitUp(ctx, b, server, o, func(s State) bool { return slices.Contains(f.Out, s.Pool) })
}

// guarded drains servers while enough others are up, and puts them back as they were.
type guarded struct {
	o       RollingOptions
	servers []string
	mu      sync.Mutex // counting and draining are one decision
	away    map[string]bool
}

// remember saves the state of the server before the run changes it. It keeps the state that an
// earlier attempt saved, because that one saw the server before any change.
func (g *guarded) remember(ctx context.Context, server string) error {
	var f former
	if has, err := Saved(ctx, &f); err != nil || has {
		return err
	}
	f, err := keep(ctx, g.o.Balancer, server)
	if err != nil {
		return err
	}
	if f.None {
		Say(ctx, fmt.Sprintf("server %s is out of service before the run, and stays out", server))
	}
	return Save(ctx, f)
}

// before returns the state of the server before the run. If it is unknown, as when a single step
// runs, before assumes a server in service.
func (g *guarded) before(ctx context.Context) (former, error) {
	var f former
	_, err := savedBy(ctx, StepDrain, &f)
	return f, err
}

func (g *guarded) restore(ctx context.Context, server string) error {
	f, err := g.before(ctx)
	if err != nil {
		return err
	}
	return f.restore(ctx, g.o.Balancer, server)
}

func (g *guarded) isUp(ctx context.Context, server string) error {
	f, err := g.before(ctx)
	if err != nil {
		return err
	}
	if err := f.waitUp(ctx, g.o.Balancer, server, g.o.Up); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.away, server)
	return nil
}

// out drains the server. It waits as long as servers that this run has taken out can come back.
func (g *guarded) out(ctx context.Context, server string) error {
	for {
		others, err := g.drain(ctx, server)
		if err == nil {
			break
		}
		if !errors.Is(err, ErrLastServer) || !others {
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return errors.Join(err, ctx.Err(), context.Cause(ctx))
		}
	}
	return awaitOut(ctx, g.o.Balancer, server, g.o.Drain)
}

// drain also reports whether this run has taken others out.
func (g *guarded) drain(ctx context.Context, server string) (others bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.enough(ctx, server); err != nil {
		if errors.Is(err, ErrLastServer) {
			delete(g.away, server)
		}
		return len(g.away) > 0, err
	}
	g.away[server] = true
	// A server in maintenance stays there: an earlier attempt may have left a broken host, and
	// drain would let persistent clients back to it.
	if _, ok := g.o.Balancer.(Maintainer); ok {
		if away, err := isAway(ctx, g.o.Balancer, server); err != nil || away {
			return false, err
		}
	}
	return false, g.o.Balancer.Drain(ctx, server)
}

// isAway reports whether no pool sends any client to the server, as far as the balancer supports
// that.
func isAway(ctx context.Context, b Balancer, server string) (bool, error) {
	p, err := pools(ctx, b, server)
	if err != nil {
		return false, err
	}
	if _, ok := b.(Maintainer); ok {
		return Merge(p).Away, nil
	}
	return Merge(p).Drained, nil
}

// foundOut reports whether an earlier process has left the server out of service. It then counts
// the server among those that this process has taken out, so that others wait for it.
func (g *guarded) foundOut(ctx context.Context, server string) bool {
	p, err := pools(ctx, g.o.Balancer, server)
	if err != nil || slices.ContainsFunc(p, State.serves) {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.away[server] = true
	return true
}

// outBefore undoes an installation once the server is out. It usually is out already. Somebody else
// may have put it into service, or a process was killed while it drained the server.
func (g *guarded) outBefore(server string, undo func(context.Context) error,
) func(context.Context) error {
	return func(ctx context.Context) error {
		if away, err := isAway(ctx, g.o.Balancer, server); err != nil {
			return err
		} else if !away {
			if err := g.out(ctx, server); err != nil {
				return err
			}
		}
		return undo(ctx)
	}
}

// enough counts only in pools that the server serves. Other pools lose nothing.
func (g *guarded) enough(ctx context.Context, server string) error {
	least := g.o.MinUp
	if least == 0 {
		least = 1
	}
	if least < 0 {
		return nil
	}
	own, err := pools(ctx, g.o.Balancer, server)
	if err != nil {
		return err
	}
	up := map[string]int{}
	need := false
	for _, p := range own {
		if p.serves() {
			up[p.Pool], need = 0, true
		}
	}
	for _, other := range g.servers {
		if other == server || !need {
			continue
		}
		theirs, err := pools(ctx, g.o.Balancer, other)
		if err != nil {
			return err
		}
		for _, p := range theirs {
			if _, counted := up[p.Pool]; counted && p.in() {
				up[p.Pool]++
			}
		}
	}
	for _, p := range own {
		if n, counted := up[p.Pool]; counted && n < least {
			where := ""
			if p.Pool != "" {
				where = " in " + p.Pool
			}
			return &Error{
				Op: "drain", Object: server, Kind: ErrLastServer, Retry: true,
				Err:  fmt.Errorf("%w: %d other servers are up%s, want %d", ErrLastServer, n, where, least),
				Next: "bring another server up first, or lower MinUp if the downtime is acceptable",
			}
		}
	}
	return nil
}

// recheck is how often the state of a server is read while its host is worked on.
const recheck = 2 * time.Second

// during runs work on a host and keeps its server out meanwhile. A reload of the load balancer or a
// colleague may put it back.
func (g *guarded) during(ctx context.Context, server string,
	work func(context.Context) error) error {
	if m := memoOf(ctx); m != nil && m.verifying {
		return work(ctx) // the server of a target that is done is in service
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-ctx.Done():
				return
			case <-time.After(recheck):
			}
			g.keepOut(ctx, server)
		}
	})
	defer wg.Wait()
	defer close(done)
	return work(ctx)
}

func (g *guarded) keepOut(ctx context.Context, server string) {
	p, err := pools(ctx, g.o.Balancer, server)
	if err != nil {
		return // the next reading may succeed
	}
	for _, s := range p {
		if s.Drained {
			continue
		}
		err := g.o.Balancer.Drain(ctx, server)
		if m, ok := g.o.Balancer.(Maintainer); ok && err == nil {
			err = m.Maintain(ctx, server)
		}
		text := fmt.Sprintf("server %s was put back into service while its host was worked on; "+
			"it is out again", server)
		if err != nil {
			text = fmt.Sprintf("server %s was put back into service while its host was worked on, "+
				"and cannot be taken out: %v", server, err)
		}
		Say(ctx, text)
		return
	}
}
