package main

import (
	"context"

	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/cli"
)

// plan asks every host what an upgrade would do there.
func (o *options) plan(ctx context.Context, c *cli.Call, inv *fleet.Inventory) error {
	waves, err := o.waves(inv, nil)
	if err != nil {
		return err
	}
	rows := inv.Plans(ctx, waves)
	var answer error
	if fleet.Refused(rows) != nil {
		answer = cli.Exit(cli.No, nil)
	}
	if o.json {
		if err := c.JSON(rows); err != nil {
			return err
		}
		return answer
	}
	c.Out.Printf("%s\n%s\n", c.Plans(rows), inv.Stops(waves))
	c.Problems(rows)
	return answer
}

func (o *options) waves(inv *fleet.Inventory, progress func(host, text string)) ([]rollout.Wave, error) {
	waves, err := inv.Waves(fleet.Options{Progress: progress})
	if err == nil && o.only != "" {
		if waves, err = rollout.Select(waves, o.only, o.step); err != nil {
			err = cli.Exit(cli.Usage, err)
		}
	}
	return waves, err
}
