package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/fleet/installation"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/cli"
)

// plan shows what apply would do, and everything that it would refuse.
func (w *work) plan(ctx context.Context) error {
	p, err := w.Plan(ctx)
	if err != nil {
		return err
	}
	var answer error
	if !p.OK() {
		answer = cli.Exit(cli.No, nil)
	}
	if w.json {
		return errors.Join(w.c.JSON(p), answer)
	}
	c := w.c
	w.printPlan(p)
	c.Out.Printf("%s\n%s\n", c.Plans(p.Hosts), p.Stops)
	for _, f := range p.Findings {
		if !f.Refuse {
			c.Out.Printf("%s %s\n", c.Out.Paint(cli.Warn, "note:"), f)
		}
	}
	for _, text := range p.Notes {
		c.Out.Printf("%s %s\n", c.Out.Paint(cli.Warn, "note:"), text)
	}
	for _, text := range p.Problems {
		c.Out.Printf("%s %s\n", c.Out.Paint(cli.Bad, "cannot:"), text)
	}
	c.Problems(p.Hosts)
	if failed := w.Refused(); len(failed) > 0 {
		c.Out.Printf("-without NAME skips a check; those that fail: %s\n",
			strings.Join(strings.Fields(strings.Trim(fmt.Sprint(failed), "[]")), ","))
	}
	return answer
}

func (w *work) printPlan(p *installation.Plan) {
	out := w.c.Out
	rows := [][]string{{"PREPARE", "WHAT"}}
	add := func(what, format string, a ...any) {
		rows = append(rows, []string{what, fmt.Sprintf(format,
			a...)})
	}
	// either says what is done, or that it was left out.
	either := func(c installation.Check, text string) string {
		for _, skipped := range p.Without {
			if skipped == c {
				return "LEFT OUT by -without " + string(c)
			}
		}
		return text
	}
	for _, b := range p.Bundles {
		for _, one := range b.Plugins {
			switch {
			case one.Build == nil:
				add("plugin", "%s, as given", one.Target)
				continue
			case one.Prepare:
				for _, cmd := range one.Build.Commands {
					add("module", "%s", cmd.Shell())
				}
			default:
				add("module", "checked only; prepare: true brings it to the release (%s)", one.Build.Path)
			}
			add("compile", "%s in %s", one.Target, one.Build.Image)
		}
		text := "will it load in " + w.Plugin.Gateway + "?"
		if w.Plugin.Gateway == "" {
			text = "nothing to check it against"
		}
		add("preflight", "%s", either(installation.CheckPreflight, text))
		if plan := b.Plan; plan != nil {
			signed := "unsigned"
			if b.Signed {
				signed = "signed"
			}
			add("bundle", "%s, %s", b.File, signed)
			for _, one := range plan.Plugins {
				add("", "%s loads %s, %s loads %s", one.Current.Gateway, one.Current.File, one.Target.Gateway,
					one.Target.File)
			}
			if s := plan.Switch; s != nil {
				add("switch", "%s: a running gateway %s", s.Mode, s.Running.Text)
			}
		}
		if b.Publish == "" {
			add("publish", "by hand, under the name %s", b.Name)
		} else {
			add("publish", "%s: %s; the old file is kept until the run is accepted", b.Name, b.Publish)
		}
		if b.URL != "" {
			add("", "%s must have it before the first host", b.URL)
		}
	}
	add("hosts", "can each be upgraded?")
	add("baseline", "%s", either(installation.CheckBaseline, "is each healthy now?"))
	if len(p.Gates) > 0 {
		add("gates", "%s", either(installation.CheckGates, strings.Join(p.Gates, ", ")+
			": before, and after each component"))
	}
	text := "none"
	switch {
	case p.Existing != "":
		text = strings.Join(p.Backup, ", ") + " in the existing set " + p.Existing
	case len(p.Backup) > 0:
		text = strings.Join(p.Backup, ", ") + " into " + w.Backup.Dir
	}
	add("backup", "%s", either(installation.CheckBackup, text))
	out.Printf("%s\n", out.Table(rows))
}

// report prints what was done, and what the preparation found.
func (w *work) report(rep *rollout.Report) error {
	switch {
	case rep == nil:
		return nil
	case w.json:
		return w.c.JSON(rep)
	}
	err := rep.WriteText(w.c.Out)
	rows := [][]string{{"PREPARED", "WHAT"}}
	for _, p := range installation.Preparation(rep) {
		rows = append(rows, []string{p.Target + " " + p.Step, p.Text})
	}
	if len(rows) > 1 {
		w.c.Out.Printf("\n%s", w.c.Out.Table(rows))
	}
	return err
}

func printRestored(c *cli.Call, r *backup.Report) {
	if r == nil {
		return
	}
	rows := [][]string{{"RESTORED", "STATE", "CHANGED"}}
	var kept []string
	for _, comp := range r.Components {
		for _, i := range comp.Items {
			if i.Action == backup.ActionKeep {
				kept = append(kept, fmt.Sprintf("%s %s: %s", comp.Name, i.Name, i.Detail))
			}
		}
		rows = append(rows, []string{comp.Name, string(comp.State), fmt.Sprint(comp.Changed())})
	}
	c.Out.Printf("\n%s", c.Out.Table(rows))
	for _, text := range kept {
		c.Out.Printf("%s\n", text)
	}
}

// status shows what everybody says. It may be called while a run is under way.
func (w *work) status(ctx context.Context) error {
	s, err := w.Status(ctx)
	if err != nil {
		return err
	}
	if w.html != "" {
		if err := page(w.html, s.Run); err != nil {
			return err
		}
	}
	code := cli.No
	switch {
	case s.OK():
		code = cli.Yes
	case s.Run != nil && s.Run.Outcome == rollout.OutcomeNotRestored:
		code = cli.Unknown
	}
	if w.json {
		err = w.c.JSON(s)
	} else {
		err = w.printStatus(s)
	}
	if err != nil {
		return err
	}
	return cli.Exit(code, nil)
}

// page writes the report for a change board.
func page(path string, rep *rollout.Report) error {
	if rep == nil {
		return translate(&installation.Error{Op: "write", Object: path, Kind: installation.ErrNoRun})
	}
	return cli.Page(path, rep)
}

// next is what can be done after a run.
func next(rep *rollout.Report) string {
	switch {
	case rep.Outcome == rollout.OutcomeDone:
		return "upgrade accept removes what only a revert needs; upgrade revert takes the hosts back"
	case rep.Outcome == rollout.OutcomeUndone:
		return "upgrade apply begins a new run"
	case rep.Outcome == rollout.OutcomeNotRestored:
		return "look at the hosts that failed, then upgrade resume or upgrade revert"
	case !installation.Changed(rep):
		return "fix what is named above, then upgrade resume, or upgrade apply to begin again; no host " +
			"was changed"
	}
	return "upgrade resume continues, upgrade revert takes back what was done"
}

func (w *work) printStatus(s installation.Status) error {
	out := w.c.Out
	if s.Run == nil {
		out.Printf("no run in %s; upgrade apply begins one\n\n", w.Journal)
	} else if err := w.report(s.Run); err != nil {
		return err
	} else {
		out.Printf("\nnext: %s\n", next(s.Run))
	}
	show := func(what string, f installation.FileStatus) {
		text := out.Paint(cli.Good, "whole")
		if !f.OK {
			text = out.Paint(cli.Bad, f.Error)
		}
		out.Printf("%s %s: %s\n", what, f.Path, text)
	}
	for _, b := range s.Bundles {
		show("bundle", b)
	}
	if s.Set != nil {
		show("backup", *s.Set)
	}
	rows := [][]string{{"HOST", "COMPONENT", "INSTALLED", "WANTED", "UNIT", "HEALTH"}}
	for _, h := range s.Hosts {
		rows = append(rows, row(out, h))
	}
	out.Printf("%s", out.Table(rows))
	return nil
}

func row(out *cli.Out, h fleet.Status) []string {
	style, text := cli.Good, strings.TrimSpace(string(h.Health)+" "+h.Error)
	if !h.OK() {
		style = cli.Bad
	}
	return []string{h.Host, h.Component, h.Installed, h.Wanted, h.Unit, out.Paint(style, text)}
}
