package main

import (
	"errors"
	"fmt"
	"go.yaml.in/yaml/v3"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/backup/redisdb"
	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/health"
	"example.com/tykupgrade/pluginbuild"
)

// config is the file: the inventory of examples/rolling, and what an upgrade
// needs in addition to hosts. Paths are relative to the file.
type config struct {
	fleet.Inventory `yaml:",inline"`

	Plugin *pluginConfig `yaml:"plugin"` // none: the gateways have no Go plugin
	Switch switchConfig  `yaml:"switch"` // how the gateways get the new bundle
	Backup *backupConfig `yaml:"backup"` // what is backed up before the first host; none: nothing

	dir string // of the file
}

// pluginConfig is a Go plugin and the bundle that it is shipped in.
type pluginConfig struct {
	From    string `yaml:"from"`    // the gateways' version now
	Current string `yaml:"current"` // the .so for it that the bundle gets
	Running string `yaml:"running"` // the .so that they have loaded, if that is another one

	// Exactly one: the plugin's module, to be compiled, or the .so of the new
	// version.
	Source string `yaml:"source"`
	So     string `yaml:"so"` // the compiled .so of the new version, instead of source

	// The manifest of the bundle that is in use, or a symbol and its hook (pre,
	// auth_check, post_key_auth, post or response) for a new one.
	Manifest string `yaml:"manifest"`
	Symbol   string `yaml:"symbol"` // function of the plugin, instead of manifest
	Hook     string `yaml:"hook"`   // where symbol runs: pre, auth_check, post_key_auth, post or response

	// For a release that the table lacks: a JSON file with it; or the repository to
	// ask for its commit, and its go.mod.
	Releases   string `yaml:"releases"`
	Repo       string `yaml:"repo"`        // repository to ask for the commit of an unknown release
	ReleaseMod string `yaml:"release_mod"` // go.mod of that release's tag

	Gateway string `yaml:"gateway"` // of the new version: its binary, .deb, or image:REF
	Distro  string `yaml:"distro"`  // of the gateway hosts, such as debian/12, to check glibc

	Prepare  bool           `yaml:"prepare"`  // bring the module's go.mod to the release first
	Compiler compilerConfig `yaml:"compiler"` // the compiler image and its engine
	Bundle   bundleConfig   `yaml:"bundle"`   // where the bundle is made and served
}

// compilerConfig is the image that compiles, and the engine that it runs on.
type compilerConfig struct {
	Host    string   `yaml:"host"`    // address of the Docker engine
	Context string   `yaml:"context"` // docker context instead of host
	Image   string   `yaml:"image"`   // image instead of the official one
	Digest  string   `yaml:"digest"`  // digest that the image must have
	Tar     string   `yaml:"tar"`     // file of docker save instead of a registry
	Pull    string   `yaml:"pull"`    // missing, always or never
	EL7     bool     `yaml:"el7"`     // the variant for old glibc
	Env     []string `yaml:"env"`     // names of variables that are passed on, such as GOPROXY
	Netrc   string   `yaml:"netrc"`   // file with credentials for private modules
	Mounts  []string `yaml:"mounts"`  // further mounts, host:container
	Network string   `yaml:"network"` // network of the container
	Caches  string   `yaml:"caches"`  // prefix of the volumes for Go's caches, or none
}

// bundleConfig is where the bundle goes.
type bundleConfig struct {
	Dir  string `yaml:"dir"`  // where builds and bundles are made
	Name string `yaml:"name"` // as the APIs have it in custom_middleware_bundle: orders.zip
	Key  string `yaml:"key"`  // file with the RSA key that signs it; empty: unsigned

	// How it gets to the bundle server: the directory that a server on this machine serves, or
	// a command with {file} and {name} in it. URL is the address that gateways fetch bundles
	// from: it must have the bundle before the first host is touched.
	Serve   string   `yaml:"serve"`
	Publish []string `yaml:"publish"` // command that publishes {file} as {name}
	URL     string   `yaml:"url"`     // bundle_base_url of the gateways
}

// switchConfig is how gateways get the new bundle: a mode, or a mode with more.
type switchConfig struct {
	Mode   bundle.Mode `yaml:"mode"`   // same_name (default), unique_path, blue_green, new_name
	New    string      `yaml:"new"`    // the new name, with every mode but same_name
	Rename []string    `yaml:"rename"` // command that names it in the APIs, with {from} and {to}
	Force  bool        `yaml:"force"`  // carry out a switch that takes traffic down
	Config string      `yaml:"config"` // tyk.conf on the gateway hosts; empty: Tyk's
	APIs   []string    `yaml:"apis"`   // API ids: gateways 3.0.0 to 3.2.2 and 4.0.0 cache by API
}

// UnmarshalYAML reads a mode alone, or a mapping.
func (s *switchConfig) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		s.Mode = bundle.Mode(n.Value)
		return nil
	}
	type plain switchConfig
	return fleet.DecodeNode(n, (*plain)(s))
}

func (s switchConfig) sameName() bool { return s.Mode == "" || s.Mode == bundle.SameName }

// backupConfig is what the set holds and where it is kept.
type backupConfig struct {
	Dir   string       `yaml:"dir"`   // directory of the sets
	Paths []string     `yaml:"paths"` // on every host; empty: Tyk's configuration and what its packages overwrite
	Redis *redisConfig `yaml:"redis"` // the Redis of the stack
	Mongo *mongoConfig `yaml:"mongo"` // the MongoDB of the dashboard

	Postgres *postgresConfig `yaml:"postgres"` // the PostgreSQL of the dashboard or of pumps
	External []string        `yaml:"external"` // databases that somebody else backs up: redis, mongo, postgres, mysql

	Set   string         `yaml:"set"`   // an existing set instead of a new one: its id, directory, or latest
	Fresh fleet.Duration `yaml:"fresh"` // how old an existing set may be; 0: a day

	Keep   int            `yaml:"keep"`    // so many sets stay; 0: all
	MaxAge fleet.Duration `yaml:"max_age"` // older ones go; 0: none
}

// secret is where a connection URI comes from, because the file is no place for
// passwords.
type secret struct {
	Env  string `yaml:"uri_env"`  // variable that holds the URI
	File string `yaml:"uri_file"` // file that holds the URI
}

type redisConfig struct {
	secret `yaml:",inline"`
	CA     string `yaml:"ca"`     // authority that signed the server's certificate; empty: one of the system's
	Cert   string `yaml:"cert"`   // the client's certificate, with key
	Key    string `yaml:"key"`    // the key of cert
	Method string `yaml:"method"` // psync (default), bgsave, save or dump
	Proof  bool   `yaml:"proof"`  // load the copy into a scratch redis-server and compare every key
}

type mongoConfig struct {
	secret    `yaml:",inline"`
	Databases []string `yaml:"databases"` // empty: tyk_analytics
}

type postgresConfig struct {
	secret    `yaml:",inline"`
	Databases []string `yaml:"databases"` // empty: that of the URI, otherwise tyk_analytics
	Bin       string   `yaml:"bin"`       // directory of psql, pg_dump and pg_restore; empty: the newest of Debian's
}

// load reads and checks the file; "-" is stdin.
func load(path string, stdin io.Reader) (*config, error) {
	data, err := fleet.Read(path, stdin)
	if err != nil {
		return nil, err
	}
	c := &config{}
	if err = fleet.Decode(data, c); err == nil {
		if path != "-" {
			c.dir = filepath.Dir(path)
		}
		err = c.check()
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return c, nil
}

// check fills in defaults and reports everything that is wrong at once.
func (c *config) check() error {
	var errs []error
	if err := c.Inventory.Check(); err != nil {
		errs = append(errs, err)
	}
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	reserved := []string{targetPlugin, targetHosts, targetBackup, targetBundle}
	for _, h := range c.Hosts {
		if slices.Contains(reserved, h.Name) || strings.HasPrefix(h.Name, gatesAfter) {
			bad("host %s: the name is taken by a part of the upgrade", h.Name)
		}
	}
	if c.Plugin != nil {
		c.checkPlugin(bad)
	}
	if c.Backup != nil {
		c.checkBackup(bad)
	}
	return errors.Join(errs...)
}

func (c *config) checkPlugin(bad func(string, ...any)) {
	p := c.Plugin
	for _, path := range []*string{&p.Current, &p.Running, &p.Source, &p.So, &p.Manifest, &p.Releases, &p.ReleaseMod, &p.Compiler.Tar, &p.Compiler.Netrc, &p.Bundle.Dir, &p.Bundle.Serve, &p.Bundle.Key} {
		*path = c.path(*path)
	}
	if p.Gateway != "" && !strings.HasPrefix(p.Gateway, imagePrefix) {
		p.Gateway = c.path(p.Gateway)
	}
	from, err := pluginbuild.ParseVersion(p.From)
	if err != nil {
		bad("plugin.from: %w", err)
	}
	if to, err := c.release(); err != nil {
		bad("plugin: %w", err)
	} else if from != nil && from.Equal(to) {
		bad("plugin.from: the gateways have %s already", to)
	}
	if p.Current == "" {
		bad("plugin.current: name the .so that the gateways load now")
	}
	if (p.Source == "") == (p.So == "") {
		bad("plugin: give source, to compile it, or so, if it is compiled: one of them")
	}
	if (p.Manifest == "") == (p.Symbol == "") {
		bad("plugin: give the bundle's manifest, or symbol and hook: one of them")
	}
	if p.Symbol != "" && !slices.Contains(hooks, p.Hook) {
		bad("plugin.hook: unknown hook %q (want %s)", p.Hook, strings.Join(hooks, ", "))
	}
	if p.ReleaseMod != "" && p.Repo == "" {
		bad("plugin.release_mod: it goes with repo")
	}
	if p.Prepare && p.Source == "" {
		bad("plugin.prepare: there is no source to prepare")
	}
	if p.Bundle.Dir == "" {
		bad("plugin.bundle.dir: name the directory for the bundle")
	}
	switch {
	case p.Bundle.Name == "":
		bad("plugin.bundle.name: want the name that the APIs have in custom_middleware_bundle, such as orders.zip")
	case p.Bundle.Name != filepath.Base(p.Bundle.Name):
		bad("plugin.bundle.name: invalid name %q: want one without a slash", p.Bundle.Name)
	}
	if p.Bundle.Serve != "" && len(p.Bundle.Publish) > 0 {
		bad("plugin.bundle: give serve or publish, not both")
	}
	if u, err := url.Parse(p.Bundle.URL); p.Bundle.URL != "" && (err != nil || u.Host == "") {
		bad("plugin.bundle.url: invalid URL %q", p.Bundle.URL)
	}
	c.checkSwitch(bad)
}

func (c *config) checkSwitch(bad func(string, ...any)) {
	s := c.Switch
	switch {
	case s.Mode != "" && !slices.Contains(bundle.Modes(), s.Mode):
		bad("switch: unknown mode %q (want same_name, unique_path, blue_green or new_name)", s.Mode)
	case s.sameName() && (s.New != "" || s.Rename != nil):
		bad("switch: new and rename go with unique_path, blue_green and new_name")
	case !s.sameName() && s.New == "":
		bad("switch: mode %s needs new, another name for the bundle", s.Mode)
	case s.Mode == bundle.BlueGreen && c.BlueGreen == nil:
		bad("switch: mode blue_green needs the section bluegreen")
	case (s.Mode == bundle.UniquePath || s.Mode == bundle.NewName) && s.Rename == nil:
		bad("switch: mode %s needs rename, the command that names the new bundle in the APIs", s.Mode)
	}
	if s.New != filepath.Base(s.New) && s.New != "" {
		bad("switch.new: invalid name %q: want one without a slash", s.New)
	}
}

func (c *config) checkBackup(bad func(string, ...any)) {
	b := c.Backup
	b.Dir = c.path(b.Dir)
	if b.Dir == "" {
		bad("backup.dir: name the directory for the sets")
	}
	if b.Keep < 0 {
		bad("backup.keep: %d is negative", b.Keep)
	}
	for name, s := range map[string]*secret{"redis": b.redis(), "mongo": b.mongo(), "postgres": b.postgres()} {
		if s == nil {
			continue
		}
		s.File = c.path(s.File)
		if (s.Env == "") == (s.File == "") {
			bad("backup.%s: give uri_env, the name of a variable, or uri_file: one of them", name)
		}
	}
	if r := b.Redis; r != nil {
		for _, path := range []*string{&r.CA, &r.Cert, &r.Key} {
			*path = c.path(*path)
		}
		if (r.Cert == "") != (r.Key == "") {
			bad("backup.redis: cert and key go together")
		}
		known := []redisdb.Method{"", redisdb.PSYNC, redisdb.BGSAVE, redisdb.SAVE, redisdb.DUMP}
		if !slices.Contains(known, redisdb.Method(b.Redis.Method)) {
			bad("backup.redis.method: unknown method %q (want psync, bgsave, save or dump)", b.Redis.Method)
		}
	}
}

func (b *backupConfig) redis() *secret {
	if b.Redis == nil {
		return nil
	}
	return &b.Redis.secret
}

func (b *backupConfig) mongo() *secret {
	if b.Mongo == nil {
		return nil
	}
	return &b.Mongo.secret
}

func (b *backupConfig) postgres() *secret {
	if b.Postgres == nil {
		return nil
	}
	return &b.Postgres.secret
}

// read returns the URI.
func (s *secret) read(env func(string) string) (string, error) {
	if s.Env != "" {
		if v := env(s.Env); v != "" {
			return v, nil
		}
		return "", fmt.Errorf("the variable %s is not set", s.Env)
	}
	data, err := os.ReadFile(s.File)
	if err != nil {
		return "", err
	}
	if v := strings.TrimSpace(string(data)); v != "" {
		return v, nil
	}
	return "", fmt.Errorf("%s is empty", s.File)
}

// words are what must not appear in a record: the URI, and the password in it
// as it is written and as it is meant.
func words(uri string) []string {
	all := []string{uri}
	if u, err := url.Parse(uri); err == nil && u.User != nil {
		if password, ok := u.User.Password(); ok && password != "" {
			all = append(all, password, url.QueryEscape(password), url.PathEscape(password))
		}
	}
	return all
}

// path is relative to the file's directory.
func (c *config) path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.dir, p)
}

// gatewayHost is the first host with a gateway.
func (c *config) gatewayHost() (fleet.Host, bool) {
	for _, h := range c.Hosts {
		if fleet.IsGateway(h.Component) {
			return h, true
		}
	}
	return fleet.Host{}, false
}

// release is the version that the gateways are to have.
func (c *config) release() (*semver.Version, error) {
	h, ok := c.gatewayHost()
	if !ok {
		return nil, errors.New("there is no gateway among the hosts")
	}
	v, err := health.ParseVersion(c.Versions[h.Component])
	if err != nil {
		return nil, fmt.Errorf("versions.%s: %w", h.Component, err)
	}
	return v, nil
}

// edition of the gateways, which the plugin is compiled for.
func (c *config) edition() pluginbuild.Edition {
	h, _ := c.gatewayHost()
	if e := debpkg.Edition(h.Package); e != "" {
		return pluginbuild.Edition(e)
	}
	return pluginbuild.Standard
}

// runOptions are those of the run. A budget in percent is one of the hosts: the other parts
// of the upgrade do not count.
func (u *upgrade) runOptions(waves []rollout.Wave) rollout.Options {
	o := u.RunOptions()
	o.Budget = rollout.CountOrPercent{Count: o.Budget.Of(fleet.Targets(waves))}
	o.Journal, o.Secrets = u.journal, u.secrets()
	switch {
	case o.Prober == nil:
	case u.without[withoutGates]:
		o.Prober = nil
	default:
		o.Prober.Stop = o.Prober.Stop || u.yes // a pause waits for somebody
	}
	return o
}

// fresh is how old an existing set may be.
func (b *backupConfig) fresh() time.Duration {
	if b == nil || b.Fresh == 0 {
		return 24 * time.Hour
	}
	return time.Duration(b.Fresh)
}
