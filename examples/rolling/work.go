package main

import (
	"context"
	"errors"
	"fmt"

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
	p := inv.Preview(ctx, waves, o.without...)
	if o.json {
		err = c.JSON(p)
	} else {
		c.Out.Printf("%s\n%s\n", c.Plans(p.Hosts), inv.Stops(waves))
		c.Preview(p)
	}
	if err == nil && !p.OK() {
		err = cli.Exit(cli.No, nil)
	}
	return err
}

func (o *options) waves(inv *fleet.Inventory, note func(_, _ string)) ([]rollout.Wave, error) {
	waves, err := inv.Waves(fleet.Options{Progress: note, Asked: true})
	if err == nil && o.only != "" {
		if waves, err = rollout.Select(waves, o.only, o.step); err != nil {
			err = cli.Exit(cli.Usage, err)
		}
	}
	return waves, err
}

// work runs, resumes or undoes, as the verb says.
func (o *options) work(ctx context.Context, c *cli.Call, inv *fleet.Inventory) error {
	mode, live := rollout.Mode(c.Verb), cli.NewLive(c.Err)
	waves, err := o.waves(inv, live.Note)
	if err != nil {
		return err
	}
	before, err := rollout.History(o.journal)
	if err != nil {
		return err
	}
	run := inv.RunOptions()
	run.Journal = o.journal
	if mode == rollout.ModeRun && before.Repeats(waves, run, o.only != "") {
		mode = rollout.ModeResume // a run is one idempotent call
	}
	switch {
	case mode == rollout.ModeRun && before != nil && !before.Outcome.Finished():
		return cli.Advice(cli.Refuse(fmt.Errorf("the journal %s holds an unfinished run", o.journal)),
			"rolling resume continues it, rolling undo takes it back, -journal names another journal")
	case mode != rollout.ModeRun && before == nil:
		return o.none()
	case mode == rollout.ModeRun && (o.step == "" || o.step == "install"):
		// Every host is asked before the first one is touched.
		if p := inv.Preview(ctx, waves, o.without...); !p.OK() {
			c.Preview(p)
			return cli.Advice(cli.Refuse(errors.New("the fleet cannot be upgraded")),
				"fix what is named above, or give -without plan, balancer or findings")
		}
	}
	question := fmt.Sprintf("%s the rollout of %s, recorded in %s", c.Verb,
		cli.Count(fleet.Targets(waves), "target"), o.journal)
	if err := c.Sure(o.yes || o.only != "", question); err != nil {
		return err
	}
	if run.Prober != nil {
		run.Prober.Stop = run.Prober.Stop || o.yes // a pause waits for somebody
	}
	rep, err := live.Work(ctx, mode, waves, run)
	if rep != nil {
		err = errors.Join(err, c.Report(rep, o.json))
	}
	return cli.Ended(rep, err, "rolling resume continues, rolling undo takes back what was done")
}

func (o *options) none() error {
	return cli.Advice(cli.Refuse(fmt.Errorf("the journal %s holds no run", o.journal)),
		"rolling run begins one; -journal names another journal")
}

// accept removes what an undo needs. The journal is put aside, so that nothing undoes the
// run by mistake.
func (o *options) accept(ctx context.Context, c *cli.Call, inv *fleet.Inventory) error {
	rep, err := rollout.History(o.journal)
	switch {
	case err != nil:
		return err
	case rep == nil:
		return o.none()
	case rep.Outcome != rollout.OutcomeDone:
		return cli.Advice(cli.Refuse(fmt.Errorf("the run in %s is not done", o.journal)),
			"rolling resume finishes it, rolling undo takes it back")
	}
	if err := c.Sure(o.yes, "accept the run in "+o.journal+" for good"); err != nil {
		return err
	}
	if err := inv.Forget(ctx, rep); err != nil {
		return err
	}
	_, err = rollout.Archive(o.journal, rep)
	return err
}

// report shows what the journal holds. It needs no inventory.
func (o *options) report(_ context.Context, c *cli.Call) error {
	if err := o.place(); err != nil {
		return err
	}
	rep, err := rollout.History(o.journal)
	switch {
	case err != nil:
		return err
	case rep == nil:
		return fmt.Errorf("report %s: %w", o.journal, rollout.ErrNoRun)
	case o.html != "":
		return cli.Page(o.html, rep)
	}
	return c.Report(rep, o.json)
}

// audit prints the journal's audit log. It needs no inventory.
func (o *options) audit(_ context.Context, c *cli.Call) error {
	if err := o.place(); err != nil {
		return err
	}
	return c.Audit(o.journal, o.format)
}
