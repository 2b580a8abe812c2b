package main

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/internal/lab/compiler"
	"example.com/tykupgrade/internal/lab/tykmod"
	runner "example.com/tykupgrade/internal/run"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/preflight"
)

// pluginState is how far the plugin has come.
type pluginState struct {
	dir      string // its module
	builds   string // directory of the compiled files
	env      []string
	proxy    string
	old, new string          // compiled files; empty: not compiled
	loads    map[string]bool // by gateway version: a build of the bundle is for it
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
	oldFile    = "old/plugin.so" // below the directory of builds
	symbol     = "AddFooBarHeader"
	moduleNote = "a small module for Tyk's, served from disk"
)

// pluginToday makes what a team has before the upgrade: the plugin's module and
// the build that runs.
func (r *rehearsal) pluginToday(ctx context.Context, s *Step) error {
	p := &r.plugin
	p.dir, p.builds = filepath.Join(r.dir, "plugin"), filepath.Join(r.dir, "builds")
	// Two directories: below 4.1.0 both builds have the same name.
	for _, dir := range []string{"old", "new"} {
		if err := os.MkdirAll(filepath.Join(p.builds, dir), 0o755); err != nil {
			return err
		}
	}
	if err := (tykmod.Module{Files: source}).Extract(p.dir); err != nil {
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
	p.env = tykmod.Env(p.proxy, filepath.Join(r.dir, "modcache"))
	if _, err := r.prepare(ctx, old); err != nil {
		return err
	}
	s.StandsIn = moduleNote
	if r.parts.gcc != "" {
		s.say("the module of a plugin for %s; not compiled: %s", r.o.from, r.parts.gcc)
		return nil
	}
	// The target's way of building serves: another one would compile Go's
	// library once more, and nothing loads this file here.
	artifact, how, err := r.compile(ctx, target)
	if err != nil {
		return err
	}
	p.old = filepath.Join(p.builds, oldFile)
	if err := os.Rename(artifact, p.old); err != nil {
		return err
	}
	s.StandsIn += fmt.Sprintf("; %s; plugin.so is compiled in the way of %s, not of %s, as nothing loads it here", how, r.o.to, r.o.from)
	s.say("what a team has: the module prepared for %s, and plugin.so, %s", r.o.from, size(p.old))
	return nil
}

func (r *rehearsal) prepare(ctx context.Context, release pluginbuild.Release) (pluginbuild.Prepared, error) {
	return pluginbuild.Prepare(ctx, r.plugin.dir, release, pluginbuild.PrepareOptions{Env: r.plugin.env, OnEvent: func(e pluginbuild.Event) {
		switch e.Kind {
		case pluginbuild.Started:
			r.print.event("%s", e.Stage)
		case pluginbuild.Output:
			r.print.event("%s", e.Line)
		}
	}})
}

// pathAndPlan decides by the target alone, and says what the procedure's text
// makes of it.
func (r *rehearsal) pathAndPlan(_ context.Context, s *Step) error {
	release, err := pluginbuild.Lookup(r.o.to)
	if err != nil {
		return err
	}
	plan, err := pluginbuild.NewPlan(os.DirFS(r.plugin.dir), release, pluginbuild.PlanOptions{Current: r.o.from})
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

// verb is how many words name a go command: go get, go mod tidy.
func verb(argv []string) int {
	if len(argv) > 1 && argv[1] == "mod" {
		return 3
	}
	return 2
}

// prepareModule brings the module to the target's commit.
func (r *rehearsal) prepareModule(ctx context.Context, s *Step) error {
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
	s.StandsIn = moduleNote
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
	if r.parts.gcc != "" {
		s.skip(r.parts.gcc)
		return nil
	}
	release, err := pluginbuild.Lookup(r.o.to)
	if err != nil {
		return err
	}
	if r.plugin.new, s.StandsIn, err = r.compile(ctx, release); err != nil {
		return err
	}
	b, err := preflight.Inspect(r.plugin.new)
	if err != nil {
		return err
	}
	s.say("%s, %s, %s", filepath.Base(r.plugin.new), size(r.plugin.new), b.GoVersion)
	return nil
}

// compile compiles the module in its present state for a release, in the
// stand-in image where an engine is there, and says what stood in.
func (r *rehearsal) compile(ctx context.Context, release pluginbuild.Release) (file, standsIn string, err error) {
	if r.engine != nil {
		return r.engine.compile(ctx, r, release)
	}
	file = filepath.Join(r.plugin.builds, "new", release.Output("plugin.so", "linux", runtime.GOARCH))
	work, err := os.MkdirTemp(r.dir, "compile-")
	if err != nil {
		return "", "", err
	}
	err = compiler.Local(ctx, release.Version, r.plugin.dir, work, file, r.plugin.env)
	return file, "the Go of this machine, without a container, for Tyk's compiler image", err
}

// preflight reads the new build beside a gateway that links the same packages,
// and lets that gateway load it.
func (r *rehearsal) preflight(ctx context.Context, s *Step) error {
	if r.plugin.new == "" {
		s.skip("no plugin was compiled: " + r.parts.gcc)
		return nil
	}
	release, err := pluginbuild.Lookup(r.o.to)
	if err != nil {
		return err
	}
	if !release.Compiler.Trimpath {
		s.skip(fmt.Sprintf("the gateway that stands in is built as from 5.1.0 on, with -trimpath; plugins for %s are not, and it would not load them", r.o.to))
		return nil
	}
	s.StandsIn = "a gateway of this machine's Go that can do nothing but load plugins"
	r.print.event("build the gateway")
	data, err := compiler.Gateway()
	if err != nil {
		return err
	}
	path := filepath.Join(r.dir, "tyk")
	if err := os.WriteFile(path, data, 0o755); err != nil {
		return err
	}
	gateway, err := preflight.Inspect(path)
	if err != nil {
		return err
	}
	plugin, err := preflight.Inspect(r.plugin.new)
	if err != nil {
		return err
	}
	rep, err := preflight.CompareAll([]*preflight.Binary{plugin}, gateway, preflight.Target{Gateway: r.o.to,
		Symbols: []preflight.Symbol{{File: "plugin.so", Name: symbol, Hook: preflight.HookRequest}}})
	if err != nil {
		return err
	}
	for _, x := range append(rep.Findings, rep.Plugins[0].Findings...) {
		r.print.event("%s", x)
	}
	if rep.Verdict != preflight.Loads {
		return fmt.Errorf("the plugin %s: %v", rep.Verdict, append(rep.Findings, rep.Plugins[0].Findings...))
	}
	var out bytes.Buffer
	if err := runner.Local(runner.Options{})(ctx, []string{path, "plugin", "load", "-f", r.plugin.new, "-s", symbol}, nil, &out, nil); err != nil {
		return fmt.Errorf("the preflight says that the plugin loads, but: %w", err)
	}
	s.say("verdict: %s; %d packages of plugin and gateway are the same", rep.Verdict, rep.Plugins[0].Common)
	s.say("the gateway's own plugin.Open agrees, and finds %s", symbol)
	return nil
}

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

// bundle puts both builds into one bundle, and asks which gateway loads which.
func (r *rehearsal) bundle(ctx context.Context, s *Step) error {
	p := &r.plugin
	p.loads = map[string]bool{}
	release, err := pluginbuild.Lookup(r.o.to)
	if err != nil {
		return err
	}
	newFile := "new/" + release.Output("plugin.so", "linux", runtime.GOARCH)
	if p.new == "" {
		s.StandsIn = "empty shells for the two builds, as nothing was compiled"
		for _, name := range []string{oldFile, newFile} {
			if err := os.WriteFile(filepath.Join(p.builds, name), shell(name), 0o644); err != nil {
				return err
			}
		}
	}
	m, err := bundle.Parse([]byte(exampleManifest))
	if err != nil {
		return err
	}
	src := os.DirFS(p.builds)
	plan, err := bundle.ForUpgrade(bundle.Upgrade{
		From: r.o.from, To: r.o.to, GOARCH: runtime.GOARCH,
		Plugins: []bundle.Plugin{{Current: oldFile, Target: newFile}}})
	if errors.Is(err, bundle.ErrNoUpgrade) {
		return r.twoBundles(ctx, s, m, newFile, err)
	}
	if err != nil {
		return err
	}
	if m, err = plan.Manifest(m); err != nil {
		return err
	}
	res, err := r.writeBundle(ctx, plan.FS(src), m)
	if err != nil {
		return err
	}
	s.say("%s, %s: %s", res.Name("foobar"), cli.Bytes(res.Size), strings.Join(res.Manifest.FileList, ", "))
	for _, v := range []*semver.Version{r.o.from, r.o.to} {
		all, err := res.Manifest.Resolve(v, "linux", runtime.GOARCH)
		if err != nil {
			return err
		}
		s.say("gateway %s loads %s", v, all[0].File)
		p.loads[v.String()] = plan.Sources[all[0].File] == map[bool]string{true: oldFile, false: newFile}[v == r.o.from]
	}
	return nil
}

// shell begins as a shared object does, which is all that a bundle looks at.
func shell(name string) []byte {
	h := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64}
	if runtime.GOARCH == "arm64" {
		h.Machine = uint16(elf.EM_AARCH64)
	}
	copy(h.Ident[:], elf.ELFMAG+"\x02\x01\x01") // 64-bit, little-endian
	data, _ := binary.Append(nil, binary.LittleEndian, h)
	return append(data, name...)
}

// twoBundles is for releases that share no bundle, such as 4.0.8 and 4.0.16:
// each looks for plugin.so alone.
func (r *rehearsal) twoBundles(ctx context.Context, s *Step, m *bundle.Manifest, newFile string, why error) error {
	s.say("%v", why)
	for _, b := range []struct {
		gateway *semver.Version
		file    string
	}{{r.o.from, oldFile}, {r.o.to, newFile}} {
		data, err := os.ReadFile(filepath.Join(r.plugin.builds, b.file))
		if err != nil {
			return err
		}
		dir, err := os.MkdirTemp(r.dir, "bundle-")
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "plugin.so"), data, 0o644); err != nil {
			return err
		}
		res, err := r.writeBundle(ctx, os.DirFS(dir), m)
		if err != nil {
			return err
		}
		s.say("for %s: %s", b.gateway, res.Name("foobar"))
		r.plugin.loads[b.gateway.String()] = true
	}
	return nil
}

func (r *rehearsal) writeBundle(ctx context.Context, src fs.FS, m *bundle.Manifest) (bundle.Result, error) {
	path := filepath.Join(r.dir, "bundle.zip")
	res, err := bundle.WriteFile(ctx, path, src, m, bundle.Options{Progress: func(e bundle.Event) { r.print.progress(e.File, e.Done, e.Total) }})
	if err != nil {
		return res, err
	}
	f, err := os.Open(path)
	if err != nil {
		return res, err
	}
	defer func() { _ = f.Close() }()
	if _, err = bundle.Verify(f, res.Size, bundle.VerifyOptions{}); err != nil {
		return res, err
	}
	return res, os.Rename(path, filepath.Join(r.dir, res.Name("foobar")))
}

func size(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return err.Error()
	}
	return cli.Bytes(info.Size())
}
