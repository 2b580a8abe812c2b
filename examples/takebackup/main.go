// Command takebackup takes, verifies, restores, lists and prunes backup sets.
// It shows package backup at work: flags, values, calls, print.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/redisdb"
	"example.com/tykupgrade/examples/internal/cli"
)

func main() {
	redis.SetLogger(quiet{})
	program().Main()
}

// quiet keeps the Redis client's own log off the terminal.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// run is one verb. Its result is what -json prints.
type run func(context.Context, *cli.Call) (any, error)

func program() cli.Command {
	o := &options{}
	verb := func(name, args, required, about string, do run) cli.Verb {
		flags := func(f *flag.FlagSet) { o.register(f, name) }
		return cli.Verb{Name: name, Args: args, About: about, Flags: flags,
			Required: strings.Fields(required), Needs: needs(flags, name),
			Run: func(ctx context.Context, c *cli.Call) error { return o.answer(ctx, c, do) }}
	}
	return cli.Command{
		Name:  "takebackup",
		About: "Takes, verifies, restores, lists and prunes backup sets.",
		Notes: `SET is the directory of a set, or with -dir its id or the word latest. -config,
-redis, -mongo and -postgres choose what to take, compare or restore. Connection URIs
come from the environment or from a file, so that no password is on a command line:
` + redisEnv + ", " + mongoEnv + " and " + postgresEnv + `.

restore verifies the set, asks everything before it changes anything, and compares the
result with the set. With -keep, and after it was killed, undo puts back what it
replaced, and accept keeps the result.
`,
		Verbs: []cli.Verb{
			verb("take", "", "dir", "take a new set below -dir", o.take),
			verb("list", "", "dir", "list the sets below -dir, newest first", o.list),
			verb("verify", "SET", "", "check a set; with -level live compare it with what runs", o.verify),
			verb("restore", "SET", "", "verify a set, restore from it, and compare the result", o.restore),
			verb("restore-dump", "PATH", "", "restore a dump.rdb of Redis, or the directory that "+
				"mongodump --out wrote", o.restoreDump),
			verb("undo", "SET", "", "put back what a restore replaced", o.undo),
			verb("accept", "SET", "", "keep a restore, and forget how to undo it", o.accept),
			verb("export", "SET FILE", "", "write one .tar.zst file, encrypted with -recipient", o.export),
			verb("import", "FILE", "dir", "make a set of such a file", o.importSet),
			verb("prune", "", "", "remove old sets, never the newest that verifies", o.prune),
		},
	}
}

// options are the flags of all verbs.
type options struct {
	dir, label, level, identity, exportTo, rescue string
	json, verbose, dryRun, replace, keep          bool
	recipients                                    cli.List
	policy                                        backup.Policy

	config, redis, mongo, postgres bool // what was chosen

	configName, root, host    string
	paths, only               cli.List
	redisName, redisURI       string
	redisCA, redisCert        string
	redisKey, method, rdb     string
	mode, unit, dataDir       string
	stale                     bool
	sample                    int
	commands                  cli.List
	mongoName, mongoURI       string
	mongoPassword, mongoMode  string
	readFrom, snapshot        string
	plain, dropExtra          bool
	noIndexes, noOptions      bool
	noPrelude                 bool
	parallel                  int
	mongoDBs                  cli.List
	include, exclude          cli.List
	postgresName, postgresURI string
	postgresPassword, service string
	bin                       string
	endClients, noOwner       bool
	postgresDBs               cli.List

	clients []interface{ Close() error }
}

// register adds the flags of a verb.
func (o *options) register(f *flag.FlagSet, verb string) {
	const all, part, back = "", "take verify restore undo accept", "restore undo accept"
	for _, x := range []struct {
		verbs, name, def string
		to               any
		usage            string
	}{
		{all, "json", "", &o.json, "print one JSON object"},
		{all, "v", "", &o.verbose, "log each step to standard error"},
		{"take list verify restore undo accept export import prune", "dir", "", &o.dir,
			"the `directory` of the sets"},
		{"take", "label", "", &o.label, "free `text` for the manifest, such as the reason"},
		{"take", "export", "", &o.exportTo, "afterwards export the set to this `file`"},
		{"take export", "recipient", "", &o.recipients, "encrypt the export to this age `recipient` " +
			"(age1…); may be repeated"},
		{"import", "identity", "", &o.identity, "the `file` with the age identity to decrypt with"},
		{"verify", "level", "structure", &o.level, "the `level`: files, structure or live"},
		{"restore restore-dump prune", "dry-run", "", &o.dryRun, "only say what would be done"},
		{"restore restore-dump", "replace", "", &o.replace, "also replace data that is there already"},
		{"restore", "keep", "", &o.keep, "keep what is replaced until undo or accept"},
		{back + " restore-dump", "rescue", "", &o.rescue, "the `directory` for journals and for sets " +
			"of what is replaced (default: rescued, next to the set)"},
		{"prune", "keep", "", &o.policy.Keep, "keep this `number` of sets"},
		{"prune", "max-age", "", &o.policy.MaxAge, "remove sets older than this, such as 720h"},

		{part, "config", "", &o.config, "configuration files: Tyk's, and what its packages overwrite"},
		{part, "config-name", "config", &o.configName, "the `name` of the component in the set, such " +
			"as config/gateway-1"},
		{part, "root", "/", &o.root, "the `directory` that stands for / on this host"},
		{part, "host", "", &o.host, "the configuration files of this `host` over SSH, as [user@]host"},
		{"take", "path", "", &o.paths, "instead of Tyk's files this absolute `path`, with wildcards; " +
			"may be repeated"},
		{back, "path", "", &o.paths, "the set may write below this absolute `path` instead of Tyk's, " +
			"with wildcards; may be repeated"},
		{back, "only", "", &o.only, "only this absolute `path`, with wildcards; may be repeated"},

		{part + " restore-dump", "redis", "", &o.redis, "Redis, at the URI of " + redisEnv},
		{part, "redis-name", "redis", &o.redisName, "the `name` of the component in the set"},
		{part + " restore-dump", "redis-uri-file", "", &o.redisURI,
			"read the URI from this `file`: redis://user:password@host:6379, rediss:// for TLS, " +
				"redis+sentinel://…/mymaster, redis+cluster://…"},
		{part + " restore-dump", "redis-ca", "", &o.redisCA, "PEM `file` of the authority that signed " +
			"the server's certificate"},
		{part + " restore-dump", "redis-cert", "", &o.redisCert,
			"PEM `file` of the client's certificate"},
		{part + " restore-dump", "redis-key", "", &o.redisKey, "PEM `file` of the client's key"},
		{part + " restore-dump", "redis-command", "", &o.commands,
			"a `name` that the server has for a renamed command, as PSYNC=psync-4711; may be repeated"},
		{"verify restore undo accept restore-dump", "redis-sample", "", &o.sample,
			"compare this `number` of keys, chosen at random, instead of all"},
		{"take", "redis-method", string(redisdb.PSYNC), &o.method,
			"the `method`: psync, bgsave, save (blocks all clients) or dump"},
		{"take", "redis-stale", "", &o.stale, "also from a replica that has lost its master"},
		{"take", "redis-rdb", "", &o.rdb, "the server's RDB `file`, for bgsave and save if CONFIG GET " +
			"is forbidden"},
		{back + " restore-dump", "redis-mode", "live", &o.mode,
			"the `mode`: live (key by key into what runs) or offline (stop, place, start)"},
		{back + " restore-dump", "redis-dir", "", &o.dataDir,
			"the server's data `directory`, for offline if the server runs as root or in a container"},
		{back + " restore-dump", "redis-unit", "redis-server", &o.unit,
			"the systemd `unit` to stop and start, for offline"},

		{part + " prune restore-dump", "mongo", "", &o.mongo, "MongoDB, at the URI of " + mongoEnv},
		{part, "mongo-name", "mongo", &o.mongoName, "the `name` of the component in the set"},
		{part + " prune restore-dump", "mongo-uri-file", "", &o.mongoURI,
			"read the URI from this `file`: mongodb://user@host:27017/?tls=true&authSource=admin, or " +
				"mongodb+srv://"},
		{part + " prune restore-dump", "mongo-password-file", "", &o.mongoPassword,
			"read the user's password from this `file` instead of the URI or " + mongoPasswordEnv},
		{part + " restore-dump", "mongo-parallel", "", &o.parallel, "collections at a time (default 4)"},
		{"take prune", "mongo-db", "", &o.mongoDBs, "a `database` (default tyk_analytics); may " +
			"be repeated"},
		{"take restore undo accept restore-dump", "mongo-include", "", &o.include,
			"only collections that match this `pattern` of database.collection; may be repeated"},
		{"take restore undo accept restore-dump", "mongo-exclude", "", &o.exclude,
			"leave out what matches this `pattern`; may be repeated"},
		{"take", "mongo-read", "primary", &o.readFrom,
			"the `members` to read: primary, primaryPreferred, secondary, secondaryPreferred or nearest"},
		{"take", "mongo-snapshot", "if-possible", &o.snapshot,
			"`whether` to read all collections at one moment: if-possible, required or never"},
		{"take", "mongo-plain", "", &o.plain, "do not compress"},
		{back + " restore-dump", "mongo-mode", "", &o.mongoMode,
			"the `mode` for a collection that exists: new (refuse), replace (build next to it, then swap) " +
				"or drop (default new, with -replace replace)"},
		{back + " restore-dump", "mongo-no-indexes", "", &o.noIndexes,
			"restore and compare without indexes, for a server that refuses one"},
		{back + " restore-dump", "mongo-no-options", "", &o.noOptions,
			"create collections without options such as capped, collation and validator"},
		{back, "mongo-drop-extra", "", &o.dropExtra, "with replace or drop: also drop the collections " +
			"that the set does not have and would have had, such as those of a newer version"},
		{"restore-dump", "mongo-no-prelude", "", &o.noPrelude,
			"accept a dump without prelude.json (older versions of mongodump write none) as complete"},

		{part, "postgres", "", &o.postgres, "PostgreSQL, at the URI of " + postgresEnv},
		{part, "postgres-name", "postgres", &o.postgresName, "the `name` of the component in the set"},
		{part, "postgres-uri-file", "", &o.postgresURI,
			"read the URI from this `file`: postgresql://user@host:5432/tyk_analytics?sslmode=verify-full"},
		{part, "postgres-password-file", "", &o.postgresPassword,
			"read the user's password from this `file` instead of the URI or " + postgresPasswordEnv},
		{part, "postgres-service", "", &o.service, "an `entry` of pg_service.conf instead of a URI"},
		{part, "postgres-bin", "", &o.bin, "the `directory` of psql, pg_dump and pg_restore (default: " +
			"the newest of Debian's, then PATH)"},
		{part, "postgres-db", "", &o.postgresDBs, "a `database` (default that of the URI, then " +
			"tyk_analytics); may be repeated"},
		{back, "postgres-end-clients", "", &o.endClients, "end the sessions of other clients right " +
			"before the swap"},
		{"verify " + back, "postgres-no-owner", "", &o.noOwner,
			"without owners and privileges, for a server that lacks the roles"},
	} {
		if x.verbs != all && !slices.Contains(strings.Fields(x.verbs), verb) {
			continue
		}
		switch to := x.to.(type) {
		case *bool:
			f.BoolVar(to, x.name, false, x.usage)
		case *int:
			f.IntVar(to, x.name, 0, x.usage)
		case *time.Duration:
			f.DurationVar(to, x.name, 0, x.usage)
		case *string:
			f.StringVar(to, x.name, x.def, x.usage)
		case *cli.List:
			f.Var(to, x.name, x.usage)
		}
	}
}

// needs lists the flags that mean nothing without another one. restore-dump finds out by
// itself what a path holds.
func needs(flags func(*flag.FlagSet), verb string) map[string]string {
	f := flag.NewFlagSet("", flag.ContinueOnError)
	flags(f)
	with := map[string]string{"root": "config", "host": "config", "path": "config", "only": "config"}
	if verb == "take" {
		with["recipient"] = "export"
	}
	f.VisitAll(func(x *flag.Flag) {
		part, _, ok := strings.Cut(x.Name, "-")
		if ok && verb != "restore-dump" && f.Lookup(part) != nil {
			with[x.Name] = part
		}
	})
	return with
}

// answer runs a verb and prints its error, for people or as JSON.
func (o *options) answer(ctx context.Context, c *cli.Call, do run) error {
	result, err := do(ctx, c)
	for _, client := range o.clients {
		_ = client.Close()
	}
	c.Err.Clear()
	if err = o.advise(err); cli.Code(err) == cli.Interrupted && ctx.Err() == nil {
		err = cli.Exit(cli.No, err) // a part of the work was ended, nobody interrupted us
	}
	if !o.json {
		return err
	}
	out := map[string]any{"ok": err == nil, "result": result}
	if err != nil {
		cause, hint := cli.Explain(err)
		var again interface{ Retryable() bool }
		out["error"], out["hint"], out["retryable"] = cause, hint, errors.As(err, &again) &&
			again.Retryable()
	}
	return errors.Join(err, c.JSON(out))
}

// advise says the next step in flags and verbs, and gives an error its exit code.
func (o *options) advise(err error) error {
	for _, x := range []struct {
		kind error
		hint string
	}{
		{backup.ErrNotEmpty, "give -replace if what is there may go"},
		{redisdb.ErrUnfinished, "finish it with restore, go back with undo, or keep it with accept"},
		{redisdb.ErrOfflineOnly, "-redis-mode offline places the file as it is"},
		{backup.ErrNotAllowed, "give the user the permission that the error names; -redis-command " +
			"gives the name of a renamed command, -redis-method reads in another way"},
	} {
		if errors.Is(err, x.kind) && (x.kind != backup.ErrNotAllowed || o.redis) {
			err = cli.Advice(err, x.hint)
			break
		}
	}
	if errors.Is(err, backup.ErrLocked) {
		return cli.Exit(cli.Busy, err)
	}
	return err
}

func (o *options) log(c *cli.Call) *slog.Logger {
	if !o.verbose {
		return nil
	}
	return slog.New(slog.NewTextHandler(c.Err, nil))
}

func unknown(flag, got, want string) error {
	return cli.Wrong("unknown -%s %q (want %s)", flag, got, want)
}

func count(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}
