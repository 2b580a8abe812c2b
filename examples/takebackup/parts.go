package main

import (
	"context"
	"fmt"
	"log/slog"
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

// call is one invocation, with what must be closed in the end.
type call struct {
	*cli.Call
	clients []redis.UniversalClient
}

func (c *call) close() {
	for _, client := range c.clients {
		_ = client.Close()
	}
}

func (c *call) log() *slog.Logger {
	if !c.On("v") {
		return nil
	}
	return slog.New(slog.NewTextHandler(c.Err, nil))
}

// server reads URI and password, which must not be on a command line.
func (c *call) server(part, env string) (uri, password string, err error) {
	read := func(flag, env string) (string, error) {
		file := c.Text(flag)
		if file == "" {
			return c.Env(env), nil
		}
		data, err := os.ReadFile(file)
		return strings.TrimSpace(string(data)), err
	}
	uri, err = read(part+"-uri-file", env+"_URI")
	if err == nil {
		password, err = read(part+"-password-file", env+"_PASSWORD")
	}
	if err == nil && uri == "" && c.Text(part+"-service") == "" {
		err = cli.Wrong("-%s needs a URI in %s_URI or -%[1]s-uri-file", part, env)
	}
	return uri, password, err
}

// redis returns a client, and the names of renamed commands.
func (c *call) redis() (redis.UniversalClient, map[string]string, error) {
	names := map[string]string{}
	for _, pair := range c.List("redis-command") {
		name, is, ok := strings.Cut(pair, "=")
		if !ok || name == "" || is == "" {
			return nil, nil, cli.Wrong("invalid -redis-command %q: want COMMAND=NAME, as PSYNC=psync-4711",
				pair)
		}
		names[strings.ToUpper(name)] = is
	}
	uri, _, err := c.server("redis", "TAKEBACKUP_REDIS")
	if err != nil {
		return nil, nil, err
	}
	conf, err := cli.ClientTLS(c.Text("redis-ca"), c.Text("redis-cert"), c.Text("redis-key"))
	if err != nil {
		return nil, nil, err
	}
	client, err := redisdb.NewClient(uri, conf)
	if err == nil {
		c.clients = append(c.clients, client)
	}
	return client, names, err
}

func (c *call) mongo() (s mongodb.Server, err error) {
	s.URI, s.Password, err = c.server("mongo", "TAKEBACKUP_MONGODB")
	return s, err
}

func (c *call) postgres() (s postgres.Server, err error) {
	s = postgres.Server{Service: c.Text("postgres-service"), Bin: c.Text("postgres-bin")}
	s.URI, s.Password, err = c.server("postgres", "TAKEBACKUP_POSTGRES")
	return s, err
}

// sources are what was chosen, for taking a set and for comparing one.
func (c *call) sources() (all []backup.Source, err error) {
	if c.On("config") {
		f := &hostfiles.Source{Component: c.Text("config-name"), Paths: c.List("path")}
		if host := c.Text("host"); host != "" {
			f.Runner = debpkg.SSH(host, debpkg.SSHOptions{})
		} else {
			f.FS = os.DirFS(c.Text("root"))
		}
		all = append(all, f)
	}
	if c.On("redis") {
		r := &redisdb.Source{Component: c.Text("redis-name"),
			Method: redisdb.Method(c.Text("redis-method")), AllowStale: c.On("redis-stale"),
			Path: c.Text("redis-rdb"), Sample: c.Number("redis-sample")}
		if r.Client, r.Commands, err = c.redis(); err != nil {
			return nil, err
		}
		if r.Method == redisdb.SAVE {
			c.Err.Printf("%s SAVE blocks every client of the server until it is done\n",
				c.Err.Paint(cli.Warn, "note:"))
		}
		all = append(all, r)
	}
	if c.On("mongo") {
		m, err := c.mongoSource()
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	if c.On("postgres") {
		p := &postgres.Source{Component: c.Text("postgres-name"), Databases: c.List("postgres-db"),
			Log: c.log()}
		if p.Server, err = c.postgres(); err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

func (c *call) mongoSource() (m *mongodb.Source, err error) {
	m = &mongodb.Source{Component: c.Text("mongo-name"), Databases: c.List("mongo-db"),
		Include: c.List("mongo-include"), Exclude: c.List("mongo-exclude"), Plain: c.On("mongo-plain"),
		Parallel: c.Number("mongo-parallel"), Log: c.log()}
	if m.Server, err = c.mongo(); err != nil || c.Verb != "take" {
		return m, err
	}
	mode, err := cli.One(c.Call, "mongo-read", map[string]readpref.Mode{
		"primary": readpref.PrimaryMode, "primaryPreferred": readpref.PrimaryPreferredMode,
		"secondary": readpref.SecondaryMode, "secondaryPreferred": readpref.SecondaryPreferredMode,
		"nearest": readpref.NearestMode})
	if err == nil {
		m.ReadPreference, err = readpref.New(mode)
	}
	if err != nil {
		return nil, err
	}
	m.Snapshot, err = cli.One(c.Call, "mongo-snapshot", map[string]mongodb.SnapshotMode{
		"if-possible": mongodb.SnapshotIfPossible, "required": mongodb.SnapshotRequired,
		"never": mongodb.SnapshotNever})
	return m, err
}

var errNothing = cli.Wrong("nothing chosen: give -config, -redis, -mongo or -postgres")

// restorers are what was chosen, for restore, undo and accept. rescue is where they keep what
// they replace.
func (c *call) restorers(rescue string) (all []backup.Restorer, err error) {
	if c.On("config") {
		f := &hostfiles.Restore{Component: c.Text("config-name"), Paths: c.List("path"),
			Only: c.List("only"), Rescue: rescue}
		if host := c.Text("host"); host != "" {
			f.Runner = debpkg.SSH(host, debpkg.SSHOptions{})
		} else {
			f.Root = c.Text("root")
		}
		all = append(all, f)
	}
	if c.On("redis") {
		r, err := c.redisRestorer(rescue)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	if c.On("mongo") {
		m, err := c.mongoRestorer()
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	if c.On("postgres") {
		p := &postgres.Restore{Component: c.Text("postgres-name"), Databases: c.List("postgres-db"),
			Replace: c.On("replace"), EndClients: c.On("postgres-end-clients"),
			NoOwner: c.On("postgres-no-owner"), Log: c.log()}
		if p.Server, err = c.postgres(); err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	if len(all) == 0 {
		err = errNothing
	}
	return all, err
}

func (c *call) redisRestorer(rescue string) (backup.Restorer, error) {
	client, names, err := c.redis()
	if err != nil {
		return nil, err
	}
	offline, err := cli.One(c.Call, "redis-mode", map[string]bool{"live": false, "offline": true})
	if err != nil {
		return nil, err
	}
	component, replace, sample := c.Text("redis-name"), c.On("replace"), c.Number("redis-sample")
	if !offline {
		return &redisdb.Live{Client: client, Component: component, Replace: replace, StateDir: rescue,
			Sample: sample, Commands: names}, nil
	}
	single, ok := client.(*redis.Client)
	if !ok {
		return nil, cli.Wrong("-redis-mode offline restores one server at a time: give its own URI, or " +
			"-redis-mode live for a cluster")
	}
	systemctl := func(verb string) func(context.Context) error {
		return func(ctx context.Context) error {
			return debpkg.Local()(ctx, []string{"systemctl", verb, "--", c.Text("redis-unit")}, nil, nil,
				nil)
		}
	}
	return &redisdb.Offline{Component: component, Replace: replace, StateDir: rescue, Sample: sample,
		Servers: []redisdb.Server{{Client: single, Dir: c.Text("redis-dir"), Stop: systemctl("stop"),
			Start: systemctl("start"), Commands: names}}}, nil
}

func (c *call) mongoRestorer() (m *mongodb.Restore, err error) {
	m = &mongodb.Restore{Component: c.Text("mongo-name"), Include: c.List("mongo-include"),
		Exclude: c.List("mongo-exclude"), NoIndexes: c.On("mongo-no-indexes"),
		NoOptions: c.On("mongo-no-options"), DropExtra: c.On("mongo-drop-extra"),
		Parallel: c.Number("mongo-parallel"), Log: c.log()}
	otherwise := mongodb.New
	if c.On("replace") {
		otherwise = mongodb.Replace
	}
	m.Mode, err = cli.One(c.Call, "mongo-mode", map[string]mongodb.Mode{"": otherwise,
		"new": mongodb.New, "replace": mongodb.Replace, "drop": mongodb.Drop})
	if err == nil && m.DropExtra && m.Mode == mongodb.New && c.Verb == "restore" {
		err = cli.Wrong("-mongo-drop-extra goes with -mongo-mode replace or drop")
	}
	if err == nil {
		m.Server, err = c.mongo()
	}
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
