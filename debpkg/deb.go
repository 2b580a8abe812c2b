package debpkg

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Deb is a .deb file on the host.
type Deb struct {
	Path    string
	Package string
	Version Version
	Arch    string
	Size    int64
	SHA256  string
}

// Debs reads .deb files on the host. Each path is a file or a directory, of
// which the files *.deb count. Paths are absolute.
func (h *Host) Debs(ctx context.Context, paths ...string) ([]Deb, error) {
	for _, p := range paths {
		if !path.IsAbs(p) {
			return nil, task{"read", ".deb files"}.wrap(fmt.Errorf("%q is not an absolute path on the host", p))
		}
	}
	out, err := h.script(ctx, nil, `one() {
	printf '%s\t' "$1"
	dpkg-deb -f "$1" Package Version Architecture >/dev/null || exit 1
	printf '%s\t%s\t%s\t' "$(dpkg-deb -f "$1" Package)" "$(dpkg-deb -f "$1" Version)" "$(dpkg-deb -f "$1" Architecture)"
	printf '%s\t' "$(stat -L -c %s "$1")"
	sha256sum <"$1" || exit 1
}
for p; do
	if [ -d "$p" ]; then
		for f in "$p"/*.deb; do [ ! -f "$f" ] || one "$f"; done
	else one "$p"; fi
done`, paths...)
	if err != nil {
		if ctx.Err() != nil || exitCode(err) < 0 {
			return nil, task{"read", ".deb files"}.wrap(err)
		}
		return nil, &Error{Op: "read", Object: strings.Join(paths, ", "), Kind: ErrDeb, Detail: err.Error(), Err: err, Next: "check that the file was copied whole"}
	}
	var debs []Deb
	for _, f := range fields(out, 6) {
		sum, _, _ := strings.Cut(f[5], " ")
		debs = append(debs, Deb{Path: f[0], Package: f[1], Version: Version{f[2]}, Arch: f[3], Size: number64(f[4]), SHA256: sum})
	}
	return debs, nil
}

var debFileName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+~%-]*\.deb$`)

// Upload copies a .deb file to the host, below StateDir, and returns what
// arrived there. A file of that name is replaced once the new one is there
// whole, by the digest of what was sent. name is a file name without a
// directory.
func (h *Host) Upload(ctx context.Context, name string, r io.Reader) (Deb, error) {
	if !debFileName.MatchString(name) {
		return Deb{}, task{"upload", fmt.Sprintf("%q", name)}.fail(Error{Kind: ErrDeb, Detail: "not a plain file name that ends with .deb", Next: "give one such as tyk-gateway_5.2.5_amd64.deb"})
	}
	dir := path.Join(h.o.StateDir, "uploads")
	sum := sha256.New()
	// A part of its own, as others may upload the same. A lost connection looks
	// like the end of the file over there; what it leaves goes after a day.
	out, err := h.script(ctx, io.TeeReader(r, sum), `set -e; umask 077; mkdir -p "$1"
find "$1" -mindepth 1 -maxdepth 1 -name '.*.part.*' -mmin +1440 -exec rm -f {} +
p=$(mktemp "$1/.$2.part.XXXXXX"); echo "$p"; cat >"$p"; sync "$p"`, dir, name)
	part := strings.TrimSuffix(out, "\n")
	d, err := func() (Deb, error) {
		if err != nil {
			return Deb{}, task{"upload", name}.wrap(err)
		}
		debs, err := h.Debs(ctx, part)
		if err != nil {
			return Deb{}, err
		}
		if len(debs) != 1 {
			return Deb{}, task{"upload", name}.wrap(fmt.Errorf("the host describes %d files", len(debs)))
		}
		if want := hex.EncodeToString(sum.Sum(nil)); debs[0].SHA256 != want {
			return Deb{}, &Error{Op: "upload", Object: name, Kind: ErrDeb, Detail: fmt.Sprintf("its SHA-256 on the host is %s, %s was sent", debs[0].SHA256, want), Retry: true, Next: "upload it again"}
		}
		debs[0].Path = path.Join(dir, name)
		if _, err := h.script(ctx, nil, `mv -T "$1" "$2"`, part, debs[0].Path); err != nil {
			return Deb{}, task{"upload", name}.wrap(err)
		}
		return debs[0], nil
	}()
	if err != nil && strings.HasPrefix(part, path.Join(dir, "."+name)+".part.") {
		h.discard(ctx, part)
	}
	return d, err
}

// contents is what a candidate brings that matters for a plan.
type contents struct {
	conffiles map[string]string // path: MD5
	files     []string          // all other files
	postinst  string
}

// debContents reads a .deb on the host. It unpacks nothing but the control
// files and the conffiles, into a temporary directory that it removes.
const debContents = `set -e
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
dpkg-deb -e "$1" "$d/c"
dpkg-deb --fsys-tarfile "$1" | tar -t | sed 's,^\.,,' | grep -v '/$' >"$d/files" || true
cat "$d/files"
printf '\034'
if [ -s "$d/c/conffiles" ]; then
	sed -n 's,^/,./,p' "$d/c/conffiles" >"$d/list"
	mkdir "$d/x"
	dpkg-deb --fsys-tarfile "$1" | tar -x -C "$d/x" -T "$d/list"
	while read -r f; do printf '%s\t' "${f#.}"; md5sum <"$d/x/$f"; done <"$d/list"
fi
printf '\034'
cat "$d/c/postinst" 2>/dev/null || true`

func (h *Host) contents(ctx context.Context, deb string) (contents, error) {
	out, err := h.script(ctx, nil, debContents, deb)
	if err != nil {
		return contents{}, task{"read", deb}.wrap(err)
	}
	part := strings.SplitN(out, "\x1c", 3)
	if len(part) != 3 {
		return contents{}, task{"read", deb}.wrap(errors.New("unexpected answer"))
	}
	c := contents{conffiles: map[string]string{}, postinst: part[2]}
	for _, f := range fields(part[1], 2) {
		sum, _, _ := strings.Cut(f[1], " ")
		c.conffiles[f[0]] = sum
	}
	for line := range strings.Lines(part[0]) {
		if p := strings.TrimSuffix(line, "\n"); c.conffiles[p] == "" {
			c.files = append(c.files, p)
		}
	}
	return c, nil
}

var (
	// debhelper writes: deb-systemd-invoke $_dh_action 'x.service'
	restarting = regexp.MustCompile(`(?m)^[^#\n]*\b(?:(?:systemctl|deb-systemd-invoke|invoke-rc\.d|service)\b.*\b(?:re)?start\b|deb-systemd-invoke \$_dh_action\b).*$`)
	unitFile   = regexp.MustCompile(`^(?:/usr)?/lib/systemd/system/([^/@]+\.service)$`)
)

// units are the services that the package ships.
func (c contents) units() []string {
	var names []string
	for _, f := range c.files {
		if m := unitFile.FindStringSubmatch(f); m != nil {
			names = append(names, m[1])
		}
	}
	return names
}

// restarts predicts which of the units a postinst script restarts. A script
// that names none of them, by a variable perhaps, may restart each.
func restarts(postinst string, units []string) []string {
	lines := strings.Join(restarting.FindAllString(postinst, -1), "\n")
	if lines == "" {
		return nil
	}
	var named []string
	for _, u := range units {
		if regexp.MustCompile(`(?:^|[^\w-])` + regexp.QuoteMeta(strings.TrimSuffix(u, ".service")) + `(?:[^\w-]|$)`).MatchString(lines) {
			named = append(named, u)
		}
	}
	if named == nil {
		return slices.Clone(units)
	}
	return named
}
