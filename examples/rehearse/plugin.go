package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/internal/lab/compiler"
	"example.com/tykupgrade/internal/lab/tykmod"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/preflight"
)

// pluginState is the state of the plugin.
type pluginState struct {
	dir      string // its module
	builds   string // directory of the compiled files
	env      []string
	proxy    string
	old, new string   // compiled files of the example or of the user's module; empty: not compiled
	pairs    []builds // the builds of every plugin
	mine     bool     // pairs are the user's compiled files
	manifest *bundle.Manifest
	loads    map[string]bool // by gateway version: a build of the bundle is for it
	zip      zips
}

// source is the plugin of Tyk's documentation, as the procedure names it.
var source = map[string]string{
	"go.mod": "module example.com/plugins/foobar\n\ngo 1.15\n",
	"plugin.go": `package main

import (
	"net/http"

	"github.com/TykTechnologies/tyk/log"
)

// AddFooBarHeader adds a header to the request.
func AddFooBarHeader(rw http.ResponseWriter, r *http.Request) {
	log.Get().Info("adding a header")
	r.Header.Add("Foo", "Bar")
}

func main() {}
`,
}

const (
	symbol     = "AddFooBarHeader"
	moduleNote = "a small module for Tyk's, served from disk"
)

// pluginToday makes what a team has before the upgrade: the plugin's module and the build that
// runs.
func (r *rehearsal) pluginToday(ctx context.Context, s *Step) error {
	p := &r.plugin
	p.dir, p.builds = filepath.Join(r.dir, "plugin"), filepath.Join(r.dir, "builds")
	// Two directories: below 4.1.0 both builds have the same name.
	if err := os.MkdirAll(filepath.Join(p.builds, "new"), 0o755); err != nil {
		return err
	}
	if given := r.o.given; given.target != "" || given.plugin != "" && !isModule(given.plugin) {
		return r.pluginGiven(s)
	}
	s.Stub = moduleNote
	if given := r.o.given.plugin; given != "" {
		if err := os.CopyFS(p.dir, os.DirFS(given)); err != nil {
			return err
		}
		s.say("a copy of your module %s", given)
	} else if err := (tykmod.Module{Files: source}).Extract(p.dir); err != nil {
		return err
	}
	old, err := pluginbuild.Lookup(r.o.from)
	if err != nil {
		return err
	}
	target, err := pluginbuild.Lookup(r.o.to)
	if err != nil {
		return err
	}
	proxy := filepath.Join(r.dir, "proxy")
	for _, release := range []pluginbuild.Release{old, target} {
		g := tykmod.Gateway{Version: release.PseudoVersion(), Commit: release.Commit, Go: release.Go}
		for _, x := range release.Replaces {
			g.Replaces = append(g.Replaces, x.String())
		}
		if p.proxy, err = tykmod.Proxy(proxy, g.Modules()...); err != nil {
			return err
		}
	}
	if p.env, err = r.goEnv(ctx); err != nil {
		return err
	}
	if _, err := r.prepare(ctx, old); err != nil {
		return err
	}
	if r.parts.gcc != "" {
		s.say("the module of a plugin for %s; not compiled: %s", r.o.from, r.parts.gcc)
		return nil
	}
	// The target's build method is enough. Another one would compile Go's library again, and
	// nothing loads this file here.
	artifact, how, err := r.compile(ctx, target)
	if err != nil {
		return err
	}
	p.old = filepath.Join(p.builds, "plugin.so")
	if err := os.Rename(artifact, p.old); err != nil {
		return err
	}
	s.Stub += fmt.Sprintf("; %s; plugin.so is compiled in the way of %s, not of %s, because "+
		"only stubs load it", how, r.o.to, r.o.from)
	s.say("the module prepared for %s, and plugin.so, %s", r.o.from, size(p.old))
	return nil
}

// goEnv is Go's environment. The example's module needs only the modules that are served from disk;
// the user's module has its own dependencies.
func (r *rehearsal) goEnv(ctx context.Context) ([]string, error) {
	env := tykmod.Env(r.plugin.proxy, filepath.Join(r.dir, "modcache"))
	if r.o.given.plugin == "" {
		return env, nil
	}
	out, err := r.output(ctx, "go", "env", "GOPROXY", "GOPRIVATE")
	lines := strings.Split(out+"\n\n", "\n")
	return append(env, "GOPROXY="+r.plugin.proxy+","+lines[0], "GONOPROXY="+lines[1]), err
}

// pluginGiven takes the user's compiled builds.
func (r *rehearsal) pluginGiven(s *Step) error {
	p, given := &r.plugin, &r.o.given
	all := []builds{{given.current, given.target}}
	if given.target == "" {
		var err error
		if all, err = findBuilds(given.plugin, r.o.from, r.o.to); err != nil {
			return err
		}
	}
	for i, b := range all {
		for _, x := range []struct {
			from *string
			dir  string
		}{{&all[i].current, p.builds}, {&all[i].target, filepath.Join(p.builds, "new")}} {
			to := filepath.Join(x.dir, filepath.Base(*x.from))
			if err := copyFile(*x.from, to); err != nil {
				return err
			}
			*x.from = to
		}
		for _, file := range []string{b.current, b.target} {
			in, err := preflight.Inspect(file)
			if err != nil {
				return err
			}
			s.say("%s, %s, plugin path %s, %s", filepath.Base(file), size(file), in.PluginPath, in.GoVersion)
		}
	}
	p.pairs, p.mine = all, true
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func (r *rehearsal) prepare(ctx context.Context,
	release pluginbuild.Release) (pluginbuild.Prepared, error) {
	return pluginbuild.Prepare(ctx, r.plugin.dir, release, pluginbuild.PrepareOptions{
		Env: r.plugin.env, OnEvent: func(e pluginbuild.Event) {
			switch e.Kind {
			case pluginbuild.Started:
				r.print.event("%s", e.Stage)
			case pluginbuild.Output:
				r.print.event("%s", e.Line)
			}
		}})
}

// pathAndPlan chooses the path by the target release only, and reports which path the procedure's
// text gives.
func (r *rehearsal) pathAndPlan(_ context.Context, s *Step) error {
	if r.plugin.mine {
		s.skip("your compiled builds are used")
		return nil
	}
	release, err := pluginbuild.Lookup(r.o.to)
	if err != nil {
		return err
	}
	plan, err := pluginbuild.NewPlan(os.DirFS(r.plugin.dir), release, pluginbuild.PlanOptions{
		Current: r.o.from})
	if err != nil {
		return err
	}
	r.print.event("%s", plan.Shell())
	var names []string
	for _, c := range plan.Commands {
		names = append(names, strings.Join(c.Argv[:min(verb(c.Argv), len(c.Argv))], " "))
	}
	s.say("%s", plan.Why)
	s.say("%s: %s, at commit %s", plan.Path, strings.Join(names, ", "), plan.Commit[:12])
	s.say("compiler %s with Go %s, writes %s", plan.Image, plan.CompilerGo, plan.Output)
	return nil
}

// verb is the number of words that name a go command, as in go get or go mod tidy.
func verb(argv []string) int {
	if len(argv) > 1 && argv[1] == "mod" {
		return 3
	}
	return 2
}

// prepareModule brings the module to the target's commit.
func (r *rehearsal) prepareModule(ctx context.Context, s *Step) error {
	if r.plugin.mine {
		s.skip("your compiled builds are used")
		return nil
	}
	release, err := pluginbuild.Lookup(r.o.to)
	if err != nil {
		return err
	}
	before, err := pluginbuild.CheckModule(os.DirFS(r.plugin.dir), release, pluginbuild.CheckOptions{})
	if err != nil {
		return err
	}
	prepared, err := r.prepare(ctx, release)
	if err != nil {
		return err
	}
	after, err := pluginbuild.CheckModule(os.DirFS(r.plugin.dir), release, pluginbuild.CheckOptions{})
	if err != nil {
		return err
	}
	for _, f := range after {
		if f.Blocks() {
			return fmt.Errorf("the prepared module does not fit: %s: %s", f.Where, f.Message)
		}
		r.print.event("%s %s: %s", f.Severity, f.Where, f.Message)
	}
	s.Stub = moduleNote
	s.say("go.mod requires %s", release.PseudoVersion())
	s.say("changed: %s", strings.Join(prepared.Changed, ", "))
	for _, f := range before {
		if f.Prepare {
			s.say("put right: %s", f.Message)
		}
	}
	return nil
}

// compilePlugin compiles for the target.
func (r *rehearsal) compilePlugin(ctx context.Context, s *Step) error {
	if r.plugin.mine {
		s.skip("your compiled builds are used")
		return nil
	}
	if r.parts.gcc != "" {
		s.skip(r.parts.gcc)
		return nil
	}
	release, err := pluginbuild.Lookup(r.o.to)
	if err != nil {
		return err
	}
	if r.plugin.new, s.Stub, err = r.compile(ctx, release); err != nil {
		return err
	}
	r.plugin.pairs = []builds{{r.plugin.old, r.plugin.new}}
	b, err := preflight.Inspect(r.plugin.new)
	if err != nil {
		return err
	}
	s.say("%s, %s, %s", filepath.Base(r.plugin.new), size(r.plugin.new), b.GoVersion)
	return nil
}

// quick makes the go command compile its library without optimization. That takes a fifth less of
// the time that most of a first rehearsal is.
var quick = " '-gcflags=std=-N -l'"

// goFlags are for the go command that compiles a plugin and the stub that loads it. A gateway of the
// user would refuse a plugin with another library than its own.
func (r *rehearsal) goFlags() string {
	const usual = "-buildvcs=false"
	if r.o.given.gatewayFrom != "" || r.o.given.gateway != "" {
		return usual
	}
	return usual + quick
}

// compile compiles the module for a release, in the stub image if there is an engine. It reports
// which stub was used.
func (r *rehearsal) compile(ctx context.Context,
	release pluginbuild.Release) (file, fake string, err error) {
	if r.o.given.plugin != "" {
		defer func() {
			err = cli.Advice(err, "the stub of Tyk's module has only the names that plugins use most; if "+
				"yours uses more, compile it with buildplugin for both releases, and name the directory "+
				"of the .so files with -plugin")
		}()
	}
	if r.engine != nil {
		return r.engine.compile(ctx, r, release)
	}
	r.awaitLibrary()
	file = filepath.Join(r.plugin.builds, "new", release.Output("plugin.so", "linux", runtime.GOARCH))
	work, err := os.MkdirTemp(r.dir, "compile-")
	if err != nil {
		return "", "", err
	}
	err = compiler.Local(ctx, release.Version, r.plugin.dir, work, file, append(slices.Clone(
		r.plugin.env), "GOFLAGS="+r.goFlags()))
	return file, "the Go of this machine, without a container, for Tyk's compiler image", err
}
