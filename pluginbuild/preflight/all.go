package preflight

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/internal/lazyregexp"
)

// Target describes the hosts of the plugins. The zero value checks only [Compare] and conflicts
// between plugins.
type Target struct {
	Distro string // "debian/11", "ubuntu/22.04": see [Distros]; empty: glibc is not checked
	Arch   string // Go's name of the architecture; empty: the gateway's
	// highest CPU level of the hosts, "v1" to "v4"; empty: a plugin above the gateway's gets a warning
	GOAMD64 string
	Gateway *semver.Version // release of the gateway, for the name of the compiler image; nil: unknown
	Symbols []Symbol        // functions in the manifest
}

// Symbol is a function that a bundle's manifest names.
type Symbol struct {
	// of the plugin in the manifest; the actual name may have a release's suffix such as
	// "_v5.2.5_linux_amd64"
	File string
	Name string
	Hook Hook // its use in the manifest; empty: check only its presence
}

// AddSymbol adds a function of a manifest for a response hook or for a request hook.
func (t *Target) AddSymbol(file, name string, response bool) {
	s := Symbol{File: file, Name: name, Hook: HookRequest}
	if response {
		s.Hook = HookResponse
	}
	t.Symbols = append(t.Symbols, s)
}

// Report is the result of [CompareAll].
type Report struct {
	Verdict  Verdict   `json:"verdict"` // the worst of all
	Gateway  *Binary   `json:"gateway"`
	Plugins  []Result  `json:"plugins"`            // in the order of the arguments
	Findings []Finding `json:"findings,omitempty"` // about the gateway or several plugins
}

// glibcs maps each distribution to its glibc version.
var glibcs = map[string]string{
	"ubuntu/16.04": "2.23",
	"ubuntu/18.04": "2.27",
	"ubuntu/20.04": "2.31",
	"ubuntu/22.04": "2.35",
	"ubuntu/24.04": "2.39",
	"debian/11":    "2.31",
	"debian/12":    "2.36",
	"debian/13":    "2.41",
}

// Distros returns the distributions that a [Target] may name.
func Distros() []string { return slices.Sorted(maps.Keys(glibcs)) }

func (t Target) check() error {
	bad := func(format string, a ...any) error {
		return fail("check", "target", fmt.Errorf("%w: "+format, append([]any{ErrTarget}, a...)...))
	}
	if t.Distro != "" && glibcs[t.Distro] == "" {
		return bad("unknown distribution %q (want one of %s)", t.Distro, strings.Join(Distros(), ", "))
	}
	if t.GOAMD64 != "" && !slices.Contains([]string{"v1", "v2", "v3", "v4"}, t.GOAMD64) {
		return bad("unknown CPU level %q (want v1, v2, v3 or v4)", t.GOAMD64)
	}
	if t.Arch != "" && !slices.Contains(slices.Collect(maps.Values(arches)), t.Arch) {
		return bad("unknown architecture %q (want one of %s)", t.Arch,
			strings.Join(slices.Sorted(maps.Values(arches)), ", "))
	}
	for _, s := range t.Symbols {
		if s.Name == "" || s.File == "" {
			return bad("symbol without name or file: %+v", s)
		}
		if !slices.Contains([]Hook{"", HookRequest, HookResponse, HookAnalytics}, s.Hook) {
			return bad("symbol %s: unknown hook %q", s.Name, s.Hook)
		}
	}
	return nil
}

// CompareAll predicts whether a gateway loads plugins in this order on a target. In addition to
// [Compare] it checks conflicts between plugins, and the target's architecture, CPU level, glibc
// and symbols. The error wraps [ErrTarget] if the target is invalid or an argument is missing.
func CompareAll(plugins []*Binary, gateway *Binary, t Target) (Report, error) {
	if err := t.check(); err != nil {
		return Report{}, err
	}
	if len(plugins) == 0 || gateway == nil || slices.Contains(plugins, nil) {
		return Report{}, fail("compare", "plugins", fmt.Errorf("%w: no plugin or no gateway given",
			ErrTarget))
	}
	r := Report{Verdict: Loads, Gateway: gateway}
	for _, p := range plugins {
		r.Plugins = append(r.Plugins, compare(p, gateway, image{release: t.Gateway}, t.Distro))
	}
	among(r.Plugins, gateway)
	for i := range r.Plugins {
		r.Plugins[i].target(gateway, t)
	}
	r.symbols(t.Symbols)
	left := r.alternatives()
	r.gateway(t)
	for i := range r.Plugins {
		r.Plugins[i].sort()
		if !left[i] {
			r.Verdict = r.Verdict.worse(r.Plugins[i].Verdict)
		}
	}
	return r, nil
}

// among finds conflicts between plugins. A process loads a plugin path only once. Plugins must
// also agree on packages that the gateway lacks, because the dynamic linker binds the hashes of
// a later plugin to an earlier one. It does so even if Go refused the earlier one (seen with Go
// 1.26 and glibc 2.36).
func among(results []Result, gateway *Binary) {
	// The first plugins with a path, a module, or a package that the gateway lacks. Rivals are never
	// in one process.
	paths, modules, first := map[string][]*Binary{}, map[string][]*Binary{}, map[string][]*Binary{}
	holder := func(list []*Binary, p *Binary) *Binary {
		for _, other := range list {
			if !rivals(other, p) {
				return other
			}
		}
		return nil
	}
	for i := range results {
		r := &results[i]
		p := r.Plugin
		if !r.mapped || !p.Plugin {
			continue
		}
		if other := holder(paths[p.PluginPath], p); other != nil && p.PluginPath != "" {
			if !sameFile(p, other) {
				r.add(Finding{Verdict: Fails, Kind: KindDuplicate, Subject: p.PluginPath,
					Detail: "plugin already loaded: " + other.Name + " has the same plugin path",
					Remedy: "give one of them another module path, or an id when compiling"})
			}
			continue
		}
		if other := holder(modules[p.Main.Path], p); other != nil && p.Main.Path != "" {
			r.add(Finding{Verdict: Loads, Kind: KindDuplicate, Subject: p.Main.Path,
				Detail: "also the module of " + other.Name,
				Remedy: "compile both from the same source, so that the packages they share stay equal"})
		}
		var differ []string
		var owner *Binary
		for _, pkg := range slices.Sorted(maps.Keys(p.Packages)) {
			if _, ok := gateway.Packages[pkg]; ok {
				continue
			}
			if other := holder(first[pkg], p); other == nil {
				first[pkg] = append(first[pkg], p)
			} else if other.Packages[pkg] != p.Packages[pkg] {
				differ, owner = append(differ, pkg), other
			}
		}
		if len(differ) > 0 {
			r.Mismatched = append(r.Mismatched, differ...)
			r.add(Finding{Verdict: Fails, Kind: KindDuplicate, Subject: sample(differ),
				Detail: "differs from the one in " + owner.Name + ", which the gateway opens first",
				Remedy: "compile both with the same version of it", Packages: differ})
		}
		// A plugin that was refused does not take its path.
		if r.Verdict != Fails {
			paths[p.PluginPath] = append(paths[p.PluginPath], p)
			modules[p.Main.Path] = append(modules[p.Main.Path], p)
		}
	}
}

// sameFile reports whether a and b are the same file for the runtime, also through a symbolic
// link. A hard link or a copy is another file.
func sameFile(a, b *Binary) bool {
	return a.SHA256 == b.SHA256 && (a.Name == b.Name || a.real == b.real && a.real != "")
}

// rivals reports whether a and b are builds of one plugin for several releases, such as plugin.so
// and plugin_v5.2.5_linux_amd64.so. A gateway opens one of them.
func rivals(a, b *Binary) bool {
	stem := func(b *Binary) string {
		return releaseSuffix.ReplaceAllString(strings.TrimSuffix(b.Name,
			".so"), "")
	}
	return a.Name != b.Name && stem(a) == stem(b)
}

// alternatives finds rivals of which only some load. Their verdicts do not count for the whole,
// because it is unknown which one the gateway opens.
func (r *Report) alternatives() (left map[int]bool) {
	left = map[int]bool{}
	for i := range r.Plugins {
		names, loads := []string{r.Plugins[i].Plugin.Name}, []bool{r.Plugins[i].Verdict == Loads}
		group := []int{i}
		for j := range r.Plugins {
			if rivals(r.Plugins[i].Plugin, r.Plugins[j].Plugin) {
				names, loads, group = append(names, r.Plugins[j].Plugin.Name), append(loads,
					r.Plugins[j].Verdict == Loads), append(group, j)
			}
		}
		if left[i] || !slices.Contains(loads, true) || !slices.Contains(loads, false) {
			continue
		}
		for _, j := range group {
			left[j] = true
		}
		slices.Sort(names)
		r.add(Finding{Verdict: Unknown, Kind: KindFile, Subject: strings.Join(names, ", "),
			Detail: "a gateway opens one of these files, and not all load",
			Remedy: "check only the file that a gateway of this release opens"})
	}
	return left
}

// target compares a plugin with its target.
func (r *Result) target(g *Binary, t Target) {
	p := r.Plugin
	if t.Arch != "" && p.Arch != t.Arch {
		r.add(Finding{Verdict: Fails, Kind: KindCPU, Subject: "architecture", Detail: "target " + t.Arch +
			", plugin " + machine(p),
			Remedy: "compile the plugin for " + t.Arch})
	}
	switch {
	case t.GOAMD64 != "" && p.GOAMD64 > t.GOAMD64:
		r.add(Finding{Verdict: Fails, Kind: KindCPU, Subject: "GOAMD64", Detail: "target " + t.GOAMD64 +
			", plugin " + p.GOAMD64 +
			": it loads, but crashes the gateway at the first instruction that the CPU lacks",
			Remedy: "compile the plugin with GOAMD64=" + t.GOAMD64})
	case t.GOAMD64 == "" && g.GOAMD64 != "" && p.GOAMD64 > g.GOAMD64:
		r.add(Finding{Verdict: Loads, Kind: KindCPU, Subject: "GOAMD64", Detail: versions(g.GOAMD64,
			p.GOAMD64) + ": it crashes the gateway on an older CPU",
			Remedy: "compile the plugin with GOAMD64=" + g.GOAMD64})
	}
	if has, needs := highest(g.Needs), highest(p.Needs); t.Distro == "" && has != "" &&
		compareDotted(needs, has) > 0 {
		r.add(Finding{Verdict: Loads, Kind: KindLibrary, Subject: "glibc", Detail: versions(has, needs) +
			": it needs hosts with that glibc",
			Remedy: "name the distribution of the gateway hosts to check it"})
	}
	remedy := "compile the plugin on a system with glibc " + glibcs[t.Distro] + " or older"
	if t.Distro == "ubuntu/16.04" || t.Distro == "ubuntu/18.04" {
		// Packages for these distributions come from it: 3.2.3, 4.0 to 4.3 and 5.0.
		remedy += ", such as the -el7 image if the release has one"
	}
	for _, f := range glibcFindings(p, t, remedy) {
		r.add(f)
	}
}

// highest returns the highest glibc version of needs.
func highest(needs []Need) string {
	v := ""
	for _, n := range needs {
		if compareDotted(n.Glibc, v) > 0 {
			v = n.Glibc
		}
	}
	return v
}

func glibcFindings(b *Binary, t Target, remedy string) []Finding {
	has := glibcs[t.Distro]
	if has == "" {
		return nil
	}
	var found []Finding
	for _, n := range b.Needs {
		if compareDotted(n.Glibc, has) > 0 {
			found = append(found, Finding{Verdict: Fails, Kind: KindLibrary, Subject: n.Library,
				Detail: fmt.Sprintf("%s has glibc %s, but %s needs %s", t.Distro, has, name(b), n.Glibc),
				Remedy: remedy})
		}
	}
	return found
}

// gateway compares the gateway itself with the target.
func (r *Report) gateway(t Target) {
	g := r.Gateway
	if t.Arch != "" && g.Arch != t.Arch {
		r.add(Finding{Verdict: Fails, Kind: KindCPU, Subject: "architecture", Detail: "target " + t.Arch +
			", gateway " + machine(g),
			Remedy: "compare with the gateway of the target's architecture"})
	}
	if kind, lib := cLibrary(g.Libraries); lib != "" && t.Distro != "" {
		r.add(Finding{Verdict: Fails, Kind: KindLibrary, Subject: lib,
			Detail: "the gateway is linked with " + kind + ", but " + t.Distro + " has glibc",
			Remedy: "compare with the gateway package of that distribution"})
	}
	for _, f := range glibcFindings(g, t, "compare with the gateway package of that distribution") {
		r.add(f)
	}
}

func (r *Report) add(f Finding) {
	r.Findings = append(r.Findings, f)
	r.Verdict = r.Verdict.worse(f.Verdict)
}

// releaseSuffix matches the suffix that compilers append from 4.1.0 on. Gateways look for it with
// and without the v.
var releaseSuffix = lazyregexp.New(`_v?\d+\.\d+\.\d+_[a-z0-9]+_[a-z0-9]+$`)

// is reports whether a plugin is the symbol's file in the manifest.
func (s Symbol) is(b *Binary) bool {
	want, got := strings.TrimSuffix(path.Base(s.File), ".so"), strings.TrimSuffix(path.Base(b.Name),
		".so")
	return got == want || releaseSuffix.ReplaceAllString(got, "") == want
}

// symbols checks the functions that a manifest names.
func (r *Report) symbols(symbols []Symbol) {
	for _, s := range symbols {
		given := false
		for i := range r.Plugins {
			if p := &r.Plugins[i]; s.is(p.Plugin) {
				given = true
				p.symbol(s)
			}
		}
		if !given {
			r.add(Finding{Verdict: Unknown, Kind: KindSymbol, Subject: s.Name,
				Detail: "the manifest takes it from " + s.File + ", which was not checked",
				Remedy: "check that file as well"})
		}
	}
}

func (r *Result) symbol(s Symbol) {
	p := r.Plugin
	add := func(v Verdict, detail, remedy string) {
		r.add(Finding{Verdict: v, Kind: KindSymbol, Subject: s.Name, Detail: detail, Remedy: remedy})
	}
	if !p.Plugin || p.PluginPath == "" {
		return // another finding reports it
	}
	i := slices.IndexFunc(p.Exports, func(f Func) bool { return f.Name == s.Name })
	if i < 0 {
		if slices.Contains(p.Variables, s.Name) {
			add(Fails, "a variable, not a function", "declare it with func")
			return
		}
		names := make([]string, len(p.Exports))
		for i, f := range p.Exports {
			names[i] = f.Name
		}
		add(Fails, "the plugin has no such function; it exports "+orNone(sample(names)),
			"correct the name in the manifest or in the plugin; it must begin with a capital letter")
		return
	}
	switch f := p.Exports[i]; {
	case s.Hook == "" || f.Hook == s.Hook:
	case f.Hook == HookUnknown:
		add(Loads, "its signature is unknown: the file has no debug information",
			"compile without -ldflags=-s -w to check it")
	default:
		add(Fails, fmt.Sprintf("its signature is %s; a %s hook needs %s", f.Signature, s.Hook,
			wants[s.Hook]), "change the function, or use it for another hook")
	}
}

var wants = map[Hook]string{
	HookRequest:   "func(http.ResponseWriter, *http.Request)",
	HookResponse:  "func(http.ResponseWriter, *http.Response, *http.Request)",
	HookAnalytics: "func(*analytics.AnalyticsRecord)",
}
