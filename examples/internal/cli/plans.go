package cli

import (
	"strings"

	"example.com/tykupgrade/debpkg/fleet"
)

// Plans is a table with a line for each target.
func (c *Call) Plans(rows []fleet.Planned) string {
	table := [][]string{{"WAVE", "HOST", "PACKAGE", "STEPS"}}
	for _, r := range rows {
		table = append(table, []string{r.Wave, r.Host, r.Actions(), strings.Join(r.Steps, " → ")})
	}
	return c.Out.Table(table)
}

// Problems prints what keeps hosts from being upgraded.
func (c *Call) Problems(rows []fleet.Planned) {
	for _, r := range rows {
		if r.Err != nil {
			cause, hint := Explain(r.Err)
			c.Out.Printf("%s %s: %s\n", c.Out.Paint(Bad, "cannot:"), r.Host, cause)
			if hint != "" {
				c.Out.Printf("  %s\n", hint)
			}
		}
	}
}

// Preview prints what speaks against an upgrade, and what its operator must know.
func (c *Call) Preview(p fleet.Preview) {
	for _, f := range p.Findings {
		if !f.Refuse {
			c.Out.Printf("%s %s\n", c.Out.Paint(Warn, "note:"), f)
		}
	}
	for _, x := range p.Problems {
		c.Out.Printf("%s %s; or give -without %s\n", c.Out.Paint(Bad, "cannot:"), x.Text, x.Check)
	}
	c.Problems(p.Hosts)
}
