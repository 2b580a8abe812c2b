package fleet

// enterFunc enters, as root, a directory that a service's user may be able to change, without being
// led elsewhere. It follows a link only if root (or the caller) must have made it. Each other
// directory is entered by its name, and its ".." must be the one before, because a link that
// somebody puts there leads to a directory with another parent. All later operations use names in
// the entered directory and follow no link.
const enterFunc = `refuse() { echo "$1" >&2; exit 78; }
me=$(id -u)
enter() { # absolute path; 1: not there
	rest=${1#/} at=/
	cd / || return 1
	while [ -n "$rest" ]; do
		name=${rest%%/*}; rest=${rest#"$name"}; rest=${rest#/}
		if [ -h "./$name" ]; then
			who=$(stat -c '%u %a' .) || return 1
			case $who in "0 "* | "$me "*) ;; *) who= ;; esac
			case $who in *[2367] | *[2367]?) who= ;; esac
			[ -n "$who" ] || refuse "$at$name is a link, and not only root can change $at"
			name=$(readlink -f -- "./$name") || return 1
			enter "$name/$rest"; return
		fi
		[ -d "./$name" ] || return 1
		exec 9<. && cd -P -- "./$name" 2>/dev/null || return 1
		[ .. -ef /proc/self/fd/9 ] || refuse "$at$name is another directory than before"
		at=$at$name/
	done
}
there() { [ -e "$1" ] || [ -h "$1" ]; }
`

// noteFunc writes the notes about moved directories, see [cached.note].
const noteFunc = `note() { # file, text
	[ ! -e "$1" ] || return 0 # of an earlier try
	(umask 077; mkdir -p -- "${1%/*}"; printf '%s\n' "$2" >"$1.new"; mv -f -- "$1.new" "$1")
}
`

// The arguments of each script are, for every cached directory: its path, whether it existed when
// the swap began, the file of its note, and the note. The first script finds out whether it existed.
const (
	lookScript = enterFunc + `while [ $# -gt 0 ]; do
	if enter "${1%/*}" && there "./${1##*/}"; then echo true; else echo false; fi; shift 4
done`

	// A later run removes what an earlier one kept, which can then no longer be reverted.
	clearScript = enterFunc + `while [ $# -gt 0 ]; do
	if [ "$2" = true ] && enter "${1%/*}"; then rm -rf -- "./${1##*/}.before-upgrade"; rm -f -- "$3"; fi; shift 4
done`

	// What is aside was put there by an earlier try, and what has come since is not kept.
	asideScript = enterFunc + noteFunc + `while [ $# -gt 0 ]; do
	n=./${1##*/} a=./${1##*/}.before-upgrade
	if enter "${1%/*}"; then
		if there "$a" || [ "$2" = false ]; then rm -rf -- "$n"
		elif there "$n"; then note "$3" "$4"; mv -T -- "$n" "$a"; fi
	fi; shift 4
done`

	backScript = enterFunc + `while [ $# -gt 0 ]; do
	n=./${1##*/} a=./${1##*/}.before-upgrade
	if enter "${1%/*}"; then
		if there "$a"; then rm -rf -- "$n"; mv -T -- "$a" "$n"
		elif [ "$2" = false ]; then rm -rf -- "$n"; fi
	fi; rm -f -- "$3"; shift 4
done`

	forgetScript = enterFunc + `while [ $# -gt 0 ]; do
	if enter "${1%/*}"; then rm -rf -- "./${1##*/}.before-upgrade"; fi; rm -f -- "$3"; shift 4
done`

	// notesScript: $1 directory of the notes. For each it prints the name, the kilobytes of what is
	// aside ("": nothing is; "?": root would be led elsewhere), and the note.
	notesScript = enterFunc + `for f in "$1"/*; do
	n=${f##*/}
	case $n in *[!0-9a-f]*) continue ;; esac
	p=$(tail -n +3 -- "$f") || continue
	k=$( (enter "${p%/*}" || exit 1; there "./${p##*/}.before-upgrade" || exit 1
		du -sk -- "./${p##*/}.before-upgrade") 2>/dev/null) && rc=0 || rc=$?
	case $rc in 0) ;; 1) k= ;; *) k='?' ;; esac
	printf '%s\035%s\035' "$n" "${k%%[!0-9?]*}"; cat -- "$f"; printf '\034'
done`
)
