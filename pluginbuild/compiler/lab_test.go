package compiler_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"

	"example.com/tykupgrade/internal/lab"
	stub "example.com/tykupgrade/internal/lab/compiler"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

// testLabel marks what one test made, so that leftovers of several test runs
// on one engine can be told apart.
const testLabel = "com.example.tykupgrade.test"

// bench is an engine with stub images, for one test and its subtests.
type bench struct {
	docker *client.Client
	id     string
	dir    string // of its tests
	caches string
	podman bool // 4.3: creates missing mount sources, does not report lack of memory

	mu     sync.Mutex
	images map[string]bool

	once      sync.Once
	shared    compiler.Artifact
	sharedErr error
}

// newBench connects to the engine of the environment and sees to it that
// nothing is left of the test in the end.
func newBench(t testing.TB) *bench {
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
	v, err := docker.ServerVersion(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id := strings.ToLower(rand.Text()[:10])
	b := &bench{docker: docker, id: id, dir: t.TempDir(), caches: "tykupgrade-test-" + id,
		images: map[string]bool{}}
	b.podman = len(v.Components) > 0 && strings.HasPrefix(v.Components[0].Name, "Podman")
	t.Cleanup(func() { b.close(t) })
	return b
}

func (b *bench) close(t testing.TB) {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	mine := filters.NewArgs(filters.Arg("label", testLabel+"="+b.id))
	if list, err := b.docker.ContainerList(ctx, container.ListOptions{All: true,
		Filters: mine}); err != nil {
		t.Error(err)
	} else {
		for _, c := range list {
			t.Errorf("left a container: %s %v %s", c.Names, c.Labels, c.Status)
			_ = b.docker.ContainerRemove(ctx, c.ID, container.RemoveOptions{Force: true})
		}
	}
	list, err := b.docker.VolumeList(ctx, volume.ListOptions{Filters: mine})
	if err != nil {
		t.Error(err)
	}
	for _, v := range list.Volumes {
		if !strings.HasPrefix(v.Name, b.caches) {
			t.Errorf("left a volume that is no cache: %s %v", v.Name, v.Labels)
		}
		if err := b.docker.VolumeRemove(ctx, v.Name, true); err != nil {
			t.Error(err)
		}
	}
	for ref := range b.images {
		if _, err := b.docker.ImageRemove(ctx, ref, image.RemoveOptions{Force: true,
			PruneChildren: true}); err != nil && !strings.Contains(err.Error(), "No such image") {
			t.Error(err)
		}
	}
}

// image loads a stub image into the engine and returns its name. Equal
// configurations share one.
func (b *bench) image(t testing.TB, c stub.Config) string {
	t.Helper()
	if c.Version == "" {
		c.Version = "5.2.5"
	}
	img, err := stub.Image(c)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	ref := "tykupgrade.test/" + b.id + "/compiler:" + digest.Hex[:12]
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.images[ref] {
		if err := stub.Load(t.Context(), b.docker, ref, img); err != nil {
			t.Fatal(err)
		}
		b.images[ref] = true
	}
	return ref
}

// script loads an image whose entry point does what the lines say.
func (b *bench) script(t testing.TB, lines ...string) pluginbuild.Image {
	t.Helper()
	return pluginbuild.Image{Ref: b.image(t, stub.Config{Script: lines})}
}

func (b *bench) options() compiler.Options {
	return compiler.Options{
		Pull: compiler.PullNever, Caches: b.caches, Mounts: stub.Mounts(),
		Labels: map[string]string{testLabel: b.id},
		Env: map[string]string{"GOPROXY": "off",
			"GOFLAGS": "-buildvcs=false '" + stub.NoDebug + "'"},
		Limits: compiler.Limits{Network: "none"},
	}
}

// trimmed and untrimmed are plugins of this machine's Go as two eras build them. Once they are
// made, the build cache has Go's library as the compilers of both need it.
var (
	trimmed   = sync.OnceValues(func() ([]byte, error) { return local("5.2.5", fooBar) })
	untrimmed = sync.OnceValues(func() ([]byte, error) { return local("5.0.15", tiny) })
)

func local(version string, files map[string]string) ([]byte, error) {
	return stub.LocalFiles(context.Background(), semver.MustParse(version), files)
}

// copies is the configuration of an image that does not compile: its result is untrimmed.
func copies(t testing.TB, version string, more ...string) stub.Config {
	t.Helper()
	so, err := untrimmed()
	if err != nil {
		t.Fatal(err)
	}
	return stub.Config{Version: version, Script: append(more, "copy /so", "exit 0"),
		Files: map[string]string{"/so": string(so)}}
}

// readGoCache is for images with stub.Config.GoCache.
func readGoCache(t testing.TB) func(*compiler.Options) {
	t.Helper()
	_, err := trimmed()
	_, err2 := untrimmed()
	mount, err3 := stub.GoCacheMount()
	if err := errors.Join(err, err2, err3); err != nil {
		t.Fatal(err)
	}
	return func(o *compiler.Options) { o.Caches, o.Mounts = "none", append(o.Mounts, mount) }
}

// build compiles with the bench's options, changed by the function. Where the
// request names no image it gets one that reads this machine's build cache.
func (b *bench) build(t testing.TB, q compiler.Request,
	change func(*compiler.Options)) (compiler.Artifact, error) {
	t.Helper()
	o := b.options()
	if q.Release.Version == nil {
		q.Release = release(t, "5.2.5")
	}
	if q.Dir == "" {
		q.Dir = plugin(t, tiny)
	}
	if q.OutputDir == "" {
		q.OutputDir = t.TempDir()
	}
	if q.Image == (pluginbuild.Image{}) {
		readGoCache(t)(&o)
		q.Image.Ref = b.image(t, stub.Config{Version: q.Release.Version.String(), GoCache: true})
	}
	if change != nil {
		change(&o)
	}
	return compiler.New(b.docker, o).Build(t.Context(), q)
}

// fooBar is that plugin as the compiler in a container makes it, once per bench.
func (b *bench) fooBar(t testing.TB) compiler.Artifact {
	t.Helper()
	b.once.Do(func() {
		b.shared, b.sharedErr = b.build(t, compiler.Request{Dir: plugin(t, fooBar),
			OutputDir: b.dir}, nil)
	})
	if b.sharedErr != nil {
		t.Fatal(b.sharedErr)
	}
	return b.shared
}

// running counts the containers of a Builder.
func (b *bench) running(t testing.TB, label, value string) int {
	t.Helper()
	list, err := b.docker.ContainerList(context.WithoutCancel(t.Context()), container.ListOptions{
		All:     true,
		Filters: filters.NewArgs(filters.Arg("label", label+"="+value))})
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func release(t testing.TB, version string) pluginbuild.Release {
	t.Helper()
	r, err := pluginbuild.Lookup(semver.MustParse(version))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// tiny compiles fast: it imports nothing.
var tiny = map[string]string{
	"go.mod":    "module example.org/tiny\n\ngo 1.19\n",
	"plugin.go": "package main\n\nfunc Add(a, b int) int { return a + b }\n\nfunc main() {}\n",
}

// fooBar is the plugin of Tyk's documentation.
var fooBar = map[string]string{
	"go.mod": "module example.org/foobar\n\ngo 1.21\n",
	"plugin.go": `package main

import (
	"net/http"

	"github.com/TykTechnologies/tyk/log"
)

// AddFooBarHeader adds a custom header to the request.
func AddFooBarHeader(rw http.ResponseWriter, r *http.Request) {
	log.Get().Info("adding a header")
	r.Header.Add("Foo", "Bar")
}

func main() {}
`,
}

// plugin writes a module and returns its directory.
func plugin(t testing.TB, files ...map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for _, m := range files {
		if err := write(dir, m); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func write(dir string, files map[string]string) error {
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// snapshot describes a directory tree in full: names, owners, modes, times,
// contents.
func snapshot(t testing.TB, dir string) string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		s := info.Sys().(*syscall.Stat_t)
		text := fmt.Sprint(info.Mode(), s.Uid, s.Gid)
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %v %q", info.ModTime(), data)
		}
		found[path] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, path := range slices.Sorted(maps.Keys(found)) {
		fmt.Fprintln(&all, path, found[path])
	}
	return all.String()
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
