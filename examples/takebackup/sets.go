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
	"example.com/tykupgrade/backup/mongodb"
	"example.com/tykupgrade/backup/redisdb"
	"example.com/tykupgrade/examples/internal/cli"
)

func (o *options) take(ctx context.Context, c *cli.Call) (any, error) {
	to, err := o.ageRecipients()
	if err != nil {
		return nil, err
	}
	sources, err := o.sources(c)
	if err == nil && len(sources) == 0 {
		err = errNothing
	}
	if err != nil {
		return nil, err
	}
	set, err := backup.Take(ctx, o.dir, backup.Options{Label: o.label, Packages: installed(ctx),
		Log: o.log(c), Progress: c.Err.Sets()}, sources...)
	if err != nil {
		return nil, err
	}
	o.print(c, set)
	if o.exportTo != "" {
		err = set.Export(ctx, o.exportTo, backup.ExportOptions{Recipients: to, Progress: c.Err.Sets()})
		if err == nil {
			o.say(c, "exported to %s", o.exportTo)
		}
	}
	return describe(set), err
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

// say prints a line for people.
func (o *options) say(c *cli.Call, format string, a ...any) {
	c.Err.Clear()
	if !o.json {
		c.Out.Printf(format+"\n", a...)
	}
}

func (o *options) print(c *cli.Call, s *backup.Set) {
	rows := [][]string{{"COMPONENT", "SERVER", "METHOD", "CONSISTENCY", "ITEMS", "SIZE"}}
	for _, x := range s.Components {
		rows = append(rows, []string{x.Name, x.Server, x.Method, string(x.Consistency),
			fmt.Sprint(x.Items), cli.Bytes(x.Bytes)})
	}
	o.say(c, "%s %s\n%s", c.Out.Paint(cli.Good, "complete and verified:"), s.Dir,
		strings.TrimSuffix(c.Out.Table(rows), "\n"))
	for _, x := range s.Components {
		for _, w := range x.Warnings {
			o.say(c, "%s %s", c.Out.Paint(cli.Warn, "note:"), w)
		}
	}
}

func (o *options) verify(ctx context.Context, c *cli.Call) (any, error) {
	levels := map[string]backup.Level{"files": backup.LevelFiles, "structure": backup.LevelStructure,
		"live": backup.LevelLive}
	level, ok := levels[o.level]
	if !ok {
		return nil, unknown("level", o.level, "files, structure or live")
	}
	sources, err := o.sources(c)
	switch {
	case err != nil:
		return nil, err
	case level == backup.LevelLive && len(sources) == 0:
		return nil, errNothing
	case level != backup.LevelLive && len(sources) > 0:
		return nil, cli.Wrong("-config, -redis, -mongo and -postgres need -level live")
	}
	set, err := o.find(c.Args[0])
	if err != nil {
		return nil, err
	}
	v := backup.VerifyOptions{Level: level, Progress: c.Err.Sets()}
	for _, s := range sources {
		v.Against = append(v.Against, s.(backup.Prover)) // each of them is one
	}
	err = set.Verify(ctx, v)
	if err == nil {
		o.say(c, "%s %s, level %s", c.Out.Paint(cli.Good, "verified:"), set.Dir, level)
	} else if !errors.Is(err, backup.ErrDamaged) && !errors.Is(err, backup.ErrDiffers) &&
		!errors.Is(err, context.Canceled) {
		err = cli.Exit(cli.Unknown, err)
	}
	return describe(set), err
}

// find opens the set that an argument names.
func (o *options) find(name string) (*backup.Set, error) {
	if name == "latest" && o.dir == "" {
		return nil, cli.Wrong("latest needs -dir")
	}
	return backup.Find(o.dir, name)
}

// chosen opens the set, and makes the restorers of what was chosen.
func (o *options) chosen(c *cli.Call) (*backup.Set, []backup.Restorer, error) {
	set, err := o.find(c.Args[0])
	if err != nil {
		return nil, nil, err
	}
	if o.rescue, err = set.RescueDir(o.rescue); err != nil {
		return nil, nil, cli.Exit(cli.Usage, cli.Advice(err, "choose another directory with -rescue"))
	}
	to, err := o.restorers(c)
	return set, to, err
}

func (o *options) restore(ctx context.Context, c *cli.Call) (any, error) {
	set, to, err := o.chosen(c)
	if err != nil {
		return nil, refused(backup.Report{}, err)
	}
	report, err := set.Restore(ctx, backup.RestoreOptions{DryRun: o.dryRun, Keep: o.keep,
		Log: o.log(c), Progress: c.Err.Sets()}, to...)
	o.report(c, report)
	if err == nil && o.keep && !o.dryRun {
		o.say(c, "accept keeps it, undo puts back what was replaced")
	}
	return report, refused(report, err)
}

// refused gives an error its exit code if nothing was changed.
func refused(r backup.Report, err error) error {
	changed := slices.ContainsFunc(r.Components, func(x backup.ComponentReport) bool {
		return x.State != backup.StatePlanned && x.State != backup.StateNotRequested
	})
	if err == nil || changed || cli.Code(err) != cli.No {
		return err
	}
	return cli.Refuse(err)
}

// restoreDump restores what another tool wrote: a file is Redis', a directory is mongodump's.
func (o *options) restoreDump(ctx context.Context, c *cli.Call) (any, error) {
	path := c.Args[0]
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if o.redis == o.mongo {
		o.redis, o.mongo = !info.IsDir(), info.IsDir()
	}
	options := backup.RestoreOptions{DryRun: o.dryRun, Log: o.log(c), Progress: c.Err.Sets()}
	report := backup.Report{Set: path, DryRun: o.dryRun}
	if o.redis {
		if o.rescue == "" {
			o.rescue = filepath.Join(filepath.Dir(path), "rescued")
		}
		o.redisName = "redis"
		to, err := o.redisRestorer(c)
		if err != nil {
			return nil, err
		}
		report, err = (&redisdb.Dump{Path: path}).Restore(ctx, options, o.rescue, to)
		o.report(c, report)
		return report, refused(report, err)
	}
	o.mongoName = "mongo"
	to, err := o.mongoRestorer(c)
	if err != nil {
		return nil, err
	}
	dump, err := mongodb.OpenDump(ctx, path, mongodb.DumpOptions{NoPrelude: o.noPrelude})
	if err != nil {
		return nil, cli.Refuse(err)
	}
	component, err := dump.Restore(ctx, options, to)
	report.Components = []backup.ComponentReport{component}
	o.report(c, report)
	return report, refused(report, err)
}

func (o *options) report(c *cli.Call, r backup.Report) {
	style := map[backup.State]cli.Style{backup.StateVerified: cli.Good, backup.StateFailed: cli.Bad,
		backup.StateUndone: cli.Bad, backup.StateNotRequested: cli.Faint}
	for _, x := range r.Components {
		o.say(c, "%s: %s", x.Name, c.Out.Paint(style[x.State], strings.ReplaceAll(string(x.State), "_",
			" ")))
		rows := [][]string{{"ACTION", "ITEM", "COUNT", "SIZE", ""}}
		extra := false
		for _, i := range x.Items {
			rows = append(rows, []string{string(i.Action), i.Name, count(i.Count), cli.Bytes(i.Bytes),
				i.Detail})
			extra = extra || i.Action == backup.ActionKeep
		}
		if len(x.Items) > 0 {
			o.say(c, "%s", strings.TrimSuffix(c.Out.Table(rows), "\n"))
		}
		if extra {
			o.say(c, "%s %s holds what the set does not have (keep above); -mongo-drop-extra drops it",
				c.Out.Paint(cli.Warn, "note:"), x.Name)
		}
	}
	if r.DryRun && len(r.Components) > 0 {
		o.say(c, "dry run: nothing was changed")
	}
}

func (o *options) undo(ctx context.Context, c *cli.Call) (any, error) {
	set, to, err := o.chosen(c)
	if err == nil {
		err = set.Undo(ctx, to...)
	}
	if err != nil {
		return nil, err
	}
	o.say(c, "the previous state is restored, or there was nothing to undo")
	return map[string]string{"undone": set.Dir}, nil
}

func (o *options) accept(ctx context.Context, c *cli.Call) (any, error) {
	set, to, err := o.chosen(c)
	if err == nil {
		err = set.Accept(ctx, to...)
	}
	if err != nil {
		return nil, err
	}
	o.say(c, "accepted: there is nothing to undo any more")
	return map[string]string{"accepted": set.Dir}, nil
}

func (o *options) list(_ context.Context, c *cli.Call) (any, error) {
	sets, err := backup.List(o.dir)
	all := []description{}
	rows := [][]string{{"ID", "TAKEN", "COMPONENTS", "SIZE", "LABEL"}}
	for _, s := range sets {
		all = append(all, describe(s))
		var names []string
		for _, x := range s.Components {
			names = append(names, x.Name)
		}
		rows = append(rows, []string{filepath.Base(s.Dir), s.Start.Local().Format(time.DateTime),
			strings.Join(names, " "), cli.Bytes(s.Bytes()), s.Label})
	}
	if len(sets) > 0 {
		o.say(c, "%s", strings.TrimSuffix(c.Out.Table(rows), "\n"))
	}
	return all, err
}

func (o *options) prune(ctx context.Context, c *cli.Call) (any, error) {
	o.policy.DryRun = o.dryRun
	switch {
	case o.dir == "" && !o.mongo:
		return nil, cli.Wrong("-dir is missing")
	case o.dir != "" && o.policy.Keep == 0 && o.policy.MaxAge == 0:
		return nil, cli.Wrong("-keep or -max-age is missing")
	case o.mongo:
		left, err := o.pruneMongo(ctx, c)
		if err != nil || o.dir == "" {
			return left, err
		}
	}
	out, err := backup.Prune(ctx, o.dir, o.policy)
	word := map[bool]string{false: "removed", true: "would remove"}[o.dryRun]
	for _, id := range out.Removed {
		o.say(c, "%s %s", word, id)
	}
	for _, id := range out.Kept {
		o.say(c, "kept %s", id)
	}
	return out, err
}

// pruneMongo removes what restores left on the server: those that were killed, and with
// -max-age what finished ones of that age replaced.
func (o *options) pruneMongo(ctx context.Context,
	c *cli.Call) (left []mongodb.Leftover, err error) {
	server, err := o.mongoServer(c)
	if err != nil {
		return nil, err
	}
	word := "would look at"
	if o.dryRun {
		left, err = mongodb.Leftovers(ctx, server, o.mongoDBs...)
	} else {
		age := o.policy.MaxAge
		if age == 0 {
			age = -1
		}
		word = "removed"
		left, err = mongodb.Prune(ctx, server, age, o.mongoDBs...)
	}
	for _, l := range left {
		o.say(c, "%s a restore into %s (%s): %s", word, l.Database, l.State, strings.Join(l.Collections,
			", "))
	}
	return left, err
}

func (o *options) ageRecipients() (all []age.Recipient, err error) {
	for _, s := range o.recipients {
		r, err := age.ParseX25519Recipient(s)
		if err != nil {
			return nil, cli.Wrong("invalid -recipient %q: %v", s, err)
		}
		all = append(all, r)
	}
	return all, nil
}

func (o *options) export(ctx context.Context, c *cli.Call) (any, error) {
	to, err := o.ageRecipients()
	if err != nil {
		return nil, err
	}
	set, err := o.find(c.Args[0])
	if err == nil {
		err = set.Export(ctx, c.Args[1], backup.ExportOptions{Recipients: to, Progress: c.Err.Sets()})
	}
	if err != nil {
		return nil, err
	}
	o.say(c, "exported to %s", c.Args[1])
	return map[string]any{"file": c.Args[1], "encrypted": len(to) > 0}, nil
}

func (o *options) importSet(ctx context.Context, c *cli.Call) (any, error) {
	var identities []age.Identity
	if o.identity != "" {
		f, err := os.Open(o.identity)
		if err != nil {
			return nil, err
		}
		identities, err = age.ParseIdentities(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("read the age identity in %s: %w", o.identity, err)
		}
	}
	f, err := os.Open(c.Args[0])
	if err != nil {
		return nil, err
	}
	defer f.Close()
	set, err := backup.Import(ctx, o.dir, f, identities...)
	if err != nil {
		return nil, err
	}
	o.print(c, set)
	return describe(set), nil
}
