package main

import (
	"context"
	"encoding/json"
	"os"
	"os/signal"
	"syscall"

	"example.com/tykupgrade/examples/internal/fleet"
	"example.com/tykupgrade/examples/internal/term"
)

// plan asks every host what an upgrade would do there.
func (c *command) plan(inv *fleet.Inventory) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	waves, err := c.waves(inv, nil)
	if err != nil {
		return c.fail(err)
	}
	rows := inv.Plans(ctx, waves)
	code := exitOK
	for _, r := range rows {
		if r.Error != "" {
			code = exitFailed
		}
	}
	if c.json {
		return c.print(rows, code)
	}
	fleet.PrintPlans(term.New(c.stdout), rows)
	term.New(c.stdout).Printf("%s", inv.Stops(waves))
	fleet.PrintProblems(term.New(c.stdout), rows)
	return code
}

func (c *command) print(v any, code int) int {
	enc := json.NewEncoder(c.stdout)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return c.fail(err)
	}
	return code
}
