package fleet_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
)

const good = `
versions: {dashboard: 5.2.5, gateway: 5.2.5, pump: 1.9.0}
max_unavailable: 25%
budget: 2
on_budget_exceeded: rollback
canary: {count: 1, soak: 5m}
haproxy:
- {address: /run/haproxy/admin.sock, backends: {gateway: [gateways], dashboard: [dash]}}
hosts:
- {name: p1, component: pump}
- {name: g1, address: ops@10.0.0.1, component: gateway, package: tyk-gateway-ee, server: g1, plugin: {url: "http://10.0.0.1/x", header: {Foo: Bar}}}
- {name: g2, address: local, component: gateway, server: g2}
- {name: d1, component: dashboard, server: d1, health: "https://dash/health"}
`

func TestWaves(t *testing.T) {
	t.Parallel()
	inv, err := fleet.Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	waves, err := inv.Waves(fleet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range waves {
		for _, target := range w.Targets {
			var steps []string
			for _, s := range target.Steps {
				steps = append(steps, s.Name)
			}
			got = append(got, w.Name+"/"+target.Name+" "+strings.Join(steps, ","))
		}
		if w.MaxUnavailable.Percent != 25 || w.Canary.Count != 1 || w.Canary.Soak != 5*time.Minute ||
			w.Canary.Watch == nil {
			t.Errorf("wave %s: %+v, %+v", w.Name, w.MaxUnavailable, w.Canary)
		}
	}
	want := []string{"dashboard/d1 drain,install,healthy,ready",
		"gateway/g1 drain,install,healthy,ready", "gateway/g2 drain,install,healthy,ready",
		"pump/p1 install,healthy"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if o := inv.RunOptions(); o.Budget.Count != 2 || o.OnBudgetExceeded != rollout.Rollback {
		t.Errorf("options %+v", o)
	}
}

func TestRestarts(t *testing.T) {
	t.Parallel()
	inv, err := fleet.Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	waves, err := inv.Restarts("p1", "g1")
	if err != nil {
		t.Fatal(err)
	}
	if len(waves) != 2 || len(waves[0].Targets) != 1 || waves[0].Targets[0].Name != "g1" ||
		len(waves[0].Targets[0].Steps) != 4 || waves[1].Targets[0].Name != "p1" {
		t.Errorf("waves %+v", waves)
	}
	for _, h := range inv.Hosts {
		if want := map[string]string{"p1": "tyk-pump.service", "g1": "tyk-gateway.service",
			"g2": "tyk-gateway.service", "d1": "tyk-dashboard.service"}; h.Unit() != want[h.Name] {
			t.Errorf("%s has the unit %s", h.Name, h.Unit())
		}
	}
}

func TestProbes(t *testing.T) {
	t.Parallel()
	inv, err := fleet.Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"p1": "p1", "g1": "10.0.0.1", "g2": "localhost", "d1": "https://dash/health",
	}
	for _, h := range inv.Hosts {
		probes, err := h.Probes("5.2.5")
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == "g1" && (len(probes) != 2 || probes[1].URL != "http://10.0.0.1/x") {
			t.Errorf("probes %v", probes)
		}
		if probes[0].URL != want[h.Name] {
			t.Errorf("%s is asked at %s", h.Name, probes[0].URL)
		}
	}
}

func TestBlueGreenTakesTheIdleColour(t *testing.T) {
	t.Parallel()
	inv, err := fleet.Parse([]byte(`
versions: {gateway: 5.2.5}
haproxy: [{network: tcp, address: "lb:9999"}]
bluegreen: {component: gateway, map: /etc/haproxy/active.map, active: blue, idle: green, soak: 1m, backends: [green]}
hosts:
- {name: b, component: gateway, server: b, colour: blue}
- {name: g, component: gateway, server: g, colour: green}
`))
	if err != nil {
		t.Fatal(err)
	}
	waves, err := inv.Waves(fleet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(waves) != 2 || len(waves[0].Targets) != 1 || waves[0].Targets[0].Name != "g" ||
		waves[1].Targets[0].Name != "switch" {
		t.Errorf("waves %+v", waves)
	}
}

func TestParseReportsEverything(t *testing.T) {
	t.Parallel()
	inv, err := fleet.Parse([]byte(`
versions: {gateway: "5.2", typo: 1.0.0}
haproxy: [{network: udp}]
bluegreen: {component: gateway, active: a, idle: a}
hosts:
- {name: a, component: gatway}
- {name: a, component: gateway}
- {name: x/y, component: pump, plugin: {status: 200}}
`))
	if inv != nil || !errors.Is(err, fleet.ErrInventory) {
		t.Fatalf("%+v, %v", inv, err)
	}
	for _, want := range []string{`unknown component "gatway" (want dashboard, gateway or pump)`,
		`duplicate host name "a"`, `invalid name "x/y"`, "versions.pump",
		`unknown component "typo" (want dashboard, gateway or pump)`, "haproxy 1", "bluegreen: want map",
		"no host of component", "plugin.url is missing"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in:\n%v", want, err)
		}
	}
	for _, text := range []string{"", "hosts: []", "hosst: []", "max_unavailable: 25 %x",
		"max_unavailable: -1", "budget: 200%", "canary: {soak: 5}", "on_budget_exceeded: stop",
		"order: any", "{", "a: b: c"} {
		if _, err := fleet.Parse([]byte(text)); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

// What the decoder finds is told by line and key, all at once.
func TestDecodeReportsEverything(t *testing.T) {
	t.Parallel()
	_, err := fleet.Parse([]byte("drain: {deadline: 5}\non_budget_exceeded: stop\nhost: " +
		"[]\nhosts:\n- {name: g, adress: x, port: ssh}\n"))
	want := `line 1: invalid duration "5": want a duration such as 90s or 5m
line 2: unknown on_budget_exceeded "stop" (want hold or rollback)
line 3: unknown key host
line 5: unknown key adress
line 5: the text ` + "`ssh`" + ` does not fit here: want a whole number`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	for text, want := range map[string]string{"": "it is empty", "# nothing": "it is empty",
		good + "---\nhosts: []\n": "only one is read"} {
		if _, err := fleet.Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f.yaml")
	if _, err := fleet.Load(path, nil); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v", err)
	}
	if err := os.WriteFile(path, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := fleet.Load(path, nil); err != nil {
		t.Error(err)
	}
	// JSON is YAML.
	if inv, err := fleet.Load("-",
		strings.NewReader(`{"versions":{"pump":"1.9.0"},"hosts":[{"name":"p","component":"pump"}]}`)); err != nil || inv.Hosts[0].Package != "tyk-pump" {
		t.Errorf("%+v, %v", inv, err)
	}
	if _, err := fleet.Load("-", strings.NewReader(strings.Repeat("#", 5<<20))); err == nil {
		t.Error("a file of 5 MiB was accepted")
	}
}

// Each mistake in the section balancer is refused with its own words.
func TestBalancerSection(t *testing.T) {
	t.Parallel()
	const hosts = "versions: {gateway: 5.14.0}\nhosts: [{name: g, component: gateway}]\nbalancer: "
	for text, want := range map[string]string{
		"none": "",
		"{kind: ready, settle: 1s, drain: [a], ready: [b]}": "",
		"{kind: exec, drain: [a], ready: [b], state: [c]}":  "",
		"nginx":                                            `unknown kind "nginx"`,
		"haproxy":                                          "needs the section haproxy",
		"{kind: exec, drain: [a], ready: [b]}":             "drain, ready and state",
		"{kind: exec, drain: [a], state: [b]}":             "drain, ready and state",
		"{kind: exec, ready: [a], state: [b]}":             "drain, ready and state",
		"{kind: ready, settle: 1s, drain: [a]}":            "drain and ready go together",
		"{kind: ready, settle: 1s, ready: [a]}":            "drain and ready go together",
		"{kind: ready, settle: 1s, state: [a]}":            "state and kill go with kind exec",
		"{kind: ready, settle: 1s, kill: [a]}":             "state and kill go with kind exec",
		"{kind: ready, drain: [a], ready: [b]}":            "kind ready needs settle",
		"{kind: none, drain: [a], ready: [b], state: [c]}": "commands go with kind exec or ready",
	} {
		_, err := fleet.Parse([]byte(hosts + text + "\n"))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// The file names commands that run here: it is refused if everybody can write or replace it.
func TestFileOfEverybody(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, link := filepath.Join(dir, "f.yaml"), filepath.Join(t.TempDir(), "link.yaml")
	if err := errors.Join(os.WriteFile(path, []byte(good), 0o600), os.Symlink(path, link)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		file, dir os.FileMode
		want      string
	}{
		{0o600, 0o700, ""},
		{0o664, 0o775, ""},                 // a team's
		{0o644, 0o777 | os.ModeSticky, ""}, // such as /tmp
		{0o602, 0o700, "everybody can write to it; chmod o-w "},
		{0o646, 0o777 | os.ModeSticky, "everybody can write to it; chmod o-w "},
		{0o600, 0o777, "everybody can replace it; chmod o-w " + dir},
	} {
		if err := errors.Join(os.Chmod(path, c.file), os.Chmod(dir, c.dir)); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{path, link} {
			_, err := fleet.Load(p, nil)
			if (err == nil) != (c.want == "") || err != nil && (!errors.Is(err, fleet.ErrInventory) ||
				!strings.Contains(err.Error(), c.want)) {
				t.Errorf("%s, file %v, directory %v: %v", p, c.file, c.dir, err)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("max_unavailable: 3\nhosts: [{}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		inv, err := fleet.Parse(data)
		if err != nil {
			return
		}
		if _, err := inv.Waves(fleet.Options{}); err != nil {
			t.Skip(err)
		}
	})
}
