package compiler_test

import (
	"archive/tar"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/volume"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

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

	// An engine that stops reading; a link out of the module is not a fault if it
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
			want: "does not accept a plugin id"},
		"arm64 for 4.0.8": {version: "4.0.8", q: compiler.Request{GOARCH: "arm64"},
			unsupported: true, want: "only for linux/amd64"},
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
			"a\xff.txt": ""})}, want: `invalid file name "a\xff.txt"`},
		"directory not UTF-8": {q: compiler.Request{Dir: plugin(t, tiny, map[string]string{
			"a\xff/b": ""})}, want: `invalid file name "a\xff"`},
		"source excluded": {q: compiler.Request{Exclude: []string{"/*.go"}}, want: "no Go source"},
		"two digests": {q: compiler.Request{Image: pluginbuild.Image{Ref: "x@sha256:" +
			strings.Repeat("ab", 32), Digest: "sha256:" + strings.Repeat("cd", 32)}},
			want: "is not the pinned"},
		"exclude": {q: compiler.Request{Exclude: []string{"[x"}}, want: "exclude"},
		"go.work with bind": {q: compiler.Request{Bind: true, Dir: plugin(t, tiny, map[string]string{
			"go.work": ""})}, want: "go.work would hide"},
		"exclude with bind": {q: compiler.Request{Exclude: []string{"x"}, Bind: true},
			want: "exclude patterns have no effect"},
		"reserved variable": {o: compiler.Options{Env: map[string]string{"GITHUB_TAG": "v9"}},
			want: "GITHUB_TAG is set by"},
		"variable without name": {o: compiler.Options{Env: map[string]string{"": "x"}},
			want: "environment variable"},
		"negative limit": {o: compiler.Options{Limits: compiler.Limits{Memory: -2}},
			want: "negative"},
		"capability": {o: compiler.Options{Limits: compiler.Limits{Capabilities: []string{
			"all!"}}}, want: "capability"},
		"no digest": {o: compiler.Options{RequireDigest: true},
			want: "is not pinned, but a digest is required"},
		"name has the suffix": {q: compiler.Request{Name: "plugin_v5.2.5_linux_amd64.so"},
			want: "name it plugin.so"},
		"relative mount": {o: compiler.Options{Mounts: []string{"certs"}}, want: "absolute paths"},
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
