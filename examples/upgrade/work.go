package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/fleet/installation"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/cli"
)

// forward applies or resumes, as the verb says.
func (w *work) forward(ctx context.Context) error {
	mode := map[string]rollout.Mode{"apply": rollout.ModeRun, "resume": rollout.ModeResume}[w.c.Verb]
	if err := w.Ready(); err != nil {
		return w.refused(err)
	}
	if err := w.Begin(mode); err != nil {
		return translate(err)
	}
	live := cli.NewLive(w.c.Err)
	w.Progress = live.Note
	waves, err := w.Waves()
	if err != nil {
		return err
	}
	o := w.runOptions(ctx, waves)
	stopped, err := w.stops(waves, &o)
	if err != nil {
		return err
	}
	question := fmt.Sprintf("%s %s on %s", w.c.Verb, w.Label(),
		cli.Count(fleet.Targets(installation.HostWaves(waves)), "host"))
	if len(w.without) > 0 {
		question += " WITHOUT " + strings.Join(w.without, " and ")
	}
	if err := w.confirm(question + ", recorded in " + w.Journal); err != nil {
		return err
	}
	rep, err := live.Work(ctx, mode, waves, o)
	if perr := w.report(installation.Skipped(rep)); err == nil {
		err = perr
	}
	if errors.Is(err, rollout.ErrStopped) && *stopped {
		w.c.Err.Printf("upgrade: stopped after %s; upgrade resume continues\n", w.stopAfter)
		return nil
	}
	return w.ended(rep, err)
}

// runOptions are those of the run. Nobody answers a pause if nobody is asked.
func (w *work) runOptions(ctx context.Context, waves []rollout.Wave) rollout.Options {
	o := w.RunOptions(ctx, waves)
	if o.Prober != nil {
		o.Prober.Stop = o.Prober.Stop || w.yes
	}
	return o
}

// stops arranges the end after the wave of -stop-after.
func (w *work) stops(waves []rollout.Wave, o *rollout.Options) (*bool, error) {
	o.Control = &rollout.Control{}
	stopped := new(bool)
	if w.stopAfter == "" {
		return stopped, nil
	}
	var names []string
	for _, wave := range waves {
		names = append(names, wave.Name)
	}
	i := slices.Index(names, w.stopAfter)
	if i < 0 {
		return nil, cli.Wrong("unknown wave %q of -stop-after (want %s)", w.stopAfter, strings.Join(names,
			", "))
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

// translate says what to do after an error of the journal.
func translate(err error) error {
	for kind, hint := range map[error]string{
		installation.ErrNotAccepted: "upgrade accept ends it, upgrade revert takes it back, -journal " +
			"names another journal",
		installation.ErrUnfinished: "upgrade resume continues it, upgrade revert takes it back, " +
			"-journal names another journal",
		installation.ErrNoRun:    "upgrade apply begins one, -journal names another journal",
		installation.ErrReverted: "upgrade apply begins a new one, with a backup of now",
	} {
		if errors.Is(err, kind) {
			return cli.Advice(cli.Refuse(err), hint)
		}
	}
	return err
}

// refused names the flag that skips the checks that failed.
func (w *work) refused(err error) error {
	hint := "fix what is named above, then upgrade resume, or upgrade apply to begin again"
	if failed := w.Refused(); len(failed) > 0 {
		names := make([]string, len(failed))
		for i, c := range failed {
			names[i] = string(c)
		}
		hint += "; -without " + strings.Join(names, ",") + " skips the checks that failed"
	}
	return cli.Advice(cli.Refuse(err), hint)
}

// ended gives a run's error its exit code and its advice, in words of this command.
func (w *work) ended(rep *rollout.Report, err error) error {
	if err != nil && rep != nil && !installation.Changed(rep) {
		return w.refused(fmt.Errorf("no host was changed: %w", failures(rep, err)))
	}
	return cli.Ended(rep, err, "upgrade resume continues, upgrade revert takes back what was done")
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

// revert undoes the hosts and the bundles, and restores the parts of -restore.
func (w *work) revert(ctx context.Context) error {
	if err := w.Begin(rollout.ModeUndo); err != nil {
		return translate(err)
	}
	var set *backup.Set
	question := "revert the hosts, recorded in " + w.Journal
	if len(w.restore) > 0 {
		var taken time.Time
		var err error
		if set, taken, err = w.Restorable(ctx, w.restore); err != nil {
			return cli.Refuse(err)
		}
		question += fmt.Sprintf(", and restore %s from %s: what was written since %s IS LOST",
			strings.Join(w.restore, " and "), set.Dir, taken.Format("2006-01-02 15:04 MST"))
	}
	if err := w.confirm(question); err != nil {
		return err
	}
	live := cli.NewLive(w.c.Err)
	w.Progress = live.Note
	waves, err := w.Waves()
	if err != nil {
		return err
	}
	rep, err := live.Work(ctx, rollout.ModeUndo, waves, w.runOptions(ctx, waves))
	result := struct {
		*rollout.Report
		Restored *backup.Report `json:"restored,omitempty"`
	}{Report: rep}
	if err == nil && set != nil {
		signal.Ignore(syscall.SIGHUP) // a terminal that is gone must not end a restore half way
		var restored backup.Report
		restored, err = w.Restore(ctx, set, w.restore)
		result.Restored = &restored
	}
	switch {
	case w.json && rep != nil:
		err = errors.Join(err, w.c.JSON(result))
	case !w.json:
		err = errors.Join(err, w.report(rep))
		printRestored(w.c, result.Restored)
	}
	return w.ended(rep, err)
}

// accept removes what only a revert needs, and puts the journal aside.
func (w *work) accept(ctx context.Context) error {
	if rep, err := w.History(); err == nil && rep != nil && rep.Outcome == rollout.OutcomeDone {
		if err := w.confirm("accept the run in " + w.Journal +
			"? It cannot be reverted afterwards. Accept"); err != nil {
			return err
		}
	}
	return translate(w.Accept(ctx))
}
