package pluginbuild

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
)

// compile runs the compiler on the request's source.
func (b *Builder) compile(ctx context.Context, q *Request, img found) (Artifact, error) {
	mounts, env, err := b.caches(ctx, img)
	if err != nil {
		return Artifact{}, err
	}
	if q.Bind {
		// Not Binds: there an engine creates a missing source, as root.
		mounts = append(mounts, mount.Mount{Type: mount.TypeBind, Source: q.Dir, Target: "/" + sourceDir})
	}
	for flag, on := range map[string]bool{"GO_GET": q.GoGet, "GO_TIDY": q.GoTidy, "DEBUG": q.Debug} {
		if on {
			env[flag] = "1"
		}
	}
	netrc := ""
	if b.o.Netrc != "" {
		netrc = path.Join(home(img), ".netrc")
		env["NETRC"] = netrc
	}
	var a Artifact
	j := job{
		kind: "compile", stage: StageCompile, name: q.Dir + " for " + q.Release.Version.String(), release: &q.Release,
		config: &container.Config{Image: img.id, Cmd: compilerArgs(q), Env: environ(env)},
		host:   b.hostConfig(mounts),
		upload: func(w io.Writer) error { return b.writeUpload(ctx, w, q, netrc) },
		collect: func(id string) (err error) {
			a, err = b.collect(ctx, id, q, img)
			return err
		},
		stdout: q.Stdout, stderr: q.Stderr,
	}
	if q.Bind && netrc == "" {
		j.upload = nil
	}
	if b.o.Limits.Network == "none" && q.Release.Compiler.FetchesModules {
		b.log(ctx, "the compiler image holds no modules and the network is off: only what the module cache has can be used")
	}
	_, err = b.runJob(ctx, j)
	var e *Error
	if errors.As(err, &e) && e.Stage != StageRemove {
		return Artifact{}, err
	}
	return a, err
}

// compilerArgs are the arguments of the compiler's script. Trailing ones are
// left out where they are the default, because older scripts ignore them.
func compilerArgs(q *Request) []string {
	args := []string{q.Name}
	foreign := q.GOARCH != "amd64"
	if q.ID != "" || foreign {
		args = append(args, q.ID)
	}
	if foreign {
		args = append(args, q.GOOS, q.GOARCH)
	}
	return args
}

func (b *Builder) hostConfig(mounts []mount.Mount) *container.HostConfig {
	for _, m := range b.o.Mounts {
		source, target := splitMount(m)
		mounts = append(mounts, mount.Mount{Type: mount.TypeBind, Source: source, Target: target, ReadOnly: true})
	}
	h := &container.HostConfig{
		Mounts:      mounts,
		NetworkMode: container.NetworkMode(b.o.Limits.Network),
		SecurityOpt: []string{"no-new-privileges"},
		// An engine may be set up to send logs anywhere; ours come by attach.
		LogConfig: container.LogConfig{Type: "none"},
	}
	if l := b.o.Limits; l.Memory > 0 {
		h.Memory, h.MemorySwap = l.Memory, l.Memory
	}
	h.NanoCPUs = int64(b.o.Limits.CPUs * 1e9)
	if b.o.Limits.PIDs > 0 {
		h.PidsLimit = &b.o.Limits.PIDs
	}
	return h
}

func environ(env map[string]string) []string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(env)) {
		list = append(list, k+"="+env[k])
	}
	return list
}

func home(img found) string {
	if h := img.env["HOME"]; h != "" {
		return h
	}
	return "/root"
}

// writeUpload writes what goes into the container before it starts: the
// source, and a copy of netrc that only root can read.
func (b *Builder) writeUpload(ctx context.Context, w io.Writer, q *Request, netrc string) error {
	if netrc != "" {
		data, err := os.ReadFile(b.o.Netrc)
		if err != nil {
			return err
		}
		h := header(strings.TrimPrefix(netrc, "/"), tar.TypeReg, 0o600)
		h.Size = int64(len(data))
		// Flush, not Close: the source follows in the same stream.
		t := tar.NewWriter(w)
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if _, err := t.Write(data); err != nil {
			return err
		}
		if q.Bind {
			return t.Close()
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	if q.Bind {
		return nil
	}
	root, err := os.OpenRoot(q.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	left, err := writeSource(w, root.FS(), q.Exclude)
	if len(left) > 0 {
		b.log(ctx, "not uploaded, because the compiler would not copy it or would damage it", "paths", left)
	}
	return err
}
