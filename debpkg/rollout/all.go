package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// All is several load balancers in front of the same servers, as one. Each of them gets every call.
// See [Merge] for what State reports.
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
			every = append(every, s)
		}
	}
	return every, nil
}

// Maintain leaves those drained that know nothing stronger.
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
