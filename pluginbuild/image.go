package pluginbuild

import (
	"slices"
	"strings"

	"example.com/tykupgrade/internal/lazyregexp"
)

// Image selects a compiler image. The zero value is the release's official image of the standard
// edition.
type Image struct {
	Edition Edition // empty: Standard
	Variant Variant // compiler of the release; empty: Classic, or the only one
	// Distro is the distribution of the gateway's host, such as "ubuntu/xenial". It selects the
	// -el7 image if the release's packages for it come from the -el7 build.
	Distro string
	EL7    bool   // use the -el7 image for any Distro
	Plain  bool   // use the image without -el7 for any Distro
	Ref    string // use this image instead of the official one
	// Digest is the only accepted image: "sha256:…" of the registry's manifest. For an image of
	// the engine or of Tar it may be the image's ID.
	Digest string
	// Gateway is the path of the gateway in the image, such as /opt/tyk-gateway/tyk in
	// tykio/tyk-gateway. Only a load test with an image other than a compiler needs it.
	Gateway string
	// Tar is a file of `docker save` to load if the engine lacks the image. With Tar nothing is
	// pulled.
	Tar string
}

// Reference returns the image's name for the docker command. A Digest replaces the tag, unless
// Tar is set.
//
// Errors match [ErrRequest]. If the release's packages for Distro come from both builds, one of
// EL7 and Plain must be set.
func (i Image) Reference(r Release) (string, error) {
	if i.Digest != "" && !digestForm.MatchString(i.Digest) {
		return "", refuse("choose image", i.Ref, "digest %q: want sha256: and 64 hex digits", i.Digest)
	}
	r, err := r.WithVariant(i.Variant)
	if err != nil {
		return "", err
	}
	ref := i.Ref
	if ref == "" {
		el7, err := i.el7(r)
		if err != nil {
			return "", err
		}
		if ref, err = r.Image(i.Edition, el7); err != nil {
			return "", &Error{Op: "choose image", Kind: ErrUnsupported, Err: err, ExitCode: -1}
		}
	} else if i.EL7 || i.Plain || i.Edition != "" && i.Edition != Standard {
		return "", refuse("choose image", ref, "a named image has its own edition and variant; leave "+
			"out edition, -el7 and plain")
	}
	if !refForm.MatchString(ref) {
		return "", refuse("choose image", ref, "want [registry/]name[:tag][@sha256:…]")
	}
	name, digest, pinned := strings.Cut(ref, "@")
	switch {
	case i.Digest == "" || i.Tar != "":
		return ref, nil
	case pinned && digest != i.Digest:
		return "", refuse("choose image", ref, "its digest is not the pinned %s; leave out one of them",
			i.Digest)
	}
	if tag := strings.LastIndexByte(name, ':'); tag > strings.LastIndexByte(name, '/') {
		name = name[:tag]
	}
	return name + "@" + i.Digest, nil
}

var (
	digestForm = lazyregexp.New(`^sha256:[0-9a-f]{64}$`)
	// refForm is a little wider than the real grammar of image references. The engine decides.
	refForm = lazyregexp.New(
		`^(([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:[0-9]+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$`)
)

func (i Image) el7(r Release) (bool, error) {
	switch {
	case i.EL7 && i.Plain:
		return false, refuse("choose image", "", "both the -el7 and the plain image are requested; "+
			"choose one")
	case i.EL7 || i.Plain:
		return i.EL7, nil
	case slices.Contains(r.Compiler.EL7OrPlainDistros, i.Distro):
		return false, refuse("choose image", "for "+i.Distro, "packages of %s for it come from both the "+
			"plain and the -el7 build; choose the -el7 image if the installed gateway needs no glibc above "+
			"2.17 (objdump -T /opt/tyk-gateway/tyk), otherwise the plain one", r.Version)
	}
	return slices.Contains(r.Compiler.EL7Distros, i.Distro), nil
}
