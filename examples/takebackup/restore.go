package main

import (
	"context"
	"errors"
	"slices"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/hostfiles"
	"example.com/tykupgrade/examples/internal/cli"
)

// chosen opens the set, and makes the restorers of what was chosen.
func (c *call) chosen() (*backup.Set, []backup.Restorer, error) {
	b := c.backends(true)
	set, err := c.find()
	if err != nil {
		return nil, nil, err
	}
	rescue, err := set.RescueDir(c.Text("rescue"))
	if err != nil {
		return nil, nil, cli.Exit(cli.Usage, cli.Advice(err, "choose another directory with -rescue"))
	}
	return set, b.Restorers(rescue), nil
}

func (c *call) options() backup.RestoreOptions {
	return backup.RestoreOptions{DryRun: c.On("dry-run"), Keep: c.On("keep"), Log: c.Log(),
		RequireSignature: cli.Read(c.Call, "require-signature", backup.ReadPublicKeys),
		Progress:         c.Err.Sets()}
}

func restore(ctx context.Context, c *call) (any, error) {
	o := c.options()
	set, to, err := c.chosen()
	if err != nil {
		return nil, c.Restored(backup.Report{}, "", err)
	}
	report, err := set.Restore(ctx, o, to...)
	err = c.Restored(report, "-mongo-drop-extra", err)
	if err == nil && o.Keep && !o.DryRun {
		c.Say("accept keeps it, undo puts back what was replaced")
	}
	return report, err
}

// restoreDump restores what another tool wrote: a file is Redis', a directory is mongodump's.
func restoreDump(ctx context.Context, c *call) (any, error) {
	if err := c.parts.ChooseDump(c.Args[0]); err != nil {
		return nil, err
	}
	b := c.backends(false)
	if err := c.Noted(); err != nil {
		return nil, err
	}
	report, err := b.RestoreDump(ctx, c.Args[0], c.Text("rescue"), c.options())
	return report, c.Restored(report, "-mongo-drop-extra", err)
}

func undo(ctx context.Context, c *call) (any, error) {
	set, to, err := c.chosen()
	if err != nil {
		return nil, err
	}
	report, err := set.Undo(ctx, to...)
	c.Undone(report)
	if errors.Is(err, hostfiles.ErrEdited) && !slices.ContainsFunc(report.Components,
		func(x backup.ComponentReport) bool { return x.State == backup.StateUndone }) {
		err = cli.Refuse(err)
	}
	return report, err
}

func accept(ctx context.Context, c *call) (any, error) {
	set, to, err := c.chosen()
	if err == nil {
		err = set.Accept(ctx, to...)
	}
	if err != nil {
		return nil, err
	}
	c.Say("accepted: there is nothing to undo any more")
	return map[string]string{"accepted": set.Dir}, nil
}
