package preflight_test

import (
	"debug/elf"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/pluginbuild/preflight"
)

// What the dynamic linker refuses, in files that no linker here writes. The oracle
// shows that the flags which one can write are refused.
func TestLoader(t *testing.T) {
	t.Parallel()
	const df1PIE, dtRelr = 0x08000000, elf.DynTag(36)
	for name, c := range map[string]struct {
		change  func(*forged)
		distro  string
		verdict preflight.Verdict
		loader  string
		want    string
	}{
		"nothing": {func(*forged) {}, "debian/13", preflight.Loads, "", ""},
		"not to be opened": {func(f *forged) { f.flags[elf.DT_FLAGS_1] = uint64(elf.DF_1_NOOPEN) },
			"", preflight.Fails, "nodlopen", "refuses it: it is marked"},
		"other flags": {func(f *forged) {
			f.flags[elf.DT_FLAGS_1] = uint64(
				elf.DF_1_NODELETE | elf.DF_1_NOW)
		}, "", preflight.Loads, "", ""},
		"PIE": {func(f *forged) { f.flags[elf.DT_FLAGS_1] = df1PIE }, "",
			preflight.Fails, "pie", "a position-independent executable"},
		"symbolic": {func(f *forged) { f.flags[elf.DT_SYMBOLIC] = 0 }, "", preflight.Fails,
			"symbolic", "-Bsymbolic"},
		"symbolic flag": {func(f *forged) { f.flags[elf.DT_FLAGS] = uint64(elf.DF_SYMBOLIC) }, "",
			preflight.Fails, "symbolic", "-Bsymbolic"},
		"small pages": {func(f *forged) { f.align = 2048 }, "", preflight.Fails, "unaligned",
			"not aligned to pages"},
		"large pages": {func(f *forged) { f.align = 65536 }, "", preflight.Loads, "", ""},
		"packed relocations": {func(f *forged) { f.flags[dtRelr] = 64 }, "", preflight.Fails,
			"unversioned_relr", "packed relocations"},
		"with their version": {func(f *forged) {
			f.flags[dtRelr] = 64
			f.versions["libc.so.6"] =
				[]string{"GLIBC_ABI_DT_RELR"}
		}, "debian/12", preflight.Loads, "", ""},
		"the same on an old": {func(f *forged) {
			f.flags[dtRelr] = 64
			f.versions["libc.so.6"] =
				[]string{"GLIBC_ABI_DT_RELR"}
		}, "debian/11", preflight.Fails, "", "debian/11 has glibc 2.31"},
		"static TLS, none used": {func(f *forged) { f.flags[elf.DT_FLAGS] = uint64(elf.DF_STATIC_TLS) },
			"", preflight.Loads, "", ""},
		"executable stack": {func(f *forged) { f.stack = elf.PF_R | elf.PF_W | elf.PF_X }, "",
			preflight.Loads, "executable_stack", "glibc 2.41 or newer (Debian 13) refuses"},
		"the same, bookworm": {func(f *forged) { f.stack = elf.PF_R | elf.PF_W | elf.PF_X },
			"debian/12", preflight.Loads, "executable_stack", "stacks become executable"},
		"the same, trixie": {func(f *forged) { f.stack = elf.PF_R | elf.PF_W | elf.PF_X },
			"debian/13", preflight.Fails, "executable_stack", "glibc 2.41 of debian/13 refuses it"},
	} {
		f := forgedPlugin()
		f.packages["github.com/google/uuid"] = "uuid-1.6"
		f.flags, f.versions = map[elf.DynTag]uint64{}, map[string][]string{"libc.so.6": {"GLIBC_2.17"}}
		c.change(&f)
		b, err := inspectBytes(f.bytes())
		if err != nil {
			t.Fatal(err)
		}
		r, err := preflight.CompareAll([]*preflight.Binary{b}, gatewayOf(t), preflight.Target{
			Distro: c.distro})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, f := range r.Plugins[0].Findings {
			got += f.String() + "\n"
		}
		if c.distro == "" && c.loader == "" && strings.Contains(got, "name the distribution") {
			got = "" // said where glibc is not known
		}
		if r.Verdict != c.verdict || strings.Join(b.Loader, " ") != c.loader || !strings.Contains(got,
			c.want) || (c.want == "") != (got == "") {
			t.Errorf("%s: %s %v %q, want %s %q", name, r.Verdict, b.Loader, got, c.verdict, c.want)
		}
	}
	// A gateway whose own stack is executable takes such a plugin.
	g := gatewayOf(t)
	g.Loader = []string{"executable_stack"}
	p := agreeing(t, "p.so")
	p.Loader, p.Needs = g.Loader, nil
	if r, err := preflight.CompareAll([]*preflight.Binary{p}, g, preflight.Target{
		Distro: "debian/13"}); err != nil || r.Verdict != preflight.Loads {
		t.Errorf("%s %v, %v", r.Verdict, r.Plugins, err)
	}
}

// Libraries that a host cannot have are told apart from those that can be installed.
func TestLibraries(t *testing.T) {
	t.Parallel()
	for lib, want := range map[string]map[string]preflight.Verdict{
		"libpthread.so.0": {"": preflight.Loads, "debian/12": preflight.Loads},
		"libz.so.1":       {"": preflight.Unknown, "debian/12": preflight.Loads},
		"libxml2.so.2":    {"": preflight.Unknown, "debian/12": preflight.Unknown},
		"libssl.so.1.1": {"": preflight.Unknown, "debian/11": preflight.Unknown,
			"debian/12": preflight.Fails, "ubuntu/16.04": preflight.Fails},
		"libssl.so.3":              {"ubuntu/22.04": preflight.Unknown, "ubuntu/20.04": preflight.Fails},
		"/opt/lib/libx.so":         {"": preflight.Unknown, "debian/12": preflight.Unknown},
		"libc.musl-x86_64.so.1":    {"": preflight.Fails, "debian/12": preflight.Fails},
		"ld-musl-aarch64.so.1":     {"": preflight.Fails},
		"libc.so":                  {"": preflight.Fails},
		"libc.so.0":                {"": preflight.Fails},
		"libuClibc-1.0.34.so":      {"": preflight.Fails},
		"libc.so.7":                {"": preflight.Fails},
		"ld-linux-x86-64.so.2":     {"": preflight.Loads},
		"libcurl-gnutls.so.4":      {"debian/13": preflight.Unknown},
		"libpython3.11.so.1":       {"debian/13": preflight.Fails},
		"librdkafka.so.1":          {"": preflight.Unknown},
		"libcryptographic.so.1000": {"debian/11": preflight.Unknown},
	} {
		for distro, verdict := range want {
			p := agreeing(t, "p.so")
			p.Libraries, p.Needs = []string{"libc.so.6", lib}, nil
			r, err := preflight.CompareAll([]*preflight.Binary{p}, gatewayOf(t), preflight.Target{
				Distro: distro})
			if err != nil || r.Verdict != verdict || verdict != preflight.Loads &&
				r.Plugins[0].Findings[0].Kind != preflight.KindLibrary {
				t.Errorf("%s on %q: %s %v, %v", lib, distro, r.Verdict, r.Plugins[0].Findings, err)
			}
		}
	}
	// A gateway that is not a glibc program at all.
	g, p := gatewayOf(t), agreeing(t, "p.so")
	g.Libraries, g.Needs, p.Needs = []string{"libc.musl-x86_64.so.1"}, nil, nil
	for distro, want := range map[string]int{"": 0, "debian/12": 1} {
		r, err := preflight.CompareAll([]*preflight.Binary{p}, g, preflight.Target{Distro: distro})
		if err != nil || r.Verdict != preflight.Fails || len(r.Findings) != want ||
			!strings.Contains(r.Plugins[0].Findings[0].Detail, "the gateway with musl") {
			t.Errorf("%q: %s %v %v, %v", distro, r.Verdict, r.Plugins[0].Findings, r.Findings, err)
		}
	}
}

// Of builds for several releases a gateway opens one, so they do not exclude each
// other.
func TestRivals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files   map[string]bool // whether it fits the gateway
		verdict preflight.Verdict
		want    string // all findings
	}{
		"two that fit": {map[string]bool{"b/plugin.so": true,
			"b/plugin_v5.2.5_linux_amd64.so": true}, preflight.Loads, ""},
		"one that fits": {map[string]bool{"b/plugin_v4.3.0_linux_amd64.so": false,
			"b/plugin_v5.2.5_linux_amd64.so": true}, preflight.Unknown, "a gateway opens one of these files"},
		"none that fits": {map[string]bool{"b/plugin.so": false,
			"b/plugin_v5.2.5_linux_amd64.so": false}, preflight.Fails, ""},
		"other directories": {map[string]bool{"a/plugin.so": true,
			"b/plugin_v5.2.5_linux_amd64.so": true}, preflight.Fails, "already loaded"},
		"other names": {map[string]bool{"b/one.so": true,
			"b/plugin_v5.2.5_linux_amd64.so": true}, preflight.Fails, "already loaded"},
		"three, one of another": {map[string]bool{"b/plugin.so": true,
			"b/plugin_v5.2.5_linux_amd64.so": true, "b/two.so": true}, preflight.Fails, "already loaded"},
	} {
		var plugins []*preflight.Binary
		for _, file := range slices.Sorted(maps.Keys(c.files)) {
			p := agreeing(t, file)
			p.Needs = nil
			if !c.files[file] {
				p.Packages["github.com/google/uuid"] = "00"
			}
			plugins = append(plugins, p)
		}
		r, err := preflight.CompareAll(plugins, gatewayOf(t), preflight.Target{Distro: "debian/12"})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range r.Plugins {
			for _, f := range p.Findings {
				if f.Verdict != preflight.Loads && f.Kind == preflight.KindDuplicate {
					got = append(got, f.String())
				}
			}
		}
		for _, f := range r.Findings {
			got = append(got, f.String())
		}
		if all := strings.Join(got, "\n"); r.Verdict != c.verdict || !strings.Contains(all, c.want) ||
			(c.want == "") != (all == "") {
			t.Errorf("%s: %s %q, want %s %q", name, r.Verdict, all, c.verdict, c.want)
		}
	}
}

// What the gateway's own packages need is named: not flags that do not matter, and not
// two versions that say the same.
func TestExplainGatewayModule(t *testing.T) {
	t.Parallel()
	const tyk = "github.com/TykTechnologies/tyk"
	gateway := func() *preflight.Binary {
		return &preflight.Binary{
			Name: "tyk", Machine: "EM_X86_64", Arch: "amd64", Go: true, GoVersion: "go1.22.1",
			Main:    preflight.Module{Path: tyk, Version: "(devel)"},
			Modules: []preflight.Module{}, Settings: map[string]string{"-tags": "goplugin"},
			Packages: map[string]string{"runtime": "aa", tyk + "/log": "bb", tyk + "/user": "cc"},
		}
	}
	for name, c := range map[string]struct {
		file    string
		version string // of the gateway's module in the plugin
		want    string
	}{
		"another release": {"plugin_v5.2.4_linux_amd64.so", "(devel)",
			tyk + ": the gateway's own module: " + tyk + "/log, " + tyk +
				"/user differ, because the plugin was compiled for 5.2.4, but the gateway is 5.2.5; " +
				"recompile in the image tykio/tyk-plugin-compiler:v5.2.5, which has the gateway's packages"},
		"the same release": {"plugin_v5.2.5_linux_amd64.so", "(devel)",
			"differ; by its name, the plugin was compiled for 5.2.5; recompile"},
		"unknown": {"plugin.so", "(devel)", "/user differ; recompile"},
		"outside": {"plugin.so", "v1.9.2-0.20231006100548-ffa83a27d3bf",
			"because the plugin was compiled with version v1.9.2-0.20231006100548-ffa83a27d3bf " +
				"instead of the gateway's workspace"},
	} {
		g, p := gateway(), gateway()
		p.Name, p.Shared, p.Plugin, p.PluginPath, p.Settings = c.file, true, true, "example.com/p",
			map[string]string{"-tags": ""}
		p.Main, p.Modules = preflight.Module{Path: "example.com/p"}, []preflight.Module{{Path: tyk,
			Version: c.version}}
		p.Packages[tyk+"/log"], p.Packages[tyk+"/user"] = "dd", "ee"
		r, err := preflight.CompareAll([]*preflight.Binary{p}, g, preflight.Target{
			Gateway: semver.MustParse("5.2.5")})
		if err != nil || len(r.Plugins[0].Findings) != 1 ||
			!strings.Contains(r.Plugins[0].Findings[0].String(), c.want) {
			t.Errorf("%s: %v, %v", name, r.Plugins[0].Findings, err)
		}
	}
}
