package preflight

import (
	"cmp"
	"fmt"
	"strings"
)

// Rows returns the report as a table for people: a heading, a row for each plugin, and one for the
// gateway. The second column has the verdict.
func (r Report) Rows() [][]string {
	rows := [][]string{{"FILE", "VERDICT", "GO", "ARCH", "PACKAGES", "SIZE", "FUNCTIONS"}}
	row := func(b *Binary, verdict, packages, functions string) {
		rows = append(rows, []string{b.Name, verdict, cmp.Or(b.GoVersion, "-"), cmp.Or(b.Arch, "-"),
			packages, fmt.Sprintf("%.1f MiB", float64(b.Size)/(1<<20)), functions})
	}
	for _, p := range r.Plugins {
		var funcs []string
		for _, f := range p.Plugin.Exports {
			funcs = append(funcs, fmt.Sprintf("%s (%s)", f.Name, f.Hook))
		}
		row(p.Plugin, string(p.Verdict), fmt.Sprintf("%d of %d agree", p.Common-len(p.Mismatched),
			p.Common), cmp.Or(strings.Join(funcs, ", "), "-"))
	}
	row(r.Gateway, "(gateway)", fmt.Sprint(len(r.Gateway.Packages)), "")
	return rows
}
