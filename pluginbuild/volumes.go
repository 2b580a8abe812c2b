package pluginbuild

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/volume"
)

// Values of LabelKind on volumes.
const (
	buildCache  = "build-cache"
	moduleCache = "module-cache"
)

// Cache is a volume with what Go keeps between builds.
type Cache struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"`              // "build-cache" or "module-cache"
	Image   string `json:"image,omitempty"`   // module cache: start of the ID of the image it belongs to
	Created string `json:"created,omitempty"` // as the engine says it
}

// labelImage says which image a module cache belongs to.
const labelImage = "com.example.tykupgrade.image"

// caches makes the volumes for an image and returns what mounts them, and the
// environment of the compiler.
//
// One build cache serves all images: its entries are keyed by compiler and
// content. The module cache is one for each image, because an engine fills an
// empty volume with what the image has at that place, and some images (5.1.0)
// carry modules there, without which they need the network.
func (b *Builder) caches(ctx context.Context, img found) ([]mount.Mount, map[string]string, error) {
	env := maps.Clone(b.o.Env)
	if env == nil {
		env = map[string]string{}
	}
	if b.o.Caches == "none" {
		return nil, env, nil
	}
	gopath := or(img.env["GOPATH"], "/go")
	short := strings.TrimPrefix(img.id, "sha256:")
	short = short[:min(12, len(short))]
	var mounts []mount.Mount
	for _, c := range []struct{ kind, name, env, dir, image string }{
		{buildCache, b.o.Caches + "-gocache", "GOCACHE", or(img.env["GOCACHE"], path.Join(home(img), ".cache/go-build")), ""},
		{moduleCache, b.o.Caches + "-gomodcache-" + short, "GOMODCACHE", or(img.env["GOMODCACHE"], path.Join(strings.Split(gopath, ":")[0], "pkg/mod")), short},
	} {
		labels := b.labels(c.kind, nil)
		if c.image != "" {
			labels[labelImage] = c.image
		}
		// An existing volume is returned as it is. Of two builds that make it at
		// the same moment one gets an error from Podman 4.3, an Internal one.
		_, err := b.docker.VolumeCreate(ctx, volume.CreateOptions{Name: c.name, Labels: labels})
		if err != nil && !errdefs.IsConflict(err) && !strings.Contains(err.Error(), "volume already exists") {
			return nil, nil, fail(ctx, StageCreate, "volume "+c.name, err)
		}
		mounts = append(mounts, mount.Mount{Type: mount.TypeVolume, Source: c.name, Target: c.dir})
		env[c.env] = c.dir
	}
	return mounts, env, nil
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// ListCaches returns the caches that Builders of any run have made with the same
// Caches and with all of this Builder's Labels; where Caches is "none", with any
// prefix.
func (b *Builder) ListCaches(ctx context.Context) ([]Cache, error) {
	list, err := b.docker.VolumeList(ctx, volume.ListOptions{Filters: b.filter()})
	if err != nil {
		return nil, fail(ctx, StageConnect, "Docker engine", fmt.Errorf("list volumes: %w", err))
	}
	var found []Cache
	for _, v := range list.Volumes {
		if kind := v.Labels[LabelKind]; b.ours(v.Labels) && (kind == buildCache || kind == moduleCache) &&
			(b.o.Caches == "none" || strings.HasPrefix(v.Name, b.o.Caches+"-go")) {
			found = append(found, Cache{Name: v.Name, Kind: kind, Image: v.Labels[labelImage], Created: v.CreatedAt})
		}
	}
	slices.SortFunc(found, func(a, b Cache) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}

// RemoveCaches removes the caches that ListCaches lists and returns the names
// of those removed. One in use by a running build stays and makes an error.
func (b *Builder) RemoveCaches(ctx context.Context) ([]string, error) {
	list, err := b.ListCaches(ctx)
	if err != nil {
		return nil, err
	}
	var removed []string
	var errs []error
	for _, c := range list {
		switch err := b.docker.VolumeRemove(ctx, c.Name, false); {
		case err == nil:
			removed = append(removed, c.Name)
		case errdefs.IsNotFound(err):
		default:
			e := fail(ctx, StageRemove, "volume "+c.Name, err)
			if errdefs.IsConflict(err) {
				e.retry, e.hint = true, "a container uses it; wait for its end"
			}
			errs = append(errs, e)
		}
	}
	return removed, errors.Join(errs...)
}

// filter selects what carries our label and all of the caller's.
func (b *Builder) filter() filters.Args {
	f := filters.NewArgs(filters.Arg("label", LabelRun))
	for k, v := range b.o.Labels {
		f.Add("label", k+"="+v)
	}
	return f
}

// ours checks the filter again: Podman 4.3 returns volumes that match any of
// several labels, not all.
func (b *Builder) ours(labels map[string]string) bool {
	for k, v := range b.o.Labels {
		if labels[k] != v {
			return false
		}
	}
	return labels[LabelRun] != ""
}
