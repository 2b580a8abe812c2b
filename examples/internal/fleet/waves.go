package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/health"
)

// Waves puts the upgrade together. Events of the packages go to event, with the
// host's name; it may be nil.
func (inv *Inventory) Waves(event func(host, text string)) ([]rollout.Wave, error) {
	if event == nil {
		event = func(string, string) {}
	}
	waves := map[string][]rollout.Wave{}
	for _, component := range inv.Order {
		var hosts []rollout.Host
		var machines []*machine
		for _, h := range inv.Hosts {
			if h.Component != component || inv.BlueGreen != nil && component == inv.BlueGreen.Component && h.Colour != inv.BlueGreen.Idle {
				continue
			}
			m := inv.machine(h, event)
			machines = append(machines, m)
			hosts = append(hosts, rollout.Host{Name: h.Name, Server: h.Server, Install: m.step(), Healthy: m.healthy, Restored: m.restored})
		}
		if len(hosts) == 0 {
			continue
		}
		var err error
		if waves[component], err = inv.component(component, hosts, machines); err != nil {
			return nil, err
		}
	}
	return rollout.InOrder(inv.Order, waves)
}

func (inv *Inventory) component(component string, hosts []rollout.Host, machines []*machine) ([]rollout.Wave, error) {
	drain := rollout.DrainOptions{Deadline: time.Duration(inv.Drain.Deadline), Force: inv.Drain.Force}
	if b := inv.BlueGreen; b != nil && b.Component == component {
		sw := rollout.MapSwitch{File: b.Map, Key: b.Key}
		var lbs []rollout.Balancer
		for _, p := range inv.HAProxy {
			sw.Instances = append(sw.Instances, p.process(nil))
			lbs = append(lbs, p.process(b.Backends))
		}
		o := rollout.BlueGreenOptions{Switch: sw, Active: b.Active, Idle: b.Idle, Soak: time.Duration(b.Soak), Watch: watch(machines), Drain: drain}
		if len(b.Backends) > 0 {
			o.Balancer = rollout.All(lbs...)
		}
		return rollout.BlueGreen(hosts, o)
	}
	o := inv.rolling(component)
	o.Canary = rollout.Canary{Count: inv.Canary.Count, Soak: time.Duration(inv.Canary.Soak), Watch: watch(machines[:min(inv.Canary.Count, len(machines))])}
	w, err := rollout.Rolling(component, hosts, o)
	return []rollout.Wave{w}, err
}

func (inv *Inventory) rolling(component string) rollout.RollingOptions {
	o := rollout.RollingOptions{
		Drain:    rollout.DrainOptions{Deadline: time.Duration(inv.Drain.Deadline), Force: inv.Drain.Force},
		Up:       rollout.UpOptions{Deadline: time.Duration(inv.Up.Deadline)},
		Parallel: rollout.Share(inv.Parallel), MinUp: inv.MinUp,
	}
	if lbs := inv.proxies(component); len(lbs) > 0 {
		o.Balancer = rollout.All(lbs...)
	}
	return o
}

// Restarts puts together the restart of the services of some hosts, drained
// before and healthy after as for an upgrade.
func (inv *Inventory) Restarts(names ...string) ([]rollout.Wave, error) {
	waves := map[string][]rollout.Wave{}
	for _, component := range inv.Order {
		o := inv.rolling(component)
		var hosts []rollout.Host
		for _, h := range inv.Hosts {
			if h.Component != component {
				continue
			}
			m := inv.machine(h, func(string, string) {})
			host := rollout.Host{Name: h.Name, Install: rollout.Step{Do: m.restart, Undo: nothing}, Healthy: m.asInstalled}
			if o.Balancer != nil { // the colours of a blue-green pair have none here
				host.Server = h.Server
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
		// All hosts went into it, because those that stay are what a drain counts on.
		w.Targets = slices.DeleteFunc(w.Targets, func(t rollout.Target) bool { return !slices.Contains(names, t.Name) })
		if len(w.Targets) > 0 {
			waves[component] = []rollout.Wave{w}
		}
	}
	return rollout.InOrder(inv.Order, waves)
}

// Options are those of the run that the inventory sets. A run is about its
// versions: the journal of another one is not taken for it.
func (inv *Inventory) Options() rollout.Options {
	return rollout.Options{About: fmt.Sprint(inv.Versions), Budget: rollout.Share(inv.Budget), Beyond: rollout.Beyond(inv.Beyond)}
}

// machine is one host with what is to become of it.
type machine struct {
	Host
	deb     *debpkg.Host
	want    debpkg.Version
	version string
	health  Health
}

func (inv *Inventory) machine(h Host, event func(host, text string)) *machine {
	m := &machine{Host: h, version: inv.Versions[h.Component], health: inv.Health}
	m.want, _ = debpkg.ParseVersion(m.version) // checked with the inventory
	m.deb = debpkg.New(inv.Runner(h), debpkg.Options{Settle: time.Duration(inv.Health.Settle), Events: func(e debpkg.Event) { event(h.Name, e.Text) }})
	return m
}

// Runner reaches a host.
func (inv *Inventory) Runner(h Host) debpkg.Runner {
	r := debpkg.Local()
	if h.Address != "local" {
		r = debpkg.SSH(h.Address, debpkg.SSHOptions{Config: inv.SSH.Config, Port: h.Port, Identity: inv.SSH.Identity, KnownHosts: inv.SSH.KnownHosts, Jump: inv.SSH.Jump})
	}
	if inv.SSH.Sudo {
		r = debpkg.Sudo(r)
	}
	return r
}

// Plan asks the host what an upgrade would do there, by the package lists that
// it has. It changes nothing.
func (inv *Inventory) Plan(ctx context.Context, h Host) (debpkg.Plan, error) {
	m := inv.machine(h, func(string, string) {})
	return debpkg.New(inv.Runner(h), debpkg.Options{NoFetch: true}).Plan(ctx, m.request())
}

func (m *machine) request() debpkg.Request {
	return debpkg.Request{Package: m.Package, Version: m.want}
}

// progress is what the journal keeps of an installation: the plan before
// anything is changed, the change after.
type progress struct {
	Plan   *debpkg.Plan
	Change *debpkg.Change
}

func (m *machine) step() rollout.Step {
	return rollout.Step{Name: "install", Do: m.install, Undo: m.revert, Done: m.installed,
		Retry: rollout.Retry{Attempts: 2, Wait: 2 * time.Second}}
}

// install carries out the plan that the journal has, if it has one: debpkg then
// attaches to what a crashed run began.
func (m *machine) install(ctx context.Context) error {
	var p progress
	if _, err := rollout.Saved(ctx, &p); err != nil {
		return err
	}
	fresh := p.Plan == nil
	if fresh {
		if err := m.deb.Update(ctx); err != nil {
			return err
		}
		plan, err := m.deb.Plan(ctx, m.request())
		if err != nil {
			return err
		}
		if err := plan.Refused(); err != nil {
			return err
		}
		p.Plan = &plan
		if err := rollout.Save(ctx, p); err != nil {
			return err
		}
	}
	change, err := m.deb.Apply(ctx, *p.Plan)
	if !change.Started.IsZero() {
		p.Change = &change
		err = errors.Join(err, rollout.Save(ctx, p))
	}
	if errors.Is(err, debpkg.ErrChanged) {
		// Nothing was changed by us; a plan that has grown old is made anew.
		if serr := rollout.Save(ctx, progress{}); serr != nil || fresh {
			return errors.Join(err, serr)
		}
		return m.install(ctx)
	}
	return err
}

// installed is false while a begun installation has not been read back, for its
// record is what a revert needs.
func (m *machine) installed(ctx context.Context) (bool, error) {
	var p progress
	if _, err := rollout.Saved(ctx, &p); err != nil || p.Plan != nil && p.Change == nil {
		return false, err
	}
	packages, err := m.deb.Packages(ctx, m.Package)
	if err != nil {
		return false, err
	}
	return len(packages) == 1 && packages[0].Installed() && packages[0].Version.Compare(m.want) == 0, nil
}

func (m *machine) revert(ctx context.Context) error {
	var p progress
	if _, err := rollout.Saved(ctx, &p); err != nil {
		return err
	}
	if p.Plan == nil {
		return nil // it ended before anything was planned
	}
	if p.Change == nil {
		// The program ended while apt was at work: attach, to learn what it did.
		change, err := m.deb.Apply(ctx, *p.Plan)
		if change.Started.IsZero() {
			if errors.Is(err, debpkg.ErrChanged) || errors.Is(err, debpkg.ErrRefused) {
				return nil // never begun
			}
			return err
		}
		p.Change = &change
		if err := rollout.Save(ctx, p); err != nil {
			return err
		}
	}
	return m.deb.Revert(ctx, *p.Change, debpkg.RevertOptions{})
}

// nothing undoes a restart.
func nothing(context.Context) error { return nil }

func (m *machine) restart(ctx context.Context) error { return m.deb.Restart(ctx, m.Unit()) }

func (m *machine) asInstalled(ctx context.Context) error {
	packages, err := m.deb.Packages(ctx, m.Package)
	if err != nil || len(packages) != 1 || !packages[0].Installed() {
		return errors.Join(err, fmt.Errorf("%s is not installed", m.Package))
	}
	return m.gate(ctx, packages[0].Version.String())
}

func (m *machine) healthy(ctx context.Context) error { return m.gate(ctx, m.version) }

// restored awaits the version that was there before.
func (m *machine) restored(ctx context.Context) error {
	var p progress
	if _, err := rollout.Saved(ctx, &p); err != nil || p.Change == nil {
		return err
	}
	for _, before := range p.Change.Before {
		if before.Name == m.Package && before.Installed() {
			return m.gate(ctx, before.Version.String())
		}
	}
	return nil
}

func (m *machine) gate(ctx context.Context, version string) error {
	probes, err := m.Probes(version)
	if err != nil {
		return err
	}
	for i := range probes {
		probes[i].Checks = append(probes[i].Checks, health.Check{Name: "package", Run: func(ctx context.Context) (health.Finding, error) {
			packages, err := m.deb.Packages(ctx, m.Package)
			if err != nil {
				return health.Finding{}, err
			}
			if len(packages) != 1 || !packages[0].Installed() {
				return health.Finding{}, fmt.Errorf("%s is not installed", m.Package)
			}
			return health.Finding{Version: packages[0].Version.String()}, nil
		}})
	}
	_, err = health.Wait(ctx, health.Policy{Passes: m.health.Passes, Deadline: time.Duration(m.health.Deadline)}, probes...)
	return err
}

// watch asks hosts again and again while they soak, until one fails three times
// in a row or the context ends.
func watch(machines []*machine) func(context.Context) error {
	return func(ctx context.Context) error {
		var probes []health.Probe
		for _, m := range machines {
			p, err := m.Probes(m.version)
			if err != nil {
				return err
			}
			probes = append(probes, p...)
		}
		if len(probes) == 0 {
			return nil
		}
		failures := make([]int, len(probes))
		for {
			rep, err := health.Once(ctx, health.Policy{}, probes...)
			if err != nil {
				return err
			}
			for i, p := range rep.Probes {
				if p.Status != health.Fail {
					failures[i] = 0
				} else if failures[i]++; failures[i] == 3 {
					return fmt.Errorf("%s: %s", p.Probe, p.Error)
				}
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(2 * time.Second):
			}
		}
	}
}

// Unit is the service of the host's package, whatever its edition.
func (h Host) Unit() string {
	base := strings.TrimSuffix(strings.TrimSuffix(h.Package, debpkg.Edition(h.Package)), "-")
	for _, c := range debpkg.Components() {
		if c.Package == base {
			return c.Unit
		}
	}
	return h.Package + ".service"
}

// Probes are those that show whether the version serves on the host.
func (h Host) Probes(version string) ([]health.Probe, error) {
	want, err := health.ParseVersion(version)
	if err != nil {
		return nil, err
	}
	base := h.Health
	if base == "" {
		base = h.Address[strings.LastIndexByte(h.Address, '@')+1:]
		if base == "local" {
			base = "localhost"
		} else if net.ParseIP(base) != nil && strings.Contains(base, ":") {
			base = "[" + base + "]"
		}
	}
	var p health.Probe
	switch h.Component {
	case "dashboard":
		p = health.Dashboard(base)
	case "gateway", "data-plane-gateway":
		p = health.Gateway(base, want)
	case "pump", "data-plane-pump":
		p = health.Pump(base)
	default:
		p = health.HTTP(base, health.Expect{})
	}
	p.Name = h.Name
	p.Want = want
	probes := []health.Probe{p}
	if h.Plugin != nil {
		q := health.Plugin(h.Plugin.URL, health.Expect{Status: h.Plugin.Status, Header: h.Plugin.Header})
		q.Name = h.Name + " plugin"
		probes = append(probes, q)
	}
	return probes, nil
}
