package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.mongodb.org/mongo-driver/mongo/readpref"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/hostfiles"
	"example.com/tykupgrade/backup/mongodb"
	"example.com/tykupgrade/backup/postgres"
	"example.com/tykupgrade/backup/redisdb"
	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/examples/internal/cli"
)

const (
	redisEnv            = "TAKEBACKUP_REDIS_URI"
	mongoEnv            = "TAKEBACKUP_MONGODB_URI"
	mongoPasswordEnv    = "TAKEBACKUP_MONGODB_PASSWORD"
	postgresEnv         = "TAKEBACKUP_POSTGRES_URI"
	postgresPasswordEnv = "TAKEBACKUP_POSTGRES_PASSWORD"
)

// secret reads what must not be on a command line.
func secret(c *cli.Call, env, file string) (string, error) {
	if file == "" {
		return c.Env(env), nil
	}
	data, err := os.ReadFile(file)
	return strings.TrimSpace(string(data)), err
}

func secrets(c *cli.Call, part, uriEnv, uriFile, passwordEnv,
	passwordFile string) (uri, password string, err error) {
	uri, err = secret(c, uriEnv, uriFile)
	if err == nil {
		password, err = secret(c, passwordEnv, passwordFile)
	}
	if err == nil && uri == "" {
		err = cli.Wrong("-%s needs a URI in %s or -%[1]s-uri-file", part, uriEnv)
	}
	return uri, password, err
}

func (o *options) redisClient(c *cli.Call) (redis.UniversalClient, error) {
	uri, _, err := secrets(c, "redis", redisEnv, o.redisURI, "", "")
	if err != nil {
		return nil, err
	}
	conf, err := cli.ClientTLS(o.redisCA, o.redisCert, o.redisKey)
	if err != nil {
		return nil, err
	}
	client, err := redisdb.NewClient(uri, conf)
	if err == nil {
		o.clients = append(o.clients, client)
	}
	return client, err
}

// renamed reads -redis-command.
func (o *options) renamed() (map[string]string, error) {
	names := map[string]string{}
	for _, pair := range o.commands {
		name, is, ok := strings.Cut(pair, "=")
		if !ok || name == "" || is == "" {
			return nil, cli.Wrong("invalid -redis-command %q: want COMMAND=NAME, as PSYNC=psync-4711", pair)
		}
		names[strings.ToUpper(name)] = is
	}
	return names, nil
}

func (o *options) mongoServer(c *cli.Call) (s mongodb.Server, err error) {
	s.URI, s.Password, err = secrets(c, "mongo", mongoEnv, o.mongoURI, mongoPasswordEnv,
		o.mongoPassword)
	return s, err
}

func (o *options) postgresServer(c *cli.Call) (s postgres.Server, err error) {
	s = postgres.Server{Service: o.service, Bin: o.bin}
	s.URI, s.Password, err = secrets(c, "postgres", postgresEnv, o.postgresURI, postgresPasswordEnv,
		o.postgresPassword)
	if s.URI == "" && s.Service != "" {
		err = nil
	}
	return s, err
}

// sources are what was chosen, for taking a set and for comparing one.
func (o *options) sources(c *cli.Call) (all []backup.Source, err error) {
	if o.config {
		f := &hostfiles.Source{Component: o.configName, Paths: o.paths}
		if o.host != "" {
			f.Runner = debpkg.SSH(o.host, debpkg.SSHOptions{})
		} else {
			f.FS = os.DirFS(o.root)
		}
		all = append(all, f)
	}
	if o.redis {
		r := &redisdb.Source{Component: o.redisName, Method: redisdb.Method(o.method),
			AllowStale: o.stale, Path: o.rdb, Sample: o.sample}
		if r.Commands, err = o.renamed(); err != nil {
			return nil, err
		}
		if r.Client, err = o.redisClient(c); err != nil {
			return nil, err
		}
		if r.Method == redisdb.SAVE {
			c.Err.Printf("%s SAVE blocks every client of the server until it is done\n",
				c.Err.Paint(cli.Warn, "note:"))
		}
		all = append(all, r)
	}
	if o.mongo {
		m := &mongodb.Source{Component: o.mongoName, Databases: o.mongoDBs, Include: o.include,
			Exclude: o.exclude, Plain: o.plain, Parallel: o.parallel, Log: o.log(c)}
		if m.Server, err = o.mongoServer(c); err != nil {
			return nil, err
		}
		if c.Verb == "take" {
			mode, err := readpref.ModeFromString(o.readFrom)
			if err == nil {
				m.ReadPreference, err = readpref.New(mode)
			}
			if err != nil {
				return nil, unknown("mongo-read", o.readFrom,
					"primary, primaryPreferred, secondary, secondaryPreferred or nearest")
			}
			var known bool
			modes := map[string]mongodb.SnapshotMode{"if-possible": mongodb.SnapshotIfPossible,
				"required": mongodb.SnapshotRequired, "never": mongodb.SnapshotNever}
			if m.Snapshot, known = modes[o.snapshot]; !known {
				return nil, unknown("mongo-snapshot", o.snapshot, "if-possible, required or never")
			}
		}
		all = append(all, m)
	}
	if o.postgres {
		p := &postgres.Source{Component: o.postgresName, Databases: o.postgresDBs, Log: o.log(c)}
		if p.Server, err = o.postgresServer(c); err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// restorers are what was chosen, for restore, undo and accept.
func (o *options) restorers(c *cli.Call) (all []backup.Restorer, err error) {
	if o.config {
		f := &hostfiles.Restore{Component: o.configName, Paths: o.paths, Only: o.only, Rescue: o.rescue}
		if o.host != "" {
			f.Runner = debpkg.SSH(o.host, debpkg.SSHOptions{})
		} else {
			f.Root = o.root
		}
		all = append(all, f)
	}
	if o.redis {
		r, err := o.redisRestorer(c)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	if o.mongo {
		m, err := o.mongoRestorer(c)
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	if o.postgres {
		p := &postgres.Restore{Component: o.postgresName, Databases: o.postgresDBs, Replace: o.replace,
			EndClients: o.endClients, NoOwner: o.noOwner, Log: o.log(c)}
		if p.Server, err = o.postgresServer(c); err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	if len(all) == 0 {
		err = errNothing
	}
	return all, err
}

var errNothing = cli.Wrong("nothing chosen: give -config, -redis, -mongo or -postgres")

func (o *options) redisRestorer(c *cli.Call) (backup.Restorer, error) {
	names, err := o.renamed()
	if err != nil {
		return nil, err
	}
	client, err := o.redisClient(c)
	if err != nil {
		return nil, err
	}
	switch o.mode {
	case "live":
		return &redisdb.Live{Client: client, Component: o.redisName, Replace: o.replace,
			StateDir: o.rescue, Sample: o.sample, Commands: names}, nil
	case "offline":
	default:
		return nil, unknown("redis-mode", o.mode, "live or offline")
	}
	single, ok := client.(*redis.Client)
	if !ok {
		return nil, cli.Wrong("-redis-mode offline restores one server at a time: give its own URI, or " +
			"-redis-mode live for a cluster")
	}
	systemctl := func(verb string) func(context.Context) error {
		return func(ctx context.Context) error {
			return debpkg.Local()(ctx, []string{"systemctl", verb, "--", o.unit}, nil, nil, nil)
		}
	}
	return &redisdb.Offline{Component: o.redisName, Replace: o.replace, StateDir: o.rescue,
		Sample: o.sample,
		Servers: []redisdb.Server{{Client: single, Dir: o.dataDir, Stop: systemctl("stop"),
			Start: systemctl("start"), Commands: names}}}, nil
}

func (o *options) mongoRestorer(c *cli.Call) (*mongodb.Restore, error) {
	m := &mongodb.Restore{Component: o.mongoName, Include: o.include, Exclude: o.exclude,
		NoIndexes: o.noIndexes, NoOptions: o.noOptions,
		DropExtra: o.dropExtra, Parallel: o.parallel, Log: o.log(c)}
	modes := map[string]mongodb.Mode{"": mongodb.New, "new": mongodb.New, "replace": mongodb.Replace,
		"drop": mongodb.Drop}
	var known bool
	if m.Mode, known = modes[o.mongoMode]; !known {
		return nil, unknown("mongo-mode", o.mongoMode, "new, replace or drop")
	}
	if o.mongoMode == "" && o.replace {
		m.Mode = mongodb.Replace
	}
	if o.dropExtra && m.Mode == mongodb.New && c.Verb == "restore" {
		return nil, cli.Wrong("-mongo-drop-extra goes with -mongo-mode replace or drop")
	}
	var err error
	m.Server, err = o.mongoServer(c)
	return m, err
}

// installed asks dpkg for the versions that the set belongs to. A host without dpkg has
// none.
func installed(ctx context.Context) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var out strings.Builder
	// It also fails if one of them is unknown.
	_ = debpkg.Local()(ctx, []string{"env", "LC_ALL=C", "dpkg-query", "-W", "-f",
		"${db:Status-Status} ${Package} ${Version}\n",
		"tyk-*", "redis-server", "mongodb-org-server"}, nil, &out, nil)
	versions := map[string]string{}
	for line := range strings.Lines(out.String()) {
		var status, name, version string
		if n, _ := fmt.Sscan(line, &status, &name, &version); n == 3 && status == "installed" {
			versions[name] = version
		}
	}
	return versions
}
