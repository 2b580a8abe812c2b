package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/cli"
)

// plan asks every host what an upgrade would do there.
func (j *job) plan(ctx context.Context) error {
	waves, err := j.waves(nil)
	if err != nil {
		return err
	}
	p := j.inv.Preview(ctx, waves, j.without...)
	if j.On("json") {
		err = j.JSON(p)
	} else {
		j.Say("%s\n%s", j.Plans(p.Hosts), j.inv.Stops(waves))
		j.Preview(p)
	}
	if err == nil && !p.OK() {
		err = cli.Exit(cli.No, nil)
	}
	return err
}

func (j *job) waves(note func(_, _ string)) ([]rollout.Wave, error) {
	waves, err := j.inv.Waves(fleet.Options{Progress: note, Asked: true})
	if err == nil && j.Text("only") != "" {
		if waves, err = rollout.Select(waves, j.Text("only"), j.Text("step")); err != nil {
			err = cli.Exit(cli.Usage, err)
		}
	}
	return waves, err
}

// work runs, resumes or undoes, as the verb says.
func (j *job) work(ctx context.Context) error {
	mode, live := rollout.Mode(j.Verb), cli.NewLive(j.Err)
	waves, err := j.waves(live.Note)
	if err != nil {
		return err
	}
	before, err := j.recorded()
	if mode == rollout.ModeRun {
		before, err = rollout.History(j.journal) // which may hold none yet
	}
	if err != nil {
		return err
	}
	only, step, yes := j.Text("only"), j.Text("step"), j.On("yes")
	run := j.inv.RunOptions()
	run.Journal = j.journal
	if mode == rollout.ModeRun && before.Repeats(waves, run, only != "") {
		mode = rollout.ModeResume // a run is one idempotent call
	}
	switch {
	case mode == rollout.ModeRun && before != nil && !before.Outcome.Finished():
		return cli.Advice(cli.Refuse(fmt.Errorf("the journal %s holds an unfinished run", j.journal)),
			"rolling resume continues it, rolling undo takes it back, -journal names another journal")
	case mode == rollout.ModeRun && (step == "" || step == "install"):
		// Every host is asked before the first one is touched.
		if p := j.inv.Preview(ctx, waves, j.without...); !p.OK() {
			j.Preview(p)
			return cli.Advice(cli.Refuse(errors.New("the fleet cannot be upgraded")),
				"fix what is named above, or give -without plan, balancer or findings")
		}
	}
	question := fmt.Sprintf("%s the rollout of %s, recorded in %s", j.Verb,
		cli.Count(fleet.Targets(waves), "target"), j.journal)
	if err := j.Sure(yes || only != "", question); err != nil {
		return err
	}
	if run.Prober != nil {
		run.Prober.Stop = run.Prober.Stop || yes // a pause waits for somebody
	}
	rep, err := live.Work(ctx, mode, waves, run)
	if rep != nil {
		err = errors.Join(err, j.Report(rep, j.On("json")))
	}
	return cli.Ended(rep, err, "rolling resume continues, rolling undo takes back what was done")
}

// recorded returns what the journal holds.
func (j *job) recorded() (*rollout.Report, error) {
	rep, err := rollout.History(j.journal)
	if err == nil && rep == nil {
		err = cli.Advice(cli.Refuse(fmt.Errorf("the journal %s holds no run", j.journal)),
			"rolling run begins one; -journal names another journal")
	}
	return rep, err
}

// accept removes what an undo needs. The journal is put aside, so that nothing undoes the
// run by mistake.
func (j *job) accept(ctx context.Context) error {
	rep, err := j.recorded()
	if err == nil && rep.Outcome != rollout.OutcomeDone {
		err = cli.Advice(cli.Refuse(fmt.Errorf("the run in %s is not done", j.journal)),
			"rolling resume finishes it, rolling undo takes it back")
	}
	if err == nil {
		err = j.Sure(j.On("yes"), "accept the run in "+j.journal+" for good")
	}
	if err == nil {
		err = j.inv.Forget(ctx, rep)
	}
	if err == nil {
		_, err = rollout.Archive(j.journal, rep)
	}
	return err
}

// forget removes what an undo of old runs needs. It keeps what a journal of the inventory holds:
// the fleet's, or that of a host or step.
func (j *job) forget(ctx context.Context) error {
	all := []string{j.journal}
	for _, h := range j.inv.Hosts {
		host := j.journal + "." + strings.ReplaceAll(h.Name, " ", "-")
		all = append(all, host, host+".install")
	}
	return j.Prune(ctx, j.inv, j.now, all...)
}

// report shows what the journal holds.
func (j *job) report(context.Context) error {
	rep, err := j.recorded()
	if err != nil {
		return err
	}
	if html := j.Text("html"); html != "" {
		return cli.Page(html, rep)
	}
	return j.Report(rep, j.On("json"))
}

// audit prints the journal's audit log.
func (j *job) audit(context.Context) error { return j.Audit(j.journal) }
