package installation

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

// pluginSteps returns the steps that build the plugins for the new version and pack a bundle for
// both versions. No step changes a host.
func (u *Upgrade) pluginSteps(b Bundle) []rollout.Step {
	var steps []rollout.Step
	for _, one := range b.Plugins {
		step := func(kind string) string {
			if len(b.Plugins) == 1 {
				return kind
			}
			return kind + " " + one.name()
		}
		if one.Source == "" {
			steps = append(steps, rollout.Step{Name: step("given"), Do: func(ctx context.Context) error {
				return u.given(ctx, one)
			}})
			continue
		}
		steps = append(steps, rollout.Step{Name: step("module"), Do: func(ctx context.Context) error {
			return u.module(ctx, one)
		}},
			rollout.Step{Name: step("compile"), Timeout: time.Hour,
				Do:   func(ctx context.Context) error { return u.compile(ctx, one) },
				Done: func(ctx context.Context) (bool, error) { return u.compiled(ctx, one) }})
	}
	return append(steps,
		rollout.Step{Name: "preflight", Do: func(ctx context.Context) error {
			return u.preflight(ctx,
				b)
		}},
		rollout.Step{Name: "bundle",
			Do:   func(ctx context.Context) error { return u.writeBundle(ctx, b) },
			Done: func(ctx context.Context) (bool, error) { return u.bundled(ctx, b) }})
}

// name returns the plugin's name, without the suffix that compilers add.
func (b Build) name() string { return bundle.PluginName(filepath.Base(b.Current)) }

// lookup finds the release that plugins are compiled for, once.
func (u *Upgrade) lookup(ctx context.Context) (pluginbuild.Release, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
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
		return r, fmt.Errorf("gateway %s is not in the release table, whose nearest is %s; correct the "+
			"version, name a file with the release as plugin.releases, or the gateway's repository as "+
			"plugin.repo", v, unknown.Nearest.Version)
	}
	if err == nil {
		u.found = &r
	}
	return r, err
}

// module checks whether the plugin's module fits the release.
func (u *Upgrade) module(ctx context.Context, b Build) error {
	r, err := u.lookup(ctx)
	if err != nil {
		return err
	}
	note := moduleNote{Release: r.Version.String()}
	if b.Prepare {
		done, err := pluginbuild.Prepare(ctx, b.Source, r, pluginbuild.PrepareOptions{Env: u.environ(),
			OnEvent: u.compiling})
		if err != nil {
			return err
		}
		note.Changed = done.Changed
	}
	findings, err := pluginbuild.CheckModule(os.DirFS(b.Source), r, pluginbuild.CheckOptions{})
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
			stop = append(stop, fmt.Errorf("%s; prepare: true in the file does this", text))
		case f.Blocks():
			stop = append(stop, errors.New(text))
		}
	}
	if err := rollout.Save(ctx, note); err != nil {
		return err
	}
	if len(stop) > 0 {
		return fmt.Errorf("the module in %s does not fit %s: %w", b.Source, r.Version,
			errors.Join(stop...))
	}
	return nil
}

// target returns the path of the build for the new version.
func (u *Upgrade) target(ctx context.Context, b Build) (string, error) {
	if b.So != "" {
		return b.So, nil
	}
	r, err := u.lookup(ctx)
	if err != nil {
		return "", err
	}
	return filepath.Join(u.buildDir(b), r.Output(b.name(), "linux", "amd64")), nil
}

// buildDir returns a directory separate from the bundles, because compilers before 4.1.0 name the
// new plugin like the present one. Each of several plugins has its own directory.
func (u *Upgrade) buildDir(b Build) string {
	dir := filepath.Join(u.Plugin.Bundle.Dir, "builds")
	if len(u.Bundles) > 0 {
		dir = filepath.Join(dir, filepath.Base(b.Source))
	}
	return dir
}

func (u *Upgrade) compile(ctx context.Context, b Build) (err error) {
	r, err := u.lookup(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(u.buildDir(b), 0o755); err != nil {
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
	source, err := u.fingerprint(b)
	if err != nil {
		return err
	}
	builder := compiler.New(docker, compiler.Options{
		Pull: compiler.PullPolicy(c.Pull), Env: env, Netrc: c.Netrc, Mounts: c.Mounts, Caches: c.Caches,
		Limits: compiler.Limits{Network: c.Network}, Progress: u.compiling,
	})
	a, err := builder.Build(ctx, compiler.Request{Release: r, Dir: b.Source, Name: b.name(),
		OutputDir: u.buildDir(b), Image: u.image()})
	if err != nil {
		return err
	}
	digest := a.ImageDigest
	if digest == "" {
		digest = a.ImageID
	}
	return rollout.Save(ctx, compileNote{File: a.Path, SHA256: a.SHA256, Image: a.Image + " " + digest,
		Go: a.GoVersion, Source: source})
}

// image returns the image that the file names, which has its own edition, or the release's.
func (u *Upgrade) image() pluginbuild.Image {
	c := u.Plugin.Compiler
	i := pluginbuild.Image{EL7: c.EL7, Ref: c.Image, Digest: c.Digest, Tar: c.Tar}
	if i.Ref == "" {
		i.Edition = u.edition()
	}
	return i
}

func (u *Upgrade) compiling(e pluginbuild.Event) {
	switch {
	case e.Kind == pluginbuild.Output:
		u.event(TargetPlugin, e.Line)
	case e.Kind == pluginbuild.Started:
		u.event(TargetPlugin, string(e.Stage))
	}
}

func (u *Upgrade) environ() []string {
	var env []string
	for _, name := range u.Plugin.Compiler.Env {
		env = append(env, name+"="+u.env(name))
	}
	return env
}

// fingerprint changes with all inputs of the build. An operator who fixes the module and resumes
// gets a new build.
func (u *Upgrade) fingerprint(b Build) (string, error) {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%s %+v\n", u.Versions, u.Plugin.Compiler)
	err := filepath.WalkDir(b.Source, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path != b.Source && strings.HasPrefix(d.Name(), "."):
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

// compiled trusts the build in the journal.
func (u *Upgrade) compiled(ctx context.Context, b Build) (bool, error) {
	var note compileNote
	if ok, err := rollout.Saved(ctx, &note); !ok || err != nil {
		return false, err
	}
	source, err := u.fingerprint(b)
	if err != nil || source != note.Source {
		return false, err
	}
	sum, err := digest(note.File)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return sum == note.SHA256, err
}

// given uses a build that was made elsewhere.
func (u *Upgrade) given(ctx context.Context, b Build) error {
	sum, err := digest(b.So)
	if err != nil {
		return fmt.Errorf("plugin.so, the plugin for the new version: %w", err)
	}
	return rollout.Save(ctx, compileNote{File: b.So, SHA256: sum})
}
