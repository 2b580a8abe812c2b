package rollout

import (
	"context"
	"errors"
	"fmt"
)

// Host has the functions with which a strategy upgrades a host.
type Host struct {
	Name string

	// Server is the host's name in the load balancer; empty if there is none, as for pumps.
	Server string

	// Install installs the new version. Its Undo restores the old one, and its Done reports
	// whether the new one is installed. Installing a Tyk package restarts its service at once
	// (postinst of gateway 4.0.8 to 5.14.0), so it comes after the drain.
	Install Step

	// Healthy waits until the new version serves. After Install is undone, Restored waits until
	// the old version serves. Restored may be nil.
	Healthy, Restored func(context.Context) error
}

// RollingOptions sets how hosts behind a load balancer are taken out and in.
type RollingOptions struct {
	Balancer       Balancer // nil: no host may have a Server
	Drain          DrainOptions
	Up             UpOptions
	MaxUnavailable CountOrPercent // how many hosts may be out at a time; zero: one
	Canary         Canary         // the first hosts, alone

	// MinUp is how many other servers must be up before a server is drained, in each pool where
	// it is up. It applies to an undo too. 0: one, negative: none.
	MinUp int
}

// Names of the steps that [Rolling] builds, besides that of Host.Install.
const (
	StepDrain   = "drain"
	StepHealthy = "healthy"
	StepReady   = "ready"
)

// Rolling builds a wave that upgrades hosts behind a load balancer, by default one at a time. The
// steps of each host are
//
//	drain    no new sessions, then none at all, then maintenance
//	install  the new version
//	healthy  the new version serves
//	ready    the former state, and the load balancer has seen the host up
//
// Undo reverses the order: it drains the host again, installs the old version, waits for it, and
// restores the former state. A server that was out of service before the run stays out. While the
// run works on a host, it takes the server out again if somebody makes it ready.
//
// In a measurement with HAProxy 2.6, 16 clients and two gateways that die at SIGTERM, this order
// lost none of 13,172 requests.
func Rolling(name string, hosts []Host, o RollingOptions) (Wave, error) {
	w := Wave{Name: name, MaxUnavailable: o.MaxUnavailable, Canary: o.Canary}
	g := &guarded{o: o, away: map[string]bool{}}
	for _, h := range hosts {
		if h.Server != "" {
			g.servers = append(g.servers, h.Server)
		}
	}
	for _, h := range hosts {
		t, err := g.target(h)
		if err != nil {
			return Wave{}, &Error{Op: "plan wave", Object: name, Kind: ErrInvalid,
				Err: fmt.Errorf("host %s: %w", h.Name, err)}
		}
		w.Targets = append(w.Targets, t)
	}
	return w, nil
}

func (g *guarded) target(h Host) (Target, error) {
	install, healthy, err := h.steps()
	if err != nil {
		return Target{}, err
	}
	if h.Server == "" {
		return Target{Name: h.Name, Steps: []Step{install, healthy}}, nil
	}
	if g.o.Balancer == nil {
		return Target{}, fmt.Errorf("it is server %s of a load balancer, but "+
			"RollingOptions.Balancer is nil", h.Server)
	}
	out := func(ctx context.Context) error { return g.out(ctx, h.Server) }
	in := func(ctx context.Context) error {
		// Save the state before changing it.
		if has, err := Saved(ctx, &former{}); err != nil || !has {
			return err
		}
		if err := g.restore(ctx, h.Server); err != nil {
			return err
		}
		return g.isUp(ctx, h.Server)
	}
	timeout := max(g.o.Drain.timeout(), stepTimeout(g.o.Up.Deadline))
	install.Undo = g.outBefore(h.Server, install.Undo)
	for _, f := range []*func(context.Context) error{&install.Do, &install.Undo, &healthy.Check} {
		work := *f
		*f = func(ctx context.Context) error { return g.during(ctx, h.Server, work) }
	}
	// Neither step has a Done. A skipped step is not undone, and a host must not be reverted
	// without a drain.
	isOut := func(ctx context.Context) bool { return g.foundOut(ctx, h.Server) }
	return Target{Name: h.Name, out: isOut, Steps: []Step{
		{
			Name: StepDrain, Undo: in, Timeout: timeout,
			Do: func(ctx context.Context) error {
				if err := g.remember(ctx, h.Server); err != nil {
					return err
				}
				return out(ctx)
			},
		},
		install,
		healthy,
		{
			Name: StepReady, Undo: out, Timeout: timeout,
			Do:    func(ctx context.Context) error { return g.restore(ctx, h.Server) },
			Check: func(ctx context.Context) error { return g.isUp(ctx, h.Server) },
		},
	}}, nil
}

func (h Host) steps() (install, healthy Step, err error) {
	install = h.Install
	if install.Name == "" {
		install.Name = "install"
	}
	if install.Do == nil || install.Undo == nil || h.Healthy == nil {
		return install, healthy, errors.New("it needs Install.Do, Install.Undo and Healthy")
	}
	if restored := h.Restored; restored != nil {
		undo := install.Undo
		install.Undo = func(ctx context.Context) error {
			if err := undo(ctx); err != nil {
				return err
			}
			return restored(ctx)
		}
	}
	// As a Check, a resumed run asks it again.
	return install, Step{Name: StepHealthy, Do: func(context.Context) error { return nil },
		Check: h.Healthy}, nil
}
