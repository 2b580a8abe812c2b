package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Runner executes a command, here or on another host. A nil stdin is empty, a nil stdout or
// stderr is discarded.
type Runner = func(ctx context.Context, argv []string, stdin io.Reader, stdout,
	stderr io.Writer) error

// Balancer takes servers out of and into a load balancer. Its methods are idempotent and may
// be called concurrently. A Balancer may also be a [Maintainer], [Killer], [Keeper] or
// [Pooler].
type Balancer interface {
	// Drain gives the server no new sessions and leaves those that it has.
	Drain(ctx context.Context, server string) error
	// Ready lets the server have sessions again as soon as its health checks pass.
	Ready(ctx context.Context, server string) error
	// State reports how the load balancer sees the server now.
	State(ctx context.Context, server string) (State, error)
}

// Maintainer is a [Balancer] that can also turn away persistent clients of a drained server, such
// as those with a cookie. Existing sessions finish.
type Maintainer interface {
	Maintain(ctx context.Context, server string) error
}

// Killer is a [Balancer] that can end the sessions of a server.
type Killer interface {
	Kill(ctx context.Context, server string) error
}

// Keeper is a [Balancer] that can save the administrative state of a server and restore it. For
// other kinds of Balancer, [Rolling] restores the state by Drain and Ready.
type Keeper interface {
	// Keep returns the state as JSON. It changes nothing.
	Keep(ctx context.Context, server string) (json.RawMessage, error)
	// Restore restores a state that Keep returned.
	Restore(ctx context.Context, server string, kept json.RawMessage) error
}

// Pooler is a [Balancer] that has a server in several pools, such as backends. [Rolling] counts the
// servers that are up in each pool separately.
type Pooler interface {
	// Pools returns the state of the server in each pool, with State.Pool set.
	Pools(ctx context.Context, server string) ([]State, error)
}

// State is a load balancer's view of a server.
type State struct {
	Up       bool   `json:"up"`                 // health checks pass and it can get new sessions
	Changing bool   `json:"changing,omitempty"` // the last check said the opposite of Up
	Drained  bool   `json:"drained"`            // administratively out: no new sessions
	Away     bool   `json:"away,omitempty"`     // Drained, and persistent clients go elsewhere too
	Sessions int    `json:"sessions"`           // under way
	Queue    int    `json:"queue"`              // waiting for the server
	Total    int64  `json:"total,omitempty"`    // sessions so far; 0 if unknown
	Detail   string `json:"detail,omitempty"`   // the load balancer's own words
	Pool     string `json:"pool,omitempty"`     // set by a Pooler
}

// in reports whether the server is steadily up and may have sessions.
func (s State) in() bool { return s.Up && !s.Drained && !s.Changing }

// serves reports whether clients may be on the server.
func (s State) serves() bool { return s.Up && !s.Drained }

// pools asks b for each pool, or for its only one.
func pools(ctx context.Context, b Balancer, server string) ([]State, error) {
	if p, ok := b.(Pooler); ok {
		return p.Pools(ctx, server)
	}
	s, err := b.State(ctx, server)
	return []State{s}, err
}

// Merge combines the states of several pools. A server is up, drained or away only if it is so in
// each of them. Sessions are added up.
func Merge(pools []State) State {
	sum := State{Up: true, Drained: true, Away: true}
	for _, s := range pools {
		sum.Up, sum.Drained = sum.Up && s.Up, sum.Drained && s.Drained
		sum.Away = sum.Away && s.Away
		sum.Changing = sum.Changing || s.Changing
		sum.Sessions, sum.Queue, sum.Total = sum.Sessions+s.Sessions, sum.Queue+s.Queue, sum.Total+s.Total
		if s.Detail != "" {
			if sum.Detail != "" {
				sum.Detail += "; "
			}
			sum.Detail += s.Detail
		}
	}
	return sum
}

// All combines several load balancers in front of the same servers into one. Each of them gets
// every call. State reports their states as [Merge] combines them.
func All(balancers ...Balancer) Balancer { return all(balancers) }

type all []Balancer

var (
	_ Maintainer = all(nil)
	_ Killer     = all(nil)
	_ Keeper     = all(nil)
	_ Pooler     = all(nil)
)

func (a all) each(f func(Balancer) error) error {
	var errs []error
	for _, b := range a {
		errs = append(errs, f(b))
	}
	return errors.Join(errs...)
}

func (a all) Drain(ctx context.Context, server string) error {
	return a.each(func(b Balancer) error { return b.Drain(ctx, server) })
}

func (a all) Ready(ctx context.Context, server string) error {
	return a.each(func(b Balancer) error { return b.Ready(ctx, server) })
}

func (a all) State(ctx context.Context, server string) (State, error) {
	p, err := a.Pools(ctx, server)
	return Merge(p), err
}

// Pools keeps the pools of different load balancers apart by their number.
func (a all) Pools(ctx context.Context, server string) ([]State, error) {
	var every []State
	for i, b := range a {
		p, err := pools(ctx, b, server)
		if err != nil {
			return nil, err
		}
		for _, s := range p {
			if len(a) > 1 {
				s.Pool = strconv.Itoa(i+1) + "/" + s.Pool
			}
			if _, ok := b.(Maintainer); !ok {
				s.Away = s.Drained // it knows nothing stronger
			}
			every = append(every, s)
		}
	}
	return every, nil
}

// Maintain leaves a server drained in balancers that have no maintenance.
func (a all) Maintain(ctx context.Context, server string) error {
	return a.each(func(b Balancer) error {
		if m, ok := b.(Maintainer); ok {
			return m.Maintain(ctx, server)
		}
		return nil
	})
}

func (a all) Kill(ctx context.Context, server string) error {
	return a.each(func(b Balancer) error {
		if k, ok := b.(Killer); ok {
			return k.Kill(ctx, server)
		}
		return fmt.Errorf("end the sessions of %s: a %T cannot", server, b)
	})
}

func (a all) Keep(ctx context.Context, server string) (json.RawMessage, error) {
	kept := make([]former, len(a))
	for i, b := range a {
		var err error
		if kept[i], err = keep(ctx, b, server); err != nil {
			return nil, err
		}
	}
	return json.Marshal(kept)
}

func (a all) Restore(ctx context.Context, server string, data json.RawMessage) error {
	var kept []former
	if err := json.Unmarshal(data, &kept); err != nil || len(kept) != len(a) {
		return fmt.Errorf("restore %s: the saved state is not of %d load balancers: %w",
			server, len(a), err)
	}
	var errs []error
	for i, b := range a {
		errs = append(errs, kept[i].restore(ctx, b, server))
	}
	return errors.Join(errs...)
}
