package debpkg

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
)

// filesName is the archive of configuration and overwritten files.
const filesName = "files.tar.gz"

// What dpkg (1.21), its helper for maintainer scripts and -confold or -confnew
// put beside a conffile.
var besideSuffixes = []string{".dpkg-dist", ".dpkg-old", ".dpkg-new", ".dpkg-tmp", ".dpkg-bak", ".dpkg-backup", ".dpkg-remove"}

// saveFiles keeps the conffiles, the files that will be overwritten, and each
// component's configuration and defaults, with what earlier upgrades left beside
// them. Absent ones are left out; of a link, what it leads to is kept too, which
// is what dpkg replaces. It notes in c the kept files, the archive's SHA-256, and
// where it looked.
func (h *Host) saveFiles(ctx context.Context, c *Change, prep string) error {
	var paths []string
	for _, f := range c.Plan.Conffiles {
		paths = append(paths, f.Path)
	}
	for _, o := range c.Plan.Overwrites {
		paths = append(paths, o.Path)
	}
	for _, a := range c.Plan.Actions {
		if comp, ok := component(a.Package); ok {
			paths = append(paths, comp.Config, "/etc/default/"+comp.Package)
		}
	}
	out, err := h.script(ctx, strings.NewReader(strings.Join(paths, "\n")+"\n"), `set -e
umask 077
while IFS= read -r f; do
	printf '%s\n' "$f"
	if [ -L "$1$f" ] && [ -f "$1$f" ]; then
		t=$(readlink -f -- "$1$f")
		case $t in "$1"/*) printf '%s\n' "${t#"$1"}" ;; esac
	fi
done | sort -u >"$2/looked"
while IFS= read -r f; do
	for s in "" $4; do [ ! -f "$1$f$s" ] || printf '.%s\n' "$f$s"; done
done <"$2/looked" >"$2/files"
if [ -s "$2/files" ]; then tar -C "$1/" -c -z -f "$2/$3" -T "$2/files"; sha256sum <"$2/$3"; fi
printf '\034'; cat "$2/files"
printf '\034'; cat "$2/looked"
rm "$2/files" "$2/looked"`, h.o.Root, prep, filesName, strings.Join(besideSuffixes, " "))
	if err != nil {
		return task{"save", "the configuration"}.wrap(err)
	}
	part := strings.Split(out, "\x1c")
	if len(part) != 3 {
		return task{"save", "the configuration"}.wrap(fmt.Errorf("unexpected answer %q", out))
	}
	c.FilesSHA256, _, _ = strings.Cut(part[0], " ")
	for line := range strings.Lines(part[1]) {
		c.Files = append(c.Files, strings.TrimPrefix(strings.TrimSuffix(line, "\n"), "."))
	}
	for line := range strings.Lines(part[2]) {
		c.Looked = append(c.Looked, strings.TrimSuffix(line, "\n"))
	}
	return nil
}

// added lists the files that were not there before the change and that dpkg
// may have put there: what it leaves beside conffiles, and conffiles that had
// been deleted. A conffile that only the new version has stays: dpkg would take
// its absence for a decision, and leave it out of the next upgrade.
func (c Change) added() []string {
	var list []string
	for _, f := range c.Looked {
		deleted := slices.ContainsFunc(c.Plan.Conffiles, func(p ConffilePlan) bool { return p.Path == f && p.Shipped != "" })
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

// checkFiles refuses when the saved configuration is not what was saved.
func (h *Host) checkFiles(ctx context.Context, op task, c Change) error {
	if c.FilesSHA256 == "" {
		return nil
	}
	file := path.Join(c.Dir, filesName)
	out, err := h.script(ctx, nil, `[ ! -f "$1" ] || sha256sum <"$1"`, file)
	if err != nil {
		return op.wrap(fmt.Errorf("read the saved configuration: %w", err))
	}
	if sum, _, _ := strings.Cut(out, " "); sum != c.FilesSHA256 {
		return &Error{Op: op.verb, Object: op.object, Kind: ErrNoRollback, Detail: file + " is gone or was changed since it was saved", Next: "revert without the files, and bring them back from a backup"}
	}
	return nil
}

// revertFiles brings back the files of before, after what is there now was put
// into an archive of its own, and takes away what dpkg added.
func (h *Host) revertFiles(ctx context.Context, op task, c Change) error {
	var lines strings.Builder
	for _, f := range c.Files {
		lines.WriteString("=" + f + "\n")
	}
	for _, f := range c.added() {
		lines.WriteString("+" + f + "\n")
	}
	if lines.Len() == 0 {
		return nil
	}
	// Over SSH, the death of the client looks like the end of the list.
	lines.WriteString(".\n")
	if ctx.Err() != nil {
		return op.wrap(ended(ctx))
	}
	h.event(Event{Kind: EventStep, Text: "bring back the configuration"})
	archive := ""
	if len(c.Files) > 0 {
		archive = filesName
	}
	// Half of the configuration would be worse than all or none.
	dctx, cancel := h.lasting(ctx)
	defer cancel()
	_, err := h.script(dctx, strings.NewReader(lines.String()), `set -e; umask 077
: >"$2/added"
whole=
while IFS= read -r l; do
	if [ "$l" = . ]; then whole=1; break; fi
	f=${l#?}
	[ -f "$1$f" ] || [ -L "$1$f" ] || continue
	printf '.%s\n' "$f"
	case $l in +*) printf '%s\n' "$1$f" >>"$2/added" ;; esac
done >"$2/list"
if [ -z "$whole" ]; then rm "$2/list" "$2/added"; echo "the list of files did not arrive whole" >&2; exit 1; fi
if [ -s "$2/list" ]; then
	now=$2/files-replaced.$(date +%Y%m%dT%H%M%S.%3N).tar.gz
	tar -C "$1/" -c -z -f "$now" -T "$2/list"
	sync "$now"
fi
[ -z "$3" ] || tar -C "$1/" -x -p -z -f "$2/$3"
while IFS= read -r f; do rm -f -- "$f"; done <"$2/added"
rm "$2/list" "$2/added"`, h.o.Root, c.Dir, archive)
	if err != nil {
		return op.wrap(fmt.Errorf("bring back the configuration: %w", err))
	}
	return nil
}
