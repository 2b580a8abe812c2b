package debpkg

// candidatesScript reads .deb files on the host and compares them with what is
// there: $1 root, then a package and its file in turn. It unpacks the control
// files and the conffiles only, into a temporary directory that it removes. Of
// each package it prints, separated by \035: its files with sizes, the conffiles
// with their digests there and on the disk, the flagged ones, postinst, the
// control field Replaces, what dpkg --verify says, which of its files exist
// though the installed version does not own them, with their owners, and its
// directories with the file systems that they are on.
const candidatesScript = `set -e
root=$1; shift
admin=$root/var/lib/dpkg
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
s() { printf '\035'; }
div=; [ ! -s "$admin/diversions" ] || div=$(dpkg-divert --admindir "$admin" --list 2>/dev/null || :)
where() {
	set --
	while IFS= read -r e; do
		e=$root$e; while [ ! -e "$e" ]; do e=${e%/*}; e=${e:-/}; done
		set -- "$@" "$e"
	done <"$d/dirs"
	[ $# -eq 0 ] || { stat -L -c %d -- "$@"; stat -f -c '%a %S' -- "$@"; }
}
while [ $# -gt 0 ]; do
	pkg=$1 deb=$2; shift 2
	rm -rf "$d"/*; mkdir "$d/x"
	dpkg-deb -e "$deb" "$d/c"
	dpkg-deb --fsys-tarfile "$deb" >"$d/tar"
	tar -tv -f "$d/tar" | awk '{ t = substr($1, 1, 1); if (t == "d") next; n = $3; l = $0; sub(/^[^ ]+ +[^ ]+ +[^ ]+ +[^ ]+ +[^ ]+ +/, "", l); if (t == "l") sub(/ -> .*/, "", l); if (t == "h") sub(/ link to .*/, "", l); sub(/^\./, "", l); print n "\t" l }' >"$d/files"
	cat "$d/files"
	s
	: >"$d/list"
	[ ! -s "$d/c/conffiles" ] || sed -n 's,^/,./,p' "$d/c/conffiles" >"$d/list"
	if [ -s "$d/list" ]; then
		tar -x -f "$d/tar" -C "$d/x" -T "$d/list"
		while IFS= read -r f; do
			m=$(md5sum <"$d/x/$f"); f=${f#.}; t=$f
			case $div in *"diversion of $f to "*) t=$(dpkg-divert --admindir "$admin" --truename "$f") ;; esac
			if [ ! -e "$root$t" ]; then o=absent; elif o=$(md5sum <"$root$t" 2>/dev/null); then o=${o%% *}; else o=unreadable; fi
			printf '%s\t%s\t%s\n' "$f" "${m%% *}" "$o"
		done <"$d/list"
	fi
	s
	[ ! -s "$d/c/conffiles" ] || sed -n 's/^remove-on-upgrade  *//p' "$d/c/conffiles"
	s
	[ ! -e "$d/c/postinst" ] || cat "$d/c/postinst"
	s
	sed -n 's/^Replaces: *//p' "$d/c/control"
	s
	if dpkg-query --admindir="$admin" -L "$pkg" >"$d/own" 2>/dev/null; then
		dpkg ${root:+--root="$root"} --verify "$pkg" 2>"$d/err" || [ $? -eq 1 ] || { cat "$d/err" >&2; exit 1; }
	else : >"$d/own"; fi
	s
	sort "$d/own" >"$d/own.s"
	cut -f 2 "$d/files" | sort | comm -23 - "$d/own.s" | while IFS= read -r f; do
		t=$f
		case $div in *"diversion of $f to "*) t=$(dpkg-divert --admindir "$admin" --truename "$f") ;; esac
		[ ! -f "$root$t" ] || printf '%s\n' "$f"
	done >"$d/there"
	if [ -s "$d/there" ]; then
		sed 's/[][*?\\]/\\&/g' "$d/there" | xargs -d '\n' dpkg-query --admindir="$admin" -S -- 2>/dev/null >"$d/owners" || :
		cat "$d/there"; s; grep -v '^diversion ' "$d/owners" || :
	else s; fi
	s
	awk -F '\t' '{ sub(/\/[^\/]*$/, "", $2); if (!($2 in seen)) { seen[$2]; print $2 } }' "$d/files" >"$d/dirs"
	cat "$d/dirs"; where
	printf '\034'
done`
