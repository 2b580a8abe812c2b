package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/debpkg/rollout/haproxy"
	"example.com/tykupgrade/health"
)

// The kinds of a [Balancer].
const (
	BalancerHAProxy = "haproxy" // the processes of Inventory.HAProxy
	BalancerExec    = "exec"    // commands on this machine
	BalancerReady   = "ready"   // the balancer asks the hosts itself
	BalancerNone    = "none"    // requests fail while a host restarts
)

// Balancer sets how hosts are taken out of traffic and put back. In YAML it is a kind alone, or a
// mapping.
type Balancer struct {
	Kind string `yaml:"kind"` // haproxy, exec, ready or none

	// command that takes a server out. With kind exec, commands run on this machine, and
	// {server} is the server's name. With kind ready, drain and ready run on the host. They
	// make the balancer's check fail and pass, for example by a file that it looks at. Gateways
	// from 5.14 with graceful_shutdown_delay_seconds need none: after SIGTERM they answer
	// /ready with 503 and serve until the delay has passed.
	Drain []string `yaml:"drain"`
	Ready []string `yaml:"ready"` // command that puts a server back; {server} is its name
	// command that prints rollout.State as JSON, or exits with 0 (up), 10 (drained), 11 (draining)
	// or 12 (down)
	State []string `yaml:"state"`
	Kill  []string `yaml:"kill"` // command that ends the sessions of a server

	// Settle is for kind ready. It is the time after a change until the balancer has acted on
	// it and the longest request has ended.
	Settle Duration `yaml:"settle"`
}

// UnmarshalYAML reads a kind alone, or a mapping.
func (b *Balancer) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		b.Kind = n.Value
		return nil
	}
	type plain Balancer
	return DecodeNode(n, (*plain)(b))
}

func (inv *Inventory) checkBalancer() error {
	b := inv.Balancer
	commands := len(b.Drain) + len(b.Ready) + len(b.State) + len(b.Kill)
	kinds := []string{"", BalancerHAProxy, BalancerExec, BalancerReady, BalancerNone}
	switch {
	case !slices.Contains(kinds, b.Kind):
		return fmt.Errorf("unknown kind %q (want haproxy, exec, ready or none)", b.Kind)
	case b.Kind == BalancerHAProxy && len(inv.HAProxy) == 0:
		return errors.New("kind haproxy needs the section haproxy")
	case b.Kind == BalancerExec && (len(b.Drain) == 0 || len(b.Ready) == 0 || len(b.State) == 0):
		return errors.New("kind exec needs the commands drain, ready and state")
	case b.Kind == BalancerReady && (len(b.Drain) == 0) != (len(b.Ready) == 0):
		return errors.New("drain and ready go together")
	case b.Kind == BalancerReady && len(b.State)+len(b.Kill) > 0:
		return errors.New("state and kill go with kind exec")
	case b.Kind == BalancerReady && b.Settle == 0:
		return errors.New("kind ready needs settle, such as 15s: until the balancer has noticed and " +
			"the longest request has ended")
	case b.Kind != BalancerExec && b.Kind != BalancerReady && commands > 0:
		return errors.New("commands go with kind exec or ready")
	}
	return nil
}

// server returns the host's name in the load balancer, or "" if none is in front.
func (inv *Inventory) server(h Host) string {
	switch {
	case inv.Balancer.Kind == BalancerNone:
		return ""
	case h.Server == "" && inv.Balancer.Kind == BalancerReady && balanced(h.Component):
		return h.Name
	}
	return h.Server
}

// balancer returns the balancer of a component, or nil.
func (inv *Inventory) balancer(component string) (rollout.Balancer, error) {
	b := inv.Balancer
	switch b.Kind {
	case BalancerExec:
		return rollout.Exec{Run: rollout.Audited(debpkg.Local()), DrainCommand: b.Drain,
			ReadyCommand: b.Ready, StateCommand: b.State, KillCommand: b.Kill}, nil
	case BalancerNone:
		return nil, nil
	case BalancerReady:
		if !balanced(component) {
			return nil, nil
		}
		o := rollout.CheckedOptions{Settle: time.Duration(b.Settle), Check: inv.answersReady}
		if len(b.Drain) > 0 {
			o.Out, o.In = inv.onHost(b.Drain), inv.onHost(b.Ready)
		}
		return rollout.NewChecked(o), nil
	}
	if lbs := inv.proxies(component); len(lbs) > 0 {
		return rollout.All(lbs...), nil
	}
	return nil, nil
}

// hostOf finds the host that is a server.
func (inv *Inventory) hostOf(server string) (Host, error) {
	for _, h := range inv.Hosts {
		if inv.server(h) == server {
			return h, nil
		}
	}
	return Host{}, fmt.Errorf("unknown server %s", server)
}

// onHost runs a command on the host itself.
func (inv *Inventory) onHost(argv []string) func(context.Context, string) error {
	return func(ctx context.Context, server string) error {
		h, err := inv.hostOf(server)
		if err != nil {
			return err
		}
		return inv.Runner(h)(ctx, argv, nil, nil, nil)
	}
}

// answersReady makes the same request as a balancer's check: /ready of a gateway that has it, and
// otherwise the health endpoint.
func (inv *Inventory) answersReady(ctx context.Context, server string) (bool, error) {
	h, err := inv.hostOf(server)
	if err != nil {
		return false, err
	}
	probes, err := h.Probes(inv.Versions[h.Component])
	if err != nil {
		return false, err
	}
	p := probes[0]
	p.Want = nil // the version before counts as well
	if IsGateway(h.Component) {
		if at, err := url.Parse(h.Health); err == nil && at.Host != "" {
			p = health.Gateway(at.String(), nil)
		}
	}
	rep, err := health.Once(ctx, health.Policy{}, p)
	return err == nil && (rep.Status == health.Pass || rep.Status == health.Warn), err
}

// proxies returns the HAProxy processes in front of a component.
func (inv *Inventory) proxies(component string) []rollout.Balancer {
	var all []rollout.Balancer
	for _, p := range inv.HAProxy {
		if len(p.Backends[component]) > 0 {
			all = append(all, p.process(p.Backends[component]))
		}
	}
	return all
}

func (p HAProxy) process(backends []string) haproxy.Balancer {
	network := p.Network
	if network == "" {
		network = "unix"
	}
	return haproxy.Balancer{Network: network, Address: p.Address, Backends: backends}
}

// Unbalanced returns an error if a component that clients reach has several hosts and no load
// balancer. They would restart under traffic. With "balancer: none" in the inventory, that is
// intended.
func (inv *Inventory) Unbalanced() error {
	if inv.Balancer.Kind == BalancerNone {
		return nil
	}
	var errs []error
	for _, component := range inv.Order {
		if inv.BlueGreen != nil && inv.BlueGreen.Component == component || !balanced(component) {
			continue
		}
		b, _ := inv.balancer(component)
		var all, bare []string
		for _, h := range inv.Hosts {
			if h.Component == component {
				all = append(all, h.Name)
				if inv.server(h) == "" || b == nil {
					bare = append(bare, h.Name)
				}
			}
		}
		if len(all) > 1 && len(bare) > 0 {
			errs = append(errs, fmt.Errorf("nothing takes %s out of traffic before a restart", oneOf(bare)))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return &Error{Op: "check", Object: "load balancers", Err: err,
			Next: "set server of each host, and haproxy or balancer; or write balancer: none"}
	}
	return nil
}
