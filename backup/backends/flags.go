package backends

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"go.mongodb.org/mongo-driver/mongo/readpref"

	"example.com/tykupgrade/backup/mongodb"
	"example.com/tykupgrade/backup/redisdb"
)

// Flags are a [Config] as flags of a command, so that commands of a team name them as takebackup
// does. The zero value is ready. Each method that takes a flag set registers the flags of one kind
// of verb, and forgets what an earlier registration parsed. It is for one goroutine.
type Flags struct {
	Files, Redis, Mongo, Postgres bool // what was chosen: -config, -redis, -mongo, -postgres

	of       group // the last registration
	files    Files
	redis    Redis
	mongo    Mongo
	postgres Postgres
	replace  bool
	mode     *mongodb.Mode
	commands []string

	redisURI, mongoURI, mongoPassword, postgresURI, postgresPassword string // files
}

// group is a kind of verb.
type group int

const (
	take group = 1 << iota
	compare
	restore
	undo
	dump
	prune

	sets    = take | compare | restore | undo // what works with sets
	writes  = restore | undo
	writing = writes | dump
)

// Take registers the flags for [backup.Take].
func (f *Flags) Take(fs *flag.FlagSet) { f.register(fs, take) }

// Compare registers the flags for [backup.Set.Verify] at [backup.LevelLive].
func (f *Flags) Compare(fs *flag.FlagSet) { f.register(fs, compare) }

// Restore registers the flags for [backup.Set.Restore].
func (f *Flags) Restore(fs *flag.FlagSet) { f.register(fs, restore) }

// Undo registers the flags for [backup.Set.Undo] and [backup.Set.Accept].
func (f *Flags) Undo(fs *flag.FlagSet) { f.register(fs, undo) }

// RestoreDump registers the flags for [Backends.RestoreDump].
func (f *Flags) RestoreDump(fs *flag.FlagSet) { f.register(fs, dump) }

// Leftovers registers the flags for [Backends.Leftovers].
func (f *Flags) Leftovers(fs *flag.FlagSet) { f.register(fs, prune) }

// None reports whether nothing was chosen.
func (f *Flags) None() bool { return !f.Files && !f.Redis && !f.Mongo && !f.Postgres }

// ChooseDump chooses the database that a dump belongs to, unless exactly one of Redis and MongoDB is
// chosen: a file is a dump.rdb, a directory is mongodump's.
func (f *Flags) ChooseDump(path string) error {
	info, err := os.Stat(path)
	if err == nil && f.Redis == f.Mongo {
		f.Redis, f.Mongo = !info.IsDir(), info.IsDir()
	}
	return err
}

func (f *Flags) register(fs *flag.FlagSet, of group) {
	*f = Flags{of: of}
	for _, x := range f.table() {
		if x.in&of == 0 {
			continue
		}
		switch to := x.to.(type) {
		case *bool:
			fs.BoolVar(to, x.name, false, x.usage)
		case *int:
			fs.IntVar(to, x.name, 0, x.usage)
		case *string:
			fs.StringVar(to, x.name, "", x.usage)
		case *[]string:
			fs.Func(x.name, x.usage+"; repeatable", func(s string) error {
				*to = append(*to, s)
				return nil
			})
		case func(string) error:
			fs.Func(x.name, x.usage, to)
		}
	}
}

// row is one flag: the verbs that have it, its name, where its value goes, and its usage.
type row struct {
	in    group
	name  string
	to    any
	usage string
}

func (f *Flags) table() []row {
	return append(append(f.filesTable(), f.redisTable()...), append(f.mongoTable(),
		f.postgresTable()...)...)
}

func (f *Flags) filesTable() []row {
	x := &f.files
	return []row{
		{restore | dump, "replace", &f.replace, "also replace data that is there already"},
		{sets, "config", &f.Files, "configuration files: Tyk's, and what its packages overwrite"},
		{sets, "config-name", &x.Component, "the `name` of the component in the set, such as " +
			"config/gateway-1 (default config)"},
		{sets, "root", &x.Root, "the `directory` that stands for / on this host (default /)"},
		{take, "path", &x.Paths, "instead of Tyk's files this absolute `path`, with wildcards"},
		{writes, "path", &x.Paths, "the set may write below this absolute `path` instead of Tyk's, with " +
			"wildcards"},
		{writes, "only", &x.Only, "only this absolute `path`, with wildcards"},
	}
}

func (f *Flags) redisTable() []row {
	x := &f.redis
	return []row{
		{sets | dump, "redis", &f.Redis, "Redis"},
		{sets, "redis-name", &x.Component, "the `name` of the component in the set (default redis)"},
		{sets | dump, "redis-uri-file", &f.redisURI, "read the URI from this `file`: " +
			"redis://user:password@host:6379, rediss:// for TLS, redis+sentinel://…/mymaster, " +
			"redis+cluster://…"},
		{sets | dump, "redis-ca", &x.CA, "PEM `file` of the authority that signed the server's certificate"},
		{sets | dump, "redis-cert", &x.Cert, "PEM `file` of the client's certificate"},
		{sets | dump, "redis-key", &x.Key, "PEM `file` of the client's key"},
		{sets | dump, "redis-command", &f.commands, "a `name` that the server has for a renamed command, " +
			"as PSYNC=psync-4711"},
		{compare | writing, "redis-sample", &x.Sample, "compare this `number` of keys, chosen at random, " +
			"instead of all"},
		{take, "redis-method", word(&x.Method, redisdb.Methods()...), "the `method`: psync, bgsave, save " +
			"(blocks all clients) or dump (default psync)"},
		{take, "redis-stale", &x.AllowStale, "also from a replica that has lost its master"},
		{take, "redis-rdb", &x.Path, "the server's RDB `file`, for bgsave and save if CONFIG GET is " +
			"forbidden"},
		{writing, "redis-mode", offline(&x.Offline), "the `mode`: live (key by key into what runs) or " +
			"offline (stop, place, start) (default live)"},
		{writing, "redis-dir", &x.Dir, "the server's data `directory`, for offline if the server runs as " +
			"root or in a container"},
		{writing, "redis-unit", &x.Unit, "the systemd `unit` to stop and start, for offline (default " +
			"redis-server)"},
	}
}

func (f *Flags) mongoTable() []row {
	x := &f.mongo
	return []row{
		{sets | dump | prune, "mongo", &f.Mongo, "MongoDB"},
		{sets, "mongo-name", &x.Component, "the `name` of the component in the set (default mongo)"},
		{sets | dump | prune, "mongo-uri-file", &f.mongoURI, "read the URI from this `file`: " +
			"mongodb://user@host:27017/?tls=true&authSource=admin, or mongodb+srv://"},
		{sets | dump | prune, "mongo-password-file", &f.mongoPassword, "read the user's password from " +
			"this `file`, so that the URI need not have it"},
		{sets | dump, "mongo-parallel", &x.Parallel, "`number` of collections at a time (default 4)"},
		{take | prune, "mongo-db", &x.Databases, "a `database` (default tyk_analytics)"},
		{take | writing, "mongo-include", &x.Include, "only collections that match this `pattern` of " +
			"database.collection"},
		{take | writing, "mongo-exclude", &x.Exclude, "leave out what matches this `pattern`"},
		{take, "mongo-read", f.members, "the `members` to read: primary, primaryPreferred, secondary, " +
			"secondaryPreferred or nearest (default primary)"},
		{take, "mongo-snapshot", word(&x.Snapshot, mongodb.SnapshotIfPossible, mongodb.SnapshotRequired,
			mongodb.SnapshotNever), "`whether` to read all collections at one moment: if-possible, " +
			"required or never (default if-possible)"},
		{take, "mongo-plain", &x.Plain, "do not compress"},
		{writing, "mongo-mode", f.mongoMode, "the `mode` for a collection that exists: new (refuse), " +
			"replace (build next to it, then swap) or drop (default new, with -replace replace)"},
		{writing, "mongo-no-indexes", &x.NoIndexes, "restore and compare without indexes, for a server " +
			"that refuses one"},
		{writing, "mongo-no-options", &x.NoOptions, "create collections without options such as capped, " +
			"collation and validator"},
		{writes, "mongo-drop-extra", &x.DropExtra, "with replace or drop: also drop the collections that " +
			"the set does not have and would have had, such as those of a newer version"},
		{dump, "mongo-no-prelude", &x.NoPrelude, "accept a dump without prelude.json (older versions of " +
			"mongodump write none) as complete"},
	}
}

func (f *Flags) postgresTable() []row {
	x := &f.postgres
	return []row{
		{sets, "postgres", &f.Postgres, "PostgreSQL"},
		{sets, "postgres-name", &x.Component, "the `name` of the component in the set (default postgres)"},
		{sets, "postgres-uri-file", &f.postgresURI, "read the URI from this `file`: " +
			"postgresql://user@host:5432/tyk_analytics?sslmode=verify-full"},
		{sets, "postgres-password-file", &f.postgresPassword, "read the user's password from this " +
			"`file`, so that the URI need not have it"},
		{sets, "postgres-service", &x.Server.Service, "an `entry` of pg_service.conf instead of a URI"},
		{sets, "postgres-bin", &x.Server.Bin, "the `directory` of psql, pg_dump and pg_restore (default: " +
			"the newest of Debian's, then PATH)"},
		{sets, "postgres-db", &x.Databases, "a `database` (default that of the URI, then tyk_analytics)"},
		{writes, "postgres-end-clients", &x.EndClients, "end the sessions of other clients right before " +
			"the swap"},
		{compare | writes, "postgres-no-owner", &x.NoOwner, "without owners and privileges, for a server " +
			"that lacks the roles"},
	}
}

func (f *Flags) mongoMode(s string) error {
	f.mode = new(mongodb.Mode)
	return word(f.mode, mongodb.New, mongodb.Replace, mongodb.Drop)(s)
}

func (f *Flags) members(s string) error {
	var mode readpref.Mode
	err := word(&mode, readpref.PrimaryMode, readpref.PrimaryPreferredMode, readpref.SecondaryMode,
		readpref.SecondaryPreferredMode, readpref.NearestMode)(s)
	if err == nil {
		f.mongo.ReadPreference, err = readpref.New(mode)
	}
	return err
}

func offline(to *bool) func(string) error {
	return func(s string) error {
		var mode string
		err := word(&mode, "live", "offline")(s)
		*to = mode == "offline"
		return err
	}
}

// word returns the function of a flag that takes one of several words.
func word[T any](to *T, known ...T) func(string) error {
	return func(s string) error {
		var words []string
		for _, k := range known {
			if words = append(words, fmt.Sprint(k)); words[len(words)-1] == s {
				*to = k
				return nil
			}
		}
		last := len(words) - 1
		return fmt.Errorf("want %s or %s", strings.Join(words[:last], ", "), words[last])
	}
}

// Config returns what the parsed flags say. No flag holds a URI or a password, so that none is on a
// command line. They come from the files that flags name, or from environment variables that begin
// with prefix: PREFIX_REDIS_URI, PREFIX_MONGODB_URI, PREFIX_MONGODB_PASSWORD, PREFIX_POSTGRES_URI
// and PREFIX_POSTGRES_PASSWORD. getenv is os.Getenv, or a test's own. Errors name flags.
func (f *Flags) Config(prefix string, getenv func(string) string) (c Config, err error) {
	secret := func(file, name string) string {
		if file == "" {
			return getenv(prefix + "_" + name)
		}
		data, e := os.ReadFile(file)
		if err == nil {
			err = e
		}
		return strings.TrimSpace(string(data))
	}
	needs := func(part, name string) {
		if err == nil {
			err = fmt.Errorf("-%s needs a URI in %s_%s or -%[1]s-uri-file", part, prefix, name)
		}
	}
	if f.Files {
		c.Files = []Files{f.files}
	}
	if r := f.redis; f.Redis {
		r.URI, r.Replace, c.Redis = secret(f.redisURI, "REDIS_URI"), f.replace, &r
		if r.URI == "" {
			needs("redis", "REDIS_URI")
		}
		names, e := redisdb.ParseCommands(f.commands...)
		if r.Commands = names; e != nil && err == nil {
			err = fmt.Errorf("invalid -redis-%w", e) // it begins with command
		}
	}
	if m := f.mongo; f.Mongo {
		m.Server.URI, c.Mongo = secret(f.mongoURI, "MONGODB_URI"), &m
		m.Server.Password = secret(f.mongoPassword, "MONGODB_PASSWORD")
		if m.Server.URI == "" {
			needs("mongo", "MONGODB_URI")
		}
		if f.replace {
			m.Mode = mongodb.Replace
		}
		m.Mode = *cmp.Or(f.mode, &m.Mode)
		if f.of == restore && m.DropExtra && m.Mode == mongodb.New && err == nil {
			err = errors.New("-mongo-drop-extra goes with -mongo-mode replace or drop")
		}
	}
	if p := f.postgres; f.Postgres {
		p.Server.URI, p.Replace = secret(f.postgresURI, "POSTGRES_URI"), f.replace
		p.Server.Password, c.Postgres = secret(f.postgresPassword, "POSTGRES_PASSWORD"), &p
		if p.Server.URI == "" && p.Server.Service == "" {
			needs("postgres", "POSTGRES_URI")
		}
	}
	return c, err
}
