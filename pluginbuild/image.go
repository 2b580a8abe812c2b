package pluginbuild

import (
	"archive/tar"
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
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"
)

// Image says which compiler image to use. The zero value is the release's
// official image of the standard edition.
type Image struct {
	Edition Edition // "": Standard
	// Distro is the distribution of the gateway's host, as packages name it:
	// "ubuntu/xenial". Where that release was packaged for it from the -el7
	// build, the -el7 image is used.
	Distro string
	EL7    bool   // the -el7 image, whatever Distro says
	Plain  bool   // the image without -el7, whatever Distro says
	Ref    string // use this image instead of the official one
	Digest string // "sha256:…", of the registry's manifest or, for an image that the engine has or Tar brings, its ID: any other image is refused
	Tar    string // file written by `docker save`, loaded where the engine lacks the image; nothing is pulled then
}

// Reference returns the full reference that the image has in an engine or a
// registry, with the digest where one is pinned.
//
// Errors match [ErrRequest]; for a distribution whose packages came from both
// builds one of EL7 and Plain must be set.
func (i Image) Reference(r Release) (string, error) {
	ref, err := i.reference(r)
	if err != nil {
		return "", err
	}
	return ref.String(), nil
}

func (i Image) reference(r Release) (reference.Named, error) {
	text := i.Ref
	if text == "" {
		el7, err := i.el7(r)
		if err != nil {
			return nil, err
		}
		if text, err = r.Image(i.Edition, el7); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
	} else if i.EL7 || i.Plain || i.Edition != "" && i.Edition != Standard {
		return nil, refuse("image "+text, "a named image has its own edition and variant; leave those (std, ee, fips; -el7 or plain) out")
	}
	// The engine would take "compiler" for docker.io/library/compiler, and
	// Podman would ask which registry is meant.
	named, err := reference.ParseNormalizedNamed(text)
	if err != nil {
		return nil, refuse("image "+text, "%w", err)
	}
	if i.Digest == "" || i.Tar != "" {
		return reference.TagNameOnly(named), nil
	}
	if d, ok := named.(reference.Digested); ok && string(d.Digest()) != i.Digest {
		return nil, refuse("image "+text, "it names another digest than the pinned %s; leave one of them out", i.Digest)
	}
	canonical, err := reference.ParseNormalizedNamed(reference.TrimNamed(named).Name() + "@" + i.Digest)
	if err != nil {
		return nil, refuse("image "+text, "digest %q: %w; it reads sha256: and 64 hex digits", i.Digest, err)
	}
	return canonical, nil
}

func (i Image) el7(r Release) (bool, error) {
	switch {
	case i.EL7 && i.Plain:
		return false, refuse("image", "both the -el7 and the plain image are asked for; choose one")
	case i.EL7 || i.Plain:
		return i.EL7, nil
	case slices.Contains(r.Compiler.EL7OrPlainDistros, i.Distro):
		return false, refuse("image for "+i.Distro, "%s packaged its gateway for it from the plain and from the -el7 build; "+
			"look at the installed gateway (objdump -T /opt/tyk-gateway/tyk: it needs no glibc above 2.17 if it is the -el7 build) and ask for the -el7 or the plain image", r.Version)
	}
	return slices.Contains(r.Compiler.EL7Distros, i.Distro), nil
}

// PullPolicy says when to ask a registry for the image.
type PullPolicy string

// The pull policies.
const (
	PullMissing PullPolicy = "missing" // the default: when the engine lacks it, or has it for another platform
	PullAlways  PullPolicy = "always"
	PullNever   PullPolicy = "never"
)

// found is an image in the engine.
type found struct {
	ref, id, digest string
	env             map[string]string // its configured environment
}

// ensureImage makes the image available and checks that it is the right one.
func (b *Builder) ensureImage(ctx context.Context, q *Request) (found, error) {
	named, err := q.Image.reference(q.Release)
	if err != nil {
		return found{}, err
	}
	ref := named.String()
	have, err := b.lookImage(ctx, ref, q.Image.Digest)
	if err != nil {
		return found{}, err
	}
	// Only an image that the engine did not have at all is ours to remove: had
	// the name stood for an older one, its owner would lose the name. It is noted
	// before, because an engine may finish what was cancelled.
	if have == nil && (q.Image.Tar != "" || b.o.Pull != PullNever) {
		b.brought(ref)
	}
	switch right := have != nil && platformOf(have) == ""; {
	case q.Image.Tar != "":
		if right {
			_, right = digestOf(have, q.Image.Digest)
		}
		if !right {
			want := ref
			if q.Image.Digest != "" {
				want = "" // its ID says which it is
			}
			if err := b.loadImage(ctx, q.Image.Tar, want); err != nil {
				b.forget(ctx, ref)
				return found{}, err
			}
		}
	case right && b.o.Pull != PullAlways:
	case b.o.Pull == PullNever && have == nil:
		return found{}, &Error{Stage: StagePull, Object: ref, Err: ErrNoImage,
			hint: "the pull policy is never: load it into the engine (docker load), or give a file written by docker save"}
	case b.o.Pull == PullNever:
	default:
		if err := b.pullImage(ctx, named); err != nil {
			b.forget(ctx, ref)
			return found{}, err
		}
	}
	// Engines report a pull of a platform that they or the registry lack as a
	// success (20.10), so only a second look tells.
	if have, err = b.lookImage(ctx, ref, q.Image.Digest); err != nil {
		return found{}, err
	}
	if have == nil {
		b.forget(ctx, ref)
		e := &Error{Stage: StagePull, Object: ref, Err: ErrNoImage}
		e.hint = "the engine reported the pull as done; its log may say why the image is not there"
		if q.Image.Tar != "" {
			e.hint = q.Image.Tar + " holds another image, or one without a name: pin its ID"
		}
		return found{}, e
	}
	if got := platformOf(have); got != "" {
		return found{}, &Error{Stage: StagePull, Object: ref, Err: fmt.Errorf("%w: %s, not linux/amd64", ErrPlatform, got),
			hint: "all official compiler images are for linux/amd64; to compile for another architecture name that as the target (GOARCH)"}
	}
	digest, right := digestOf(have, q.Image.Digest)
	if pin := q.Image.Digest; !right {
		return found{}, &Error{Stage: StagePull, Object: ref, Err: fmt.Errorf("image has ID %s and registry digest %q, not the pinned %s", have.ID, digest, pin),
			hint: "an image that came from a file has no registry digest: pin its ID"}
	}
	f := found{ref: ref, id: have.ID, digest: digest, env: map[string]string{}}
	if have.Config != nil {
		for _, pair := range have.Config.Env {
			k, v, _ := strings.Cut(pair, "=")
			f.env[k] = v
		}
	}
	return f, nil
}

// platformOf returns the image's platform if it is not the one we need.
func platformOf(i *image.InspectResponse) string {
	if i.Os == "linux" && i.Architecture == "amd64" {
		return ""
	}
	return i.Os + "/" + i.Architecture
}

// digestOf returns the registry's digest of an image, "" where it has none, and
// whether it or the image's ID is the pinned one.
func digestOf(i *image.InspectResponse, pin string) (digest string, right bool) {
	for _, d := range i.RepoDigests {
		if at := strings.LastIndexByte(d, '@'); at >= 0 && (digest == "" || d[at+1:] == pin) {
			digest = d[at+1:]
		}
	}
	return digest, pin == "" || pin == digest || pin == i.ID
}

// lookImage returns nil where there is no such image. No engine knows an image
// by its name and ID together (name@ID), so a pin is tried by itself too.
func (b *Builder) lookImage(ctx context.Context, ref, pin string) (*image.InspectResponse, error) {
	have, err := b.inspectImage(ctx, ref)
	if err != nil || have != nil || pin == "" {
		return have, err
	}
	have, err = b.inspectImage(ctx, pin)
	if have != nil && have.ID != pin {
		have = nil
	}
	return have, err
}

// inspectImage returns nil where there is no such image.
func (b *Builder) inspectImage(ctx context.Context, ref string) (*image.InspectResponse, error) {
	info, err := b.docker.ImageInspect(ctx, ref)
	switch {
	case err == nil:
		return &info, nil
	case errdefs.IsNotFound(err) && ctx.Err() == nil:
		return nil, nil
	}
	return nil, fail(ctx, StagePull, ref, fmt.Errorf("inspect: %w", err))
}

func (b *Builder) pullImage(ctx context.Context, named reference.Named) error {
	ref := named.String()
	host := reference.Domain(named)
	if host == "docker.io" {
		host = "https://index.docker.io/v1/"
	}
	auth, err := b.o.Auth(ctx, host)
	if err != nil {
		return fail(ctx, StagePull, ref, err)
	}
	o := image.PullOptions{Platform: "linux/amd64"}
	anonymous := auth == registry.AuthConfig{} || auth == registry.AuthConfig{ServerAddress: auth.ServerAddress}
	if !anonymous {
		if o.RegistryAuth, err = registry.EncodeAuthConfig(auth); err != nil {
			return fail(ctx, StagePull, ref, errors.New("the registry credentials cannot be encoded"))
		}
	}
	b.log(ctx, "pulling image", "ref", ref, "anonymous", anonymous)
	body, err := b.docker.ImagePull(ctx, ref, o)
	if err == nil {
		err = b.follow(body)
	}
	if err != nil {
		return pullError(fail(ctx, StagePull, ref, err), host, anonymous)
	}
	return nil
}

// pullError adds what an engine says only in words. 20.10 reports missing and
// wrong credentials as an internal error (HTTP 500), Podman 4.3 within the
// stream of a successful answer.
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
		e.retry, e.hint = true, "the registry limits pulls; log in (docker login), wait, or name the image in a mirror"
	case has("unauthorized", "authentication required", "no basic auth credentials", "denied", "forbidden"):
		e.hint = "the registry refused the credentials for " + host + "; docker login renews them"
		if anonymous {
			e.hint = "there were no credentials for " + host + "; docker login stores some (or the repository does not exist)"
		}
	case errdefs.IsNotFound(e.Err) || has("manifest unknown", "not found", "name unknown"):
		e.Err = fmt.Errorf("%w: %w", ErrNoImage, e.Err)
		e.hint = "the registry has no such tag or digest; check the release and the edition"
	case networkFault.MatchString(text) || has("timeout"):
		e.retry, e.hint = true, "the engine could not reach the registry; an airgapped engine needs a file written by docker save, or the image's name in a mirror"
	}
	return e
}

// loadImage refuses a file that holds other images than the wanted one ("": any).
func (b *Builder) loadImage(ctx context.Context, path, want string) error {
	f, err := os.Open(path)
	if err != nil {
		return &Error{Stage: StagePull, Object: path, Err: err, hint: "it must be a file written by docker save"}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fail(ctx, StagePull, path, err)
	}
	if want != "" && info.Mode().IsRegular() { // a pipe can be read once
		if names := savedNames(f); len(names) > 0 && !slices.Contains(names, want) {
			return &Error{Stage: StagePull, Object: want, Err: ErrNoImage, hint: path + " holds " + strings.Join(names, ", ") + "; name that as the image"}
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return fail(ctx, StagePull, path, err)
		}
	}
	b.log(ctx, "loading image", "file", path)
	in := &counter{r: f, report: func(n int64) {
		b.event(Event{Stage: string(StagePull), Kind: Progress, Line: "Loading", Part: filepath.Base(path), Current: n, Total: info.Size()})
	}}
	res, err := b.docker.ImageLoad(ctx, in)
	in.over.Store(true)
	if err == nil {
		err = b.follow(res.Body)
	}
	if err != nil {
		e := fail(ctx, StagePull, path, fmt.Errorf("load: %w", err))
		e.hint = "the file must be whole and written by docker save"
		return e
	}
	return nil
}

// savedNames lists what docker save wrote into a file; nil: that cannot be told,
// as in a compressed one.
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

// follow reads the progress of a pull or load; errors may come at any time in
// a stream whose HTTP status was 200.
func (b *Builder) follow(body io.ReadCloser) error {
	defer body.Close()
	for d := json.NewDecoder(body); ; {
		var m struct {
			Status   string `json:"status"`
			Stream   string `json:"stream"`
			ID       string `json:"id"`
			Progress struct {
				Current int64 `json:"current"`
				Total   int64 `json:"total"`
			} `json:"progressDetail"`
			Error  string `json:"error"`
			Detail struct {
				Message string `json:"message"`
			} `json:"errorDetail"`
		}
		switch err := d.Decode(&m); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read the engine's progress: %w", err)
		case m.Detail.Message != "":
			return errors.New(m.Detail.Message)
		case m.Error != "":
			return errors.New(m.Error)
		}
		if m.Status == "" {
			m.Status = strings.TrimSpace(m.Stream)
		}
		b.event(Event{Stage: string(StagePull), Kind: Progress, Line: m.Status, Part: m.ID, Current: max(0, m.Progress.Current), Total: max(0, m.Progress.Total)}) // -1: not known
	}
}

// brought remembers an image that this Builder adds to the engine.
func (b *Builder) brought(ref string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.images[ref] = true
}

// forget takes brought back after a pull or load that brought nothing, so that
// an image which somebody else brings later is not taken for ours.
func (b *Builder) forget(ctx context.Context, ref string) {
	if have, err := b.inspectImage(ctx, ref); err == nil && have == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.images, ref)
	}
}

// RemoveImages removes the images that this Builder pulled or loaded and that
// the engine did not have before, after the containers that it may have left.
// It returns the references removed. An image that something else uses stays
// and makes an error; an image that is gone already is none. Not to be called
// while a Build or LoadTest of this Builder runs.
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
	slices.Sort(refs)
	var removed []string
	var errs []error
	for _, ref := range refs {
		_, err := b.docker.ImageRemove(ctx, ref, image.RemoveOptions{PruneChildren: true})
		if err != nil && !errdefs.IsNotFound(err) {
			e := fail(ctx, StageRemove, "image "+ref, err)
			if errdefs.IsConflict(err) {
				e.hint = "a container that this run did not make uses the image; remove that first"
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
	list, err := b.docker.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", LabelRun+"="+b.run))})
	if err != nil {
		return fail(ctx, StageRemove, "containers of this run", err)
	}
	for _, c := range list {
		if c.Labels[LabelRun] != b.run {
			continue
		}
		if err := b.removeContainer(ctx, c.ID); err != nil {
			return err
		}
	}
	return nil
}
