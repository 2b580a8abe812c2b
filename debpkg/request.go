package debpkg

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"example.com/tykupgrade/internal/lazyregexp"
)

// Request is the wanted state of one package.
type Request struct {
	Package string
	Version Version // the exact version; tyk-pump has its own version line
	// Deb is a .deb file on the host to install from, or a directory with a matching one.
	// Empty: a source. The file must have the requested Package and Version. A zero Version
	// means the file's version.
	Deb    string `json:",omitempty"`
	SHA256 string `json:",omitempty"` // of Deb; empty: not checked
	Remove bool   `json:",omitempty"`
}

func (r Request) String() string {
	switch {
	case r.Remove:
		return r.Package + "-"
	case r.Version.IsZero():
		return r.Package
	}
	return r.Package + "=" + r.Version.text
}

// ParseRequest reads "tyk-gateway=5.2.5", or "tyk-gateway-" for a removal.
func ParseRequest(s string) (Request, error) {
	bad := func(err error) (Request, error) {
		return Request{}, task{"read", fmt.Sprintf("the request %q", s)}.fail(Error{Err: err,
			Next: "write tyk-gateway=5.2.5, or tyk-gateway- to remove it"})
	}
	name, version, exact := strings.Cut(s, "=")
	r := Request{Package: name}
	switch {
	case exact:
		v, err := ParseVersion(version)
		if err != nil {
			return bad(err)
		}
		r.Version = v
	case strings.HasSuffix(s, "-"):
		r.Package, r.Remove = strings.TrimSuffix(s, "-"), true
	default:
		return bad(errors.New("it has no version"))
	}
	if !packageName.MatchString(r.Package) {
		return bad(fmt.Errorf("%q is not a package name", r.Package))
	}
	return r, nil
}

// ParseRequests reads several requests, as [ParseRequest] does. If deb is not empty, it becomes the
// Deb of all requests that install a package.
func ParseRequests(words []string, deb string) ([]Request, error) {
	var all []Request
	for _, w := range words {
		r, err := ParseRequest(w)
		if err != nil {
			return nil, err
		}
		if !r.Remove {
			r.Deb = deb
		}
		all = append(all, r)
	}
	return all, validRequests(all)
}

// InOrder groups requests into plans. The components come first, in the order of [Components]. All
// other requests follow together, so that one edition can replace another.
func InOrder(want []Request) [][]Request {
	var groups [][]Request
	others := slices.Clone(want)
	for _, c := range components {
		for _, r := range want {
			if r.Package == c.Package && !r.Remove {
				groups = append(groups, []Request{r})
				others = slices.DeleteFunc(others, func(o Request) bool { return o == r })
			}
		}
	}
	if len(others) > 0 {
		groups = append(groups, others)
	}
	return groups
}

var (
	packageName = lazyregexp.New(`^[a-z0-9][a-z0-9+.-]+$`)
	// of a foreign architecture too
	changedName = lazyregexp.New(`^[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?$`)
)

func validRequests(want []Request) error {
	bad := func(format string, a ...any) error {
		return task{"plan",
			"an upgrade"}.wrap(fmt.Errorf(format, a...))
	}
	if len(want) == 0 {
		return bad("nothing is requested; name a package and its exact version")
	}
	seen := map[string]bool{}
	for _, r := range want {
		switch {
		case !packageName.MatchString(r.Package):
			return bad("%q is not a package name", r.Package)
		case seen[r.Package]:
			return bad("%s is requested twice", r.Package)
		case r.Remove && (r.Deb != "" || !r.Version.IsZero()):
			return bad("%s is to be removed, so it takes no version", r.Package)
		case !r.Remove && r.Deb == "" && r.Version.IsZero():
			return bad("%s has no version; name the exact one", r.Package)
		case r.Deb != "" && !path.IsAbs(r.Deb):
			return bad("the .deb file %q of %s needs an absolute path on the host", r.Deb, r.Package)
		}
		seen[r.Package] = true
		if err := validate(r.Version.text); !r.Version.IsZero() && err != nil {
			return bad("version %q of %s: %w", r.Version, r.Package, err)
		}
	}
	return nil
}

func join(want []Request) string {
	var parts []string
	for _, r := range want {
		parts = append(parts, r.String())
	}
	return strings.Join(parts, " ")
}

// resolveDebs finds and checks the .deb file of each request that has one,
// and fills in the request's version.
func (h *Host) resolveDebs(ctx context.Context, arch string,
	want []Request) (map[string]Deb, error) {
	found := map[string]Deb{}
	for i, r := range want {
		if r.Deb == "" {
			continue
		}
		op := task{"take", fmt.Sprintf("%s from %s", r, r.Deb)}
		list, err := h.Debs(ctx, r.Deb)
		if err != nil {
			return nil, err
		}
		single := len(list) == 1 && list[0].Path == r.Deb
		var fits []Deb
		var why []string
		for _, d := range list {
			switch {
			case d.Package != r.Package:
				why = append(why, fmt.Sprintf("%s holds %s", d.Path, d.Package))
			case !r.Version.IsZero() && d.Version.Compare(r.Version) != 0:
				why = append(why, fmt.Sprintf("%s holds version %s", d.Path, d.Version))
			case d.Arch != arch && d.Arch != "all":
				why = append(why, fmt.Sprintf("%s is for %s, the host is %s", d.Path, d.Arch, arch))
			case r.SHA256 != "" && !strings.EqualFold(d.SHA256, r.SHA256):
				why = append(why, fmt.Sprintf("%s has SHA-256 %s, want %s", d.Path, d.SHA256, r.SHA256))
			default:
				fits = append(fits, d)
			}
		}
		switch {
		case len(fits) == 0 && len(why) == 0:
			why = []string{"there is no .deb file"}
			fallthrough
		case len(fits) == 0:
			return nil, &Error{Op: op.verb, Object: op.object, Kind: ErrDeb, Detail: strings.Join(why, "; "),
				Next: "get the right file from a place you trust"}
		case len(fits) > 1 && !single:
			return nil, &Error{Op: op.verb, Object: op.object, Kind: ErrDeb,
				Detail: fmt.Sprintf("%d files fit", len(fits)), Next: "name the file, or set the version"}
		}
		found[r.Package], want[i].Version = fits[0], fits[0].Version
	}
	return found, nil
}

func installOf(want []Request, debs map[string]Deb) install {
	var in install
	for _, r := range want {
		arg := r.String()
		if d, ok := debs[r.Package]; ok {
			arg = d.Path
		}
		in.args = append(in.args, arg)
		in.removal = in.removal || r.Remove
	}
	return in
}

// explainPlan adds to apt's error the available versions, and the packages on hold that prevent the
// plan.
func (h *Host) explainPlan(ctx context.Context, err error, want []Request) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	if e.Kind == ErrDepends {
		if all, qerr := h.Packages(ctx, "*"); qerr == nil {
			for _, p := range all {
				if p.Held() && strings.Contains(e.Detail, p.Name) {
					e.Detail += fmt.Sprintf("; %s is on hold", p.Name)
				}
			}
		}
		return err
	}
	if e.Kind != ErrNoVersion && e.Kind != ErrNoPackage {
		return err
	}
	for _, r := range want {
		if !strings.Contains(e.Detail, r.Package) {
			continue
		}
		list, aerr := h.Available(ctx, r.Package)
		if aerr != nil {
			continue
		}
		var have []string
		for _, a := range list {
			if !slices.Contains(have, a.Version.text) {
				have = append(have, a.Version.text)
			}
		}
		if c, ok := component(r.Package); ok && c.Package == "tyk-pump" {
			e.Next += "; the pump has its own version line (1.x)"
		}
		if len(have) > 0 {
			e.Detail += fmt.Sprintf("; the sources offer %s", strings.Join(have[:min(len(have), 10)], ", "))
		}
	}
	return err
}
