package fleet

// enterFunc goes into a directory that a service's user may be able to change, as root, without
// being led elsewhere. A link counts only if nobody but root (or the caller) could have made it.
// Each other directory is entered by its name, and its ".." must be the one before: a link that
// somebody puts there in between leads to a directory with another parent. Whatever follows is
// done to names in the directory that was entered, and follows no link.
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

// Of each script the arguments are paths of cached directories, each with whether it was there
// when the swap began, which the first script answers.
const (
	lookScript = enterFunc + `while [ $# -gt 0 ]; do
	if enter "${1%/*}" && there "./${1##*/}"; then echo true; else echo false; fi; shift 2
done`

	// What an earlier run kept cannot be reverted any more once a later one begins.
	clearScript = enterFunc + `while [ $# -gt 0 ]; do
	n=./${1##*/}
	if [ "$2" = true ] && enter "${1%/*}"; then rm -rf -- "$n.before-upgrade"; fi; shift 2
done`

	// What is aside was put there by an earlier try, and what has come since is not kept.
	asideScript = enterFunc + `while [ $# -gt 0 ]; do
	n=./${1##*/} a=./${1##*/}.before-upgrade
	if enter "${1%/*}"; then
		if there "$a" || [ "$2" = false ]; then rm -rf -- "$n"
		elif there "$n"; then mv -T -- "$n" "$a"; fi
	fi; shift 2
done`

	backScript = enterFunc + `while [ $# -gt 0 ]; do
	n=./${1##*/} a=./${1##*/}.before-upgrade
	if enter "${1%/*}"; then
		if there "$a"; then rm -rf -- "$n"; mv -T -- "$a" "$n"
		elif [ "$2" = false ]; then rm -rf -- "$n"; fi
	fi; shift 2
done`

	forgetScript = enterFunc + `while [ $# -gt 0 ]; do
	if enter "${1%/*}"; then rm -rf -- "./${1##*/}.before-upgrade"; fi; shift 2
done`
)
