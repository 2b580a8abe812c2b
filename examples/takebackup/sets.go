package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/examples/internal/cli"
)

func (c *command) take(ctx context.Context) (any, error) {
	if c.dir == "" {
		return nil, usagef("-dir is missing")
	}
	recipients, err := c.ageRecipients()
	if err != nil {
		return nil, err
	}
	if len(recipients) > 0 && c.exportTo == "" {
		return nil, usagef("-recipient encrypts an export: give -export, too")
	}
	var sources []backup.Source
	for _, p := range c.parts {
		s, err := p.source(c)
		if err != nil {
			return nil, err
		}
		if s != nil {
			sources = append(sources, s)
		}
	}
	if len(sources) == 0 {
		return nil, usagef("nothing chosen: give -config, -redis, -mongo or -postgres")
	}
	set, err := backup.Take(ctx, c.dir, backup.Options{Label: c.label, Packages: installed(ctx), Log: c.log(), Progress: c.progress()}, sources...)
	if err != nil {
		return nil, err
	}
	result := describe(set)
	if c.exportTo != "" {
		if err := set.Export(ctx, c.exportTo, backup.ExportOptions{Recipients: recipients, Progress: c.progress()}); err != nil {
			return result, err
		}
	}
	c.stderr.Clear()
	c.print(set)
	if c.exportTo != "" && !c.json {
		c.stdout.Printf("exported to %s\n", c.exportTo)
	}
	return result, nil
}

// description is what -json says of a set.
type description struct {
	Dir string `json:"dir"`
	backup.Manifest
}

func describe(s *backup.Set) description {
	d := description{Dir: s.Dir, Manifest: s.Manifest}
	d.Files = nil // they are in the manifest
	return d
}

func (c *command) print(s *backup.Set) {
	if c.json {
		return
	}
	c.stdout.Printf("%s %s\n", c.stdout.Paint(cli.Good, "complete and verified:"), s.Dir)
	rows := [][]string{{"component", "server", "how", "consistency", "items", "size"}}
	for _, comp := range s.Components {
		rows = append(rows, []string{comp.Name, comp.Server, comp.Method, string(comp.Consistency), fmt.Sprint(comp.Items), cli.Bytes(comp.Bytes)})
	}
	c.stdout.Printf("%s", c.stdout.Table(rows))
	for _, comp := range s.Components {
		for _, w := range comp.Warnings {
			c.stdout.Printf("%s %s\n", c.stdout.Paint(cli.Warn, "note:"), w)
		}
	}
}

// open finds the set that an argument names.
func (c *command) open(name string) (*backup.Set, error) {
	switch {
	case name == "latest":
		if c.dir == "" {
			return nil, usagef("latest needs -dir")
		}
		sets, err := backup.List(c.dir)
		if err != nil {
			return nil, fmt.Errorf("which set is the latest is not certain, so name one by its id: %w", err)
		}
		if len(sets) == 0 {
			return nil, fmt.Errorf("%s holds no set", c.dir)
		}
		return sets[0], nil
	case c.dir != "" && !strings.Contains(name, "/"):
		name = filepath.Join(c.dir, name)
	}
	return backup.Open(name)
}

func (c *command) verify(ctx context.Context) (any, error) {
	levels := map[string]backup.Level{"files": backup.LevelFiles, "structure": backup.LevelStructure, "live": backup.LevelLive}
	level, ok := levels[c.level]
	if !ok {
		return nil, usagef("there is no level %q", c.level)
	}
	set, err := c.open(c.args[0])
	if err != nil {
		return nil, err
	}
	o := backup.VerifyOptions{Level: level, Progress: c.progress()}
	if level == backup.LevelLive {
		for _, p := range c.parts {
			s, err := p.source(c)
			if err != nil {
				return nil, err
			}
			if prover, ok := s.(backup.Prover); ok {
				o.Against = append(o.Against, prover)
			}
		}
	}
	if err := set.Verify(ctx, o); err != nil {
		return describe(set), err
	}
	c.stderr.Clear()
	if !c.json {
		c.stdout.Printf("%s %s, level %s\n", c.stdout.Paint(cli.Good, "verified:"), set.Dir, level)
	}
	return describe(set), nil
}

func (c *command) restore(ctx context.Context) (any, error) {
	set, err := c.open(c.args[0])
	if err != nil {
		return nil, err
	}
	if c.rescue == "" {
		c.rescue = filepath.Join(filepath.Dir(set.Dir), "rescued")
	}
	// There the set of what is replaced would be the latest.
	if here, err := os.Stat(filepath.Dir(set.Dir)); err == nil {
		if there, err := os.Stat(c.rescue); err == nil && os.SameFile(here, there) {
			return nil, usagef("-rescue %s holds the sets: choose a directory of its own, such as %s", c.rescue, filepath.Join(c.rescue, "rescued"))
		}
	}
	var targets []backup.Restorer
	for _, p := range c.parts {
		r, err := p.restorer(c)
		if err != nil {
			return nil, err
		}
		if r != nil {
			targets = append(targets, r)
		}
	}
	if len(targets) == 0 {
		return nil, usagef("nothing chosen: give -config, -redis, -mongo or -postgres")
	}
	report, err := set.Restore(ctx, backup.RestoreOptions{DryRun: c.dryRun, Log: c.log(), Progress: c.progress()}, targets...)
	c.stderr.Clear()
	if !c.json && len(report.Components) > 0 {
		c.report(report)
	}
	return report, err
}

func (c *command) report(r backup.Report) {
	style := map[backup.State]cli.Style{backup.StateVerified: cli.Good, backup.StateFailed: cli.Bad, backup.StateRestored: cli.Warn, backup.StatePlanned: cli.Warn, backup.StateNotRequested: cli.Faint, backup.StateUndone: cli.Bad}
	for _, comp := range r.Components {
		c.stdout.Printf("%s: %s\n", comp.Name, c.stdout.Paint(style[comp.State], strings.ReplaceAll(string(comp.State), "_", " ")))
		if len(comp.Items) == 0 {
			continue
		}
		rows := [][]string{{"action", "item", "count", "size", ""}}
		for _, i := range comp.Items {
			count := ""
			if i.Count > 0 {
				count = fmt.Sprint(i.Count)
			}
			rows = append(rows, []string{string(i.Action), i.Name, count, cli.Bytes(i.Bytes), i.Detail})
		}
		c.stdout.Printf("%s", c.stdout.Table(rows))
		if slices.ContainsFunc(comp.Items, func(i backup.Item) bool { return i.Action == backup.ActionKeep }) {
			c.stdout.Printf("%s %s holds what the set does not have (keep above); -mongo-drop-extra drops it\n", c.stdout.Paint(cli.Warn, "note:"), comp.Name)
		}
	}
	if r.DryRun {
		c.stdout.Printf("dry run: nothing was changed\n")
	}
}

func (c *command) list(context.Context) (any, error) {
	if c.dir == "" {
		return nil, usagef("-dir is missing")
	}
	sets, err := backup.List(c.dir)
	out := []description{}
	rows := [][]string{{"id", "taken", "components", "size", "label"}}
	for _, s := range sets {
		out = append(out, describe(s))
		var names []string
		for _, comp := range s.Components {
			names = append(names, comp.Name)
		}
		rows = append(rows, []string{filepath.Base(s.Dir), s.Start.Local().Format(time.DateTime), strings.Join(names, " "), cli.Bytes(s.Bytes()), s.Label})
	}
	if !c.json && len(sets) > 0 {
		c.stdout.Printf("%s", c.stdout.Table(rows))
	}
	return out, err
}

func (c *command) prune(ctx context.Context) (any, error) {
	mongo := c.mongo()
	if err := mongo.absent(); !mongo.chosen && err != nil {
		return nil, err
	}
	if mongo.chosen {
		left, err := c.pruneMongo(ctx)
		if err != nil || c.dir == "" {
			return left, err
		}
	}
	if c.dir == "" {
		return nil, usagef("-dir is missing")
	}
	if c.policy.Keep == 0 && c.policy.MaxAge == 0 {
		return nil, usagef("give -keep, -max-age or both")
	}
	out, err := backup.Prune(ctx, c.dir, c.policy)
	if !c.json {
		word := "removed"
		if c.policy.DryRun {
			word = "would remove"
		}
		for _, id := range out.Removed {
			c.stdout.Printf("%s %s\n", word, id)
		}
		for _, id := range out.Kept {
			c.stdout.Printf("kept %s\n", id)
		}
	}
	return out, err
}

func (c *command) export(ctx context.Context) (any, error) {
	recipients, err := c.ageRecipients()
	if err != nil {
		return nil, err
	}
	set, err := c.open(c.args[0])
	if err != nil {
		return nil, err
	}
	if err := set.Export(ctx, c.args[1], backup.ExportOptions{Recipients: recipients, Progress: c.progress()}); err != nil {
		return nil, err
	}
	c.stderr.Clear()
	if !c.json {
		c.stdout.Printf("exported to %s\n", c.args[1])
	}
	return map[string]any{"file": c.args[1], "encrypted": len(recipients) > 0}, nil
}

func (c *command) ageRecipients() ([]age.Recipient, error) {
	var out []age.Recipient
	for _, s := range c.recipients {
		r, err := age.ParseX25519Recipient(s)
		if err != nil {
			return nil, usagef("recipient %q: %v", s, err)
		}
		out = append(out, r)
	}
	return out, nil
}

func (c *command) importSet(ctx context.Context) (any, error) {
	if c.dir == "" {
		return nil, usagef("-dir is missing")
	}
	var identities []age.Identity
	if c.identity != "" {
		f, err := os.Open(c.identity)
		if err != nil {
			return nil, err
		}
		identities, err = age.ParseIdentities(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("read the age identity in %s: %w", c.identity, err)
		}
	}
	f, err := os.Open(c.args[0])
	if err != nil {
		return nil, err
	}
	defer f.Close()
	set, err := backup.Import(ctx, c.dir, f, identities...)
	if err != nil {
		return nil, err
	}
	c.print(set)
	return describe(set), nil
}
