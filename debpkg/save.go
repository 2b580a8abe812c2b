package debpkg

import (
	"context"
	"path"
	"strings"
)

// The sources of the .deb of an installed version.
const (
	fromCache      = "cache"
	fromRepository = "repository"
	fromRepack     = "repack"
)

// Saved is the .deb of a version that was installed before a change.
type Saved struct {
	Package string
	Version Version
	Path    string // on the host
	SHA256  string
	From    string // cache, repository, or repack: packed from the installed files
}

// saveScript puts the .debs of installed versions into directory $4: $1 root,
// $2 dpkg's directory, $3 apt's cache, then package, version, architecture and
// file name of each. The cache's file is taken only if it is whole and of that
// version. A repacked package has the files as they are on the host, edited
// conffiles included. Ownership and modes are kept if root runs this.
const saveScript = `set -e
umask 077
root=$1 admin=$2 cache=$3 dir=$4; shift 4
cd "$dir"
w=; trap '[ -z "$w" ] || rm -rf "$w"' EXIT
while [ $# -gt 0 ]; do
pkg=$1 version=$2 arch=$3 file=$4; shift 4
if [ -f "$cache/$file" ] && [ "$(dpkg-deb -f "$cache/$file" Version 2>/dev/null)" = "$version" ] && dpkg-deb --fsys-tarfile "$cache/$file" >/dev/null 2>&1; then
	cp -- "$cache/$file" "$file"; echo cache
elif apt-get -q download "${pkg%%:*}:$arch=$version" >"$dir/download.log" 2>&1 && [ -f "$file" ]; then
	echo repository
else
	rm -f -- "$file"
	cat "$dir/download.log" >&2 # in case packing fails
	w=$(mktemp -d "$dir/repack.XXXXXX")
	chmod 755 "$w"; mkdir -m 755 "$w/DEBIAN"
	dpkg-query --admindir="$admin" -s "$pkg" | awk '/^[^ \t]/ { skip = /^(Status|Conffiles|Config-Version|Triggers-Pending|Triggers-Awaited):/ } !skip' >"$w/DEBIAN/control"
	# Directories have entries below them. Some are links on the host: /lib, where /usr is merged.
	dpkg-query --admindir="$admin" -L "$pkg" | awk '{ all[NR] = $0; sub(/\/[^\/]*$/, ""); dir[$0] = 1 }
		END { for (i = 1; i <= NR; i++) if (!(all[i] in dir)) print all[i] }' | while read -r f; do
		case $f in /?*) if [ -L "$root$f" ] || [ -f "$root$f" ]; then printf '.%s\n' "$f"; fi ;; esac
	done >"$w/DEBIAN/list"
	# A pipe hides that its first command failed.
	{ tar -C "$root/" -c --no-recursion -T "$w/DEBIAN/list" || : >"$w/DEBIAN/failed"; } | tar -C "$w" -x -p
	[ ! -e "$w/DEBIAN/failed" ]
	rm "$w/DEBIAN/list"
	dpkg-query --admindir="$admin" --control-path "$pkg" | while read -r f; do
		n=${f##*/}; n=${n##*.}
		case $n in list | conffiles) ;; *) cp "$f" "$w/DEBIAN/$n" ;; esac
	done
	dpkg-query --admindir="$admin" --control-path "$pkg" conffiles | while read -r f; do
		while read -r c; do [ ! -f "$w$c" ] || printf '%s\n' "$c"; done <"$f"
	done >"$w/conf"
	if [ -s "$w/conf" ]; then mv "$w/conf" "$w/DEBIAN/conffiles"; else rm "$w/conf"; fi
	find "$w/DEBIAN" -type f -exec chmod 644 {} +
	for s in preinst postinst prerm postrm config; do [ ! -f "$w/DEBIAN/$s" ] || chmod 755 "$w/DEBIAN/$s"; done
	# mktemp's 077 mask also closed the directories.
	find "$w" -type d -exec chmod 755 {} +
	dpkg-deb -Zgzip --build "$w" "$file" >/dev/null
	rm -rf "$w"
	echo repack
fi
rm -f "$dir/download.log"
sha256sum <"$file"
done`

// saveDebs saves the .deb of every version that the actions replace or remove.
func (h *Host) saveDebs(ctx context.Context, actions []Action, s survey, prep,
	dir string) ([]Saved, error) {
	args := []string{h.o.Root, h.path("/var/lib/dpkg"), s.archives(), prep}
	var list []Saved
	for _, a := range actions {
		if a.From.IsZero() {
			continue
		}
		file := debName(a.Package, a.From, a.FromArch)
		args = append(args, a.Package, a.From.text, a.FromArch, file)
		list = append(list, Saved{Package: a.Package, Version: a.From, Path: path.Join(dir, file)})
		h.event(Event{Kind: EventStep, Package: a.Package, Text: "save " + a.Package + " " + a.From.text})
	}
	if len(list) == 0 {
		return nil, nil
	}
	t := task{"save", "the installed packages"}
	out, err := h.script(ctx, nil, "save-packages", args...)
	if err != nil {
		return nil, t.wrap(err)
	}
	rows := lines(out)
	if len(rows) != 2*len(list) {
		return nil, t.fail(Error{Detail: "the host's answer has an unexpected format", Output: tidy(out)})
	}
	for i := range list {
		list[i].From = rows[2*i]
		list[i].SHA256, _, _ = strings.Cut(rows[2*i+1], " ")
	}
	return list, nil
}
