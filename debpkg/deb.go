package debpkg

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"example.com/tykupgrade/internal/lazyregexp"
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

// Debs reads .deb files on the host. Each path is a file, or a directory with *.deb files. Paths
// must be absolute.
func (h *Host) Debs(ctx context.Context, paths ...string) ([]Deb, error) {
	for _, p := range paths {
		if !path.IsAbs(p) {
			return nil, task{"read", ".deb files"}.wrap(fmt.Errorf("%q is not an absolute path on the host",
				p))
		}
	}
	out, err := h.script(ctx, nil, "debs", append([]string{""}, paths...)...)
	if err != nil {
		t := task{"read", strings.Join(paths, ", ")}
		if ctx.Err() != nil || exitCode(err) < 0 {
			return nil, t.wrap(err)
		}
		return nil, t.fail(Error{Kind: ErrDeb, Detail: err.Error(), Err: err,
			Next: "check that the file was copied completely"})
	}
	return parseDebs(out), nil
}

// debsScript: $1 not empty to leave out what cannot be read, then files and
// directories.
const debsScript = `skip=$1; shift
one() {
	if ! f=$(dpkg-deb -W --showformat='${Package}\t${Version}\t${Architecture}' "$1"); then [ -n "$skip" ] || exit 1; return; fi
	printf '%s\t%s\t' "$1" "$f"
	stat -L --printf '%s\t' "$1" && sha256sum <"$1" || exit 1
}
for p; do
	if [ -d "$p" ]; then
		for f in "$p"/*.deb; do [ ! -f "$f" ] || one "$f"; done
	else one "$p"; fi
done`

// debsThere reads .deb files and leaves out unreadable ones.
func (h *Host) debsThere(ctx context.Context, files []string) ([]Deb, error) {
	if len(files) == 0 {
		return nil, nil
	}
	out, err := h.script(ctx, nil, "debs", append([]string{"skip"}, files...)...)
	return parseDebs(out), err
}

func parseDebs(out string) []Deb {
	var debs []Deb
	for _, f := range fields(out, 6) {
		sum, _, _ := strings.Cut(f[5], " ")
		debs = append(debs, Deb{Path: f[0], Package: f[1], Version: Version{f[2]}, Arch: f[3],
			Size: number64(f[4]), SHA256: sum})
	}
	return debs
}

var debFileName = lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9._+~%-]*\.deb$`)

// uploadScript: $1 directory, $2 name of the file, which comes on standard input.
const uploadScript = safeFunc + `set -e; umask 077; own "$1"
read -r boot </proc/sys/kernel/random/boot_id; boot=${boot%%-*}; read -r up x </proc/uptime; up=${up%.*}
for f in "$1"/.*.part.*; do
	[ -f "$f" ] || continue
	x=${f##*.part.}; b=${x%%.*} u=${x#*.}; u=${u%%.*}
	if [ "$b" = "$boot" ] && [ $((up - u)) -lt 86400 ]; then continue; fi
	rm -f "$f"
done
p=$(mktemp "$1/.$2.part.$boot.$up.XXXXXX"); echo "$p"; cat >"$p"; sync "$p"`

// Upload copies a .deb file to the host, below StateDir, and describes the copy. It replaces a file
// of the same name only after the digest of the copy was compared. name is a file name without a
// directory.
func (h *Host) Upload(ctx context.Context, name string, r io.Reader) (Deb, error) {
	if !debFileName.MatchString(name) {
		return Deb{}, task{"upload", fmt.Sprintf("%q", name)}.fail(Error{Kind: ErrDeb,
			Detail: "it is not a plain file name that ends with .deb",
			Next:   "use a name such as tyk-gateway_5.2.5_amd64.deb"})
	}
	dir := path.Join(h.o.StateDir, "uploads")
	sum := sha256.New()
	// Each upload has a part of its own, because others may upload the same file. On the host,
	// a lost connection looks like the end of the file. What it leaves is removed after a day
	// of uptime, or a reboot.
	out, err := h.script(ctx, io.TeeReader(r, sum), "upload", dir, name)
	part := strings.TrimSuffix(out, "\n")
	d, err := func() (Deb, error) {
		if err != nil {
			return Deb{}, task{"upload", name}.wrap(unsafe(task{"upload", name}, err))
		}
		debs, err := h.Debs(ctx, part)
		if err != nil {
			return Deb{}, err
		}
		if len(debs) != 1 {
			return Deb{}, task{"upload", name}.wrap(fmt.Errorf("the host describes %d files", len(debs)))
		}
		if want := hex.EncodeToString(sum.Sum(nil)); debs[0].SHA256 != want {
			return Deb{}, &Error{Op: "upload", Object: name, Kind: ErrDeb,
				Detail: fmt.Sprintf("its SHA-256 on the host is %s, %s was sent", debs[0].SHA256, want),
				Retry:  true, Next: "upload it again"}
		}
		debs[0].Path = path.Join(dir, name)
		if _, err := h.script(ctx, nil, "move", part, debs[0].Path); err != nil {
			return Deb{}, task{"upload", name}.wrap(err)
		}
		return debs[0], nil
	}()
	if err != nil && strings.HasPrefix(part, path.Join(dir, "."+name)+".part.") {
		h.discard(ctx, part)
	}
	return d, err
}

// contents has the parts of a candidate that matter for a plan.
type contents struct {
	conffiles map[string]string // path: MD5
	disk      map[string]string // path: MD5 of what is on the disk; empty: nothing
	leaving   []string          // conffiles that are flagged remove-on-upgrade
	files     []string          // all other files
	size      int64
	postinst  string
	replaces  []string // packages whose files it may take over
	changed   []string // files that were changed on this host, or that no package owns
	owned     []Owned
	disks     []room
}

// room is the number of bytes below a top directory.
type room struct {
	Disk
	need int64
}

// contents reads the candidates, by package.
func (h *Host) contents(ctx context.Context, files map[string]string) (map[string]contents, error) {
	if len(files) == 0 {
		return nil, nil
	}
	names := slices.Sorted(maps.Keys(files))
	args := []string{h.o.Root}
	for _, n := range names {
		args = append(args, n, files[n])
	}
	t := task{"read", "the candidates of " + strings.Join(names, ", ")}
	out, err := h.script(ctx, nil, "candidates", args...)
	if err != nil {
		return nil, t.wrap(err)
	}
	blocks := strings.Split(out, "\x1c")
	if len(blocks) != len(names)+1 {
		return nil, t.fail(Error{Detail: "the host's answer has an unexpected format", Output: tidy(out)})
	}
	found := map[string]contents{}
	for i, n := range names {
		part := strings.Split(blocks[i], "\x1d")
		if len(part) != 9 {
			return nil, t.fail(Error{Detail: "the host's answer has an unexpected format", Output: tidy(out)})
		}
		found[n] = parseContents(n, h.o.Root, part)
	}
	return found, nil
}

func parseContents(pkg, root string, part []string) contents {
	c := contents{conffiles: map[string]string{}, disk: map[string]string{}, postinst: part[3],
		leaving: lines(part[2])}
	for _, f := range fields(part[1], 3) {
		c.conffiles[f[0]] = f[1]
		if f[2] != "absent" {
			c.disk[f[0]] = f[2]
		}
	}
	for _, f := range fields(part[0], 2) {
		c.size += number64(f[0])
		if c.conffiles[f[1]] == "" {
			c.files = append(c.files, f[1])
		}
	}
	for _, r := range strings.Split(part[4], ",") {
		if name, _, _ := strings.Cut(strings.TrimSpace(r), " "); name != "" {
			c.replaces = append(c.replaces, name)
		}
	}
	// Differences are what dpkg --verify prints.
	for _, line := range lines(part[5]) {
		if m := verifyLine.FindStringSubmatch(line); m != nil && m[1][2] == '5' && m[2] != "c" &&
			slices.Contains(c.files, m[3]) {
			c.changed = append(c.changed, m[3])
		}
	}
	owners := map[string][]string{}
	for _, line := range lines(part[7]) {
		if who, file, ok := strings.Cut(line, ": "); ok {
			owners[file] = append(owners[file], strings.Split(who, ", ")...)
		}
	}
	name, _, _ := strings.Cut(pkg, ":")
	for _, f := range lines(part[6]) {
		mine := len(owners[f]) == 0
		if mine && c.conffiles[f] == "" {
			c.changed = append(c.changed, f)
		}
		for _, o := range owners[f] {
			o, _, _ := strings.Cut(o, ":")
			if o != name { // not a sibling of Multi-Arch: same
				c.owned = append(c.owned, Owned{pkg, f, o})
			}
		}
	}
	slices.Sort(c.changed)
	c.findRoom(root, fields(part[0], 2), lines(part[8]))
	return c
}

// findRoom adds the files' sizes up by top directory and file system.
func (c *contents) findRoom(root string, files [][]string, look []string) {
	n := len(look) / 3
	disks := map[string]Disk{} // by directory
	for i, d := range look[:n] {
		top := "/" + strings.SplitN(d+"/", "/", 3)[1]
		blocks, size, _ := strings.Cut(look[2*n+i], " ")
		disks[d] = Disk{Path: path.Join("/", root, top), Free: number64(blocks) * number64(size),
			device: look[n+i]}
	}
	for _, f := range files {
		disk := disks[strings.TrimSuffix(path.Dir(f[1]), "/")]
		i := slices.IndexFunc(c.disks, func(r room) bool {
			return r.Path == disk.Path &&
				r.device == disk.device
		})
		if i < 0 {
			i, c.disks = len(c.disks), append(c.disks, room{Disk: disk})
		}
		c.disks[i].need += number64(f[0])
	}
}

// lines splits text, without an empty last line.
func lines(text string) []string {
	var list []string
	for line := range strings.Lines(text) {
		list = append(list, strings.TrimSuffix(line, "\n"))
	}
	return list
}

var (
	// debhelper writes: deb-systemd-invoke $_dh_action 'x.service'
	restarting = lazyregexp.New(
		`(?m)^[^#\n]*\b(?:(?:systemctl|deb-systemd-invoke|invoke-rc\.d|service)\b.*\b(?:re)?start\b|deb-systemd-invoke \$_dh_action\b).*$`)
	unitFile = lazyregexp.New(`^(?:/usr)?/lib/systemd/system/([^/@]+\.service)$`)
)

// units returns the services that the package ships.
func (c contents) units() []string {
	var names []string
	for _, f := range c.files {
		if m := unitFile.FindStringSubmatch(f); m != nil {
			names = append(names, m[1])
		}
	}
	return names
}

// restarts predicts which of the units a postinst script restarts. A script that names none of
// them, perhaps because it uses a variable, may restart each.
func restarts(postinst string, units []string) []string {
	lines := strings.Join(restarting.FindAllString(postinst, -1), "\n")
	if lines == "" {
		return nil
	}
	var named []string
	for _, u := range units {
		if regexp.MustCompile(`(?:^|[^\w-])` + regexp.QuoteMeta(strings.TrimSuffix(u, ".service")) +
			`(?:[^\w-]|$)`).MatchString(lines) {
			named = append(named, u)
		}
	}
	if named == nil {
		return slices.Clone(units)
	}
	return named
}
