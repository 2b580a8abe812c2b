package compiler_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/pluginbuild"
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

// The order of calls is what makes exit codes and output reliable.
func TestBuildCalls(t *testing.T) {
	t.Parallel()
	f := newFake(t, 0, "", sharedObject(62))
	a, err := buildFake(t, f, compiler.Options{}, compiler.Request{})
	if err != nil {
		t.Fatal(err)
	}
	want := "Ping, ImageInspect, ImageInspect, VolumeCreate, VolumeCreate, ContainerCreate, " +
		"CopyToContainer, ContainerAttach, " +
		"ContainerWait next-exit, ContainerStart, ContainerInspect, CopyFromContainer, ContainerRemove"
	if got := strings.Join(f.calls, ", "); got != want {
		t.Errorf("calls\n%s, want\n%s", got, want)
	}
	if a.ImageDigest != "sha256:aa" || a.ImageID != fakeID ||
		a.Image != "docker.io/tykio/tyk-plugin-compiler:v4.0.8" {
		t.Errorf("%+v", a)
	}
}

// Of two builds that make a cache at the same moment one is told that it exists.
func TestBuildCacheMadeMeanwhile(t *testing.T) {
	t.Parallel()
	for _, answer := range []error{
		fmt.Errorf("in use: %w", errdefs.ErrConflict),
		fmt.Errorf("adding volume to state: name x is in use: volume already exists: %w",
			errdefs.ErrInternal),
	} {
		f := newFake(t, 0, "", sharedObject(62))
		f.volumeCreate = func(volume.CreateOptions) error { return answer }
		if _, err := buildFake(t, f, compiler.Options{}, compiler.Request{}); err != nil {
			t.Error(err)
		}
	}
}

// What the engine is asked to create, for each kind of request.
func TestBuildCreates(t *testing.T) {
	t.Parallel()
	netrc := filepath.Join(t.TempDir(), "netrc")
	if err := os.WriteFile(netrc, []byte("machine x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		version, args string
		env           []string
		q             compiler.Request
		o             compiler.Options
	}{
		"plain":   {version: "4.0.8", args: "plugin.so"},
		"with id": {version: "5.2.5", args: "my.so a1", q: compiler.Request{Name: "my.so", ID: "a1"}},
		"arm64": {version: "5.2.5", args: "plugin.so  linux arm64", q: compiler.Request{
			GOARCH: "arm64"}},
		"arm64, id": {version: "5.2.5", args: "plugin.so a1 linux arm64", q: compiler.Request{
			GOARCH: "arm64", ID: "a1"}},
		"s390x, CC": {version: "5.3.0", args: "plugin.so  linux s390x", q: compiler.Request{
			GOARCH: "s390x", Image: pluginbuild.Image{Ref: "x"}}, o: compiler.Options{Env: map[string]string{
			"CC": "s390x-linux-gnu-gcc"}}, env: []string{"CC=s390x-linux-gnu-gcc"}},
		"switches": {version: "5.2.5", args: "plugin.so", q: compiler.Request{GoGet: true,
			GoTidy: true, Debug: true}, env: []string{"DEBUG=1", "GO_GET=1", "GO_TIDY=1"}},
		"get only": {version: "5.2.3", args: "plugin.so", q: compiler.Request{GoGet: true},
			env: []string{"GO_GET=1"}},
		"settings": {version: "5.2.5", args: "plugin.so", o: compiler.Options{Env: map[string]string{
			"GOPROXY": "https://p"}, Netrc: netrc}, env: []string{"GOPROXY=https://p",
			"NETRC=/root/.netrc"}},
		"limits": {version: "5.2.5", args: "plugin.so", o: compiler.Options{Limits: compiler.Limits{
			Memory: 1 << 30, CPUs: 1.5, PIDs: 99, Network: "none"}}},
		"unlimited": {version: "5.2.5", args: "plugin.so", o: compiler.Options{Limits: compiler.Limits{
			Memory: -1, PIDs: -1, Capabilities: []string{"SYS_NICE"}}}},
		"bind": {version: "5.2.5", args: "plugin.so", q: compiler.Request{Bind: true}},
		"bind, netrc": {version: "5.2.5", args: "plugin.so", q: compiler.Request{Bind: true},
			o: compiler.Options{Netrc: netrc}, env: []string{"NETRC=/root/.netrc"}},
		"mounts": {version: "5.2.5", args: "plugin.so", o: compiler.Options{Mounts: []string{
			"/certs", "/a:/b"}}},
		"no caches": {version: "5.2.5", args: "plugin.so", o: compiler.Options{Caches: "none"}},
		"own labels": {version: "5.2.5", args: "plugin.so", o: compiler.Options{
			Labels: map[string]string{"team": "x"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, 1, "", nil)
			seen := false
			c.q.Dir, c.q.Release = plugin(t, tiny), release(t, c.version)
			c.q.Release.Broken = false
			f.containerCreate = func(_ context.Context, got *container.Config, h *container.HostConfig,
				p *ocispec.Platform, name string) (string, error) {
				seen = true
				if text := strings.Join(got.Cmd, " "); text != c.args {
					t.Errorf("arguments %q, want %q", text, c.args)
				}
				env, mounts := c.env, 2
				if c.o.Caches == "none" {
					mounts = 0
				} else {
					env = append([]string{"GOCACHE=/root/.cache/go-build", "GOMODCACHE=/go/pkg/mod"}, env...)
				}
				slices.Sort(env)
				if !slices.Equal(got.Env, env) {
					t.Errorf("environment %q, want %q", got.Env, env)
				}
				if c.q.Bind {
					mounts++
					if m := h.Mounts[len(h.Mounts)-1]; m.Source != c.q.Dir || m.Target != "/plugin-source" ||
						m.ReadOnly {
						t.Errorf("mount %+v", m)
					}
				}
				for _, m := range c.o.Mounts {
					mounts++
					source, target, _ := strings.Cut(m+":"+m, ":")
					target, _, _ = strings.Cut(target, ":")
					if i := slices.IndexFunc(h.Mounts,
						func(m mount.Mount) bool { return m.Source == source }); i < 0 ||
						h.Mounts[i].Target != target || !h.Mounts[i].ReadOnly || h.Mounts[i].Type != mount.TypeBind {
						t.Errorf("mount %s of %+v", m, h.Mounts)
					}
				}
				if len(h.Mounts) != mounts || len(h.Binds) != 0 {
					t.Errorf("mounts %+v, %v", h.Mounts, h.Binds)
				}
				if got.Image != fakeID || got.Tty || h.AutoRemove || h.Privileged || p.OS != "linux" ||
					p.Architecture != "amd64" || !strings.HasPrefix(name, "tykupgrade-compile-") {
					t.Errorf("%+v %+v %+v %s", got, h, p, name)
				}
				l := c.o.Limits
				if h.LogConfig.Type != "none" || !slices.Contains(h.SecurityOpt, "no-new-privileges") {
					t.Errorf("log %+v, security %v", h.LogConfig, h.SecurityOpt)
				}
				memory, pids := max(0, cmp.Or(l.Memory, 16<<30)), cmp.Or(l.PIDs, 4096)
				if h.Memory != memory || h.MemorySwap != memory || h.NanoCPUs != int64(l.CPUs*1e9) ||
					string(h.NetworkMode) != l.Network ||
					(h.PidsLimit == nil) != (pids < 0) || h.PidsLimit != nil && *h.PidsLimit != pids {
					t.Errorf("limits %+v", h.Resources)
				}
				caps := append([]string{"CHOWN", "DAC_OVERRIDE", "FOWNER"}, l.Capabilities...)
				if !slices.Equal(h.CapDrop, []string{"ALL"}) || !slices.Equal(h.CapAdd, caps) {
					t.Errorf("capabilities %v but %v", h.CapDrop, h.CapAdd)
				}
				if got.Labels[compiler.LabelRun] == "" || got.Labels[compiler.LabelKind] != "compile" ||
					got.Labels[compiler.LabelRelease] != c.version || got.Labels["team"] != c.o.Labels["team"] {
					t.Errorf("labels %v", got.Labels)
				}
				return "c0ffee", nil
			}
			if c.q.Bind {
				f.copyTo = nil
			}
			uploaded := c.o.Netrc == ""
			if c.q.Bind && c.o.Netrc != "" {
				f.copyTo = func(_ string, r io.Reader) error {
					uploaded = true
					tr := tar.NewReader(r)
					if h, err := tr.Next(); err != nil || h.Name != "root/.netrc" || h.Mode != 0o600 {
						t.Errorf("%+v, %v", h, err)
					}
					_, err := tr.Next()
					if err != io.EOF {
						t.Errorf("more than netrc: %v", err)
					}
					return nil
				}
			}
			if c.o.Caches == "none" {
				f.volumeCreate = nil
			}
			if _, err := buildFake(t, f, c.o, c.q); err == nil || !seen || c.q.Bind && !uploaded {
				t.Errorf("%v", err)
			}
		})
	}
}

// What is uploaded: everything the compiler would copy, but nothing it would
// damage, for root, in a fixed order.
func TestBuildUploads(t *testing.T) {
	t.Parallel()
	netrc := filepath.Join(t.TempDir(), "netrc")
	if err := os.WriteFile(netrc, []byte("machine x"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := plugin(t, tiny, map[string]string{
		"sub/deep/a.go": "package deep", "sub/.hidden": "kept: cp -r copies it", "sub/lib.so": "kept",
		"sub/.git/x": "",
		".env":       "", ".git/config": "", "old.so": "", "go.work": "", "go.work.sum": "",
		"sub/go.work": "kept", "testdata/big.bin": "", "testdata/keep.txt": "", "run.sh": "#!",
	})
	if err := errors.Join(os.Chmod(filepath.Join(dir, "run.sh"), 0o700), os.Symlink("sub/deep",
		filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	f := newFake(t, 1, "", nil)
	var got []string
	f.copyTo = func(to string, r io.Reader) error {
		if to != "/" {
			t.Errorf("uploaded to %s", to)
		}
		for tr := tar.NewReader(r); ; {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if h.Uid != 0 || h.Gid != 0 {
				t.Errorf("%s belongs to %d:%d", h.Name, h.Uid, h.Gid)
			}
			got = append(got, fmt.Sprintf("%s %o %s", h.Name, h.Mode, h.Linkname))
		}
	}
	_, err := buildFake(t, f, compiler.Options{Netrc: netrc}, compiler.Request{Dir: dir,
		Exclude: []string{"# as in a file", "/testdata", " !/testdata/keep.txt"}})
	var e *compiler.Error
	if !errors.As(err, &e) || e.Op != compiler.StageCompile {
		t.Fatal(err)
	}
	want := `root/.netrc 600 
plugin-source/ 755 
plugin-source/go.mod 644 
plugin-source/link 777 sub/deep
plugin-source/plugin.go 644 
plugin-source/run.sh 755 
plugin-source/sub/ 755 
plugin-source/sub/.hidden 644 
plugin-source/sub/deep/ 755 
plugin-source/sub/deep/a.go 644 
plugin-source/sub/go.work 644 
plugin-source/sub/lib.so 644 
plugin-source/testdata/ 755 
plugin-source/testdata/keep.txt 644 `
	if text := strings.Join(got, "\n"); text != want {
		t.Errorf("uploaded\n%s\nwant\n%s", text, want)
	}

	// An engine that stops reading; a link out of the module is no fault where it
	// is excluded.
	if err := os.Symlink("../../etc", filepath.Join(dir, "sub", "out")); err != nil {
		t.Fatal(err)
	}
	f.copyTo = func(string, io.Reader) error {
		return fmt.Errorf("no space left on device: %w",
			errdefs.ErrInternal)
	}
	_, err = buildFake(t, f, compiler.Options{}, compiler.Request{Dir: dir, Exclude: []string{
		"sub/out"}})
	if !errors.As(err, &e) || e.Op != compiler.StageUpload || !strings.Contains(err.Error(),
		"no space left") {
		t.Errorf("%v", err)
	}
}

// What cannot work is refused before the engine gets a single call.
func TestBuildRefuses(t *testing.T) {
	t.Parallel()
	dir := plugin(t, tiny)
	none := plugin(t, map[string]string{"README": ""})
	noModule := plugin(t, map[string]string{"plugin.go": "package main"})
	linked, inTheWay := plugin(t, tiny, map[string]string{"sub/x": ""}), t.TempDir()
	if err := errors.Join(os.Symlink("../../etc", filepath.Join(linked, "sub", "out")),
		os.Symlink("elsewhere", filepath.Join(inTheWay, "plugin_v5.2.5_linux_amd64.so"))); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		version     string
		q           compiler.Request
		o           compiler.Options
		unsupported bool
		want        string
	}{
		"name with a path":   {q: compiler.Request{Name: "../x.so"}, want: "plain file name"},
		"name, no extension": {q: compiler.Request{Name: "x"}, want: "ends in .so"},
		"name as a flag":     {q: compiler.Request{Name: "-x.so"}, want: "plain file name"},
		"id":                 {q: compiler.Request{ID: "a/b"}, want: "plugin id"},
		"id of 3.0.0": {version: "3.0.0", q: compiler.Request{ID: "a"}, unsupported: true,
			want: "takes no plugin id"},
		"arm64 for 4.0.8": {version: "4.0.8", q: compiler.Request{GOARCH: "arm64"},
			unsupported: true, want: "linux/amd64 alone"},
		"arm64 for 4.1.0": {version: "4.1.0", q: compiler.Request{GOARCH: "arm64"},
			unsupported: true, want: "no C compiler"},
		"s390x": {q: compiler.Request{GOARCH: "s390x"}, unsupported: true,
			want: "no C compiler"},
		"unknown GOARCH": {q: compiler.Request{GOARCH: "mips"}, o: compiler.Options{
			Env: map[string]string{"CC": "x"}}, want: "amd64, arm64, s390x"},
		"darwin": {q: compiler.Request{GOOS: "darwin"}, unsupported: true, want: "linux"},
		"GO_GET for 5.2.2": {version: "5.2.2", q: compiler.Request{GoGet: true}, unsupported: true,
			want: "does not know GO_GET"},
		"GO_TIDY for 5.2.3": {version: "5.2.3", q: compiler.Request{GoTidy: true}, unsupported: true,
			want: "does not know GO_TIDY"},
		"DEBUG for 5.2.3": {version: "5.2.3", q: compiler.Request{Debug: true}, unsupported: true,
			want: "does not know DEBUG"},
		"broken release": {version: "5.0.2", unsupported: true, want: "broken"},
		"edition": {q: compiler.Request{Image: pluginbuild.Image{
			Edition: pluginbuild.Enterprise}}, unsupported: true, want: "edition"},
		"el7": {q: compiler.Request{Image: pluginbuild.Image{EL7: true}},
			unsupported: true, want: "el7"},
		"image name": {q: compiler.Request{Image: pluginbuild.Image{Ref: "A B"}},
			want: "image A B"},
		"digest": {q: compiler.Request{Image: pluginbuild.Image{Digest: "sha256:1"}},
			want: "64 hex digits"},
		"no directory": {q: compiler.Request{Dir: dir + "/none"}, want: "no such file"},
		"no source":    {q: compiler.Request{Dir: none}, want: "no Go source"},
		"module excluded": {version: "5.1.0", q: compiler.Request{Exclude: []string{"go.mod"}},
			want: "no go.mod"},
		"no source, not walked": {q: compiler.Request{Dir: plugin(t, map[string]string{"README": "",
			"sub/a\xff": ""})}, want: "no Go source"},
		"no go.mod for 5.1.0": {version: "5.1.0", q: compiler.Request{Dir: noModule},
			want: "no go.mod"},
		"output is a file": {q: compiler.Request{OutputDir: filepath.Join(dir, "go.mod")},
			want: "not a directory"},
		"output is missing": {q: compiler.Request{OutputDir: dir + "/none"},
			want: "output directory"},
		"output is a link": {q: compiler.Request{OutputDir: inTheWay}, want: "not a regular file"},
		"link out": {q: compiler.Request{Dir: linked},
			want: "sub/out is a symbolic link out of the module"},
		"name not UTF-8": {q: compiler.Request{Dir: plugin(t, tiny, map[string]string{
			"a\xff.txt": ""})}, want: `"a\xff.txt" is not UTF-8`},
		"directory not UTF-8": {q: compiler.Request{Dir: plugin(t, tiny, map[string]string{
			"a\xff/b": ""})}, want: `"a\xff" is not UTF-8`},
		"source excluded": {q: compiler.Request{Exclude: []string{"/*.go"}}, want: "no Go source"},
		"two digests": {q: compiler.Request{Image: pluginbuild.Image{Ref: "x@sha256:" +
			strings.Repeat("ab", 32), Digest: "sha256:" + strings.Repeat("cd", 32)}},
			want: "another digest"},
		"exclude": {q: compiler.Request{Exclude: []string{"[x"}}, want: "exclude"},
		"go.work with bind": {q: compiler.Request{Bind: true, Dir: plugin(t, tiny, map[string]string{
			"go.work": ""})}, want: "go.work is in the way"},
		"exclude with bind": {q: compiler.Request{Exclude: []string{"x"}, Bind: true},
			want: "seen whole"},
		"reserved variable": {o: compiler.Options{Env: map[string]string{"GITHUB_TAG": "v9"}},
			want: "GITHUB_TAG is set by"},
		"variable without name": {o: compiler.Options{Env: map[string]string{"": "x"}},
			want: "environment variable"},
		"negative limit": {o: compiler.Options{Limits: compiler.Limits{Memory: -2}},
			want: "negative"},
		"capability": {o: compiler.Options{Limits: compiler.Limits{Capabilities: []string{
			"all!"}}}, want: "capability"},
		"no digest": {o: compiler.Options{RequireDigest: true},
			want: "is not pinned, and a digest is required"},
		"name has the suffix": {q: compiler.Request{Name: "plugin_v5.2.5_linux_amd64.so"},
			want: "name it plugin.so"},
		"relative mount": {o: compiler.Options{Mounts: []string{"certs"}}, want: "both absolute"},
		"netrc":          {o: compiler.Options{Netrc: dir}, want: "not a regular file"},
		"pull policy":    {o: compiler.Options{Pull: "sometimes"}, want: "pull policy"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.version == "" {
				c.version = "5.2.5"
			}
			c.q.Release = release(t, c.version)
			if c.q.Dir == "" {
				c.q.Dir = dir
			}
			_, err := compiler.NewOn(&fake{t: t}, c.o).Build(t.Context(), c.q)
			if !errors.Is(err, compiler.ErrRequest) ||
				errors.Is(err, compiler.ErrUnsupported) != c.unsupported || !strings.Contains(fmt.Sprint(err),
				c.want) {
				t.Errorf("%v", err)
			}
			readable(t, err)
		})
	}
	if _, err := compiler.NewOn(&fake{t: t}, compiler.Options{}).Build(t.Context(),
		compiler.Request{}); !errors.Is(err, compiler.ErrRequest) {
		t.Errorf("nothing at all: %v", err)
	}
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

// Paths follow the image's own environment.
func TestImageEnvironment(t *testing.T) {
	t.Parallel()
	netrc := filepath.Join(t.TempDir(), "netrc")
	if err := os.WriteFile(netrc, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, env := range map[string][]string{
		"GOCACHE=/h/.cache/go-build GOMODCACHE=/gp/pkg/mod NETRC=/h/.netrc": {"HOME=/h",
			"GOPATH=/gp:/more"},
		"GOCACHE=/c GOMODCACHE=/m NETRC=/root/.netrc": {"GOCACHE=/c",
			"GOMODCACHE=/m", "GOPATH=/gp"},
	} {
		f := newFake(t, 1, "", nil)
		f.imageInspect = func(string) (image.InspectResponse, error) {
			i := image.InspectResponse{ID: fakeID, Os: "linux", Architecture: "amd64"}
			return i, json.Unmarshal(fmt.Appendf(nil, `{"Config":{"Env":["%s"]}}`, strings.Join(env, `","`)),
				&i)
		}
		var names []string
		f.volumeCreate = func(o volume.CreateOptions) error {
			names = append(names, o.Name)
			if o.Labels[compiler.LabelRun] == "" || o.Labels[compiler.LabelKind] == "" ||
				o.Labels["team"] != "x" {
				t.Errorf("labels %v", o.Labels)
			}
			return nil
		}
		f.containerCreate = func(_ context.Context, got *container.Config, h *container.HostConfig,
			_ *ocispec.Platform, _ string) (string, error) {
			if text := strings.Join(got.Env, " "); text != want {
				t.Errorf("%s, want %s", text, want)
			}
			if targets := "GOCACHE=" + h.Mounts[0].Target + " GOMODCACHE=" +
				h.Mounts[1].Target; !strings.HasPrefix(want, targets) {
				t.Errorf("%s, want %s", targets, want)
			}
			return "c0ffee", nil
		}
		_, _ = buildFake(t, f, compiler.Options{Netrc: netrc, Labels: map[string]string{"team": "x"}},
			compiler.Request{Release: release(t, "5.2.5")})
		if text := strings.Join(names,
			" "); text != "tykupgrade-gocache-0123456789abcdef0123456789abcdef "+
			"tykupgrade-gomodcache-0123456789abcdef0123456789abcdef" {
			t.Errorf("volumes %s", text)
		}
	}
}

// From 5.1.0 on a plugin without build information is none, nor is what was
// built in another mode.
func TestResultIsNoPlugin(t *testing.T) {
	t.Parallel()
	exe, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	exe[16] = byte(elf.ET_DYN) // the type of a shared object
	for want, data := range map[string][]byte{"not from Go": sharedObject(62),
		"built with -buildmode=exe, not as a plugin": exe} {
		_, err := buildFake(t, newFake(t, 0, "", data), compiler.Options{}, compiler.Request{
			Release: release(t, "5.2.5")})
		var e *compiler.Error
		if !errors.As(err, &e) || e.Op != compiler.StageCollect || !strings.Contains(err.Error(), want) {
			t.Errorf("%v instead of %q", err, want)
		}
	}
}

// Credentials are asked for under the name that config.json uses.
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
			t.Errorf("%q: asked for %s: %v", ref, asked, err)
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
			"there were no credentials", nil, false},
		"Podman, error in the stream": {stream(`{"status":"Trying to pull"}`,
			`{"error":"unable to retrieve auth token: invalid username/password: unauthorized","errorDetail":{"message":"unable to retrieve auth token: invalid username/password: unauthorized"}}`), "there were no credentials", nil, false},
		"Podman, unknown tag": {
			stream(`{"error":"initializing source: reading manifest v9: manifest unknown"}`), "no such tag",
			compiler.ErrNoImage, false},
		"done, and nothing": {stream(`{"status":"Status: Downloaded"}`),
			"reported the pull as done", compiler.ErrNoImage, false},
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
			"the engine's disk is full", nil, false},
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

// A client that reads on after it gave up causes no event once Build is back.
func TestNoEventAfterEnd(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(file, []byte("not much"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, loading := range []bool{true, false} {
		f := newFake(t, 0, "", nil)
		var rest io.Reader
		f.copyTo = func(_ string, r io.Reader) error { rest = r; return errors.New("gone") }
		f.imageLoad = func(r io.Reader) (io.ReadCloser, error) {
			rest = r
			return nil,
				errors.New("gone")
		}
		if loading {
			f.imageInspect = func(string) (image.InspectResponse, error) {
				return image.InspectResponse{},
					errdefs.ErrNotFound
			}
		}
		events := 0
		_, err := buildFake(t, f, compiler.Options{Progress: func(compiler.Event) { events++ }},
			compiler.Request{Image: pluginbuild.Image{Tar: file}})
		before := events
		_, _ = io.ReadAll(rest)
		if err == nil || events != before {
			t.Errorf("loading %v: %d events after the end: %v", loading, events-before, err)
		}
	}
}

// Failures of the engine, stage by stage; none leaves a container.
func TestEngineFailures(t *testing.T) {
	t.Parallel()
	down := fmt.Errorf("500: %w", errdefs.ErrInternal)
	for name, c := range map[string]struct {
		change  func(*fake)
		stage   string
		removes string // the container that must be removed; "name": by the name that we chose
		retry   bool
		want    string
	}{
		"ping": {func(f *fake) { f.ping = func() error { return down } },
			compiler.StageConnect, "", true, "500"},
		"ping, not allowed": {func(f *fake) { f.ping = func() error { return os.ErrPermission } },
			compiler.StageConnect, "", false, "group docker"},
		"inspect image": {func(f *fake) {
			f.imageInspect = func(string) (image.InspectResponse, error) {
				return image.InspectResponse{},
					down
			}
		}, compiler.StagePull, "", false, "inspect"},
		"volume": {func(f *fake) { f.volumeCreate = func(volume.CreateOptions) error { return down } },
			compiler.StageCreate, "name", true, "volume"},
		"create": {func(f *fake) {
			f.containerCreate = func(context.Context, *container.Config, *container.HostConfig,
				*ocispec.Platform, string) (string, error) {
				return "", down
			}
		}, compiler.StageCreate, "name", true, "500"},
		"create, image gone": {func(f *fake) {
			f.containerCreate = func(context.Context, *container.Config, *container.HostConfig,
				*ocispec.Platform, string) (string, error) {
				return "", fmt.Errorf("No such image: %w", errdefs.ErrNotFound)
			}
		}, compiler.StageCreate, "name", true, "removed meanwhile"},
		"create, no mount source": {func(f *fake) {
			f.containerCreate = func(context.Context, *container.Config, *container.HostConfig,
				*ocispec.Platform, string) (string, error) {
				return "", fmt.Errorf("invalid mount config for type \"bind\": bind source path does not "+
					"exist: /x: %w", errdefs.ErrInvalidArgument)
			}
		}, compiler.StageCreate, "name", false, "must exist on the engine's machine"},
		"upload": {func(f *fake) { f.copyTo = func(string, io.Reader) error { return down } },
			compiler.StageUpload, "c0ffee", true, "500"},
		"attach": {func(f *fake) {
			f.containerAttach = func() (types.HijackedResponse, error) {
				return types.HijackedResponse{},
					down
			}
		}, compiler.StageCompile, "c0ffee", true, "attach"},
		"start": {func(f *fake) { f.containerStart = func() error { return down } },
			compiler.StageCompile, "c0ffee", true, "start"},
		"start, no network": {func(f *fake) {
			f.containerStart = func() error {
				return fmt.Errorf("network x not found: %w",
					errdefs.ErrNotFound)
			}
		}, compiler.StageCompile, "c0ffee", false, "docker network ls"},
		"create, no network": {func(f *fake) {
			f.containerCreate = func(context.Context, *container.Config, *container.HostConfig,
				*ocispec.Platform, string) (string, error) {
				return "", fmt.Errorf("unable to find network with name or ID x: %w", errdefs.ErrNotFound)
			}
		}, compiler.StageCreate, "name", false, "docker network ls"},
		"start, and remove": {func(f *fake) {
			f.containerStart = func() error { return down }
			f.containerRemove = func(context.Context, string) error { return errors.New("the engine hangs") }
		}, compiler.StageCompile, "", true, "start: 500: internal\nremove container c0ffee: the engine " +
			"hangs; a sweep"},
		"wait": {func(f *fake) {
			f.containerWait = func(context.Context) (<-chan container.WaitResponse, <-chan error) {
				errs := make(chan error, 1)
				errs <- down
				return nil, errs
			}
		}, compiler.StageCompile, "c0ffee", true, "wait"},
		"still running": {func(f *fake) {
			f.containerState = func() (*container.State, error) {
				return &container.State{Running: true},
					nil
			}
		}, compiler.StageCompile, "c0ffee", false, "has none"},
		"collect": {func(f *fake) {
			f.copyFrom = func(string) (io.ReadCloser, error) { return nil, down }
		}, compiler.StageCollect, "c0ffee", true, "500"},
		"collect, cut short": {func(f *fake) {
			whole := f.copyFrom
			f.copyFrom = func(path string) (io.ReadCloser, error) {
				r, err := whole(path)
				return io.NopCloser(io.LimitReader(r, 520)), err
			}
		}, compiler.StageCollect, "c0ffee", false, "unexpected EOF"},
		"collect, a directory": {func(f *fake) {
			f.copyFrom = func(path string) (io.ReadCloser, error) {
				var b bytes.Buffer
				err := tar.NewWriter(&b).WriteHeader(&tar.Header{Name: filepath.Base(path),
					Typeflag: tar.TypeDir})
				return io.NopCloser(&b), err
			}
		}, compiler.StageCollect, "c0ffee", false, "not a regular file"},
		"collect, an executable": {func(f *fake) {
			exe := sharedObject(62)
			exe[16] = 2
			f.copyFrom = newFake(f.t, 0, "", exe).copyFrom
		}, compiler.StageCollect, "c0ffee", false, "not a shared object but ET_EXEC; the image " +
			"does not do"},
		"collect, another machine": {func(f *fake) {
			f.copyFrom = newFake(f.t, 0, "", sharedObject(183)).copyFrom
		}, compiler.StageCollect, "c0ffee", false, "for AARCH64, not for amd64"},
		"remove": {func(f *fake) {
			f.containerRemove = func(context.Context, string) error { return down }
		}, compiler.StageRemove, "", true, "a sweep"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, 0, "", sharedObject(62))
			removed := ""
			f.containerRemove = func(_ context.Context, id string) error {
				removed = id
				return fmt.Errorf("gone: %w", errdefs.ErrNotFound)
			}
			c.change(f)
			out := t.TempDir()
			a, err := buildFake(t, f, compiler.Options{}, compiler.Request{OutputDir: out})
			var e *compiler.Error
			if !errors.As(err, &e) || e.Op != c.stage || e.Retryable() != c.retry ||
				!strings.Contains(err.Error(), c.want) {
				t.Fatalf("%#v: %v", e, err)
			}
			readable(t, err)
			if c.removes == "name" && !strings.HasPrefix(removed, "tykupgrade-compile-") ||
				c.removes != "name" && removed != c.removes {
				t.Errorf("removed %q", removed)
			}
			if (a.Size > 0) != (c.stage == compiler.StageRemove) {
				t.Errorf("artifact %+v", a)
			}
			if c.stage != compiler.StageRemove {
				only(t, out)
			}
		})
	}
}

// The disk of the output directory is full.
func TestOutputDiskFull(t *testing.T) {
	lab.SmallDisk(t, 64<<10, func(disk string) {
		_, err := buildFake(t, newFake(t, 0, "", append(sharedObject(62), make([]byte, 256<<10)...)),
			compiler.Options{}, compiler.Request{OutputDir: disk})
		var e *compiler.Error
		if !errors.As(err, &e) || e.Op != compiler.StageCollect || !errors.Is(err, syscall.ENOSPC) ||
			!strings.Contains(e.Hint(), "output directory") {
			t.Errorf("%v", err)
		}
		only(t, disk)
	})
}

// Exit code 1 and out of memory: only the container's state tells it from a
// compile error.
func TestOutOfMemoryWithExitCode1(t *testing.T) {
	t.Parallel()
	f := newFake(t, 1, "# example.org/tiny\n/usr/local/go/pkg/tool/linux_amd64/compile: "+
		"signal: killed\n", nil)
	f.containerState = func() (*container.State, error) {
		return &container.State{ExitCode: 1,
			OOMKilled: true}, nil
	}
	_, err := buildFake(t, f, compiler.Options{}, compiler.Request{})
	var e *compiler.Error
	if !errors.As(err, &e) || !e.OOMKilled || e.ExitCode != 1 || !strings.Contains(e.Hint(),
		"memory") {
		t.Errorf("%v", err)
	}
}

// An engine that never answers a creation: Build gives up half a minute after
// the context's end and still tries to remove the container, by its name.
func TestCancelDuringCreate(t *testing.T) {
	t.Parallel()
	dir, out := plugin(t, tiny), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, 0, "", nil)
		start := time.Now()
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("Ctrl-C")
		name, removed := "", ""
		f.containerCreate = func(ctx context.Context, _ *container.Config, _ *container.HostConfig,
			_ *ocispec.Platform, n string) (string, error) {
			name = n
			cancel(why)
			<-ctx.Done()
			if waited := time.Since(start); waited != 30*time.Second {
				t.Errorf("gave up after %v", waited)
			}
			return "", ctx.Err()
		}
		f.containerRemove = func(ctx context.Context, id string) error { removed = id; return ctx.Err() }
		_, err := compiler.NewOn(f, compiler.Options{}).Build(ctx, compiler.Request{Release: release(t,
			"4.0.8"), Dir: dir, OutputDir: out})
		if !errors.Is(err, context.Canceled) || !errors.Is(err, why) || removed == "" || removed != name {
			t.Errorf("created %q, removed %q: %v", name, removed, err)
		}
	})
}

// Credentials in addresses, as git and proxies repeat them, reach the caller's
// own stream alone.
func TestSecretsInOutput(t *testing.T) {
	t.Parallel()
	const said = "go: x@v1: git ls-remote https://me:hunter2@git.example.org/x:\n\tfatal: unable to " +
		"access 'https://gh_hunter2@github.com/x/': no\n"
	var stderr strings.Builder
	var shown []string
	_, err := buildFake(t, newFake(t, 1, said, nil), compiler.Options{
		Progress: func(e compiler.Event) { shown = append(shown, e.Line) }}, compiler.Request{
		Stderr: &stderr})
	var e *compiler.Error
	if !errors.As(err, &e) || !strings.Contains(e.Message, "me:xxxxx@git.example.org") ||
		!strings.Contains(e.Message, "https://xxxxx@github.com") {
		t.Errorf("%v", err)
	}
	if all := fmt.Sprintf("%v %+v %q", err, e, shown); strings.Contains(all, "hunter2") {
		t.Error(all)
	}
	if stderr.String() != said {
		t.Errorf("%q", stderr.String())
	}
}

// An engine that never answers what it was asked to wait for.
func TestCancelWithoutAnswer(t *testing.T) {
	t.Parallel()
	f := newFake(t, 0, "", nil)
	ctx, cancel := context.WithCancel(t.Context())
	f.containerWait = func(context.Context) (<-chan container.WaitResponse, <-chan error) {
		return nil,
			nil
	}
	f.containerStart = func() error { cancel(); return nil }
	_, err := compiler.NewOn(f, compiler.Options{}).Build(ctx, compiler.Request{Release: release(t,
		"4.0.8"), Dir: plugin(t, tiny)})
	if !errors.Is(err, context.Canceled) || f.calls[len(f.calls)-1] != "ContainerRemove" {
		t.Errorf("%v: %v", f.calls, err)
	}
}

// Somebody else is removing the container already.
func TestRemovedMeanwhile(t *testing.T) {
	t.Parallel()
	f := newFake(t, 0, "", sharedObject(62))
	f.containerRemove = func(context.Context, string) error {
		return fmt.Errorf("removal of container c0ffee is already in progress: %w", errdefs.ErrConflict)
	}
	if _, err := buildFake(t, f, compiler.Options{}, compiler.Request{}); err != nil {
		t.Error(err)
	}
}

// How a container ended, and what to do about it.
func TestExitErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		code           int
		stdout, stderr string
		message, hint  string
		retry          bool
	}{
		"words on stdout": {1, "no such plugin\n", "\n", "no such plugin", "", false},
		"killed":          {137, "", "", "", "lack of memory", false},
		"no network": {1, "", "go: a@v1 requires\n\tb@v2: Get \"https://p/b\": dial tcp: " +
			"i/o timeout\n", "go: a@v1 requires\n\tb@v2: Get \"https://p/b\": dial tcp: i/o timeout",
			"could not reach the module proxy", true},
		"proxy off": {1, "", "go: a@v1: module lookup disabled by GOPROXY=off\n",
			"go: a@v1: module lookup disabled by GOPROXY=off", "GOPROXY of a proxy", false},
		"not required": {1, "", "p.go:1:2: no required module provides package a; to add " +
			"it:\n\tgo get a\n", "p.go:1:2: no required module provides package a; to add it:\n\tgo get a",
			"prepare the module", false},
		"private": {128, "", "fatal: could not read Username for 'https://git.example.org': " +
			"terminal prompts disabled\n", "fatal: could not read Username for 'https://git.example.org': " +
			"terminal prompts disabled", "netrc", false},
		"limit of processes": {2, "", "runtime: failed to create new OS thread\nfatal error: newosproc\n",
			"fatal error: newosproc", "limit of processes", false},
		"engine's disk": {1, "", "./p.go:1:1: write /tmp/x: no space left on device\n",
			"./p.go:1:1: write /tmp/x: no space left on device", "engine's disk is full", false},
	} {
		f := newFake(t, c.code, "", nil)
		f.containerAttach = func() (types.HijackedResponse, error) {
			var b bytes.Buffer
			_, err := io.WriteString(stdcopy.NewStdWriter(&b, stdcopy.Stdout), c.stdout)
			_, err2 := io.WriteString(stdcopy.NewStdWriter(&b, stdcopy.Stderr), c.stderr)
			here, there := net.Pipe()
			return types.HijackedResponse{Conn: here, Reader: bufio.NewReader(&b)}, errors.Join(err, err2,
				there.Close())
		}
		_, err := buildFake(t, f, compiler.Options{}, compiler.Request{})
		var e *compiler.Error
		if !errors.As(err, &e) || e.ExitCode != c.code || e.Message != c.message ||
			!strings.Contains(e.Hint(), c.hint) || e.Retryable() != c.retry {
			t.Errorf("%s: retryable %v, message %q: %v", name, e.Retryable(), e.Message, err)
		}
		readable(t, err)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// A caller's writer that fails must not stop the reading.
func TestBrokenOutput(t *testing.T) {
	t.Parallel()
	f := newFake(t, 0, strings.Repeat("line\n", 1000), sharedObject(62))
	if _, err := buildFake(t, f, compiler.Options{}, compiler.Request{
		Stderr: brokenPipe{}}); err != nil {
		t.Error(err)
	}
}

// Leftovers: an engine may return more than was asked for (Podman 4.3 joins
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
			t.Errorf("asked for %v", a)
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
	if !errors.As(err, &e) || !e.Retryable() || !strings.Contains(e.Hint(), "wait for its end") ||
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
		{"5.0.5", pluginbuild.Image{Distro: "ubuntu/bionic"}, "ask for the -el7 or the plain image"},
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
