package bundle

import (
	"fmt"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// Mode is the method by which gateways get a new bundle. The behaviour was measured on 5.2.5 and
// 5.14.0, and read in the sources of 3.0.0 to 5.14.0.
type Mode string

const (
	// SameName publishes the bundle under the name that the APIs use. Running gateways continue
	// with their caches. One host at a time is drained and stopped, its cached directory is
	// removed, and its gateway starts.
	SameName Mode = "same_name"
	// UniquePath publishes the bundle under a new name. Its build for the current release has its
	// own plugin path, so running gateways can load it. Both builds run their init functions and
	// stay in memory until a restart.
	UniquePath Mode = "unique_path"
	// BlueGreen publishes the bundle under a new name that only the idle gateways see.
	BlueGreen Mode = "blue_green"
	// NewName publishes the bundle under a new name. Its build has the plugin path that running
	// gateways have loaded, so they refuse it: [ErrOutage] without Force.
	NewName Mode = "new_name"
)

// Modes returns every mode, the safest first.
func Modes() []Mode { return []Mode{SameName, UniquePath, BlueGreen, NewName} }

// Effect is what happens to an API's requests.
type Effect string

// Effects of a switch on requests.
const (
	PluginRuns     Effect = "plugin_runs"
	PluginBypassed Effect = "plugin_bypassed" // requests pass without the plugin
	RequestsFail   Effect = "requests_fail"   // every request is answered with 500
	EffectUnknown  Effect = "unknown"
)

// WithoutPlugin returns what a gateway does with requests if it cannot load a plugin. Releases up
// to 5.0.0 let requests pass without the plugin, even if it authenticates. Releases 4.0.13 to
// 4.0.16 and those from 5.0.1 on answer every request with 500. /hello and /ready do not change. A
// nil gateway gives [EffectUnknown].
func WithoutPlugin(gateway *semver.Version) Effect {
	if gateway == nil {
		return EffectUnknown
	}
	v := release(gateway)
	if v.LessThan(semver.New(4, 0, 13, "", "")) ||
		!v.LessThan(semver.New(4, 1, 0, "", "")) && v.LessThan(semver.New(5, 0, 1, "", "")) {
		return PluginBypassed
	}
	return RequestsFail
}

// Open is a plugin file that a gateway process opens. A process cannot open two files with the same
// plugin path: Go refuses the second with "plugin already loaded". File names and contents do not
// matter.
type Open struct {
	Bundle     string `json:"bundle,omitempty"`      // name of the bundle; empty: a file outside bundles
	File       string `json:"file"`                  // in the bundle, or on the gateway's disk
	PluginPath string `json:"plugin_path,omitempty"` // from the file; empty: unknown
}

// String returns BUNDLE/FILE, or FILE outside bundles.
func (o Open) String() string { return strings.TrimPrefix(o.Bundle+"/"+o.File, "/") }

// Clash is a pair of files with one plugin path. A process can open only the first.
type Clash struct {
	First  Open `json:"first"`
	Second Open `json:"second"`
}

// Clashes returns the files that a process cannot open because an earlier file of the list has the
// same plugin path. It ignores files without a known path.
func Clashes(opens []Open) []Clash {
	var all []Clash
	first := map[string]Open{}
	for _, o := range opens {
		if o.PluginPath == "" {
			continue
		}
		f, taken := first[o.PluginPath]
		switch {
		case !taken:
			first[o.PluginPath] = o
		case f != o && !slices.Contains(all, Clash{f, o}):
			all = append(all, Clash{f, o})
		}
	}
	return all
}

// Switch describes how gateways get the bundle of an [Upgrade].
type Switch struct {
	Mode Mode   // empty: SameName
	Name string // the bundle's current name in the APIs
	New  string // its new name; empty with SameName

	// Running lists the plugins that running gateways have open for the APIs that change.
	Running []Open
	// Others lists the plugins that gateways open for other APIs, before and after the switch.
	Others []Open
	// Force plans a switch even if gateways lose a plugin. The plan still shows the outage.
	Force bool
}

// Outcome predicts what one gateway does at one moment of a switch.
type Outcome struct {
	Gateway string `json:"gateway"`
	Effect  Effect `json:"effect"`
	Text    string `json:"text"` // a sentence for people
}

// SwitchPlan predicts a switch. It predicts whether plugins load, not whether they work.
type SwitchPlan struct {
	Mode    Mode    `json:"mode"`
	Name    string  `json:"name,omitempty"`
	New     string  `json:"new_name,omitempty"`
	Running Outcome `json:"running"` // a gateway that runs while the bundle is published and reloaded
	// a gateway of the current release that restarts by itself during the switch
	Crashed Outcome `json:"crashed"`
	Started Outcome `json:"started"` // a gateway of the new release at its start
	// a gateway of the current release that starts with the new bundle
	Back   Outcome `json:"back"`
	Forced bool    `json:"forced,omitempty"`
}

// opens are the files that a release takes from the planned bundle.
func (p *UpgradePlan) opens(name string, current bool) []Open {
	var all []Open
	for _, one := range p.Plugins {
		r, path := one.Target, one.TargetPath
		if current {
			r, path = one.Current, one.CurrentPath
		}
		all = append(all, Open{name, r.File, path})
	}
	return all
}

// planSwitch predicts the switch of p, or refuses it.
func (u Upgrade) planSwitch(p *UpgradePlan) (*SwitchPlan, error) {
	s := u.Switch
	if s.Mode == "" {
		s.Mode = SameName
	}
	fail := func(kind error, hint, format string, a ...any) error {
		return &Error{Op: "plan bundle switch", Object: s.Name, Kind: kind, Err: fmt.Errorf(format, a...),
			Next: hint}
	}
	next := s.New
	switch {
	case !slices.Contains(Modes(), s.Mode):
		return nil, fail(nil, "", "unknown mode %q (want same_name, unique_path, blue_green or new_name)",
			s.Mode)
	case s.Mode == SameName && s.New != "" && s.New != s.Name:
		return nil, fail(nil, "leave Switch.New empty", "mode same_name and the new name %q", s.New)
	case s.Mode == SameName:
		next = s.Name
	case s.New == "" || s.New == s.Name:
		return nil, fail(nil, "set Switch.New", "mode %s needs a new bundle name", s.Mode)
	}
	from, to := u.From.String(), u.To.String()
	plan := &SwitchPlan{Mode: s.Mode, Name: s.Name, New: next, Forced: s.Force}
	// Whatever the mode, a process that starts opens all of it.
	for _, start := range []struct {
		version *semver.Version
		current bool
		into    *Outcome
	}{{u.To, false, &plan.Started}, {u.From, true, &plan.Back}} {
		opens := p.opens(next, start.current)
		*start.into = Outcome{start.version.String(), PluginRuns,
			"fetches the bundle at its start and loads " + files(opens)}
		all := append(slices.Clone(s.Others), opens...)
		if c := Clashes(all); len(c) > 0 {
			*start.into = Outcome{start.version.String(), WithoutPlugin(start.version), alreadyLoaded(c[0])}
			if !s.Force {
				return nil, fail(ErrOutage, "compile one of them with its own plugin path",
					"gateway %s opens %s and %s, and both have the plugin path %s", start.version, c[0].First,
					c[0].Second, c[0].First.PluginPath)
			}
		}
	}
	plan.Crashed = Outcome{from, PluginRuns, "uses the bundle that it has in its cache"}
	plan.Running = Outcome{from, PluginRuns, "keeps the plugin that it has loaded; the bundle in " +
		"its cache is not fetched again"}
	switch s.Mode {
	case BlueGreen:
		plan.Running.Text = "does not see the new name"
		plan.Crashed.Text = "does not see the new name"
		return plan, nil
	case SameName:
		return plan, nil
	}
	plan.Crashed = Outcome{from, plan.Back.Effect, "fetches the new name at its start; " +
		plan.Back.Text}
	reloaded := p.opens(next, true)
	clash, unknown := Clashes(append(append(slices.Clone(s.Running), s.Others...), reloaded...)),
		len(s.Running) == 0
	for _, o := range append(slices.Clone(s.Running), reloaded...) {
		unknown = unknown || o.PluginPath == ""
	}
	switch {
	case len(clash) > 0:
		plan.Running = Outcome{from, WithoutPlugin(u.From), alreadyLoaded(clash[0]) +
			" until it is restarted"}
	case unknown:
		plan.Running = Outcome{from, EffectUnknown, "has a plugin loaded whose plugin path is unknown"}
	default:
		plan.Running.Text = "reloads, fetches the new name and loads " + files(reloaded) +
			" in addition to what it has"
		return plan, nil
	}
	if s.Force {
		return plan, nil
	}
	hint := "use mode same_name, or compile the build for " + from +
		" with its own plugin path and use mode unique_path"
	if s.Mode == UniquePath {
		hint = "compile the build for " + from + " with a build ID or another module path, or use " +
			"mode same_name"
	}
	what := "a running gateway " + from + " " + plan.Running.Text
	if plan.Running.Effect != EffectUnknown {
		what += "; " + map[Effect]string{
			PluginBypassed: "requests pass without the plugin",
			RequestsFail:   "every request is answered with 500"}[plan.Running.Effect]
	}
	return nil, fail(ErrOutage, hint, "gateways go to %s: %s", to, what)
}

func alreadyLoaded(c Clash) string {
	return fmt.Sprintf("cannot open %s: plugin already loaded, %s has the plugin path %s", c.Second,
		c.First, c.First.PluginPath)
}

func files(opens []Open) string {
	var names []string
	for _, o := range opens {
		names = append(names, o.File)
	}
	return strings.Join(names, ", ")
}
