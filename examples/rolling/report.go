package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/cli"
)

// report shows what the journal holds. It needs no inventory.
func (o *options) report(_ context.Context, c *cli.Call) error {
	if o.file == "" && o.journal == "" {
		return cli.Wrong("-file or -journal is missing")
	}
	o.place()
	rep, err := history(o.journal)
	if err != nil {
		return err
	}
	if rep == nil {
		return fmt.Errorf("report %s: %w", o.journal, rollout.ErrNoRun)
	}
	switch {
	case o.html != "":
		page, err := os.Create(o.html)
		if err != nil {
			return err
		}
		return errors.Join(rep.WriteHTML(page), page.Close())
	case o.json:
		return c.JSON(rep)
	}
	return rep.WriteText(c.Out)
}
