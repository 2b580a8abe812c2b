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
