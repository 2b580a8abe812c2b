package preflight_test

import (
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/pluginbuild/preflight"
)

var goVersion = runtime.Version()

// Each difference is told with its cause and its remedy, and with nothing that
// is not a cause.
func TestExplain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		host, plugin string
		want         []string // all findings
	}{
		"trimpath": {"base", "plain", []string{"-trimpath: gateway true, plugin none; compile " +
			"the plugin with -trimpath"}},
		"no trimpath": {"plain", "base", []string{"-trimpath: gateway none, plugin true; compile " +
			"the plugin without -trimpath"}},
		"race": {"base", "race", []string{"-race: gateway none, plugin true; compile the " +
			"plugin without -race"}},
		"race host": {"race", "base", []string{"-race: gateway true, plugin none; compile the " +
			"plugin with -race"}},
		"cover": {"cover", "base", []string{"-cover: gateway true, plugin none; compile the " +
			"plugin with -cover"}},
		"tags": {"tags", "base", []string{"-tags: gateway extra, plugin none; compile the " +
			"plugin with -tags=extra"}},
		"gcflags": {"base", "all=-N -l", []string{"-gcflags: gateway none, plugin all=-N -l; " +
			"compile the plugin without -gcflags"}},
		"experiment": {"base", "experiment",
			[]string{"GOEXPERIMENT: gateway none, plugin nogreenteagc; recompile in the image " +
				"tykio/tyk-plugin-compiler:v5.2.5"}},
		"FIPS host": {"sealed fips", "sealed",
			[]string{"GOFIPS140: gateway v1.0.0-c2097c7c, plugin none; recompile in the image " +
				"tykio/tyk-plugin-compiler-fips:v5.2.5"}},
		"FIPS plugin": {"sealed", "sealed fips",
			[]string{"GOFIPS140: gateway none, plugin v1.0.0-c2097c7c; recompile in the image " +
				"tykio/tyk-plugin-compiler:v5.2.5"}},
		"Go": {"base", "1.25", []string{"Go: gateway " + goVersion +
			", plugin go1.25.4; recompile in the image tykio/tyk-plugin-compiler:v5.2.5"}},
		"old Go": {"1.19", "1.16",
			[]string{"Go: gateway go1.19.13, plugin go1.16.15; recompile in the image " +
				"tykio/tyk-plugin-compiler:v5.2.5"}},
		"Go patch release": {"1.26.7", "base", []string{"Go: gateway go1.26.7, plugin " + goVersion +
			", although all hashes agree; recompile in the image tykio/tyk-plugin-compiler:v5.2.5 to run " +
			"the tested code"}},
		"newer dependency": {"base", "new dep", []string{
			"example.org/dep: gateway v1.5.0, plugin v1.6.0; in the plugin's go.mod: require " +
				"example.org/dep v1.5.0, and lower modules that require more (go mod graph)",
		}},
		"newer dependency, Go 1.19": {"1.19", "1.19 new dep", []string{
			"example.org/dep: gateway v1.5.0, plugin v1.6.0; in the plugin's go.mod: require " +
				"example.org/dep v1.5.0, and lower modules that require more (go mod graph)",
		}},
		"older dependency": {"new dep", "base",
			[]string{"example.org/dep: gateway v1.6.0, plugin v1.5.0; in the plugin's go.mod: require " +
				"example.org/dep v1.6.0"}},
		"outside the workspace": {"base", "outside", []string{
			"example.com/gw: the gateway's own module: example.com/gw/shared differs, because the plugin " +
				"was compiled with version v1.0.0 => ../gw instead of the gateway's workspace; " +
				"recompile in the image tykio/tyk-plugin-compiler:v5.2.5, which has the gateway's packages",
		}},
		"changed source": {"new inlined", "base", []string{
			"example.com/gw: the gateway's own module: example.com/gw/shared differs; recompile in the " +
				"image tykio/tyk-plugin-compiler:v5.2.5, which has the gateway's packages",
		}},
		"c-shared": {"base", "c-shared",
			[]string{"compiled by Go, but not as a plugin (-buildmode=c-shared); compile it with " +
				"-buildmode=plugin"}},
		"C": {"base", "c", []string{"a shared object that Go did not compile; compile the " +
			"plugin with Go and -buildmode=plugin"}},
		"executable": {"base", "executable", []string{"an executable, not a shared object; compile " +
			"it with -buildmode=plugin"}},
		"no cgo": {"no cgo", "base", []string{"compiled with CGO_ENABLED=0, so it cannot load " +
			"any plugin; use the gateway's official build"}},
		"nothing":        {"base", "s -w", nil},
		"harmless flags": {"base", "-N", nil},
		"unused tags":    {"base", "other tags", nil},
		"CPU level": {"base", "v3", []string{"GOAMD64: gateway v1, plugin v3: it crashes the " +
			"gateway on an older CPU; compile the plugin with GOAMD64=v1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "Go patch release" && !strings.HasPrefix(goVersion, "go1.26.") {
				t.Skip("shown with two patch releases of Go 1.26")
			}
			r, err := preflight.CompareAll([]*preflight.Binary{inspect(t, build(t, plugins[c.plugin]))},
				inspect(t, build(t, hosts[c.host])),
				preflight.Target{Gateway: semver.MustParse("5.2.5")})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range r.Plugins[0].Findings {
				got = append(got, f.String())
			}
			if len(got) != len(c.want) {
				t.Fatalf("findings:\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			for _, w := range c.want {
				if !slices.ContainsFunc(got, func(g string) bool { return strings.HasSuffix(g, w) }) {
					t.Errorf("no finding\n%s\nin\n%s", w, strings.Join(got, "\n"))
				}
			}
		})
	}
}

// What builds in the lab do not bring about: findings from the facts alone.
func TestExplainRecords(t *testing.T) {
	t.Parallel()
	uuid := preflight.Module{Path: "github.com/google/uuid", Version: "v1.6.0"}
	forked := preflight.Module{Path: uuid.Path, Version: "v1.6.0", Replace: &preflight.Module{
		Path: "example.com/fork", Version: "v1.6.1"}}
	gateway := func(change func(*preflight.Binary)) *preflight.Binary {
		b := &preflight.Binary{
			Name: "/opt/tyk-gateway/tyk", Machine: "EM_X86_64", Arch: "amd64", Go: true,
			GoVersion: "go1.22.1",
			Main:      preflight.Module{Path: "github.com/TykTechnologies/tyk", Version: "(devel)"},
			Modules:   []preflight.Module{uuid},
			Settings:  map[string]string{"-compiler": "gc"},
			Packages:  map[string]string{"runtime": "aa", "net/http": "bb", "github.com/google/uuid": "cc"},
		}
		change(b)
		return b
	}
	for name, c := range map[string]struct {
		gateway, plugin func(*preflight.Binary)
		verdict         preflight.Verdict
		want            []string
	}{
		"same": {verdict: preflight.Loads},
		"same version, other content": {
			plugin:  func(p *preflight.Binary) { p.Packages["github.com/google/uuid"] = "dd" },
			verdict: preflight.Fails,
			want: []string{"github.com/google/uuid: differs, although both have v1.6.0: the source was " +
				"changed, or compiled outside the gateway's workspace; " +
				"recompile in the image tykio/tyk-plugin-compiler of the gateway's release"},
		},
		"replaced in the gateway": {
			gateway: func(g *preflight.Binary) { g.Modules[0] = forked },
			plugin:  func(p *preflight.Binary) { p.Packages["github.com/google/uuid"] = "dd" },
			verdict: preflight.Fails,
			want: []string{"github.com/google/uuid: gateway v1.6.0 => example.com/fork v1.6.1, " +
				"plugin v1.6.0; " +
				"in the plugin's go.mod: replace github.com/google/uuid => example.com/fork v1.6.1"},
		},
		"patched Go": {
			plugin:  func(p *preflight.Binary) { p.Packages["runtime"] = "dd" },
			verdict: preflight.Fails,
			want: []string{"standard library: runtime: differs although Go version and flags are " +
				"the same or not recorded; " +
				"recompile in the image tykio/tyk-plugin-compiler of the gateway's release"},
		},
		"boringcrypto": {
			gateway: func(g *preflight.Binary) { g.GoVersion += " X:boringcrypto" },
			plugin:  func(p *preflight.Binary) { p.Packages["runtime"] = "dd" },
			verdict: preflight.Fails,
			want: []string{"GOEXPERIMENT: gateway boringcrypto, plugin none; " +
				"recompile in the image tykio/tyk-plugin-compiler-fips of the gateway's release"},
		},
		"GOPATH mode": {
			gateway: func(g *preflight.Binary) {
				g.Main, g.Modules = preflight.Module{}, nil
				g.Packages["github.com/TykTechnologies/tyk/vendor/github.com/a/b/c"] = "aa"
			},
			plugin: func(p *preflight.Binary) {
				p.Main, p.Modules = preflight.Module{}, nil
				p.Packages["github.com/TykTechnologies/tyk/vendor/github.com/a/b/c"] = "dd"
			},
			verdict: preflight.Fails,
			want: []string{"github.com/a/b: differs, but not both files record its version; " +
				"recompile in the image tykio/tyk-plugin-compiler of the gateway's release"},
		},
		"hash not readable in the gateway": {
			gateway: func(g *preflight.Binary) {
				delete(g.Packages, "net/http")
				g.Unreadable = []string{"net/http"}
			},
			verdict: preflight.Unknown,
			want: []string{"package hashes: 1 hash cannot be read; compare the files as the " +
				"compiler wrote them"},
		},
		"hash not readable in the plugin": {
			plugin: func(p *preflight.Binary) {
				delete(p.Packages, "net/http")
				p.Unreadable = []string{"net/http"}
			},
			verdict: preflight.Unknown,
			want: []string{"package hashes: 1 hash cannot be read; compare the files as the " +
				"compiler wrote them"},
		},
		"no runtime": {
			plugin:  func(p *preflight.Binary) { delete(p.Packages, "runtime") },
			verdict: preflight.Unknown,
			want: []string{"package hashes: the list is incomplete: it lacks the runtime's hash; " +
				"compare the files as the compiler wrote them"},
		},
		"no hashes in the plugin": {
			plugin:  func(p *preflight.Binary) { p.Packages = nil },
			verdict: preflight.Unknown,
			want: []string{"p.so: it has no package hashes: its dynamic symbol table was removed; " +
				"compare the file that the compiler wrote"},
		},
		"other hash length": {
			plugin:  func(p *preflight.Binary) { p.Packages["net/http"] = "bbbb" },
			verdict: preflight.Fails,
		},
		"other machine": {
			plugin:  func(p *preflight.Binary) { p.Machine, p.Arch = "EM_AARCH64", "arm64" },
			verdict: preflight.Fails,
			want:    []string{"machine: gateway amd64, plugin arm64; compile the plugin for amd64"},
		},
		"C library": {
			plugin:  func(p *preflight.Binary) { p.Libraries = []string{"libc.so.6", "libxml2.so.2"} },
			verdict: preflight.Unknown,
			want: []string{"libxml2.so.2: needed by the plugin, but not by the gateway; make sure that it " +
				"is installed on every gateway host"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := gateway(func(*preflight.Binary) {})
			if c.gateway != nil {
				c.gateway(g)
			}
			p := gateway(func(p *preflight.Binary) {
				p.Name, p.Shared, p.Plugin, p.PluginPath = "p.so", true, true, "example.com/p"
			})
			if c.plugin != nil {
				c.plugin(p)
			}
			r := preflight.Compare(p, g)
			if r.Verdict != c.verdict {
				t.Errorf("verdict %s, not %s: %v", r.Verdict, c.verdict, r.Findings)
			}
			var got []string
			for _, f := range r.Findings {
				got = append(got, f.String())
			}
			if c.want != nil && !slices.Equal(got, c.want) {
				t.Errorf("findings:\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}
