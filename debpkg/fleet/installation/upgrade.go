package installation

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/internal/tykversion"
	"example.com/tykupgrade/pluginbuild"
)

// The first wave and its targets. If the file has several bundles, the bundle's name is added to
// TargetPlugin and TargetBundle.
const (
	WavePrepare  = "prepare"
	TargetPlugin = "plugin"
	TargetHosts  = "hosts"
	TargetBackup = "backup"
	TargetBundle = "bundle"

	// GatesAfter is the prefix of the names of waves that check the gates after a component.
	GatesAfter = "gates after "
)

// reserved reports whether a name is that of a target other than a host.
func reserved(name string) bool {
	for _, target := range []string{TargetPlugin, TargetBundle} {
		if name == target || strings.HasPrefix(name, target+" ") {
			return true
		}
	}
	return name == TargetHosts || name == TargetBackup || strings.HasPrefix(name, GatesAfter)
}

// Options of an upgrade. The zero value skips nothing.
type Options struct {
	Without []Check // checks to skip
	// use this backup instead of taking one: an ID, a directory, or latest
	Set string
	// a restore of MongoDB drops collections that the backup does not have
	DropExtra bool
	Env       func(name string) string  // finds variables; nil: os.Getenv
	Progress  func(target, text string) // gets progress messages; nil: none
}

// Upgrade is the upgrade that a file describes. Its methods may be called concurrently.
type Upgrade struct {
	*File
	Options
	Journal string // the path of the run's journal

	env     func(string) string
	begun   bool // an earlier run in the journal has changed hosts
	mu      sync.Mutex
	refused map[Check]bool
	written map[string]bundleNote // by bundle name
	found   *pluginbuild.Release  // what lookup has found
}

// New returns an upgrade of the file. It reads the journal, which need not exist, and nothing else.
func New(f *File, journal string, o Options) (*Upgrade, error) {
	for _, c := range o.Without {
		if !slices.Contains(Checks(), c) {
			return nil, &Error{Op: "skip check", Object: string(c),
				Err: fmt.Errorf("unknown check (want one of %v)", Checks())}
		}
	}
	u := &Upgrade{File: f, Options: o, Journal: journal, env: o.Env, refused: map[Check]bool{},
		written: map[string]bundleNote{}}
	if u.env == nil {
		u.env = os.Getenv
	}
	rep, err := u.History()
	u.begun = hostsBegun(rep)
	return u, err
}

func (u *Upgrade) without(c Check) bool { return slices.Contains(u.Without, c) }

func (u *Upgrade) event(target, text string) {
	if u.Progress != nil {
		u.Progress(target, text)
	}
}

// part returns the name of a target for a bundle.
func (u *Upgrade) part(target string, b Bundle) string {
	if len(u.bundles()) == 1 {
		return target
	}
	return target + " " + b.Name
}

// Ready returns the failures of checks that need only the file: no backup, no bundle server, no
// balancer.
func (u *Upgrade) Ready() error {
	var errs []error
	check := func(c Check, err error) {
		if err != nil && !u.without(c) {
			errs = append(errs, u.refuse(c, err))
		}
	}
	if u.Backup == nil {
		check(CheckBackup, errors.New("the file has no section backup: add one"))
	}
	if u.Plugin != nil {
		check(CheckPublish, u.unpublished())
	}
	check(CheckBalancer, u.Unbalanced())
	return errors.Join(errs...)
}

// Waves returns the waves of the run: the preparation, which changes no host, then the hosts, with
// the gates after each component.
func (u *Upgrade) Waves() ([]rollout.Wave, error) {
	o := fleet.Options{Progress: u.event, Asked: true} // the target "hosts" asks them
	if u.Plugin != nil && u.Switch.sameName() {
		o.Swap = u.swap
	}
	hosts, err := u.Inventory.Waves(o)
	if err != nil {
		return nil, err
	}
	prepare := rollout.Wave{Name: WavePrepare}
	add := func(name string, steps ...rollout.Step) {
		prepare.Targets = append(prepare.Targets, rollout.Target{Name: name, Steps: steps})
	}
	for _, b := range u.bundles() {
		add(u.part(TargetPlugin, b), u.pluginSteps(b)...)
	}
	now := []rollout.Step{
		{Name: "plan", Do: func(ctx context.Context) error { return u.planHosts(ctx, hosts) },
			Timeout: time.Hour},
		{Name: "findings", Do: func(ctx context.Context) error { return u.findings(ctx, hosts) }},
	}
	if u.Plugin != nil {
		now = append(now, rollout.Step{Name: "apis", Do: func(ctx context.Context) error {
			return u.checkUses(ctx, hosts)
		}, Timeout: time.Hour})
	}
	now = append(now, rollout.Step{Name: "baseline", Do: func(ctx context.Context) error {
		return u.baseline(ctx, hosts)
	}})
	if len(u.Gates) > 0 {
		now = append(now, rollout.Step{Name: "gates", Do: u.hold})
	}
	add(TargetHosts, now...)
	add(TargetBackup, rollout.Step{Name: "set", Do: u.backup, Done: u.backedUp,
		Timeout: 12 * time.Hour})
	for _, b := range u.bundles() {
		// The bundle comes last, after all checks: from now on a gateway without a cache
		// fetches it.
		add(u.part(TargetBundle, b), u.bundleSteps(b)...)
	}
	// As canaries they end the run regardless of the budget for hosts.
	prepare.Canary.Count = len(prepare.Targets)
	waves := []rollout.Wave{prepare}
	for _, w := range hosts {
		waves = append(waves, w)
		if len(u.Gates) > 0 {
			name := GatesAfter + w.Name
			waves = append(waves, rollout.Wave{Name: name, Canary: rollout.Canary{Count: 1},
				Targets: []rollout.Target{{Name: name, Steps: []rollout.Step{{Name: "hold", Do: u.hold}}}}})
		}
	}
	return waves, nil
}

// HostWaves returns the waves that contain hosts.
func HostWaves(waves []rollout.Wave) []rollout.Wave {
	return slices.DeleteFunc(slices.Clone(waves), func(w rollout.Wave) bool {
		return w.Name == WavePrepare || strings.HasPrefix(w.Name, GatesAfter)
	})
}

// RunOptions returns the options for a run of the waves. A budget in percent counts hosts only, not
// the other targets. The caller adds Control and Progress.
func (u *Upgrade) RunOptions(ctx context.Context, waves []rollout.Wave) rollout.Options {
	o := u.Inventory.RunOptions()
	o.Budget = rollout.CountOrPercent{Count: o.Budget.Of(fleet.Targets(HostWaves(waves)))}
	o.Journal, o.Secrets = u.Journal, u.secrets(ctx)
	if u.without(CheckGates) {
		o.Prober = nil
	}
	return o
}

// planHosts plans the upgrade of every host before the first one is changed. The journal keeps the
// number of hosts by version.
func (u *Upgrade) planHosts(ctx context.Context, waves []rollout.Wave) error {
	now, err := u.Update(ctx, u.HostsOf(waves), func(host, text string) {
		u.event(TargetHosts,
			host+": "+text)
	}, u.expected)
	return errors.Join(rollout.Save(ctx, hostsNote{now}), err)
}

// findings looks for facts that stop a rolling upgrade.
func (u *Upgrade) findings(ctx context.Context, waves []rollout.Wave) error {
	all, err := u.Findings(ctx, u.HostsOf(waves))
	errs := []error{err}
	for _, f := range all {
		if f.Refuse {
			errs = append(errs, errors.New(f.String()))
		}
	}
	note := findingsNote{Findings: all}
	if err = errors.Join(errs...); err != nil && u.without(CheckFindings) {
		note.Overridden, err = overridden(CheckFindings, err), nil
	}
	if serr := rollout.Save(ctx, note); serr != nil || err == nil {
		return serr
	}
	return u.refuse(CheckFindings, err)
}

// expected refuses a gateway whose version is not the one that the bundles were made for.
func (u *Upgrade) expected(h fleet.Host, now string) error {
	if u.Plugin == nil || !fleet.IsGateway(h.Component) {
		return nil
	}
	v, err := tykversion.Parse(now)
	if err != nil {
		return err
	}
	from, err := tykversion.Parse(u.Plugin.From)
	if err != nil {
		return err
	}
	if to, err := u.release(); err != nil || v.Equal(from) || v.Equal(to) {
		return err
	}
	return fmt.Errorf("the gateway is %s, but the bundle is made for %s and %s; correct plugin.from "+
		"and plugin.current", now, u.Plugin.From, u.Versions[h.Component])
}

// skippable runs a check, and saves a note only if it is skipped.
func (u *Upgrade) skippable(ctx context.Context, c Check, check func(context.Context) error) error {
	err := check(ctx)
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case u.without(c):
		return rollout.Save(ctx, overriddenNote{overridden(c, err)})
	}
	return u.refuse(c, err)
}

// baseline checks that everything is healthy before the upgrade, so that earlier faults are not
// blamed on it.
func (u *Upgrade) baseline(ctx context.Context, waves []rollout.Wave) error {
	return u.skippable(ctx, CheckBaseline, func(ctx context.Context) error {
		return u.Baseline(ctx,
			u.HostsOf(waves))
	})
}

// hold waits until the gates hold.
func (u *Upgrade) hold(ctx context.Context) error {
	if u.without(CheckGates) {
		return rollout.Save(ctx, overriddenNote{overridden(CheckGates, errors.New("no gate was checked"))})
	}
	return u.skippable(ctx, CheckGates, u.HoldGates)
}
