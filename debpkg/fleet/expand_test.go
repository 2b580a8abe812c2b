package fleet

import (
	"strings"
	"testing"
)

func TestExpand(t *testing.T) {
	t.Parallel()
	inv := &Inventory{}
	text := `
versions: {gateway: "${TYK}"}
balancer: {kind: exec, drain: ["${A}", "$${A}", "{server}", "$A", "cost 5$"]}
hooks: [{name: n, url: "https://${A}/${TYK}"}]
hosts: [{name: a, plugin: {url: "${A}", header: {X: "${A}"}}}]
`
	if err := Decode([]byte(text), inv); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"TYK": "5.2.5", "A": "${TYK}\n{]"}
	if err := Expand(inv, func(n string) (string, bool) {
		v, ok := env[n]
		return v,
			ok
	}); err != nil {
		t.Fatal(err)
	}
	// A value is text, whatever YAML or further variables are in it.
	if got := strings.Join(inv.Balancer.Drain, "|"); got != "${TYK}\n{]|${A}|{server}|$A|cost 5$" ||
		inv.Versions["gateway"] != "5.2.5" ||
		inv.Hooks[0].URL != "https://${TYK}\n{]/5.2.5" ||
		inv.Hosts[0].Plugin.Header["X"] != "${TYK}\n{]" {
		t.Errorf("%q %+v", got, inv)
	}
	bad := &Inventory{}
	if err := Decode([]byte(`{versions: {gateway: "${NO} ${a b} ${} ${NO}"}, ssh: {jump: "${ALSO}"}}`),
		bad); err != nil {
		t.Fatal(err)
	}
	err := Expand(bad, func(string) (string, bool) { return "", false })
	if err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Fatalf("error %v", err)
	}
	for _, want := range []string{"the variable NO is not set", "the variable ALSO is not set",
		`invalid variable "${a b}"`, `invalid variable "${}"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	if _, err := Parse([]byte("versions: {gateway: \"${TYKUPGRADE_NOT_SET}\"}\nhosts: [{name: a, " +
		"component: gateway}]\n")); err == nil || !strings.Contains(err.Error(),
		"TYKUPGRADE_NOT_SET is not set") {
		t.Errorf("error %v", err)
	}
}

func TestMachines(t *testing.T) {
	t.Parallel()
	inv := &Inventory{Versions: map[string]string{"gateway": "5.2.5", "pump": "1.9.0"},
		Order: StandardOrder(), Hosts: []Host{
			{Name: "a", Address: "x"}, {Name: "b", Address: "x"}, {Name: "c", Address: "x", Port: 23}}}
	hosts, of := inv.Machines()
	if len(hosts) != 2 || of["b"] != "a" || of["c"] != "c" ||
		inv.Label() != "gateway 5.2.5, pump 1.9.0" {
		t.Errorf("%+v %v %q", hosts, of, inv.Label())
	}
}
