package fleet

import (
	"context"
	"fmt"
	"slices"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/debpkg/rollout/haproxy"
	"example.com/tykupgrade/health"
)

// Options change how [Inventory.Waves] builds a run. The zero value only installs the versions of
// the inventory.
type Options struct {
	// Progress is called with messages about a host. It may be called concurrently. Nil: no
	// messages.
	Progress func(host, text string)
	// Swap returns how to replace the cached bundles of a gateway host. If Swap or its result
	// is nil, they stay. With a Swap, a gateway is healthy only if its log in systemd's journal
	// reports no plugin and no bundle as not loaded.
	Swap func(Host) *Swap
	// Asked is set if the caller has planned every host, for example by [Inventory.Plans].
	// Otherwise the run does so before it changes the first host.
	Asked bool
}

// Waves builds the upgrade of all hosts, component by component in their order.
func (inv *Inventory) Waves(o Options) ([]rollout.Wave, error) {
	waves := map[string][]rollout.Wave{}
	for _, component := range inv.Order {
		var hosts []rollout.Host
		var machines []*machine
		for _, h := range inv.Hosts {
			if h.Component != component || inv.BlueGreen != nil && component == inv.BlueGreen.Component &&
				h.Colour != inv.BlueGreen.Idle {
				continue
			}
			m := inv.machine(h, o.Progress)
			var po PackageOptions
			if o.Swap != nil && IsGateway(component) {
				if po.Swap = o.Swap(h); po.Swap != nil {
					m.log = health.Journal(inv.Runner(h), m.Unit())
				}
			}
			po.Asked = o.Asked
			machines = append(machines, m)
			hosts = append(hosts, rollout.Host{Name: h.Name, Server: inv.server(h), Install: Package(m.deb,
				m.request(), po), Healthy: m.healthy, Restored: m.restored})
		}
		if len(hosts) == 0 {
			continue
		}
		var err error
		if waves[component], err = inv.component(component, hosts, machines); err != nil {
			return nil, err
		}
	}
	return InOrder(inv.Order, waves)
}

func (inv *Inventory) component(component string, hosts []rollout.Host,
	machines []*machine) ([]rollout.Wave, error) {
	if b := inv.BlueGreen; b != nil && b.Component == component {
		sw := haproxy.Switch{File: b.Map, Key: b.Key}
		var lbs []rollout.Balancer
		for _, p := range inv.HAProxy {
			sw.Instances = append(sw.Instances, p.process(nil))
			lbs = append(lbs, p.process(b.Backends))
		}
		o := rollout.BlueGreenOptions{Switch: sw, Active: b.Active, Idle: b.Idle,
			Soak: time.Duration(b.Soak), Watch: inv.watch(machines), Drain: inv.drain()}
		if len(b.Backends) > 0 {
			o.Balancer = rollout.All(lbs...)
		}
		return rollout.BlueGreen(hosts, o)
	}
	o := inv.rolling(component)
	o.Canary = rollout.Canary{Count: inv.Canary.Count, Soak: time.Duration(inv.Canary.Soak),
		Watch: inv.watch(machines[:min(inv.Canary.Count, len(machines))])}
	w, err := rollout.Rolling(component, hosts, o)
	return []rollout.Wave{w}, err
}

func (inv *Inventory) drain() rollout.DrainOptions {
	return rollout.DrainOptions{Deadline: time.Duration(inv.Drain.Deadline), Force: inv.Drain.Force,
		Grace: time.Duration(inv.Drain.Grace), Interval: inv.every}
}

func (inv *Inventory) rolling(component string) rollout.RollingOptions {
	o := rollout.RollingOptions{
		Drain:          inv.drain(),
		Up:             rollout.UpOptions{Deadline: time.Duration(inv.Up.Deadline), Interval: inv.every},
		MaxUnavailable: rollout.CountOrPercent(inv.MaxUnavailable), MinUp: inv.MinUp,
	}
	o.Balancer, _ = inv.balancer(component)
	return o
}

// Restarts builds waves that restart the services of the named hosts. As in an upgrade, a host is
// drained before and must be healthy after. A restart cannot be undone.
func (inv *Inventory) Restarts(names ...string) ([]rollout.Wave, error) {
	nothing := func(context.Context) error { return nil }
	waves := map[string][]rollout.Wave{}
	for _, component := range inv.Order {
		o := inv.rolling(component)
		var hosts []rollout.Host
		for _, h := range inv.Hosts {
			if h.Component != component {
				continue
			}
			m := inv.machine(h, nil)
			restart := func(ctx context.Context) error { return m.deb.Restart(ctx, m.Unit()) }
			host := rollout.Host{Name: h.Name, Install: rollout.Step{Do: restart, Undo: nothing},
				Healthy: m.asInstalled}
			if o.Balancer != nil { // the colours of a blue-green pair have none here
				host.Server = inv.server(h)
			}
			hosts = append(hosts, host)
		}
		if len(hosts) == 0 {
			continue
		}
		w, err := rollout.Rolling(component, hosts, o)
		if err != nil {
			return nil, err
		}
		// All hosts went into the wave, because a drain counts on those that stay.
		w.Targets = slices.DeleteFunc(w.Targets, func(t rollout.Target) bool {
			return !slices.Contains(
				names, t.Name)
		})
		if len(w.Targets) > 0 {
			waves[component] = []rollout.Wave{w}
		}
	}
	return InOrder(inv.Order, waves)
}

// RunOptions returns the options of a run that the inventory sets. About has the versions, so a
// journal of other versions cannot be resumed.
func (inv *Inventory) RunOptions() rollout.Options {
	o := rollout.Options{
		About: fmt.Sprint(inv.Versions), Budget: rollout.CountOrPercent(inv.Budget),
		OnBudgetExceeded: rollout.BudgetAction(inv.OnBudgetExceeded), Prober: inv.prober(),
		Shared: inv.SharedJournal,
	}
	for _, h := range inv.Hooks {
		o.Hooks = append(o.Hooks, h.hook())
	}
	return o
}

// Targets returns the number of targets in waves.
func Targets(waves []rollout.Wave) int {
	n := 0
	for _, w := range waves {
		n += len(w.Targets)
	}
	return n
}

// HostsOf returns the hosts that occur in the waves, in the order of the inventory.
func (inv *Inventory) HostsOf(waves []rollout.Wave) []Host {
	var all []Host
	for _, h := range inv.Hosts {
		for _, w := range waves {
			if slices.ContainsFunc(w.Targets, func(t rollout.Target) bool { return t.Name == h.Name }) {
				all = append(all, h)
			}
		}
	}
	return all
}
