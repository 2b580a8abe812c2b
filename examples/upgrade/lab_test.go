package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/docker/docker/api/types/image"
	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/bundle/bundletest"
	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/canary"
	stub "example.com/tykupgrade/internal/lab/compiler"
	"example.com/tykupgrade/internal/lab/stage"
	"example.com/tykupgrade/internal/lab/tykmod"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

const old, newer = "4.0.8", "5.2.5"

// password is what must not be told.
const password = "c4n4ry-7e05"

const foobar = `package main

import (
	"net/http"

	"github.com/TykTechnologies/tyk/log"
)

func AddFooBarHeader(rw http.ResponseWriter, r *http.Request) {
	log.Get().Info("adding a header")
	r.Header.Add("Foo", "Bar")
}

func main() {}
`

// moduleFiles is the plugin's module.
var moduleFiles = map[string]string{"go.mod": "module example.com/plugins/foobar\n\ngo 1.15\n",
	"plugin.go": foobar}

// TestInstallation takes a whole installation there and back: a plugin that is compiled in a
// container, two real systemd hosts over SSH behind a real HAProxy under load, a real Redis. The
// other ways of a switch are tested in package installation, with hosts in memory.
func TestInstallation(t *testing.T) {
	if err := stage.Available(); err != nil {
		lab.Missing(t, err.Error())
	}
	dir, err := os.MkdirTemp("", "upgrade") // short: it holds Unix sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	publishOld(t, dir)
	// The hosts boot while the plugin is compiled.
	start := sync.OnceValues(func() (*stage.Stage, error) {
		return stage.New(t.Context(), stage.Options{Dir: dir, Old: old, New: newer,
			Bundle: "foobar.zip"})
	})
	go func() { _, _ = start() }()
	t.Cleanup(func() {
		if s, err := start(); err == nil {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	proxy := pluginModule(t, dir)
	ref := compilerImage(t)
	s, err := start()
	if err != nil {
		t.Fatal(err)
	}
	// No process is given the password of Redis, and no verb tells it.
	canary.Watch(t, func(p canary.Process) bool {
		return bytes.Contains(p.Args, []byte(password)) || bytes.Contains(p.Env, []byte(password))
	})
	store := redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + s.Redis.Port})
	t.Cleanup(func() { _ = store.Close() })
	if err := store.Set(t.Context(), "key", "before", 0).Err(); err != nil {
		t.Fatal(err)
	}

	if err := store.Do(t.Context(), "ACL", "SETUSER", "tyk", "on", ">"+password, "~*",
		"&*", "+@all").Err(); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"REDIS_URI": "redis://tyk:" + password + "@127.0.0.1:" + s.Redis.Port,
		"GOPROXY": proxy, "GOSUMDB": "off"}
	sections := fmt.Sprintf(`prober: {timeout: 30s}
gates: [{name: front, url: "http://%s/", status: 200, header: {Foo: Bar}}]
plugin:
  from: %s
  current: plugin.so
  source: foobar
  prepare: true
  symbol: AddFooBarHeader
  hook: post
  gateway: image:%s
  compiler: {image: "%[3]s", pull: never, env: [GOPROXY, GOSUMDB], caches: none, network: none}
  bundle: {dir: bundles, name: foobar.zip, serve: served, url: "%s"}
backup:
  dir: sets
  redis: {uri_env: REDIS_URI, proof: true}
  keep: 3
`, s.Front, old, ref, s.Bundles)
	file, err := s.Inventory(newer, sections)
	if err != nil {
		t.Fatal(err)
	}
	call := func(args ...string) (int, string) {
		var out bytes.Buffer
		if verb := args[len(args)-1]; verb != "plan" && verb != "status" {
			args = append([]string{"-yes"}, args...)
		}
		code := commandOf(&options{}).Run(t.Context(), append([]string{"-file", file}, args...),
			cli.Streams{Env: func(name string) string { return env[name] }, Out: &out, Err: &out})
		if strings.Contains(out.String(), password) {
			t.Errorf("upgrade %s tells the password:\n%s", strings.Join(args, " "), out.String())
		}
		return code, out.String()
	}
	succeed := func(args ...string) string {
		t.Helper()
		code, out := call(args...)
		if code != cli.Yes {
			t.Fatalf("upgrade %s: exit code %d\n%s", strings.Join(args, " "), code, out)
		}
		return out
	}
	versions := func(want string) {
		t.Helper()
		if v, err := s.Versions(t.Context()); err != nil || strings.Join(v, " ") != want {
			t.Fatalf("versions %v instead of %s: %v", v, want, err)
		}
	}
	t.Setenv("GOMODCACHE", filepath.Join(dir, "modcache"))

	plan := succeed("plan")
	for _, want := range []string{"4.0.8 loads plugin.so, 5.2.5 loads plugin_v5.2.5_linux_amd64.so",
		"config/h1, config/h2, redis into", "tyk-gateway 4.0.8 → 5.2.5"} {
		if !strings.Contains(plan, want) {
			t.Errorf("the plan lacks %q:\n%s", want, plan)
		}
	}
	l := stage.StartLoad(s.Front, 2, "Foo")
	t.Cleanup(l.Stop)
	succeed("apply", "-stop-after", "prepare")
	versions("4.0.8 4.0.8")
	if err := store.Set(t.Context(), "key", "after", 0).Err(); err != nil {
		t.Fatal(err)
	}
	report := succeed("resume")
	for _, want := range []string{"outcome   done", "the plugin loads in", "redis",
		"gates after gateway"} {
		if !strings.Contains(report, want) {
			t.Errorf("the report lacks %q:\n%s", want, report)
		}
	}
	versions("5.2.5 5.2.5")
	if text := succeed("status"); !strings.Contains(text, ": whole") || !strings.Contains(text,
		"pass") {
		t.Errorf("status:\n%s", text)
	}
	// The file comes back without a request lost, though it needs a restart.
	if _, err := s.Hosts[0].Exec(t.Context(), nil, "sh", "-ec",
		"echo >>/opt/tyk-gateway/tyk.conf"); err != nil {
		t.Fatal(err)
	}
	report = succeed("revert", "-restore", "config")
	versions("4.0.8 4.0.8")
	if !regexp.MustCompile(`config/h1 +verified +1\n`).MatchString(report) {
		t.Errorf("the file was not restored:\n%s", report)
	}
	l.Stop()
	if total, failed := l.Sent(); failed > 0 || total < 300 {
		t.Errorf("%d of %d requests failed: %s", failed, total, l.First())
	}
	// The hosts are reverted; the data can still follow.
	report = succeed("revert", "-restore", "redis")
	if v := store.Get(t.Context(), "key").Val(); v != "before" {
		t.Errorf("the key is %q\n%s", v, report)
	}
	// Nor is it in journals, locks, sets and reports. Redis keeps it in memory only.
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(password)) {
			t.Errorf("the password is in %s", path)
		}
		return err
	})
	if _, jerr := os.Stat(file + ".journal"); errors.Join(err, jerr) != nil {
		t.Error(err, jerr)
	}
}

// compilerImage loads a compiler image with a gateway in it. The plugin is
// compiled here, where Go has its caches, and the image's compiler copies it.
func compilerImage(t *testing.T) string {
	t.Helper()
	compiled, err := stub.LocalFiles(t.Context(), semver.MustParse(newer), moduleFiles)
	if err != nil {
		t.Fatal(err)
	}
	docker, err := compiler.Connect(compiler.ConnectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	img, err := stub.Image(stub.Config{Version: newer, Gateway: true, Script: []string{
		"copy /compiled.so"}, Files: map[string]string{"/compiled.so": string(compiled)}})
	if err != nil {
		t.Fatal(err)
	}
	ref := fmt.Sprintf("tykupgrade.upgrade/tyk-plugin-compiler:v%s-%d", newer, os.Getpid())
	if err := stub.Load(t.Context(), docker, ref, img); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, stop := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer stop()
		if _, err := docker.ImageRemove(ctx, ref, image.RemoveOptions{Force: true,
			PruneChildren: true}); err != nil {
			t.Error(err)
		}
		_ = docker.Close()
	})
	return ref
}

// pluginModule writes the plugin's module, its present build, and a proxy with
// the gateway's module, whose URL it returns.
func pluginModule(t *testing.T, dir string) string {
	t.Helper()
	m := tykmod.Module{Files: moduleFiles}
	if err := m.Extract(filepath.Join(dir, "foobar")); err != nil {
		t.Fatal(err)
	}
	v, err := pluginbuild.ParseVersion(newer)
	if err != nil {
		t.Fatal(err)
	}
	release, err := pluginbuild.Lookup(v)
	if err != nil {
		t.Fatal(err)
	}
	g := tykmod.Gateway{Version: release.PseudoVersion(), Commit: release.Commit, Go: release.Go}
	for _, x := range release.Replaces {
		g.Replaces = append(g.Replaces, x.String())
	}
	url, err := tykmod.Proxy(filepath.Join(dir, "proxy"), g.Modules()...)
	if err != nil {
		t.Fatal(err)
	}
	return url
}

// modulePath is the plugin path of every build.
const modulePath = "example.com/plugins/foobar"

// publishOld makes the present build and serves its bundle.
func publishOld(t *testing.T, dir string) {
	t.Helper()
	so := bundletest.Plugin{Path: modulePath, Gateway: old}
	zip, err := bundletest.Files{"plugin.so": so}.Zip("plugin.so", bundle.Options{})
	if err != nil {
		t.Fatal(err)
	}
	served := filepath.Join(dir, "served")
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "plugin.so"), so.Bytes(), 0o644),
		os.Mkdir(served, 0o755), os.WriteFile(filepath.Join(served, "foobar.zip"), zip,
			0o644)); err != nil {
		t.Fatal(err)
	}
}
