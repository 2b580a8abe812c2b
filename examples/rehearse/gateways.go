package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/docker/docker/api/types/container"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/internal/lazyregexp"
	"example.com/tykupgrade/pluginbuild/compiler"
	"example.com/tykupgrade/pluginbuild/preflight"
)

const (
	imagePrefix = "image:"
	goarch      = runtime.GOARCH
	inPackage   = "opt/tyk-gateway" // where packages and images have the gateway
)

var versionedName = lazyregexp.New(`^(.+)_v?\d+\.\d+\.\d+_[a-z0-9]+_[a-z0-9]+\.so$`)

// gatewayPart is a gateway that is run.
type gatewayPart struct {
	Version   string `json:"version"`
	Binary    string `json:"binary"`
	Templates string `json:"templates"`
	Real      bool   `json:"real"`                // the user's
	Verdict   string `json:"preflight,omitempty"` // of preflight about its plugins
}

func (g gatewayPart) kind() string {
	if g.Real {
		return "your gateway " + g.Version
	}
	return "a stub gateway " + g.Version
}

// gatewayPart brings a gateway into the directory: the user's from a file, a package or an image,
// or a stub if arg is empty.
func (r *rehearsal) gatewayPart(ctx context.Context, arg, version string) (gatewayPart, error) {
	g := gatewayPart{Version: version, Real: arg != ""}
	dir := filepath.Join(r.dir, "gateways", version)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return g, err
	}
	g.Binary, g.Templates = filepath.Join(dir, "tyk"), filepath.Join(dir, "templates")
	var err error
	switch {
	case arg == "":
		var stub string
		if stub, err = r.stub(); err == nil {
			err = errors.Join(os.Link(stub, g.Binary), os.WriteFile(g.Binary+".version", []byte(version),
				0o644))
		}
	case strings.HasPrefix(arg, imagePrefix):
		err = fromImage(ctx, strings.TrimPrefix(arg, imagePrefix), dir)
	case isDeb(arg):
		err = fromDeb(ctx, arg, dir)
	default:
		g.Binary = arg
		g.Templates = filepath.Join(filepath.Dir(arg), "templates")
	}
	if err != nil {
		return g, err
	}
	if _, err := os.Stat(filepath.Join(g.Templates, "error.json")); err != nil {
		g.Templates = filepath.Join(dir, "own-templates")
		if err := writeTemplates(g.Templates); err != nil {
			return g, err
		}
	}
	if g.Real {
		b, err := preflight.Inspect(g.Binary)
		if err == nil && b.Plugin {
			err = errors.New("it is a plugin")
		}
		if err != nil {
			return g, cli.Advice(fmt.Errorf("%s is not a gateway's binary: %w", arg, err),
				"name the binary tyk, a .deb, or image:REF")
		}
	}
	return g, nil
}

// writeTemplates writes the templates without which a gateway does not start.
func writeTemplates(dir string) error {
	return errors.Join(os.MkdirAll(dir, 0o755),
		os.WriteFile(filepath.Join(dir, "error.json"), []byte(`{"error": "{{.Message}}"}`+"\n"), 0o644),
		os.WriteFile(filepath.Join(dir, "error.xml"), []byte("<error>{{.Message}}</error>\n"), 0o644))
}

func isDeb(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, 8)
	_, err = io.ReadFull(f, head)
	return err == nil && string(head) == "!<arch>\n"
}

// fromDeb unpacks the gateway of a package. Its scripts do not run.
func fromDeb(ctx context.Context, deb, dir string) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("unpack %s: %w", deb, err)
	}
	err = unpack(out, dir)
	if _, drained := io.Copy(io.Discard, out); err == nil {
		err = drained
	}
	if werr := cmd.Wait(); werr != nil {
		err = fmt.Errorf("%w: %s", werr, said.String())
	}
	if err != nil {
		return fmt.Errorf("unpack %s: %w", deb, err)
	}
	return nil
}

// fromImage copies the gateway out of an image of the engine. It runs nothing in the image.
func fromImage(ctx context.Context, ref, dir string) error {
	docker, err := compiler.Connect(compiler.ConnectOptions{})
	if err != nil {
		return err
	}
	defer func() { _ = docker.Close() }()
	made, err := docker.ContainerCreate(ctx, &container.Config{Image: ref, Entrypoint: []string{"/" +
		inPackage + "/tyk"}}, nil, nil, nil, "")
	if err != nil {
		return cli.Advice(fmt.Errorf("copy the gateway out of image %s: %w", ref, err), "docker pull "+
			ref)
	}
	defer func() {
		_ = docker.ContainerRemove(context.WithoutCancel(ctx), made.ID, container.RemoveOptions{
			Force: true})
	}()
	out, _, err := docker.CopyFromContainer(ctx, made.ID, "/"+inPackage)
	if err != nil {
		return fmt.Errorf("copy the gateway out of image %s: %w", ref, err)
	}
	defer func() { _ = out.Close() }()
	return unpack(out, dir)
}

// unpack takes the binary and the templates from a tar, and nothing else.
func unpack(in io.Reader, dir string) error {
	found := false
	if err := os.MkdirAll(filepath.Join(dir, "templates"), 0o755); err != nil {
		return err
	}
	for t := tar.NewReader(in); ; {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		name = strings.TrimPrefix(strings.TrimPrefix(name, inPackage+"/"), path.Base(inPackage)+"/")
		to, mode := "", fs.FileMode(0o644)
		switch {
		case h.Typeflag != tar.TypeReg:
		case name == "tyk":
			to, mode, found = filepath.Join(dir, "tyk"), 0o755, true
		case path.Dir(name) == "templates":
			to = filepath.Join(dir, "templates", path.Base(name))
		}
		if to == "" {
			continue
		}
		f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
		if err != nil {
			return err
		}
		const most = 2 << 30
		n, err := io.Copy(f, io.LimitReader(t, most))
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		if n == most {
			return fmt.Errorf("%s has more than %d bytes", name, most)
		}
	}
	if !found {
		return fmt.Errorf("it has no /%s/tyk", inPackage)
	}
	return nil
}
