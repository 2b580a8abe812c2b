package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/health"
	"example.com/tykupgrade/pluginbuild"
)

// The parts of an upgrade beside its hosts, as targets of the same run: the
// journal then has them, and resume finds what is done.
const (
	wavePrepare  = "prepare"
	targetPlugin = "plugin"
	targetHosts  = "hosts"
	targetBackup = "backup"
	gatesAfter   = "gates after "
)

// What -without leaves out.
const (
	withoutBackup    = "backup"
	withoutPreflight = "preflight"
	withoutBaseline  = "baseline"
	withoutGates     = "gates"
)

var exceptions = []string{withoutBackup, withoutPreflight, withoutBaseline, withoutGates}

// upgrade is one upgrade from its file, put together for a run.
type upgrade struct {
	*config
	without   map[string]bool
	set       string // an existing set, named by a flag
	dropExtra bool   // a restore drops the collections that the set does not have
	env       func(string) string
	event     func(target, text string)
	begun     bool // the journal has hosts that were begun

	written bundleNote
	found   *pluginbuild.Release // what lookup has found
}

// refusal is a precondition that does not hold and that the operator can lift.
type refusal struct {
	lift string
	err  error
}

func (r *refusal) Error() string {
	return fmt.Sprintf("%v; or go on with -without %s, which the journal will show", r.err, r.lift)
}
func (r *refusal) Unwrap() error { return r.err }

// What the file has to name, unless the refusal is lifted.
var (
	errNoBackup  = errors.New("the file has no section backup: add one")
	errNoGateway = errors.New("nothing says whether the plugin will load: name the new gateway's binary, its .deb or image:REF as plugin.gateway")
)

func refuse(lift string, err error) error { return &refusal{lift, err} }

// overridden is what the journal says of a refusal that was lifted.
func overridden(lift string, why error) string {
	var r *refusal
	if errors.As(why, &r) {
		why = r.err
	}
	return fmt.Sprintf("-without %s was given: %v", lift, why)
}

// waves are the preparation, which changes no host, then the hosts with the
// gates after each component.
func (u *upgrade) waves() ([]rollout.Wave, error) {
	hosts, err := u.Inventory.Waves(fleet.Options{Progress: u.event})
	if err != nil {
		return nil, err
	}
	prepare := rollout.Wave{Name: wavePrepare}
	if u.Plugin != nil {
		prepare.Targets = append(prepare.Targets, rollout.Target{Name: targetPlugin, Steps: u.pluginSteps()})
	}
	now := []rollout.Step{
		{Name: "plan", Do: func(ctx context.Context) error { return u.planHosts(ctx, hosts) }, Timeout: time.Hour},
		{Name: "baseline", Do: func(ctx context.Context) error { return u.baseline(ctx, hosts) }},
	}
	if len(u.Gates) > 0 {
		now = append(now, rollout.Step{Name: "gates", Do: u.hold})
	}
	prepare.Targets = append(prepare.Targets, rollout.Target{Name: targetHosts, Steps: now},
		rollout.Target{Name: targetBackup, Steps: []rollout.Step{{Name: "set", Do: u.backup, Done: u.backedUp, Timeout: 12 * time.Hour}}})
	// As canaries they end the run whatever the budget for hosts.
	prepare.Canary.Count = len(prepare.Targets)
	waves := []rollout.Wave{prepare}
	for _, w := range hosts {
		waves = append(waves, w)
		if len(u.Gates) > 0 {
			name := gatesAfter + w.Name
			waves = append(waves, rollout.Wave{Name: name, Canary: rollout.Canary{Count: 1},
				Targets: []rollout.Target{{Name: name, Steps: []rollout.Step{{Name: "hold", Do: u.hold}}}}})
		}
	}
	return waves, nil
}

// hostWaves are those of waves with hosts in them.
func hostWaves(waves []rollout.Wave) []rollout.Wave {
	return slices.DeleteFunc(slices.Clone(waves), func(w rollout.Wave) bool {
		return w.Name == wavePrepare || strings.HasPrefix(w.Name, gatesAfter)
	})
}

// among returns the hosts of the inventory that the waves have.
func (c *config) among(waves []rollout.Wave) []fleet.Host {
	var all []fleet.Host
	for _, h := range c.Hosts {
		for _, w := range waves {
			if slices.ContainsFunc(w.Targets, func(t rollout.Target) bool { return t.Name == h.Name }) {
				all = append(all, h)
			}
		}
	}
	return all
}

// installed is the version of a host's package; zero: none.
func (c *config) installed(ctx context.Context, h fleet.Host) (debpkg.Version, error) {
	packages, err := debpkg.New(c.Runner(h), debpkg.Options{}).Packages(ctx, h.Package)
	if err != nil || len(packages) != 1 || !packages[0].Installed() {
		return debpkg.Version{}, err
	}
	return packages[0].Version, nil
}

// each calls f for every host, eight at a time, and joins the errors.
func each(hosts []fleet.Host, f func(i int, h fleet.Host) error) error {
	errs := make([]error, len(hosts))
	slots := make(chan struct{}, 8)
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if err := f(i, h); err != nil {
				errs[i] = fmt.Errorf("%s: %w", h.Name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// planHosts finds out what would keep any host from being upgraded, before the
// first one is touched. The journal keeps how many there are of each version.
func (u *upgrade) planHosts(ctx context.Context, waves []rollout.Wave) error {
	hosts := u.among(waves)
	found := make([]string, len(hosts))
	err := each(hosts, func(i int, h fleet.Host) error {
		now, err := u.installed(ctx, h)
		if err != nil {
			return err
		}
		found[i] = carries(h, now)
		if err := u.expected(h, now); err != nil {
			return err
		}
		u.event(targetHosts, h.Name+": apt-get update")
		if err := debpkg.New(u.Runner(h), debpkg.Options{}).Update(ctx); err != nil {
			return err
		}
		u.event(targetHosts, h.Name+": plan")
		plan, err := u.Plan(ctx, h)
		return errors.Join(err, plan.Refused())
	})
	note := hostsNote{Now: map[string]int{}}
	for _, text := range found {
		if text != "" {
			note.Now[text]++
		}
	}
	return errors.Join(rollout.Save(ctx, note), err)
}

// expected holds a gateway host to the version that the bundle was made for.
func (u *upgrade) expected(h fleet.Host, now debpkg.Version) error {
	if u.Plugin == nil || h.Component != "gateway" && h.Component != "data-plane-gateway" || now.IsZero() {
		return nil
	}
	v, err := health.ParseVersion(now.String())
	if err != nil {
		return err
	}
	from, err := pluginbuild.ParseVersion(u.Plugin.From)
	if err != nil {
		return err
	}
	if to, err := u.release(); err != nil || v.Equal(from) || v.Equal(to) {
		return err
	}
	return fmt.Errorf("the gateway is %s, but the bundle is made for %s and %s; correct plugin.from and plugin.current", now, u.Plugin.From, u.Versions[h.Component])
}

// baseline asks whether everything is healthy as it is: after the upgrade
// nobody could tell what it broke.
func (u *upgrade) baseline(ctx context.Context, waves []rollout.Wave) error {
	err := u.healthyNow(ctx, u.among(waves))
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case u.without[withoutBaseline]:
		return rollout.Save(ctx, overriddenNote{overridden(withoutBaseline, err)})
	}
	return refuse(withoutBaseline, err)
}

// carries says what a host has of its package.
func carries(h fleet.Host, now debpkg.Version) string {
	if now.IsZero() {
		return "no " + h.Package
	}
	return h.Package + " " + now.String()
}

// hostsNote is how many hosts have which package before.
type hostsNote struct {
	Now map[string]int `json:"now"`
}

// overriddenNote is the note of a step that has nothing else to say.
type overriddenNote struct {
	Overridden string `json:"overridden,omitempty"`
}

func (u *upgrade) healthyNow(ctx context.Context, hosts []fleet.Host) error {
	probes, err := u.probes(ctx, hosts)
	if err != nil {
		return err
	}
	if len(probes) == 0 {
		return nil
	}
	_, err = health.Wait(ctx, health.Policy{SuccessThreshold: 1, Deadline: time.Duration(u.Health.Deadline)}, probes...)
	return err
}

// probes ask the hosts for the version that is installed there.
func (c *config) probes(ctx context.Context, hosts []fleet.Host) ([]health.Probe, error) {
	byHost := make([][]health.Probe, len(hosts))
	err := each(hosts, func(i int, h fleet.Host) error {
		now, err := c.installed(ctx, h)
		if err != nil || now.IsZero() {
			return err
		}
		byHost[i], err = h.Probes(now.String())
		return err
	})
	return slices.Concat(byHost...), err
}

// hold asks the gates.
func (u *upgrade) hold(ctx context.Context) error {
	if u.without[withoutGates] {
		return rollout.Save(ctx, overriddenNote{overridden(withoutGates, errors.New("no gate was asked"))})
	}
	var probes []health.Probe
	for _, g := range u.Gates {
		p := health.HTTP(g.URL, health.Expect{Status: g.Status, Header: g.Header})
		p.Name = g.Name
		probes = append(probes, p)
	}
	if _, err := health.Wait(ctx, health.Policy{SuccessThreshold: u.Health.SuccessThreshold, Deadline: time.Duration(u.Health.Deadline)}, probes...); err != nil {
		return refuse(withoutGates, err)
	}
	return nil
}
