package backends

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/hostfiles"
	"example.com/tykupgrade/backup/mongodb"
	"example.com/tykupgrade/backup/postgres"
	"example.com/tykupgrade/backup/redisdb"
)

// Backends are the backends of a [Config]. Its methods may be called several times, and by several
// goroutines until Close. Each call makes new sources or restorers.
type Backends struct {
	c     Config
	redis redis.UniversalClient // nil: no Redis
}

// Open checks the config: unknown words, URIs that cannot be used, and settings that exclude each
// other. It reads certificates and connects to nothing. After an error nothing is open.
func Open(c Config) (*Backends, error) {
	b := &Backends{c: c}
	for _, f := range c.Files {
		if f.Root != "" && f.Runner != nil {
			return nil, fail(cmp.Or(f.Component, "config"), errors.New("both Root and Runner are set"),
				"set Runner for another host, otherwise Root")
		}
	}
	if c.Mongo != nil {
		if err := c.Mongo.Server.Check(); err != nil {
			return nil, err
		}
	}
	if c.Postgres != nil {
		if err := c.Postgres.Server.Check(); err != nil {
			return nil, err
		}
	}
	if c.Redis == nil {
		return b, nil
	}
	conf, err := redisdb.ReadTLS(c.Redis.CA, c.Redis.Cert, c.Redis.Key)
	if err != nil {
		return nil, fail(c.Redis.name(), err, "")
	}
	if b.redis, err = redisdb.NewClient(c.Redis.URI, conf); err != nil {
		return nil, err
	}
	if _, single := b.redis.(*redis.Client); c.Redis.Offline && !single {
		_ = b.Close()
		return nil, fail(c.Redis.name(), errors.New("an offline restore is for one server, and the URI "+
			"names a cluster"), "give the URI of one of its servers, or restore into the running cluster")
	}
	return b, nil
}

func fail(component string, err error, next string) error {
	return &backup.Error{Op: "configure", Object: component, Err: err, Next: next}
}

func (r *Redis) name() string { return cmp.Or(r.Component, "redis") }

// Close closes the clients. Sources and restorers do not work afterwards.
func (b *Backends) Close() error {
	if b.redis == nil {
		return nil
	}
	return b.redis.Close()
}

// Sources returns a source for each backend, in the order of the fields of [Config].
func (b *Backends) Sources() []backup.Source { return each[backup.Source](b) }

// Provers returns what compares the live systems with a set, in the same order.
func (b *Backends) Provers() []backup.Prover { return each[backup.Prover](b) }

// each returns the sources, which are provers as well.
func each[T any](b *Backends) (all []T) {
	add := func(source any) { all = append(all, source.(T)) }
	for _, f := range b.c.Files {
		s := &hostfiles.Source{Component: f.Component, Paths: f.Paths, Runner: f.Runner}
		if s.Runner == nil {
			s.FS = os.DirFS(cmp.Or(f.Root, "/"))
		}
		add(s)
	}
	if r := b.c.Redis; r != nil {
		add(&redisdb.Source{Client: b.redis, Component: r.Component, Commands: r.Commands,
			Sample: r.Sample, Method: r.Method, AllowStale: r.AllowStale, Path: r.Path})
	}
	if m := b.c.Mongo; m != nil {
		add(&mongodb.Source{Server: m.Server, Component: m.Component, Databases: m.Databases,
			Include: m.Include, Exclude: m.Exclude, Parallel: m.Parallel, Snapshot: m.Snapshot,
			ReadPreference: m.ReadPreference, Plain: m.Plain, Log: b.c.Log})
	}
	if p := b.c.Postgres; p != nil {
		add(&postgres.Source{Server: p.Server, Component: p.Component, Databases: p.Databases,
			NoOwner: p.NoOwner, Log: b.c.Log})
	}
	return all
}

// Restorers returns a restorer for each backend, in the order of the fields of [Config]. rescue is
// the directory for journals and for sets of what is replaced: see [backup.Set.RescueDir].
func (b *Backends) Restorers(rescue string) (all []backup.Restorer) {
	for _, f := range b.c.Files {
		all = append(all, &hostfiles.Restore{Component: f.Component, Paths: f.Paths, Only: f.Only,
			Rescue: rescue, Runner: f.Runner, Root: f.Root, DropEdits: f.DropEdits})
	}
	if b.c.Redis != nil {
		all = append(all, b.redisRestorer(rescue))
	}
	if b.c.Mongo != nil {
		all = append(all, b.mongoRestorer())
	}
	if p := b.c.Postgres; p != nil {
		all = append(all, &postgres.Restore{Server: p.Server, Component: p.Component,
			Databases: p.Databases, Replace: p.Replace, EndClients: p.EndClients, NoOwner: p.NoOwner,
			Log: b.c.Log})
	}
	return all
}

func (b *Backends) redisRestorer(rescue string) backup.Restorer {
	r := b.c.Redis
	if !r.Offline {
		return &redisdb.Live{Client: b.redis, Component: r.Component, Replace: r.Replace,
			StateDir: rescue, Sample: r.Sample, Commands: r.Commands}
	}
	stop, start := redisdb.Systemd(cmp.Or(r.Unit, "redis-server"), nil)
	return &redisdb.Offline{Component: r.Component, Replace: r.Replace, StateDir: rescue,
		Sample: r.Sample, Servers: []redisdb.Server{{Client: b.redis.(*redis.Client), Dir: r.Dir,
			Stop: stop, Start: start, Commands: r.Commands}}}
}

func (b *Backends) mongoRestorer() *mongodb.Restore {
	m := b.c.Mongo
	return &mongodb.Restore{Server: m.Server, Component: m.Component, Include: m.Include,
		Exclude: m.Exclude, Parallel: m.Parallel, Mode: m.Mode, NoIndexes: m.NoIndexes,
		NoOptions: m.NoOptions, DropExtra: m.DropExtra, Log: b.c.Log}
}

// RestoreDump restores what another tool wrote, without a set of the caller's: a dump.rdb of Redis,
// or the directory that mongodump --out wrote. If the [Config] has both databases, a
// directory is MongoDB's. rescue is as for [Backends.Restorers]; if it is empty, it is the directory
// "rescued" next to path. The state after a failure is that of [redisdb.Dump.Restore] and
// [mongodb.Dump.Restore].
func (b *Backends) RestoreDump(ctx context.Context, path, rescue string,
	o backup.RestoreOptions) (backup.Report, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return backup.Report{}, err
	case b.c.Redis == nil && b.c.Mongo == nil:
		return backup.Report{}, &backup.Error{Op: "restore", Object: path,
			Err: errors.New("neither Redis nor MongoDB is configured"), Next: "set Config.Redis or Config.Mongo"}
	case b.c.Mongo == nil, b.c.Redis != nil && !info.IsDir():
		rescue = cmp.Or(rescue, filepath.Join(filepath.Dir(path), "rescued"))
		return (&redisdb.Dump{Path: path, Component: b.c.Redis.Component}).Restore(ctx, o, rescue,
			b.redisRestorer(rescue))
	}
	report := backup.Report{Set: path, DryRun: o.DryRun}
	dump, err := mongodb.OpenDump(ctx, path, mongodb.DumpOptions{NoPrelude: b.c.Mongo.NoPrelude})
	if err != nil {
		return report, err
	}
	component, err := dump.Restore(ctx, o, b.mongoRestorer())
	report.Components = []backup.ComponentReport{component}
	return report, err
}

// Leftovers removes what restores left on the MongoDB server: those that were killed, and with
// p.MaxAge what older finished ones replaced. With p.DryRun it removes nothing and returns all that
// is there. Without MongoDB it does nothing.
func (b *Backends) Leftovers(ctx context.Context, p backup.Policy) ([]mongodb.Leftover, error) {
	m := b.c.Mongo
	switch {
	case m == nil:
		return nil, nil
	case p.DryRun:
		return mongodb.Leftovers(ctx, m.Server, m.Databases...)
	}
	return mongodb.Prune(ctx, m.Server, cmp.Or(p.MaxAge, -1), m.Databases...)
}
