package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Switch reports and changes which colour of a blue-green pair gets the traffic. Set is idempotent,
// and all traffic moves at once. Its effect survives a restart of the load balancer.
type Switch interface {
	Active(ctx context.Context) (string, error)
	Set(ctx context.Context, colour string) error
}

// Persister is a [Switch] that keeps the colour in two places: in the load balancer's memory, and
// in a file for its next start. A crash can leave the two different.
type Persister interface {
	// Persisted reports whether the load balancer will use the colour after its next start.
	Persisted(ctx context.Context, colour string) (bool, error)
}

// BlueGreenOptions describes a pair of environments of which one is idle.
type BlueGreenOptions struct {
	Switch       Switch
	Active, Idle string // the colours as the switch names them, before the run

	// Soak is how long the new colour serves under Watch before the run is done. If Watch
	// fails, the traffic goes back. Its context ends with the soak. Watch may be nil.
	Soak  time.Duration
	Watch func(context.Context) error

	// Balancer reports the sessions of hosts that have a Server. A host is changed only after
	// its last session from before the switch has ended, forward and back. With a nil Balancer,
	// nothing waits for requests that were under way at a switch.
	Balancer Balancer
	Drain    DrainOptions

	MaxUnavailable CountOrPercent // of the idle colour's hosts; zero: all at once
}

// BlueGreen builds two waves. The first upgrades every host of the idle colour, which has no
// traffic. The second has one target, "switch". It checks each host again, moves the traffic, and
// soaks.
//
// If the soak fails, the traffic goes back. The idle colour keeps the new version, so that it can
// be examined. With OnBudgetExceeded set to Rollback, the run undoes that too.
func BlueGreen(idle []Host, o BlueGreenOptions) ([]Wave, error) {
	if o.Switch == nil || o.Active == "" || o.Idle == "" || o.Active == o.Idle {
		return nil, errors.New("blue-green: want a switch and two different colours")
	}
	if o.MaxUnavailable == (CountOrPercent{}) {
		o.MaxUnavailable = CountOrPercent{Count: len(idle)}
	}
	up := Wave{Name: "upgrade " + o.Idle, MaxUnavailable: o.MaxUnavailable}
	for _, h := range idle {
		install, healthy, err := h.steps()
		if err != nil {
			return nil, fmt.Errorf("blue-green: host %s: %w", h.Name, err)
		}
		quiet := func(ctx context.Context) error {
			// Somebody may have switched since the plan was made.
			if err := o.active(ctx, o.Active); err != nil || o.Balancer == nil || h.Server == "" {
				return err
			}
			return WaitIdle(ctx, o.Balancer, h.Server, o.Drain)
		}
		undo := install.Undo
		install.Undo = func(ctx context.Context) error {
			if err := quiet(ctx); err != nil {
				return err
			}
			return undo(ctx)
		}
		up.Targets = append(up.Targets, Target{Name: h.Name, Steps: []Step{{Name: "idle", Do: quiet,
			Timeout: o.Drain.timeout()}, install, healthy}})
	}
	sw := Target{Name: "switch", Steps: []Step{
		{Name: "verify " + o.Idle, Do: func(ctx context.Context) error {
			for _, h := range idle {
				if err := h.Healthy(ctx); err != nil {
					return fmt.Errorf("%s: %w", h.Name, err)
				}
			}
			return nil
		}},
		{
			Name: "to " + o.Idle,
			Do:   func(ctx context.Context) error { return o.Switch.Set(ctx, o.Idle) },
			Undo: func(ctx context.Context) error { return o.Switch.Set(ctx, o.Active) },
			Done: func(ctx context.Context) (bool, error) {
				now, err := o.Switch.Active(ctx)
				p, ok := o.Switch.(Persister)
				if err != nil || now != o.Idle || !ok {
					return now == o.Idle, err
				}
				return p.Persisted(ctx, o.Idle)
			},
		},
		{Name: "soak", Do: o.soak, Timeout: o.Soak + DefaultStepTimeout},
	}}
	return []Wave{up, {Name: "switch to " + o.Idle, Targets: []Target{sw}}}, nil
}

func (o BlueGreenOptions) active(ctx context.Context, want string) error {
	now, err := o.Switch.Active(ctx)
	if err == nil && now != want {
		err = fmt.Errorf("the traffic goes to %s, not to %s as it did when this was planned; plan again",
			now, want)
	}
	return err
}

func (o BlueGreenOptions) soak(ctx context.Context) error {
	return soak(ctx, o.Soak, o.Watch)
}

// soak waits for d while watch runs. It ends early if watch fails.
func soak(ctx context.Context, d time.Duration, watch func(context.Context) error) error {
	during, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	if watch != nil {
		err := guard(func() error { return watch(during) })
		// A watch that ends with the soak's own context has seen nothing bad.
		if err != nil && (during.Err() == nil || !errors.Is(err, during.Err())) {
			return err
		}
	}
	<-during.Done()
	if err := ctx.Err(); err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	return nil
}
