package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/health"
	"example.com/tykupgrade/pluginbuild"
)

// config is the file: the inventory of examples/rolling, and what an upgrade
// needs beside hosts. Paths are relative to the file.
type config struct {
	fleet.Inventory `yaml:",inline"`

	Plugin *pluginConfig `yaml:"plugin"` // none: the gateways have no Go plugin
	Backup *backupConfig `yaml:"backup"`
	Gates  []gate        `yaml:"gates"` // must hold before the first host and after each component

	dir string // of the file
}

// pluginConfig is a Go plugin and the bundle that it is shipped in.
type pluginConfig struct {
	From    string `yaml:"from"`    // the gateways' version now
	Current string `yaml:"current"` // the .so that they load now

	// Exactly one: the plugin's module, to be compiled, or the .so of the new
	// version.
	Source string `yaml:"source"`
	So     string `yaml:"so"`

	// The manifest of the bundle that is in use, or a symbol and its hook (pre,
	// auth_check, post_key_auth, post or response) for a new one.
	Manifest string `yaml:"manifest"`
	Symbol   string `yaml:"symbol"`
	Hook     string `yaml:"hook"`

	// For a release that the table lacks: a JSON file with it; or the repository to
	// ask for its commit, and its go.mod.
	Releases   string `yaml:"releases"`
	Repo       string `yaml:"repo"`
	ReleaseMod string `yaml:"release_mod"`

	Gateway string `yaml:"gateway"` // of the new version: its binary, .deb, or image:REF
	Distro  string `yaml:"distro"`  // of the gateway hosts, such as debian/12, to check glibc

	Prepare  bool           `yaml:"prepare"` // bring the module's go.mod to the release first
	Compiler compilerConfig `yaml:"compiler"`
	Bundle   bundleConfig   `yaml:"bundle"`
}

// compilerConfig is the image that compiles, and the engine that it runs on.
type compilerConfig struct {
	Host    string   `yaml:"host"`
	Context string   `yaml:"context"`
	Image   string   `yaml:"image"`
	Digest  string   `yaml:"digest"`
	Tar     string   `yaml:"tar"`
	Pull    string   `yaml:"pull"`
	EL7     bool     `yaml:"el7"`
	Env     []string `yaml:"env"` // names of variables that are passed on, such as GOPROXY
	Netrc   string   `yaml:"netrc"`
	Mounts  []string `yaml:"mounts"`
	Network string   `yaml:"network"`
	Caches  string   `yaml:"caches"` // prefix of the volumes for Go's caches, or none
}

// bundleConfig is where the bundle goes. Its name is NAME-<digest>.zip.
type bundleConfig struct {
	Dir  string `yaml:"dir"`
	Name string `yaml:"name"`
	Key  string `yaml:"key"` // file with the RSA key that signs it; empty: unsigned

	// How it gets to the bundle server, with {file} and {name} in it, and the
	// address that gateways fetch bundles from: it must have the bundle before
	// the first host is touched.
	Publish []string `yaml:"publish"`
	URL     string   `yaml:"url"`
}

// backupConfig is what the set holds and where it is kept.
type backupConfig struct {
	Dir   string       `yaml:"dir"`
	Paths []string     `yaml:"paths"` // on every host; empty: Tyk's configuration and what its packages overwrite
	Redis *redisConfig `yaml:"redis"`
	Mongo *mongoConfig `yaml:"mongo"`

	Set   string         `yaml:"set"`   // an existing set instead of a new one: its id, directory, or latest
	Fresh fleet.Duration `yaml:"fresh"` // how old an existing set may be; 0: a day

	Keep   int            `yaml:"keep"`    // so many sets stay; 0: all
	MaxAge fleet.Duration `yaml:"max_age"` // older ones go; 0: none
}

// secret is where a connection URI comes from, because the file is no place for
// passwords.
type secret struct {
	Env  string `yaml:"uri_env"`
	File string `yaml:"uri_file"`
}

type redisConfig struct {
	secret `yaml:",inline"`
	CA     string `yaml:"ca"`   // authority that signed the server's certificate; empty: one of the system's
	Cert   string `yaml:"cert"` // the client's certificate, with key
	Key    string `yaml:"key"`
	Method string `yaml:"method"`
	Way    string `yaml:"way"`   // of a restore: replicate, restore; empty: what fits
	Proof  bool   `yaml:"proof"` // load the copy into a scratch redis-server and compare every key
}

type mongoConfig struct {
	secret    `yaml:",inline"`
	Databases []string `yaml:"databases"`
}

// gate is a request that must be answered as expected, before and after.
type gate struct {
	Name   string            `yaml:"name"`
	URL    string            `yaml:"url"`
	Status int               `yaml:"status"`
	Header map[string]string `yaml:"header"`
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
	errs := []error{c.Inventory.Check()}
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	reserved := []string{targetPlugin, targetHosts, targetBackup}
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
	names := map[string]bool{}
	for i, g := range c.Gates {
		if u, err := url.Parse(g.URL); g.Name == "" || names[g.Name] || err != nil || u.Host == "" {
			bad("gates: number %d: give a name of its own and a whole URL", i+1)
		}
		names[g.Name] = true
	}
	return errors.Join(errs...)
}

func (c *config) checkPlugin(bad func(string, ...any)) {
	p := c.Plugin
	for _, path := range []*string{&p.Current, &p.Source, &p.So, &p.Manifest, &p.Releases, &p.ReleaseMod, &p.Compiler.Tar, &p.Compiler.Netrc, &p.Bundle.Dir, &p.Bundle.Key} {
		*path = c.path(*path)
	}
	if p.Gateway != "" && !strings.HasPrefix(p.Gateway, imagePrefix) {
		p.Gateway = c.path(p.Gateway)
	}
	if p.Bundle.Name == "" {
		p.Bundle.Name = "plugin"
	}
	from, err := pluginbuild.ParseVersion(p.From)
	if err != nil {
		bad("plugin.from: %w", err)
	}
	if to, err := c.release(); err != nil {
		bad("plugin: %w", err)
	} else if from != nil && from.Equal(to) {
		bad("plugin.from: the gateways are to become %s, which they are already", to)
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
		bad("plugin.hook: %q is none of %s", p.Hook, strings.Join(hooks, ", "))
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
	if p.Bundle.Name != filepath.Base(p.Bundle.Name) {
		bad("plugin.bundle.name: %q holds a slash", p.Bundle.Name)
	}
	if u, err := url.Parse(p.Bundle.URL); p.Bundle.URL != "" && (err != nil || u.Host == "") {
		bad("plugin.bundle.url: %q is no URL", p.Bundle.URL)
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
	for name, s := range map[string]*secret{"redis": b.redis(), "mongo": b.mongo()} {
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
		if ways := []backup.RedisWay{"", backup.RedisReplicate, backup.RedisRestore}; !slices.Contains(ways, backup.RedisWay(r.Way)) {
			bad("backup.redis.way: %q is none of replicate, restore", r.Way)
		}
		known := []backup.RedisMethod{"", backup.RedisPSYNC, backup.RedisBGSAVE, backup.RedisSAVE, backup.RedisDUMP}
		if !slices.Contains(known, backup.RedisMethod(b.Redis.Method)) {
			bad("backup.redis.method: %q is none of psync, bgsave, save, dump", b.Redis.Method)
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
		if h.Component == "gateway" || h.Component == "data-plane-gateway" {
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

// options are those of the run. A budget in percent is one of the hosts: the
// other parts of the upgrade do not count.
func (c *config) options(waves []rollout.Wave) rollout.Options {
	o := c.Inventory.RunOptions()
	o.Budget = rollout.CountOrPercent{Count: o.Budget.Of(fleet.Targets(waves))}
	return o
}

// fresh is how old an existing set may be.
func (b *backupConfig) fresh() time.Duration {
	if b == nil || b.Fresh == 0 {
		return 24 * time.Hour
	}
	return time.Duration(b.Fresh)
}
