package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/plugins"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
	"example.com/tykupgrade/pluginbuild/preflight"
)

var hooks = []string{"pre", "auth_check", "post_key_auth", "post", "response"}

// imagePrefix marks plugin.gateway as an image that the engine has.
const imagePrefix = "image:"

// What the journal keeps of each step.
type (
	moduleNote struct {
		Release  string   `json:"release"`
		Findings []string `json:"findings,omitempty"`
		Changed  []string `json:"changed,omitempty"`
	}
	compileNote struct {
		File   string `json:"file"`
		SHA256 string `json:"sha256"`
		Image  string `json:"image,omitempty"` // with its digest; none: the file was given
		Go     string `json:"go,omitempty"`
		Source string `json:"source,omitempty"` // fingerprint of what was compiled
	}
	preflightNote struct {
		Verdict    preflight.Verdict `json:"verdict,omitempty"`
		Gateway    string            `json:"gateway,omitempty"`
		SHA256     string            `json:"gateway_sha256,omitempty"`
		Findings   []string          `json:"findings,omitempty"`
		Overridden string            `json:"overridden,omitempty"`
	}
	bundleNote struct {
		File   string            `json:"file"`
		SHA256 string            `json:"sha256"`
		Size   int64             `json:"size"`
		Signed bool              `json:"signed"`
		Asked  string            `json:"manifest"` // digest of the manifest before checksum and signature
		Loads  map[string]string `json:"loads"`    // by gateway version
		Inputs map[string]string `json:"inputs"`   // digests by path
	}
	publishNote struct {
		Name       string `json:"name"`
		URL        string `json:"url,omitempty"`  // where it was found
		Kept       string `json:"kept,omitempty"` // the file that had the name before
		None       bool   `json:"none,omitempty"` // there was none
		Overridden string `json:"overridden,omitempty"`
	}
)

// pluginSteps bring the plugin to the new version and into a bundle that serves
// both. None changes a host.
func (u *upgrade) pluginSteps() []rollout.Step {
	steps := []rollout.Step{{Name: "given", Do: u.given}}
	if u.Plugin.Source != "" {
		steps = []rollout.Step{{Name: "module", Do: u.module}, {Name: "compile", Do: u.compile, Done: u.compiled, Timeout: time.Hour}}
	}
	return append(steps, rollout.Step{Name: "preflight", Do: u.preflight}, rollout.Step{Name: "bundle", Do: u.bundle, Done: u.bundled})
}

// lookup finds the release that the plugin is compiled for, once.
func (u *upgrade) lookup(ctx context.Context) (pluginbuild.Release, error) {
	if u.found != nil {
		return *u.found, nil
	}
	v, err := u.release()
	if err != nil {
		return pluginbuild.Release{}, err
	}
	p := u.Plugin
	r, err := pluginbuild.Sources{Table: p.Releases, Repo: p.Repo, GoMod: p.ReleaseMod}.Lookup(ctx, v)
	var unknown *pluginbuild.UnknownReleaseError
	if errors.As(err, &unknown) {
		return r, fmt.Errorf("gateway %s is not in the release table, whose nearest is %s; correct the version, name a file with the release as plugin.releases, or the gateway's repository as plugin.repo", v, unknown.Nearest.Version)
	}
	if err == nil {
		u.found = &r
	}
	return r, err
}

// module says whether the plugin's module fits the release.
func (u *upgrade) module(ctx context.Context) error {
	r, err := u.lookup(ctx)
	if err != nil {
		return err
	}
	note := moduleNote{Release: r.Version.String()}
	if u.Plugin.Prepare {
		o := pluginbuild.PrepareOptions{Env: u.environ(), OnEvent: u.compiling}
		done, err := pluginbuild.Prepare(ctx, u.Plugin.Source, r, o)
		if err != nil {
			return err
		}
		note.Changed = done.Changed
	}
	findings, err := pluginbuild.CheckModule(os.DirFS(u.Plugin.Source), r, pluginbuild.CheckOptions{})
	if err != nil {
		return err
	}
	var stop []error
	for _, f := range findings {
		text := strings.TrimPrefix(f.Where+": "+f.Message, ": ")
		if f.Remedy != "" {
			text += "; " + f.Remedy
		}
		note.Findings = append(note.Findings, string(f.Severity)+": "+text)
		switch {
		case f.Prepare:
			stop = append(stop, fmt.Errorf("%s; with prepare: true in the file this is done", text))
		case f.Blocks():
			stop = append(stop, errors.New(text))
		}
	}
	if err := rollout.Save(ctx, note); err != nil {
		return err
	}
	if len(stop) > 0 {
		return fmt.Errorf("the module in %s does not fit %s: %w", u.Plugin.Source, r.Version, errors.Join(stop...))
	}
	return nil
}

var suffix = regexp.MustCompile(`_v\d+\.\d+\.\d+_\w+\.so$`)

// name of the plugin, without the suffix that compilers add.
func (p *pluginConfig) name() string {
	return suffix.ReplaceAllString(filepath.Base(p.Current), ".so")
}

// target is where the build for the new version is, or will be.
func (u *upgrade) target(ctx context.Context) (string, error) {
	if u.Plugin.So != "" {
		return u.Plugin.So, nil
	}
	r, err := u.lookup(ctx)
	if err != nil {
		return "", err
	}
	return filepath.Join(u.builds(), r.Output(u.Plugin.name(), "linux", "amd64")), nil
}

// builds is apart from the bundles, because a compiler before 4.1.0 gives the
// plugin the name that the present one has.
func (u *upgrade) builds() string { return filepath.Join(u.Plugin.Bundle.Dir, "builds") }

func (u *upgrade) compile(ctx context.Context) (err error) {
	r, err := u.lookup(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(u.builds(), 0o755); err != nil {
		return err
	}
	c := u.Plugin.Compiler
	docker, err := compiler.Connect(compiler.ConnectOptions{Host: c.Host, Context: c.Context})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, docker.Close()) }()
	env := map[string]string{}
	for _, name := range c.Env {
		env[name] = u.env(name)
	}
	if env, err = compiler.WithProxies(env, "", docker.DaemonHost()); err != nil {
		return err
	}
	source, err := u.fingerprint()
	if err != nil {
		return err
	}
	b := compiler.New(docker, compiler.Options{
		Pull: compiler.PullPolicy(c.Pull), Env: env, Netrc: c.Netrc, Mounts: c.Mounts, Caches: c.Caches,
		Limits: compiler.Limits{Network: c.Network}, Progress: u.compiling,
	})
	a, err := b.Build(ctx, compiler.Request{
		Release: r, Dir: u.Plugin.Source, Name: u.Plugin.name(), OutputDir: u.builds(),
		Image: u.image(),
	})
	if err != nil {
		return err
	}
	digest := a.ImageDigest
	if digest == "" {
		digest = a.ImageID
	}
	return rollout.Save(ctx, compileNote{File: a.Path, SHA256: a.SHA256, Image: a.Image + " " + digest, Go: a.GoVersion, Source: source})
}

// image is the one that the file names, which has its own edition, or the
// release's.
func (u *upgrade) image() pluginbuild.Image {
	c := u.Plugin.Compiler
	i := pluginbuild.Image{EL7: c.EL7, Ref: c.Image, Digest: c.Digest, Tar: c.Tar}
	if i.Ref == "" {
		i.Edition = u.edition()
	}
	return i
}

func (u *upgrade) compiling(e pluginbuild.Event) {
	switch {
	case e.Kind == pluginbuild.Output:
		u.event(targetPlugin, e.Line)
	case e.Kind == pluginbuild.Started:
		u.event(targetPlugin, string(e.Stage))
	}
}

func (u *upgrade) environ() []string {
	var env []string
	for _, name := range u.Plugin.Compiler.Env {
		env = append(env, name+"="+u.env(name))
	}
	return env
}

// fingerprint changes with everything that the build is made of: an operator
// who mends the module and resumes wants another one.
func (u *upgrade) fingerprint() (string, error) {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%s %+v\n", u.Versions, u.Plugin.Compiler)
	err := filepath.WalkDir(u.Plugin.Source, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path != u.Plugin.Source && strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case !d.Type().IsRegular() || filepath.Ext(path) == ".so":
			return nil
		}
		sum, err := digest(path)
		_, _ = fmt.Fprintf(h, "%q %s\n", path, sum)
		return err
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

// compiled trusts the build that the journal has.
func (u *upgrade) compiled(ctx context.Context) (bool, error) {
	var note compileNote
	if ok, err := rollout.Saved(ctx, &note); !ok || err != nil {
		return false, err
	}
	source, err := u.fingerprint()
	if err != nil || source != note.Source {
		return false, err
	}
	sum, err := digest(note.File)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return sum == note.SHA256, err
}

// given takes the build that was made elsewhere.
func (u *upgrade) given(ctx context.Context) error {
	sum, err := digest(u.Plugin.So)
	if err != nil {
		return fmt.Errorf("plugin.so, the plugin for the new version: %w", err)
	}
	return rollout.Save(ctx, compileNote{File: u.Plugin.So, SHA256: sum})
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// preflight says whether everything that the new gateway takes from the bundle
// will load there.
func (u *upgrade) preflight(ctx context.Context) error {
	report, err := u.compare(ctx)
	note := preflightNote{Verdict: report.Verdict}
	if g := report.Gateway; g != nil {
		note.Gateway, note.SHA256 = g.Name, g.SHA256
	}
	for _, p := range report.Plugins {
		for _, f := range p.Findings {
			note.Findings = append(note.Findings, p.Plugin.Name+": "+f.String())
		}
	}
	for _, f := range report.Findings {
		note.Findings = append(note.Findings, f.String())
	}
	const most = 20 // the decisive ones come first; a plugin of another Go has hundreds
	if n := len(note.Findings); n > most {
		note.Findings = append(note.Findings[:most], fmt.Sprintf("and %d more; examples/buildplugin check shows all", n-most))
	}
	if err == nil && report.Verdict != preflight.Loads {
		why := "the plugin will not load in the new gateway"
		if report.Verdict == preflight.Unknown {
			why = "it cannot be told whether the plugin will load in the new gateway"
		}
		err = refuse(withoutPreflight, fmt.Errorf("%s: %s", why, strings.Join(note.Findings, "; ")))
	}
	if err != nil && ctx.Err() == nil && u.without[withoutPreflight] {
		note.Overridden = overridden(withoutPreflight, err)
		err = nil
	}
	return errors.Join(rollout.Save(ctx, note), err)
}

func (u *upgrade) compare(ctx context.Context) (preflight.Report, error) {
	if u.Plugin.Gateway == "" {
		return preflight.Report{}, refuse(withoutPreflight, errNoGateway)
	}
	a, err := u.arrange(ctx)
	if err != nil {
		return preflight.Report{}, err
	}
	resolved, err := a.manifest.Resolve(a.upgrade.To, "linux", "amd64")
	if err != nil {
		return preflight.Report{}, err
	}
	t := preflight.Target{Distro: u.Plugin.Distro, Gateway: a.upgrade.To}
	if t.Symbols, err = plugins.Symbols(a.manifest); err != nil {
		return preflight.Report{}, err
	}
	u.event(targetPlugin, "read "+u.Plugin.Gateway)
	gateway, err := u.gateway(ctx)
	if err != nil {
		return preflight.Report{}, err
	}
	var all []*preflight.Binary
	seen := map[string]bool{"": true}
	for _, r := range resolved {
		name := r.File
		if seen[name] {
			continue
		}
		seen[name] = true
		path := a.files[name]
		if source, ok := a.plan.Sources[name]; ok {
			path = a.files[source]
		}
		b, err := preflight.Inspect(path)
		if err != nil {
			return preflight.Report{}, err
		}
		b.Name = name
		all = append(all, b)
	}
	return preflight.CompareAll(all, gateway, t)
}

// gateway inspects the binary of the new version.
func (u *upgrade) gateway(ctx context.Context) (*preflight.Binary, error) {
	ref, ok := strings.CutPrefix(u.Plugin.Gateway, imagePrefix)
	if !ok {
		return preflight.InspectFile(ctx, u.Plugin.Gateway, "")
	}
	docker, err := compiler.Connect(compiler.ConnectOptions{Host: u.Plugin.Compiler.Host, Context: u.Plugin.Compiler.Context})
	if err != nil {
		return nil, err
	}
	defer func() { _ = docker.Close() }()
	return plugins.FromImage(ctx, docker, ref)
}
