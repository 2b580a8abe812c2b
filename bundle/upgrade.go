package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// Upgrade describes the two gateway releases and the plugins that one bundle serves.
type Upgrade struct {
	From, To     *semver.Version // the gateways before and after
	Plugins      []Plugin        // at least one
	GOOS, GOARCH string          // the gateways'; empty: linux, amd64

	// PluginPath reads the plugin path of a build, for example with preflight.Inspect. If it is
	// nil, ForUpgrade plans only modes that need no paths.
	PluginPath func(file string) (string, error)
	// Switch is how the gateways get the bundle.
	Switch Switch
}

// Plugin names the two builds of one plugin by their paths in the source of the files. Base names
// are the names in the bundle.
type Plugin struct {
	Current, Target string
	// Response is true if response hooks use the plugin. Gateways before 4.3.2 load it only by its
	// exact name.
	Response bool
}

// UpgradePlan is a bundle from which each of two gateway versions loads its own
// build of every plugin.
type UpgradePlan struct {
	FileList []string          `json:"file_list"`
	Plugins  []PluginPlan      `json:"plugins"` // in the order of Upgrade.Plugins
	Sources  map[string]string `json:"sources"` // for each of FileList, the file to take it from
	Switch   *SwitchPlan       `json:"switch"`

	upgrade Upgrade
}

// PluginPlan is the plan for one plugin.
type PluginPlan struct {
	Hook string `json:"hook"` // the path for every hook of this plugin
	// Current and Target show which names each version tries at its start, and the file that it
	// loads.
	Current     Resolution `json:"current"`
	Target      Resolution `json:"target"`
	CurrentPath string     `json:"current_plugin_path,omitempty"`
	TargetPath  string     `json:"target_plugin_path,omitempty"`

	pair pair
	cost int
}

// ForUpgrade arranges the two builds of each plugin. It keeps their file names if possible.
// Otherwise the plan has copies under the names that each version tries. For 4.0.8 and 5.2.5 these
// are plugin.so and plugin_v5.2.5_linux_amd64.so, with the hook path plugin.so. ForUpgrade reads no
// file except through u.PluginPath.
//
// The plan also predicts what running gateways do during the switch. An error of kind
// [ErrNoUpgrade] means that no arrangement works: publish two bundles, and switch the APIs together
// with the gateways. An error of kind [ErrOutage] means that gateways would lose a plugin; its hint
// names a mode that avoids that.
func ForUpgrade(u Upgrade) (*UpgradePlan, error) {
	var each [][]PluginPlan
	if len(u.Plugins) == 0 {
		return nil, &Error{Op: "plan upgrade bundle", Err: errors.New("no plugin given"),
			Next: "list the two builds of each plugin"}
	}
	for _, one := range u.Plugins {
		pr := pair{build{u.From, one.Current}, build{u.To, one.Target}, u.GOOS, u.GOARCH, one.Response}
		if err := pr.check(); err != nil {
			return nil, err
		}
		plans := pr.plans()
		if len(plans) == 0 {
			return nil, pr.impossible()
		}
		for i := range plans {
			if err := u.readPaths(&plans[i]); err != nil {
				return nil, err
			}
		}
		each = append(each, plans)
	}
	p := u.combine(each, nil)
	if p == nil {
		return nil, &Error{Op: "plan upgrade bundle", Kind: ErrNoUpgrade,
			Err:  errors.New("the plugins need the same file names"),
			Next: "rename one of the plugins, or publish a bundle for each"}
	}
	var err error
	if p.Switch, err = u.planSwitch(p); err != nil {
		return nil, err
	}
	return p, nil
}

func (u Upgrade) readPaths(p *PluginPlan) (err error) {
	if u.PluginPath == nil {
		return nil
	}
	for file, into := range map[string]*string{p.pair.Current.File: &p.CurrentPath,
		p.pair.Target.File: &p.TargetPath} {
		if *into, err = u.PluginPath(file); err != nil {
			return &Error{Op: "read plugin path", Object: file, Err: err,
				Next: "give a plugin that Tyk's plugin compiler built"}
		}
	}
	return nil
}

// combine takes for each plugin the cheapest plan whose names are still free. A plan that works for
// one plugin alone may give a file to another plugin's hook. So combine also resolves all hooks
// together.
func (u Upgrade) combine(each [][]PluginPlan, chosen []PluginPlan) *UpgradePlan {
	if len(chosen) < len(each) {
		for _, plan := range each[len(chosen)] {
			if p := u.combine(each, append(slices.Clip(chosen), plan)); p != nil {
				return p
			}
		}
		return nil
	}
	p := &UpgradePlan{Plugins: chosen, Sources: map[string]string{}, upgrade: u}
	for _, one := range chosen {
		for name, source := range map[string]string{one.Current.File: one.pair.Current.File,
			one.Target.File: one.pair.Target.File} {
			if other, taken := p.Sources[name]; taken && other != source {
				return nil
			}
			p.Sources[name] = source
		}
		for _, name := range []string{one.Current.File, one.Target.File} {
			if !slices.Contains(p.FileList, name) {
				p.FileList = append(p.FileList, name)
			}
		}
	}
	for _, one := range chosen {
		c, _ := resolve(one.Hook, u.From, u.GOOS, u.GOARCH, p.FileList, one.pair.Response)
		t, _ := resolve(one.Hook, u.To, u.GOOS, u.GOARCH, p.FileList, one.pair.Response)
		if c.File != one.Current.File || t.File != one.Target.File {
			return nil
		}
	}
	return p
}

// build is a plugin that was compiled for one gateway version.
type build struct {
	Gateway *semver.Version
	File    string
}

// pair is the two builds of one plugin.
type pair struct {
	Current, Target build
	GOOS, GOARCH    string
	Response        bool
}

// plans lists every arrangement that works, the cheapest first.
func (u pair) plans() []PluginPlan {
	var all []PluginPlan
	for _, hook := range u.hookPaths() {
		for _, c := range u.names(u.Current, hook) {
			for _, t := range u.names(u.Target, hook) {
				if p, ok := u.try(hook, c, t); ok {
					all = append(all, p)
				}
			}
		}
	}
	slices.SortStableFunc(all, func(a, b PluginPlan) int { return a.cost - b.cost })
	return all
}

func (u pair) check() error {
	fail := func(object, hint, format string, a ...any) error {
		return &Error{Op: "plan upgrade bundle", Object: object, Err: fmt.Errorf(format, a...),
			Next: hint}
	}
	for i, b := range []build{u.Current, u.Target} {
		what := [...]string{"current", "target"}[i]
		if b.Gateway == nil {
			return fail(what, "give the version that the gateway's /hello reports",
				"no gateway version given")
		}
		name := path.Base(b.File)
		if !strings.HasSuffix(name, ".so") || name == ".so" {
			return fail(what, "name the compiled plugin", "%q is not the name of a .so file", b.File)
		}
		// A copy of a build for another gateway would have a wrong version in its name, and would
		// fail to load.
		if m := versioned.FindStringSubmatch(name); m != nil && name != prefixed.name(m[1],
			release(b.Gateway), u.GOOS, u.GOARCH) &&
			name != bare.name(m[1], release(b.Gateway), u.GOOS, u.GOARCH) {
			return fail(what, "compile it for this gateway, or rename it if you are sure",
				"%s is named for gateway %s on %s/%s, another one than %s", b.File, m[2], m[3], m[4], b.Gateway)
		}
	}
	if u.Current.File == u.Target.File {
		return fail(u.Target.File, "compile the plugin for each version",
			"it is given as the build for both versions")
	}
	if v := release(u.Target.Gateway); v.Equal(release(u.Current.Gateway)) {
		return fail("", "publish a changed plugin for the same gateway version as a bundle of a new name",
			"%w: both are %s and load the same name", ErrNoUpgrade, v)
	}
	return nil
}

// hookPaths lists the paths worth trying, the plainest first.
func (u pair) hookPaths() []string {
	var all []string
	for _, b := range []build{u.Target, u.Current} {
		name := path.Base(b.File)
		if m := versioned.FindStringSubmatch(name); m != nil {
			name = m[1] + ".so"
		}
		all = append(all, name)
	}
	return append(all, path.Base(u.Current.File))
}

// names lists the possible names of a build in the order in which its gateway tries them.
func (u pair) names(b build, hook string) []string {
	return candidates(hook, b.Gateway, u.GOOS, u.GOARCH, u.Response)
}

// try returns the plan with these names if it works.
func (u pair) try(hook, current, target string) (PluginPlan, bool) {
	if current == target {
		return PluginPlan{}, false
	}
	p := PluginPlan{Hook: hook, pair: u}
	names := []string{current, target}
	var err1, err2 error
	p.Current, err1 = resolve(hook, u.Current.Gateway, u.GOOS, u.GOARCH, names, u.Response)
	p.Target, err2 = resolve(hook, u.Target.Gateway, u.GOOS, u.GOARCH, names, u.Response)
	// A copy is worse than a name that is kept. A copy under the exact name is
	// worse than one that says its version: gateways of third versions load it.
	for name, source := range map[string]string{current: u.Current.File, target: u.Target.File} {
		if name != path.Base(source) {
			p.cost += 2
			if name == hook {
				p.cost++
			}
		}
	}
	return p, err1 == nil && err2 == nil && p.Current.File == current && p.Target.File == target
}

// impossible explains why no plan works. One version loads only the exact name, and the other
// version tries that name first.
func (u pair) impossible() error {
	only, other := u.Current.Gateway, u.Target.Gateway
	if hook := u.hookPaths()[0]; len(candidates(hook, only, u.GOOS, u.GOARCH, u.Response)) > 1 {
		only, other = other, only
	}
	what := ""
	if u.Response {
		what = " for response hooks"
	}
	return &Error{
		Op: "plan upgrade bundle",
		Err: fmt.Errorf("%w: gateway %s loads the exact name of a hook's path only%s, and gateway %s "+
			"takes that name before any other", ErrNoUpgrade, only, what, other),
		Next: "publish one bundle for each version, under different names, and switch the API " +
			"when the gateways are switched, " +
			"or upgrade to 4.3.2 or later, which prefers versioned names",
	}
}

// Manifest returns a copy of m with the plan applied. The plan's files replace the current builds
// in file_list, and the hooks that load them get the plan's paths. Checksum and signature are
// empty. Manifest fails if m has no such hook, or if other files or hooks of m prevent the plan.
func (p *UpgradePlan) Manifest(m *Manifest) (*Manifest, error) {
	const op = "apply upgrade plan"
	if m == nil {
		return nil, &Error{Op: op, Err: errors.New("no manifest given")}
	}
	n := m.clone()
	n.Checksum, n.Signature = "", ""
	hooks := n.hooks()
	type change struct {
		hook placed
		plan PluginPlan
	}
	var changes []change
	for _, one := range p.Plugins {
		file := path.Base(one.pair.Current.File)
		at := slices.Index(n.FileList, file)
		if at < 0 {
			return nil, &Error{Op: op, Object: "file_list",
				Err: fmt.Errorf("it lacks the current build %s", file)}
		}
		n.FileList = slices.Replace(n.FileList, at, at+1, one.Current.File, one.Target.File)
		found := false
		for i, h := range m.hooks() {
			r, loads, err := h.resolve(Loader{Gateway: p.upgrade.From, GOOS: p.upgrade.GOOS,
				GOARCH: p.upgrade.GOARCH}, m.FileList)
			if !loads { // it loads it after the upgrade, by the exact name
				r.File = path.Clean(h.Path)
			}
			if err == nil && r.File == file {
				changes, found = append(changes, change{hooks[i], one}), true
			}
		}
		if !found {
			return nil, &Error{Op: op, Object: "custom_middleware",
				Err: fmt.Errorf("no hook makes gateway %s load %s", one.pair.Current.Gateway, file)}
		}
	}
	for _, c := range changes {
		c.hook.Path = c.plan.Hook
	}
	for _, c := range changes {
		hint := "remove the other builds of this plugin from file_list"
		if c.hook.response && !c.plan.pair.Response {
			hint = "set Plugin.Response"
		}
		for want, v := range map[string]*semver.Version{c.plan.Current.File: p.upgrade.From,
			c.plan.Target.File: p.upgrade.To} {
			r, loads, _ := c.hook.resolve(Loader{Gateway: v, GOOS: p.upgrade.GOOS, GOARCH: p.upgrade.GOARCH},
				n.FileList)
			if loads && c.hook.traffic && r.File != want {
				hint = "give traffic_logs its own plugin: gateways load it by its exact name"
			}
			if loads && r.File != want {
				return nil, &Error{Op: op, Object: c.hook.at,
					Err: fmt.Errorf("gateway %s would load %q instead of %q", v, r.File, want), Next: hint}
			}
		}
	}
	return n, nil
}

// FS returns src with the plan's file names added, for [Write]. It copies no file.
func (p *UpgradePlan) FS(src fs.FS) fs.FS { return renamed{src, p.Sources} }

type renamed struct {
	fs.FS
	sources map[string]string
}

func (r renamed) Open(name string) (fs.File, error) { return r.FS.Open(r.source(name)) }

// Stat describes a file without opening it.
func (r renamed) Stat(name string) (fs.FileInfo, error) { return fs.Stat(r.FS, r.source(name)) }

func (r renamed) source(name string) string {
	if source, ok := r.sources[name]; ok {
		return source
	}
	return name
}
