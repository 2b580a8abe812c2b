package installation

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/backup/redisdb"
	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/internal/tykversion"
	"example.com/tykupgrade/pluginbuild"
)

// imagePrefix marks plugin.gateway as an image that the engine has.
const imagePrefix = "image:"

// checker collects mistakes.
type checker struct{ errs []error }

func (c *checker) bad(format string, a ...any) { c.errs = append(c.errs, fmt.Errorf(format, a...)) }

// Check fills in defaults and reports all mistakes at once. It contacts no other system.
func (f *File) Check() error {
	c := &checker{}
	if err := f.Inventory.Check(); err != nil {
		c.errs = append(c.errs, err)
	}
	for _, h := range f.Hosts {
		if reserved(h.Name) {
			c.bad("host %s: the name is taken by a part of the upgrade", h.Name)
		}
	}
	if f.Plugin != nil {
		f.checkPlugin(c)
		f.checkBundles(c)
		f.checkSwitch(c)
	} else if len(f.Bundles) > 0 {
		c.bad("bundles: they need the section plugin, with from and bundle.dir")
	}
	if f.APIs != nil {
		f.checkAPIs(c)
	}
	if f.Backup != nil {
		f.checkBackup(c)
	}
	return errors.Join(c.errs...)
}

// rebase makes paths relative to the file's directory.
func (f *File) rebase(paths ...*string) {
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(f.dir, *p)
		}
	}
}

func (f *File) checkPlugin(c *checker) {
	p := f.Plugin
	f.rebase(&p.Current, &p.Running, &p.Source, &p.So, &p.Manifest, &p.Releases, &p.ReleaseMod,
		&p.Compiler.Tar, &p.Compiler.Netrc, &p.Bundle.Dir, &p.Bundle.Serve, &p.Bundle.Key,
		&p.Bundle.VerifyKey)
	if !strings.HasPrefix(p.Gateway, imagePrefix) {
		f.rebase(&p.Gateway)
	}
	from, err := tykversion.Parse(p.From)
	if err != nil {
		c.bad("plugin.from: %w", err)
	}
	if to, err := f.release(); err != nil {
		c.bad("plugin: %w", err)
	} else if from != nil && from.Equal(to) {
		c.bad("plugin.from: the gateways have %s already", to)
	}
	if p.ReleaseMod != "" && p.Repo == "" {
		c.bad("plugin.release_mod: it goes with repo")
	}
	if p.Bundle.Dir == "" {
		c.bad("plugin.bundle.dir: name the directory for the bundle")
	}
	if p.Bundle.Serve != "" && len(p.Bundle.Publish) > 0 {
		c.bad("plugin.bundle: want serve or publish, not both")
	}
	if u, err := url.Parse(p.Bundle.URL); p.Bundle.URL != "" && (err != nil || u.Host == "") {
		c.bad("plugin.bundle.url: invalid URL %q: want one such as https://bundles.example.com/",
			p.Bundle.URL)
	}
}

// bundles returns the bundles of the file, from bundles or from plugin.
func (f *File) bundles() []Bundle {
	switch {
	case f.Plugin == nil:
		return nil
	case len(f.Bundles) > 0:
		return f.Bundles
	}
	p := f.Plugin
	return []Bundle{{Name: p.Bundle.Name, New: f.Switch.New, Plugins: []Build{p.Build},
		Function: p.Function}}
}

func (f *File) checkBundles(c *checker) {
	several := len(f.Bundles) > 0
	if p := f.Plugin; several && (p.Build != Build{} || p.Function != Function{} ||
		p.Bundle.Name != "" || f.Switch.New != "") {
		c.bad("bundles: current, running, source, so, prepare, manifest, symbol, hook, bundle.name and " +
			"switch.new belong to each of bundles, not in plugin and switch")
	}
	seen := map[string]bool{}
	for i, b := range f.bundles() {
		at, name := "plugin", "plugin.bundle.name"
		if several {
			at, name = fmt.Sprintf("bundles: number %d", i+1), fmt.Sprintf("bundles: number %d: name", i+1)
			f.rebase(&f.Bundles[i].Manifest)
			if b.Name != "" && b.Name == filepath.Base(b.Name) {
				at = "bundles: " + b.Name
			}
			if len(b.Plugins) == 0 {
				c.bad("%s: plugins is missing: list current, and source or so", at)
			}
		}
		switch {
		case b.Name == "":
			c.bad("%s: want the name that the APIs have in custom_middleware_bundle, such as orders.zip",
				name)
		case b.Name != filepath.Base(b.Name):
			c.bad("%s: invalid name %q: want one without a slash", name, b.Name)
		}
		for _, n := range []string{b.Name, b.New} {
			if n != "" && seen[n] {
				c.bad("%s: duplicate name %q", at, n)
			}
			seen[n] = true
		}
		if b.New != filepath.Base(b.New) && b.New != "" {
			c.bad("%s: new: invalid name %q: want one without a slash", at, b.New)
		}
		b.Function.check(c, at, len(b.Plugins))
		for j := range b.Plugins {
			build := &b.Plugins[j]
			if several {
				f.rebase(&build.Current, &build.Running, &build.Source, &build.So)
			}
			build.check(c, at)
		}
	}
}

func (f Function) check(c *checker, at string, plugins int) {
	if (f.Manifest == "") == (f.Symbol == "") {
		c.bad("%s: want either the bundle's manifest, or symbol and hook", at)
	}
	if f.Symbol != "" && plugins > 1 {
		c.bad("%s: a bundle with several plugins needs a manifest instead of symbol", at)
	}
	if f.Symbol != "" && !slices.Contains(bundle.HookKinds(), f.Hook) {
		c.bad("%s.hook: unknown hook %q (want %s)", at, f.Hook, strings.Join(bundle.HookKinds(), ", "))
	}
}

func (b Build) check(c *checker, at string) {
	if b.Current == "" {
		c.bad("%s.current: name the .so that the gateways load now", at)
	}
	if (b.Source == "") == (b.So == "") {
		c.bad("%s: want either source, to compile it, or so, if it is compiled", at)
	}
	if b.Prepare && b.Source == "" {
		c.bad("%s.prepare: source is missing", at)
	}
}

func (f *File) checkSwitch(c *checker) {
	s := f.Switch
	if s.Mode != "" && !slices.Contains(bundle.Modes(), s.Mode) {
		c.bad("switch: unknown mode %q (want same_name, unique_path, blue_green or new_name)", s.Mode)
		return
	}
	renames := s.Mode == bundle.UniquePath || s.Mode == bundle.NewName
	for _, b := range f.bundles() {
		switch {
		case s.sameName() && (b.New != "" || s.Rename != nil):
			c.bad("switch: new and rename go with unique_path, blue_green and new_name")
		case !s.sameName() && b.New == "":
			c.bad("switch: mode %s needs new, another name for the bundle %s", s.Mode, b.Name)
		}
	}
	switch {
	case s.Mode == bundle.BlueGreen && f.BlueGreen == nil:
		c.bad("switch: mode blue_green needs the section bluegreen")
	case renames && s.Rename == nil && f.APIs == nil:
		c.bad("switch: mode %s needs the section apis, or rename, the command that names the new "+
			"bundle in the APIs", s.Mode)
	}
}

func (f *File) checkAPIs(c *checker) {
	a := f.APIs
	f.rebase(&a.Directory, &a.CA, &a.Secret.File)
	given := 0
	for _, at := range []string{a.Dashboard, a.Gateway, a.Directory} {
		if at != "" {
			given++
		}
	}
	if given != 1 {
		c.bad("apis: want one of dashboard, gateway and directory")
	}
	for key, at := range map[string]string{"dashboard": a.Dashboard, "gateway": a.Gateway} {
		if u, err := url.Parse(at); at != "" && (err != nil || u.Host == "") {
			c.bad("apis.%s: invalid URL %q: want one such as http://10.0.0.20:8080", key, at)
		}
	}
	if a.Dashboard != "" && len(a.Keys) == 0 {
		c.bad("apis.keys: want the API key of a dashboard user for each organisation, such as [{env: " +
			"TYK_DASHBOARD_KEY}]")
	}
	if a.Gateway != "" && a.Secret.given() != 1 {
		c.bad("apis.secret: want one of env, file and command")
	}
	for i := range a.Keys {
		f.rebase(&a.Keys[i].File)
		if a.Keys[i].given() != 1 {
			c.bad("apis.keys: key %d needs one of env, file and command", i+1)
		}
	}
	if f.Plugin == nil {
		c.bad("apis: it goes with the section plugin")
	}
}

func (f *File) checkBackup(c *checker) {
	b := f.Backup
	f.rebase(&b.Dir, &b.Sign, &b.RequireSignature)
	if b.Dir == "" {
		c.bad("backup.dir: name the directory for the sets")
	}
	if b.Keep < 0 {
		c.bad("backup.keep: %d is negative", b.Keep)
	}
	uris := b.uris()
	for _, name := range slices.Sorted(maps.Keys(uris)) {
		f.rebase(&uris[name].File)
		if uris[name].secret().given() != 1 {
			c.bad("backup.%s: want one of uri_env (the name of a variable), uri_file and uri_command",
				name)
		}
	}
	if r := b.Redis; r != nil {
		f.rebase(&r.CA, &r.Cert, &r.Key)
		if (r.Cert == "") != (r.Key == "") {
			c.bad("backup.redis: cert and key go together")
		}
		if m := redisdb.Method(r.Method); m != "" && !slices.Contains(redisdb.Methods(), m) {
			c.bad("backup.redis.method: unknown method %q (want psync, bgsave, save or dump)", r.Method)
		}
	}
}

// gatewayHost returns the first host with a gateway.
func (f *File) gatewayHost() (fleet.Host, bool) {
	for _, h := range f.Hosts {
		if fleet.IsGateway(h.Component) {
			return h, true
		}
	}
	return fleet.Host{}, false
}

// release returns the version to which the gateways are upgraded.
func (f *File) release() (*semver.Version, error) {
	h, ok := f.gatewayHost()
	if !ok {
		return nil, errors.New("none of the hosts is a gateway")
	}
	v, err := tykversion.Parse(f.Versions[h.Component])
	if err != nil {
		return nil, fmt.Errorf("versions.%s: %w", h.Component, err)
	}
	return v, nil
}

// edition returns the edition of the gateways for which plugins are compiled.
func (f *File) edition() pluginbuild.Edition {
	h, _ := f.gatewayHost()
	if e := debpkg.Edition(h.Package); e != "" {
		return pluginbuild.Edition(e)
	}
	return pluginbuild.Standard
}
