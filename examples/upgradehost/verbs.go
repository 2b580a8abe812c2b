package main

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/examples/internal/cli"
)

func (j *job) facts(ctx context.Context) error {
	f, err := j.host.Facts(ctx)
	if err != nil {
		return err
	}
	return j.Show(f, f.String())
}

// plans makes and prints the plans, and refuses what must not be applied.
func (j *job) plans(ctx context.Context) ([]debpkg.Plan, error) {
	want, err := debpkg.ParseRequests(j.Args, j.Text("debs"))
	if err != nil {
		return nil, cli.Exit(cli.Usage, err)
	}
	if !j.On("no-update") && j.Text("debs") == "" {
		if err := j.host.Update(ctx); err != nil {
			return nil, err
		}
	}
	plans, err := j.host.Plans(ctx, debpkg.InOrder(want))
	j.Err.Clear()
	for _, p := range plans {
		j.Say("%s", p)
	}
	return plans, err
}

func (j *job) plan(ctx context.Context) error {
	plans, err := j.plans(ctx)
	if j.On("json") && plans != nil {
		return errors.Join(err, j.JSON(plans))
	}
	return err
}

func (j *job) apply(ctx context.Context) error {
	if _, err := debpkg.ParseRequests(j.Args, j.Text("debs")); err != nil {
		return cli.Exit(cli.Usage, err)
	}
	file := cmp.Or(j.Text("out"), "upgradehost-"+time.Now().UTC().Format("20060102T150405Z")+".json")
	record, err := debpkg.NewRecord(file)
	if err != nil {
		return ofFile(ctx, err)
	}
	made, err := j.work(ctx, record)
	if j.On("json") && made != nil {
		err = errors.Join(err, j.JSON(made))
	}
	return err
}

// work carries the requests out, after what an earlier apply began.
func (j *job) work(ctx context.Context, record *debpkg.Record) (made []debpkg.Change, err error) {
	stage, finished := j.On("stage"), len(record.Changes) > 0 && !record.Begun()
	if record.Begun() {
		j.Err.Printf("finishing what an earlier apply began\n")
		made, err = record.Resume(ctx, j.host, stage)
		for _, c := range made {
			j.changed(c)
		}
		switch {
		case err != nil && record.Begun():
			return made, cli.Advice(err, record.Path+" still tells of it: call again, or name another file with "+
				"-out to leave it")
		case err != nil:
			return made, goBack(err, record, made)
		}
	}
	plans, err := j.plans(ctx)
	if err != nil {
		return made, err
	}
	plans = slices.DeleteFunc(plans, debpkg.Plan.Empty)
	switch {
	case len(plans) == 0:
		return made, nil
	case finished:
		return made, cli.Wrong("%s holds what a revert of earlier changes needs: name another "+
			"file with -out", record.Path)
	case !j.On("yes") && !j.Confirm("Carry this out?"):
		return made, cli.Refuse(errors.New("not approved; nothing was changed"))
	}
	more, err := record.ApplyAll(ctx, j.host, plans, stage, j.changed)
	made = append(made, more...)
	if err != nil {
		return made, goBack(err, record, made)
	}
	j.Say("To go back: upgradehost revert -change %s", record.Path)
	return made, nil
}

// goBack adds how to go back, if there is something to go back from.
func goBack(err error, record *debpkg.Record, made []debpkg.Change) error {
	if len(made) == 0 {
		return err
	}
	return cli.Advice(err, "to go back: upgradehost revert -change "+record.Path)
}

func (j *job) revert(ctx context.Context) error {
	change, last := j.Text("change"), j.Given["last"]
	if (change == "") == !last {
		return cli.Wrong("give either -change FILE or -last PACKAGES")
	}
	record, err := &debpkg.Record{}, error(nil)
	if !last {
		record, err = debpkg.OpenRecord(change)
		err = ofFile(ctx, err)
	} else {
		record.Changes = make([]debpkg.Change, 1)
		record.Changes[0], err = j.host.RevertFromHistory(ctx, strings.Split(j.Text("last"), ",")...)
	}
	if err != nil {
		return err
	}
	return record.Revert(ctx, j.host, debpkg.RevertOptions{Files: j.On("files")}, func(c debpkg.Change) {
		for _, a := range c.Plan.Actions {
			j.ok("%s is back from %s", a.Before(), a.After())
		}
	})
}

// ofFile gives an error about a file of changes its exit code. An unsafe file is refused.
func ofFile(ctx context.Context, err error) error {
	if errors.Is(err, debpkg.ErrUnsafe) {
		return err
	}
	return cli.OfFlag(ctx, err)
}

func (j *job) repair(ctx context.Context) error {
	if err := j.host.Repair(ctx); err != nil {
		return err
	}
	j.ok("no package is left half-installed")
	return nil
}

func (j *job) forget(ctx context.Context) error {
	if (j.Text("change") == "") != j.Given["older-than"] {
		return cli.Wrong("give either -change FILE or -older-than AGE")
	}
	if j.Text("change") == "" {
		return j.forgetOld(ctx)
	}
	record, err := debpkg.OpenRecord(j.Text("change"))
	if err != nil {
		return ofFile(ctx, err)
	}
	if err := record.Forget(ctx, j.host); err != nil {
		return err
	}
	j.ok("nothing is kept of %s any more; it cannot be reverted", record.Path)
	return nil
}

// forgetOld forgets what the host keeps of old changes.
func (j *job) forgetOld(ctx context.Context) error {
	before, err := j.Before(nil)
	if err != nil {
		return err
	}
	o := debpkg.PruneOptions{Before: before, DryRun: j.On("dry-run")}
	for _, file := range j.List("keep") {
		record, err := debpkg.OpenRecord(file)
		if err != nil {
			return ofFile(ctx, err)
		}
		o.Keep = append(o.Keep, record.Changes...)
	}
	list, err := j.host.Prune(ctx, o)
	text := cli.Lines(list)
	if len(list) == 0 && err == nil {
		text = "the host keeps nothing\n"
	}
	return errors.Join(err, j.Show(append([]debpkg.Pruned{}, list...), text))
}

func (j *job) installHelper(ctx context.Context) error {
	if err := debpkg.InstallHelper(ctx, j.run, j.Args[0]); err != nil {
		return err
	}
	j.ok("%s may call %s; give -helper instead of -sudo", j.Args[0], debpkg.HelperPath)
	return nil
}

func (j *job) history(ctx context.Context) error {
	entries, err := j.host.History(ctx)
	if err != nil {
		return err
	}
	rows := [][]string{{"WHEN", "WHAT", "PACKAGE", "FROM", "TO", "RESULT"}}
	for _, e := range entries {
		result := j.Out.Paint(cli.Good, "ok")
		if e.Error != "" {
			result = j.Out.Paint(cli.Bad, e.Error)
		}
		for _, row := range e.Rows() {
			rows = append(rows, append(row, result))
		}
	}
	return j.Show(append([]debpkg.Entry{}, entries...), j.Out.Table(rows)) // [] rather than null
}
