package haproxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/internal/lazyregexp"
)

// Balancer is one HAProxy process. Its methods may be called concurrently.
type Balancer struct {
	Network  string   // "unix" or "tcp"
	Address  string   // the stats socket
	Backends []string // each has the server under the same name and is one pool

	// Master is the path of the master socket ("haproxy -S"). With it, the sessions of
	// processes from before a reload count too. Empty: see the limits of this package.
	Master string

	Timeout time.Duration // of one command; 0: 5 s
}

var (
	_ rollout.Balancer   = Balancer{}
	_ rollout.Maintainer = Balancer{}
	_ rollout.Killer     = Balancer{}
	_ rollout.Keeper     = Balancer{}
	_ rollout.Pooler     = Balancer{}
)

// name is what HAProxy allows in names of proxies and servers. It keeps a name from carrying a
// second command.
var name = lazyregexp.New(`^[A-Za-z0-9_.:-]+$`)

func (b Balancer) check(server string) error {
	if len(b.Backends) == 0 {
		return invalid(b.Address, errors.New("no backend named"))
	}
	for _, n := range append([]string{server}, b.Backends...) {
		if !name.MatchString(n) {
			return invalid(b.Address, fmt.Errorf("invalid name %q of a backend or server", n))
		}
	}
	return nil
}

// Drain sets the server's state to drain in every backend, then reads all of them back. It disables
// an agent check first, because the answer "ready" would undo the drain. Ready and Restore enable
// the check again.
func (b Balancer) Drain(ctx context.Context, server string) error {
	return b.takeOut(ctx, server, "drain")
}

// Maintain does the same as Drain, with the state maintenance. Clients with a cookie then go to
// other servers. With "on-marked-down shutdown-sessions" HAProxy also ends the server's sessions.
func (b Balancer) Maintain(ctx context.Context, server string) error {
	return b.takeOut(ctx, server, "maint")
}

func (b Balancer) takeOut(ctx context.Context, server, state string) error {
	before, err := b.servers(ctx, server)
	if err != nil {
		return err
	}
	for i, backend := range b.Backends {
		if before[i].agent {
			if err := b.do(ctx, "disable agent "+backend+"/"+server); err != nil {
				return err
			}
		}
	}
	return b.set(ctx, server, func(int) string { return state }, func(_ int, s serverState) bool {
		return s.state.Drained && (state == "drain" || s.admin&adminMaint != 0) && !s.agent
	})
}

// Ready sets the server's state to ready in every backend, then reads all of them back, and
// enables agent checks.
func (b Balancer) Ready(ctx context.Context, server string) error {
	before, err := b.servers(ctx, server)
	if err != nil {
		return err
	}
	kept := make([]kept, len(before))
	for i, s := range before {
		kept[i] = keptOf(b.Backends[i], s)
		kept[i].State, kept[i].Agent = "ready", s.agentConfigured
	}
	return b.restore(ctx, server, kept)
}

// set changes all backends before it reads them, because a server that tracks another one follows
// it.
func (b Balancer) set(ctx context.Context, server string, state func(int) string,
	good func(int, serverState) bool,
) error {
	command := func(i int) string {
		return fmt.Sprintf("set server %s/%s state %s", b.Backends[i], server, state(i))
	}
	for i := range b.Backends {
		if err := b.do(ctx, command(i)); err != nil {
			return err
		}
	}
	now, err := b.servers(ctx, server)
	if err != nil {
		return err
	}
	for i, s := range now {
		if !good(i, s) {
			return refusal(b.Address, command(i), "accepted, but the state is "+s.state.Detail)
		}
	}
	return nil
}

// kept is the administrative state of a server in one backend.
type kept struct {
	Backend string `json:"backend"`
	State   string `json:"state"` // ready, drain or maint
	Agent   bool   `json:"agent"` // its agent check was enabled
}

func keptOf(backend string, s serverState) kept {
	k := kept{Backend: backend, State: "ready", Agent: s.agent}
	switch {
	case s.admin&adminForcedMaint != 0:
		k.State = "maint"
	case s.admin&adminForcedDrain != 0:
		k.State = "drain"
	}
	return k
}

// Keep returns the server's own administrative state in each backend, as operators, the
// configuration and agents set it. It leaves out what a tracking server inherits.
func (b Balancer) Keep(ctx context.Context, server string) (json.RawMessage, error) {
	now, err := b.servers(ctx, server)
	if err != nil {
		return nil, err
	}
	all := make([]kept, len(now))
	for i, s := range now {
		all[i] = keptOf(b.Backends[i], s)
	}
	return json.Marshal(all)
}

// Restore restores the state from Keep in every backend, then reads all of them back.
func (b Balancer) Restore(ctx context.Context, server string, data json.RawMessage) error {
	var all []kept
	err := json.Unmarshal(data, &all)
	if err == nil && len(all) != len(b.Backends) {
		err = fmt.Errorf("it has %d backends, want %d", len(all), len(b.Backends))
	}
	for i := range all {
		if err == nil && all[i].Backend != b.Backends[i] {
			err = fmt.Errorf("it has backend %q, want %q", all[i].Backend, b.Backends[i])
		}
	}
	if err != nil {
		return invalid(b.Address, fmt.Errorf("saved state of server %s: %w", server, err))
	}
	return b.restore(ctx, server, all)
}

func (b Balancer) restore(ctx context.Context, server string, all []kept) error {
	if err := b.check(server); err != nil {
		return err
	}
	for _, k := range all {
		if k.State != "ready" && k.State != "drain" && k.State != "maint" {
			return invalid(b.Address, fmt.Errorf("unknown state %q (want ready, drain or maint)", k.State))
		}
	}
	err := b.set(ctx, server, func(i int) string { return all[i].State },
		func(i int, s serverState) bool {
			return keptOf(b.Backends[i], s).State == all[i].State
		})
	if err != nil {
		return err
	}
	for i, k := range all {
		if !k.Agent {
			continue
		}
		if err := b.do(ctx, "enable agent "+b.Backends[i]+"/"+server); err != nil {
			return err
		}
	}
	return nil
}

// Kill ends all sessions of the server. With a Master, it also ends those in processes from before
// a reload.
func (b Balancer) Kill(ctx context.Context, server string) error {
	if err := b.check(server); err != nil {
		return err
	}
	old, err := b.oldWorkers(ctx)
	if err != nil {
		return err
	}
	for _, backend := range b.Backends {
		command := fmt.Sprintf("shutdown sessions server %s/%s", backend, server)
		if err := b.do(ctx, command); err != nil {
			return err
		}
		for _, pid := range old {
			// It may have ended meanwhile.
			_, _ = b.askAt(ctx, "unix", b.Master, "@!"+pid+" "+command)
		}
	}
	return nil
}

// State returns the states of all backends, combined by [rollout.Merge].
func (b Balancer) State(ctx context.Context, server string) (rollout.State, error) {
	p, err := b.Pools(ctx, server)
	return rollout.Merge(p), err
}

// Pools returns the state of the server in each backend.
func (b Balancer) Pools(ctx context.Context, server string) ([]rollout.State, error) {
	now, err := b.servers(ctx, server)
	if err != nil {
		return nil, err
	}
	states := make([]rollout.State, len(now))
	out := true
	for i, s := range now {
		states[i] = s.state
		out = out && s.state.Drained
	}
	if !out {
		return states, nil // sessions do not matter yet
	}
	return states, b.addOldSessions(ctx, server, states)
}

func (b Balancer) servers(ctx context.Context, server string) ([]serverState, error) {
	if err := b.check(server); err != nil {
		return nil, err
	}
	all := make([]serverState, len(b.Backends))
	for i, backend := range b.Backends {
		var err error
		if all[i], err = b.server(ctx, backend, server); err != nil {
			return nil, err
		}
	}
	return all, nil
}
