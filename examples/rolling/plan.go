package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/examples/internal/fleet"
)

// plan asks every host what an upgrade would do there.
func (c *command) plan(inv *fleet.Inventory) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	waves, err := c.waves(inv, nil)
	if err != nil {
		return c.Fail(err)
	}
	rows := inv.Plans(ctx, waves)
	code := exitOK
	for _, r := range rows {
		if r.Error != "" {
			code = exitFailed
		}
	}
	if c.json {
		return c.Print(rows, code)
	}
	out := cli.NewOut(c.Stdout)
	fleet.PrintPlans(out, rows)
	out.Printf("%s", inv.Stops(waves))
	fleet.PrintProblems(out, rows)
	return c.Written(out, code)
}
