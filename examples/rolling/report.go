package main

import (
	"fmt"
	"os"

	"example.com/tykupgrade/debpkg/rollout"
)

// report shows what the journal holds; it needs no inventory, and can be made
// while a run goes on.
func (c *command) report() int {
	f, err := os.Open(c.journal)
	if err != nil {
		return c.fail(err)
	}
	defer func() { _ = f.Close() }()
	recs, err := rollout.ReadJournal(f)
	if err != nil {
		return c.fail(err)
	}
	if len(recs) == 0 {
		return c.fail(fmt.Errorf("report %s: %w", c.journal, rollout.ErrNoRun))
	}
	rep := rollout.BuildReport(recs)
	switch {
	case c.html != "":
		page, err := os.Create(c.html)
		if err != nil {
			return c.fail(err)
		}
		if err := rep.WriteHTML(page); err != nil {
			_ = page.Close()
			return c.fail(err)
		}
		if err := page.Close(); err != nil {
			return c.fail(err)
		}
	case c.json:
		return c.print(rep, exitOK)
	default:
		if err := rep.WriteText(c.stdout); err != nil {
			return c.fail(err)
		}
	}
	return exitOK
}
