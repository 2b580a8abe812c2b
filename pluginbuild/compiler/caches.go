package compiler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
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
	Image   string `json:"image,omitempty"`   // start of the ID of the image that it belongs to
	Created string `json:"created,omitempty"` // as the engine says it
}

// labelImage says which image a cache belongs to.
const labelImage = "com.example.tykupgrade.image"

// caches returns the volumes that the containers of an image mount, and the
// environment of its compiler.
//
// Each image has caches of its own: what one image leaves there another would link
// into plugins, so that a hostile image could change what the official one builds.
// An engine fills an empty volume with what the image has at that place, and some
// images (5.1.0) carry modules there, without which they need the network.
func (b *Builder) caches(img found) ([]mounted, map[string]string) {
	env := maps.Clone(b.o.Env)
	if env == nil {
		env = map[string]string{}
	}
	if b.o.Caches == "none" {
		return nil, env
	}
	gopath := cmp.Or(img.env["GOPATH"], "/go")
	id := strings.TrimPrefix(img.id, "sha256:")
	id = id[:min(32, len(id))]
	var mounts []mounted
	for _, c := range []struct{ kind, name, env, dir string }{
		{buildCache, "-gocache-", "GOCACHE", cmp.Or(img.env["GOCACHE"], path.Join(home(img),
			".cache/go-build"))},
		{moduleCache, "-gomodcache-", "GOMODCACHE", cmp.Or(img.env["GOMODCACHE"],
			path.Join(strings.Split(gopath, ":")[0], "pkg/mod"))},
	} {
		labels := b.labels(c.kind, nil)
		labels[labelImage] = id
		mounts = append(mounts, mounted{volume: b.o.Caches + c.name + id, target: c.dir, labels: labels})
		env[c.env] = c.dir
	}
	return mounts, env
}

// ListCaches returns the caches that Builders of any run have made with the same
// Caches and with all of this Builder's Labels; where Caches is "none", with any
// prefix.
func (b *Builder) ListCaches(ctx context.Context) ([]Cache, error) {
	list, err := b.engine.list(ctx, volumes, b.o.Labels)
	if err != nil {
		return nil, fail(ctx, StageConnect, "Docker engine", fmt.Errorf("list volumes: %w", err))
	}
	var found []Cache
	for _, v := range list {
		if kind := v.labels[LabelKind]; (kind == buildCache || kind == moduleCache) &&
			(b.o.Caches == "none" || strings.HasPrefix(v.name, b.o.Caches+"-go")) {
			found = append(found, Cache{Name: v.name, Kind: kind, Image: v.labels[labelImage],
				Created: v.created})
		}
	}
	slices.SortFunc(found, func(a, b Cache) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}

// RemoveCaches removes the caches that ListCaches lists and returns the names
// of those removed. A cache in use by a running build stays, and is an error.
func (b *Builder) RemoveCaches(ctx context.Context) ([]string, error) {
	list, err := b.ListCaches(ctx)
	if err != nil {
		return nil, err
	}
	var removed []string
	var errs []error
	for _, c := range list {
		switch err := b.engine.remove(ctx, volumes, c.Name); {
		case err == nil:
			removed = append(removed, c.Name)
		case errdefs.IsNotFound(err):
		default:
			e := fail(ctx, StageRemove, "volume "+c.Name, err)
			if errdefs.IsConflict(err) {
				e.Retry, e.Next = true, "a container uses it; wait for its end"
			}
			errs = append(errs, e)
		}
	}
	return removed, errors.Join(errs...)
}
