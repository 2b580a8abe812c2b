package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/bundle/apidef"
	"example.com/tykupgrade/bundle/bundletest"
	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/pluginbuild"
)

// zips holds the bundles of a rehearsal; empty if the releases cannot share one.
type zips struct{ name, old, new string }

// exampleManifest is the procedure's, before the new build is added.
const exampleManifest = `{
 "file_list": ["plugin.so"],
 "custom_middleware": {
  "post": [{"name": "AddFooBarHeader", "path": "plugin.so", "require_session": false, "raw_body_only": false}],
  "driver": "goplugin",
  "id_extractor": {"extract_from": "", "extract_with": "", "extractor_config": {}}
 },
 "checksum": "", "signature": ""
}`

// bundle puts both builds into one bundle, and resolves which gateway loads which build.
func (r *rehearsal) bundle(ctx context.Context, s *Step) error {
	p := &r.plugin
	p.loads = map[string]bool{}
	if err := r.readManifest(); err != nil {
		return err
	}
	if len(p.pairs) == 0 {
		if err := r.placeholders(s); err != nil {
			return err
		}
	}
	if err := r.otherFiles(); err != nil {
		return err
	}
	var plugins []bundle.Plugin
	var targets []string
	for _, b := range p.pairs {
		target := "new/" + filepath.Base(b.target)
		plugins, targets = append(plugins, bundle.Plugin{Current: filepath.Base(b.current),
			Target: target}), append(targets, target)
	}
	name, err := r.bundleName(ctx)
	if err != nil {
		return err
	}
	src, m := os.DirFS(p.builds), p.manifest
	plan, err := bundle.ForUpgrade(bundle.Upgrade{From: r.o.from, To: r.o.to, GOARCH: goarch,
		Plugins: plugins})
	if errors.Is(err, bundle.ErrNoUpgrade) {
		return r.twoBundles(ctx, s, m, targets, err)
	}
	if err != nil {
		return err
	}
	old, err := r.writeBundle(ctx, src, m, "old")
	if err != nil {
		return err
	}
	if m, err = plan.Manifest(m); err != nil {
		return err
	}
	res, err := r.writeBundle(ctx, plan.FS(src), m, "new")
	if err != nil {
		return err
	}
	p.zip = zips{name, filepath.Join(r.dir, "bundles", old.Name("old")), filepath.Join(r.dir,
		"bundles", res.Name("new"))}
	s.say("%s, %s: %s", name, cli.Bytes(res.Size), strings.Join(res.Manifest.FileList, ", "))
	for _, v := range []*semver.Version{r.o.from, r.o.to} {
		all, err := res.Manifest.Resolve(v, "linux", goarch)
		if err != nil {
			return err
		}
		var loads []string
		own := true
		for _, x := range all {
			if !slices.Contains(loads, x.File) {
				loads = append(loads, x.File)
				own = own && slices.Contains(targets, plan.Sources[x.File]) == (v == r.o.to)
			}
		}
		s.say("gateway %s loads %s", v, strings.Join(loads, ", "))
		p.loads[v.String()] = own
	}
	return nil
}

// placeholders are builds for a machine that compiles nothing.
func (r *rehearsal) placeholders(s *Step) error {
	release, err := pluginbuild.Lookup(r.o.to)
	if err != nil {
		return err
	}
	s.Stub = "files that look like plugins and hold no code, for the two builds, because " +
		"nothing was compiled"
	b := builds{filepath.Join(r.plugin.builds, "plugin.so"), filepath.Join(r.plugin.builds, "new",
		release.Output("plugin.so", "linux", goarch))}
	for file, v := range map[string]*semver.Version{b.current: r.o.from, b.target: r.o.to} {
		p := bundletest.Plugin{Path: "example.com/plugins/foobar", Gateway: v.String()}
		if err := os.WriteFile(file, p.Bytes(), 0o644); err != nil {
			return err
		}
	}
	r.plugin.pairs = []builds{b}
	return nil
}

// otherFiles copies what a user's manifest lists in addition to plugins to the builds.
func (r *rehearsal) otherFiles() error {
	if r.o.given.manifest == "" {
		return nil
	}
	for _, name := range r.plugin.manifest.FileList {
		to := filepath.Join(r.plugin.builds, filepath.Base(name))
		if _, err := os.Stat(to); err == nil {
			continue
		}
		if err := copyFile(filepath.Join(filepath.Dir(r.o.given.manifest), filepath.Clean("/"+name)),
			to); err != nil {
			return fmt.Errorf("%s lists %s, which is not a build of -plugin: %w", r.o.given.manifest, name,
				err)
		}
	}
	return nil
}

// bundleName is the name that the APIs have.
func (r *rehearsal) bundleName(ctx context.Context) (string, error) {
	given := r.o.given
	if given.apis == "" || given.name != "" {
		return cmpOr(given.name, "plugin.zip"), nil
	}
	inv, err := apidef.List(ctx, apidef.Directory{Path: given.apis}, r.o.from)
	if err != nil {
		return "", err
	}
	names := slices.Sorted(maps.Keys(inv.Bundles()))
	switch len(names) {
	case 0:
		return "plugin.zip", nil
	case 1:
		return names[0], nil
	}
	return "", fmt.Errorf("the APIs in %s name %s; say which one is rehearsed: "+
		"plugin.bundle.name in -file", given.apis, strings.Join(names, ", "))
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// twoBundles is for releases that cannot share a bundle, such as 4.0.8 and 4.0.16: both look only
// for plugin.so.
func (r *rehearsal) twoBundles(ctx context.Context, s *Step, m *bundle.Manifest, targets []string,
	why error) error {
	s.say("%v", why)
	old, err := r.writeBundle(ctx, os.DirFS(r.plugin.builds), m, "old")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(r.dir, "bundle-")
	if err != nil {
		return err
	}
	for i, b := range r.plugin.pairs {
		if err := copyFile(filepath.Join(r.plugin.builds, targets[i]), filepath.Join(dir,
			filepath.Base(b.current))); err != nil {
			return err
		}
	}
	next, err := r.writeBundle(ctx, os.DirFS(dir), m, "new")
	if err != nil {
		return err
	}
	s.say("for %s: %s", r.o.from, old.Name("old"))
	s.say("for %s: %s", r.o.to, next.Name("new"))
	r.plugin.loads[r.o.from.String()], r.plugin.loads[r.o.to.String()] = true, true
	return nil
}

func (r *rehearsal) writeBundle(ctx context.Context, src fs.FS, m *bundle.Manifest,
	stem string) (bundle.Result, error) {
	dir := filepath.Join(r.dir, "bundles")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return bundle.Result{}, err
	}
	path := filepath.Join(dir, stem)
	res, err := bundle.WriteFile(ctx, path, src, m,
		bundle.Options{Progress: func(e bundle.Event) { r.print.progress(e.File, e.Done, e.Total) }})
	if err != nil {
		return res, err
	}
	f, err := os.Open(path)
	if err != nil {
		return res, err
	}
	defer func() { _ = f.Close() }()
	if _, err = bundle.Verify(f, res.Size, bundle.VerifyOptions{SHA256: res.SHA256}); err != nil {
		return res, err
	}
	return res, os.Rename(path, filepath.Join(dir, res.Name(stem)))
}

func size(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return err.Error()
	}
	return cli.Bytes(info.Size())
}

// commands are those of the real upgrade.
func (r *rehearsal) commands() []string {
	if f := r.o.given.file; f != "" {
		return []string{"upgrade plan -file " + f, "upgrade apply -file " + f, "upgrade accept -file " +
			f}
	}
	name := cmpOr(r.o.given.name, "NAME.zip")
	all := []string{"packbundle publish -dir SERVED new.zip " + name,
		"# then on each host, in its turn and drained:"}
	if dirs, err := bundle.CacheDir(r.o.from, "", "API_ID", name); err == nil {
		all = append(all, "systemctl stop tyk-gateway", "apt-get install tyk-gateway="+r.o.to.String())
		for _, d := range dirs {
			if name == "NAME.zip" {
				d.Dir = filepath.Join(filepath.Dir(d.Dir), "MD5_OF_NAME")
			}
			all = append(all, "rm -r "+d.Dir)
		}
	}
	return append(all, "systemctl start tyk-gateway", "# when all hosts are done:",
		"packbundle accept -dir SERVED "+name)
}
