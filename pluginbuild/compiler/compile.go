package compiler

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

	"example.com/tykupgrade/pluginbuild"
)

// compile runs the compiler on the request's source.
func (b *Builder) compile(ctx context.Context, q *Request, img found) (Artifact, error) {
	mounts, env := b.caches(img)
	limits := b.o.Limits
	if q.Bind {
		mounts = append(mounts, mounted{source: q.Dir, target: "/" + sourceDir})
	}
	for flag, on := range map[string]bool{"GO_GET": q.GoGet, "GO_TIDY": q.GoTidy, "DEBUG": q.Debug} {
		if on {
			env[flag] = "1"
		}
	}
	if q.NoValidate {
		env["VALIDATE"] = "0"
	}
	netrc := ""
	if b.o.Netrc != "" {
		netrc = path.Join(home(img), ".netrc")
		env["NETRC"] = netrc
	}
	var a Artifact
	j := job{
		kind: "compile", op: StageCompile, object: q.Dir + " for " + q.Release.Version.String(),
		spec: creation{
			image: img.id, platform: img.platform, args: compilerArgs(q), env: environ(env),
			labels: b.labels("compile", &q.Release), mounts: b.mounts(mounts), limits: limits,
		},
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
	if limits.Network == "none" && q.Release.Compiler.FetchesModules {
		b.log(ctx, "the compiler image has no modules and the network is off: it uses the module cache "+
			"alone")
	}
	_, err := b.runJob(ctx, j)
	var e *Error
	if errors.As(err, &e) && e.Op != StageRemove {
		return Artifact{}, err
	}
	return a, err
}

// compilerArgs returns the arguments of the compiler's script. It omits trailing defaults, because
// older scripts ignore these arguments.
func compilerArgs(q *Request) []string {
	args := []string{q.Name}
	// Without arguments the next-generation script builds for its own processor.
	foreign := q.GOARCH != "amd64" || q.Release.Compiler.Variant == pluginbuild.NextGen
	if q.ID != "" || foreign {
		args = append(args, q.ID)
	}
	if foreign {
		args = append(args, q.GOOS, q.GOARCH)
	}
	return args
}

// mounts adds the mounts of the options.
func (b *Builder) mounts(list []mounted) []mounted {
	for _, m := range b.o.Mounts {
		source, target := splitMount(m)
		list = append(list, mounted{source: source, target: target, readOnly: true})
	}
	return list
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

// writeUpload writes the files that the container needs: the source, and a copy of netrc that only
// root can read.
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
	left, err := writeSource(w, root.FS(), q.exclusions())
	if len(left) > 0 {
		b.log(ctx, "not uploaded, because the compiler would ignore or damage these", "paths", left)
	}
	return err
}
