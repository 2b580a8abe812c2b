package compiler_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/volume"

	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

// Credentials are requested under the name that config.json uses.
func TestRegistryNames(t *testing.T) {
	t.Parallel()
	for ref, want := range map[string]string{"": "https://index.docker.io/v1/",
		"mirror.example.org:5000/tyk": "mirror.example.org:5000",
		"someone/tyk":                 "https://index.docker.io/v1/"} {
		f := &fake{t: t, ping: func() error { return nil }, imagePull: stream(`{"error":"no"}`)}
		f.imageInspect = func(string) (image.InspectResponse, error) {
			return image.InspectResponse{},
				errdefs.ErrNotFound
		}
		asked := ""
		_, err := buildFake(t, f, compiler.Options{Auth: func(_ context.Context,
			host string) (compiler.Credentials, error) {
			asked = host
			return compiler.Credentials{}, nil
		}}, compiler.Request{Image: pluginbuild.Image{Ref: ref}})
		if err == nil || asked != want {
			t.Errorf("%q: requested %s: %v", ref, asked, err)
		}
	}
}

// What an engine says while it loads is shown as well.
func TestLoadProgress(t *testing.T) {
	t.Parallel()
	f := newFake(t, 1, "", nil)
	whole, there := f.imageInspect, false
	f.imageInspect = func(ref string) (image.InspectResponse, error) {
		if there {
			return whole(ref)
		}
		return image.InspectResponse{}, errdefs.ErrNotFound
	}
	f.imageLoad = func(r io.Reader) (io.ReadCloser, error) {
		there = true
		_, err := io.Copy(io.Discard, r)
		return io.NopCloser(strings.NewReader(`{"stream":"Loaded image: x\n"}`)), err
	}
	var lines []string
	_, _ = buildFake(t, f, compiler.Options{Progress: func(e compiler.Event) {
		if e.Kind == compiler.Progress && e.Stage == compiler.StagePull {
			lines = append(lines, fmt.Sprint(e.Line, " ", e.Current, " of ", e.Total))
		}
	}}, compiler.Request{Image: pluginbuild.Image{Tar: soFile(t, []byte("tar"))}})
	if text := strings.Join(lines, "; "); text != "Loading 3 of 3; Loading 3 of 3; Loaded "+
		"image: x 0 of 0" {
		t.Error(text)
	}
}

// What engines say when a pull fails, each in its own way.
func TestPullErrors(t *testing.T) {
	t.Parallel()
	answer := func(err error) func(string, image.PullOptions) (io.ReadCloser, error) {
		return func(string, image.PullOptions) (io.ReadCloser, error) { return nil, err }
	}
	for name, c := range map[string]struct {
		pull  func(string, image.PullOptions) (io.ReadCloser, error)
		want  string
		is    error
		retry bool
	}{
		"20.10, no credentials": {
			answer(fmt.Errorf("Head \"https://x/v2/\": no basic auth credentials: %w", errdefs.ErrInternal)),
			"no credentials for", nil, false},
		"Podman, error in the stream": {stream(`{"status":"Trying to pull"}`,
			`{"error":"unable to retrieve auth token: invalid username/password: unauthorized","errorDetail":{"message":"unable to retrieve auth token: invalid username/password: unauthorized"}}`), "no credentials for", nil, false},
		"Podman, unknown tag": {
			stream(`{"error":"initializing source: reading manifest v9: manifest unknown"}`), "no such tag",
			compiler.ErrNoImage, false},
		"done, and nothing": {stream(`{"status":"Status: Downloaded"}`),
			"reported a successful pull", compiler.ErrNoImage, false},
		"not found": {answer(fmt.Errorf("manifest for x not found: %w",
			errdefs.ErrNotFound)), "no such tag", compiler.ErrNoImage, false},
		"no route": {answer(fmt.Errorf("Get \"https://registry-1.docker.io/v2/\": "+
			"dial tcp: lookup registry-1.docker.io: no such host: %w", errdefs.ErrInternal)), "airgapped",
			nil, true},
		"rate limit": {
			stream(`{"errorDetail":{"message":"toomanyrequests: You have reached your pull rate limit"}}`),
			"limits pulls", nil, true},
		"stream breaks": {
			stream(`{"status":"Downloading","id":"a","progressDetail":{"current":1,"total":2}}`,
				`{"status":`), "unexpected EOF", nil, true},
		"not JSON": {stream("<html>proxy error</html>"), "read the engine's progress",
			nil, false},
		"engine is gone": {answer(fmt.Errorf("503: %w", errdefs.ErrUnavailable)), "503", nil,
			true},
		"disk full": {
			stream(`{"error":"write /var/lib/docker/tmp/x: no space left on device"}`),
			"free space on the engine's disk", nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &fake{t: t, ping: func() error { return nil }, imagePull: c.pull}
			f.imageInspect = func(string) (image.InspectResponse, error) {
				return image.InspectResponse{}, fmt.Errorf("no: %w", errdefs.ErrNotFound)
			}
			_, err := buildFake(t, f, compiler.Options{Auth: auth("", "")}, compiler.Request{})
			var e *compiler.Error
			if !errors.As(err, &e) || e.Op != compiler.StagePull || !strings.Contains(err.Error(), c.want) ||
				e.Retryable() != c.retry || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("retryable %v: %v", e.Retryable(), err)
			}
			readable(t, err)
		})
	}
}

// An engine that reports the pull of an absent platform as done (20.10) is
// asked once, not for ever.
func TestWrongPlatformAfterPull(t *testing.T) {
	t.Parallel()
	f := &fake{t: t, ping: func() error { return nil }}
	f.imageInspect = func(string) (image.InspectResponse, error) {
		return image.InspectResponse{ID: fakeID, Os: "linux", Architecture: "arm64"}, nil
	}
	var asked image.PullOptions
	f.imagePull = func(ref string, o image.PullOptions) (io.ReadCloser, error) {
		asked = o
		return stream(`{"status":"Status: Image is up to date"}`)(ref, o)
	}
	_, err := buildFake(t, f, compiler.Options{Auth: auth("", "")}, compiler.Request{})
	if !errors.Is(err, compiler.ErrPlatform) || asked.Platform != "linux/amd64" {
		t.Errorf("asked %+v: %v", asked, err)
	}
	if got := strings.Join(f.calls, ", "); got != "Ping, ImageInspect, ImagePull, ImageInspect" {
		t.Errorf("calls %s", got)
	}
}

// Leftovers: an engine may return more than was requested (Podman 4.3 joins
// labels by "or"), and may fail for one of several.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	label := map[string]string{compiler.LabelRun: "r", "team": "a"}
	other := map[string]string{compiler.LabelRun: "r", "team": "b"}
	cache := func(name, kind string, labels map[string]string) *volume.Volume {
		l := maps.Clone(labels)
		l[compiler.LabelKind] = kind
		return &volume.Volume{Name: name, Labels: l}
	}
	f := &fake{t: t}
	f.containerList = func(a filters.Args) ([]container.Summary, error) {
		if !a.ExactMatch("label", "team=a") || !a.ExactMatch("label", compiler.LabelRun) {
			t.Errorf("requested %v", a)
		}
		young := time.Now().Unix()
		return []container.Summary{
			{ID: "ours", Names: []string{"/old"}, Labels: label}, {ID: "stuck", Labels: label}, {ID: "gone",
				Labels: label},
			{ID: "young", Labels: label, Created: young}, {ID: "theirs", Labels: other}, {ID: "foreign"},
		}, nil
	}
	var removed []string
	remove := func(id string) error {
		removed = append(removed, id)
		switch id {
		case "stuck", "tykupgrade-gocache":
			return fmt.Errorf("in use: %w", errdefs.ErrConflict)
		case "gone", "tykupgrade-gomodcache-2":
			return fmt.Errorf("gone: %w", errdefs.ErrNotFound)
		}
		return nil
	}
	f.containerRemove = func(_ context.Context, id string) error { return remove(id) }
	f.volumeRemove = remove
	f.volumeList = func() ([]*volume.Volume, error) {
		return []*volume.Volume{
			cache("tykupgrade-gocache", "build-cache", label), cache("tykupgrade-gomodcache-1",
				"module-cache", label),
			cache("tykupgrade-gomodcache-2", "module-cache", label), cache("tykupgrade-gocache-b",
				"build-cache", other),
			cache("other-gocache", "build-cache", label), cache("tykupgrade-gone", "compile", label),
		}, nil
	}
	b := compiler.NewOn(f, compiler.Options{Labels: map[string]string{"team": "a"}})
	swept, err := b.Sweep(t.Context(), time.Hour)
	var e *compiler.Error
	if !errors.As(err, &e) || e.Op != compiler.StageRemove || !e.Retryable() || strings.Join(swept,
		" ") != "old gone" || strings.Join(removed, " ") != "ours stuck gone" {
		t.Errorf("swept %v, tried %v: %v", swept, removed, err)
	}
	// A Builder without caches of its own sees those of all.
	all, err := compiler.NewOn(f, compiler.Options{Caches: "none", Labels: map[string]string{
		"team": "a"}}).ListCaches(t.Context())
	if err != nil || len(all) != 4 || all[0].Name != "other-gocache" {
		t.Errorf("%+v, %v", all, err)
	}
	f.containerList = func(filters.Args) ([]container.Summary, error) {
		return nil,
			errdefs.ErrUnavailable
	}
	if _, err := b.Sweep(t.Context(), time.Hour); !errors.As(err, &e) ||
		e.Op != compiler.StageConnect || !e.Retryable() {
		t.Errorf("no list: %v", err)
	}
	removed = nil
	caches, err := b.RemoveCaches(t.Context())
	if !errors.As(err, &e) || !e.Retryable() || !strings.Contains(e.Hint(), "wait for the end of the container") ||
		strings.Join(caches, " ") != "tykupgrade-gomodcache-1" || len(removed) != 3 {
		t.Errorf("removed %v, tried %v: %v", caches, removed, err)
	}
}

// RemoveImages removes what this Builder brought and nothing else, containers
// first.
func TestRemoveImages(t *testing.T) {
	t.Parallel()
	f := newFake(t, 1, "", nil)
	there := false
	whole := f.imageInspect
	f.imageInspect = func(ref string) (image.InspectResponse, error) {
		if strings.HasSuffix(ref, "new") && !there {
			return image.InspectResponse{}, fmt.Errorf("no: %w", errdefs.ErrNotFound)
		}
		return whole(ref)
	}
	f.imagePull = func(ref string, o image.PullOptions) (io.ReadCloser, error) {
		there = there || strings.HasSuffix(ref, "new")
		return stream(`{"status":"Digest: sha256:aa"}`)(ref, o)
	}
	b := compiler.NewOn(f, compiler.Options{Pull: compiler.PullAlways, Auth: auth("", "")})
	for _, ref := range []string{"hub.example.org/old", "hub.example.org/x:new"} {
		var e *compiler.Error
		_, err := b.Build(t.Context(), compiler.Request{Release: release(t, "5.2.5"), Dir: plugin(t,
			tiny), Image: pluginbuild.Image{Ref: ref}})
		if !errors.As(err, &e) || e.ExitCode != 1 {
			t.Fatal(err)
		}
	}
	f.calls = nil
	f.containerList = func(filters.Args) ([]container.Summary, error) {
		return []container.Summary{{ID: "ours", Labels: map[string]string{compiler.LabelRun: b.Run()}},
			{ID: "theirs"}}, nil
	}
	f.containerRemove = func(_ context.Context, id string) error {
		if id != "ours" {
			t.Errorf("removed container %s", id)
		}
		return nil
	}
	f.imageRemove = func(ref string) error {
		if ref != "hub.example.org/x:new" {
			t.Errorf("removed image %s", ref)
		}
		return nil
	}
	for range 2 { // the second time there is nothing left to do
		removed, err := b.RemoveImages(t.Context())
		f.containerList = func(filters.Args) ([]container.Summary, error) { return nil, nil }
		if err != nil || len(removed) > 1 {
			t.Errorf("%v, %v", removed, err)
		}
	}
	if got := strings.Join(f.calls, ", "); got != "ContainerList, ContainerRemove, ImageRemove, "+
		"ContainerList" {
		t.Errorf("calls %s", got)
	}
}

// An image that somebody else brings after our pull failed is not ours.
func TestRemoveImagesAfterFailedPull(t *testing.T) {
	t.Parallel()
	f := newFake(t, 1, "", nil)
	whole, there := f.imageInspect, false
	f.imageInspect = func(ref string) (image.InspectResponse, error) {
		if !there {
			return image.InspectResponse{}, fmt.Errorf("no: %w", errdefs.ErrNotFound)
		}
		return whole(ref)
	}
	f.imagePull = stream(`{"error":"dial tcp: i/o timeout"}`)
	b := compiler.NewOn(f, compiler.Options{Auth: auth("", "")})
	for _, there = range []bool{false, true} {
		if _, err := b.Build(t.Context(), compiler.Request{Release: release(t, "5.2.5"), Dir: plugin(t,
			tiny)}); err == nil {
			t.Fatal("built")
		}
	}
	f.containerList = func(filters.Args) ([]container.Summary, error) { return nil, nil }
	// ImageRemove is not scripted
	if removed, err := b.RemoveImages(t.Context()); err != nil || removed != nil {
		t.Errorf("%v, %v", removed, err)
	}
}

// References of official and other images.
func TestImageReference(t *testing.T) {
	t.Parallel()
	digest := "sha256:" + strings.Repeat("ab", 32)
	for _, c := range []struct {
		version string
		image   pluginbuild.Image
		want    string
	}{
		{"5.2.5", pluginbuild.Image{}, "docker.io/tykio/tyk-plugin-compiler:v5.2.5"},
		{"5.8.14", pluginbuild.Image{Edition: pluginbuild.Enterprise},
			"docker.io/tykio/tyk-plugin-compiler-ee:v5.8.14"},
		{"5.8.14", pluginbuild.Image{Edition: pluginbuild.FIPS},
			"docker.io/tykio/tyk-plugin-compiler-fips:v5.8.14"},
		{"4.0.8", pluginbuild.Image{Distro: "ubuntu/xenial"},
			"docker.io/tykio/tyk-plugin-compiler:v4.0.8-el7"},
		{"4.0.8", pluginbuild.Image{Distro: "ubuntu/focal"},
			"docker.io/tykio/tyk-plugin-compiler:v4.0.8"},
		{"4.0.8", pluginbuild.Image{Distro: "ubuntu/xenial", Plain: true},
			"docker.io/tykio/tyk-plugin-compiler:v4.0.8"},
		{"5.0.5", pluginbuild.Image{Distro: "ubuntu/bionic", EL7: true},
			"docker.io/tykio/tyk-plugin-compiler:v5.0.5-el7"},
		{"5.0.5", pluginbuild.Image{Distro: "ubuntu/bionic"}, "choose the -el7 image if"},
		{"5.2.5", pluginbuild.Image{Distro: "ubuntu/bionic"},
			"docker.io/tykio/tyk-plugin-compiler:v5.2.5"},
		{"5.2.5", pluginbuild.Image{Digest: digest}, "docker.io/tykio/tyk-plugin-compiler@" + digest},
		{"5.2.5", pluginbuild.Image{Ref: "mirror.example.org:5000/tyk:v5.2.5", Digest: digest},
			"mirror.example.org:5000/tyk@" + digest},
		{"5.2.5", pluginbuild.Image{Ref: "mirror.example.org/tyk"}, "mirror.example.org/tyk:latest"},
		{"5.2.5", pluginbuild.Image{Ref: "x", EL7: true}, "a named image has its own edition"},
		{"5.2.5", pluginbuild.Image{EL7: true, Plain: true}, "choose one"},
	} {
		got, err := compiler.Reference(c.image, release(t, c.version))
		if err != nil {
			got = err.Error()
			readable(t, err)
		}
		if got != c.want && (err == nil || !errors.Is(err, compiler.ErrRequest) || !strings.Contains(got,
			c.want)) {
			t.Errorf("%s %+v: %s, want %s", c.version, c.image, got, c.want)
		}
	}
}
