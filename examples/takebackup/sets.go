package main

import (
	"context"
	"errors"
	"os"

	"filippo.io/age"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/redisdb"
	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/examples/internal/cli"
)

func take(ctx context.Context, c *call) (any, error) {
	to := c.recipients()
	o := backup.Options{Label: c.Text("label"), Signer: cli.Read(c.Call, "sign", backup.ReadSigner),
		Log: c.Log(), Progress: c.Err.Sets()}
	b := c.backends(true)
	if err := c.Noted(); err != nil {
		return nil, err
	}
	if r := c.conf.Redis; r != nil && r.Method == redisdb.SAVE {
		c.Err.Printf("%s SAVE blocks every client of the server until it is done\n",
			c.Err.Paint(cli.Warn, "note:"))
	}
	run := debpkg.Local()
	if c.Text("host") != "" {
		run = c.conf.Files[0].Runner
	}
	// A host without dpkg has none.
	o.Packages, _ = debpkg.New(run, debpkg.Options{}).Versions(ctx, "tyk-*", "redis-server",
		"mongodb-org-server")
	set, err := backup.Take(ctx, c.Text("dir"), o, b.Sources()...)
	if err != nil {
		return nil, err
	}
	c.Set(set)
	if file := c.Text("export"); file != "" {
		err = c.export(ctx, set, file, to)
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

func verify(ctx context.Context, c *call) (any, error) {
	v := backup.VerifyOptions{Progress: c.Err.Sets(), Level: cli.Word(c.Call, "level",
		backup.LevelFiles, backup.LevelStructure, backup.LevelLive)}
	live := v.Level == backup.LevelLive
	if !live && !c.parts.None() {
		c.Note(cli.Wrong("-config, -redis, -mongo and -postgres need -level live"))
	}
	b := c.backends(live)
	v.RequireSignature = cli.Read(c.Call, "require-signature", backup.ReadPublicKeys)
	set, err := c.find()
	if err != nil {
		return nil, err
	}
	v.Against = b.Provers()
	err = set.Verify(ctx, v)
	if err == nil {
		c.Say("%s %s, level %s", c.Out.Paint(cli.Good, "verified:"), set.Dir, v.Level)
	} else if !errors.Is(err, backup.ErrDamaged) && !errors.Is(err, backup.ErrDiffers) &&
		!errors.Is(err, backup.ErrUnsafe) && !errors.Is(err, context.Canceled) {
		err = cli.Exit(cli.Unknown, err)
	}
	return set.Summary(), err
}

func list(_ context.Context, c *call) (any, error) {
	sets, err := backup.List(c.Text("dir"))
	all := backup.Summaries(sets)
	c.SetList(all)
	return all, err
}

// prune removes old sets, and what restores left on the MongoDB server.
func prune(ctx context.Context, c *call) (any, error) {
	dir, p := c.Text("dir"), backup.Policy{Keep: c.Number("keep"), MaxAge: c.Duration("max-age"),
		DryRun: c.On("dry-run")}
	b := c.backends(false)
	switch {
	case dir == "" && !c.parts.Mongo:
		c.Note(cli.Wrong("-dir is missing"))
	case dir != "" && p.Keep == 0 && p.MaxAge == 0:
		c.Note(cli.Wrong("-keep or -max-age is missing"))
	}
	if err := c.Noted(); err != nil {
		return nil, err
	}
	left, err := b.Leftovers(ctx, p)
	for _, l := range left {
		c.Say("%s %s", map[bool]string{false: "removed", true: "would look at"}[p.DryRun], l)
	}
	if err != nil || dir == "" {
		return left, err
	}
	out, err := backup.Prune(ctx, dir, p)
	c.Pruned(out, p.DryRun)
	return out, err
}

// recipients are those that an export is encrypted for.
func (c *call) recipients() []age.Recipient {
	to, err := backup.ParseRecipients(c.List("recipient")...)
	if err != nil {
		c.Note(cli.Wrong("invalid -%w", err)) // it begins with recipient
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
