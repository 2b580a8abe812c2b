package installation

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/internal/tykversion"
	"example.com/tykupgrade/pluginbuild"
)

// Plan is what an upgrade will do, and every problem that would stop it.
type Plan struct {
	Bundles  []PlannedBundle `json:"bundles,omitempty"`
	Backup   []string        `json:"backup,omitempty"` // components of the set
	Existing string          `json:"existing,omitempty"`
	Gates    []string        `json:"gates,omitempty"`
	Without  []Check         `json:"without,omitempty"`
	Findings []fleet.Finding `json:"findings,omitempty"`
	Notes    []string        `json:"notes,omitempty"`
	Problems []string        `json:"problems,omitempty"`
	Hosts    []fleet.Planned `json:"hosts"`
	Stops    string          `json:"stops"` // when the run ends early, in a few sentences
}

// PlannedBundle is one bundle with its plugins.
type PlannedBundle struct {
	Name    string              `json:"name"` // on the bundle server
	File    string              `json:"file"`
	Signed  bool                `json:"signed"`
	Plugins []PlannedPlugin     `json:"plugins"`
	Plan    *bundle.UpgradePlan `json:"plan,omitempty"` // nil: a problem says why
	// the command or the directory; empty: by hand
	Publish string `json:"publish,omitempty"`
	URL     string `json:"url,omitempty"` // it must serve the bundle before the first host is changed
}

// PlannedPlugin is one plugin and how it gets its new build.
type PlannedPlugin struct {
	Build   *pluginbuild.Plan `json:"build,omitempty"` // nil: the build is given
	Prepare bool              `json:"prepare,omitempty"`
	Target  string            `json:"target"`
}

// OK reports whether the plan has no problem.
func (p *Plan) OK() bool { return len(p.Problems) == 0 && fleet.Refused(p.Hosts) == nil }

// Plan plans the upgrade. It asks the hosts and the store of the APIs, and changes nothing.
func (u *Upgrade) Plan(ctx context.Context) (*Plan, error) {
	waves, err := u.Waves()
	if err != nil {
		return nil, err
	}
	p := &Plan{Without: u.Without, Backup: []string{}}
	problem := func(what string, err error) {
		if err != nil {
			p.Problems = append(p.Problems, what+": "+err.Error())
		}
	}
	lifted := func(c Check, err error) error {
		if err == nil || u.without(c) {
			return nil
		}
		return u.refuse(c, err)
	}
	for _, b := range u.bundles() {
		one, err := u.planBundle(ctx, b)
		problem(u.part(TargetPlugin, b), err)
		p.Bundles = append(p.Bundles, one)
	}
	if u.Plugin != nil && u.Plugin.Gateway == "" {
		problem("preflight", lifted(CheckPreflight, errNoGateway))
	}
	problem("refused", u.Ready())
	if u.Backup != nil && !u.without(CheckBackup) {
		p.Backup, p.Existing = u.wanted(), u.existing()
		db, err := u.databases(ctx)
		db.close()
		problem("backup", err)
	}
	for _, g := range u.Gates {
		p.Gates = append(p.Gates, g.Name)
	}
	hosts := HostWaves(waves)
	p.Hosts, p.Stops = u.Plans(ctx, hosts), u.Stops(hosts)
	p.Findings, err = u.Findings(ctx, u.HostsOf(hosts))
	// otherwise the hosts' errors are reported already
	reachable := fleet.Refused(p.Hosts) == nil
	if reachable {
		problem("findings", lifted(CheckFindings, err))
	}
	for _, f := range p.Findings {
		if f.Refuse {
			problem("findings", lifted(CheckFindings, errors.New(f.String())))
		}
	}
	if u.Plugin != nil && (reachable || u.APIs != nil) {
		note, err := u.planUses(ctx, u.HostsOf(hosts), reachable)
		p.Notes = append(p.Notes, note.Notes...)
		problem("apis", lifted(CheckAPIs, err))
	}
	return p, nil
}

// planUses predicts the result of checkUses. Bundles that are not written yet have no signature, so
// the key that will sign them counts.
func (u *Upgrade) planUses(ctx context.Context, hosts []fleet.Host,
	reachable bool) (usesNote, error) {
	written := true
	for _, b := range u.bundles() {
		_, err := os.Stat(u.bundleFile(b))
		written = written && err == nil
	}
	if reachable && written {
		return u.uses(ctx, hosts)
	}
	note, err := u.uses(ctx, nil)
	if err != nil || !reachable || u.Plugin.Bundle.Key != "" {
		return note, err
	}
	_, to, err := u.versions()
	if err != nil {
		return note, err
	}
	return note, fleet.Each(hosts, func(_ int, h fleet.Host) error {
		if !fleet.IsGateway(h.Component) || !bundle.Enforces(to) {
			return nil
		}
		key, err := u.publicKey(ctx, h)
		if err == nil && key != nil {
			err = fmt.Errorf("its tyk.conf has public_key_path, and gateway %s refuses an unsigned "+
				"bundle: set plugin.bundle.key", to)
		}
		return err
	})
}

// planBundle plans the builds of a bundle and arranges it.
func (u *Upgrade) planBundle(ctx context.Context, b Bundle) (PlannedBundle, error) {
	up := u.upload(b)
	p := PlannedBundle{Name: up.Name, File: u.bundleFile(b), Signed: u.Plugin.Bundle.Key != "",
		URL:     up.Redacted(),
		Publish: strings.Join(u.Plugin.Bundle.Publish, " ")}
	if u.Plugin.Bundle.Serve != "" {
		p.Publish = u.Plugin.Bundle.Serve
	}
	var errs []error
	compile := false
	for _, one := range b.Plugins {
		planned, err := u.planBuild(ctx, one)
		p.Plugins = append(p.Plugins, planned)
		errs = append(errs, err)
		compile = compile || one.Source != ""
		for _, f := range []struct{ key, path string }{{"current", one.Current}, {"so", one.So}} {
			if _, err := os.Stat(f.path); f.path != "" && err != nil {
				errs = append(errs, fmt.Errorf("plugin.%s: %w", f.key, err))
			}
		}
	}
	if g := u.Plugin.Gateway; g != "" && !strings.HasPrefix(g, imagePrefix) {
		if _, err := os.Stat(g); err != nil {
			errs = append(errs, fmt.Errorf("plugin.gateway: %w", err))
		}
	}
	if u.Plugin.Bundle.Key != "" {
		_, err := privateKey(u.Plugin.Bundle.Key)
		errs = append(errs, err)
	}
	if _, err := u.verifyKey(); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return p, err
	}
	a, err := u.arrange(ctx, b)
	if err != nil {
		return p, err
	}
	p.Plan = a.plan
	if compile { // otherwise the files are still to be made
		return p, nil
	}
	for _, f := range a.manifest.Validate(a.plan.FS(a.files)) {
		if f.Severity == bundle.Refused {
			errs = append(errs, fmt.Errorf("%s: %s; %s", f.Path, f.Problem, f.Remedy))
		}
	}
	return p, errors.Join(errs...)
}

// planBuild plans the compile of one plugin.
func (u *Upgrade) planBuild(ctx context.Context, b Build) (PlannedPlugin, error) {
	p := PlannedPlugin{Prepare: b.Prepare}
	var err error
	if p.Target, err = u.target(ctx, b); err != nil || b.Source == "" {
		return p, err
	}
	r, err := u.lookup(ctx)
	if err != nil {
		return p, err
	}
	from, err := tykversion.Parse(u.Plugin.From)
	if err != nil {
		return p, err
	}
	build, err := pluginbuild.NewPlan(os.DirFS(b.Source), r, pluginbuild.PlanOptions{Current: from,
		Name: b.name(), Image: u.image()})
	if err != nil {
		return p, err
	}
	p.Build = &build
	var errs []error
	for _, f := range build.Findings {
		if f.Blocks() || f.Prepare && !b.Prepare {
			errs = append(errs, fmt.Errorf("%s: %s; %s", filepath.Join(b.Source, f.Where), f.Message,
				f.Remedy))
		}
	}
	return p, errors.Join(errs...)
}
