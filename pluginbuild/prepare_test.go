package pluginbuild_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
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

// gatewayAt is the stand-in for the module of a release.
func gatewayAt(r pluginbuild.Release) tykmod.Gateway {
	g := tykmod.Gateway{Version: r.PseudoVersion(), Commit: r.Commit, Go: r.Go}
	for _, p := range r.Replaces {
		g.Replaces = append(g.Replaces, p.String())
	}
	return g
}

// offline is an environment whose only source of modules is a proxy on disk
// with the stand-in at some releases.
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

// All three paths with the real go command, offline, and the result builds.
func TestPrepareAllPaths(t *testing.T) {
	t.Parallel()
	for _, v := range []string{"3.0.0", "4.0.3", "4.0.8", "4.0.16", "4.1.0", "4.3.8", "5.0.3", "5.1.0",
		"5.2.5", "5.7.1", "5.14.0"} {
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
	route := []string{"3.0.0", "4.0.3", "4.1.0", "5.0.3", "5.1.0", "5.2.5", "5.7.1", "5.12.1", "5.2.1",
		"4.0.8"}
	dir := newModule(t, "module example.org/plugin\n", nil)
	for _, v := range route {
		// The gateway's module at this commit alone: the last one is not asked for.
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

// Without go get the plugin builds in a workspace beside the gateway, as the
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

// A failure of any step, before or after the real command did its work, leaves
// the module as it was.
func TestPrepareFailsAtEveryStep(t *testing.T) {
	t.Parallel()
	env := offline(t, "4.0.3", "4.1.0")
	r := lookup(t, "4.1.0")
	dir := before(t, env)
	was := treeOf(t, dir)
	for _, step := range []string{"mod edit", "get github.com*", "mod tidy", "mod vendor"} {
		for _, late := range []bool{false, true} {
			do := "echo broken >&2; exit 42"
			if late {
				do = `go "$@"; rm -rf vendor/github.com; echo x >>go.mod; echo x >>go.sum; echo x >>go.work.sum; rm go.work; ` + do
			}
			script := fmt.Sprintf("case \"$*\" in %s*) %s;; esac", strings.ReplaceAll(step, " ", `\ `), do)
			_, err := pluginbuild.Prepare(t.Context(), dir, r, pluginbuild.PrepareOptions{Env: env,
				Go: wrapper(t, script)})
			var failed *pluginbuild.Error
			if !errors.As(err, &failed) {
				t.Fatalf("%s: error %v", step, err)
			}
			if !strings.HasPrefix(strings.Join(failed.Argv[1:], " "), strings.TrimSuffix(step, "*")) ||
				failed.ExitCode != 42 ||
				!strings.Contains(failed.Output, "broken") || !strings.HasPrefix(failed.Op,
				"go "+strings.Fields(step)[0]) {
				t.Errorf("%s: %+v", step, failed)
			}
			if !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "4.1.0") {
				t.Errorf("%s: error %q names neither what nor for what", step, err)
			}
			same(t, was, treeOf(t, dir))
		}
	}
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
	if err == nil || !strings.Contains(err.Error(), "the module is as it was") {
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

// Bad input is refused before anything changes, and leaves nothing behind.
func TestPrepareRefuses(t *testing.T) {
	t.Parallel()
	r := lookup(t, "4.0.3")
	good := "module example.org/plugin\n"
	ended, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("operator pressed stop")
	cancel(cause)
	for name, c := range map[string]struct {
		ctx   context.Context
		r     pluginbuild.Release
		o     pluginbuild.PrepareOptions
		setup func(dir string) error
		want  string
	}{
		"no go.mod": {setup: func(dir string) error { return os.Remove(dir + "/go.mod") },
			want: "go mod init"},
		"go.mod is a link": {setup: func(dir string) error {
			return errors.Join(os.Rename(dir+"/go.mod", dir+"/x"), os.Symlink("x", dir+"/go.mod"))
		}, want: "not a regular file"},
		"vendor is a link": {setup: func(dir string) error { return os.Symlink("/tmp", dir+"/vendor") },
			want: "not a directory"},
		"unreadable go.mod": {setup: func(dir string) error {
			return os.WriteFile(dir+"/go.mod",
				[]byte("module x\nnonsense y\n"), 0o600)
		}, want: "go.mod:2"},
		"huge go.mod": {setup: func(dir string) error {
			return os.WriteFile(dir+"/go.mod", []byte(strings.Repeat("//\n", 1<<20)), 0o600)
		}, want: "larger than"},
		"backup is a file": {setup: func(dir string) error {
			return os.WriteFile(dir+
				"/.tykupgrade-prepare", nil, 0o600)
		}, want: "in the way"},
		"bad release":   {r: pluginbuild.Release{Version: r.Version}, want: "commit"},
		"no version":    {r: pluginbuild.Release{Commit: "x"}, want: "no version"},
		"get is needed": {o: pluginbuild.PrepareOptions{NoGet: true}, want: "5.1.0"},
		"ended context": {ctx: ended, want: cause.Error()},
		"no go program": {o: pluginbuild.PrepareOptions{Go: "no-such-go"},
			want: "install the program"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := newModule(t, good, nil)
			if c.setup != nil {
				if err := c.setup(dir); err != nil {
					t.Fatal(err)
				}
			}
			was := treeOf(t, dir)
			release, ctx := r, t.Context()
			if c.r.Version != nil || c.r.Commit != "" {
				release = c.r
			}
			if c.ctx != nil {
				ctx = c.ctx
			}
			_, err := pluginbuild.Prepare(ctx, dir, release, c.o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q in it", err, c.want)
			}
			if c.ctx != nil && (!errors.Is(err, context.Canceled) || !errors.Is(err, cause)) {
				t.Errorf("error %v does not match the context's", err)
			}
			same(t, was, treeOf(t, dir))
		})
	}
}

// Cancelling while any step runs ends the command and puts everything back.
func TestPrepareCancelled(t *testing.T) {
	t.Parallel()
	env := offline(t, "4.0.3", "4.1.0")
	dir := before(t, env)
	was := treeOf(t, dir)
	for _, step := range []string{"go mod edit", "go get", "go mod tidy", "go mod vendor"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("operator pressed stop")
		wrap := wrapper(t, `go "$@"; echo here; exec sleep 600`)
		if step != "go mod edit" {
			match := strings.ReplaceAll(strings.TrimPrefix(step, "go "), " ", `\ `)
			wrap = wrapper(t, `case "$*" in `+match+`*) go "$@"; echo here; exec sleep 600;; esac`)
		}
		_, err := pluginbuild.Prepare(ctx, dir, lookup(t, "4.1.0"), pluginbuild.PrepareOptions{Env: env,
			Go: wrap, OnEvent: func(e pluginbuild.Event) {
				if e.Kind == pluginbuild.Output && e.Line == "here" {
					cancel(cause)
				}
			}})
		var failed *pluginbuild.Error
		if !errors.Is(err, context.Canceled) || !errors.Is(err, cause) || !errors.As(err, &failed) ||
			failed.Op != step || failed.Retryable() {
			t.Errorf("%s: error %v", step, err)
		}
		same(t, was, treeOf(t, dir))
	}
}

// Killed at any event, the next call finds the leftovers and the module is as
// it was; so is it when the recovery itself is killed.
func TestPrepareKilled(t *testing.T) {
	t.Parallel()
	env := offline(t, "4.0.3", "4.1.0")
	dir := before(t, env)
	was := treeOf(t, dir)
	killed := 0
	for event := 1; ; event++ {
		if !prepareInChild(t, dir, env, fmt.Sprint(event)) {
			break // there were fewer events
		}
		killed++
		found, err := pluginbuild.Recover(dir)
		if err != nil || !found.Found || (found.Aside == "") != (len(found.Moved) == 0) {
			t.Fatalf("recover after event %d: %+v, %v", event, found, err)
		}
		if found.Aside != "" {
			if err := os.RemoveAll(found.Aside); err != nil {
				t.Fatal(err)
			}
		}
		same(t, was, treeOf(t, dir))
	}
	if killed < 8 {
		t.Errorf("only %d kills, there are at least 8 events", killed)
	}
	// The last child finished; a killed one after it is undone by Prepare itself.
	was = treeOf(t, dir)
	if !prepareInChild(t, dir, env, "7") {
		t.Fatal("the child was not killed")
	}
	_, err := pluginbuild.Prepare(t.Context(), dir, lookup(t, "4.1.0"), pluginbuild.PrepareOptions{
		Env: env, Go: wrapper(t, "exit 3")})
	if err == nil {
		t.Error("no error")
	}
	same(t, was, treeOf(t, dir))
	if !prepareInChild(t, dir, env, "7") {
		t.Fatal("the child was not killed")
	}
	p, err := pluginbuild.Prepare(t.Context(), dir, lookup(t, "4.1.0"), pluginbuild.PrepareOptions{
		Env: env})
	if err != nil || !p.Recovered {
		t.Errorf("%+v, %v", p, err)
	}
	if found, err := pluginbuild.Recover(dir); found.Found || err != nil {
		t.Errorf("recover with nothing to do: %v, %v", found, err)
	}
}

const childEnv = "TYKUPGRADE_TEST_PREPARE"

// prepareInChild prepares dir for 4.1.0 in a process that kills itself with
// SIGKILL at the nth event. It says whether the process was killed.
func prepareInChild(t *testing.T, dir string, env []string, n string) bool {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPrepareChild$")
	cmd.Env = append(append(os.Environ(), env...), childEnv+"="+n+" "+dir)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	if cmd.ProcessState == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).
		Signal() != syscall.SIGKILL {
		t.Fatalf("child: %v\n%s", err, out)
	}
	return true
}

func TestPrepareChild(t *testing.T) {
	var n int
	var dir string
	if _, err := fmt.Sscan(os.Getenv(childEnv), &n, &dir); err != nil {
		t.Skip("only runs as a child of TestPrepareKilled")
	}
	_, err := pluginbuild.Prepare(t.Context(), dir, lookup(t, "4.1.0"), pluginbuild.PrepareOptions{
		OnEvent: func(e pluginbuild.Event) {
			if e.Kind == pluginbuild.Output {
				return // how many lines go writes is its own affair
			}
			if n--; n == 0 {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}})
	if err != nil {
		t.Fatal(err)
	}
}

// A go command that outlives a killed Prepare keeps the module locked, because
// it could still write.
func TestPrepareOrphan(t *testing.T) {
	t.Parallel()
	env := offline(t, "4.0.3", "4.1.0")
	dir := before(t, env)
	was := treeOf(t, dir)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	// The wrapper is reached through PATH, as the child uses the defaults.
	real, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	script := "#!/bin/sh\ncase \"$*\" in mod\\ tidy*) echo waiting >" + fifo + "; read x <" + fifo +
		";; esac\nexec " + real + " \"$@\"\n"
	if err := os.WriteFile(filepath.Join(bin, "go"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPrepareChild$")
	child.Env = append(append(os.Environ(), env...), childEnv+"=-1 "+dir, "PATH="+bin+":"+
		os.Getenv("PATH"))
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(fifo); err != nil { // the orphan-to-be is there
		t.Fatal(err)
	}
	_ = child.Process.Kill()
	_ = child.Wait()
	if _, err := pluginbuild.Recover(dir); !errors.Is(err, pluginbuild.ErrBusy) {
		t.Errorf("recover while the orphan runs: %v", err)
	}
	if _, err := pluginbuild.Prepare(t.Context(), dir, lookup(t, "4.1.0"), pluginbuild.PrepareOptions{
		Env: env}); !errors.Is(err, pluginbuild.ErrBusy) {
		t.Errorf("prepare while the orphan runs: %v", err)
	}
	if err := os.WriteFile(fifo, []byte("go on\n"), 0); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Open(filepath.Join(dir, ".tykupgrade-prepare", "lock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil { // waits for the orphan
		t.Fatal(err)
	}
	_ = lock.Close()
	if found, err := pluginbuild.Recover(dir); !found.Found || err != nil {
		t.Errorf("recover after the orphan: %v, %v", found, err)
	}
	same(t, was, treeOf(t, dir))
}

// Of two calls at a time one works and one says that it is busy.
func TestPrepareConcurrently(t *testing.T) {
	t.Parallel()
	env := offline(t, "5.2.5")
	dir := newModule(t, "module example.org/plugin\n\ngo 1.19\n", nil)
	r := lookup(t, "5.2.5")
	var once sync.Once
	var inner error
	_, err := pluginbuild.Prepare(t.Context(), dir, r, pluginbuild.PrepareOptions{Env: env,
		OnEvent: func(e pluginbuild.Event) {
			once.Do(func() {
				_, inner = pluginbuild.Prepare(t.Context(), dir, r, pluginbuild.PrepareOptions{
					Env: env})
			})
		}})
	if err != nil || !errors.Is(inner, pluginbuild.ErrBusy) {
		t.Errorf("outer %v, inner %v", err, inner)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	done, busy := 0, 0
	for range 8 {
		wg.Go(func() {
			_, err := pluginbuild.Prepare(t.Context(), dir, r, pluginbuild.PrepareOptions{Env: env})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				done++
			case errors.Is(err, pluginbuild.ErrBusy):
				busy++
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if done == 0 || done+busy != 8 {
		t.Errorf("%d done, %d busy", done, busy)
	}
	if _, err := os.Stat(filepath.Join(dir, ".tykupgrade-prepare")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the backup directory is still there: %v", err)
	}
}

// On a full disk the module stays, and comes back, as it was.
func TestPrepareFullDisk(t *testing.T) {
	lab.SmallDisk(t, 256<<10, func(disk string) {
		dir := filepath.Join(disk, "plugin")
		m := tykmod.Module{Files: map[string]string{"go.mod": "module example.org/plugin\n\ngo 1.26.0\n",
			"main.go": pluginSource, "vendor/modules.txt": "# x\n"}}
		if err := m.Extract(dir); err != nil {
			t.Fatal(err)
		}
		was := treeOf(t, dir)
		fill := "head -c 1000000 /dev/zero >" + filepath.Join(disk, "fill")
		r := lookup(t, "4.0.8")
		// Full while a command runs.
		_, err := pluginbuild.Prepare(t.Context(), dir, r, pluginbuild.PrepareOptions{Go: wrapper(t,
			"echo broken >go.mod; mkdir vendor; "+fill)})
		var failed *pluginbuild.Error
		if !errors.As(err, &failed) {
			t.Errorf("error %v", err)
		}
		same(t, was, treeOf(t, dir))
		// Full from the beginning.
		_ = os.WriteFile(filepath.Join(disk, "fill2"), make([]byte, 1<<20), 0o600)
		_, err = pluginbuild.Prepare(t.Context(), dir, r, pluginbuild.PrepareOptions{})
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("error %v", err)
		}
		same(t, was, treeOf(t, dir))
	})
}
