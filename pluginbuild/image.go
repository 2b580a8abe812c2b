package pluginbuild

import (
	"slices"
	"strings"

	"example.com/tykupgrade/internal/lazyregexp"
)

// Image says which compiler image to use. The zero value is the release's
// official image of the standard edition.
type Image struct {
	Edition Edition // "": Standard
	Variant Variant // compiler of the release; "": Classic, or the only one
	// Distro is the distribution of the gateway's host, as packages name it:
	// "ubuntu/xenial". Where that release was packaged for it from the -el7
	// build, the -el7 image is used.
	Distro string
	EL7    bool   // the -el7 image, whatever Distro says
	Plain  bool   // the image without -el7, whatever Distro says
	Ref    string // use this image instead of the official one
	// "sha256:…", of the registry's manifest or, for an image that the engine has or Tar brings, its
	// ID: any other image is refused
	Digest string
	// Gateway is where the image has the gateway, such as /opt/tyk-gateway/tyk of
	// tykio/tyk-gateway. Only a load test needs it, with an image that is not a compiler.
	Gateway string
	// file written by `docker save`, loaded where the engine lacks the image; nothing is pulled then
	Tar string
}

// Reference returns the image's name as the docker command takes it, with the
// digest in place of the tag where one is pinned and no Tar is given.
//
// Errors match [ErrRequest]; for a distribution whose packages came from both
// builds one of EL7 and Plain must be set.
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
			"those (std, ee, fips; -el7 or plain) out")
	}
	if !refForm.MatchString(ref) {
		return "", refuse("choose image", ref, "want [registry/]name[:tag][@sha256:…]")
	}
	name, digest, pinned := strings.Cut(ref, "@")
	switch {
	case i.Digest == "" || i.Tar != "":
		return ref, nil
	case pinned && digest != i.Digest:
		return "", refuse("choose image", ref, "it names another digest than the pinned %s; leave one "+
			"of them out", i.Digest)
	}
	if tag := strings.LastIndexByte(name, ':'); tag > strings.LastIndexByte(name, '/') {
		name = name[:tag]
	}
	return name + "@" + i.Digest, nil
}

var (
	digestForm = lazyregexp.New(`^sha256:[0-9a-f]{64}$`)
	// refForm is the grammar of image references, a little wider than the real one:
	// an engine has the last word.
	refForm = lazyregexp.New(
		`^(([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:[0-9]+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$`)
)

func (i Image) el7(r Release) (bool, error) {
	switch {
	case i.EL7 && i.Plain:
		return false, refuse("choose image", "", "both the -el7 and the plain image are asked "+
			"for; choose one")
	case i.EL7 || i.Plain:
		return i.EL7, nil
	case slices.Contains(r.Compiler.EL7OrPlainDistros, i.Distro):
		return false, refuse("choose image", "for "+i.Distro, "%s packaged its gateway for it from the "+
			"plain and from the -el7 build; "+
			"look at the installed gateway (objdump -T /opt/tyk-gateway/tyk: it needs no glibc above 2.17 "+
			"if it is the -el7 build) and ask for the -el7 or the plain image", r.Version)
	}
	return slices.Contains(r.Compiler.EL7Distros, i.Distro), nil
}
