package compiler

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

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"

	"example.com/tykupgrade/pluginbuild"
)

// PullPolicy decides when to pull the image from its registry.
type PullPolicy string

// The pull policies.
const (
	// the default: pull if the engine lacks the image, or has it for another platform
	PullMissing PullPolicy = "missing"
	PullAlways  PullPolicy = "always"
	PullNever   PullPolicy = "never"
)

// Reference is [pluginbuild.Image.Reference] with registry and tag added: the full name of the
// image in an engine or a registry. Errors match [ErrRequest].
func Reference(i pluginbuild.Image, r pluginbuild.Release) (string, error) {
	named, err := normal(i, r)
	if err != nil {
		return "", err
	}
	return named.String(), nil
}

func normal(i pluginbuild.Image, r pluginbuild.Release) (reference.Named, error) {
	text, err := i.Reference(r)
	if err != nil {
		return nil, err
	}
	named, err := reference.ParseNormalizedNamed(text)
	if err != nil {
		return nil, refuse("image "+text, "%w", err)
	}
	return reference.TagNameOnly(named), nil
}

// found is an image in the engine.
type found struct {
	ref, id, digest string
	platform        string            // "linux/amd64"
	env             map[string]string // its configured environment
}

// ensureImage makes the image available and checks that it is the right one.
func (b *Builder) ensureImage(ctx context.Context, q *Request) (found, error) {
	named, err := normal(q.Image, q.Release)
	if err != nil {
		return found{}, err
	}
	ref, pin := named.String(), q.Image.Digest
	want := b.platforms(q.Release.Compiler)
	have, err := b.lookImage(ctx, ref, pin, want[0])
	if err != nil {
		return found{}, err
	}
	// RemoveImages may only remove an image that the engine did not have at all: an older image
	// would lose its name. Note it before the pull, because an engine may finish a cancelled one.
	mayCome := have == nil && (q.Image.Tar != "" || b.o.Pull != PullNever)
	if mayCome {
		b.brought(ref)
	}
	switch right := have != nil && slices.Contains(want, have.Platform); {
	case q.Image.Tar != "":
		if right {
			_, right = digestOf(have, pin)
		}
		if !right {
			name := ref
			if pin != "" {
				name = "" // its ID identifies it
			}
			if err := b.loadImage(ctx, q.Image.Tar, name); err != nil {
				b.forget(ctx, ref, pin)
				return found{}, err
			}
		}
	case right && b.o.Pull != PullAlways:
	case b.o.Pull == PullNever && have == nil:
		return found{}, &Error{Op: StagePull, Object: ref, Kind: ErrNoImage,
			Next: "the pull policy is never: load it into the engine (docker load), or name a file of " +
				"docker save"}
	case b.o.Pull == PullNever:
	default:
		if err := b.pullImage(ctx, named, want[0]); err != nil {
			b.forget(ctx, ref, pin)
			return found{}, err
		}
	}
	// Engines report success for a pull of a platform that they or the registry lack (20.10), so
	// look again.
	if have, err = b.lookImage(ctx, ref, pin, want[0]); err != nil {
		return found{}, err
	}
	if have == nil {
		b.forget(ctx, ref, pin)
		e := &Error{Op: StagePull, Object: ref, Kind: ErrNoImage}
		e.Next = "the engine reported a successful pull, but has no image: see its log"
		if q.Image.Tar != "" {
			e.Next = q.Image.Tar + " has another image, or one without a name: pin its ID"
		}
		return found{}, e
	}
	if mayCome && have.ID == pin {
		// An image from a file may have no name.
		b.brought(pin)
	}
	if !slices.Contains(want, have.Platform) {
		return found{}, &Error{Op: StagePull, Object: ref, Kind: ErrPlatform,
			Err:  fmt.Errorf("%s, not %s", have.Platform, strings.Join(want, " or ")),
			Next: "to compile for another architecture, set GOARCH instead of the image"}
	}
	digest, right := digestOf(have, pin)
	if !right {
		return found{}, &Error{Op: StagePull, Object: ref, Kind: ErrDigest,
			Err:  fmt.Errorf("it has ID %s and registry digest %q, not %s", have.ID, digest, pin),
			Next: "pin the ID of an image from a file, because it has no registry digest"}
	}
	f := found{ref: ref, id: have.ID, digest: digest, platform: have.Platform,
		env: map[string]string{}}
	for _, pair := range have.Env {
		k, v, _ := strings.Cut(pair, "=")
		f.env[k] = v
	}
	return f, nil
}

// platforms returns the platforms of images that can compile, the engine's own first.
func (b *Builder) platforms(c pluginbuild.Compiler) []string {
	b.mu.Lock()
	own := b.platform
	b.mu.Unlock()
	all := slices.Clone(c.Platforms())
	slices.SortStableFunc(all, func(x, y string) int {
		switch {
		case x == own && y != own:
			return -1
		case y == own && x != own:
			return 1
		}
		return 0
	})
	return all
}

// digestOf returns the registry's digest of an image, or "". It also reports whether the digest or
// the image's ID is the pinned one.
func digestOf(i *picture, pin string) (digest string, right bool) {
	for _, d := range i.Digests {
		if at := strings.LastIndexByte(d, '@'); at >= 0 && (digest == "" || d[at+1:] == pin) {
			digest = d[at+1:]
		}
	}
	return digest, pin == "" || pin == digest || pin == i.ID
}

// lookImage finds an image, or returns nil. Engines do not find an image by name and ID together
// (name@ID), so it also tries the pin alone.
func (b *Builder) lookImage(ctx context.Context, ref, pin, platform string) (*picture, error) {
	have, err := b.inspectImage(ctx, ref, platform)
	if err != nil || have != nil || pin == "" {
		return have, err
	}
	have, err = b.inspectImage(ctx, pin, platform)
	if have != nil && have.ID != pin {
		have = nil
	}
	return have, err
}

// inspectImage returns nil if the engine lacks the image.
func (b *Builder) inspectImage(ctx context.Context, ref, platform string) (*picture, error) {
	have, err := b.engine.image(ctx, ref, platform)
	if err != nil {
		return nil, fail(ctx, StagePull, ref, fmt.Errorf("inspect: %w", err))
	}
	return have, nil
}

func (b *Builder) pullImage(ctx context.Context, named reference.Named, platform string) error {
	ref := named.String()
	host := reference.Domain(named)
	if host == "docker.io" {
		host = "https://index.docker.io/v1/"
	}
	auth, err := b.o.Auth(ctx, host)
	if err != nil {
		return fail(ctx, StagePull, ref, err)
	}
	b.log(ctx, "pulling image", "ref", ref, "platform", platform, "anonymous", auth.anonymous())
	if err := b.engine.bring(ctx, source{ref: ref, platform: platform, auth: auth},
		b.event); err != nil {
		return pullError(fail(ctx, StagePull, ref, err), host, auth.anonymous())
	}
	return nil
}

// pullError derives the kind and the hint from an engine's message. For bad credentials 20.10
// returns an internal error (HTTP 500), and Podman 4.3 an error in a successful answer.
func pullError(e *Error, host string, anonymous bool) error {
	if errors.Is(e.Err, context.Canceled) || errors.Is(e.Err, context.DeadlineExceeded) {
		return e
	}
	text := strings.ToLower(e.Err.Error())
	has := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(text, p) })
	}
	switch {
	case has("toomanyrequests", "rate limit"):
		e.Retry, e.Next = true, "the registry limits pulls: log in (docker login), wait, or use a mirror"
	case has("unauthorized", "authentication required", "no basic auth credentials", "denied",
		"forbidden"):
		e.Next = "the registry refused the credentials for " + host + ": run docker login"
		if anonymous {
			e.Next = "no credentials for " + host + ": run docker login, or check that the repository exists"
		}
	case errdefs.IsNotFound(e.Err) || has("manifest unknown", "not found", "name unknown"):
		e.Kind, e.Next = ErrNoImage, "the registry has no such tag or digest: check the release and "+
			"the edition"
	case networkFault.MatchString(text) || has("timeout"):
		e.Retry, e.Next = true, "the engine could not reach the registry: for an airgapped engine use a "+
			"mirror or a file of docker save"
	}
	return e
}

// loadImage loads a file of docker save. It refuses one without the image want ("": any).
func (b *Builder) loadImage(ctx context.Context, path, want string) error {
	f, err := os.Open(path)
	if err != nil {
		return &Error{Op: StagePull, Object: path, Err: err,
			Next: "name a file of docker save"}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fail(ctx, StagePull, path, err)
	}
	if want != "" && info.Mode().IsRegular() { // a pipe can be read once
		if names := savedNames(f); len(names) > 0 && !slices.Contains(names, want) {
			return &Error{Op: StagePull, Object: want, Kind: ErrNoImage, Next: path + " holds " +
				strings.Join(names, ", ") + "; name that as the image"}
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return fail(ctx, StagePull, path, err)
		}
	}
	b.log(ctx, "loading image", "file", path)
	in := &counter{r: f, report: func(n int64) {
		b.event(Event{Stage: StagePull, Kind: Progress, Line: "Loading", Part: filepath.Base(path),
			Current: n, Total: info.Size()})
	}}
	err = b.engine.bring(ctx, source{tar: in}, b.event)
	in.over.Store(true)
	if err != nil {
		e := fail(ctx, StagePull, path, fmt.Errorf("load: %w", err))
		e.Next = "make sure that the file is a complete output of docker save"
		return e
	}
	return nil
}

// savedNames returns the names of the images in a file of docker save. It returns nil if it cannot
// read them, as from a compressed file.
func savedNames(f io.ReadSeeker) []string {
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err != nil {
			return nil
		}
		if h.Name != "manifest.json" {
			continue
		}
		var images []struct{ RepoTags []string }
		if err := json.NewDecoder(r).Decode(&images); err != nil {
			return nil
		}
		var names []string
		for _, i := range images {
			for _, tag := range i.RepoTags {
				if named, err := reference.ParseNormalizedNamed(tag); err == nil {
					names = append(names, named.String())
				}
			}
		}
		return names
	}
}

// brought remembers an image that this Builder adds to the engine.
func (b *Builder) brought(ref string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.images[ref] = true
}

// forget undoes brought after a pull or load without an image, because somebody else may bring the
// image later.
func (b *Builder) forget(ctx context.Context, ref, pin string) {
	if have, err := b.lookImage(ctx, ref, pin, ""); err == nil && have == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.images, ref)
	}
}

// RemoveImages removes this Builder's remaining containers, then the images that it pulled or
// loaded. It spares images that the engine had before. It returns the references or IDs of
// removed images. An image in use stays and is an error; a missing one is not. Do not call it
// during a Build or LoadTest of this Builder.
func (b *Builder) RemoveImages(ctx context.Context) ([]string, error) {
	if err := b.removeOwnContainers(ctx); err != nil {
		return nil, err
	}
	b.mu.Lock()
	refs := make([]string, 0, len(b.images))
	for ref := range b.images {
		refs = append(refs, ref)
	}
	b.mu.Unlock()
	// IDs last: an image disappears with its last name.
	slices.SortFunc(refs, func(x, y string) int {
		byID := func(ref string) int {
			if strings.HasPrefix(ref, "sha256:") {
				return 1
			}
			return 0
		}
		return cmp.Or(byID(x)-byID(y), strings.Compare(x, y))
	})
	var removed []string
	var errs []error
	for _, ref := range refs {
		err := b.engine.remove(ctx, images, ref)
		if err != nil && !errdefs.IsNotFound(err) {
			e := fail(ctx, StageRemove, "image "+ref, err)
			if errdefs.IsConflict(err) {
				e.Next = "first remove the other container that uses the image"
			}
			errs = append(errs, e)
			continue
		}
		b.mu.Lock()
		delete(b.images, ref)
		b.mu.Unlock()
		if err == nil {
			removed = append(removed, ref)
		}
	}
	return removed, errors.Join(errs...)
}

func (b *Builder) removeOwnContainers(ctx context.Context) error {
	list, err := b.engine.list(ctx, containers, map[string]string{LabelRun: b.run})
	if err != nil {
		return fail(ctx, StageRemove, "containers of this run", err)
	}
	for _, c := range list {
		if err := b.removeContainer(ctx, c.id); err != nil {
			return err
		}
	}
	return nil
}
