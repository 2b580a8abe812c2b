package preflight

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// Verdict predicts whether a plugin loads. The zero value is invalid.
type Verdict string

// The verdicts. Unknown means that decisive data cannot be read.
const (
	Loads   Verdict = "loads"
	Fails   Verdict = "fails"
	Unknown Verdict = "unknown"
)

var rank = map[Verdict]int{Loads: 1, Unknown: 2, Fails: 3}

// worse returns the worse of two verdicts.
func (v Verdict) worse(w Verdict) Verdict {
	if rank[w] > rank[v] {
		return w
	}
	return v
}

// Kind is the kind of a [Finding].
type Kind string

// The kinds of findings.
const (
	KindFile      Kind = "file"      // not a Go plugin, or unreadable hashes
	KindGo        Kind = "go"        // the Go version
	KindFlag      Kind = "flag"      // a build flag or setting
	KindModule    Kind = "module"    // a module's version or content
	KindPackage   Kind = "package"   // a package of the standard library
	KindDuplicate Kind = "duplicate" // a conflict of two plugins
	KindSymbol    Kind = "symbol"    // a function that the manifest names
	KindLibrary   Kind = "library"   // glibc or another shared library
	KindCPU       Kind = "cpu"       // architecture or CPU level
	KindLoader    Kind = "loader"    // refused by the dynamic linker or the kernel
)

// Finding is a reason for a verdict, or a warning.
type Finding struct {
	Verdict Verdict `json:"verdict"` // its effect; Loads marks a warning
	Kind    Kind    `json:"kind"`
	Subject string  `json:"subject"`          // "github.com/google/uuid", "-trimpath"
	Detail  string  `json:"detail"`           // "gateway v1.6.0, plugin v1.5.0"
	Remedy  string  `json:"remedy,omitempty"` // what to do
	// the packages that differ because of it; empty: all that differ
	Packages []string `json:"packages,omitempty"`
}

func (f Finding) String() string {
	s := f.Subject + ": " + f.Detail
	if f.Remedy != "" {
		s += "; " + f.Remedy
	}
	return s
}

// Result is the prediction for one plugin.
type Result struct {
	Plugin  *Binary `json:"plugin"`
	Verdict Verdict `json:"verdict"`
	// number of packages in both files whose hashes were compared
	Common     int       `json:"common"`
	Mismatched []string  `json:"mismatched,omitempty"` // packages with different hashes
	Findings   []Finding `json:"findings,omitempty"`   // the decisive ones first

	mapped bool // the dynamic linker maps the file, even if Go refuses it later
}

func (r *Result) add(f Finding) {
	r.Findings = append(r.Findings, f)
	r.Verdict = r.Verdict.worse(f.Verdict)
}

// sort puts the decisive findings first.
func (r *Result) sort() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Compare(rank[b.Verdict],
			rank[a.Verdict])
	})
}

// Compare predicts the result of plugin.Open in the gateway, and explains it. It assumes a host
// with the libraries that both files need. As the runtime does, it compares the hash of every
// package in both files. Flags, versions and modules only explain a difference.
func Compare(plugin, gateway *Binary) Result {
	return compare(plugin, gateway, image{}, "")
}

func compare(p, g *Binary, img image, distro string) Result {
	img.fips = g.fips()
	r := Result{Plugin: p, Verdict: Loads}
	file := func(v Verdict, subject, detail, remedy string) {
		r.add(Finding{Verdict: v, Kind: KindFile, Subject: subject, Detail: detail, Remedy: remedy})
	}
	if p.Machine != g.Machine {
		r.add(Finding{Verdict: Fails, Kind: KindCPU, Subject: "machine", Detail: "gateway " + machine(g) +
			", plugin " + machine(p),
			Remedy: "compile the plugin for " + machine(g)})
		return r
	}
	if !p.Shared {
		file(Fails, name(p), "an executable, not a shared object", "compile it with -buildmode=plugin")
		return r
	}
	switch {
	case !p.Go && !p.symbols:
		file(Unknown, name(p), "its dynamic symbol table was removed, so its compiler is unknown",
			"compare the file that the compiler wrote")
		return r
	case !p.Go:
		file(Fails, name(p), "a shared object that Go did not compile",
			"compile the plugin with Go and -buildmode=plugin")
		return r
	case !p.Plugin:
		file(Fails, name(p), "compiled by Go, but not as a plugin"+mode(p),
			"compile it with -buildmode=plugin")
		return r
	}
	r.mapped = r.loader(p)
	switch {
	case g.Settings["CGO_ENABLED"] == "0":
		file(Fails, name(g), "compiled with CGO_ENABLED=0, so it cannot load any plugin",
			"use the gateway's official build")
		return r
	case g.Shared:
		file(Unknown, name(g), "a shared object, not a gateway binary",
			"name the gateway's own binary, such as /opt/tyk-gateway/tyk")
	case len(g.Packages) == 0:
		file(Unknown, name(g), "it has no package hashes: not a Go program that can load plugins, or "+
			"its dynamic symbol table was removed",
			"name the released binary of the gateway, such as /opt/tyk-gateway/tyk")
	}
	if len(p.Packages) == 0 {
		file(Unknown, name(p), "it has no package hashes: its dynamic symbol table was removed",
			"compare the file that the compiler wrote")
	}
	r.hashes(p, g, img)
	r.libraries(p, g, distro)
	r.stack(g, distro)
	switch {
	case p.PluginPath == "":
		file(Unknown, name(p), "the package with its functions was not found",
			"compare the file that the compiler wrote")
	case p.declared > 0 && len(p.Exports)+len(p.Variables) == 0:
		file(Fails, name(p), fmt.Sprintf("plugin.Open looks up %s as %s.NAME, but the file has no such "+
			"symbol, as after -ldflags=-pluginpath",
			count(int(p.declared), "name", "names"), p.PluginPath),
			"compile it without -ldflags=-pluginpath")
	}
	r.sort()
	return r
}

// hashes compares package hashes as plugin_lastmoduleinit of the runtime does.
func (r *Result) hashes(p, g *Binary, img image) {
	var unreadable []string
	for _, pkg := range slices.Sorted(maps.Keys(p.Packages)) {
		h, ok := g.Packages[pkg]
		switch {
		case ok:
			r.Common++
			if h != p.Packages[pkg] {
				r.Mismatched = append(r.Mismatched, pkg)
			}
		case slices.Contains(g.Unreadable, pkg):
			unreadable = append(unreadable, pkg)
		}
	}
	for _, pkg := range p.Unreadable {
		if _, ok := g.Packages[pkg]; ok || slices.Contains(g.Unreadable, pkg) {
			unreadable = append(unreadable, pkg)
		}
	}
	slices.Sort(unreadable)
	if len(unreadable) > 0 {
		r.add(Finding{Verdict: Unknown, Kind: KindFile, Subject: "package hashes", Packages: unreadable,
			Detail: fmt.Sprintf("%s cannot be read", count(len(unreadable), "hash", "hashes")),
			Remedy: "compare the files as the compiler wrote them"})
	}
	if len(r.Mismatched) > 0 {
		for _, f := range explain(p, g, r.Mismatched, img) {
			r.add(f)
		}
		return
	}
	// Every Go program holds the runtime.
	if _, ok := p.Packages["runtime"]; !ok && len(p.Packages) > 0 || r.Common == 0 &&
		r.Verdict == Loads {
		r.add(Finding{Verdict: Unknown, Kind: KindFile, Subject: "package hashes",
			Detail: "the list is incomplete: it lacks the runtime's hash",
			Remedy: "compare the files as the compiler wrote them"})
	}
	// Seen with Go 1.26.7 and 1.26.8: fixes inside packages change no hash.
	if gv, pv := g.release(), p.release(); gv != pv && gv != "" && pv != "" {
		r.add(Finding{Verdict: Loads, Kind: KindGo, Subject: "Go", Detail: versions(gv, pv) +
			", although all hashes agree",
			Remedy: img.recompile() + " to run the tested code"})
	}
	if gf, pf := setting(g, "GOFIPS140"), setting(p, "GOFIPS140"); gf != pf && len(g.Settings) > 0 &&
		len(p.Settings) > 0 {
		r.add(Finding{Verdict: Loads, Kind: KindFlag, Subject: "GOFIPS140", Detail: versions(gf, pf) +
			", although all hashes agree",
			Remedy: img.recompile()})
	}
}

func name(b *Binary) string {
	if b.Name == "" {
		return "file"
	}
	return path.Base(b.Name)
}

func machine(b *Binary) string {
	if b.Arch != "" {
		return b.Arch
	}
	return b.Machine
}

func mode(b *Binary) string {
	if m := b.Settings["-buildmode"]; m != "" {
		return " (-buildmode=" + m + ")"
	}
	return ""
}

func versions(gateway, plugin string) string {
	return "gateway " + orNone(gateway) + ", plugin " + orNone(plugin)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// sample names the first few of a list.
func sample(all []string) string {
	const few = 3
	if len(all) <= few {
		return strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:few], ", "), len(all)-few)
}
