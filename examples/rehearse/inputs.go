package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"go.yaml.in/yaml/v3"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/preflight"
)

// inputs are the user's own parts, each optional.
type inputs struct {
	plugin, manifest, gatewayFrom, gateway, conf, apis, debs, file string

	current, target string // the .so of both releases, from the file
	symbol, hook    string // of a new bundle, from the file
	name            string // of the bundle, as the APIs have it; empty: what -apis name
}

// upgradeFile is what a rehearsal takes from an upgrade.yaml. The command upgrade reads and checks
// the whole.
type upgradeFile struct {
	Versions map[string]string `yaml:"versions"`
	Gates    []fleet.Gate      `yaml:"gates"`
	Plugin   struct {
		From, Current, Source, So, Manifest, Symbol, Hook, Gateway string
		Bundle                                                     struct{ Name string }
	} `yaml:"plugin"`
}

// readFile fills in what no flag gives. Paths are relative to the file.
func (in *inputs) readFile(from, to *string) (gates []fleet.Gate, err error) {
	data, err := os.ReadFile(in.file)
	if err != nil {
		return nil, cli.Advice(fmt.Errorf("invalid -file: %w", err), "name an upgrade.yaml")
	}
	var f upgradeFile
	if err := yaml.Unmarshal(data, &f); err != nil {
		return nil, cli.Advice(fmt.Errorf("invalid -file %s: %w", in.file, err), "upgrade plan -file "+in.file+
			" says all that is wrong with it")
	}
	dir := filepath.Dir(in.file)
	path := func(p string) string {
		if p == "" || filepath.IsAbs(p) || strings.HasPrefix(p, imagePrefix) {
			return p
		}
		return filepath.Join(dir, p)
	}
	p := f.Plugin
	for into, value := range map[*string]string{from: p.From, to: f.Versions["gateway"],
		&in.plugin: path(p.Source), &in.manifest: path(p.Manifest),
		&in.gateway: path(p.Gateway), &in.current: path(p.Current), &in.target: path(p.So),
		&in.symbol: p.Symbol, &in.hook: p.Hook, &in.name: p.Bundle.Name} {
		if *into == "" {
			*into = value
		}
	}
	// The new build and the present one count together.
	if in.target == "" || in.current == "" || in.plugin != path(p.Source) {
		in.target, in.current = "", ""
	}
	if in.plugin == "" && in.target == "" {
		in.manifest, in.symbol, in.hook = "", "", ""
	}
	for _, g := range f.Gates {
		if _, err := regexp.Compile(g.Body); err != nil {
			return nil, fmt.Errorf("invalid -file %s: gate %s: %w", in.file, g.Name, err)
		}
	}
	return f.Gates, nil
}

// check examines every named file, and runs nothing.
func (in *inputs) check() error {
	for _, x := range []struct {
		name, path string
		dir        bool
	}{{"plugin", in.plugin, true}, {"manifest", in.manifest, false}, {"conf", in.conf, false},
		{"apis", in.apis, true},
		{"file", in.current, false}, {"file", in.target, false}} {
		if x.path != "" {
			if err := exists(x.name, x.path, x.dir); err != nil {
				return err
			}
		}
	}
	for name, path := range map[string]*string{"gateway-from": &in.gatewayFrom,
		"gateway": &in.gateway} {
		if *path == "" || strings.HasPrefix(*path, imagePrefix) {
			continue
		}
		if err := exists(name, *path, false); err != nil {
			return err
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = abs
	}
	if in.conf != "" {
		data, err := os.ReadFile(in.conf)
		if err == nil {
			_, err = readConf(data)
		}
		if err != nil {
			return cli.Advice(fmt.Errorf("invalid -conf %s: %w", in.conf, err),
				"give the gateway's tyk.conf")
		}
	}
	return nil
}

// builds are the compiled files of one plugin.
type builds struct{ current, target string }

// isModule reports whether the user's plugin is source.
func isModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

// findBuilds pairs the .so files of a directory: NAME_vFROM_os_arch.so, or NAME.so alone, and
// NAME_vTO_os_arch.so.
func findBuilds(dir string, from, to *semver.Version) ([]builds, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.so"))
	if err != nil {
		return nil, err
	}
	old, err1 := pluginbuild.Lookup(from)
	next, err2 := pluginbuild.Lookup(to)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	has := func(name string) string {
		path := filepath.Join(dir, name)
		if slices.Contains(files, path) {
			return path
		}
		return ""
	}
	var all []builds
	var lack []string
	for _, f := range files {
		base := filepath.Base(f)
		if m := versionedName.FindStringSubmatch(base); m != nil {
			base = m[1] + ".so"
		}
		b := builds{current: has(old.Output(base, "linux", goarch)), target: has(next.Output(base,
			"linux", goarch))}
		if b.current == "" {
			b.current = has(base)
		}
		if b.current == b.target {
			b.target = "" // before 4.1.0 both have one name
		}
		switch {
		case b.current == "":
			lack = append(lack, base+" for "+from.String())
		case b.target == "":
			lack = append(lack, next.Output(base, "linux", goarch))
		case !slices.Contains(all, b):
			all = append(all, b)
		}
	}
	switch {
	case len(files) == 0:
		return nil, cli.Advice(fmt.Errorf("invalid -plugin %s: it has neither go.mod nor a .so file",
			dir),
			"name the plugin's module, or a directory with the builds for both releases")
	case len(lack) > 0:
		slices.Sort(lack)
		return nil, cli.Advice(fmt.Errorf("invalid -plugin %s: no %s", dir,
			strings.Join(slices.Compact(lack), ", no ")),
			"add "+next.Output("NAME.so", "linux", goarch)+" and NAME.so, the builds for both releases")
	}
	return all, nil
}

// manifestOf makes a manifest for builds without one. Each plugin's only function is a post hook,
// unless the file names another hook.
func (in *inputs) manifestOf(all []builds) (*bundle.Manifest, error) {
	m := &bundle.Manifest{Middleware: bundle.Middleware{Driver: "goplugin"}}
	for _, b := range all {
		name := in.symbol
		if name == "" {
			p, err := preflight.Inspect(b.current)
			if err != nil {
				return nil, err
			}
			if len(p.Exports) != 1 {
				return nil, cli.Advice(fmt.Errorf("%s exports %s", b.current, cli.Count(len(p.Exports),
					"function")), "name the hooks with -manifest")
			}
			name = p.Exports[0].Name
		}
		file := filepath.Base(b.current)
		path := file
		if x := versionedName.FindStringSubmatch(file); x != nil {
			path = x[1] + ".so"
		}
		m.FileList = append(m.FileList, file)
		h := bundle.Hook{Name: name, Path: path}
		switch in.hook {
		case "pre":
			m.Middleware.Pre = append(m.Middleware.Pre, h)
		case "auth_check":
			m.Middleware.AuthCheck = h
		case "post_key_auth":
			m.Middleware.PostKeyAuth = append(m.Middleware.PostKeyAuth, h)
		case "response":
			m.Middleware.Response = append(m.Middleware.Response, h)
		default:
			m.Middleware.Post = append(m.Middleware.Post, h)
		}
	}
	return m, nil
}
