package cli

import (
	"fmt"
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

// Problems prints the problems that prevent an upgrade of hosts.
func (c *Call) Problems(rows []fleet.Planned) {
	for _, r := range rows {
		if r.Err != nil {
			cause, hint := Explain(r.Err)
			text := c.Out.Paint(Bad, "cannot:") + " " + r.Host + ": " + cause + "\n"
			if hint != "" {
				text += "  " + hint + "\n"
			}
			c.Out.Printf("%s", c.Out.fill(text))
		}
	}
}

// Preview prints the problems of an upgrade and the notes for its operator.
func (c *Call) Preview(p fleet.Preview) {
	for _, f := range p.Findings {
		if !f.Refuse {
			c.Out.Printf("%s\n", c.Out.fill(fmt.Sprintf("%s %s", c.Out.Paint(Warn, "note:"), f)))
		}
	}
	for _, x := range p.Problems {
		c.Out.Printf("%s\n", c.Out.fill(fmt.Sprintf("%s %s; or give -without %s",
			c.Out.Paint(Bad, "cannot:"), x.Text, x.Check)))
	}
	c.Problems(p.Hosts)
}
