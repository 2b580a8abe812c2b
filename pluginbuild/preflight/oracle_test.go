package preflight_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"example.com/tykupgrade/pluginbuild/preflight"
)

// file is an artifact and what Inspect says of it.
type file struct {
	path   string
	binary *preflight.Binary
}

// buildAll builds and inspects a set of artifacts.
func buildAll(t *testing.T, artifacts map[string]artifact) map[string]file {
	var mu sync.Mutex
	files := map[string]file{}
	t.Run("build", func(t *testing.T) {
		for name, a := range artifacts {
			t.Run(name, func(t *testing.T) {
				t.Parallel() // a costly one skips
				path := build(t, a)
				b := inspect(t, path)
				mu.Lock()
				defer mu.Unlock()
				files[name] = file{path, b}
			})
		}
	})
	return files
}

// Every plugin is judged against every host, and really loaded by it.
func TestOracle(t *testing.T) {
	t.Parallel()
	oracle(t, hosts, plugins)
}

// The same for plugins whose verdict does not come from hashes.
func TestOracleKinds(t *testing.T) {
	t.Parallel()
	few := map[string]artifact{}
	for _, h := range kindHosts {
		few[h] = hosts[h]
	}
	oracle(t, few, kinds)
}

func oracle(t *testing.T, hosts, plugins map[string]artifact) {
	hs, ps := buildAll(t, hosts), buildAll(t, plugins)
	target := preflight.Target{Distro: thisDistro(t)}
	var pairs, load atomic.Int32
	t.Run("open", func(t *testing.T) {
		for h, host := range hs {
			t.Run(h, func(t *testing.T) {
				t.Parallel()
				for _, p := range slices.Sorted(maps.Keys(ps)) {
					said := open(t, host.path, ps[p].path)[0]
					all, err := preflight.CompareAll([]*preflight.Binary{ps[p].binary}, host.binary, target)
					if err != nil {
						t.Fatal(err)
					}
					r, want := all.Plugins[0], preflight.Fails
					pairs.Add(1)
					if said == "loads" {
						want = preflight.Loads
						load.Add(1)
					}
					if r.Verdict != want {
						t.Errorf("plugin %q: plugin.Open: %s\nverdict %s, %d of %d packages differ: %v", p, said,
							r.Verdict, len(r.Mismatched), r.Common, r.Findings)
					}
					if r.Verdict != preflight.Loads && len(r.Findings) == 0 {
						t.Errorf("plugin %q: %s without a finding", p, r.Verdict)
					}
					// The package that the runtime names is one of ours.
					if _, pkg, ok := strings.Cut(said, "different version of package "); ok &&
						!slices.Contains(r.Mismatched, pkg) {
						t.Errorf("plugin %q: %s is not among %v", p, pkg, r.Mismatched)
					}
					if strings.HasPrefix(p, "no main") && (len(r.Plugin.Exports) != 1 ||
						r.Plugin.Exports[0].Name != "Hook") {
						t.Errorf("plugin %q exports %v", p, r.Plugin.Exports)
					}
				}
			})
		}
	})
	n, ok := pairs.Load(), load.Load()
	t.Logf("%d combinations, %d of them load", n, ok)
	if n < 30 || ok == 0 || ok == n {
		t.Errorf("%d combinations with %d that load show nothing", n, ok)
	}
}

// thisDistro names this machine as a Target does, empty if none is it.
func thisDistro(t *testing.T) string {
	text, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return ""
	}
	value := func(key string) string {
		_, after, _ := strings.Cut("\n"+string(text), "\n"+key+"=")
		line, _, _ := strings.Cut(after, "\n")
		return strings.Trim(line, `"`)
	}
	if d := value("ID") + "/" + value("VERSION_ID"); slices.Contains(preflight.Distros(), d) {
		return d
	}
	return ""
}

// What cannot be told is unknown, whatever plugin.Open says.
func TestOracleUnknown(t *testing.T) {
	t.Parallel()
	base := build(t, hosts["base"])
	gateway := inspect(t, base)
	for name, c := range map[string]struct {
		plugin, gateway *preflight.Binary
		open, finding   string
	}{
		"library of another host": {inspect(t, build(t, more["library"])), gateway,
			"cannot open shared object file", "libnowhere.so.9: needed by the plugin"},
		"undefined C symbol": {inspect(t, build(t, more["undefined"])), gateway,
			"undefined symbol: nowhere", "nowhere: used by the plugin's C code"},
		"gateway cannot load plugins": {inspect(t, build(t, plugins["base"])),
			inspect(t, build(t, more["no plugin"])), "", "no package hashes"},
		"gateway is a shared object": {inspect(t, build(t, plugins["base"])),
			inspect(t, build(t, plugins["base"])), "", "not a gateway binary"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.open != "" {
				if said := open(t, base, c.plugin.Name)[0]; !strings.Contains(said, c.open) {
					t.Errorf("plugin.Open: %s", said)
				}
			}
			r := preflight.Compare(c.plugin, c.gateway)
			if r.Verdict != preflight.Unknown || len(r.Findings) == 0 ||
				!strings.Contains(r.Findings[0].String(), c.finding) {
				t.Errorf("%s %v, not unknown with %q", r.Verdict, r.Findings, c.finding)
			}
		})
	}
}

// Several plugins in one process, in this order.
func TestOracleSeveral(t *testing.T) {
	t.Parallel()
	set := map[string]artifact{
		"base": plugins["base"], "stripped": plugins["s -w"], "plain": plugins["plain"],
		"dotted": plugins["dotted"], "other module": plugins["tags"],
		"a": plugins["private"], "b": more["b"], "b other": more["b other"],
	}
	files := buildAll(t, set)
	hostPath := build(t, hosts["base"])
	gateway := inspect(t, hostPath)
	for name, link := range map[string]func(string, string) error{"link": os.Symlink,
		"hard link": os.Link} {
		path := filepath.Join(t.TempDir(), "link.so")
		if err := link(files["base"].path, path); err != nil {
			t.Fatal(err)
		}
		files[name] = file{path, inspect(t, path)}
	}
	for _, c := range []struct {
		plugins []string
		finding string // of the last
	}{
		{[]string{"base", "dotted", "a", "b"}, "example.com/plug: also the module of"},
		{[]string{"base", "stripped"}, "plugin already loaded"},
		{[]string{"base", "base"}, ""},
		{[]string{"base", "link"}, ""},
		{[]string{"link", "base"}, ""},
		{[]string{"base", "hard link"}, "plugin already loaded"},
		{[]string{"plain", "base"}, "example.com/plug: differs from the one in"},
		{[]string{"other module", "base"}, ""},
		{[]string{"other module", "base", "stripped"}, "plugin already loaded"},
		{[]string{"a", "b other"}, "example.com/plug/extra: differs from the one in"},
		{[]string{"b other", "a"}, "example.com/plug/extra: differs from the one in"},
	} {
		t.Run(strings.Join(c.plugins, ", "), func(t *testing.T) {
			t.Parallel()
			var paths []string
			var binaries []*preflight.Binary
			for _, p := range c.plugins {
				paths, binaries = append(paths, files[p].path), append(binaries, files[p].binary)
			}
			r, err := preflight.CompareAll(binaries, gateway, preflight.Target{})
			if err != nil {
				t.Fatal(err)
			}
			worst := preflight.Loads
			for i, said := range open(t, hostPath, paths...) {
				want := preflight.Loads
				if said != "loads" {
					want, worst = preflight.Fails, preflight.Fails
				}
				t.Logf("%s: %s", c.plugins[i], said)
				if r.Plugins[i].Verdict != want {
					t.Errorf("plugin %q: plugin.Open: %s\nverdict %s: %v", c.plugins[i], said,
						r.Plugins[i].Verdict, r.Plugins[i].Findings)
				}
			}
			if r.Verdict != worst {
				t.Errorf("verdict %s, not %s", r.Verdict, worst)
			}
			last := r.Plugins[len(r.Plugins)-1].Findings
			if c.finding != "" && !slices.ContainsFunc(last,
				func(f preflight.Finding) bool { return strings.Contains(f.String(), c.finding) }) {
				t.Errorf("no finding %q in %v", c.finding, last)
			}
		})
	}
}
