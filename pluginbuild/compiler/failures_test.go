package compiler_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/pkg/stdcopy"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

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
		}, compiler.StageCreate, "name", false, "create the mounted directories"},
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
			"hangs; remove it with Sweep"},
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
		}, compiler.StageCompile, "c0ffee", false, "still runs"},
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
		}, compiler.StageCollect, "c0ffee", false, "ET_EXEC, not a shared object; use an image " +
			"that works"},
		"collect, another machine": {func(f *fake) {
			f.copyFrom = newFake(f.t, 0, "", sharedObject(183)).copyFrom
		}, compiler.StageCollect, "c0ffee", false, "for AARCH64, not for amd64"},
		"remove": {func(f *fake) {
			f.containerRemove = func(context.Context, string) error { return down }
		}, compiler.StageRemove, "", true, "with Sweep"},
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
	if !errors.As(err, &e) || !strings.Contains(e.Message, "https://xxxxx@git.example.org") ||
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
			"go: a@v1: module lookup disabled by GOPROXY=off", "set GOPROXY to a proxy", false},
		"not required": {1, "", "p.go:1:2: no required module provides package a; to add " +
			"it:\n\tgo get a\n", "p.go:1:2: no required module provides package a; to add it:\n\tgo get a",
			"prepare the module", false},
		"private": {128, "", "fatal: could not read Username for 'https://git.example.org': " +
			"terminal prompts disabled\n", "fatal: could not read Username for 'https://git.example.org': " +
			"terminal prompts disabled", "netrc", false},
		"limit of processes": {2, "", "runtime: failed to create new OS thread\nfatal error: newosproc\n",
			"fatal error: newosproc", "limit of processes", false},
		"engine's disk": {1, "", "./p.go:1:1: write /tmp/x: no space left on device\n",
			"./p.go:1:1: write /tmp/x: no space left on device", "free space on the engine's disk", false},
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
