package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/health"
	"example.com/tykupgrade/pluginbuild"
)

// The parts of an upgrade besides its hosts, as targets of the same run: the journal then
// has them, and resume finds what is done.
const (
	wavePrepare  = "prepare"
	targetPlugin = "plugin"
	targetHosts  = "hosts"
	targetBackup = "backup"
	targetBundle = "bundle"
	gatesAfter   = "gates after "
)

// What -without skips.
const (
	withoutBackup    = "backup"
	withoutDatabase  = "database"
	withoutPreflight = "preflight"
	withoutPublish   = "publish"
	withoutBalancer  = "balancer"
	withoutFindings  = "findings"
	withoutBaseline  = "baseline"
	withoutGates     = "gates"
)

var exceptions = []string{withoutBackup, withoutDatabase, withoutPreflight, withoutPublish, withoutBalancer, withoutFindings, withoutBaseline, withoutGates}

// upgrade is one upgrade from its file, put together for a run.
type upgrade struct {
	*config
	*options
	without map[string]bool
	env     func(string) string
	event   func(target, text string)
	begun   bool // the journal has hosts that were begun

	written bundleNote
	found   *pluginbuild.Release // what lookup has found
}

// refusal is a failed check that the operator can skip.
type refusal struct {
	lift string
	err  error
}

func (r *refusal) Error() string { return r.err.Error() + "; " + r.Hint() }
func (r *refusal) Unwrap() error { return r.err }

// Hint names the flag.
func (r *refusal) Hint() string {
	return "or skip the check with -without " + r.lift + ", which the journal will show"
}

// What the file has to name, unless the check is skipped.
var (
	errNoBackup  = errors.New("the file has no section backup: add one")
	errNoGateway = errors.New("nothing says whether the plugin will load: name the new gateway's binary, its .deb or image:REF as plugin.gateway")
)

func refuse(lift string, err error) error { return &refusal{lift, err} }

// overridden is what the journal says of a check that was skipped.
func overridden(lift string, why error) string {
	var r *refusal
	if errors.As(why, &r) {
		why = r.err
	}
	return fmt.Sprintf("-without %s was given: %v", lift, why)
}

// refusals are the checks that need the file alone.
func (u *upgrade) refusals() error {
	var errs []error
	check := func(lift string, err error) {
		if err != nil && !u.without[lift] {
			errs = append(errs, refuse(lift, err))
		}
	}
	if u.Backup == nil {
		check(withoutBackup, errNoBackup)
	}
	if u.Plugin != nil {
		check(withoutPublish, u.unpublished())
	}
	check(withoutBalancer, u.Unbalanced())
	return errors.Join(errs...)
}

// waves are the preparation, which changes no host, then the hosts with the gates after
// each component.
func (u *upgrade) waves() ([]rollout.Wave, error) {
	o := fleet.Options{Progress: u.event}
	if u.Plugin != nil && u.Switch.sameName() {
		o.Swap = u.swap
	}
	hosts, err := u.Inventory.Waves(o)
	if err != nil {
		return nil, err
	}
	prepare := rollout.Wave{Name: wavePrepare}
	add := func(name string, steps ...rollout.Step) {
		prepare.Targets = append(prepare.Targets, rollout.Target{Name: name, Steps: steps})
	}
	if u.Plugin != nil {
		add(targetPlugin, u.pluginSteps()...)
	}
	now := []rollout.Step{
		{Name: "plan", Do: func(ctx context.Context) error { return u.planHosts(ctx, hosts) }, Timeout: time.Hour},
		{Name: "findings", Do: func(ctx context.Context) error { return u.findings(ctx, hosts) }},
		{Name: "baseline", Do: func(ctx context.Context) error { return u.baseline(ctx, hosts) }},
	}
	if len(u.Gates) > 0 {
		now = append(now, rollout.Step{Name: "gates", Do: u.hold})
	}
	add(targetHosts, now...)
	add(targetBackup, rollout.Step{Name: "set", Do: u.backup, Done: u.backedUp, Timeout: 12 * time.Hour})
	if u.Plugin != nil {
		// Last, when nothing else can refuse: from now on a gateway without a cache gets it.
		add(targetBundle, u.bundleSteps()...)
	}
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

// hostsNote is how many hosts have which package before.
type hostsNote struct {
	Now map[string]int `json:"now"`
}

// overriddenNote is the note of a step that has nothing else to say.
type overriddenNote struct {
	Overridden string `json:"overridden,omitempty"`
}

// planHosts finds out what would keep any host from being upgraded, before the first one
// is touched. The journal keeps how many there are of each version.
func (u *upgrade) planHosts(ctx context.Context, waves []rollout.Wave) error {
	now, err := u.Update(ctx, u.HostsOf(waves), func(host, text string) { u.event(targetHosts, host+": "+text) }, u.expected)
	return errors.Join(rollout.Save(ctx, hostsNote{now}), err)
}

// findingsNote is what versions and configuration say.
type findingsNote struct {
	Findings   []fleet.Finding `json:"findings,omitempty"`
	Overridden string          `json:"overridden,omitempty"`
}

// findings looks for what a rolling upgrade must not meet.
func (u *upgrade) findings(ctx context.Context, waves []rollout.Wave) error {
	all, err := u.Findings(ctx, u.HostsOf(waves))
	errs := []error{err}
	for _, f := range all {
		if f.Refuse {
			errs = append(errs, errors.New(f.String()))
		}
	}
	note := findingsNote{Findings: all}
	if err = errors.Join(errs...); err != nil && u.without[withoutFindings] {
		note.Overridden, err = overridden(withoutFindings, err), nil
	}
	if serr := rollout.Save(ctx, note); serr != nil || err == nil {
		return serr
	}
	return refuse(withoutFindings, err)
}

// expected holds a gateway host to the version that the bundle was made for.
func (u *upgrade) expected(h fleet.Host, now string) error {
	if u.Plugin == nil || !fleet.IsGateway(h.Component) {
		return nil
	}
	v, err := health.ParseVersion(now)
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

// baseline asks whether everything is healthy as it is: after the upgrade nobody could
// tell what it broke.
func (u *upgrade) baseline(ctx context.Context, waves []rollout.Wave) error {
	err := u.Baseline(ctx, u.HostsOf(waves))
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case u.without[withoutBaseline]:
		return rollout.Save(ctx, overriddenNote{overridden(withoutBaseline, err)})
	}
	return refuse(withoutBaseline, err)
}

// hold asks the gates.
func (u *upgrade) hold(ctx context.Context) error {
	if u.without[withoutGates] {
		return rollout.Save(ctx, overriddenNote{overridden(withoutGates, errors.New("no gate was asked"))})
	}
	if err := u.HoldGates(ctx); err != nil {
		return refuse(withoutGates, err)
	}
	return nil
}
