package compiler_test

import (
	"archive/tar"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"

	"example.com/tykupgrade/internal/lab"
	stub "example.com/tykupgrade/internal/lab/compiler"
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
		"Gateway":       testGateway,
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

// rounds is fewer unless the run is a long one: each container takes about a second of
// processor time.
func (b *bench) rounds(n int) int {
	if b.podman || os.Getenv(lab.LongEnv) == "" {
		return n * 6 / 25
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

	// The same input gives the same bytes, from another directory too.
	if again := b.fooBar(t); again.SHA256 != a.SHA256 || again.Size != a.Size {
		t.Errorf("second build %+v, first %+v", again, a)
	}

	// With an id the plugin is another module. A dependency is in the directory.
	unique, err := b.build(t, compiler.Request{ID: "x7", Dir: plugin(t, map[string]string{
		"go.mod": "module example.org/tiny\n\ngo 1.21\n\nrequire example.org/dep v1.0.0\n\nreplace " +
			"example.org/dep => ./dep\n",
		"dep/go.mod": "module example.org/dep\n\ngo 1.21\n",
		"dep/dep.go": "package dep\n",
		"plugin.go":  "package main\n\nimport _ \"example.org/dep\"\n\nfunc main() {}\n",
	})}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if unique.ModulePath != "tyk.internal/tyk_pluginx7" || len(unique.Modules) != 1 ||
		unique.Modules[0].Version != "v1.0.0" ||
		!strings.HasSuffix(unique.Modules[0].Replace, "/dep@(devel)") {
		t.Errorf("with an id and a replaced dependency: %+v", unique)
	}
}

// Each era has arguments, a result's name and switches of its own. One of them compiles, as
// testCompile does for another.
func testEras(t *testing.T, b *bench) {
	noCaches := func(o *compiler.Options) { o.Caches = "none" }
	for version, want := range map[string]string{
		"4.0.8":  "plugin.so",
		"5.0.15": "plugin_v5.0.15_linux_amd64.so",
		"5.2.3":  "plugin_v5.2.3_linux_amd64.so",
		"5.14.0": "plugin_v5.14.0_linux_amd64.so",
	} {
		var img pluginbuild.Image
		if version != "5.0.15" {
			img.Ref = b.image(t, copies(t, version))
		}
		a, err := b.build(t, compiler.Request{Release: release(t, version), Image: img}, noCaches)
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
	a, err := b.build(t, compiler.Request{Release: rc, Image: pluginbuild.Image{
		Ref: b.image(t, copies(t, rc.Version.String()))}}, noCaches)
	if err != nil || filepath.Base(a.Path) != "plugin_v5.3.0_linux_amd64.so" {
		t.Errorf("%+v, %v", a, err)
	}
	// From 5.2.4 the script makes the go.mod that is missing. The switches reach it.
	var stderr buffer
	if _, err := b.build(t, compiler.Request{Dir: plugin(t, map[string]string{
		"plugin.go": tiny["plugin.go"]}), GoTidy: true, Debug: true, Stderr: &stderr},
		nil); err != nil {
		t.Errorf("without go.mod: %v", err)
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
		stub.Config{Version: "5.15.0", Next: true, GoCache: true})}
	var stdout buffer
	a, err := b.build(t, compiler.Request{Release: r, Dir: dir, Image: img, ID: "a1", Stdout: &stdout},
		readGoCache(t))
	if err != nil || filepath.Base(a.Path) != "plugin_v5.15.0_linux_amd64.so" ||
		a.ModulePath != "example.org/tiny" || !strings.Contains(stdout.String(), "validation OK") {
		t.Errorf("%+v, %v\n%s", a, err, stdout.String())
	}
}

func testLoadTest(t *testing.T, b *bench) {
	r := release(t, "5.2.5")
	img := pluginbuild.Image{Ref: b.image(t, stub.Config{Gateway: true})}
	builder := compiler.New(b.docker, b.options())
	good := b.fooBar(t)
	// Its packages are others than the gateway's.
	other, err := untrimmed()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		plugin, symbol, reason string
	}{
		{good.Path, "AddFooBarHeader", ""},
		{good.Path, "Missing", "symbol Missing not found"},
		{soFile(t, other), "Add", "different version of package"},
	} {
		v, err := builder.LoadTest(t.Context(), r, img, c.plugin, c.symbol)
		if err != nil || v.Loads != (c.reason == "") || !strings.Contains(v.Reason, c.reason) {
			t.Errorf("%s %s: %+v, %v", c.plugin, c.symbol, v, err)
		}
	}
	// An image without the gateway is a failed test, not a verdict.
	_, err = builder.LoadTest(t.Context(), r, pluginbuild.Image{Ref: b.image(t, stub.Config{})},
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

// The gateway comes out of an image, and no container stays.
func testGateway(t *testing.T, b *bench) {
	ref := b.image(t, stub.Config{Gateway: true})
	left := func() int {
		t.Helper()
		list, err := b.docker.ContainerList(t.Context(), container.ListOptions{All: true,
			Filters: filters.NewArgs(filters.Arg("label", compiler.LabelKind+"=inspect"),
				filters.Arg("ancestor", ref))})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			if c.Labels[compiler.LabelRun] == "" {
				t.Errorf("a sweep would not find %v", c.Labels)
			}
		}
		return len(list)
	}
	body, err := compiler.Gateway(t.Context(), b.docker, ref)
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(body)
	h, err := r.Next()
	if err != nil || h.Name != "tyk" || left() != 1 {
		t.Errorf("%+v, %v, %d containers", h, err, left())
	}
	if err := body.Close(); err != nil || left() != 0 {
		t.Errorf("%v, %d containers", err, left())
	}
	var e *compiler.Error
	if _, err := compiler.Gateway(t.Context(), b.docker, b.image(t,
		stub.Config{})); !errors.As(err, &e) || !strings.Contains(err.Error(), "has neither") {
		t.Errorf("without gateway: %v", err)
	}
	if _, err := compiler.Gateway(t.Context(), b.docker,
		"tykupgrade.test/none:v1"); !errors.Is(err, compiler.ErrNoImage) {
		t.Errorf("no image: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := compiler.Gateway(ctx, b.docker, ref); err == nil || left() != 0 {
		t.Errorf("cancelled: %v, %d containers", err, left())
	}
}

// With volumes of its own a build finds what an earlier one left, and makes the same
// of it. In a long run that is Go's library, otherwise a line of a script.
func testCaches(t *testing.T, b *bench) {
	o := b.options()
	o.Labels = map[string]string{testLabel: b.id, "caches": b.id}
	o.Caches += "-own"
	r, c := release(t, "5.2.5"), stub.Config{}
	const mark = "/root/.cache/go-build/mark"
	real := !b.podman && os.Getenv(lab.LongEnv) != ""
	if real {
		o.Env["GOFLAGS"] = "-v" // names the packages that are compiled
	} else {
		r, c = release(t, "4.0.8"), stub.Config{Version: "4.0.8", Script: []string{"cat " + mark,
			"append " + mark, "copy /so", "exit 0"},
			Files: map[string]string{"/so": string(sharedObject(62))}}
	}
	img := pluginbuild.Image{Ref: b.image(t, c)}
	builder := compiler.New(b.docker, o)
	build := func() (_ compiler.Artifact, fresh bool) {
		t.Helper()
		var stdout, stderr buffer
		a, err := builder.Build(t.Context(), compiler.Request{Release: r, Dir: plugin(t, tiny),
			OutputDir: t.TempDir(), Image: img, Stdout: &stdout, Stderr: &stderr})
		if err != nil {
			t.Fatalf("%v\n%s", err, stderr.String())
		}
		if real {
			return a, strings.Contains(stderr.String(), "\nruntime\n")
		}
		return a, !strings.Contains(stdout.String(), "kept")
	}
	first, compiled := build()
	list, err := builder.ListCaches(t.Context())
	if err != nil || len(list) != 2 || list[0].Kind != "build-cache" ||
		list[1].Kind != "module-cache" || list[1].Image == "" {
		t.Errorf("%+v, %v", list, err)
	}
	second, again := build()
	if !compiled || again || second.SHA256 != first.SHA256 {
		t.Errorf("the cache was empty %t, then %t: %s, then %s", compiled, again, first.SHA256,
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
