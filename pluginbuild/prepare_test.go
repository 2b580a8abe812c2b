package pluginbuild_test

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/tykmod"
	"example.com/tykupgrade/pluginbuild"
)

const pluginSource = `package main

import (
	"net/http"

	"github.com/TykTechnologies/tyk/ctx"
	"github.com/TykTechnologies/tyk/log"
)

var logger = log.Get()

// AddFooBarHeader is the plugin of the upgrade procedure.
func AddFooBarHeader(rw http.ResponseWriter, r *http.Request) {
	if ctx.GetSession(r) != nil {
		logger.Info("session")
	}
	r.Header.Add("Foo", "Bar")
}

func main() {}
`

// gatewayAt is the stub of the module of a release.
func gatewayAt(r pluginbuild.Release) tykmod.Gateway {
	g := tykmod.Gateway{Version: r.PseudoVersion(), Commit: r.Commit, Go: r.Go}
	for _, p := range r.Replaces {
		g.Replaces = append(g.Replaces, p.String())
	}
	return g
}

// offline is an environment whose only source of modules is a proxy on disk
// with the stub at some releases.
func offline(t testing.TB, versions ...string) []string {
	t.Helper()
	lab.Program(t, "go", "golang-go")
	dir := t.TempDir()
	proxy := filepath.Join(dir, "proxy")
	url := "file://" + proxy
	for _, v := range versions {
		if _, err := tykmod.Proxy(proxy, gatewayAt(lookup(t, v)).Modules()...); err != nil {
			t.Fatal(err)
		}
	}
	return tykmod.Env(url, filepath.Join(dir, "modcache"))
}

// newModule writes a plugin module and returns its directory.
func newModule(t testing.TB, gomod string, more map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	files := map[string]string{"go.mod": gomod, "main.go": pluginSource}
	for name, content := range more {
		files[name] = content
	}
	if err := (tykmod.Module{Files: files}).Extract(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// treeOf is every file below dir with mode and content.
func treeOf(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".tykupgrade-aside-") {
			return fs.SkipDir
		}
		rel, _ := filepath.Rel(dir, path)
		info, err := d.Info()
		if err != nil {
			return err
		}
		all[rel] = info.Mode().String()
		if d.Type().IsRegular() {
			data, err := os.ReadFile(path)
			all[rel] += " " + string(data)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func same(t *testing.T, before, after map[string]string) {
	t.Helper()
	for name, was := range before {
		if now, ok := after[name]; !ok {
			t.Errorf("%s is gone", name)
		} else if now != was {
			t.Errorf("%s is now\n%s\ninstead of\n%s", name, now, was)
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			t.Errorf("%s is left behind", name)
		}
	}
}

func goRun(t *testing.T, dir string, env []string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// short is a list of releases, with more of them in a long run.
func short(list []string, more ...string) []string {
	if os.Getenv(lab.LongEnv) == "" {
		return list
	}
	return append(list, more...)
}

// All three paths with the real go command, offline, and the result builds.
func TestPrepareAllPaths(t *testing.T) {
	t.Parallel()
	for _, v := range short([]string{"3.0.0", "4.0.8", "4.1.0", "5.0.3", "5.2.5", "5.14.0"},
		"4.0.3", "4.0.16", "4.3.8", "5.1.0", "5.7.1") {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			r := lookup(t, v)
			env := offline(t, v)
			dir := newModule(t, "module example.org/plugin\n\ngo 1.26.0\n\ntoolchain go1.26.8\n", nil)
			var events []string
			p, err := pluginbuild.Prepare(t.Context(), dir, r, pluginbuild.PrepareOptions{Env: env,
				OnEvent: func(e pluginbuild.Event) {
					if e.Kind == pluginbuild.Started || e.Kind == pluginbuild.Done {
						events = append(events, e.Stage+" "+string(e.Kind))
					}
					if e.Kind == pluginbuild.Done && (e.Elapsed <= 0 || e.Err != nil) {
						t.Errorf("event %+v", e)
					}
				}})
			if err != nil {
				t.Fatal(err)
			}
			mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"\ngo " + r.Go + "\n", pluginbuild.Module + " " +
				r.PseudoVersion()} {
				if !strings.Contains(string(mod), want) {
					t.Errorf("no %q in\n%s", want, mod)
				}
			}
			if strings.Contains(string(mod), "toolchain") || strings.Count(string(mod),
				"=>") != len(r.Replaces) {
				t.Errorf("go.mod:\n%s", mod)
			}
			wantEvents := "go mod edit started,go mod edit done,go get started,go get done,go mod tidy " +
				"started,go mod tidy done"
			changed, flag := "go.mod,go.sum", "-mod=readonly"
			if r.Path() != pluginbuild.Path3 {
				wantEvents += ",go mod vendor started,go mod vendor done"
				changed, flag = changed+",vendor", "-mod=vendor"
			}
			if got := strings.Join(events, ","); got != wantEvents {
				t.Errorf("events %s", got)
			}
			if got := strings.Join(p.Changed, ","); got != changed || p.Recovered {
				t.Errorf("result %+v", p)
			}
			goRun(t, dir, env, "vet", flag, ".")
			if _, err := os.Stat(filepath.Join(dir, ".tykupgrade-prepare")); !errors.Is(err,
				fs.ErrNotExist) {
				t.Errorf("the backup directory is still there: %v", err)
			}
			if v != "4.0.8" && v != "5.2.5" {
				return
			}
			// Once more changes nothing.
			before := treeOf(t, dir)
			if _, err := pluginbuild.Prepare(t.Context(), dir, r, pluginbuild.PrepareOptions{
				Env: env}); err != nil {
				t.Fatal(err)
			}
			same(t, before, treeOf(t, dir))
		})
	}
}

// A module goes from release to release, up and down, and each time fits.
func TestPrepareMovesBetweenReleases(t *testing.T) {
	t.Parallel()
	route := short([]string{"3.0.0", "4.1.0", "5.2.5", "5.12.1", "4.0.8"}, "4.0.3", "5.0.3", "5.1.0",
		"5.7.1", "5.2.1")
	dir := newModule(t, "module example.org/plugin\n", nil)
	for _, v := range route {
		// The gateway's module at this commit alone: the last one is not requested.
		env, r := offline(t, v), lookup(t, v)
		for _, other := range route {
			proxy := strings.TrimPrefix(env[0], "GOPROXY=file://")
			if _, err := tykmod.Proxy(proxy, gatewayAt(lookup(t, other)).Modules()[1:]...); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := pluginbuild.Prepare(t.Context(), dir, r, pluginbuild.PrepareOptions{
			Env: env}); err != nil {
			t.Fatal(err)
		}
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err != nil || !strings.Contains(string(mod), r.PseudoVersion()) || strings.Count(string(mod),
			"=>") != len(r.Replaces) {
			t.Errorf("%s: %v\n%s", v, err, mod)
		}
	}
}

// Without go get the plugin builds in a workspace next to the gateway, as the
// compiler does it, with no proxy at all.
func TestPrepareWithoutGet(t *testing.T) {
	t.Parallel()
	r := lookup(t, "5.2.5")
	env := offline(t, "5.2.5")
	root := t.TempDir()
	for _, m := range gatewayAt(r).Modules()[:1] {
		if err := m.Extract(filepath.Join(root, "tyk")); err != nil {
			t.Fatal(err)
		}
	}
	goRun(t, filepath.Join(root, "tyk"), env, "mod", "tidy") // the release has a go.sum
	dir := newModule(t, "module example.org/plugin\n\ngo 1.19\n\nrequire "+
		"github.com/TykTechnologies/tyk v1.9.2-0.20200709165943-1c32b18575e4\n", nil)
	none := append(slices.Clone(env), "GOPROXY=off")
	p, err := pluginbuild.Prepare(t.Context(), dir, r, pluginbuild.PrepareOptions{NoGet: true,
		Env: none})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Commands) != 1 || strings.Join(p.Changed, ",") != "go.mod" {
		t.Errorf("result %+v", p)
	}
	if err := os.Rename(dir, filepath.Join(root, "plugin")); err != nil {
		t.Fatal(err)
	}
	none = slices.DeleteFunc(none, func(s string) bool { return s == "GOWORK=off" })
	goRun(t, root, none, "work", "init", "./tyk", "./plugin")
	goRun(t, filepath.Join(root, "plugin"), none, "vet", ".")
}

// before is a module as an earlier release's Prepare left it, with everything
// that Prepare guards.
func before(t *testing.T, env []string) string {
	t.Helper()
	dir := newModule(t, "module example.org/plugin // mine\n\ngo 1.15\n", map[string]string{
		"go.work": "go 1.26.0\n\nuse .\n", "go.work.sum": "example.org/x v1.0.0 h1:AAAA\n",
	})
	if _, err := pluginbuild.Prepare(t.Context(), dir, lookup(t, "4.0.3"), pluginbuild.PrepareOptions{
		Env: env}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "vendor", "mine.txt"), []byte("by hand"),
		0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// wrapper is a go program that runs a script before the real go command; the
// script sees the arguments.
func wrapper(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "go")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\nexec go \"$@\"\n"),
		0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// The commands succeed, and the result still does not fit the release.
func TestPrepareRefusesAResultThatDoesNotFit(t *testing.T) {
	t.Parallel()
	env := offline(t, "5.2.1", "5.2.5")
	proxy := strings.TrimPrefix(env[0], "GOPROXY=file://")
	newer := lookup(t, "5.2.5")
	for name, c := range map[string]struct{ mod, want string }{
		"go": {"module example.org/dep\n\ngo 1.22\n", "go directive to 1.22"},
		"gateway": {"module example.org/dep\n\ngo 1.16\n\nrequire " + pluginbuild.Module + " " +
			newer.PseudoVersion() + "\n", "gateway's module to " + newer.PseudoVersion()},
	} {
		path := "example.org/dep" + name
		mod := strings.Replace(c.mod, "example.org/dep", path, 1)
		if _, err := tykmod.Proxy(proxy, tykmod.Module{Path: path, Version: "v1.0.0",
			Files: map[string]string{
				"go.mod": mod, "dep.go": "package dep\n\nimport _ \"" + pluginbuild.Module +
					"/ctx\"\n"}}); err != nil {
			t.Fatal(err)
		}
		dir := newModule(t, "module example.org/plugin\n\ngo 1.19\n\nrequire "+path+" v1.0.0\n",
			map[string]string{
				"dep.go": "package main\n\nimport _ \"" + path + "\"\n"})
		was := treeOf(t, dir)
		_, err := pluginbuild.Prepare(t.Context(), dir, lookup(t, "5.2.1"), pluginbuild.PrepareOptions{
			Env: env})
		var failed *pluginbuild.Error
		if !errors.As(err, &failed) || failed.Op != "check go.mod" || !strings.Contains(err.Error(),
			c.want) || failed.Hint() == "" {
			t.Errorf("%s: error %v, want %q in it", name, err, c.want)
		}
		same(t, was, treeOf(t, dir))
	}
}

// What the commands say arrives line by line, whatever the lines are like, and
// what is odd about a release is logged.
func TestPrepareReports(t *testing.T) {
	t.Parallel()
	dir := newModule(t, "module example.org/plugin\n\ngo 1.16\n", nil)
	script := "echo workspace $GOWORK; printf 'dos\\r\\n' >&2; head -c 100000 /dev/zero | tr '\\0' " +
		"x; printf unfinished; exit 1"
	var lines []string
	var logged strings.Builder
	_, err := pluginbuild.Prepare(t.Context(), dir, lookup(t, "5.0.2"), pluginbuild.PrepareOptions{
		Go: wrapper(t, script), Env: []string{"GOWORK=/elsewhere/go.work"},
		Log: slog.New(slog.NewTextHandler(&logged, nil)),
		OnEvent: func(e pluginbuild.Event) {
			if e.Kind == pluginbuild.Output {
				lines = append(lines, fmt.Sprintf("%v %s", e.Stderr, strings.TrimLeft(e.Line, "x")))
			}
		},
	})
	if err == nil || !strings.Contains(err.Error(), "the module is restored") {
		t.Errorf("error %v", err)
	}
	if !slices.Contains(lines, "false workspace off") || !slices.Contains(lines, "true dos") ||
		!slices.Contains(lines, "false unfinished") || len(lines) < 4 {
		t.Errorf("lines %q", lines)
	}
	if !strings.Contains(logged.String(), "misspelt") {
		t.Errorf("logged %s", logged.String())
	}
}
