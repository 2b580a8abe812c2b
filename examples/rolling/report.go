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
		return c.Fail(err)
	}
	defer func() { _ = f.Close() }()
	recs, err := rollout.ReadJournal(f)
	if err != nil {
		return c.Fail(err)
	}
	if len(recs) == 0 {
		return c.Fail(fmt.Errorf("report %s: %w", c.journal, rollout.ErrNoRun))
	}
	rep := rollout.BuildReport(recs)
	switch {
	case c.html != "":
		page, err := os.Create(c.html)
		if err != nil {
			return c.Fail(err)
		}
		if err := rep.WriteHTML(page); err != nil {
			_ = page.Close()
			return c.Fail(err)
		}
		if err := page.Close(); err != nil {
			return c.Fail(err)
		}
	case c.json:
		return c.Print(rep, exitOK)
	default:
		if err := rep.WriteText(c.Stdout); err != nil {
			return c.Fail(err)
		}
	}
	return exitOK
}
