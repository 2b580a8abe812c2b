package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/cli"
)

// work runs, resumes or undoes.
func (o *options) work(ctx context.Context, c *cli.Call, inv *fleet.Inventory,
	mode rollout.Mode) error {
	live := cli.NewLive(c.Err)
	waves, err := o.waves(inv, live.Note)
	if err != nil {
		return err
	}
	before, err := history(o.journal)
	if err != nil {
		return err
	}
	if mode == rollout.ModeRun && before != nil {
		switch {
		case before.Outcome == rollout.OutcomeUndone:
			if before, err = nil, putAside(o.journal, before); err != nil {
				return err
			}
		case before.Outcome == rollout.OutcomeDone, o.only != "":
			mode = rollout.ModeResume // a run is one idempotent call
		}
	}
	switch {
	case mode == rollout.ModeRun && before != nil:
		return cli.Advice(cli.Refuse(fmt.Errorf("the journal %s holds an unfinished run", o.journal)),
			"rolling resume continues it, rolling undo takes it back, -journal names another journal")
	case mode != rollout.ModeRun && before == nil:
		return cli.Advice(cli.Refuse(fmt.Errorf("the journal %s holds no run", o.journal)),
			"rolling run begins one; -journal names another journal")
	case mode == rollout.ModeRun && (o.step == "" || o.step == "install"):
		// Every host is asked before the first one is touched.
		p := planned{}
		if !slices.Contains(o.without, "plan") {
			p.Hosts = inv.Plans(ctx, waves)
		}
		if o.check(ctx, inv, waves, &p) != nil {
			o.show(c, p)
			return cli.Advice(cli.Refuse(errors.New("the fleet cannot be upgraded")),
				"fix what is named above, or give -without plan, balancer or findings")
		}
	}
	question := fmt.Sprintf("%s the rollout of %s, recorded in %s?", c.Verb,
		cli.Count(fleet.Targets(waves), "target"), o.journal)
	if !o.yes && o.only == "" && !c.Confirm(question) {
		return cli.Advice(cli.Refuse(errors.New("not confirmed")), "-yes confirms")
	}
	run := inv.RunOptions()
	run.Journal = o.journal
	if run.Prober != nil {
		run.Prober.Stop = run.Prober.Stop || o.yes // a pause waits for somebody
	}
	o.yes = true
	rep, err := live.Work(ctx, mode, waves, run)
	if errors.Is(err, rollout.ErrPlanChanged) && before != nil &&
		before.Outcome == rollout.OutcomeDone && mode == rollout.ModeResume {
		// That run is finished, and this one is for other versions or hosts.
		if err = putAside(o.journal, before); err == nil {
			return o.work(ctx, c, inv, rollout.ModeRun)
		}
	}
	switch {
	case rep == nil:
	case o.json:
		err = errors.Join(err, c.JSON(rep))
	default:
		err = errors.Join(err, rep.WriteText(c.Out))
	}
	return cli.Ended(rep, err)
}

// history is what a journal holds. Nil: nothing.
func history(journal string) (*rollout.Report, error) {
	f, err := os.Open(journal)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	recs, err := rollout.ReadJournal(f)
	if err != nil || len(recs) == 0 {
		return nil, err
	}
	return rollout.BuildReport(recs), nil
}

// putAside keeps the journal of a finished run under another name, so that the next run
// can begin.
func putAside(journal string, rep *rollout.Report) error {
	return os.Rename(journal, journal+"."+rep.Started.UTC().Format("20060102T150405.000Z"))
}

// accept removes what an undo needs. The journal is put aside, so that nothing undoes the
// run by mistake.
func (o *options) accept(ctx context.Context, c *cli.Call, inv *fleet.Inventory) error {
	rep, err := history(o.journal)
	switch {
	case err != nil:
		return err
	case rep == nil:
		return cli.Advice(cli.Refuse(fmt.Errorf("the journal %s holds no run", o.journal)),
			"rolling run begins one; -journal names another journal")
	case rep.Outcome != rollout.OutcomeDone:
		return cli.Advice(cli.Refuse(fmt.Errorf("the run in %s is not done", o.journal)),
			"rolling resume finishes it, rolling undo takes it back")
	}
	if !o.yes && !c.Confirm("accept the run in "+o.journal+"? It cannot be undone afterwards") {
		return cli.Advice(cli.Refuse(errors.New("not confirmed")), "-yes confirms")
	}
	if err := inv.Forget(ctx, rep); err != nil {
		return err
	}
	return putAside(o.journal, rep)
}
