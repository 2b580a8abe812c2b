package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"

	"example.com/tykupgrade/internal/lab"
	stub "example.com/tykupgrade/internal/lab/compiler"
	"example.com/tykupgrade/pluginbuild/compiler"
)

const release = "5.2.5"

const engineLabel = "com.example.tykupgrade.test"

// engine is the real one with a stub compiler. Its flags make a call use
// that and leave nothing behind.
type engine struct {
	docker *client.Client
	id     string
	flags  []string // of compile
	shared []string // of every verb about the engine
}

func newEngine(t *testing.T) *engine {
	t.Helper()
	docker, err := compiler.Connect(compiler.ConnectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = docker.Close() })
	if _, err := docker.Ping(t.Context()); err != nil {
		lab.Missing(t, "a Docker engine (Debian package docker.io, and start dockerd): "+err.Error())
	}
	lab.Program(t, "gcc", "gcc")
	e := &engine{docker: docker, id: strings.ToLower(rand.Text()[:10])}
	e.shared = []string{"-caches", "tykupgrade-test-" + e.id, "-label", engineLabel + "=" + e.id}
	e.flags = append([]string{"compile", "-release", release, "-pull", "never", "-network", "none",
		"-env", "GOPROXY=off"}, e.shared...)
	for _, m := range stub.Mounts() {
		e.flags = append(e.flags, "-mount", m)
	}
	t.Cleanup(func() {
		list, err := docker.ContainerList(context.Background(), container.ListOptions{All: true,
			Filters: filters.NewArgs(filters.Arg("label", engineLabel+"="+e.id))})
		if err != nil || len(list) != 0 {
			t.Errorf("left containers %v, %v", list, err)
		}
		// The test's own context has ended.
		var out bytes.Buffer
		if code := run(context.Background(), append([]string{"caches", "-remove"}, e.shared...), &out,
			&out); code != 0 {
			t.Errorf("%d %s", code, &out)
		}
	})
	return e
}

func (e *engine) image(t *testing.T, c stub.Config) string {
	t.Helper()
	c.Version = release
	img, err := stub.Image(c)
	if err != nil {
		t.Fatal(err)
	}
	ref := "tykupgrade.test/" + e.id + "/compiler:" + strings.ToLower(rand.Text()[:8])
	if err := stub.Load(t.Context(), e.docker, ref, img); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := e.docker.ImageRemove(context.Background(), ref, image.RemoveOptions{
			Force: true}); err != nil {
			t.Error(err)
		}
	})
	return ref
}

const pluginSource = `package main

func Hook(a int) int { return a }

func main() {}
`

const tinyMod = "module example.org/tiny\n\ngo 1.19\n"

var tiny = map[string]string{"go.mod": tinyMod, "plugin.go": pluginSource}

func module(t *testing.T, source string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": tinyMod, "plugin.go": source} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestCompile(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	_, err := stub.LocalFiles(t.Context(), semver.MustParse(release), tiny)
	cache, err2 := stub.GoCacheMount()
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	e.flags = append(e.flags, "-mount", cache, "-caches", "none")
	ref := e.image(t, stub.Config{Gateway: true, GoCache: true})
	dir := module(t, pluginSource)

	// For machines, with a load test that fails: Hook is not a request hook.
	code, stdout, stderr := e.call(t, "-image", ref, "-dir", dir, "-json", "-load-test", "Hook",
		"-memory", "2g", "-cpus", "2", "-pids", "1000")
	var result struct {
		Compile struct {
			compiler.Artifact
			LoadTest compiler.Verdict `json:"load_test"`
		}
	}
	if err := json.Unmarshal([]byte(stdout), &result); err != nil {
		t.Fatalf("%v: %d\n%s\n%s", err, code, stdout, stderr)
	}
	path := filepath.Join(dir, "plugin_v5.2.5_linux_amd64.so")
	info, err := buildinfo.ReadFile(path)
	if err != nil || info.Main.Path != "example.org/tiny" {
		t.Errorf("%v, %v", info, err)
	}
	if code != 1 || result.Compile.Path != path || len(result.Compile.SHA256) != 64 ||
		result.Compile.LoadTest.Loads || !strings.Contains(result.Compile.LoadTest.Reason,
		"could not cast") {
		t.Errorf("%d %+v", code, result)
	}
	for _, want := range []string{"connect ", "upload ", "compile ", "collect ",
		"PLUGIN_BUILD_PATH: "} {
		if !strings.Contains(stderr, want) {
			t.Errorf("no %q in %s", want, stderr)
		}
	}

	// For people, into another directory. It keeps Go's caches: the volumes are listed, and
	// removed in the end.
	so, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	kept := e.image(t, stub.Config{Script: []string{"copy /so", "exit 0"},
		Files: map[string]string{"/so": string(so)}})
	code, stdout, stderr = e.call(t, append([]string{"-image", kept, "-dir", dir, "-o", out,
		"-exclude", "*.md"}, e.shared...)...)
	if code != 0 || !strings.Contains(stdout, "compiled  "+filepath.Join(out,
		"plugin_v5.2.5_linux_amd64.so")) {
		t.Errorf("%d\n%s\n%s", code, stdout, stderr)
	}
	if code, stdout, stderr = call(t, append([]string{"caches"}, e.shared...)...); code != 0 ||
		strings.Count(stdout, "tykupgrade-test-"+e.id) != 2 {
		t.Errorf("%d %s %s", code, stdout, stderr)
	}

	// The compiler's words reach the user, and the exit code.
	code, _, stderr = e.call(t, "-image", ref, "-dir", module(t, "package main\n\nvar x = y\n"))
	if code != 1 || !strings.Contains(stderr, "exit code 1: ./plugin.go:3:9: undefined: y") {
		t.Errorf("%d %s", code, stderr)
	}
}

// call runs the command with the engine's flags and the given ones.
func (e *engine) call(t *testing.T, args ...string) (int, string, string) {
	t.Helper()
	return call(t, append(append([]string{}, e.flags...), args...)...)
}

// Ctrl-C while the compiler runs: an error that says so, and no container.
func TestCompileInterrupted(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	ref := e.image(t, stub.Config{Script: []string{"deaf", "out 1 running", "sleep"}})
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var stdout bytes.Buffer
	stderr := &trigger{word: "running 0",
		pull: func() { cancel(errors.New("interrupt signal received")) }}
	start := time.Now()
	code := run(ctx, append(append([]string{}, e.flags...), "-image", ref, "-dir",
		module(t, pluginSource)), &stdout, stderr)
	if code != 130 || !strings.Contains(stderr.all.String(), "interrupt signal received") {
		t.Errorf("%d after %v: %s", code, time.Since(start), stderr.all.String())
	}
}

// The signals of Ctrl-C, of kill and of a terminal that closes: each ends the
// process only once its container is gone, which newEngine checks.
func TestSignals(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	ref, dir := e.image(t, stub.Config{Script: []string{"deaf", "out 1 running", "sleep"}}),
		module(t, pluginSource)
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], append(append([]string{}, e.flags...),
			"-image", ref, "-dir", dir)...)
		cmd.Env = append(os.Environ(), mainEnv+"=1")
		// Once: a second one may meet the process when it has stopped listening.
		stderr := &trigger{word: "running 0", pull: sync.OnceFunc(func() { _ = cmd.Process.Signal(s) })}
		cmd.Stderr = stderr
		_ = cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != 130 || !strings.Contains(stderr.all.String(),
			"signal received") {
			t.Errorf("%v: %d %s", s, code, stderr.all.String())
		}
	}
}

// The compiler's environment: flags win over this process's, also when they
// make a variable empty, and that over docker's configuration.
func TestCompileEnvironment(t *testing.T) {
	e := newEngine(t)
	ref := e.image(t, stub.Config{Script: []string{"env GOPROXY", "env GOPRIVATE", "env GOSUMDB",
		"env HTTP_PROXY", "env https_proxy", "exit 1"}})
	config := t.TempDir()
	if err := os.WriteFile(filepath.Join(config, "config.json"),
		[]byte(`{"proxies": {"default": {"httpProxy": "http://docker", "httpsProxy": "http://docker"}}}`),
		0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_HOST", e.docker.DaemonHost())
	t.Setenv("DOCKER_CONFIG", config)
	t.Setenv("https_proxy", "http://mine")
	t.Setenv("GOPROXY", "https://proxy.example.org")
	t.Setenv("GOPRIVATE", "git.example.org")
	t.Setenv("GOSUMDB", "off")
	_, _, stderr := e.call(t, "-image", ref, "-dir", module(t, pluginSource), "-env", "GOPROXY=",
		"-env", "GOSUMDB")
	for _, want := range []string{"GOPROXY=\n", "GOPRIVATE=git.example.org\n", "GOSUMDB=off\n",
		"HTTP_PROXY=http://docker\n", "https_proxy=http://mine\n"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("no %q in %s", want, stderr)
		}
	}
}

// trigger calls pull when word is written.
type trigger struct {
	all  bytes.Buffer
	word string
	pull func()
}

func (w *trigger) Write(p []byte) (int, error) {
	n, err := w.all.Write(p)
	if strings.Contains(w.all.String(), w.word) {
		w.pull()
	}
	return n, err
}

func TestCompileUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"compile", "-memory", "lots"}, {"compile", "-exclude-from",
		"/none"}, {"sweep", "-older", "x"}, {"plan", "-edition"}} {
		if code, _, stderr := call(t, append(args, "-release", "5.2.5")...); code != 2 {
			t.Errorf("%v: %d %s", args, code, stderr)
		}
	}
	patterns := filepath.Join(t.TempDir(), "ignore")
	if err := os.WriteFile(patterns, []byte("# docs\n\n*.md\ntestdata\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]int64{"512": 512, "1k": 1 << 10, "512m": 512 << 20,
		"4g": 4 << 30, "4GB": 4 << 30, "-1": -1} {
		c := new(command)
		fs := flag.NewFlagSet("", flag.ContinueOnError)
		c.Compile(fs)
		if err := fs.Parse([]string{"-memory", text, "-exclude-from", patterns}); err != nil ||
			c.Options.Limits.Memory != want || strings.Join(c.Request.Exclude, " ") != "*.md testdata" {
			t.Errorf("%s: %d, %q, %v", text, c.Options.Limits.Memory, c.Request.Exclude, err)
		}
	}
}
