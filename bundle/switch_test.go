package bundle_test

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
)

func TestCacheDir(t *testing.T) {
	t.Parallel()
	// By the program md5sum, of "orders.zip" and of "a.zip, b/c.zip".
	sums := strings.NewReplacer("ORDERS", "ab765cb60b79099d11d1928386acd700", "LIST",
		"93674c63e0bdb316f29464e61d68f73e")
	for _, c := range []struct{ version, base, api, value, want string }{
		{"5.2.5", "", "", "orders.zip", "/opt/tyk-gateway/middleware/bundles/ORDERS"},
		{"3.2.3", "/m/", "", "orders.zip", "/m/bundles/ORDERS"},
		{"4.0.1", "/m", "", "orders.zip", "/m/bundles/ORDERS"},
		{"3.2.2", "/m", "api1", "orders.zip", "/m/bundles/api1_ORDERS"},
		{"4.0.0", "/m", "api1", "orders.zip", "/m/bundles/api1_ORDERS"},
		{"5.14.0", "/m", "", "a.zip, b/c.zip", "/m/bundles/LIST"},
		{"5.15.0-rc1", "/m", "", "a.zip, b/c.zip", "/m/bundles/LIST/a /m/bundles/LIST/b__c"},
		{"5.15.0", "/m", "", "orders.zip", "/m/bundles/ORDERS"},
		{"4.0.0", "/m", "../x", "orders.zip", "!keeps the bundle by API"},
		{"4.0.0", "/m", "", "orders.zip", "!keeps the bundle by API"},
		{"5.2.5", "middleware", "", "orders.zip", "!relative"},
		{"5.2.5", "", "", "", "!no bundle named"},
		{"5.15.0", "", "", "a.zip, ...zip", "!leaves the cache"},
	} {
		all, err := bundle.CacheDir(semver.MustParse(c.version), c.base, c.api, c.value)
		if text, bad := strings.CutPrefix(c.want, "!"); bad {
			if own := new(bundle.Error); !errors.As(err, &own) || !strings.Contains(err.Error(), text) ||
				own.Retry {
				t.Errorf("%+v: %v", c, err)
			}
			continue
		}
		var got []string
		for _, d := range all {
			got = append(got, d.Dir)
		}
		want := sums.Replace(c.want)
		if strings.Join(got, " ") != want || err != nil {
			t.Errorf("%+v: %v, %v; want %s", c, got, err, want)
		}
	}
	if _, err := bundle.CacheDir(nil, "", "", "a.zip"); err == nil {
		t.Error("no version, no error")
	}
}

// The behaviour without a plugin is that of every release.
func TestWithoutPluginEveryRelease(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/failures.json")
	if err != nil {
		t.Fatal(err)
	}
	var failures map[string]string
	if err := json.Unmarshal(data, &failures); err != nil {
		t.Fatal(err)
	}
	for version, want := range failures {
		got := bundle.WithoutPlugin(semver.MustParse(version))
		if (got == bundle.RequestsFail) != (want == "http500") ||
			(got == bundle.PluginBypassed) != strings.Contains(want, "passthrough") {
			t.Errorf("%s: %s, want %s", version, got, want)
		}
	}
	if len(failures) < 130 {
		t.Errorf("only %d releases", len(failures))
	}
}

func paths(m map[string]string) func(string) (string, error) {
	return func(file string) (string, error) {
		if p, ok := m[file]; ok {
			return p, nil
		}
		return "", os.ErrNotExist
	}
}

func TestSwitch(t *testing.T) {
	t.Parallel()
	v := semver.MustParse
	same := map[string]string{"old/plugin.so": "example.org/auth", "new/plugin.so": "example.org/auth"}
	unique := map[string]string{"old/plugin.so": "tyk.internal/tyk_plugin2",
		"new/plugin.so": "example.org/auth"}
	running := []bundle.Open{{Bundle: "orders.zip", File: "plugin.so", PluginPath: "example.org/auth"}}
	for name, c := range map[string]struct {
		from, to string
		paths    map[string]string
		s        bundle.Switch
		effects  string // running crashed started back
		err      string
	}{
		"same name": {"5.2.5", "5.14.0", same, bundle.Switch{Name: "orders.zip",
			Running: running}, "plugin_runs plugin_runs plugin_runs plugin_runs", ""},
		"same name, unknown paths": {"5.2.5", "5.14.0", nil, bundle.Switch{Name: "orders.zip"},
			"plugin_runs plugin_runs plugin_runs plugin_runs", ""},
		"new name": {"5.2.5", "5.14.0", same, bundle.Switch{Mode: bundle.NewName,
			Name: "orders.zip", New: "b.zip", Running: running}, "", "every request is answered with 500"},
		"new name, before 5.0.1": {"4.0.8", "5.2.5", same, bundle.Switch{Mode: bundle.NewName,
			Name: "orders.zip", New: "b.zip", Running: running}, "", "requests pass without the plugin"},
		"new name, nothing known": {"5.2.5", "5.14.0", nil, bundle.Switch{Mode: bundle.NewName,
			Name: "orders.zip", New: "b.zip", Running: running}, "", "unknown"},
		"new name, running unknown": {"5.2.5", "5.14.0", same, bundle.Switch{Mode: bundle.UniquePath,
			Name: "orders.zip", New: "b.zip"}, "", "unknown"},
		"new name forced": {"5.2.5", "5.14.0", same, bundle.Switch{Mode: bundle.NewName,
			Name: "orders.zip", New: "b.zip", Running: running, Force: true},
			"requests_fail plugin_runs plugin_runs plugin_runs", ""},
		"new name forced on 4.0.8": {"4.0.8", "5.14.0", same, bundle.Switch{Mode: bundle.NewName,
			Name: "orders.zip", New: "b.zip", Running: running, Force: true},
			"plugin_bypassed plugin_runs plugin_runs plugin_runs", ""},
		"unique path": {"5.2.5", "5.14.0", unique, bundle.Switch{Mode: bundle.UniquePath,
			Name: "orders.zip", New: "b.zip", Running: running},
			"plugin_runs plugin_runs plugin_runs plugin_runs", ""},
		"unique path that is not": {"5.2.5", "5.14.0", same, bundle.Switch{Mode: bundle.UniquePath,
			Name: "orders.zip", New: "b.zip", Running: running}, "", "already loaded"},
		"blue-green": {"5.2.5", "5.14.0", same, bundle.Switch{Mode: bundle.BlueGreen,
			Name: "orders.zip", New: "b.zip", Running: running},
			"plugin_runs plugin_runs plugin_runs plugin_runs", ""},
		"another API's bundle has the path": {"5.2.5", "5.14.0", same, bundle.Switch{Name: "orders.zip",
			Others: []bundle.Open{{Bundle: "users.zip", File: "plugin.so", PluginPath: "example.org/auth"}}},
			"", "both have the plugin path example.org/auth"},
		"unknown mode": {"5.2.5", "5.14.0", same, bundle.Switch{Mode: "rolling"}, "", "unknown mode"},
		"no new name": {"5.2.5", "5.14.0", same, bundle.Switch{Mode: bundle.BlueGreen, Name: "a.zip"},
			"", "needs a new bundle name"},
		"two names": {"5.2.5", "5.14.0", same, bundle.Switch{Name: "a.zip", New: "b.zip"}, "",
			"leave Switch.New empty"},
	} {
		u := bundle.Upgrade{From: v(c.from), To: v(c.to), Plugins: []bundle.Plugin{
			{Current: "old/plugin.so", Target: "new/plugin.so"}}, Switch: c.s}
		if c.paths != nil {
			u.PluginPath = paths(c.paths)
		}
		p, err := bundle.ForUpgrade(u)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		s := p.Switch
		if got := strings.Join([]string{string(s.Running.Effect), string(s.Crashed.Effect),
			string(s.Started.Effect), string(s.Back.Effect)}, " "); got != c.effects {
			t.Errorf("%s: %s\n%+v", name, got, s)
		}
	}
}

// Seen on a real gateway: APIs with different bundle names and the same plugin.
func TestClashes(t *testing.T) {
	t.Parallel()
	a, b, c := bundle.Open{Bundle: "a.zip", File: "p.so", PluginPath: "x"},
		bundle.Open{Bundle: "b.zip", File: "p.so", PluginPath: "x"}, bundle.Open{File: "/opt/q.so"}
	if got := bundle.Clashes([]bundle.Open{a, c, a, b, b, c}); len(got) != 1 ||
		got[0] != (bundle.Clash{First: a, Second: b}) {
		t.Errorf("%v", got)
	}
}

func TestForUpgradeSeveralPlugins(t *testing.T) {
	t.Parallel()
	u := bundle.Upgrade{From: semver.MustParse("4.0.8"), To: semver.MustParse("5.2.5"),
		Plugins: []bundle.Plugin{
			{Current: "old/auth.so", Target: "new/auth_v5.2.5_linux_amd64.so"},
			{Current: "old/tail.so", Target: "new/tail.so", Response: true},
		}}
	p, err := bundle.ForUpgrade(u)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(p.FileList, " ") != "auth.so auth_v5.2.5_linux_amd64.so tail.so "+
		"tail_v5.2.5_linux_amd64.so" {
		t.Errorf("%v", p.FileList)
	}
	m := goManifest("auth.so", "tail.so")
	m.Middleware.Post = m.Middleware.Post[:1]
	m.Middleware.Response = []bundle.Hook{{Name: "R", Path: "tail.so"}}
	n, err := p.Manifest(m)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(n.FileList, " ") != strings.Join(p.FileList, " ") ||
		n.Middleware.Response[0].Path != "tail.so" {
		t.Errorf("%+v", n)
	}
	// Both plugins have one plugin path: neither gateway can open both.
	u.PluginPath = func(string) (string, error) { return "example.org/same", nil }
	if _, err := bundle.ForUpgrade(u); !errors.Is(err, bundle.ErrOutage) {
		t.Errorf("%v", err)
	}
	// Both are called plugin.so: the second needs another name, and has none.
	u = bundle.Upgrade{From: u.From, To: u.To, Plugins: []bundle.Plugin{{Current: "a/plugin.so",
		Target: "b/plugin.so"}, {Current: "c/plugin.so", Target: "d/plugin.so"}}}
	if _, err := bundle.ForUpgrade(u); !errors.Is(err, bundle.ErrNoUpgrade) {
		t.Errorf("%v", err)
	}
	if _, err := bundle.ForUpgrade(bundle.Upgrade{From: u.From, To: u.To}); err == nil {
		t.Error("no plugin, no error")
	}
}
