package preflight

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// image is the compiler image for a gateway.
type image struct {
	release *semver.Version // nil: unknown
	fips    bool
}

func (i image) recompile() string {
	name := "tykio/tyk-plugin-compiler"
	if i.fips {
		name += "-fips" // from 5.8.14 and 5.13 on
	}
	if i.release == nil {
		return "recompile in the image " + name + " of the gateway's release"
	}
	return "recompile in the image " + name + ":v" + i.release.String()
}

func (b *Binary) fips() bool {
	f := b.Settings["GOFIPS140"]
	return f != "" && f != "off" || slices.Contains(b.experiments(), "boringcrypto")
}

// experiments returns the GOEXPERIMENTs that differ from the default. They are in the version
// since Go 1.17 ("go1.23.1 X:boringcrypto"), and in the settings since 1.18.
func (b *Binary) experiments() []string {
	_, in, _ := strings.Cut(b.GoVersion, "X:")
	list := strings.Split(in+","+b.Settings["GOEXPERIMENT"], ",")
	slices.Sort(list)
	return slices.DeleteFunc(slices.Compact(list),
		func(s string) bool { return strings.TrimSpace(s) == "" })
}

// release returns the Go version without its experiments. They look like "go1.23.1 X:boringcrypto"
// or, since 1.26, "go1.26.1-X:jsonv2".
func (b *Binary) release() string {
	v, _, _ := strings.Cut(b.GoVersion, "X:")
	return strings.TrimRight(v, " -")
}

// explain returns the causes why packages differ, those with most packages first. It returns at
// least one finding, and each is decisive.
func explain(p, g *Binary, mismatched []string, img image) []Finding {
	var std []string
	byModule := map[string][]string{}
	for _, pkg := range mismatched {
		if m := moduleOf(pkg, p, g); m != "" {
			byModule[m] = append(byModule[m], pkg)
		} else {
			std = append(std, pkg)
		}
	}
	var found []Finding
	add := func(kind Kind, subject, detail, remedy string, packages []string) {
		found = append(found, Finding{Verdict: Fails, Kind: kind, Subject: subject, Detail: detail,
			Remedy: remedy, Packages: packages})
	}
	if gv, pv := g.release(), p.release(); gv != pv && gv != "" && pv != "" {
		add(KindGo, "Go", versions(gv, pv), img.recompile(), nil)
	}
	for _, f := range flags(p, g, len(std) > 0) {
		f.Verdict, f.Kind = Fails, KindFlag
		if f.Remedy == "" {
			f.Remedy = img.recompile()
		}
		found = append(found, f)
	}
	whole := len(found) > 0 // something that can touch every package
	if len(std) > 0 && !whole {
		add(KindPackage, "standard library", sample(std)+": differs although Go version and flags are "+
			"the same or not recorded",
			img.recompile(), std)
		whole = true
	}
	var same []Finding
	for _, m := range slices.Sorted(maps.Keys(byModule)) {
		f, differs := moduleFinding(m, p, g, byModule[m], img)
		if differs {
			found = append(found, f)
		} else {
			same = append(same, f)
		}
	}
	// A module of the same version differs because of the findings above, or because of one of its
	// dependencies. Without other findings it is the finding.
	if !whole && len(found) == 0 {
		return same
	}
	if len(found) > 0 && !whole {
		for _, f := range same {
			f.Detail += "; another module that differs may be the cause"
			found = append(found, f)
		}
	}
	return found
}

// flagKeys are the settings that change compiled packages. Only newer Go releases record some.
var flagKeys = []struct {
	key string
	std bool // also changes the standard library
}{
	{"-race", true}, {"-msan", true}, {"-asan", true}, {"-trimpath", true},
	{"-compiler", true}, {"GOFIPS140", false}, {"-cover", false}, {"-tags", false},
	{"-gcflags", false}, {"-asmflags", false}, {"CGO_ENABLED", true},
}

// flags returns the settings that differ and may be the cause. std means that packages of the
// standard library differ.
func flags(p, g *Binary, std bool) []Finding {
	var found []Finding
	add := func(subject, gateway, plugin, remedy string) {
		found = append(found, Finding{Subject: subject, Detail: versions(gateway, plugin),
			Remedy: remedy})
	}
	if gx, px := strings.Join(g.experiments(), ","), strings.Join(p.experiments(), ","); gx != px {
		add("GOEXPERIMENT", gx, px, "")
	}
	// Go before 1.18 records no settings at all.
	if len(p.Settings) == 0 || len(g.Settings) == 0 {
		return found
	}
	for _, k := range flagKeys {
		gv, pv := setting(g, k.key), setting(p, k.key)
		if gv == pv || (k.std && !std) {
			continue
		}
		remedy := ""
		switch {
		case k.key == "GOFIPS140" || k.key == "CGO_ENABLED" || k.key == "-compiler" ||
			k.key == "-asmflags":
		case gv == "":
			remedy = "compile the plugin without " + k.key
		case gv == "true":
			remedy = "compile the plugin with " + k.key
		default:
			remedy = "compile the plugin with " + k.key + "=" + gv
		}
		add(k.key, gv, pv, remedy)
	}
	return found
}

// setting returns a value in comparable form.
func setting(b *Binary, key string) string {
	v := b.Settings[key]
	switch key {
	case "GOFIPS140":
		if v == "off" {
			return ""
		}
	case "-tags":
		tags := strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' })
		slices.Sort(tags)
		// Go adds fips140 tags for GOFIPS140, which is compared itself. goplugin affects only the
		// gateway's files, and compilers before 5.8.14 and 5.12.1 do not set it.
		tags = slices.DeleteFunc(tags, func(t string) bool {
			return strings.HasPrefix(t, "fips140") ||
				t == "goplugin"
		})
		return strings.Join(slices.Compact(tags), ",")
	case "-gcflags", "-asmflags":
		// Without a pattern ("all=-N") the flags affect only the main package, which the other file
		// does not have.
		if before, _, ok := strings.Cut(v, "="); !ok || strings.HasPrefix(strings.TrimSpace(before),
			"-") {
			return ""
		}
	}
	return v
}

// moduleFinding explains why packages of one module differ. differs is false if both files have
// the same version of it.
func moduleFinding(path string, p, g *Binary, packages []string,
	img image) (f Finding, differs bool) {
	f = Finding{Verdict: Fails, Kind: KindModule, Subject: path, Packages: packages}
	pm, pok := p.module(path)
	gm, gok := g.module(path)
	gv, pv := gm.String(), pm.String()
	switch {
	case gok && path == g.Main.Path:
		f.Detail = "the gateway's own module: " + sample(packages) + " differ"
		if len(packages) == 1 {
			f.Detail += "s"
		}
		outside := pok && orDevel(gv) != orDevel(pv)
		switch of := compiledFor(p); {
		case outside:
			f.Detail += ", because the plugin was compiled with version " + pv +
				" instead of the gateway's workspace"
		case of != "" && img.release != nil && of != img.release.String():
			f.Detail += ", because the plugin was compiled for " + of + ", but the gateway is " +
				img.release.String()
		case of != "":
			f.Detail += "; by its name, the plugin was compiled for " + of
		}
		f.Remedy = img.recompile() + ", which has the gateway's packages"
		return f, outside
	case !gok && (!pok || len(g.Modules) == 0), !pok && len(p.Settings) == 0:
		// GOPATH mode records no modules.
		f.Detail = "differs, but not both files record its version"
		f.Remedy = img.recompile()
		return f, false
	case gv == pv:
		f.Detail = "differs, although both have " + gv + ": the source was changed, or compiled " +
			"outside the gateway's workspace"
		f.Remedy = img.recompile()
		return f, false
	}
	f.Detail = versions(gv, pv)
	switch {
	case gm.Replace != nil:
		f.Remedy = "in the plugin's go.mod: replace " + path + " => " + gm.Replace.spec()
	case gm.Version == "(devel)" || gm.Version == "":
		f.Remedy = img.recompile()
	case newer(pm.Version, gm.Version):
		f.Remedy = "in the plugin's go.mod: require " + gm.spec() +
			", and lower modules that require more (go mod graph)"
	default:
		f.Remedy = "in the plugin's go.mod: require " + gm.spec()
	}
	return f, true
}

// compiledFor returns the release in a plugin's file name, such as "5.2.5", or "".
func compiledFor(p *Binary) string {
	suffix := releaseSuffix.FindString(strings.TrimSuffix(p.Name, ".so"))
	v, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(suffix, "_"), "v"), "_")
	return v
}

func orDevel(v string) string { return cmp.Or(v, "(devel)") }

func newer(a, b string) bool {
	x, errX := semver.NewVersion(a)
	y, errY := semver.NewVersion(b)
	return errX == nil && errY == nil && x.GreaterThan(y)
}

// spec returns a module in the syntax of go.mod. A directory has no version.
func (m Module) spec() string {
	return strings.TrimSpace(m.Path + " " + strings.TrimPrefix(m.Version, "(devel)"))
}

// String returns the version and its replacement.
func (m Module) String() string {
	if m.Replace != nil {
		return strings.TrimSpace(m.Version + " => " + m.Replace.spec())
	}
	return m.Version
}

// module finds a linked module by its path.
func (b *Binary) module(path string) (Module, bool) {
	if b.Main.Path == path && path != "" {
		return b.Main, true
	}
	i, ok := slices.BinarySearchFunc(b.Modules, path, func(m Module,
		p string) int {
		return cmp.Compare(m.Path, p)
	})
	if !ok {
		return Module{}, false
	}
	return b.Modules[i], true
}

// moduleOf returns the module path of a package: the longest in either file, otherwise its first
// elements. It returns "" for the standard library.
func moduleOf(pkg string, bs ...*Binary) string {
	for p := pkg; p != "."; p = parent(p) {
		for _, b := range bs {
			if _, ok := b.module(p); ok {
				return p
			}
		}
	}
	first, _, _ := strings.Cut(pkg, "/")
	if !strings.Contains(first, ".") {
		return ""
	}
	// GOPATH mode: use the vendored path, not the vendoring package.
	if i := strings.LastIndex(pkg, "/vendor/"); i >= 0 {
		pkg = pkg[i+len("/vendor/"):]
	}
	elems := strings.SplitN(pkg, "/", 4)
	return strings.Join(elems[:min(3, len(elems))], "/")
}

func parent(p string) string {
	i := strings.LastIndexByte(p, '/')
	if i < 0 {
		return "."
	}
	return p[:i]
}
