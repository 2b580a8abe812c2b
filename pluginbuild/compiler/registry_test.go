package compiler_test

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	stub "example.com/tykupgrade/internal/lab/compiler"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

// registryAddrEnv fixes the registry's address, for engines that must be told
// beforehand that it has no TLS.
const registryAddrEnv = "TYKUPGRADE_TEST_REGISTRY"

var fixedAddr sync.Mutex

// hub is a registry on loopback that wants credentials.
type hub struct {
	addr      string
	manifests atomic.Int64                            // manifests requested
	held      string                                  // digest of a layer
	hold      atomic.Pointer[func(more func() error)] // called when that layer is downloaded
}

const hubUser, hubPassword = "builder", "s3cret"

func newHub(t *testing.T) *hub {
	t.Helper()
	h := &hub{}
	inner := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != hubUser || p != hubPassword {
			w.Header().Set("WWW-Authenticate", `Basic realm="hub"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`,
				http.StatusUnauthorized)
			return
		}
		if strings.Contains(r.URL.Path, "/manifests/") {
			h.manifests.Add(1)
		}
		if hold := h.hold.Load(); hold != nil && strings.HasSuffix(r.URL.Path, "/blobs/"+h.held) {
			// As long as somebody reads: the engine (20.10) notices the end of a pull
			// only when more of a layer arrives.
			w.Header().Set("Content-Length", "1000000000")
			(*hold)(func() error {
				_, err := w.Write(make([]byte, 32<<10))
				return errors.Join(err, http.NewResponseController(w).Flush(), r.Context().Err())
			})
			return
		}
		inner.ServeHTTP(w, r)
	})
	s := httptest.NewUnstartedServer(handler)
	if addr := os.Getenv(registryAddrEnv); addr != "" {
		fixedAddr.Lock() // one registry at a time
		t.Cleanup(fixedAddr.Unlock)
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Listener.Close()
		s.Listener = l
	}
	s.Start()
	t.Cleanup(s.Close)
	h.addr = s.Listener.Addr().String()
	return h
}

// push puts an image into the registry and returns its reference and digest.
func (h *hub) push(t *testing.T, path string, img v1.Image) (ref, digest string) {
	t.Helper()
	ref = h.addr + "/" + path
	tag, err := name.NewTag(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img, remote.WithAuth(&authn.Basic{Username: hubUser,
		Password: hubPassword}), remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return ref, d.String()
}

func auth(user, password string) compiler.AuthFunc {
	return func(context.Context, string) (compiler.Credentials, error) {
		return compiler.Credentials{Username: user, Password: password}, nil
	}
}

// TestRegistry pulls from a real registry with a real engine.
func TestRegistry(t *testing.T) {
	t.Parallel()
	b, h := newBench(t), newHub(t)
	// Contents of this run alone, so that the engine has none of it yet.
	img := func(c stub.Config) v1.Image {
		t.Helper()
		if c.Version == "" {
			c.Version = "5.2.5"
		}
		c.Labels = map[string]string{"run": b.id}
		i, err := stub.Image(c)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	main := img(stub.Config{Script: []string{"exit 9"}, Files: map[string]string{
		"/layer": strings.Repeat(b.id, 100_000)}})
	ref, digest := h.push(t, b.id+"/compiler:v5.2.5", main)
	id, err := main.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	dir := plugin(t, tiny)
	var mu sync.Mutex
	var events []compiler.Event
	builder := func(a compiler.AuthFunc, policy compiler.PullPolicy) *compiler.Builder {
		o := b.options()
		o.Pull, o.Auth, o.Caches = policy, a, "none"
		o.Progress = func(e compiler.Event) { mu.Lock(); events = append(events, e); mu.Unlock() }
		return compiler.New(b.docker, o)
	}
	try := func(b *compiler.Builder, i pluginbuild.Image) *compiler.Error {
		t.Helper()
		_, err := b.Build(t.Context(), compiler.Request{Release: release(t, "5.2.5"), Dir: dir, Image: i})
		var e *compiler.Error
		if !errors.As(err, &e) {
			t.Fatalf("%+v: %v", i, err)
		}
		return e
	}
	pulled := func(e *compiler.Error) bool { return e.Op == compiler.StageCompile && e.ExitCode == 9 }
	good := auth(hubUser, hubPassword)

	e := try(builder(auth("", ""), ""), pluginbuild.Image{Ref: ref})
	if e.Op != compiler.StagePull || !strings.Contains(e.Hint(), "no credentials for "+h.addr) ||
		e.Retryable() {
		t.Errorf("no credentials: %v", e)
	}
	e = try(builder(auth(hubUser, "wrong-one"), ""), pluginbuild.Image{Ref: ref})
	if e.Op != compiler.StagePull || !strings.Contains(e.Hint(), "refused the credentials") ||
		strings.Contains(e.Error(), "wrong-one") {
		t.Errorf("wrong credentials: %v", e)
	}
	e = try(builder(good, ""), pluginbuild.Image{Ref: h.addr + "/" + b.id + "/compiler:v9"})
	if !errors.Is(e, compiler.ErrNoImage) || e.Retryable() {
		t.Errorf("unknown tag: %v", e)
	}
	e = try(builder(good, ""), pluginbuild.Image{Ref: ref, Digest: "sha256:" + strings.Repeat("0",
		64)})
	if !errors.Is(e, compiler.ErrNoImage) {
		t.Errorf("unknown digest: %v", e)
	}
	if e = try(builder(good, compiler.PullNever), pluginbuild.Image{Ref: ref}); !errors.Is(e,
		compiler.ErrNoImage) || e.Hint() == "" {
		t.Errorf("never: %v", e)
	}

	// As a user's config.json holds them.
	config := t.TempDir()
	if err := os.WriteFile(filepath.Join(config, "config.json"), []byte(`{"auths":{"`+h.addr+
		`":{"auth":"`+
		base64.StdEncoding.EncodeToString([]byte(hubUser+":"+hubPassword))+`"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	events = nil
	first := builder(compiler.ConfigAuth(config), "")
	if e = try(first, pluginbuild.Image{Ref: ref}); !pulled(e) {
		t.Fatalf("good credentials: %v", e)
	}
	var progress bool
	for _, e := range events {
		progress = progress || e.Stage == "pull" && e.Kind == compiler.Progress && e.Part != ""
	}
	if !progress {
		t.Errorf("no progress in %+v", events)
	}
	asked := h.manifests.Load()
	if e = try(builder(good, ""), pluginbuild.Image{Ref: ref}); !pulled(e) ||
		h.manifests.Load() != asked {
		t.Errorf("present, %d manifests requested: %v", h.manifests.Load()-asked, e)
	}
	always := builder(good, compiler.PullAlways)
	if e = try(always, pluginbuild.Image{Ref: ref}); !pulled(e) || h.manifests.Load() == asked {
		t.Errorf("always: %v", e)
	}
	pinned := builder(good, "")
	if e = try(pinned, pluginbuild.Image{Ref: ref, Digest: digest}); !pulled(e) {
		t.Errorf("pinned: %v", e)
	}

	// Only who brought the image removes it.
	if removed, err := always.RemoveImages(t.Context()); err != nil || len(removed) != 0 {
		t.Errorf("removed %v, %v", removed, err)
	}
	if _, err := pinned.RemoveImages(t.Context()); err != nil {
		t.Error(err)
	}
	// Not while another's container uses it.
	c, err := b.docker.ContainerCreate(t.Context(), &container.Config{Image: ref,
		Labels: map[string]string{testLabel: b.id}}, nil, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	removed, err := first.RemoveImages(t.Context())
	if err == nil || len(removed) != 0 || !strings.Contains(err.Error(),
		"the other container that uses the image") {
		t.Errorf("in use: removed %v, %v", removed, err)
	}
	if err := b.docker.ContainerRemove(t.Context(), c.ID, container.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	removed, err = first.RemoveImages(t.Context())
	if err != nil || len(removed) != 1 || removed[0] != ref {
		t.Errorf("removed %v, %v", removed, err)
	}
	if _, err := b.docker.ImageInspect(t.Context(), id.String()); err == nil {
		t.Error("the image is still there")
	}

	// An image for another platform is refused after one look, not requested
	// again and again.
	foreign, _ := h.push(t, b.id+"/compiler:arm64", img(stub.Config{Arch: "arm64"}))
	asked = h.manifests.Load()
	third := builder(good, "")
	e = try(third, pluginbuild.Image{Ref: foreign})
	if e.Op != compiler.StagePull || !errors.Is(e, compiler.ErrPlatform) &&
		!errors.Is(e, compiler.ErrNoImage) || h.manifests.Load()-asked > 4 {
		t.Errorf("another platform, %d manifests: %v", h.manifests.Load()-asked, e)
	}
	if _, err := third.RemoveImages(t.Context()); err != nil {
		t.Error(err)
	}
}

// Cancelled in the middle of a pull, the engine stops downloading and nothing
// stays.
func TestCancelPull(t *testing.T) {
	t.Parallel()
	b, h := newBench(t), newHub(t)
	// The last layer is its own. The engine may have the one that all images share.
	img, err := stub.Image(stub.Config{Version: "5.2.5", Files: map[string]string{
		"/layer": b.id}})
	if err != nil {
		t.Fatal(err)
	}
	ref, _ := h.push(t, b.id+"/cancelled:v5.2.5", img)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := layers[len(layers)-1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	h.held = layer.String()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	why := errors.New("Ctrl-C")
	over, dropped := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(over) }) // before the registry waits for its requests
	var once sync.Once
	hold := func(more func() error) {
		for more() == nil {
			cancel(why)
			select {
			case <-over:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
		once.Do(func() { close(dropped) })
	}
	h.hold.Store(&hold)
	o := b.options()
	o.Pull, o.Auth, o.Caches = "", auth(hubUser, hubPassword), "none"
	builder := compiler.New(b.docker, o)
	_, err = builder.Build(ctx, compiler.Request{Release: release(t, "5.2.5"), Dir: plugin(t, tiny),
		Image: pluginbuild.Image{Ref: ref}})
	var e *compiler.Error
	if !errors.As(err, &e) || e.Op != compiler.StagePull || !errors.Is(err, context.Canceled) ||
		!errors.Is(err, why) || e.Retryable() {
		t.Errorf("%v", err)
	}
	select {
	case <-dropped:
	case <-time.After(time.Minute):
		t.Error("the engine goes on downloading")
	}
	if removed, err := builder.RemoveImages(t.Context()); err != nil || removed != nil {
		t.Errorf("%v, %v", removed, err)
	}
	if _, err := b.docker.ImageInspect(t.Context(), ref); err == nil {
		t.Error("the image is there")
	}
}

// TestAirgap takes the image from a file; no registry is asked.
func TestAirgap(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	img, err := stub.Image(stub.Config{Version: "5.2.5", Script: []string{"exit 9"},
		Labels: map[string]string{"run": b.id}})
	if err != nil {
		t.Fatal(err)
	}
	ref := "airgap.test/" + b.id + "/compiler:v5.2.5"
	id, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	save := func(ref string) string {
		t.Helper()
		f, err := os.CreateTemp(t.TempDir(), "*.tar")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(stub.Save(f, ref, img), f.Close()); err != nil {
			t.Fatal(err)
		}
		return f.Name()
	}
	path := save(ref)
	o := b.options()
	o.Pull, o.Caches = "", "none"
	builder := compiler.New(b.docker, o)
	dir := plugin(t, tiny)
	try := func(i pluginbuild.Image) *compiler.Error {
		t.Helper()
		_, err := builder.Build(t.Context(), compiler.Request{Release: release(t, "5.2.5"), Dir: dir,
			Image: i})
		var e *compiler.Error
		if !errors.As(err, &e) {
			t.Fatal(err)
		}
		return e
	}
	if e := try(pluginbuild.Image{Ref: ref, Tar: path, Digest: id.String()}); e.ExitCode != 9 {
		t.Errorf("%v", e)
	}
	if e := try(pluginbuild.Image{Ref: ref, Tar: path, Digest: "sha256:" + strings.Repeat("1",
		64)}); e.Op != compiler.StagePull || !strings.Contains(e.Error(), "not the pinned") {
		t.Errorf("another pin: %v", e)
	}
	// A file with another image is not loaded.
	unasked := "airgap.test/" + b.id + "/unasked:v1"
	file := save(unasked)
	if e := try(pluginbuild.Image{Ref: "airgap.test/other:v1", Tar: file}); !errors.Is(e,
		compiler.ErrNoImage) || !strings.Contains(e.Hint(), "holds "+unasked+"; name that as the image") {
		t.Errorf("another image: %v", e)
	}
	if _, err := b.docker.ImageInspect(t.Context(), unasked); err == nil {
		t.Error("it was loaded")
	}
	// A pipe can be read once only.
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		data, err := os.ReadFile(file)
		sent <- errors.Join(err, os.WriteFile(pipe, data, 0o600))
	}()
	if e := try(pluginbuild.Image{Ref: unasked, Tar: pipe}); e.ExitCode != 9 {
		t.Errorf("through a pipe: %v", e)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	// Pinned by its ID, the image that is there needs no registry and no file.
	o.Pull = compiler.PullNever
	never := compiler.New(b.docker, o)
	if _, err := never.Build(t.Context(), compiler.Request{Release: release(t, "5.2.5"), Dir: dir,
		Image: pluginbuild.Image{Ref: ref, Digest: id.String()}}); err == nil ||
		!strings.Contains(err.Error(), "exit code 9") {
		t.Errorf("pinned by ID: %v", err)
	}
	// Another image has taken the name: the pin says that the file's is meant.
	other, err := stub.Image(stub.Config{Version: "5.2.5", Script: []string{"exit 8"},
		Labels: map[string]string{"run": b.id}})
	if err != nil {
		t.Fatal(err)
	}
	if err := stub.Load(t.Context(), b.docker, ref, other); err != nil {
		t.Fatal(err)
	}
	if e := try(pluginbuild.Image{Ref: ref, Tar: path}); e.ExitCode != 8 {
		t.Errorf("present: %v", e)
	}
	if e := try(pluginbuild.Image{Ref: ref, Tar: path, Digest: id.String()}); e.ExitCode != 9 {
		t.Errorf("present, but not the pinned one: %v", e)
	}
	otherID, err := other.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.docker.ImageRemove(t.Context(), otherID.String(), image.RemoveOptions{
		Force: true}); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("not a tar"), 0o600); err != nil {
		t.Fatal(err)
	}
	if e := try(pluginbuild.Image{Ref: "airgap.test/other:v1",
		Tar: path}); e.Op != compiler.StagePull {
		t.Errorf("broken file: %v", e)
	}
	if removed, err := builder.RemoveImages(t.Context()); err != nil || len(removed) != 2 {
		t.Errorf("removed %v, %v", removed, err)
		_, _ = b.docker.ImageRemove(t.Context(), ref, image.RemoveOptions{Force: true})
	}
}
