package preflight_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"example.com/tykupgrade/pluginbuild/preflight"
)

// The signatures of a real plugin, and what a manifest may make of them.
func TestHooks(t *testing.T) {
	t.Parallel()
	const args = "net/http.ResponseWriter, *net/http.Request"
	want := []preflight.Func{
		{Name: "Analytics", Hook: preflight.HookAnalytics, Signature: "func(*" + record +
			"/analytics.AnalyticsRecord)"},
		{Name: "Nothing", Hook: preflight.HookNone, Signature: "func()"},
		{Name: "Request", Hook: preflight.HookRequest, Signature: "func(" + args + ")"},
		{Name: "Response", Hook: preflight.HookResponse, Signature: "func(net/http.ResponseWriter, " +
			"*net/http.Response, *net/http.Request)"},
		{Name: "Returns", Hook: preflight.HookNone, Signature: "func(" + args + ") (int, error)"},
	}
	full, stripped := inspect(t, build(t, more["hooks"])), inspect(t, build(t, more["hooks s -w"]))
	old := inspect(t, build(t, more["hooks 1.19"]))
	for _, b := range []*preflight.Binary{full, old} {
		if !slices.Equal(b.Exports, want) || !slices.Equal(b.Variables, []string{"Variable"}) {
			t.Errorf("%s: exports %+v, variables %v", b.GoVersion, b.Exports, b.Variables)
		}
	}
	for i := range want {
		want[i].Hook, want[i].Signature = preflight.HookUnknown, ""
	}
	if !slices.Equal(stripped.Exports, want) || !slices.Equal(stripped.Variables,
		[]string{"Variable"}) {
		t.Errorf("stripped: exports %+v, variables %v", stripped.Exports, stripped.Variables)
	}

	gateway := inspect(t, build(t, hosts["base"]))
	for _, c := range []struct {
		plugin  *preflight.Binary
		symbol  string
		hook    preflight.Hook
		verdict preflight.Verdict
		want    string
	}{
		{full, "Request", preflight.HookRequest, preflight.Loads, ""},
		{full, "Response", preflight.HookResponse, preflight.Loads, ""},
		{full, "Analytics", preflight.HookAnalytics, preflight.Loads, ""},
		{full, "Nothing", "", preflight.Loads, ""},
		{full, "Request", preflight.HookResponse, preflight.Fails,
			"Request: its signature is func(" + args +
				"); a response hook needs func(http.ResponseWriter, *http.Response, *http.Request)"},
		{full, "Returns", preflight.HookRequest, preflight.Fails,
			"a request hook needs func(http.ResponseWriter, *http.Request)"},
		{full, "request", preflight.HookRequest, preflight.Fails,
			"the plugin has no such function; it exports Analytics, Nothing, Request and 2 more"},
		{full, "Method", preflight.HookRequest, preflight.Fails, "the plugin has no such function"},
		{full, "Variable", preflight.HookRequest, preflight.Fails, "a variable, not a function"},
		{stripped, "Request", preflight.HookRequest, preflight.Loads, "its signature is unknown"},
		{stripped, "Gone", preflight.HookRequest, preflight.Fails, "the plugin has no such function"},
	} {
		r, err := preflight.CompareAll([]*preflight.Binary{c.plugin}, gateway, preflight.Target{
			Symbols: []preflight.Symbol{{File: c.plugin.Name, Name: c.symbol, Hook: c.hook}},
		})
		if err != nil {
			t.Fatal(err)
		}
		var got string
		if f := r.Plugins[0].Findings; len(f) > 0 {
			got = f[0].String()
		}
		if r.Verdict != c.verdict || !strings.Contains(got, c.want) || (c.want == "") != (got == "") {
			t.Errorf("%s as %s: %s %q, not %s %q", c.symbol, c.hook, r.Verdict, got, c.verdict, c.want)
		}
	}
}

// The file that a manifest names may carry the suffix of a release, with and without
// a v.
func TestManifestFiles(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"plugin_v5.2.5_linux_amd64.so", "plugin_5.2.5_linux_amd64.so"} {
		for file, given := range map[string]bool{
			"plugin.so":                        true,
			"./plugin.so":                      true,
			"plugin":                           true,
			name:                               true,
			"plugin_v5.2.6_linux_amd64.so":     false,
			"plugin_v5.2.5.so":                 false,
			"other.so":                         false,
			"plugin_v5.2.5_linux_amd64_old.so": false,
		} {
			r, err := preflight.CompareAll([]*preflight.Binary{agreeing(t, "/srv/"+name)}, gatewayOf(t),
				preflight.Target{Symbols: []preflight.Symbol{{File: file, Name: "AddFooBarHeader"}}})
			want := preflight.Loads
			if !given {
				want = preflight.Unknown
			}
			if err != nil || r.Verdict != want || (len(r.Findings) == 0) != given {
				t.Errorf("%s as %s: %s %v, %v", name, file, r.Verdict, r.Findings, err)
			}
		}
	}
}

func gatewayOf(t *testing.T) *preflight.Binary {
	t.Helper()
	b, err := inspectBytes(forgedGateway().bytes())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// agreeing is a plugin that loads in the forged gateway.
func agreeing(t *testing.T, name string) *preflight.Binary {
	t.Helper()
	f := forgedPlugin()
	f.packages["github.com/google/uuid"] = "uuid-1.6"
	b, err := inspectBytes(f.bytes())
	if err != nil {
		t.Fatal(err)
	}
	b.Name = name
	return b
}

func TestTarget(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		target  preflight.Target
		needs   string // glibc of the plugin, 2.34 if empty
		level   string // GOAMD64 of the plugin
		verdict preflight.Verdict
		want    string
	}{
		"xenial": {preflight.Target{Distro: "ubuntu/16.04"}, "2.24", "", preflight.Fails,
			"ubuntu/16.04 has glibc 2.23, but p.so needs 2.24; compile the plugin on a system with glibc 2.23 " +
				"or older, such as the -el7 image"},
		"xenial fits": {preflight.Target{Distro: "ubuntu/16.04"}, "2.23", "", preflight.Loads,
			""},
		"bionic": {preflight.Target{Distro: "ubuntu/18.04"}, "2.28", "", preflight.Fails,
			"glibc 2.27"},
		"focal": {preflight.Target{Distro: "ubuntu/20.04"}, "2.32", "", preflight.Fails,
			"glibc 2.31"},
		"bullseye": {preflight.Target{Distro: "debian/11"}, "2.32", "", preflight.Fails,
			"glibc 2.31"},
		"bullseye fits": {preflight.Target{Distro: "debian/11"}, "2.4", "", preflight.Loads,
			""},
		"jammy": {preflight.Target{Distro: "ubuntu/22.04"}, "2.36", "", preflight.Fails,
			"glibc 2.35"},
		"bookworm": {preflight.Target{Distro: "debian/12"}, "2.38", "", preflight.Fails,
			"glibc 2.36"},
		"bookworm fits": {preflight.Target{Distro: "debian/12"}, "2.36", "", preflight.Loads,
			""},
		"noble": {preflight.Target{Distro: "ubuntu/24.04"}, "2.41", "", preflight.Fails,
			"glibc 2.39"},
		"trixie": {preflight.Target{Distro: "debian/13"}, "2.42", "", preflight.Fails,
			"glibc 2.41"},
		"architecture": {preflight.Target{Arch: "arm64"}, "", "", preflight.Fails,
			"target arm64, plugin amd64"},
		"CPU": {preflight.Target{GOAMD64: "v2"}, "", "v3", preflight.Fails,
			"target v2, plugin v3"},
		"CPU fits": {preflight.Target{GOAMD64: "v3"}, "", "v3", preflight.Loads, ""},
		"distribution not stated": {preflight.Target{}, "2.34", "", preflight.Loads,
			"glibc: gateway 2.17, plugin 2.34: it needs hosts with that glibc"},
		"CPU not stated": {preflight.Target{}, "", "v3", preflight.Loads,
			"gateway v1, plugin v3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := agreeing(t, "p.so")
			p.Needs = []preflight.Need{{Library: "libc.so.6", Glibc: orElse(c.needs, "2.17")}}
			p.GOAMD64 = orElse(c.level, "v1")
			r, err := preflight.CompareAll([]*preflight.Binary{p}, gatewayOf(t), c.target)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range r.Plugins[0].Findings {
				got = append(got, f.String())
			}
			if all := strings.Join(got, "\n"); r.Verdict != c.verdict || !strings.Contains(all, c.want) ||
				(c.want == "") != (all == "") {
				t.Errorf("%s %q, not %s %q", r.Verdict, all, c.verdict, c.want)
			}
		})
	}
	g := gatewayOf(t)
	g.Needs[0].Glibc = "2.34"
	if r, err := preflight.CompareAll([]*preflight.Binary{agreeing(t, "p.so")}, g, preflight.Target{
		Distro: "debian/11"}); err != nil || r.Verdict != preflight.Fails || len(r.Findings) != 1 {
		t.Errorf("a gateway for another distribution: %s %v, %v", r.Verdict, r.Findings, err)
	}
}

func TestTargetInvalid(t *testing.T) {
	t.Parallel()
	for _, target := range []preflight.Target{
		{Distro: "debian/10"},
		{GOAMD64: "v5"},
		{Arch: "x86_64"},
		{Symbols: []preflight.Symbol{{Name: "A"}}},
		{Symbols: []preflight.Symbol{{File: "a.so", Name: "A", Hook: "pre"}}},
	} {
		if _, err := preflight.CompareAll([]*preflight.Binary{agreeing(t, "p.so")}, gatewayOf(t),
			target); !errors.Is(err, preflight.ErrTarget) {
			t.Errorf("%+v: error %v", target, err)
		}
	}
	for _, plugins := range [][]*preflight.Binary{nil, {nil}} {
		if _, err := preflight.CompareAll(plugins, gatewayOf(t), preflight.Target{}); !errors.Is(err,
			preflight.ErrTarget) {
			t.Errorf("%v: error %v", plugins, err)
		}
	}
}

// Versions as a real file carries them.
func TestNeeds(t *testing.T) {
	t.Parallel()
	f := forged{versions: map[string][]string{
		"libc.so.6":   {"GLIBC_2.2.5", "GLIBC_2.34", "GLIBC_2.4", "GLIBC_PRIVATE", "weak:GLIBC_2.38"},
		"libm.so.6":   {"GLIBC_2.29", "GLIBC_2.9"},
		"libgcc_s.so": {"GCC_3.0"},
		"libz.so.1":   {"ZLIB_1.2.9", "GLIBC_ABI_DT_RELR"},
	}}
	b, err := inspectBytes(f.bytes())
	want := []preflight.Need{{Library: "libc.so.6", Glibc: "2.34"}, {Library: "libm.so.6",
		Glibc: "2.29"}, {Library: "libz.so.1", Glibc: "2.36"}}
	if err != nil || !slices.Equal(b.Needs, want) {
		t.Errorf("%v, %v", b, err)
	}
	// Against what the dynamic linker itself lists.
	real := inspect(t, build(t, plugins["base"]))
	if len(real.Needs) == 0 || real.Needs[0].Library != "libc.so.6" || !slices.Contains(real.Libraries,
		"libc.so.6") {
		t.Errorf("%+v", real.Needs)
	}
	versions, err := elfVersions(real.Name)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(versions, "GLIBC_"+real.Needs[0].Glibc) {
		t.Errorf("%s is not among %v", real.Needs[0].Glibc, versions)
	}
}
