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

// Cache is a volume with one of Go's caches.
type Cache struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"`              // "build-cache" or "module-cache"
	Image   string `json:"image,omitempty"`   // beginning of the ID of its image
	Created string `json:"created,omitempty"` // in the engine's format
}

// CacheRows are caches as a table for people. The first row is the heading.
func CacheRows(caches []Cache) [][]string {
	rows := [][]string{{"VOLUME", "KIND", "CREATED"}}
	for _, c := range caches {
		rows = append(rows, []string{c.Name, c.Kind, c.Created})
	}
	return rows
}

// labelImage has the image of a cache.
const labelImage = "com.example.tykupgrade.image"

// caches returns the volumes that the containers of an image mount, and the environment of its
// compiler.
//
// Images do not share caches, because a hostile image could change the builds of the official
// one. An engine fills an empty volume with the image's files. Some images (5.1.0) have modules
// there and would otherwise need the network.
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

// ListCaches returns the caches with this Builder's prefix and Labels, of all runs. If Caches is
// "none", it ignores the prefix.
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

// RemoveCaches removes the caches of [Builder.ListCaches] and returns the names of removed ones. A
// cache that a running build uses stays and is an error.
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
				e.Retry, e.Next = true, "wait for the end of the container that uses it"
			}
			errs = append(errs, e)
		}
	}
	return removed, errors.Join(errs...)
}
