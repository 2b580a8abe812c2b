package main

import (
	"os"

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

// call is one invocation. Its methods note errors of flags, for [cli.Call.Noted].
type call struct {
	*cli.Call
	client redis.UniversalClient // to be closed in the end
}

func (c *call) close() {
	if c.client != nil {
		_ = c.client.Close()
	}
}

// runner reaches the host of the configuration files; nil: this one.
func (c *call) runner() backup.Runner {
	host := c.Text("host")
	switch {
	case host == "":
		return nil
	case c.Given["root"]:
		c.Note(cli.Wrong("-root and -host exclude each other"))
	}
	return debpkg.SSH(host, debpkg.SSHOptions{})
}

// server reads URI and password, which must not be on a command line.
func (c *call) server(part, env string) (uri, password string) {
	uri = c.Secret(part+"-uri-file", env+"_URI")
	password = c.Secret(part+"-password-file", env+"_PASSWORD")
	if uri == "" && c.Text(part+"-service") == "" {
		c.Note(cli.Wrong("-%s needs a URI in %s_URI or -%[1]s-uri-file", part, env))
	}
	return uri, password
}

// redis returns a client, and the names of renamed commands.
func (c *call) redis() (redis.UniversalClient, map[string]string) {
	names, err := redisdb.ParseCommands(c.List("redis-command")...)
	if err != nil {
		c.Note(cli.Wrong("invalid -redis-%w", err)) // it begins with command
	}
	uri, _ := c.server("redis", "TAKEBACKUP_REDIS")
	conf, err := redisdb.ReadTLS(c.Text("redis-ca"), c.Text("redis-cert"), c.Text("redis-key"))
	c.Note(err)
	c.client, err = redisdb.NewClient(uri, conf)
	c.Note(err)
	return c.client, names
}

func (c *call) mongo() (s mongodb.Server) {
	s.URI, s.Password = c.server("mongo", "TAKEBACKUP_MONGODB")
	return s
}

func (c *call) postgres() postgres.Server {
	uri, password := c.server("postgres", "TAKEBACKUP_POSTGRES")
	return postgres.Server{URI: uri, Password: password, Service: c.Text("postgres-service"),
		Bin: c.Text("postgres-bin")}
}

var errNothing = cli.Wrong("nothing chosen: give -config, -redis, -mongo or -postgres")

// sources are what was chosen, for taking a set and for comparing one.
func (c *call) sources() (all []backup.Source) {
	if c.On("config") {
		f := &hostfiles.Source{Component: c.Text("config-name"), Paths: c.List("path"),
			Runner: c.runner()}
		if f.Runner == nil {
			f.FS = os.DirFS(c.Text("root"))
		}
		all = append(all, f)
	}
	if c.On("redis") {
		client, names := c.redis()
		all = append(all, &redisdb.Source{Client: client, Commands: names,
			Component:  c.Text("redis-name"),
			Method:     cli.Word(c.Call, "redis-method", redisdb.Methods()...),
			AllowStale: c.On("redis-stale"), Path: c.Text("redis-rdb"), Sample: c.Number("redis-sample")})
	}
	if c.On("mongo") {
		m := &mongodb.Source{Server: c.mongo(), Component: c.Text("mongo-name"),
			Databases: c.List("mongo-db"), Include: c.List("mongo-include"),
			Exclude: c.List("mongo-exclude"), Plain: c.On("mongo-plain"),
			Parallel: c.Number("mongo-parallel"), Log: c.Log()}
		mode := cli.Word(c.Call, "mongo-read", readpref.PrimaryMode, readpref.PrimaryPreferredMode,
			readpref.SecondaryMode, readpref.SecondaryPreferredMode, readpref.NearestMode)
		if mode.IsValid() {
			m.ReadPreference, _ = readpref.New(mode) // without options it cannot fail
		}
		m.Snapshot = cli.Word(c.Call, "mongo-snapshot", mongodb.SnapshotIfPossible,
			mongodb.SnapshotRequired, mongodb.SnapshotNever)
		all = append(all, m)
	}
	if c.On("postgres") {
		all = append(all, &postgres.Source{Server: c.postgres(), Component: c.Text("postgres-name"),
			Databases: c.List("postgres-db"), NoOwner: c.On("postgres-no-owner"), Log: c.Log()})
	}
	return all
}

// restorers are what was chosen, for restore, undo and accept. rescue is where they keep what
// they replace.
func (c *call) restorers(rescue string) (all []backup.Restorer) {
	if c.On("config") {
		f := &hostfiles.Restore{Component: c.Text("config-name"), Paths: c.List("path"),
			Only: c.List("only"), Rescue: rescue, Runner: c.runner()}
		if f.Runner == nil {
			f.Root = c.Text("root")
		}
		all = append(all, f)
	}
	if c.On("redis") {
		all = append(all, c.redisRestorer(rescue))
	}
	if c.On("mongo") {
		all = append(all, c.mongoRestorer())
	}
	if c.On("postgres") {
		all = append(all, &postgres.Restore{Server: c.postgres(), Component: c.Text("postgres-name"),
			Databases: c.List("postgres-db"), Replace: c.On("replace"),
			EndClients: c.On("postgres-end-clients"), NoOwner: c.On("postgres-no-owner"), Log: c.Log()})
	}
	if len(all) == 0 {
		c.Note(errNothing)
	}
	return all
}

func (c *call) redisRestorer(rescue string) backup.Restorer {
	client, names := c.redis()
	component, replace, sample := c.Text("redis-name"), c.On("replace"), c.Number("redis-sample")
	if cli.Word(c.Call, "redis-mode", "live", "offline") == "live" {
		return &redisdb.Live{Client: client, Component: component, Replace: replace, StateDir: rescue,
			Sample: sample, Commands: names}
	}
	single, ok := client.(*redis.Client)
	if !ok {
		c.Note(cli.Wrong("-redis-mode offline restores one server at a time: give its own URI, or " +
			"-redis-mode live for a cluster"))
	}
	stop, start := redisdb.Systemd(c.Text("redis-unit"), nil)
	return &redisdb.Offline{Component: component, Replace: replace, StateDir: rescue, Sample: sample,
		Servers: []redisdb.Server{{Client: single, Dir: c.Text("redis-dir"), Stop: stop, Start: start,
			Commands: names}}}
}

func (c *call) mongoRestorer() *mongodb.Restore {
	m := &mongodb.Restore{Server: c.mongo(), Component: c.Text("mongo-name"),
		Include: c.List("mongo-include"), Exclude: c.List("mongo-exclude"),
		NoIndexes: c.On("mongo-no-indexes"), NoOptions: c.On("mongo-no-options"),
		DropExtra: c.On("mongo-drop-extra"), Parallel: c.Number("mongo-parallel"), Log: c.Log()}
	if c.On("replace") {
		m.Mode = mongodb.Replace
	}
	if c.Text("mongo-mode") != "" {
		m.Mode = cli.Word(c.Call, "mongo-mode", mongodb.New, mongodb.Replace, mongodb.Drop)
	}
	if m.DropExtra && m.Mode == mongodb.New && c.Verb == "restore" {
		c.Note(cli.Wrong("-mongo-drop-extra goes with -mongo-mode replace or drop"))
	}
	return m
}
