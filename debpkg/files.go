package debpkg

import (
	"context"
	"path"
	"slices"
	"strings"
)

// besideSuffixes are those of the files that dpkg (1.21), its helper for maintainer
// scripts, and -confold or -confnew put next to a conffile.
var besideSuffixes = []string{".dpkg-dist", ".dpkg-old", ".dpkg-new", ".dpkg-tmp", ".dpkg-bak",
	".dpkg-backup", ".dpkg-remove"}

// whoFunc decides which user opens a path. If nobody else can write to any directory on the way, it
// is root. Otherwise it is the owner of the first directory that belongs to somebody else. A link
// that this owner puts there, for example to /etc/shadow, is then opened only with his own
// permissions. whoFunc sets w to "uid gid", or to nothing for the user that runs this. It refuses
// with 78 a directory of root that a group or everybody can write to.
const whoFunc = `seen= known=1
while read -r k x me y; do [ "$k" != Uid: ] || break; done </proc/self/status
who() {
	[ "${1%/*}" != "$seen" ] || return $known
	w= cur= rest=${1#/} seen=${1%/*} known=1
	set --
	while :; do
		case $rest in */*) ;; *) break ;; esac
		cur=$cur/${rest%%/*} rest=${rest#*/}
		set -- "$@" "$cur"
	done
	all=; [ $# -eq 0 ] || all=$(stat -L -c '%u %g %a %n' -- "$@" 2>/dev/null)
	while read -r u g a d; do
		[ $# -gt 0 ] || break
		[ "$d" = "$1" ] && [ -d "$d" ] || return 1
		shift
		case $u in
		0 | "$me")
			open=
			case $a in *[2367]) open=1 ;; *[2367]?) [ "$me" != 0 ] || open=1 ;; esac
			case $a in [1357]???) open= ;; esac
			if [ -n "$open" ]; then
				known=78
				echo "$d can be written to by its group or by everybody" >&2; return 78
			fi ;;
		*) w="$u $g" known=0; return 0 ;;
		esac
	done <<END
$all
END
	[ $# -eq 0 ] || return 1
	known=0
}
as() { # "uid gid" or nothing, command
	if [ -z "$1" ]; then shift; "$@"; return; fi
	u=${1% *} g=${1#* }; shift
	setpriv --reuid="$u" --regid="$g" --clear-groups -- "$@"
}
`

// saveFilesScript: $1 root, $2 prepared directory, $3 suffixes; the paths come in order
// on standard input. There is an archive for root's files, files.tar.gz, and one
// for each other owner of a directory, files.UID.GID.tar.gz. A link out of such
// an owner's tree (/opt/x, of /opt/x/y) is kept as a link and not followed.
const saveFilesScript = whoFunc + `set -e; umask 077
links=
while IFS= read -r f; do
	printf '%s\n' "$f"
	if [ -L "$1$f" ] && [ -f "$1$f" ]; then
		links=1
		who "$1$f" || { rc=$?; [ $rc -ne 78 ] || exit 78; continue; }
		t=$(readlink -f -- "$1$f"); top=${f#/}; rest=${top#*/}; top=/${top%%/*}/${rest%%/*}
		case $t in
		"$1$top"/*) printf '%s\n' "${t#"$1"}" ;;
		"$1"/*) [ -n "$w" ] || printf '%s\n' "${t#"$1"}" ;;
		esac
	fi
done >"$2/looked" || exit $?
[ -z "$links" ] || sort -u -o "$2/looked" "$2/looked"
while IFS= read -r f; do
	who "$1$f" || { rc=$?; [ $rc -ne 78 ] || exit 78; continue; }
	for s in "" $3; do
		if [ -f "$1$f$s" ] || [ -L "$1$f$s" ]; then
			printf '.%s\n' "$f$s" >>"$2/list${w:+.${w% *}.${w#* }}"
			printf '%s\n' "$f$s" >>"$2/files"
		fi
	done
done <"$2/looked"
for l in "$2"/list*; do
	[ -e "$l" ] || continue
	w=${l#"$2/list"}; w=${w#.}
	as "${w:+${w%.*} ${w#*.}}" tar -C "$1/" -c -z -T - <"$l" >"$2/files${w:+.$w}.tar.gz"
done
show() { while IFS= read -r f; do printf '%s\n' "$f"; done <"$1"; }
dir=$2
set -- "$dir"/files*.tar.gz
if [ $# -gt 1 ]; then cat "$@" | sha256sum; elif [ -e "$1" ]; then sha256sum <"$1"; fi
printf '\034'; [ ! -e "$dir/files" ] || show "$dir/files"
printf '\034'; show "$dir/looked"
rm -f "$dir/files" "$dir/looked" "$dir"/list*`

// saveFiles saves the conffiles, the files that will be overwritten, and each component's
// configuration, with the copies that earlier upgrades left next to them. It leaves out absent
// files. It also saves the target of a link, because dpkg replaces the target. It notes in c the
// saved files, the SHA-256 of the archives, and where it looked.
func (h *Host) saveFiles(ctx context.Context, c *Change, prep string) error {
	t := task{"save", "the configuration"}
	var paths []string
	for _, f := range c.Plan.Conffiles {
		paths = append(paths, f.Path)
		if f.Diverted != "" {
			paths = append(paths, f.Diverted)
		}
	}
	for _, o := range c.Plan.Overwrites {
		paths = append(paths, o.Path)
	}
	for _, a := range c.Plan.Actions {
		if comp, ok := component(a.Package); ok {
			paths = append(paths, comp.Config, "/etc/default/"+comp.Package)
		}
	}
	if len(paths) == 0 {
		return nil
	}
	slices.Sort(paths)
	paths = slices.Compact(paths)
	out, err := h.script(ctx, strings.NewReader(strings.Join(paths, "\n")+"\n"), "save-files",
		h.o.Root, prep, strings.Join(besideSuffixes, " "))
	if err != nil {
		return t.wrap(unsafe(t, err))
	}
	part := strings.Split(out, "\x1c")
	if len(part) != 3 {
		return t.fail(Error{Detail: "the host's answer has an unexpected format", Output: tidy(out)})
	}
	c.FilesSHA256, _, _ = strings.Cut(part[0], " ")
	c.Files, c.Looked = lines(part[1]), lines(part[2])
	return nil
}

// added lists the files that dpkg may have created during the change: copies next to conffiles, and
// conffiles that had been deleted. A conffile that only the new version has stays: dpkg would take
// its absence for a decision and leave it out of the next upgrade.
func (c Change) added() []string {
	var list []string
	for _, f := range c.Looked {
		deleted := slices.ContainsFunc(c.Plan.Conffiles, func(p ConffilePlan) bool {
			return p.Path == f &&
				p.Shipped != ""
		})
		if deleted && !slices.Contains(c.Files, f) {
			list = append(list, f)
		}
		for _, s := range besideSuffixes {
			if !slices.Contains(c.Files, f+s) {
				list = append(list, f+s)
			}
		}
	}
	return list
}

// checkFiles refuses if the saved configuration has changed.
func (h *Host) checkFiles(ctx context.Context, op task, c Change) error {
	if c.FilesSHA256 == "" {
		return nil
	}
	out, err := h.script(ctx, nil, "check-files", c.Dir)
	if err != nil {
		return op.wrap(err)
	}
	if sum, _, _ := strings.Cut(out, " "); sum != c.FilesSHA256 {
		return op.fail(Error{Kind: ErrNoRollback, Detail: path.Join(c.Dir, "files.tar.gz") +
			" is gone or has changed since it was saved", Next: "revert without the files, and restore them " +
			"from a backup"})
	}
	return nil
}

// revertFilesScript: $1 root, $2 directory of the change; a list of paths comes
// on standard input: =PATH was saved, +PATH is to go, and a dot ends it.
const revertFilesScript = whoFunc + `set -e; umask 077
rm -f "$2"/now* "$2"/gone*
whole=
while IFS= read -r l; do
	if [ "$l" = . ]; then whole=1; break; fi
	f=${l#?}
	[ -f "$1$f" ] || [ -L "$1$f" ] || continue
	who "$1$f" || { rc=$?; [ $rc -ne 78 ] || exit 78; continue; }
	x=${w:+.${w% *}.${w#* }}
	case $l in +*) printf '%s\0' "$1$f" >>"$2/gone$x" ;; esac
	# As the package has it, this may be for root alone in another's directory.
	case $l in +*.dpkg-dist | +*.dpkg-new) [ -L "$1$f" ] || as "$w" test -r "$1$f" || continue ;; esac
	printf '.%s\n' "$f" >>"$2/now$x"
done
if [ -z "$whole" ]; then rm -f "$2"/now* "$2"/gone*; echo "the list of files did not arrive whole" >&2; exit 1; fi
at=$(date +%Y%m%dT%H%M%S.%3N)
for l in "$2"/now*; do
	[ -e "$l" ] || continue
	x=${l#"$2/now"}; w=${x#.}
	as "${w:+${w%.*} ${w#*.}}" tar -C "$1/" -c -z -T - <"$l" >"$2/files-replaced.$at$x.tar.gz"
	sync "$2/files-replaced.$at$x.tar.gz"
done
for a in "$2/files.tar.gz" "$2"/files.*.tar.gz; do
	[ -e "$a" ] || continue
	w=${a#"$2/files"}; w=${w%.tar.gz}; w=${w#.}
	case $w in *[!0-9.]*) continue ;; esac
	as "${w:+${w%.*} ${w#*.}}" tar -C "$1/" -x -p -z -f - <"$a"
done
for l in "$2"/gone*; do
	[ -e "$l" ] || continue
	w=${l#"$2/gone"}; w=${w#.}
	as "${w:+${w%.*} ${w#*.}}" xargs -0 rm -f -- <"$l"
done
rm -f "$2"/now* "$2"/gone*`

// revertFiles saves the present files in archives of their own, restores the earlier ones, and
// removes what dpkg added.
func (h *Host) revertFiles(ctx context.Context, op task, c Change) error {
	var list strings.Builder
	for _, f := range c.Files {
		list.WriteString("=" + f + "\n")
	}
	for _, f := range c.added() {
		list.WriteString("+" + f + "\n")
	}
	if list.Len() == 0 {
		return nil
	}
	// Over SSH, the death of the client looks like the end of the list.
	list.WriteString(".\n")
	if ctx.Err() != nil {
		return op.wrap(ended(ctx))
	}
	h.event(Event{Kind: EventStep, Text: "restore the configuration"})
	// Half of the configuration would be worse than all or nothing.
	dctx, cancel := h.lasting(ctx)
	defer cancel()
	if _, err := h.script(dctx, strings.NewReader(list.String()), "revert-files",
		h.o.Root, c.Dir); err != nil {
		return op.wrap(unsafe(op, err))
	}
	return nil
}
