package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/examples/internal/fleet"
)

func (c *command) waves(inv *fleet.Inventory, event func(host, text string)) ([]rollout.Wave, error) {
	waves, err := inv.Waves(event)
	if err == nil && c.only != "" {
		waves, err = rollout.Select(waves, c.only, c.step)
	}
	return waves, err
}

// work runs, resumes or undoes.
func (c *command) work(inv *fleet.Inventory, mode rollout.Mode) int {
	live := fleet.NewLive(cli.NewOut(c.Stderr))
	waves, err := c.waves(inv, live.Note)
	if err != nil {
		return c.Fail(err)
	}
	if mode == rollout.ModeRun {
		if _, err := os.Stat(c.journal); err == nil && c.only != "" {
			mode = rollout.ModeResume // one idempotent call
		}
	}
	question := fmt.Sprintf("%s the rollout of %d targets, recorded in %s?", mode, fleet.Targets(waves), c.journal)
	if !c.yes && c.only == "" && !fleet.Agreed(c.Stdin, c.Stderr, question) {
		return c.Fail(errors.New("nothing was done: not confirmed; -yes confirms"))
	}
	o := inv.Options()
	o.Journal = c.journal
	rep, err := live.Work(context.Background(), mode, waves, o)
	if rep != nil && c.json {
		c.Print(rep, exitOK)
	} else if rep != nil {
		_ = rep.WriteText(c.Stdout)
	}
	return c.Ended(rep, err)
}
