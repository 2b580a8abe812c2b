package compiler_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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

	standin "example.com/tykupgrade/internal/lab/compiler"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

// TestEngine is everything that a real engine must show, with one set of images
// and caches.
func TestEngine(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for name, test := range map[string]func(*testing.T, *bench){
		"Compile":       testCompile,
		"Owner":         testOwner,
		"Eras":          testEras,
		"Next":          testNext,
		"CompileError":  testCompileError,
		"ManyBuilds":    testManyBuilds,
		"Cancel":        testCancel,
		"OutOfMemory":   testOutOfMemory,
		"BadResults":    testBadResults,
		"Settings":      testSettings,
		"Bind":          testBind,
		"LoadTest":      testLoadTest,
		"Sweep":         testSweep,
		"Caches":        testCaches,
		"BadConnection": testBadConnection,
	} {
		if b.podman && (name == "Eras" || name == "Next") {
			continue // of the script, whatever the engine
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, b)
		})
	}
}

// rounds is fewer where each container takes a second of processor time.
func (b *bench) rounds(n int) int {
	if b.podman {
		return n / 4
	}
	return n
}

func testCompile(t *testing.T, b *bench) {
	// What a user's directory may hold besides: none of it may change.
	dir := plugin(t, fooBar, map[string]string{
		".env": "SECRET=1", ".git/config": "x", "old.so": "not ours", "vendorless/doc.txt": "x",
		"plugin_v5.2.5_linux_amd64.so": "an older build",
		// Of an earlier release, for which the module was vendored.
		"vendor/modules.txt": "# example.org/gone v1.0.0\n## explicit\n",
		"vendor/github.com/TykTechnologies/tyk/log/log.go": "package log\n\nbroken\n",
	})
	if err := os.Chown(filepath.Join(dir, "plugin.go"), 1234, 1234); err != nil && os.Geteuid() == 0 {
		t.Fatal(err)
	}
	before := snapshot(t, dir)
	var stdout, stderr buffer
	var events []compiler.Event
	out := t.TempDir()
	q := compiler.Request{Dir: dir, OutputDir: out, Stdout: &stdout, Stderr: &stderr}
	a, err := b.build(t, q, func(o *compiler.Options) {
		o.Progress = func(e compiler.Event) {
			events = append(events, e)
		}
	})
	if err != nil {
		t.Fatalf("%v\n%s%s", err, stdout.String(), stderr.String())
	}
	if after := snapshot(t, dir); after != before {
		t.Errorf("the source changed from\n%s\nto\n%s", before, after)
	}
	info, err := os.Stat(a.Path)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(out, "plugin_v5.2.5_linux_amd64.so"); a.Path != want ||
		info.Size() != a.Size || info.Mode() != 0o644 {
		t.Errorf("%s with mode %v, %d bytes, reported %s, %d", want, info.Mode(), info.Size(), a.Path,
			a.Size)
	}
	if len(a.SHA256) != 64 || !strings.HasPrefix(a.ImageID, "sha256:") ||
		!strings.HasPrefix(a.GoVersion, "go1.") ||
		a.ModulePath != "example.org/foobar" || len(a.Modules) != 1 ||
		a.Modules[0].Path != pluginbuild.Module {
		t.Errorf("artifact %+v", a)
	}
	if !strings.Contains(stdout.String(), "PLUGIN_BUILD_PATH: /go/src/") {
		t.Errorf("stdout %q", stdout.String())
	}
	only(t, out, filepath.Base(a.Path))
	var stages []string
	for _, e := range events {
		if e.Kind == compiler.Done {
			stages = append(stages, e.Stage)
			if e.Err != nil || e.Elapsed <= 0 {
				t.Errorf("event %+v", e)
			}
		}
	}
	if got := strings.Join(stages, " "); got != "connect pull create upload compile collect" {
		t.Errorf("stages %s", got)
	}

	// The same input gives the same bytes, from another directory too, and with
	// the id the plugin is another module.
	again, err := b.build(t, compiler.Request{Dir: plugin(t, fooBar)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if again.SHA256 != a.SHA256 || again.Size != a.Size {
		t.Errorf("second build %+v, first %+v", again, a)
	}
	unique, err := b.build(t, compiler.Request{Dir: plugin(t, fooBar), ID: "x7"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if unique.ModulePath != "tyk.internal/tyk_pluginx7" || unique.SHA256 == a.SHA256 {
		t.Errorf("with an id: %+v", unique)
	}

	replaced, err := b.build(t, compiler.Request{Dir: plugin(t, map[string]string{
		"go.mod": "module example.org/tiny\n\ngo 1.21\n\nrequire example.org/dep v1.0.0\n\nreplace " +
			"example.org/dep => ./dep\n",
		"dep/go.mod": "module example.org/dep\n\ngo 1.21\n",
		"dep/dep.go": "package dep\n",
		"plugin.go":  "package main\n\nimport _ \"example.org/dep\"\n\nfunc main() {}\n",
	})}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(replaced.Modules) != 1 || replaced.Modules[0].Version != "v1.0.0" ||
		!strings.HasSuffix(replaced.Modules[0].Replace, "/dep@(devel)") {
		t.Errorf("with a replaced dependency: %+v", replaced.Modules)
	}
}

// The child of testOwner: a user who is not root.
func TestBuildAsUser(t *testing.T) {
	ref := os.Getenv("TYKUPGRADE_TEST_USER_IMAGE")
	if ref == "" {
		t.Skip("TestEngine/Owner runs this")
	}
	docker, err := compiler.Connect(compiler.ConnectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer docker.Close()
	label, value, _ := strings.Cut(os.Getenv("TYKUPGRADE_TEST_USER_LABEL"), "=")
	_, err = compiler.New(docker, compiler.Options{}).Build(t.Context(), compiler.Request{
		Release: release(t, "4.0.8"), Dir: os.Getenv("TYKUPGRADE_TEST_USER_DIR"), OutputDir: "/"})
	if !errors.Is(err, compiler.ErrRequest) || !errors.Is(err, os.ErrPermission) {
		t.Errorf("into a directory of root: %v", err)
	}
	_, err = compiler.New(docker, compiler.Options{
		Pull: compiler.PullNever, Caches: "none", Mounts: standin.Mounts(), Env: map[string]string{
			"GOPROXY": "off"},
		Limits: compiler.Limits{Network: "none"}, Labels: map[string]string{label: value},
	}).Build(t.Context(), compiler.Request{Release: release(t, "4.0.8"),
		Dir: os.Getenv("TYKUPGRADE_TEST_USER_DIR"), Image: pluginbuild.Image{Ref: ref}})
	if err != nil {
		t.Fatal(err)
	}
}

// What a user compiles belongs to that user.
func testOwner(t *testing.T, b *bench) {
	socket, ok := strings.CutPrefix(b.docker.DaemonHost(), "unix://")
	if os.Geteuid() != 0 || !ok || b.podman {
		t.Skip("only root can become another user, and Podman's socket of this test is root's")
	}
	info, err := os.Stat(socket)
	if err != nil {
		t.Fatal(err)
	}
	group := info.Sys().(*syscall.Stat_t).Gid
	// Not t.TempDir, which others cannot enter.
	dir, err := os.MkdirTemp("", "tykupgrade-user-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	exe, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	src, home := filepath.Join(dir, "plugin"), filepath.Join(dir, "home")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "test"), exe, 0o755),
		os.Mkdir(src, 0o755), os.Mkdir(home, 0o755), os.Chown(src, 1234, 1234), os.Chown(home, 1234,
			1234)); err != nil {
		t.Fatal(err)
	}
	for name, text := range tiny {
		if err := os.WriteFile(filepath.Join(src, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// The result of 4.0 needs no build information, so it need not be compiled.
	so := string(sharedObject(62))
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "test"), "-test.run=^TestBuildAsUser$",
		"-test.v")
	cmd.Dir = src
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "DOCKER_HOST=" + b.docker.DaemonHost(),
		"TYKUPGRADE_TEST_USER_DIR=" + src,
		"TYKUPGRADE_TEST_USER_IMAGE=" + b.image(t, standin.Config{Version: "4.0.8", Script: []string{
			"copy /so", "exit 0"}, Files: map[string]string{"/so": so}}),
		"TYKUPGRADE_TEST_USER_LABEL=" + testLabel + "=" + b.id,
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 1234,
		Groups: []uint32{group}}}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out),
		"--- PASS: TestBuildAsUser") {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err = os.Stat(filepath.Join(src, "plugin.so"))
	if err != nil {
		t.Fatal(err)
	}
	if s := info.Sys().(*syscall.Stat_t); s.Uid != 1234 || s.Gid != 1234 {
		t.Errorf("the plugin belongs to %d:%d", s.Uid, s.Gid)
	}
	only(t, src, "go.mod", "plugin.go", "plugin.so")
}

func testEras(t *testing.T, b *bench) {
	for version, want := range map[string]string{
		"4.0.8":  "plugin.so",
		"5.0.15": "plugin_v5.0.15_linux_amd64.so",
		"5.2.3":  "plugin_v5.2.3_linux_amd64.so",
		"5.14.0": "plugin_v5.14.0_linux_amd64.so",
	} {
		a, err := b.build(t, compiler.Request{Release: release(t, version)}, nil)
		if err != nil {
			t.Errorf("%s: %v", version, err)
			continue
		}
		if filepath.Base(a.Path) != want || a.Release != version {
			t.Errorf("%s: %+v", version, a)
		}
	}
	// A pre-release: its tag never reaches the file name.
	rc := release(t, "5.3.0")
	rc.Version, rc.Broken = semver.MustParse("5.3.0-rc2"), false
	a, err := b.build(t, compiler.Request{Release: rc}, nil)
	if err != nil || filepath.Base(a.Path) != "plugin_v5.3.0_linux_amd64.so" {
		t.Errorf("%+v, %v", a, err)
	}
	// From 5.2.4 the script makes the go.mod that is missing.
	if _, err := b.build(t, compiler.Request{Dir: plugin(t, map[string]string{
		"plugin.go": tiny["plugin.go"]})}, nil); err != nil {
		t.Errorf("without go.mod: %v", err)
	}
	// The switches reach the script.
	var stderr buffer
	if _, err := b.build(t, compiler.Request{GoTidy: true, Debug: true, Stderr: &stderr},
		nil); err != nil {
		t.Error(err)
	}
	if got := stderr.String(); !strings.Contains(got, "+ go mod tidy\n") || strings.Contains(got,
		"+ go get") {
		t.Errorf("with GO_TIDY and DEBUG: %s", got)
	}
}

// The next-generation script: files with a leading dot reach the compiler, the go
// directive does not stop it, and an id leaves the module's name alone.
func testNext(t *testing.T, b *bench) {
	r := nextRelease(t)
	dir := plugin(t, map[string]string{
		"go.mod":  "module example.org/tiny\n\ngo 1.99\n",
		".hidden": "x",
		"plugin.go": "package main\n\nimport _ \"embed\"\n\n//go:embed .hidden\nvar hidden " +
			"string\n\nfunc Hook() string { return hidden }\n\nfunc main() {}\n",
	})
	img := pluginbuild.Image{Variant: pluginbuild.NextGen, Ref: b.image(t,
		standin.Config{Version: "5.15.0", Next: true, GoCache: true})}
	var stdout buffer
	a, err := b.build(t, compiler.Request{Release: r, Dir: dir, Image: img, ID: "a1", Stdout: &stdout},
		readGoCache(t))
	if err != nil || filepath.Base(a.Path) != "plugin_v5.15.0_linux_amd64.so" ||
		a.ModulePath != "example.org/tiny" || !strings.Contains(stdout.String(), "validation OK") {
		t.Errorf("%+v, %v\n%s", a, err, stdout.String())
	}
	if a, err = b.build(t, compiler.Request{Release: r, Dir: dir, Image: img, NoValidate: true,
		Stdout: &stdout}, readGoCache(t)); err != nil || strings.Count(stdout.String(),
		"validation OK") != 1 {
		t.Errorf("%+v, %v\n%s", a, err, stdout.String())
	}
}

func testCompileError(t *testing.T, b *bench) {
	for version, more := range map[string]string{"5.2.5": "", "4.0.8": "+ go build"} {
		out := t.TempDir()
		r := release(t, version)
		name := r.Output("plugin.so", "linux", "amd64")
		if err := os.WriteFile(filepath.Join(out, name), []byte("earlier"), 0o600); err != nil {
			t.Fatal(err)
		}
		var stderr buffer
		_, err := b.build(t, compiler.Request{
			Release: r, OutputDir: out, Stderr: &stderr,
			Dir: plugin(t, tiny, map[string]string{"bad.go": "package main\n\nvar x int = nope\n"}),
		}, nil)
		var e *compiler.Error
		if !errors.As(err, &e) || e.Op != compiler.StageCompile || e.ExitCode != 1 || e.OOMKilled ||
			e.Retryable() {
			t.Fatalf("%s: %#v", version, err)
		}
		if e.Message != "./bad.go:3:13: undefined: nope" {
			t.Errorf("%s: message %q of %s", version, e.Message, e.Output)
		}
		if !strings.Contains(stderr.String(), more) || !strings.Contains(err.Error(),
			"exit code 1: ./bad.go:3:13: undefined: nope") {
			t.Errorf("%s: %v\n%s", version, err, stderr.String())
		}
		if data, err := os.ReadFile(filepath.Join(out, name)); err != nil || string(data) != "earlier" {
			t.Errorf("the earlier plugin is %q, %v", data, err)
		}
		only(t, out, name)
	}
}

// Every byte of both streams, and the exit code, of each of many builds.
func testManyBuilds(t *testing.T, b *bench) {
	const count = 2001
	builds := b.rounds(25)
	img := b.script(t, fmt.Sprintf("out %d one", count), fmt.Sprintf("err %d two", count), "exit 7")
	want := func(text string) string {
		var s strings.Builder
		for i := range count {
			fmt.Fprintf(&s, "%s %d\n", text, i)
		}
		return s.String()
	}
	dir := plugin(t, tiny)
	builder := compiler.New(b.docker, b.options())
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	for range builds {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			var stdout, stderr strings.Builder
			_, err := builder.Build(t.Context(), compiler.Request{
				Release: release(t, "5.2.5"), Dir: dir, OutputDir: t.TempDir(), Image: img, Stdout: &stdout,
				Stderr: &stderr,
			})
			var e *compiler.Error
			if !errors.As(err, &e) || e.ExitCode != 7 {
				t.Errorf("%v", err)
			}
			if stdout.String() != want("one") || stderr.String() != want("two") {
				t.Errorf("%d and %d bytes of output", stdout.Len(), stderr.Len())
			}
		})
	}
	wg.Wait()
	if n := b.running(t, compiler.LabelRun, builder.Run()); n != 0 {
		t.Errorf("%d containers left", n)
	}
}

// Cancelled at any moment nothing is left, and the error says that it was.
func testCancel(t *testing.T, b *bench) {
	images := []pluginbuild.Image{
		b.script(t, "deaf", "out 1 sleeping", "sleep"), b.script(t, "write x", "exit 0"),
		{Ref: b.image(t, standin.Config{})},
	}
	stages := []string{"connect", "pull", "create", "upload", "compile", "collect"}
	dir, out := plugin(t, tiny), t.TempDir()
	if err := os.WriteFile(filepath.Join(out, "plugin_v5.2.5_linux_amd64.so"), []byte("earlier"),
		0o600); err != nil {
		t.Fatal(err)
	}
	builder := compiler.New(b.docker, b.options())
	why := errors.New("the operator pressed Ctrl-C")
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	for i := range b.rounds(50) {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			o := b.options()
			img := images[i%len(images)]
			stage := ""
			if i%2 == 0 {
				stage = stages[i/2%len(stages)]
			}
			if stage == "" || stage == "collect" {
				img = images[0] // the one that never ends by itself
			}
			if stage == "collect" {
				img = images[1]
			}
			o.Progress = func(e compiler.Event) {
				if e.Kind == compiler.Started && e.Stage == stage {
					cancel(why)
				}
			}
			if stage == "" {
				time.AfterFunc(time.Duration(rand.Int64N(int64(600*time.Millisecond))), func() { cancel(why) })
			}
			one := compiler.New(b.docker, o)
			var log strings.Builder // of one goroutine: nothing may be written once Build is back
			_, err := one.Build(ctx, compiler.Request{Release: release(t, "5.2.5"), Dir: dir, OutputDir: out,
				Image: img, Stdout: &log, Stderr: &log})
			log.Reset()
			var e *compiler.Error
			if !errors.Is(err, context.Canceled) || !errors.Is(err, why) || !errors.As(err, &e) ||
				e.Retryable() {
				t.Errorf("cancelled in %q: %v", stage, err)
			}
			if n := b.running(t, compiler.LabelRun, one.Run()); n != 0 {
				t.Errorf("cancelled in %q: %d containers left", stage, n)
			}
		})
	}
	wg.Wait()
	if n := b.running(t, compiler.LabelRun, builder.Run()); n != 0 {
		t.Errorf("%d containers left", n)
	}
	only(t, out, "plugin_v5.2.5_linux_amd64.so")
	if data, err := os.ReadFile(filepath.Join(out, "plugin_v5.2.5_linux_amd64.so")); err != nil ||
		string(data) != "earlier" {
		t.Errorf("the earlier plugin is %q, %v", data, err)
	}
	only(t, dir, "go.mod", "plugin.go")
}

func testOutOfMemory(t *testing.T, b *bench) {
	_, err := b.build(t, compiler.Request{Image: b.script(t, "memory")},
		func(o *compiler.Options) { o.Limits.Memory = 48 << 20 })
	var e *compiler.Error
	if !errors.As(err, &e) || !e.OOMKilled && !b.podman || e.ExitCode == 0 ||
		!strings.Contains(e.Hint(), "memory limit") || e.Retryable() {
		t.Errorf("%#v: %v", e, err)
	}
	readable(t, err)
}

func testBadResults(t *testing.T, b *bench) {
	for name, c := range map[string]struct {
		script []string
		stage  string
		want   string
	}{
		"no file": {[]string{"exit 0"}, compiler.StageCollect, "left no file of the name"},
		"other name": {[]string{"touch plugin.so", "exit 0"}, compiler.StageCollect,
			"left no file of the name"},
		"not ELF": {[]string{"write garbage", "exit 0"}, compiler.StageCollect, "no ELF file"},
	} {
		out := t.TempDir()
		_, err := b.build(t, compiler.Request{Image: b.script(t, c.script...), OutputDir: out}, nil)
		var e *compiler.Error
		if !errors.As(err, &e) || e.Op != c.stage || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		only(t, out)
	}
	// An image whose entry point is missing.
	_, err := b.build(t, compiler.Request{Image: pluginbuild.Image{Ref: b.image(t,
		standin.Config{Entrypoint: "/gone.sh"})}}, nil)
	var e *compiler.Error
	if !errors.As(err, &e) || e.Op != compiler.StageCompile || !strings.Contains(err.Error(),
		"start: ") && !(b.podman && strings.Contains(err.Error(), "attach: ")) {
		t.Errorf("missing entry point: %v", err)
	}
}

// Environment, netrc, network and limits as the container sees them.
func testSettings(t *testing.T, b *bench) {
	netrc := filepath.Join(t.TempDir(), "netrc")
	if err := os.WriteFile(netrc, []byte("machine git.example.org login me password hunter2\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	img := b.script(t, "env GOPROXY", "env GOPRIVATE", "env NETRC", "env GOCACHE", "env GOMODCACHE",
		"cat /root/.netrc", "cat /proc/net/dev", "cat /mnt/ca/ca.pem", "exit 3")
	extra := plugin(t, map[string]string{"ca.pem": "certificate"})
	var stdout buffer
	_, err := b.build(t, compiler.Request{Image: img, Stdout: &stdout}, func(o *compiler.Options) {
		o.Env = map[string]string{"GOPROXY": "https://proxy.example.org", "GOPRIVATE": "git.example.org"}
		o.Netrc = netrc
		o.Limits = compiler.Limits{Memory: 256 << 20, CPUs: 1, PIDs: 200, Network: "none"}
		o.Mounts = append(o.Mounts, extra+":/mnt/ca")
	})
	var e *compiler.Error
	if !errors.As(err, &e) || e.ExitCode != 3 || strings.Contains(fmt.Sprintf("%+v", e.Err),
		"hunter2") {
		t.Fatal(err)
	}
	got := stdout.String()
	for _, want := range []string{
		"GOPROXY=https://proxy.example.org\n", "GOPRIVATE=git.example.org\n", "NETRC=/root/.netrc\n",
		"GOCACHE=/root/.cache/go-build\n", "GOMODCACHE=/go/pkg/mod\n", "password hunter2\n", "lo:",
		"certificate",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %s", want, got)
		}
	}
	if strings.Contains(got, "eth0") {
		t.Errorf("the network is on: %s", got)
	}
	if !b.podman { // whose bridge would stay on the machine
		var stdout buffer
		_, _ = b.build(t, compiler.Request{Image: img, Stdout: &stdout},
			func(o *compiler.Options) { o.Limits.Network = "" })
		if !strings.Contains(stdout.String(), "eth0") {
			t.Errorf("by default there is no network: %s", stdout.String())
		}
	}
	// A mount whose source is missing must not be created.
	_, err = b.build(t, compiler.Request{Image: img}, func(o *compiler.Options) {
		o.Mounts = []string{
			extra + "/gone"}
	})
	if _, statErr := os.Stat(extra + "/gone"); err == nil || statErr == nil && !b.podman {
		t.Errorf("missing mount: %v; %v", err, statErr)
	}
}

func testBind(t *testing.T, b *bench) {
	dir := plugin(t, tiny)
	for range 2 { // the second build replaces the first one's result
		a, err := b.build(t, compiler.Request{Dir: dir, OutputDir: dir, Bind: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		only(t, dir, "go.mod", "plugin.go", "plugin_v5.2.5_linux_amd64.so")
		if a.Size == 0 {
			t.Errorf("%+v", a)
		}
	}
	_, err := b.build(t, compiler.Request{Dir: plugin(t, tiny, map[string]string{"mine.so": "x"}),
		Bind: true}, nil)
	if !errors.Is(err, compiler.ErrRequest) {
		t.Errorf("with a .so in the way: %v", err)
	}
}

func testLoadTest(t *testing.T, b *bench) {
	r := release(t, "5.2.5")
	img := pluginbuild.Image{Ref: b.image(t, standin.Config{Gateway: true, GoCache: true})}
	builder := compiler.New(b.docker, b.options())
	good, err := b.build(t, compiler.Request{Dir: plugin(t, fooBar), Image: img}, readGoCache(t))
	if err != nil {
		t.Fatal(err)
	}
	// Not trimmed, so its packages are others than the gateway's.
	untrimmed, err := b.build(t, compiler.Request{Release: release(t, "5.0.15")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		plugin, symbol, reason string
	}{
		{good.Path, "AddFooBarHeader", ""},
		{good.Path, "Missing", "symbol Missing not found"},
		{untrimmed.Path, "Add", "different version of package"},
	} {
		v, err := builder.LoadTest(t.Context(), r, img, c.plugin, c.symbol)
		if err != nil || v.Loads != (c.reason == "") || !strings.Contains(v.Reason, c.reason) {
			t.Errorf("%s %s: %+v, %v", c.plugin, c.symbol, v, err)
		}
	}
	// An image without the gateway is a failed test, not a verdict.
	_, err = builder.LoadTest(t.Context(), r, pluginbuild.Image{Ref: b.image(t, standin.Config{})},
		good.Path, "AddFooBarHeader")
	var e *compiler.Error
	if !errors.As(err, &e) || e.Op != compiler.StageLoad {
		t.Errorf("without gateway: %v", err)
	}
	if _, err := builder.LoadTest(t.Context(), release(t, "5.2.2"), img, good.Path,
		"AddFooBarHeader"); !errors.Is(err, compiler.ErrUnsupported) {
		t.Errorf("5.2.2: %v", err)
	}
}

func testSweep(t *testing.T, b *bench) {
	o := b.options()
	o.Labels = map[string]string{testLabel: b.id, "sweep": b.id}
	// As a crash leaves it: labelled, with no Builder to remove it.
	labels := map[string]string{compiler.LabelRun: "gone", testLabel: b.id, "sweep": b.id}
	create := func(labels map[string]string) string {
		t.Helper()
		c, err := b.docker.ContainerCreate(t.Context(), &container.Config{Image: b.script(t, "sleep").Ref,
			Labels: labels}, nil, nil, nil, "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = b.docker.ContainerRemove(context.WithoutCancel(t.Context()), c.ID, container.RemoveOptions{
				Force: true})
		})
		return c.ID
	}
	create(labels)
	foreign := create(map[string]string{"sweep": b.id, testLabel: b.id})
	builder := compiler.New(b.docker, o)
	if _, err := builder.Sweep(t.Context(), 0); !errors.Is(err, compiler.ErrRequest) {
		t.Errorf("age 0: %v", err)
	}
	if got, err := builder.Sweep(t.Context(), time.Hour); err != nil || len(got) != 0 {
		t.Errorf("younger than an hour: %v, %v", got, err)
	}
	// the engine's times are in seconds
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		got, err := builder.Sweep(t.Context(), time.Second)
		if err != nil || len(got) > 1 || time.Now().After(end) {
			t.Fatalf("%v, %v", got, err)
		}
		if len(got) == 1 {
			break
		}
	}
	if _, err := b.docker.ContainerInspect(t.Context(), foreign); err != nil {
		t.Errorf("a container without our label: %v", err)
	}
}

// With volumes of its own a build finds what an earlier one compiled, and makes
// the same of it.
func testCaches(t *testing.T, b *bench) {
	o := b.options()
	o.Labels = map[string]string{testLabel: b.id, "caches": b.id}
	o.Caches += "-own"
	o.Env["GOFLAGS"] = "-v" // names the packages that are compiled
	r, c := release(t, "5.2.5"), standin.Config{}
	if b.podman { // what Go does with its caches is shown once
		r, c = release(t, "4.0.8"), standin.Config{Version: "4.0.8", Script: []string{"copy /so",
			"exit 0"}, Files: map[string]string{"/so": string(sharedObject(62))}}
	}
	img := pluginbuild.Image{Ref: b.image(t, c)}
	builder := compiler.New(b.docker, o)
	build := func() (compiler.Artifact, bool) {
		t.Helper()
		var stderr buffer
		a, err := builder.Build(t.Context(), compiler.Request{Release: r, Dir: plugin(t, tiny),
			OutputDir: t.TempDir(), Image: img, Stderr: &stderr})
		if err != nil {
			t.Fatalf("%v\n%s", err, stderr.String())
		}
		return a, strings.Contains(stderr.String(), "\nruntime\n")
	}
	first, compiled := build()
	list, err := builder.ListCaches(t.Context())
	if err != nil || len(list) != 2 || list[0].Kind != "build-cache" ||
		list[1].Kind != "module-cache" || list[1].Image == "" {
		t.Errorf("%+v, %v", list, err)
	}
	second, again := build()
	if compiled == b.podman || again || second.SHA256 != first.SHA256 {
		t.Errorf("compiled the runtime %t, then %t: %s, then %s", compiled, again, first.SHA256,
			second.SHA256)
	}
	removed, err := builder.RemoveCaches(t.Context())
	if err != nil || len(removed) != 2 {
		t.Errorf("%v, %v", removed, err)
	}
	o.Caches = "none"
	builder = compiler.New(b.docker, o)
	var e *compiler.Error
	if _, err := builder.Build(t.Context(), compiler.Request{Release: release(t, "5.2.5"),
		Dir: plugin(t, tiny), Image: b.script(t, "exit 5")}); !errors.As(err, &e) || e.ExitCode != 5 {
		t.Fatal(err)
	}
	if list, err := builder.ListCaches(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}

func testBadConnection(t *testing.T, _ *bench) {
	docker, err := compiler.Connect(compiler.ConnectOptions{Host: "unix://" + t.TempDir() +
		"/none.sock"})
	if err != nil {
		t.Fatal(err)
	}
	defer docker.Close()
	_, err = compiler.New(docker, compiler.Options{}).Build(t.Context(), compiler.Request{
		Release: release(t, "5.2.5"), Dir: plugin(t, tiny)})
	var e *compiler.Error
	if !errors.As(err, &e) || e.Op != compiler.StageConnect || !e.Retryable() ||
		!strings.Contains(e.Hint(), "DOCKER_HOST") {
		t.Errorf("%v", err)
	}
}

// only checks what a directory holds.
func only(t testing.TB, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Errorf("%s holds %v, want %v", dir, got, names)
	}
}
