package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
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

// apply applies or resumes, as the verb says.
func (c *command) apply(u *upgrade, verb string) int {
	mode := map[string]rollout.Mode{"apply": rollout.ModeRun, "resume": rollout.ModeResume}[verb]
	if u.Backup == nil && !u.without[withoutBackup] {
		return c.refused(refuse(withoutBackup, errNoBackup))
	}
	before, err := c.history()
	if err != nil {
		return c.Fail(err)
	}
	switch {
	case mode == rollout.ModeRun:
		if before, err = c.putAside(before); err != nil {
			return c.Fail(err)
		}
	case before != nil && before.Outcome == rollout.OutcomeUndone:
		return c.refused(fmt.Errorf("the run in %s was reverted: apply begins a new one, with a backup of now", c.journal))
	}
	u.begun = begun(before)
	live := cli.NewLive(cli.NewOut(c.Stderr))
	u.event = live.Note
	waves, err := u.waves()
	if err != nil {
		return c.Fail(err)
	}
	hosts := hostWaves(waves)
	o := u.options(hosts)
	o.Control = &rollout.Control{}
	stopped := false
	if c.stopAfter != "" {
		i := slices.IndexFunc(waves, func(w rollout.Wave) bool { return w.Name == c.stopAfter })
		if i < 0 {
			return c.Wrong("-stop-after: there is no wave %q", c.stopAfter)
		}
		if i+1 < len(waves) {
			next := waves[i+1].Name
			o.Progress = func(r rollout.Record) {
				if r.Kind == rollout.KindWave && r.Wave == next {
					stopped = true
					o.Control.Stop()
				}
			}
		}
	}
	if !c.yes {
		question := fmt.Sprintf("%s %s on %d targets", verb, strings.TrimPrefix(u.label(), "before "), fleet.Targets(hosts))
		if len(c.without) > 0 {
			question += " WITHOUT " + strings.Join(c.without, " and ")
		}
		if !agreed(c.Stdin, c.Stderr, question+", recorded in "+c.journal+"?") {
			return c.Fail(errors.New("nothing was done: not confirmed; -yes confirms"))
		}
	}
	o.Journal, o.Secrets = c.journal, u.secrets()
	rep, err := live.Work(context.Background(), mode, waves, o)
	c.report(cli.NewOut(c.Stdout), show(rep))
	if errors.Is(err, rollout.ErrStopped) && stopped {
		_, _ = fmt.Fprintf(c.Stderr, "upgrade: stopped after %s as asked; resume goes on\n", c.stopAfter)
		return exitOK
	}
	return c.code(rep, err)
}

// refused says that nothing was begun.
func (c *command) refused(err error) int {
	_ = c.Fail(err)
	return exitRefused
}

// code prints the error and tells how bad it is.
func (c *command) code(rep *rollout.Report, err error) int {
	code := c.Ended(rep, reword(err))
	if code == exitFailed && rep != nil && !begun(rep) {
		_, _ = fmt.Fprintln(c.Stderr, "upgrade: refused: no host was changed")
		return exitRefused
	}
	return code
}

// history is what the journal holds; nil: nothing.
func (c *command) history() (*rollout.Report, error) {
	f, err := os.Open(c.journal)
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

// show puts what was overridden among the report's events, where nobody who
// reads it can overlook it.
func show(rep *rollout.Report) *rollout.Report {
	if rep == nil {
		return nil
	}
	rep.Halt = inWords(rep.Halt)
	for i := range rep.Events {
		rep.Events[i].Text = inWords(rep.Events[i].Text)
	}
	for _, t := range rep.Targets {
		for _, s := range t.Steps {
			var note overriddenNote
			if json.Unmarshal(s.Note, &note) == nil && note.Overridden != "" {
				rep.Events = append(rep.Events, rollout.Note{Time: s.Started, Text: fmt.Sprintf("%s %s OVERRIDDEN: %s", t.Name, s.Name, note.Overridden)})
			}
		}
	}
	return rep
}

// begun says whether anything beyond the preparation was.
func begun(rep *rollout.Report) bool {
	return rep != nil && slices.ContainsFunc(rep.Targets, func(t rollout.TargetReport) bool {
		return t.Wave != wavePrepare && t.Status != rollout.StatusPending
	})
}

// putAside keeps the journal of a run that left no host changed under another
// name, so that a new one can begin, and returns what is left of it. Where
// somebody holds the lock, the run finds that out.
func (c *command) putAside(rep *rollout.Report) (*rollout.Report, error) {
	if rep == nil || begun(rep) && rep.Outcome != rollout.OutcomeUndone {
		return rep, nil
	}
	if _, err := os.Stat(c.journal + ".lock"); !errors.Is(err, fs.ErrNotExist) {
		return rep, nil
	}
	return nil, os.Rename(c.journal, c.journal+"."+rep.Started.UTC().Format("20060102T150405.000Z"))
}

// report prints what was done, and what the preparation found.
func (c *command) report(out *cli.Out, rep *rollout.Report) {
	switch {
	case rep == nil:
	case c.json:
		c.Print(rep, exitOK)
	default:
		_ = rep.WriteText(out)
		if rows := notes(rep); len(rows) > 1 {
			out.Printf("\n%s", out.Table(rows))
		}
	}
}

// notes are what the preparation found, as a table.
func notes(rep *rollout.Report) [][]string {
	rows := [][]string{{"PREPARED", "WHAT"}}
	for _, t := range rep.Targets {
		if t.Wave != wavePrepare {
			continue
		}
		latest := map[string]json.RawMessage{}
		var order []string
		for _, s := range t.Steps {
			if s.Note != nil && !slices.Contains(order, s.Name) {
				order = append(order, s.Name)
			}
			if s.Note != nil {
				latest[s.Name] = s.Note
			}
		}
		for _, step := range order {
			if text := describe(step, latest[step]); text != "" {
				rows = append(rows, []string{t.Name + " " + step, text})
			}
		}
	}
	return rows
}

// describe says what a step's note holds.
func describe(step string, data json.RawMessage) string {
	read := func(v any) bool { return json.Unmarshal(data, v) == nil }
	var (
		module moduleNote
		built  compileNote
		pre    preflightNote
		zip    bundleNote
		out    publishNote
		hosts  hostsNote
		set    setNote
	)
	switch {
	case step == "module" && read(&module):
		return fmt.Sprintf("fits %s, findings: %d", module.Release, len(module.Findings))
	case step == "compile" && read(&built):
		return built.File + " with " + built.Image
	case step == "given" && read(&built):
		return built.File
	case step == "preflight" && read(&pre) && pre.Verdict != "":
		return fmt.Sprintf("the plugin %s in %s", pre.Verdict, pre.Gateway)
	case step == "bundle" && read(&zip):
		var parts []string
		for _, v := range slices.Sorted(maps.Keys(zip.Loads)) {
			parts = append(parts, v+" loads "+zip.Loads[v])
		}
		return zip.File + ": " + strings.Join(parts, ", ")
	case step == "publish" && read(&out) && out.URL != "":
		return out.URL + " has it"
	case step == "publish" && read(&out):
		return out.Name
	case step == "plan" && read(&hosts):
		var parts []string
		for _, v := range slices.Sorted(maps.Keys(hosts.Now)) {
			parts = append(parts, fmt.Sprintf("%d with %s", hosts.Now[v], v))
		}
		return strings.Join(parts, ", ")
	case step == "set" && read(&set) && set.Dir != "":
		return fmt.Sprintf("%s: %s, %s", set.Dir, strings.Join(set.Components, ", "), cli.Bytes(set.Bytes))
	}
	return ""
}

// revert undoes the hosts, and restores what was asked for.
func (c *command) revert(u *upgrade) int {
	live := cli.NewLive(cli.NewOut(c.Stderr))
	u.event = live.Note
	waves, err := u.waves()
	if err != nil {
		return c.Fail(err)
	}
	set, err := c.restorable(u)
	if err != nil {
		return c.refused(err)
	}
	if !c.yes {
		question := "revert the hosts, recorded in " + c.journal
		if set.Dir != "" {
			question += fmt.Sprintf(", and restore %s from %s: what was written since %s IS LOST", strings.Join(c.restore, " and "), set.Dir, set.Taken.Format("2006-01-02 15:04 MST"))
		}
		if !agreed(c.Stdin, c.Stderr, question+"?") {
			return c.Fail(errors.New("nothing was done: not confirmed; -yes confirms"))
		}
	}
	o := u.options(hostWaves(waves))
	o.Journal, o.Secrets = c.journal, u.secrets()
	rep, err := live.Work(context.Background(), rollout.ModeUndo, waves, o)
	result := struct {
		*rollout.Report
		Restored *backup.Report `json:"restored,omitempty"`
	}{Report: rep}
	if err == nil && set.Dir != "" {
		var restored backup.Report
		restored, err = c.restoring(u, set.Dir)
		result.Restored = &restored
	}
	out := cli.NewOut(c.Stdout)
	if c.json && rep != nil {
		c.Print(result, exitOK)
	} else {
		c.report(out, rep)
	}
	if result.Restored != nil && !c.json {
		rows := [][]string{{"RESTORED", "STATE", "CHANGED"}}
		for _, comp := range result.Restored.Components {
			n := 0
			for _, i := range comp.Items {
				if i.Action == backup.ActionCreate || i.Action == backup.ActionReplace || i.Action == backup.ActionDrop {
					n++
				}
			}
			rows = append(rows, []string{comp.Name, string(comp.State), fmt.Sprint(n)})
		}
		out.Printf("\n%s", out.Table(rows))
		for _, comp := range result.Restored.Components {
			for _, i := range comp.Items {
				if i.Action == backup.ActionKeep {
					out.Printf("%s %s: %s\n", comp.Name, i.Name, i.Detail)
				}
			}
		}
	}
	return c.code(rep, err)
}

func (c *command) restoring(u *upgrade, dir string) (backup.Report, error) {
	signal.Ignore(syscall.SIGHUP) // a terminal that is gone is no reason to end a restore half way
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return u.restore(ctx, dir, c.restore)
}

// restorable finds the set of the run when a restore is asked for, and refuses
// what cannot be restored before anything is undone.
func (c *command) restorable(u *upgrade) (setNote, error) {
	if len(c.restore) == 0 {
		return setNote{}, nil
	}
	rep, err := c.history()
	if err != nil {
		return setNote{}, err
	}
	var note setNote
	if data := saved(rep, targetBackup, "set"); data != nil {
		_ = json.Unmarshal(data, &note)
	}
	switch {
	case u.Backup == nil:
		return note, errors.New("restore: the file has no section backup")
	case note.Dir == "":
		return note, errors.New("restore: the run has no backup; nothing was undone")
	case slices.Contains(c.restore, "redis") && u.Backup.Redis == nil, slices.Contains(c.restore, "mongo") && u.Backup.Mongo == nil:
		return note, fmt.Errorf("restore %s: the file's section backup does not have all of it", strings.Join(c.restore, ", "))
	}
	set, err := u.open(note.Dir)
	if err != nil {
		return note, fmt.Errorf("%w; nothing was undone", err)
	}
	return note, set.Verify(context.Background(), backup.VerifyOptions{})
}

// saved is the latest note of a step; nil: there is none.
func saved(rep *rollout.Report, target, step string) json.RawMessage {
	var note json.RawMessage
	if rep == nil {
		return nil
	}
	for _, t := range rep.Targets {
		for _, s := range t.Steps {
			if t.Name == target && s.Name == step && s.Note != nil {
				note = s.Note
			}
		}
	}
	return note
}
