// Package rollouttest is for unit tests of programs that use package rollout. It has a load
// balancer in memory, with sessions and persistent clients. [CrashAfter] ends a run as if its
// process had been killed.
//
// Inside testing/synctest, a test that waits for hours takes milliseconds.
package rollouttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"example.com/tykupgrade/debpkg/rollout"
)

// ErrNoServer is the error of Open when no server can serve the client.
var ErrNoServer = errors.New("no server is up")

// Balancer is a load balancer in memory. Its methods may be called concurrently. Named clients stay
// on their server while it is drained, as with a cookie. They leave a server that is in
// maintenance.
type Balancer struct {
	mu      sync.Mutex
	servers map[string]*server
	names   []string
	clients map[string]string // the server of each client
	log     []string
	fail    map[string]error
	next    int
}

type server struct {
	mode     string // ready, drain or maint
	down     bool
	sessions int
	total    int64
}

var (
	_ rollout.Balancer   = (*Balancer)(nil)
	_ rollout.Maintainer = (*Balancer)(nil)
	_ rollout.Killer     = (*Balancer)(nil)
	_ rollout.Keeper     = (*Balancer)(nil)
)

// NewBalancer returns a load balancer in front of servers that are ready and up.
func NewBalancer(servers ...string) *Balancer {
	b := &Balancer{servers: map[string]*server{}, names: servers, clients: map[string]string{},
		fail: map[string]error{}}
	for _, s := range servers {
		b.servers[s] = &server{mode: "ready"}
	}
	return b
}

// Log returns the requests so far, such as "drain gw1".
func (b *Balancer) Log() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.log)
}

// Fail makes a call such as "drain gw1" fail with err from now on. With a nil err it succeeds
// again.
func (b *Balancer) Fail(call string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail[call] = err
}

// SetUp sets whether the health checks of a server pass.
func (b *Balancer) SetUp(name string, up bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.servers[name].down = !up
}

// Mode returns the administrative state of a server: "ready", "drain" or "maint".
func (b *Balancer) Mode(name string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.servers[name].mode
}

// SetMode sets the administrative state of a server as an operator would. It adds nothing to the
// log.
func (b *Balancer) SetMode(name, mode string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.servers[name].mode = mode
}

// Open begins a session of a client. It returns the name of the server and the function that ends
// the session. A client stays on its server as long as that server takes it. A client without a
// name has no cookie. If no server is up, the error is [ErrNoServer].
func (b *Balancer) Open(client string) (name string, end func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	name = b.clients[client]
	if s := b.servers[name]; client == "" || s == nil || s.down || s.mode == "maint" {
		if name = b.pick(); name == "" {
			return "", nil, ErrNoServer
		}
	}
	if client != "" {
		b.clients[client] = name
	}
	s := b.servers[name]
	s.sessions++
	s.total++
	return name, sync.OnceFunc(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		s.sessions = max(0, s.sessions-1)
	}), nil
}

// pick goes round the servers that are ready and up.
func (b *Balancer) pick() string {
	for range b.names {
		b.next++
		name := b.names[b.next%len(b.names)]
		if s := b.servers[name]; s.mode == "ready" && !s.down {
			return name
		}
	}
	return ""
}

func (b *Balancer) do(ctx context.Context, verb, name string, f func(*server)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	call := verb + " " + name
	b.log = append(b.log, call)
	s := b.servers[name]
	if s == nil {
		return fmt.Errorf("%s: unknown server", call)
	}
	if err := b.fail[call]; err != nil {
		return err
	}
	f(s)
	return nil
}

// Drain implements [rollout.Balancer].
func (b *Balancer) Drain(ctx context.Context, name string) error {
	return b.do(ctx, "drain", name, func(s *server) { s.mode = "drain" })
}

// Ready implements [rollout.Balancer].
func (b *Balancer) Ready(ctx context.Context, name string) error {
	return b.do(ctx, "ready", name, func(s *server) { s.mode = "ready" })
}

// Maintain implements [rollout.Maintainer].
func (b *Balancer) Maintain(ctx context.Context, name string) error {
	return b.do(ctx, "maint", name, func(s *server) { s.mode = "maint" })
}

// Kill implements [rollout.Killer].
func (b *Balancer) Kill(ctx context.Context, name string) error {
	return b.do(ctx, "kill", name, func(s *server) { s.sessions = 0 })
}

// State implements [rollout.Balancer]. The log does not show it.
func (b *Balancer) State(ctx context.Context, name string) (rollout.State, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.servers[name]
	switch {
	case ctx.Err() != nil:
		return rollout.State{}, ctx.Err()
	case s == nil:
		return rollout.State{}, fmt.Errorf("state of %s: unknown server", name)
	case b.fail["state "+name] != nil:
		return rollout.State{}, b.fail["state "+name]
	}
	return rollout.State{
		Up: !s.down, Drained: s.mode != "ready", Away: s.mode == "maint", Sessions: s.sessions,
		Total: s.total, Detail: s.mode,
	}, nil
}

// Keep implements [rollout.Keeper]. The log does not show it.
func (b *Balancer) Keep(_ context.Context, name string) (json.RawMessage, error) {
	return json.Marshal(b.Mode(name))
}

// Restore implements [rollout.Keeper]. The log shows the mode that it restores.
func (b *Balancer) Restore(ctx context.Context, name string, kept json.RawMessage) error {
	var mode string
	if err := json.Unmarshal(kept, &mode); err != nil {
		return err
	}
	return b.do(ctx, mode, name, func(s *server) { s.mode = mode })
}
