package main

import (
	"context"
	"errors"
	"flag"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/hostfiles"
	"example.com/tykupgrade/backup/redisdb"
	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/examples/internal/cli"
)

// parts are the kinds of components that the command knows.
func parts() []part {
	return []part{&configPart{}, &redisPart{}, &mongoPart{}, &postgresPart{}}
}

// configPart is the configuration files of one host.
type configPart struct {
	chosen bool
	host   string
	paths  listFlag
	only   listFlag
	name   string
	root   string
}

func (p *configPart) flags(fs *flag.FlagSet, verb string) {
	fs.BoolVar(&p.chosen, "config", false, "configuration files: Tyk's, and what its packages overwrite")
	fs.StringVar(&p.name, "config-name", "config", "the `name` of the component in the set, such as config/gateway-1")
	fs.StringVar(&p.root, "root", "/", "the `directory` that stands for / on this host")
	fs.StringVar(&p.host, "host", "", "the configuration files of this `host` over SSH, as [user@]host")
	switch verb {
	case "take":
		fs.Var(&p.paths, "path", "instead of Tyk's files this absolute `path`, with wildcards; may be repeated")
	case "restore":
		fs.Var(&p.paths, "path", "the set may write below this absolute `path`, with wildcards; may be repeated; empty: Tyk's files")
		fs.Var(&p.only, "only", "only this absolute `path`, with wildcards; may be repeated")
	}
}

func (p *configPart) source(*command) (backup.Source, error) {
	if !p.chosen && len(p.paths) == 0 {
		return nil, nil
	}
	f := &hostfiles.Source{Component: p.name, Paths: p.paths}
	if p.host != "" {
		f.Runner = backup.Runner(debpkg.SSH(p.host, debpkg.SSHOptions{}))
	} else {
		f.FS = os.DirFS(p.root)
	}
	return f, nil
}

func (p *configPart) restorer(c *command) (backup.Restorer, error) {
	if !p.chosen && len(p.only) == 0 {
		return nil, nil
	}
	f := &hostfiles.Restore{Component: p.name, Paths: p.paths, Only: p.only, Rescue: c.rescue}
	if p.host != "" {
		f.Runner = backup.Runner(debpkg.SSH(p.host, debpkg.SSHOptions{}))
	} else {
		f.Root = p.root
	}
	return f, nil
}

func (p *configPart) close() {}

// redisPart is Redis.
type redisPart struct {
	chosen        bool
	name          string
	uriFile       string
	ca, cert, key string
	method        string
	stale         bool
	rdbPath       string
	sample        int
	way, unit     string
	dir           string

	client redis.UniversalClient
}

const redisURIEnv = "TAKEBACKUP_REDIS_URI"

func (p *redisPart) flags(fs *flag.FlagSet, verb string) {
	fs.BoolVar(&p.chosen, "redis", false, "Redis, at the URI of "+redisURIEnv)
	fs.StringVar(&p.name, "redis-name", "redis", "the `name` of the component in the set")
	fs.StringVar(&p.uriFile, "redis-uri-file", "", "read the URI from this `file`: redis://user:password@host:6379, rediss:// for TLS, redis+sentinel://…/mymaster, redis+cluster://…")
	fs.StringVar(&p.ca, "redis-ca", "", "PEM `file` of the authority that signed the server's certificate")
	fs.StringVar(&p.cert, "redis-cert", "", "PEM `file` of the client's certificate")
	fs.StringVar(&p.key, "redis-key", "", "PEM `file` of the client's key")
	if verb != "take" {
		fs.IntVar(&p.sample, "redis-sample", 0, "compare so many keys, chosen at random, instead of all")
	}
	switch verb {
	case "take":
		fs.StringVar(&p.method, "redis-method", string(redisdb.PSYNC), "psync, bgsave, save (blocks all clients) or dump")
		fs.BoolVar(&p.stale, "redis-stale", false, "also from a replica that has lost its master")
		fs.StringVar(&p.rdbPath, "redis-rdb", "", "the server's RDB `file`, for bgsave and save where CONFIG GET is forbidden")
	case "restore":
		fs.StringVar(&p.way, "redis-mode", "live", "live (key by key into what runs) or offline (stop, place, start)")
		fs.StringVar(&p.dir, "redis-dir", "", "the server's data `directory`, for offline if the server runs as root or in a container")
		fs.StringVar(&p.unit, "redis-unit", "redis-server", "the systemd `unit` to stop and start, for offline")
	}
}

func (p *redisPart) connect(c *command) (redis.UniversalClient, error) {
	uri := c.env(redisURIEnv)
	if p.uriFile != "" {
		data, err := os.ReadFile(p.uriFile)
		if err != nil {
			return nil, err
		}
		uri = strings.TrimSpace(string(data))
	}
	if uri == "" {
		return nil, usagef("-redis needs a URI in %s or -redis-uri-file", redisURIEnv)
	}
	conf, err := cli.ClientTLS(p.ca, p.cert, p.key)
	if err != nil {
		return nil, err
	}
	p.client, err = redisdb.NewClient(uri, conf)
	return p.client, err
}

func (p *redisPart) source(c *command) (backup.Source, error) {
	if !p.chosen {
		return nil, nil
	}
	client, err := p.connect(c)
	if err != nil {
		return nil, err
	}
	if p.method == string(redisdb.SAVE) {
		c.stderr.Printf("%s SAVE blocks every client of the server until it is done\n", c.stderr.Paint(cli.Warn, "note:"))
	}
	return &redisdb.Source{Client: client, Component: p.name, Method: redisdb.Method(p.method), AllowStale: p.stale, Path: p.rdbPath, Sample: p.sample}, nil
}

func (p *redisPart) restorer(c *command) (backup.Restorer, error) {
	if !p.chosen {
		return nil, nil
	}
	client, err := p.connect(c)
	if err != nil {
		return nil, err
	}
	switch p.way {
	case "", "live":
		return &redisdb.Live{Client: client, Component: p.name, Replace: c.replace, StateDir: c.rescue, Sample: p.sample}, nil
	case "offline":
	default:
		return nil, usagef("unknown -redis-mode %q (want live or offline)", p.way)
	}
	single, ok := client.(*redis.Client)
	if !ok {
		return nil, errors.New("restore offline: one server at a time; give its own URI, or use -redis-mode live for a cluster")
	}
	return &redisdb.Offline{Component: p.name, Replace: c.replace, StateDir: c.rescue, Sample: p.sample,
		Servers: []redisdb.Server{{Client: single, Dir: p.dir, Stop: p.systemctl("stop"), Start: p.systemctl("start")}}}, nil
}

func (p *redisPart) systemctl(verb string) func(context.Context) error {
	return func(ctx context.Context) error {
		return debpkg.Local()(ctx, []string{"systemctl", verb, "--", p.unit}, nil, nil, nil)
	}
}

func (p *redisPart) close() {
	if p.client != nil {
		_ = p.client.Close()
	}
}

// installed asks dpkg for the versions that the set belongs to. A host without
// dpkg has none.
func installed(ctx context.Context) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var out strings.Builder
	err := debpkg.Local()(ctx,
		[]string{"env", "LC_ALL=C", "dpkg-query", "-W", "-f", "${db:Status-Status}\t${Package}\t${Version}\n", "tyk-*", "redis-server", "mongodb-org-server"}, nil, &out, nil)
	_ = err // it also fails where one of them is not known
	versions := map[string]string{}
	for line := range strings.Lines(out.String()) {
		if f := strings.Split(strings.TrimSpace(line), "\t"); len(f) == 3 && f[0] == "installed" {
			versions[f[1]] = f[2]
		}
	}
	return versions
}
