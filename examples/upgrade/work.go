package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/cli"
)

var errNotConfirmed = cli.Advice(cli.Refuse(errors.New("not confirmed")), "-yes confirms")

// forward applies or resumes, as the verb says.
func (u *upgrade) forward(ctx context.Context, c *cli.Call) error {
	mode := map[string]rollout.Mode{"apply": rollout.ModeRun, "resume": rollout.ModeResume}[c.Verb]
	if err := u.refusals(); err != nil {
		return cli.Refuse(err)
	}
	before, err := u.history()
	if err != nil {
		return err
	}
	switch {
	case mode == rollout.ModeRun && before != nil && begun(before) && before.Outcome == rollout.OutcomeDone:
		return cli.Advice(cli.Refuse(fmt.Errorf("the run in %s is done and not accepted", u.journal)),
			"upgrade accept ends it, upgrade revert takes it back, -journal names another journal")
	case mode == rollout.ModeRun && before != nil && begun(before) && before.Outcome != rollout.OutcomeUndone:
		return cli.Advice(cli.Refuse(fmt.Errorf("the journal %s holds an unfinished run", u.journal)),
			"upgrade resume continues it, upgrade revert takes it back, -journal names another journal")
	case mode == rollout.ModeRun:
		if before, err = u.putAside(before); err != nil {
			return err
		}
	case before == nil:
		return cli.Advice(cli.Refuse(fmt.Errorf("the journal %s holds no run", u.journal)), "upgrade apply begins one")
	case before.Outcome == rollout.OutcomeUndone:
		return cli.Advice(cli.Refuse(fmt.Errorf("the run in %s was reverted", u.journal)), "upgrade apply begins a new one, with a backup of now")
	}
	u.begun = begun(before)
	live := cli.NewLive(c.Err)
	u.event = live.Note
	waves, err := u.waves()
	if err != nil {
		return err
	}
	hosts := hostWaves(waves)
	o := u.runOptions(hosts)
	stopped, err := u.stops(waves, &o)
	if err != nil {
		return err
	}
	question := fmt.Sprintf("%s %s on %s", c.Verb, strings.TrimPrefix(u.label(), "before "), cli.Count(fleet.Targets(hosts), "host"))
	if len(u.options.without) > 0 {
		question += " WITHOUT " + strings.Join(u.options.without, " and ")
	}
	if !u.yes && !c.Confirm(question+", recorded in "+u.journal+"?") {
		return errNotConfirmed
	}
	rep, err := live.Work(ctx, mode, waves, o)
	if perr := u.report(c, show(rep)); err == nil {
		err = perr
	}
	if errors.Is(err, rollout.ErrStopped) && *stopped {
		c.Err.Printf("upgrade: stopped after %s; upgrade resume continues\n", u.stopAfter)
		return nil
	}
	return u.ended(rep, err)
}

// stops arranges the end after the wave of -stop-after.
func (u *upgrade) stops(waves []rollout.Wave, o *rollout.Options) (*bool, error) {
	o.Control = &rollout.Control{}
	stopped := new(bool)
	if u.stopAfter == "" {
		return stopped, nil
	}
	var names []string
	for _, w := range waves {
		names = append(names, w.Name)
	}
	i := slices.Index(names, u.stopAfter)
	if i < 0 {
		return nil, cli.Wrong("unknown wave %q of -stop-after (want %s)", u.stopAfter, strings.Join(names, ", "))
	}
	if i+1 < len(names) {
		o.Progress = func(r rollout.Record) {
			if r.Kind == rollout.KindWave && r.Wave == names[i+1] {
				*stopped = true
				o.Control.Stop()
			}
		}
	}
	return stopped, nil
}

// ended gives a run's error its exit code and its advice, in words of this command.
func (u *upgrade) ended(rep *rollout.Report, err error) error {
	err = cli.Ended(rep, err)
	switch {
	case err == nil || cli.Code(err) == cli.Busy:
		return err
	case rep != nil && !begun(rep):
		return cli.Advice(cli.Refuse(fmt.Errorf("no host was changed: %w", failures(rep, err))), "fix what is named above, then upgrade resume, or upgrade apply to begin again")
	case cli.Code(err) == cli.Unknown:
		return cli.Advice(err, "look at the hosts that are named above, then upgrade resume or upgrade revert")
	case errors.Is(err, rollout.ErrPlanChanged):
		return cli.Advice(err, "restore the file to continue that run; -journal names another journal for a new one")
	}
	return cli.Advice(err, "upgrade resume continues, upgrade revert takes back what was done")
}

// failures are what went wrong in a preparation.
func failures(rep *rollout.Report, err error) error {
	var all []string
	for _, t := range rep.Targets {
		if t.Error != "" {
			all = append(all, t.Name+": "+t.Error)
		}
	}
	if len(all) == 0 {
		return err
	}
	return errors.New(strings.Join(all, "\n"))
}

// history is what the journal holds. Nil: nothing.
func (u *upgrade) history() (*rollout.Report, error) {
	f, err := os.Open(u.journal)
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
	return show(rollout.BuildReport(recs)), nil
}

// begun reports whether anything beyond the preparation was begun.
func begun(rep *rollout.Report) bool {
	return rep != nil && slices.ContainsFunc(rep.Targets, func(t rollout.TargetReport) bool {
		return t.Wave != wavePrepare && t.Status != rollout.StatusPending
	})
}

// putAside keeps the journal of a run that left no host changed under another name, so
// that a new one can begin, and returns what is left of it. If somebody holds the lock,
// the run finds that out.
func (u *upgrade) putAside(rep *rollout.Report) (*rollout.Report, error) {
	if rep == nil {
		return nil, nil
	}
	if _, err := os.Stat(u.journal + ".lock"); !errors.Is(err, fs.ErrNotExist) {
		return rep, nil
	}
	return nil, os.Rename(u.journal, u.journal+"."+rep.Started.UTC().Format("20060102T150405.000Z"))
}

// revert undoes the hosts and the bundle, and restores what was asked for.
func (u *upgrade) revert(ctx context.Context, c *cli.Call) error {
	live := cli.NewLive(c.Err)
	u.event = live.Note
	waves, err := u.waves()
	if err != nil {
		return err
	}
	rep, err := u.history()
	if err != nil {
		return err
	}
	if rep == nil {
		return cli.Advice(cli.Refuse(fmt.Errorf("the journal %s holds no run", u.journal)), "-journal names another journal")
	}
	set, err := u.restorable(rep)
	if err != nil {
		return cli.Refuse(err)
	}
	question := "revert the hosts, recorded in " + u.journal
	if set.Dir != "" {
		question += fmt.Sprintf(", and restore %s from %s: what was written since %s IS LOST", strings.Join(u.options.restore, " and "), set.Dir, set.Taken.Format("2006-01-02 15:04 MST"))
	}
	if !u.yes && !c.Confirm(question+"?") {
		return errNotConfirmed
	}
	rep, err = live.Work(ctx, rollout.ModeUndo, waves, u.runOptions(hostWaves(waves)))
	result := struct {
		*rollout.Report
		Restored *backup.Report `json:"restored,omitempty"`
	}{Report: rep}
	if err == nil && set.Dir != "" {
		signal.Ignore(syscall.SIGHUP) // a terminal that is gone is no reason to end a restore half way
		var restored backup.Report
		restored, err = u.restore(ctx, set.Dir, u.options.restore)
		result.Restored = &restored
	}
	switch {
	case u.json && rep != nil:
		err = errors.Join(err, c.JSON(result))
	case !u.json:
		err = errors.Join(err, u.report(c, rep))
		printRestored(c, result.Restored)
	}
	return u.ended(rep, err)
}

func printRestored(c *cli.Call, r *backup.Report) {
	if r == nil {
		return
	}
	rows := [][]string{{"RESTORED", "STATE", "CHANGED"}}
	var kept []string
	for _, comp := range r.Components {
		n := 0
		for _, i := range comp.Items {
			switch i.Action {
			case backup.ActionCreate, backup.ActionReplace, backup.ActionDrop:
				n++
			case backup.ActionKeep:
				kept = append(kept, fmt.Sprintf("%s %s: %s", comp.Name, i.Name, i.Detail))
			}
		}
		rows = append(rows, []string{comp.Name, string(comp.State), fmt.Sprint(n)})
	}
	c.Out.Printf("\n%s", c.Out.Table(rows))
	for _, text := range kept {
		c.Out.Printf("%s\n", text)
	}
}

// restorable finds the set of the run if a restore is asked for, and refuses what cannot
// be restored before anything is undone.
func (u *upgrade) restorable(rep *rollout.Report) (setNote, error) {
	var note setNote
	what := u.options.restore
	if len(what) == 0 {
		return note, nil
	}
	if data := saved(rep, targetBackup, "set"); data != nil {
		_ = json.Unmarshal(data, &note)
	}
	switch {
	case u.Backup == nil:
		return note, errors.New("restore: the file has no section backup")
	case note.Dir == "":
		return note, errors.New("restore: the run has no backup; nothing was undone")
	case slices.Contains(what, "redis") && u.Backup.Redis == nil, slices.Contains(what, "mongo") && u.Backup.Mongo == nil,
		slices.Contains(what, "postgres") && u.Backup.Postgres == nil:
		return note, fmt.Errorf("restore %s: the file's section backup does not have all of it", strings.Join(what, ", "))
	}
	set, err := u.open(note.Dir)
	if err != nil {
		return note, fmt.Errorf("%w; nothing was undone", err)
	}
	return note, set.Verify(context.Background(), backup.VerifyOptions{})
}

// accept removes what only a revert needs, and puts the journal aside.
func (u *upgrade) accept(ctx context.Context, c *cli.Call) error {
	rep, err := u.history()
	switch {
	case err != nil:
		return err
	case rep == nil:
		return cli.Refuse(fmt.Errorf("the journal %s holds no run", u.journal))
	case rep.Outcome != rollout.OutcomeDone:
		return cli.Advice(cli.Refuse(fmt.Errorf("the run in %s is not done", u.journal)), "upgrade resume finishes it, upgrade revert takes it back")
	}
	if !u.yes && !c.Confirm("accept the run in "+u.journal+"? It cannot be reverted afterwards") {
		return errNotConfirmed
	}
	if err := errors.Join(u.Forget(ctx, rep), u.forgetBundle(ctx, rep)); err != nil {
		return err
	}
	_, err = u.putAside(rep)
	return err
}
