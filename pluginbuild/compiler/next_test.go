package compiler_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

func nextRelease(t testing.TB) pluginbuild.Release {
	t.Helper()
	v, err := pluginbuild.ParseVersion("5.15.0-alpha12")
	if err != nil {
		t.Fatal(err)
	}
	r, err := pluginbuild.Derive(v, strings.Repeat("ab", 20))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What the next-generation compiler is given, on engines of both processors.
func TestNextCreates(t *testing.T) {
	t.Parallel()
	ng := pluginbuild.Image{Variant: pluginbuild.NextGen}
	for name, c := range map[string]struct {
		arch, has string // of the engine, and of the image that it has
		api       string
		q         compiler.Request
		args      string
		platform  string
		want      string // error
	}{
		"amd64": {"amd64", "amd64", "1.41", compiler.Request{Image: ng},
			"plugin.so  linux amd64", "linux/amd64", ""},
		"arm64 engine": {"arm64", "arm64", "1.41", compiler.Request{Image: ng},
			"plugin.so  linux amd64", "linux/arm64", ""},
		"arm64, requested": {"arm64", "arm64", "1.49", compiler.Request{Image: ng},
			"plugin.so  linux amd64", "linux/arm64", ""},
		"not validated": {"amd64", "amd64", "1.41", compiler.Request{Image: ng, NoValidate: true},
			"plugin.so  linux amd64", "linux/amd64", ""},
		"emulated": {"arm64", "amd64", "1.41", compiler.Request{Image: ng, ID: "a"},
			"plugin.so a linux amd64", "linux/amd64", ""},
		"for s390x": {"amd64", "amd64", "1.41", compiler.Request{Image: ng, GOARCH: "s390x"},
			"plugin.so  linux s390x", "linux/amd64", ""},
		"image for s390x": {"amd64", "s390x", "1.41", compiler.Request{Image: ng}, "", "",
			"linux/s390x, not linux/amd64 or linux/arm64"},
		"classic on arm64": {"arm64", "arm64", "1.41", compiler.Request{}, "", "",
			"linux/arm64, not linux/amd64"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, 1, "", nil)
			f.arch, f.api = c.arch, c.api
			f.imageInspect = func(string) (image.InspectResponse, error) {
				return image.InspectResponse{ID: fakeID, Os: "linux", Architecture: c.has}, nil
			}
			f.imagePull = stream(`{"status":"Status: up to date"}`)
			created := false
			f.containerCreate = func(_ context.Context, got *container.Config, _ *container.HostConfig,
				p *ocispec.Platform, _ string) (string, error) {
				created = true
				if args := strings.Join(got.Cmd, " "); args != c.args || p.OS+"/"+p.Architecture != c.platform {
					t.Errorf("%q on %s/%s, want %q on %s", args, p.OS, p.Architecture, c.args, c.platform)
				}
				if slices.Contains(got.Env, "VALIDATE=0") != c.q.NoValidate {
					t.Errorf("%v", got.Env)
				}
				return "c0ffee", nil
			}
			c.q.Release = nextRelease(t)
			_, err := buildFake(t, f, compiler.Options{Auth: auth("", "")}, c.q)
			if created != (c.want == "") || !strings.Contains(fmt.Sprint(err), c.want) {
				t.Errorf("%v", err)
			}
			// A store with several platforms returns the requested one, if the API can.
			if asked := slices.Contains(f.calls, "ImageInspect for linux/"+c.arch); asked != (c.api == "1.49") {
				t.Errorf("calls %v", f.calls)
			}
		})
	}
	for name, q := range map[string]compiler.Request{
		"s390x of an edition": {Image: pluginbuild.Image{Variant: pluginbuild.NextGen,
			Edition: pluginbuild.Enterprise}, GOARCH: "s390x"},
		"NoValidate, classic":  {NoValidate: true},
		"release without next": {Image: ng, Release: release(t, "5.14.0")},
	} {
		if q.Release.Version == nil {
			q.Release = nextRelease(t)
		}
		if _, err := buildFake(t, &fake{t: t}, compiler.Options{}, q); !errors.Is(err,
			compiler.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A load test needs an image with a gateway, and starts that.
func TestNextLoadTest(t *testing.T) {
	t.Parallel()
	so, r := soFile(t, sharedObject(62)), nextRelease(t)
	ng := pluginbuild.Image{Variant: pluginbuild.NextGen}
	if _, err := compiler.NewOn(&fake{t: t}, compiler.Options{}).LoadTest(t.Context(), r, ng, so,
		"Hook"); !errors.Is(err, compiler.ErrUnsupported) || !strings.Contains(err.Error(),
		"to an image of the gateway") {
		t.Errorf("%v", err)
	}
	f := newFake(t, 0, "", nil)
	f.containerCreate = func(_ context.Context, got *container.Config, _ *container.HostConfig,
		_ *ocispec.Platform, _ string) (string, error) {
		if !slices.Equal(got.Entrypoint, []string{"/opt/tyk-gateway/tyk"}) || got.Cmd[0] != "plugin" {
			t.Errorf("%v %v", got.Entrypoint, got.Cmd)
		}
		return "c0ffee", nil
	}
	ng.Ref = "tykio/tyk-gateway:v5.15.0"
	if _, err := compiler.NewOn(&fake{t: t}, compiler.Options{}).LoadTest(t.Context(), r, ng, so,
		"Hook"); !errors.Is(err, compiler.ErrUnsupported) {
		t.Errorf("the image may be a compiler: %v", err)
	}
	ng.Gateway = "/opt/tyk-gateway/tyk"
	if v, err := compiler.NewOn(f, compiler.Options{}).LoadTest(t.Context(), r, ng, so,
		"Hook"); err != nil || !v.Loads {
		t.Errorf("%+v, %v", v, err)
	}
}

// An image that came from a file without a name goes by its ID.
func TestRemoveLoadedImage(t *testing.T) {
	t.Parallel()
	f := newFake(t, 1, "", nil)
	whole, there := f.imageInspect, false
	f.imageInspect = func(ref string) (image.InspectResponse, error) {
		if !there || ref != fakeID {
			return image.InspectResponse{}, fmt.Errorf("no: %w", errdefs.ErrNotFound)
		}
		return whole(ref)
	}
	f.imageLoad = func(r io.Reader) (io.ReadCloser, error) {
		there = true
		_, err := io.Copy(io.Discard, r)
		return io.NopCloser(strings.NewReader(`{"stream":"Loaded image ID"}`)), err
	}
	b := compiler.NewOn(f, compiler.Options{})
	_, err := b.Build(t.Context(), compiler.Request{Release: release(t, "5.2.5"), Dir: plugin(t, tiny),
		Image: pluginbuild.Image{Tar: soFile(t, []byte("tar")), Digest: fakeID}})
	if e := (*compiler.Error)(nil); !errors.As(err, &e) || e.Op != compiler.StageCompile {
		t.Fatal(err)
	}
	f.containerList = func(filters.Args) ([]container.Summary, error) { return nil, nil }
	f.imageRemove = func(ref string) error {
		if ref != fakeID {
			return fmt.Errorf("no: %w", errdefs.ErrNotFound)
		}
		return nil
	}
	if removed, err := b.RemoveImages(t.Context()); err != nil || !slices.Equal(removed,
		[]string{fakeID}) {
		t.Errorf("%v, %v", removed, err)
	}
}

// What the script copies: names with a leading dot too, but never .git.
func TestNextUploads(t *testing.T) {
	t.Parallel()
	dir := plugin(t, tiny, map[string]string{".env": "", ".git/config": "",
		".tykupgrade-prepare/journal.json": "", "old.so": ""})
	for v, want := range map[pluginbuild.Variant]bool{pluginbuild.Classic: false,
		pluginbuild.NextGen: true} {
		f := newFake(t, 1, "", nil)
		var got string
		f.copyTo = func(_ string, r io.Reader) error {
			data, err := io.ReadAll(r)
			got = string(data)
			return err
		}
		_, _ = buildFake(t, f, compiler.Options{}, compiler.Request{Release: nextRelease(t), Dir: dir,
			Image: pluginbuild.Image{Variant: v}})
		if strings.Contains(got, "plugin-source/.env") != want || strings.Contains(got, ".git") ||
			strings.Contains(got, "tykupgrade-prepare") || strings.Contains(got, "old.so") ||
			!strings.Contains(got, "plugin-source/go.mod") {
			t.Errorf("%s: %q", v, got)
		}
	}
}

// A container cannot fill the caller's disk.
func TestResultTooLarge(t *testing.T) {
	t.Parallel()
	f := newFake(t, 0, "", nil)
	f.copyFrom = func(string) (io.ReadCloser, error) {
		var b bytes.Buffer
		err := tar.NewWriter(&b).WriteHeader(&tar.Header{Name: "plugin.so", Typeflag: tar.TypeReg,
			Size: 1<<30 + 1})
		return io.NopCloser(io.MultiReader(&b, zeros{})), err
	}
	out := t.TempDir()
	_, err := buildFake(t, f, compiler.Options{}, compiler.Request{OutputDir: out})
	var e *compiler.Error
	if !errors.Is(err, compiler.ErrTooLarge) || !errors.As(err, &e) || e.Op != compiler.StageCollect {
		t.Errorf("%v", err)
	}
	only(t, out)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
