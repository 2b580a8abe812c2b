package debpkg

// helperChecks refuses, with exit code 77, everything but calls of this package about Tyk's
// packages and their usual paths. A caller may be hostile, and nothing that a check allows may make
// him root. So the helper installs nothing of his, writes and removes no path of his, and takes no
// apt option of his. It is written for sh, which every host has.
const helperChecks = `no() { echo "tykupgrade-helper: refused: $*" >&2; exit 77; }
state=/var/lib/tykupgrade runs=/var/lib/tykupgrade/runs cache=/var/cache/apt/archives
nl='
'
is() { [ "$1" = "$2" ] || no "want \"$2\", not \"$1\""; }
plain() { # one word without a path
	case $1 in '' | -* | .* | *[!A-Za-z0-9.+~:=_%-]*) no "\"$1\" is not a plain word" ;; esac
}
plains() { for w; do plain "$w"; done; }
number() { case $1 in '' | *[!0-9]*) no "\"$1\" is not a number" ;; esac; }
isrun() { # a directory of a run
	case $1 in "$runs"/*) plain "${1#"$runs"/}" ;; *) no "\"$1\" is not a run" ;; esac
}
isprep() { isrun "$1"; case $1 in *.new.??????) ;; *) no "\"$1\" is not a prepared run" ;; esac; }
tyk() { plain "$1"; case $1 in tyk-?*) ;; *) no "\"$1\" is not a Tyk package" ;; esac; }
unit() { plain "$1"; case $1 in tyk-?*.service) ;; *) no "\"$1\" is not a Tyk unit" ;; esac; }
units() { [ $# -gt 0 ] || no "no unit"; for w; do unit "$w"; done; }
deb() { # a .deb that root put where only root writes
	f=${1##*/}
	tyk "$f"
	case $f in *.deb) ;; *) no "\"$1\" is not a .deb file" ;; esac
	case ${1%/*} in "$cache") ;; *) isrun "${1%/*}" ;; esac
	[ ! -L "$1" ] || no "\"$1\" is a link"
}
readable() { # a .deb to read, in a directory that root trusts
	case $1 in /*.deb) ;; *) no "\"$1\" is not a .deb file" ;; esac
	case $1 in *"$nl"*) no "a path of two lines" ;; esac
	[ ! -e "$1" ] || { [ -f "$1" ] && [ ! -L "$1" ] && safe "${1%/*}"; } || no "\"$1\" is not root's alone"
}
files() { # lines of paths with Tyk's files alone; $1 is an optional prefix
	while IFS= read -r l; do
		f=$l
		if [ -n "$1" ]; then
			[ "$l" != . ] || { printf '.\n'; return; }
			case $l in [+=]/*) f=${l#?} ;; *) no "\"$l\" is not a file" ;; esac
		fi
		case $f in */../* | */./* | */.. | *//*) no "\"$f\" is not a clean path" ;; esac
		case $f in
		/opt/tyk-?*/?* | /etc/tyk-?*/?* | /etc/default/tyk-?* | /lib/systemd/system/tyk-?* | /usr/lib/systemd/system/tyk-?*) ;;
		*) no "\"$f\" is not a file of Tyk's" ;;
		esac
		printf '%s\n' "$l"
	done
}
want() { # what apt-get is to install or to remove
	[ $# -gt 0 ] || no "no package"
	for w; do
		case $w in
		/*) deb "$w" ;;
		*=*) tyk "$w"; tyk "${w%%=*}" ;;
		*-) tyk "$w" ;;
		*) no "\"$w\" has no version" ;;
		esac
	done
}
apt() {
	while [ $# -gt 0 ]; do
		case $1 in
		-q | -qq | -y | -s | --no-install-recommends | --allow-downgrades | --allow-change-held-packages | --no-remove | --print-uris | --download-only | --allow-releaseinfo-change) ;;
		-o)
			shift
			case ${1-} in
			Dpkg::Use-Pty=0 | Dpkg::Options::=--force-confnew | Dpkg::Options::=--force-confdef | Dpkg::Options::=--force-confold | APT::Status-Fd=3 | APT::Update::Error-Mode=any) ;;
			DPkg::Lock::Timeout=*) number "${1#*=}" ;;
			*) no "apt's option \"${1-}\"" ;;
			esac ;;
		update) [ $# -eq 1 ] || no "update takes no argument"; return ;;
		install) shift; is "${1-}" --; shift; want "$@"; return ;;
		*) no "apt-get \"$1\"" ;;
		esac
		shift
	done
	no "apt-get without a verb"
}
dpkgrun() { # to configure what is half-installed
	while [ $# -gt 2 ]; do
		case $1 in --force-confnew | --force-confdef | --force-confold) ;; *) no "dpkg \"$1\"" ;; esac
		shift
	done
	is "$*" "--configure -a"
}
job() { # of start: ten arguments, then the command
	[ $# -gt 9 ] || no "start without a command"
	isprep "$1"; is "$2" ''; isrun "$3"
	is "${1%.new.*}" "$3"
	case $7 in /etc/apt/preferences.d) ;; '') is "$8$9" '' ;; *) no "\"$7\"" ;; esac # Repair pins nothing
	case $8 in '' | all) ;; *) no "\"$8\"" ;; esac
	for x in "$4" "$5" "$6" "$9"; do case $x in *[!A-Za-z0-9.+~:=_%\ -]*) no "\"$x\" is not a list of words" ;; esac; done
	for w in $4 $5 $9; do tyk "$w"; done
	for w in $6; do unit "$w"; done
	shift 9
	case $1 in apt-get) shift; apt "$@" ;; dpkg) shift; dpkgrun "$@" ;; *) no "the command \"$1\"" ;; esac
}
check() {
	v=$1; shift
	case $v in
	survey) is "${1-}" ''; is "${2-}" "$state"; shift 2; for w; do case $w in '' | -* | *[!A-Za-z0-9.+:*?-]*) no "\"$w\"" ;; esac; done ;;
	packages) is "${1-}" ''; is "${2-}" /var/lib/apt/extended_states; shift 2; for w; do case $w in '' | -* | *[!A-Za-z0-9.+:*?-]*) no "\"$w\"" ;; esac; done ;;
	offers) is "${1-}" /etc/apt; shift; plains "$@" ;;
	offered) is "${1%/}" "$cache"; shift; for w; do [ "$w" = -- ] || plain "$w"; done ;;
	candidates) is "${1-}" ''; shift; while [ $# -gt 0 ]; do plain "$1"; readable "${2-}"; shift 2; done ;;
	debs) case ${1-} in '' | skip) ;; *) no "\"$1\"" ;; esac; shift; for w; do readable "$w"; done ;;
	locks) for w; do case $w in /var/lib/dpkg/lock-frontend | /var/lib/dpkg/lock | /var/lib/apt/lists/lock | /var/cache/apt/archives/lock) ;; *) no "\"$w\"" ;; esac; done ;;
	state | prepare | log | check-files | forget) [ $# -eq 1 ] || no "arguments"; isrun "$1" ;;
	changes) [ $# -eq 1 ] || no "arguments"; is "$1" "$runs" ;;
	discard) [ $# -eq 1 ] || no "arguments"; isprep "$1" ;;
	follow) [ $# -eq 2 ] || no "arguments"; isrun "$1"; number "$2" ;;
	write) [ $# -eq 1 ] || no "arguments"; is "${1##*/}" change.json; isrun "${1%/*}" ;;
	save-packages)
		[ $# -ge 4 ] || no "arguments"
		is "$1" ''; is "$2" /var/lib/dpkg; is "${3%/}" "$cache"; isprep "$4"; shift 4
		while [ $# -gt 0 ]; do [ $# -ge 4 ] || no "arguments"; plains "$1" "$2" "$3" "$4"; tyk "$1"; case $4 in *.deb) ;; *) no "\"$4\"" ;; esac; shift 4; done ;;
	save-files) [ $# -eq 3 ] || no "arguments"; is "$1" ''; isprep "$2"; is "$3" "$suffixes" ;;
	revert-files) [ $# -eq 2 ] || no "arguments"; is "$1" ''; isrun "$2" ;;
	start) job "$@" ;;
	restart | reset-failed) units "$@" ;;
	watch) number "${1-}"; shift; units "$@" ;;
	history) is "${1-}" /var/log/apt/history.log ;;
	keys) is "${1-}" ''; shift; for w; do case $w in */../*) no "\"$w\"" ;; /etc/apt/?* | /usr/share/keyrings/?*) ;; *) no "\"$w\"" ;; esac; done ;;
	apt-get) apt "$@" ;;
	apt-mark) is "${1-} ${2-}" "hold --"; shift 2; for w; do tyk "$w"; done ;;
	systemctl)
		case "${1-} ${2-}" in
		"show -p") is "${3-} ${4-}" "$properties --"; shift 4 ;;
		"unmask --runtime") is "${3-}" --; shift 3 ;;
		*) no "systemctl \"${1-}\"" ;;
		esac
		units "$@" ;;
	journalctl)
		while [ $# -gt 0 ]; do
			case $1 in
			--no-pager | -q) ;;
			-n) shift; number "${1-}" ;;
			-o) shift; case ${1-} in cat | short-iso) ;; *) no "\"$1\"" ;; esac ;;
			-u) shift; unit "${1-}" ;;
			_SYSTEMD_UNIT=*) unit "${1#*=}" ;;
			*) no "journalctl \"$1\"" ;;
			esac
			shift
		done ;;
	upload | move) no "a .deb file of the caller's would run as root; copy it as an administrator" ;;
	*) no "unknown call \"$v\"" ;;
	esac
}
`

// helperMain: $1 digest, $2 call, then its arguments. It is the end of the helper.
const helperMain = `[ "$(id -u)" = 0 ] || no "not root"
[ "${1-}" = "$digest" ] || { echo "tykupgrade-helper: the helper is of another version" >&2; exit 76; }
[ $# -ge 2 ] || no "no call"
for w; do case $w in *"$nl"*) no "an argument of two lines" ;; esac; done
shift
call=$1; shift
check "$call" "$@"
clean() { env -i LC_ALL=C DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 HOME=/root PATH="$PATH" "$@"; }
case $call in
apt-get | apt-mark | systemctl | journalctl) clean "$call" "$@" ;;
save-files | revert-files)
	front=; [ "$call" = save-files ] || front=1
	lines=$(files "$front") || exit 77
	printf '%s\n' "$lines" | clean sh -c "$(text "$call")" "debpkg-$call" "$@" ;;
start)
	# The script of the job is the helper's own, and so is its environment.
	prep=$1 root=$2 dir=$3 hold=$4 auto=$5 mask=$6 prefs=$7 all=$8 pins=$9; shift 9
	t=$(text job)
	{
		read -r a b; number "$a"
		printf '%s %s\n' "$a" "${#t}"; head -c "$a"; printf %s "$t"
	} | clean sh -c "$(text start)" debpkg-start "$prep" "$root" "$dir" "$hold" "$auto" "$mask" "$prefs" "$all" "$pins" \
		env LC_ALL=C DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 PATH="$PATH" "$@" ;;
*) clean sh -c "$(text "$call")" "debpkg-$call" "$@" ;;
esac
`
