package compiler_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"example.com/tykupgrade/pluginbuild/compiler"
)

// fake is an engine of closures; calling one that a test did not script fails
// the test.
type fake struct {
	t *testing.T

	mu    sync.Mutex
	calls []string

	arch, api string // of the engine

	ping            func() error
	imageInspect    func(ref string) (image.InspectResponse, error)
	imagePull       func(ref string, o image.PullOptions) (io.ReadCloser, error)
	imageLoad       func(tar io.Reader) (io.ReadCloser, error)
	imageRemove     func(ref string) error
	containerCreate func(ctx context.Context, c *container.Config, h *container.HostConfig,
		p *ocispec.Platform, name string) (string, error)
	containerAttach func() (types.HijackedResponse, error)
	containerWait   func(ctx context.Context) (<-chan container.WaitResponse, <-chan error)
	containerStart  func() error
	containerState  func() (*container.State, error)
	containerRemove func(ctx context.Context, id string) error
	containerList   func(f filters.Args) ([]container.Summary, error)
	copyTo          func(dir string, tar io.Reader) error
	copyFrom        func(path string) (io.ReadCloser, error)
	volumeCreate    func(o volume.CreateOptions) error
	volumeList      func() ([]*volume.Volume, error)
	volumeRemove    func(name string) error
}

func (f *fake) called(name string, scripted bool) error {
	f.mu.Lock()
	f.calls = append(f.calls, name)
	f.mu.Unlock()
	if !scripted {
		f.t.Errorf("the engine got a call that nobody scripted: %s", name)
		return fmt.Errorf("unscripted call %s", name)
	}
	return nil
}

func (f *fake) Ping(context.Context) (types.Ping, error) {
	if err := f.called("Ping", f.ping != nil); err != nil {
		return types.Ping{}, err
	}
	return types.Ping{}, f.ping()
}

func (f *fake) ServerVersion(context.Context) (types.Version, error) {
	return types.Version{Os: "linux", Arch: cmp.Or(f.arch, "amd64")}, nil
}

func (f *fake) NegotiateAPIVersionPing(types.Ping) {}

func (f *fake) ClientVersion() string { return cmp.Or(f.api, "1.41") }

func (f *fake) ImageInspect(_ context.Context, ref string,
	o ...client.ImageInspectOption) (image.InspectResponse, error) {
	name := "ImageInspect"
	if len(o) > 0 {
		name += " for linux/" + f.arch // the option cannot be read
	}
	if err := f.called(name, f.imageInspect != nil); err != nil {
		return image.InspectResponse{}, err
	}
	return f.imageInspect(ref)
}

func (f *fake) ImagePull(_ context.Context, ref string,
	o image.PullOptions) (io.ReadCloser, error) {
	if err := f.called("ImagePull", f.imagePull != nil); err != nil {
		return nil, err
	}
	return f.imagePull(ref, o)
}

func (f *fake) ImageLoad(_ context.Context, tar io.Reader,
	_ ...client.ImageLoadOption) (image.LoadResponse, error) {
	if err := f.called("ImageLoad", f.imageLoad != nil); err != nil {
		return image.LoadResponse{}, err
	}
	body, err := f.imageLoad(tar)
	return image.LoadResponse{Body: body}, err
}

func (f *fake) ImageRemove(_ context.Context, ref string,
	_ image.RemoveOptions) ([]image.DeleteResponse, error) {
	if err := f.called("ImageRemove", f.imageRemove != nil); err != nil {
		return nil, err
	}
	return nil, f.imageRemove(ref)
}

func (f *fake) ContainerCreate(ctx context.Context, c *container.Config, h *container.HostConfig,
	_ *network.NetworkingConfig, p *ocispec.Platform, name string) (container.CreateResponse, error) {
	if err := f.called("ContainerCreate", f.containerCreate != nil); err != nil {
		return container.CreateResponse{}, err
	}
	id, err := f.containerCreate(ctx, c, h, p, name)
	return container.CreateResponse{ID: id}, err
}

func (f *fake) ContainerAttach(context.Context, string,
	container.AttachOptions) (types.HijackedResponse, error) {
	if err := f.called("ContainerAttach", f.containerAttach != nil); err != nil {
		return types.HijackedResponse{}, err
	}
	return f.containerAttach()
}

func (f *fake) ContainerWait(ctx context.Context, _ string,
	c container.WaitCondition) (<-chan container.WaitResponse, <-chan error) {
	if err := f.called("ContainerWait "+string(c), f.containerWait != nil); err != nil {
		errs := make(chan error, 1)
		errs <- err
		return nil, errs
	}
	return f.containerWait(ctx)
}

func (f *fake) ContainerStart(context.Context, string, container.StartOptions) error {
	if err := f.called("ContainerStart", f.containerStart != nil); err != nil {
		return err
	}
	return f.containerStart()
}

func (f *fake) ContainerInspect(context.Context, string) (container.InspectResponse, error) {
	if err := f.called("ContainerInspect", f.containerState != nil); err != nil {
		return container.InspectResponse{}, err
	}
	s, err := f.containerState()
	return container.InspectResponse{ContainerJSONBase: &container.ContainerJSONBase{State: s}}, err
}

func (f *fake) ContainerRemove(ctx context.Context, id string, o container.RemoveOptions) error {
	if err := f.called("ContainerRemove", f.containerRemove != nil); err != nil {
		return err
	}
	if !o.Force || !o.RemoveVolumes || o.RemoveLinks {
		f.t.Errorf("removed with %+v", o)
	}
	return f.containerRemove(ctx, id)
}

func (f *fake) ContainerList(_ context.Context,
	o container.ListOptions) ([]container.Summary, error) {
	if err := f.called("ContainerList", f.containerList != nil); err != nil {
		return nil, err
	}
	return f.containerList(o.Filters)
}

func (f *fake) CopyToContainer(_ context.Context, _, dir string, tar io.Reader,
	_ container.CopyToContainerOptions) error {
	if err := f.called("CopyToContainer", f.copyTo != nil); err != nil {
		return err
	}
	return f.copyTo(dir, tar)
}

func (f *fake) CopyFromContainer(_ context.Context, _,
	path string) (io.ReadCloser, container.PathStat, error) {
	if err := f.called("CopyFromContainer", f.copyFrom != nil); err != nil {
		return nil, container.PathStat{}, err
	}
	body, err := f.copyFrom(path)
	return body, container.PathStat{}, err
}

func (f *fake) VolumeCreate(_ context.Context, o volume.CreateOptions) (volume.Volume, error) {
	if err := f.called("VolumeCreate", f.volumeCreate != nil); err != nil {
		return volume.Volume{}, err
	}
	return volume.Volume{Name: o.Name}, f.volumeCreate(o)
}

func (f *fake) VolumeList(context.Context, volume.ListOptions) (volume.ListResponse, error) {
	if err := f.called("VolumeList", f.volumeList != nil); err != nil {
		return volume.ListResponse{}, err
	}
	list, err := f.volumeList()
	return volume.ListResponse{Volumes: list}, err
}

func (f *fake) VolumeRemove(_ context.Context, name string, force bool) error {
	if err := f.called("VolumeRemove", f.volumeRemove != nil); err != nil {
		return err
	}
	if force {
		f.t.Errorf("volume %s is removed by force", name)
	}
	return f.volumeRemove(name)
}

const fakeID = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// newFake scripts a compile that ends with an exit code and leaves file; tests
// change what they are about.
func newFake(t *testing.T, code int, stderr string, file []byte) *fake {
	f := &fake{t: t}
	f.ping = func() error { return nil }
	f.imageInspect = func(string) (image.InspectResponse, error) {
		return image.InspectResponse{ID: fakeID, Os: "linux", Architecture: "amd64",
			RepoDigests: []string{"x@sha256:aa"}}, nil
	}
	f.volumeCreate = func(volume.CreateOptions) error { return nil }
	f.containerCreate = func(context.Context, *container.Config, *container.HostConfig,
		*ocispec.Platform, string) (string, error) {
		return "c0ffee", nil
	}
	f.copyTo = func(_ string, r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }
	f.containerAttach = func() (types.HijackedResponse, error) {
		var b bytes.Buffer
		_, err := stdcopy.NewStdWriter(&b, stdcopy.Stderr).Write([]byte(stderr))
		here, there := net.Pipe()
		_ = there.Close()
		return types.HijackedResponse{Conn: here, Reader: bufio.NewReader(&b)}, err
	}
	f.containerWait = func(context.Context) (<-chan container.WaitResponse, <-chan error) {
		c := make(chan container.WaitResponse, 1)
		c <- container.WaitResponse{StatusCode: 0} // what counts is the state
		return c, nil
	}
	f.containerStart = func() error { return nil }
	f.containerState = func() (*container.State, error) {
		return &container.State{ExitCode: code},
			nil
	}
	f.containerRemove = func(context.Context, string) error { return nil }
	f.copyFrom = func(path string) (io.ReadCloser, error) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		err := w.WriteHeader(&tar.Header{Name: filepath.Base(path), Typeflag: tar.TypeReg,
			Size: int64(len(file))})
		_, err2 := w.Write(file)
		return io.NopCloser(&b), errors.Join(err, err2, w.Close())
	}
	return f
}

// sharedObject returns the smallest file that passes for a plugin of the
// releases before Go left build information.
func sharedObject(machine byte) []byte {
	b := make([]byte, 64)
	copy(b, "\x7fELF\x02\x01\x01")
	b[16], b[18], b[20], b[52] = 3, machine, 1, 64
	return b
}

func buildFake(t *testing.T, f *fake, o compiler.Options,
	q compiler.Request) (compiler.Artifact, error) {
	t.Helper()
	if q.Release.Version == nil {
		q.Release = release(t, "4.0.8")
	}
	if q.Dir == "" {
		q.Dir = plugin(t, tiny)
	}
	if q.OutputDir == "" {
		q.OutputDir = t.TempDir()
	}
	return compiler.NewOn(f, o).Build(t.Context(), q)
}

// readable checks that an error makes sense to users of a command too, who see
// flags and not this package's fields.
func readable(t *testing.T, err error) {
	t.Helper()
	if fields := regexp.MustCompile(
		`\b(Options|Request|Image|Limits|Builder)\.[A-Z]\w+|\b(EL7|Plain|GoTidy|Exclude|Bind)\b`).
		FindAllString(fmt.Sprint(err), -1); fields != nil {
		t.Errorf("names %q of the package's fields: %v", fields, err)
	}
}

func stream(lines ...string) func(string, image.PullOptions) (io.ReadCloser, error) {
	return func(string, image.PullOptions) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(strings.Join(lines, "\n"))), nil
	}
}
