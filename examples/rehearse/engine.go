package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"

	stub "example.com/tykupgrade/internal/lab/compiler"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

// engine is a Docker engine of this machine, with what the rehearsal put there.
type engine struct {
	docker *client.Client
	id     string
	images []string
	build  *compiler.Builder
}

const label = "com.example.tykupgrade.rehearse"

// connectEngine uses an engine only if the stub image can work: it
// borrows the toolchain of this machine.
func (r *rehearsal) connectEngine(ctx context.Context) (string, error) {
	docker, err := compiler.Connect(compiler.ConnectOptions{})
	if err != nil {
		return "", err
	}
	r.later(func(context.Context) error { return docker.Close() })
	ask, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	v, err := docker.ServerVersion(ask)
	switch {
	case err != nil:
		return "", fmt.Errorf("no Docker engine answers at %s (Debian package docker.io)",
			docker.DaemonHost())
	case !strings.HasPrefix(docker.DaemonHost(), "unix://"):
		return v.Version, fmt.Errorf("the Docker engine at %s is another machine's", docker.DaemonHost())
	case runtime.GOARCH != "amd64":
		return v.Version, errors.New("the compiler image is for linux/amd64, this machine is not")
	case r.parts.gcc != "":
		return v.Version, nil // nothing will be compiled
	}
	cache, err := stub.GoCacheMount()
	if err != nil {
		return "", err
	}
	e := &engine{docker: docker, id: strings.ToLower(rand.Text()[:10])}
	e.build = compiler.New(docker, compiler.Options{
		Pull: compiler.PullNever, Caches: "none", Labels: map[string]string{label: e.id},
		Mounts: append(stub.Mounts(), filepath.Join(r.dir, "proxy")+":/proxy", cache),
		Env:    map[string]string{"GOPROXY": "file:///proxy", "GOSUMDB": "off", "GOFLAGS": r.goFlags()},
		Limits: compiler.Limits{Network: "none"},
		Progress: func(e pluginbuild.Event) {
			switch e.Kind {
			case pluginbuild.Started:
				r.print.event("%s", e.Stage)
			case pluginbuild.Output:
				r.print.event("%s", e.Line)
			}
		},
	})
	r.later(e.remove)
	r.engine = e
	return v.Version, nil
}

// compile loads the stub of the release's image and compiles in it.
func (e *engine) compile(ctx context.Context, r *rehearsal,
	release pluginbuild.Release) (file, fake string, err error) {
	ref := "tykupgrade.rehearse/" + e.id + "/tyk-plugin-compiler:" + release.Tag()
	if !slices.Contains(e.images, ref) {
		r.print.event("make the image")
		self, err := os.ReadFile(running)
		if err != nil {
			return "", "", err
		}
		img, err := stub.Image(stub.Config{Version: release.Version.String(), GoCache: true,
			Labels: map[string]string{label: e.id}, Program: self})
		if err != nil {
			return "", "", err
		}
		if err := stub.Load(ctx, e.docker, ref, img); err != nil {
			return "", "", err
		}
		e.images = append(e.images, ref)
		r.awaitLibrary()
		// The cache that the container reads then has Go's library, as plugins need it. If
		// this fails, the container compiles that itself.
		r.print.event("fill the build cache")
		if work, err := os.MkdirTemp(r.dir, "compile-"); err == nil {
			_ = stub.FillGoCache(ctx, release.Version, r.plugin.dir, work, append(slices.Clone(
				r.plugin.env), "GOFLAGS="+r.goFlags()))
		}
	}
	artifact, err := e.build.Build(ctx, compiler.Request{Release: release, Dir: r.plugin.dir,
		OutputDir: filepath.Join(r.plugin.builds, "new"), Image: pluginbuild.Image{Ref: ref}})
	return artifact.Path, "an image with this machine's Go for Tyk's compiler image; the " +
		"engine is real", err
}

// remove takes back what the rehearsal put into the engine.
func (e *engine) remove(ctx context.Context) error {
	var errs []error
	for _, ref := range e.images {
		if _, err := e.docker.ImageRemove(ctx, ref, image.RemoveOptions{Force: true,
			PruneChildren: true}); err != nil {
			errs = append(errs, err)
		}
	}
	_, err := e.build.RemoveCaches(ctx)
	return errors.Join(append(errs, err)...)
}

// left counts what is still there.
func (e *engine) left(ctx context.Context, left *Left) error {
	mine := filters.NewArgs(filters.Arg("label", label+"="+e.id))
	containers, err := e.docker.ContainerList(ctx, container.ListOptions{All: true, Filters: mine})
	if err != nil {
		return err
	}
	images, err := e.docker.ImageList(ctx, image.ListOptions{Filters: mine})
	if err != nil {
		return err
	}
	volumes, err := e.docker.VolumeList(ctx, volume.ListOptions{Filters: mine})
	if err != nil {
		return err
	}
	left.Containers, left.Images, left.Volumes = len(containers), len(images), len(volumes.Volumes)
	if n := left.Containers + left.Images + left.Volumes; n > 0 {
		return fmt.Errorf("the engine still has %d containers, %d images and %d volumes with the "+
			"label %s=%s", left.Containers, left.Images, left.Volumes, label, e.id)
	}
	return nil
}

func (r *rehearsal) redisVersion(ctx context.Context) (string, error) {
	path := program("redis-server")
	if path == "" {
		return "", errors.New("redis-server is not on PATH (Debian package redis-server)")
	}
	out, err := r.output(ctx, path, "--version") // Redis server v=7.0.15 sha=…
	for _, field := range strings.Fields(out) {
		if v, ok := strings.CutPrefix(field, "v="); ok {
			return v, err
		}
	}
	return "", err
}

// aptVersion looks for all that packages, their repository and the private root
// need.
func (r *rehearsal) aptVersion(ctx context.Context) (string, error) {
	var missing, packages []string
	for _, p := range []struct{ name, deb string }{{"apt-get", "apt"}, {"dpkg", "dpkg"}, {"dpkg-deb",
		"dpkg"}, {"apt-ftparchive", "apt-utils"}, {"gpg", "gnupg"}, {"gpgv", "gpgv"}} {
		if _, err := exec.LookPath(p.name); err != nil {
			missing, packages = append(missing, p.name), append(packages, p.deb)
		}
	}
	if len(missing) > 0 {
		return "", fmt.Errorf("%s not on PATH (Debian packages %s)", strings.Join(missing, ", "),
			strings.Join(slices.Compact(packages), ", "))
	}
	out, err := r.output(ctx, "apt-get", "--version") // apt 2.6.1 (amd64)
	return strings.Fields(out + " ? ?")[1], err
}
