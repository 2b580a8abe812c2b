package debpkg

// candidatesScript reads .deb files on the host and compares them with what is there: $1 root, then
// a package and its file in turn. It unpacks only the control files and the conffiles, into a
// temporary directory that it removes. For each package it prints, separated by \035: its files
// with sizes, its conffiles with their digests in the package and on disk, flagged conffiles,
// postinst, the control field Replaces, and the output of dpkg --verify. Then come files that exist
// although the installed version does not own them, with their owners, and its directories with
// their file systems.
const candidatesScript = `set -e
root=$1; shift
admin=$root/var/lib/dpkg
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
s() { printf '\035'; }
show() { while IFS= read -r l || [ -n "$l" ]; do printf '%s\n' "$l"; done <"$1"; }
div=; [ ! -s "$admin/diversions" ] || div="
$(show "$admin/diversions")
"
where() {
	set --
	while IFS= read -r e; do
		printf '%s\n' "$e"
		e=$root$e; while [ ! -e "$e" ]; do e=${e%/*}; e=${e:-/}; done
		set -- "$@" "$e"
	done <"$d/dirs"
	[ $# -eq 0 ] || { stat -L -c %d -- "$@"; stat -f -c '%a %S' -- "$@"; }
}
truename() {
	t=$1
	case $div in *"
$1
"*) t=$(dpkg-divert --admindir "$admin" --truename "$1") ;; esac
}
plain() { [ -f "$1" ] && [ -r "$1" ]; }
sums() {
	set --
	while IFS= read -r f; do
		truename "$f"; printf '%s\n' "$t" >&3
		set -- "$@" "$d/x$f"; ! plain "$root$t" || set -- "$@" "$root$t"
	done <"$d/list" 3>"$d/true"
	md5sum -- "$@" >"$d/sums"
	while IFS= read -r f <&3 && IFS= read -r t <&4 && read -r m x <&5; do
		if plain "$root$t"; then read -r o x <&5; elif [ -e "$root$t" ]; then o=unreadable; else o=absent; fi
		printf '%s\t%s\t%s\n' "$f" "${m#\\}" "${o#\\}"
	done 3<"$d/list" 4<"$d/true" 5<"$d/sums"
}
while [ $# -gt 0 ]; do
	pkg=$1 deb=$2; shift 2
	[ ! -e "$d/c" ] || rm -rf "$d"/*
	dpkg-deb -e "$deb" "$d/c"
	dpkg-deb --fsys-tarfile "$deb" >"$d/tar"
	: >"$d/new"; : >"$d/dirs"
	known=; if dpkg-query --admindir="$admin" -L "$pkg" >"$d/own" 2>/dev/null; then known=1; fi
	tar -tv -f "$d/tar" | awk -v d="$d" 'BEGIN { while ((getline l <(d "/own")) > 0) own[l] }
		{ t = substr($1, 1, 1); if (t == "d") next; n = $3; l = $0; sub(/^[^ ]+ +[^ ]+ +[^ ]+ +[^ ]+ +[^ ]+ +/, "", l); if (t == "l") sub(/ -> .*/, "", l); if (t == "h") sub(/ link to .*/, "", l); sub(/^\./, "", l); print n "\t" l
		if (!(l in own)) print l >(d "/new"); sub(/\/[^\/]*$/, "", l); if (!(l in seen)) { seen[l]; print l >(d "/dirs") } }'
	s
	: >"$d/list"; : >"$d/leaving"
	[ ! -e "$d/c/conffiles" ] || while read -r f; do
		case $f in /*) printf '%s\n' "$f" >&3; printf '.%s\n' "$f" >&4 ;; 'remove-on-upgrade '*) f=${f#* }; printf '%s\n' "${f#"${f%%[! ]*}"}" >&5 ;; esac
	done <"$d/c/conffiles" 3>"$d/list" 4>"$d/names" 5>"$d/leaving"
	if [ -s "$d/list" ]; then
		tar -x -f "$d/tar" --one-top-level="$d/x" -T "$d/names"
		sums
	fi
	s
	show "$d/leaving"
	s
	[ ! -e "$d/c/postinst" ] || show "$d/c/postinst"
	s
	while IFS= read -r f; do case $f in 'Replaces: '*) printf '%s\n' "${f#* }" ;; esac; done <"$d/c/control"
	s
	[ -z "$known" ] || dpkg ${root:+--root="$root"} --verify "$pkg" 2>"$d/err" || [ $? -eq 1 ] || { cat "$d/err" >&2; exit 1; }
	s
	while IFS= read -r f; do
		truename "$f"
		[ ! -f "$root$t" ] || printf '%s\n' "$f"
	done <"$d/new" >"$d/there"
	if [ -s "$d/there" ]; then
		sed 's/[][*?\\]/\\&/g' "$d/there" | xargs -d '\n' dpkg-query --admindir="$admin" -S -- 2>/dev/null >"$d/owners" || :
		show "$d/there"; s
		while IFS= read -r l; do case $l in 'diversion '*) ;; *) printf '%s\n' "$l" ;; esac; done <"$d/owners"
	else s; fi
	s
	where
	printf '\034'
done`
