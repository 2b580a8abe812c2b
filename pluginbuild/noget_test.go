package pluginbuild_test

import (
	"strings"
	"testing"

	"example.com/tykupgrade/pluginbuild"
)

// Without go get, what preparing does about the gateway's module is to drop it.
func TestPlanWithoutGet(t *testing.T) {
	t.Parallel()
	const mod = "module example.org/plugin\n\ngo 1.16\n\nrequire github.com/TykTechnologies/tyk "
	r := lookup(t, "5.2.5")
	for name, version := range map[string]string{
		"another commit":    "v1.9.2-0.20200709165943-1c32b18575e4",
		"the right one":     r.PseudoVersion(),
		"without a version": "v1.9.1",
	} {
		src := pluginFS(mod+version+"\n", nil)
		p, err := pluginbuild.NewPlan(src, r, pluginbuild.PlanOptions{NoGet: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range p.Findings {
			if f.Code == "replace" || f.Code == "gateway-module" && (!f.Prepare ||
				!strings.Contains(f.Remedy, "-droprequire="+pluginbuild.Module) || f.Blocks()) {
				t.Errorf("%s: %+v", name, f)
			}
		}
		if shell := p.Shell(); !strings.Contains(summary(p.Findings), "info gateway-module*") ||
			strings.Contains(shell, "go get") || !strings.Contains(shell, "-droprequire=") {
			t.Errorf("%s: %s\n%s", name, summary(p.Findings), shell)
		}
		// With it, the commit is fetched, or stays.
		if p, err = pluginbuild.NewPlan(src, r, pluginbuild.PlanOptions{}); err != nil ||
			!strings.Contains(p.Shell(), "go get") || strings.Contains(summary(p.Findings),
			"info gateway-module*") {
			t.Errorf("%s: %s, %v", name, summary(p.Findings), err)
		}
	}
}

// A hook whose name is not exported is named, with the name that it needs.
func TestLowerCaseHook(t *testing.T) {
	t.Parallel()
	const mod = "module example.org/plugin\n\ngo 1.19\n"
	const args = "(rw http.ResponseWriter, r *http.Request) {}\n"
	const head = "package main\n\nimport \"net/http\"\n\n"
	for source, want := range map[string]string{
		head + "func addHeader" + args:                             "rename it to AddHeader",
		head + "func _addHeader" + args:                            "rename it to AddHeader",
		head + "func élan" + args:                                  "rename it to Élan",
		head + "func addHeader" + args + "\nfunc Other" + args:     "",
		"package main\n\nfunc addHeader(a int) {}\n":               "export func Name(",
		head + "type T int\n\nfunc (T) addHeader" + args:           "export func Name(",
		head + "func addHeader(http.ResponseWriter) {}\n":          "export func Name(",
		head + "func addHeader" + args + "\nfunc Gone(a int) {}\n": "rename it to AddHeader",
	} {
		findings, err := pluginbuild.CheckModule(mapFS(map[string]string{"go.mod": mod,
			"main.go": source}), lookup(t, "5.2.5"), pluginbuild.CheckOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, f := range findings {
			if f.Code == "no-hook" {
				got = f.Remedy
			}
		}
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q", source, got, want)
		}
	}
}
