package main

import (
	"context"
	"crypto"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb"
	"example.com/tykupgrade/backup/redisdb"
	"example.com/tykupgrade/examples/internal/cli"
)

func take(ctx context.Context, c *call) (any, error) {
	to, err := c.recipients()
	if err == nil && c.On("require-encrypted") && c.Text("export") != "" && len(to) == 0 {
		err = cli.Wrong("-require-encrypted needs -recipient")
	}
	o := backup.Options{Label: c.Text("label"), Log: c.log(), Progress: c.Err.Sets()}
	if file := c.Text("sign"); err == nil && file != "" {
		o.Signer, err = backup.ReadSigner(file)
	}
	if err != nil {
		return nil, err
	}
	sources, err := c.sources()
	if err == nil && len(sources) == 0 {
		err = errNothing
	}
	if err != nil {
		return nil, err
	}
	o.Packages = installed(ctx)
	set, err := backup.Take(ctx, c.Text("dir"), o, sources...)
	if err != nil {
		return nil, err
	}
	c.Set(set)
	if file := c.Text("export"); file != "" {
		err = set.Export(ctx, file, backup.ExportOptions{Recipients: to, Progress: c.Err.Sets()})
		if err == nil {
			c.Say("exported to %s", file)
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

func verify(ctx context.Context, c *call) (any, error) {
	level, err := cli.One(c.Call, "level", map[string]backup.Level{"files": backup.LevelFiles,
		"structure": backup.LevelStructure, "live": backup.LevelLive})
	if err != nil {
		return nil, err
	}
	sources, err := c.sources()
	switch {
	case err != nil:
		return nil, err
	case level == backup.LevelLive && len(sources) == 0:
		return nil, errNothing
	case level != backup.LevelLive && len(sources) > 0:
		return nil, cli.Wrong("-config, -redis, -mongo and -postgres need -level live")
	}
	keys, err := c.keys()
	if err != nil {
		return nil, err
	}
	set, err := c.find()
	if err != nil {
		return nil, err
	}
	v := backup.VerifyOptions{Level: level, Progress: c.Err.Sets()}
	for _, s := range sources {
		v.Against = append(v.Against, s.(backup.Prover)) // each of them is one
	}
	if len(keys) > 0 {
		err = set.VerifySignature(keys...)
	}
	if err == nil {
		err = set.Verify(ctx, v)
	}
	if err == nil {
		c.Say("%s %s, level %s", c.Out.Paint(cli.Good, "verified:"), set.Dir, level)
	} else if !errors.Is(err, backup.ErrDamaged) && !errors.Is(err, backup.ErrDiffers) &&
		!errors.Is(err, backup.ErrUnsafe) && !errors.Is(err, context.Canceled) {
		err = cli.Exit(cli.Unknown, err)
	}
	return describe(set), err
}

// keys are those of which one must have signed the set.
func (c *call) keys() ([]crypto.PublicKey, error) {
	if file := c.Text("require-signature"); file != "" {
		return backup.ReadPublicKeys(file)
	}
	return nil, nil
}

// find opens the set that the argument names.
func (c *call) find() (*backup.Set, error) {
	if c.Args[0] == "latest" && c.Text("dir") == "" {
		return nil, cli.Wrong("latest needs -dir")
	}
	return backup.Find(c.Text("dir"), c.Args[0])
}

// chosen opens the set, and makes the restorers of what was chosen.
func (c *call) chosen() (*backup.Set, []backup.Restorer, error) {
	set, err := c.find()
	if err != nil {
		return nil, nil, err
	}
	rescue, err := set.RescueDir(c.Text("rescue"))
	if err != nil {
		return nil, nil, cli.Exit(cli.Usage, cli.Advice(err, "choose another directory with -rescue"))
	}
	to, err := c.restorers(rescue)
	return set, to, err
}

func restore(ctx context.Context, c *call) (any, error) {
	keys, err := c.keys()
	if err != nil {
		return nil, refused(backup.Report{}, err)
	}
	set, to, err := c.chosen()
	if err != nil {
		return nil, refused(backup.Report{}, err)
	}
	report, err := set.Restore(ctx, backup.RestoreOptions{DryRun: c.On("dry-run"), Keep: c.On("keep"),
		RequireSignature: keys, Log: c.log(), Progress: c.Err.Sets()}, to...)
	c.Restored(report, "-mongo-drop-extra")
	if err == nil && c.On("keep") && !c.On("dry-run") {
		c.Say("accept keeps it, undo puts back what was replaced")
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
func restoreDump(ctx context.Context, c *call) (any, error) {
	path := c.Args[0]
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	ofRedis := c.On("redis")
	if ofRedis == c.On("mongo") {
		ofRedis = !info.IsDir()
	}
	o := backup.RestoreOptions{DryRun: c.On("dry-run"), Log: c.log(), Progress: c.Err.Sets()}
	if ofRedis {
		rescue := c.Text("rescue")
		if rescue == "" {
			rescue = filepath.Join(filepath.Dir(path), "rescued")
		}
		to, err := c.redisRestorer(rescue)
		if err != nil {
			return nil, err
		}
		report, err := (&redisdb.Dump{Path: path}).Restore(ctx, o, rescue, to)
		c.Restored(report, "")
		return report, refused(report, err)
	}
	to, err := c.mongoRestorer()
	if err != nil {
		return nil, err
	}
	dump, err := mongodb.OpenDump(ctx, path, mongodb.DumpOptions{NoPrelude: c.On("mongo-no-prelude")})
	if err != nil {
		return nil, cli.Refuse(err)
	}
	component, err := dump.Restore(ctx, o, to)
	report := backup.Report{Set: path, DryRun: o.DryRun,
		Components: []backup.ComponentReport{component}}
	c.Restored(report, "-mongo-drop-extra")
	return report, refused(report, err)
}

func undo(ctx context.Context, c *call) (any, error) {
	set, to, err := c.chosen()
	if err == nil {
		err = set.Undo(ctx, to...)
	}
	if err != nil {
		return nil, err
	}
	c.Say("the previous state is restored, or there was nothing to undo")
	return map[string]string{"undone": set.Dir}, nil
}

func accept(ctx context.Context, c *call) (any, error) {
	set, to, err := c.chosen()
	if err == nil {
		err = set.Accept(ctx, to...)
	}
	if err != nil {
		return nil, err
	}
	c.Say("accepted: there is nothing to undo any more")
	return map[string]string{"accepted": set.Dir}, nil
}

func list(_ context.Context, c *call) (any, error) {
	sets, err := backup.List(c.Text("dir"))
	all := []description{}
	for _, s := range sets {
		all = append(all, describe(s))
	}
	c.SetList(sets)
	return all, err
}

func prune(ctx context.Context, c *call) (any, error) {
	dir, dry := c.Text("dir"), c.On("dry-run")
	p := backup.Policy{Keep: c.Number("keep"), MaxAge: c.Duration("max-age"), DryRun: dry}
	switch {
	case dir == "" && !c.On("mongo"):
		return nil, cli.Wrong("-dir is missing")
	case dir != "" && p.Keep == 0 && p.MaxAge == 0:
		return nil, cli.Wrong("-keep or -max-age is missing")
	case c.On("mongo"):
		left, err := pruneMongo(ctx, c)
		if err != nil || dir == "" {
			return left, err
		}
	}
	out, err := backup.Prune(ctx, dir, p)
	word := map[bool]string{false: "removed", true: "would remove"}[dry]
	for _, id := range out.Removed {
		c.Say("%s %s", word, id)
	}
	for _, id := range out.Kept {
		c.Say("kept %s", id)
	}
	return out, err
}

// pruneMongo removes what restores left on the server: those that were killed, and with
// -max-age what finished ones of that age replaced.
func pruneMongo(ctx context.Context, c *call) (left []mongodb.Leftover, err error) {
	server, err := c.mongo()
	if err != nil {
		return nil, err
	}
	word := "would look at"
	if c.On("dry-run") {
		left, err = mongodb.Leftovers(ctx, server, c.List("mongo-db")...)
	} else {
		age := c.Duration("max-age")
		if age == 0 {
			age = -1
		}
		word = "removed"
		left, err = mongodb.Prune(ctx, server, age, c.List("mongo-db")...)
	}
	for _, l := range left {
		c.Say("%s a restore into %s (%s): %s", word, l.Database, l.State, strings.Join(l.Collections,
			", "))
	}
	return left, err
}

func (c *call) recipients() (all []age.Recipient, err error) {
	for _, s := range c.List("recipient") {
		r, err := age.ParseX25519Recipient(s)
		if err != nil {
			return nil, cli.Wrong("invalid -recipient %q: %v", s, err)
		}
		all = append(all, r)
	}
	return all, nil
}

func export(ctx context.Context, c *call) (any, error) {
	to, err := c.recipients()
	if err == nil && c.On("require-encrypted") && len(to) == 0 {
		err = cli.Wrong("-require-encrypted needs -recipient")
	}
	if err != nil {
		return nil, err
	}
	set, err := c.find()
	if err == nil {
		err = set.Export(ctx, c.Args[1], backup.ExportOptions{Recipients: to, Progress: c.Err.Sets()})
	}
	if err != nil {
		return nil, err
	}
	c.Say("exported to %s", c.Args[1])
	return map[string]any{"file": c.Args[1], "encrypted": len(to) > 0}, nil
}

func importSet(ctx context.Context, c *call) (any, error) {
	o := backup.ImportOptions{AllowPlain: c.On("allow-plain")}
	var err error
	if o.RequireSignature, err = c.keys(); err != nil {
		return nil, err
	}
	switch file := c.Text("identity"); {
	case file != "":
		if o.Identities, err = backup.ReadIdentities(file); err != nil {
			return nil, err
		}
	case c.On("require-encrypted"):
		return nil, cli.Wrong("-require-encrypted needs -identity")
	}
	if o.AllowPlain && c.On("require-encrypted") {
		return nil, cli.Wrong("-require-encrypted and -allow-plain exclude each other")
	}
	f, err := os.Open(c.Args[0])
	if err != nil {
		return nil, err
	}
	defer f.Close()
	set, err := backup.Import(ctx, c.Text("dir"), f, o)
	if len(o.Identities) > 0 && len(o.RequireSignature) == 0 && errors.Is(err, backup.ErrUnsafe) {
		err = cli.Advice(err, "check who made it; -allow-plain takes it as it is")
	}
	if err != nil {
		return nil, err
	}
	c.Set(set)
	return describe(set), nil
}
