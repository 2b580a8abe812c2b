package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/debpkgtest"
	"example.com/tykupgrade/debpkg/fleet"
)

// answers is a host that has one package and one configuration file.
func answers(pkg, version, config string) debpkg.Runner {
	fake := debpkgtest.New("h")
	fake.Install(debpkgtest.Tyk(pkg, version))
	return func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
		if argv[0] == "cat" {
			_, err := io.WriteString(stdout, config)
			return err
		}
		return fake.Run(ctx, argv, stdin, stdout, stderr)
	}
}

func kinds(all []fleet.Finding) string {
	var names []string
	for _, f := range all {
		if f.Source == "" {
			names = append(names, "WITHOUT SOURCE")
		}
		names = append(names, fmt.Sprint(f.Kind, " ", f.Refuse, " ", strings.Join(f.Hosts, "+")))
	}
	return strings.Join(names, ", ")
}

func TestFindings(t *testing.T) {
	t.Parallel()
	parse := func(text string) *fleet.Inventory {
		inv, err := fleet.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return inv
	}
	for _, c := range []struct{ name, inventory, want string }{
		{"supported", "versions: {gateway: 5.14.0}\nhosts: [{name: g, component: gateway}]\n", ""},
		{"out of support", "versions: {gateway: 5.2.5}\nhosts: [{name: g, component: gateway}]\n",
			"support false "},
		{"data planes before MDCB", "order: mdcb\nversions: {mdcb: 2.10.0, data-plane-gateway: 5.14.0, " +
			"data-plane-pump: 1.16.0}\nhosts: [{name: m, component: mdcb, health: \"http://m/\"}, {name: " +
			"g, component: data-plane-gateway}, {name: p, component: data-plane-pump}]\n",
			"mdcb_order true "},
		{"MDCB before data planes", "order: mdcb\nversions: {mdcb: 2.11.0, data-plane-gateway: 5.14.0, " +
			"data-plane-pump: 1.15.0}\nhosts: [{name: m, component: mdcb, health: \"http://m/\"}, {name: " +
			"g, component: data-plane-gateway}, {name: p, component: data-plane-pump}]\n", ""},
	} {
		all, err := parse(c.inventory).Findings(t.Context(), nil)
		if err != nil || kinds(all) != c.want {
			t.Errorf("%s: %q, %v", c.name, kinds(all), err)
		}
	}
	inv := parse("versions: {dashboard: 5.14.0, gateway: 5.14.0}\nhosts: [{name: d1, component: " +
		"dashboard}, {name: d2, component: dashboard}, {name: g1, component: gateway}, {name: g2, " +
		"component: gateway}]\n")
	config := map[string]string{"d1": `{"license_key": "one-secret"}`,
		"d2": `{"license_key": "two-secret"}`, "g1": `{}`, "g2": `{"log_format": "json"}`}
	inv.Connect = func(h fleet.Host) debpkg.Runner {
		version := map[string]string{"d1": "2.9.4", "d2": "5.8.1", "g1": "5.13.0", "g2": "5.13.0"}[h.Name]
		return answers(h.Package, version, config[h.Name])
	}
	all, err := inv.Findings(t.Context(), inv.Hosts)
	if want := "rollback false d1, log_format false g1, licences true d1+d2"; err != nil ||
		kinds(all) != want {
		t.Errorf("%q, %v", kinds(all), err)
	}
	for _, f := range all {
		if strings.Contains(f.String(), "secret") {
			t.Errorf("a licence is in %q", f)
		}
	}
	config["d2"] = config["d1"]
	if all, _ = inv.Findings(t.Context(), inv.Hosts); strings.Contains(kinds(all), "licences") {
		t.Errorf("the same licence: %q", kinds(all))
	}
	config["g1"] = "{"
	if _, err := inv.Findings(t.Context(), inv.Hosts); err == nil || !strings.Contains(err.Error(),
		"g1: read /opt/tyk-gateway/tyk.conf: it is not JSON") {
		t.Errorf("error %v", err)
	}
}

// A balancer that only checks needs hosts that fail its check before they end: gateways from 5.14 on
// with the delay, or any host with commands.
func TestReadyNeedsHostsThatDrain(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		component, version, config, more string
		refused                          bool
	}{
		{"gateway", "5.14.0", `{"graceful_shutdown_delay_seconds": 15}`, "", false},
		{"gateway", "5.14.0", `{}`, "", true},
		{"gateway", "5.13.0", `{"graceful_shutdown_delay_seconds": 15}`, "", true},
		{"gateway", "5.13.0", `{}`, ", drain: [touch, /run/out], ready: [rm, /run/out]", false},
		{"dashboard", "5.14.0", `{}`, "", true},
	} {
		inv, err := fleet.Parse(fmt.Appendf(nil, "versions: {%s: 5.14.1}\nbalancer: {kind: ready, "+
			"settle: 1s%s}\nhosts: [{name: h1, component: %[1]s}]\n", c.component, c.more))
		if err != nil {
			t.Fatal(err)
		}
		run := answers(inv.Hosts[0].Package, c.version, c.config)
		inv.Connect = func(fleet.Host) debpkg.Runner { return run }
		all, err := inv.Findings(t.Context(), inv.Hosts)
		if err != nil || strings.Contains(kinds(all), "ready_drain true h1") != c.refused {
			t.Errorf("%+v: %q, %v", c, kinds(all), err)
		}
	}
}

// More than one host that clients reach needs a balancer, or the word that none is meant.
func TestUnbalanced(t *testing.T) {
	t.Parallel()
	const two = "versions: {gateway: 5.14.0, pump: 1.9.0}\nhosts: [{name: g1, component: gateway, " +
		"server: %s}, {name: g2, component: gateway, server: %[1]s}, {name: p1, component: pump}, " +
		"{name: p2, component: pump}]\n"
	for _, c := range []struct{ servers, more, want string }{
		{`""`, "", "nothing takes g1 or g2 out of traffic"},
		{`""`, "balancer: none\n", ""},
		{`""`, "balancer: {kind: ready, settle: 10s}\n", ""},
		{"s", "balancer: {kind: exec, drain: [d], ready: [r], state: [s]}\n", ""},
		{`""`, "balancer: {kind: exec, drain: [d], ready: [r], state: [s]}\n", "nothing takes g1 or g2"},
		{"s", "haproxy: [{address: /x, backends: {gateway: [b]}}]\n", ""},
	} {
		inv, err := fleet.Parse([]byte(fmt.Sprintf(two, c.servers) + c.more))
		if err != nil {
			t.Fatal(err)
		}
		if err := inv.Unbalanced(); (err != nil) != (c.want != "") || err != nil &&
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.more, err)
		}
		if _, err := inv.Waves(fleet.Options{}); err != nil {
			t.Errorf("%s: %v", c.more, err)
		}
	}
	for _, more := range []string{"balancer: nginx\n", "balancer: haproxy\n",
		"balancer: {kind: exec}\n", "balancer: {kind: ready}\n", "balancer: {kind: none, drain: [x]}\n",
		"balancer: {kind: ready, settle: 1s, drain: [x]}\n", "balancer: {sort: none}\n"} {
		if _, err := fleet.Parse([]byte(fmt.Sprintf(two, `""`) + more)); err == nil ||
			!errors.Is(err, fleet.ErrInventory) && !strings.Contains(err.Error(), "unknown key") {
			t.Errorf("%q: %v", more, err)
		}
	}
}
