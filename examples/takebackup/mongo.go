package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/mongo/readpref"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb"
)

// mongoPart is MongoDB.
type mongoPart struct {
	fs                    *flag.FlagSet
	chosen                bool
	name                  string
	uriFile, passwordFile string
	databases             listFlag
	include, exclude      listFlag
	parallel              int

	// take
	readFrom, snapshot string
	plain              bool

	// restore
	mode      string
	dropExtra bool
	noIndexes bool
	noOptions bool
	noPrelude bool
}

const (
	mongoURIEnv      = "TAKEBACKUP_MONGODB_URI"
	mongoPasswordEnv = "TAKEBACKUP_MONGODB_PASSWORD"
)

func (p *mongoPart) flags(fs *flag.FlagSet, verb string) {
	p.fs = fs
	fs.BoolVar(&p.chosen, "mongo", false, "MongoDB, at the URI of "+mongoURIEnv)
	if verb == "prune" {
		fs.StringVar(&p.uriFile, "mongo-uri-file", "", "read the URI from this `file`")
		fs.StringVar(&p.passwordFile, "mongo-password-file", "", "read the user's password from this `file`")
		fs.Var(&p.databases, "mongo-db", "a database (default "+mongodb.DefaultDatabase+"); may be repeated")
		return
	}
	fs.StringVar(&p.name, "mongo-name", "mongo", "the `name` of the component in the set")
	fs.StringVar(&p.uriFile, "mongo-uri-file", "", "read the URI from this `file`: mongodb://user@host:27017/?tls=true&authSource=admin, or mongodb+srv://")
	fs.StringVar(&p.passwordFile, "mongo-password-file", "", "read the user's password from this `file` instead of the URI or "+mongoPasswordEnv)
	fs.IntVar(&p.parallel, "mongo-parallel", 0, "collections at a time (default 4)")
	if verb != "verify" {
		fs.Var(&p.include, "mongo-include", "only collections that match this `pattern` of database.collection; may be repeated")
		fs.Var(&p.exclude, "mongo-exclude", "leave out what matches this `pattern`; may be repeated")
	}
	switch verb {
	case "take":
		fs.Var(&p.databases, "mongo-db", "a database (default "+mongodb.DefaultDatabase+"); may be repeated")
		fs.StringVar(&p.readFrom, "mongo-read", "primary", "primary, primaryPreferred, secondary, secondaryPreferred or nearest")
		fs.StringVar(&p.snapshot, "mongo-snapshot", "if-possible", "read all collections at one moment: if-possible, required or never")
		fs.BoolVar(&p.plain, "mongo-plain", false, "do not compress")
	case "restore", "restore-dump":
		fs.StringVar(&p.mode, "mongo-mode", "", "where a collection exists: new (refuse), replace (build next to it, then swap) or drop (default new, with -replace replace)")
		fs.BoolVar(&p.noIndexes, "mongo-no-indexes", false, "restore and compare without indexes, for a server that refuses one")
		fs.BoolVar(&p.noOptions, "mongo-no-options", false, "create collections without options such as capped, collation and validator")
	}
	if verb == "restore" {
		fs.BoolVar(&p.dropExtra, "mongo-drop-extra", false, "with replace or drop: also drop the collections that the set does not have and would have, had they been there, such as those of a newer version")
	}
	if verb == "restore-dump" {
		fs.BoolVar(&p.noPrelude, "mongo-no-prelude", false, "accept a dump without prelude.json (older versions of mongodump write none) as complete")
	}
}

func (p *mongoPart) server(c *command) (mongodb.Server, error) {
	s := mongodb.Server{URI: c.env(mongoURIEnv), Password: c.env(mongoPasswordEnv)}
	for _, f := range []struct {
		name string
		to   *string
	}{{p.uriFile, &s.URI}, {p.passwordFile, &s.Password}} {
		if f.name == "" {
			continue
		}
		data, err := os.ReadFile(f.name)
		if err != nil {
			return s, err
		}
		*f.to = strings.TrimSpace(string(data))
	}
	if s.URI == "" {
		return s, usagef("-mongo needs a URI in %s or -mongo-uri-file", mongoURIEnv)
	}
	return s, nil
}

// absent refuses flags that would do nothing: who gives them believes that
// MongoDB is part of it.
func (p *mongoPart) absent() (err error) {
	p.fs.Visit(func(f *flag.Flag) {
		if strings.HasPrefix(f.Name, "mongo-") {
			err = usagef("-%s does nothing without -mongo", f.Name)
		}
	})
	return err
}

func (p *mongoPart) source(c *command) (backup.Source, error) {
	if !p.chosen {
		return nil, p.absent()
	}
	server, err := p.server(c)
	if err != nil {
		return nil, err
	}
	m := &mongodb.Source{Component: p.name, Server: server, Databases: p.databases, Include: p.include, Exclude: p.exclude,
		Plain: p.plain, Parallel: p.parallel, Log: c.log()}
	if c.verb != "take" {
		return m, nil
	}
	mode, err := readpref.ModeFromString(p.readFrom)
	if err != nil {
		return nil, usagef("-mongo-read %q", p.readFrom)
	}
	if m.ReadPreference, err = readpref.New(mode); err != nil {
		return nil, usagef("-mongo-read %q: %v", p.readFrom, err)
	}
	modes := map[string]mongodb.SnapshotMode{"if-possible": mongodb.SnapshotIfPossible, "required": mongodb.SnapshotRequired, "never": mongodb.SnapshotNever}
	var known bool
	if m.Snapshot, known = modes[p.snapshot]; !known {
		return nil, usagef("-mongo-snapshot %q", p.snapshot)
	}
	return m, nil
}

func (p *mongoPart) restorer(c *command) (backup.Restorer, error) {
	if !p.chosen {
		return nil, p.absent()
	}
	m, err := p.target(c)
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (p *mongoPart) target(c *command) (*mongodb.Restore, error) {
	server, err := p.server(c)
	if err != nil {
		return nil, err
	}
	m := &mongodb.Restore{Component: p.name, Server: server, Include: p.include, Exclude: p.exclude, NoIndexes: p.noIndexes, NoOptions: p.noOptions,
		Parallel: p.parallel, Log: c.log()}
	modes := map[string]mongodb.Mode{"new": mongodb.New, "replace": mongodb.Replace, "drop": mongodb.Drop}
	mode, known := modes[p.mode]
	switch {
	case p.mode == "" && c.replace:
		mode = mongodb.Replace
	case p.mode != "" && !known:
		return nil, usagef("-mongo-mode %q", p.mode)
	}
	m.Mode, m.DropExtra = mode, p.dropExtra
	if m.DropExtra && mode != mongodb.Replace && mode != mongodb.Drop {
		return nil, usagef("-mongo-drop-extra goes with -mongo-mode replace or drop")
	}
	return m, nil
}

func (p *mongoPart) close() {}

// mongo is the part for MongoDB.
func (c *command) mongo() *mongoPart {
	i := slices.IndexFunc(c.parts, func(p part) bool { _, ok := p.(*mongoPart); return ok })
	return c.parts[i].(*mongoPart)
}

// pruneMongo removes what restores left on the server: those that were killed, and with
// -max-age what finished ones of that age replaced.
func (c *command) pruneMongo(ctx context.Context) ([]mongodb.Leftover, error) {
	p := c.mongo()
	server, err := p.server(c)
	if err != nil {
		return nil, err
	}
	word := "would look at"
	var left []mongodb.Leftover
	if c.policy.DryRun {
		left, err = mongodb.Leftovers(ctx, server, p.databases...)
	} else {
		keep := c.policy.MaxAge
		if keep == 0 {
			keep = -1
		}
		word = "removed"
		left, err = mongodb.Prune(ctx, server, keep, p.databases...)
	}
	for _, l := range left {
		if !c.json {
			c.stdout.Printf("%s a restore into %s (%s): %s\n", word, l.Database, l.State, strings.Join(l.Collections, ", "))
		}
	}
	return left, err
}

// restoreDump restores what mongodump wrote, outside of a set.
func (c *command) restoreDump(ctx context.Context) (any, error) {
	p := c.mongo()
	target, err := p.target(c)
	if err != nil {
		return nil, err
	}
	dump, err := mongodb.OpenDump(ctx, c.args[0], mongodb.DumpOptions{NoPrelude: p.noPrelude})
	if err != nil {
		return nil, err
	}
	component, err := dump.Restore(ctx, backup.RestoreOptions{DryRun: c.dryRun, Log: c.log(), Progress: c.progress()}, target)
	report := backup.Report{Set: c.args[0], DryRun: c.dryRun, Components: []backup.ComponentReport{component}}
	c.stderr.Clear()
	if !c.json {
		c.report(report)
	}
	return report, err
}

// collections draws one line for each collection that is being read or written.
type collections struct {
	order []string
	lines map[string]string
}

func (l *collections) take(e backup.Event) []string {
	if e.ItemTotal > 0 {
		if l.lines == nil {
			l.lines = map[string]string{}
		}
		at := slices.Index(l.order, e.Item)
		switch {
		case e.ItemDone >= e.ItemTotal && at >= 0:
			l.order = slices.Delete(l.order, at, at+1)
		case e.ItemDone < e.ItemTotal && at < 0:
			l.order = append(l.order, e.Item)
		}
		l.lines[e.Item] = fmt.Sprintf("  %-40s %3d%%  %d of %d documents", e.Item, 100*e.ItemDone/e.ItemTotal, e.ItemDone, e.ItemTotal)
	}
	if e.Done {
		l.order = nil
	}
	var lines []string
	for _, name := range l.order {
		lines = append(lines, l.lines[name])
	}
	return lines
}
