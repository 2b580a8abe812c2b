package main

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"

	"filippo.io/age"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb"
	"example.com/tykupgrade/backup/redisdb"
	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/examples/internal/cli"
)

func take(ctx context.Context, c *call) (any, error) {
	file, to := c.Text("export"), c.recipients()
	o := backup.Options{Label: c.Text("label"), Signer: cli.Read(c.Call, "sign", backup.ReadSigner),
		Log: c.Log(), Progress: c.Err.Sets()}
	sources := c.sources()
	if len(sources) == 0 {
		c.Note(errNothing)
	}
	if err := c.Noted(); err != nil {
		return nil, err
	}
	if c.On("redis") && c.Text("redis-method") == string(redisdb.SAVE) {
		c.Err.Printf("%s SAVE blocks every client of the server until it is done\n",
			c.Err.Paint(cli.Warn, "note:"))
	}
	run := debpkg.Local()
	if c.Text("host") != "" {
		run = c.runner()
	}
	// A host without dpkg has none.
	o.Packages, _ = debpkg.New(run, debpkg.Options{}).Versions(ctx, "tyk-*", "redis-server",
		"mongodb-org-server")
	set, err := backup.Take(ctx, c.Text("dir"), o, sources...)
	if err != nil {
		return nil, err
	}
	c.Set(set)
	if file != "" {
		err = c.export(ctx, set, file, to)
	}
	return set.Summary(), err
}

func verify(ctx context.Context, c *call) (any, error) {
	v := backup.VerifyOptions{Progress: c.Err.Sets(), Level: cli.Word(c.Call, "level",
		backup.LevelFiles, backup.LevelStructure, backup.LevelLive)}
	for _, s := range c.sources() {
		v.Against = append(v.Against, s.(backup.Prover)) // each of them is one
	}
	switch live := v.Level == backup.LevelLive; {
	case live && len(v.Against) == 0:
		c.Note(errNothing)
	case !live && len(v.Against) > 0:
		c.Note(cli.Wrong("-config, -redis, -mongo and -postgres need -level live"))
	}
	v.RequireSignature = cli.Read(c.Call, "require-signature", backup.ReadPublicKeys)
	set, err := c.find()
	if err != nil {
		return nil, err
	}
	err = set.Verify(ctx, v)
	if err == nil {
		c.Say("%s %s, level %s", c.Out.Paint(cli.Good, "verified:"), set.Dir, v.Level)
	} else if !errors.Is(err, backup.ErrDamaged) && !errors.Is(err, backup.ErrDiffers) &&
		!errors.Is(err, backup.ErrUnsafe) && !errors.Is(err, context.Canceled) {
		err = cli.Exit(cli.Unknown, err)
	}
	return set.Summary(), err
}

// find opens the set that the argument names, unless the flags are wrong.
func (c *call) find() (*backup.Set, error) {
	if c.Args[0] == "latest" && c.Text("dir") == "" {
		c.Note(cli.Wrong("latest needs -dir"))
	}
	if err := c.Noted(); err != nil {
		return nil, err
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
	return set, c.restorers(rescue), c.Noted()
}

func (c *call) restoring() backup.RestoreOptions {
	return backup.RestoreOptions{DryRun: c.On("dry-run"), Keep: c.On("keep"),
		RequireSignature: cli.Read(c.Call, "require-signature", backup.ReadPublicKeys), Log: c.Log(),
		Progress: c.Err.Sets()}
}

func restore(ctx context.Context, c *call) (any, error) {
	o := c.restoring()
	set, to, err := c.chosen()
	if err != nil {
		return nil, c.restored(backup.Report{}, err)
	}
	report, err := set.Restore(ctx, o, to...)
	err = c.restored(report, err)
	if err == nil && o.Keep && !o.DryRun {
		c.Say("accept keeps it, undo puts back what was replaced")
	}
	return report, err
}

// restored prints a report, and gives an error its exit code if nothing was changed.
func (c *call) restored(r backup.Report, err error) error {
	c.Restored(r, "-mongo-drop-extra")
	if r.Untouched() && cli.Code(err) == cli.No {
		return cli.Refuse(err)
	}
	return err
}

// restoreDump restores what another tool wrote: a file is Redis', a directory is mongodump's.
func restoreDump(ctx context.Context, c *call) (any, error) {
	path, o := c.Args[0], c.restoring()
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	ofRedis := !info.IsDir()
	if c.On("redis") != c.On("mongo") {
		ofRedis = c.On("redis")
	}
	if ofRedis {
		rescue := cmp.Or(c.Text("rescue"), filepath.Join(filepath.Dir(path), "rescued"))
		to := c.redisRestorer(rescue)
		if err := c.Noted(); err != nil {
			return nil, err
		}
		report, err := (&redisdb.Dump{Path: path}).Restore(ctx, o, rescue, to)
		return report, c.restored(report, err)
	}
	to := c.mongoRestorer()
	if err := c.Noted(); err != nil {
		return nil, err
	}
	dump, err := mongodb.OpenDump(ctx, path, mongodb.DumpOptions{NoPrelude: c.On("mongo-no-prelude")})
	if err != nil {
		return nil, cli.Refuse(err)
	}
	component, err := dump.Restore(ctx, o, to)
	report := backup.Report{Set: path, DryRun: o.DryRun,
		Components: []backup.ComponentReport{component}}
	return report, c.restored(report, err)
}

func undo(ctx context.Context, c *call) (any, error) {
	set, to, err := c.chosen()
	if err != nil {
		return nil, err
	}
	report, err := set.Undo(ctx, to...)
	for _, x := range report.Components {
		switch x.State {
		case backup.StateUndone:
			c.Say("%s: the previous state is restored", x.Name)
		case backup.StateNothing:
			c.Say("%s: there was nothing to undo", x.Name)
		}
	}
	return report, err
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
	all := []backup.Summary{}
	for _, s := range sets {
		all = append(all, s.Summary())
	}
	c.SetList(sets)
	return all, err
}

func prune(ctx context.Context, c *call) (any, error) {
	dir, p := c.Text("dir"), backup.Policy{Keep: c.Number("keep"), MaxAge: c.Duration("max-age"),
		DryRun: c.On("dry-run")}
	switch {
	case dir == "" && !c.On("mongo"):
		return nil, cli.Wrong("-dir is missing")
	case dir != "" && p.Keep == 0 && p.MaxAge == 0:
		return nil, cli.Wrong("-keep or -max-age is missing")
	case c.On("mongo"):
		left, err := pruneMongo(ctx, c, p)
		if err != nil || dir == "" {
			return left, err
		}
	}
	out, err := backup.Prune(ctx, dir, p)
	c.Pruned(out, p.DryRun)
	return out, err
}

// pruneMongo removes what restores left on the server: those that were killed, and with
// -max-age what finished ones of that age replaced.
func pruneMongo(ctx context.Context, c *call, p backup.Policy) (left []mongodb.Leftover,
	err error) {
	server, word := c.mongo(), "removed"
	if err := c.Noted(); err != nil {
		return nil, err
	}
	if p.DryRun {
		word = "would look at"
		left, err = mongodb.Leftovers(ctx, server, c.List("mongo-db")...)
	} else {
		left, err = mongodb.Prune(ctx, server, cmp.Or(p.MaxAge, -1), c.List("mongo-db")...)
	}
	for _, l := range left {
		c.Say("%s %s", word, l)
	}
	return left, err
}

// recipients are those that an export is encrypted for.
func (c *call) recipients() []age.Recipient {
	to, err := backup.ParseRecipients(c.List("recipient")...)
	if err != nil {
		c.Note(cli.Wrong("invalid -%w", err)) // it begins with recipient
	}
	exports := c.Verb == "export" || c.Text("export") != ""
	if exports && c.On("require-encrypted") && len(to) == 0 {
		c.Note(cli.Wrong("-require-encrypted needs -recipient"))
	}
	return to
}

func (c *call) export(ctx context.Context, set *backup.Set, file string, to []age.Recipient) error {
	err := set.Export(ctx, file, backup.ExportOptions{Recipients: to, Progress: c.Err.Sets()})
	if err == nil {
		c.Say("exported to %s", file)
	}
	return err
}

func export(ctx context.Context, c *call) (any, error) {
	to := c.recipients()
	set, err := c.find()
	if err == nil {
		err = c.export(ctx, set, c.Args[1], to)
	}
	if err != nil {
		return nil, err
	}
	return map[string]any{"file": c.Args[1], "encrypted": len(to) > 0}, nil
}

func importSet(ctx context.Context, c *call) (any, error) {
	o := backup.ImportOptions{AllowPlain: c.On("allow-plain"),
		RequireSignature: cli.Read(c.Call, "require-signature", backup.ReadPublicKeys),
		Identities:       cli.Read(c.Call, "identity", backup.ReadIdentities)}
	switch {
	case c.On("require-encrypted") && len(o.Identities) == 0:
		c.Note(cli.Wrong("-require-encrypted needs -identity"))
	case c.On("require-encrypted") && o.AllowPlain:
		c.Note(cli.Wrong("-require-encrypted and -allow-plain exclude each other"))
	}
	if err := c.Noted(); err != nil {
		return nil, err
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
	return set.Summary(), nil
}
