package debpkg

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"path"
	"slices"
	"strings"
)

// surveyScript reads in one call what every plan, change and revert needs from the host: $1 root,
// $2 StateDir, then names or patterns of packages. Parts of the answer end with a file separator,
// in the order of the constants below. The locks come first: what is read while nobody holds one is
// whole. It starts few processes, as several surveys belong to one change.
const surveyScript = lockFunc + `root=$1 state=$2; shift 2
` + surveyFunc + `locks "$admin/lock-frontend" "$admin/lock" "$root/var/lib/apt/lists/lock" "$root/var/cache/apt/archives/lock"
s; show "$root/etc/os-release" || show "$root/usr/lib/os-release"
s; show "$root/etc/machine-id"
s; show /proc/sys/kernel/hostname
s; conf=$(apt-config dump --format '%f %v%n' Dir DPkg::Options) || exit 2
printf '%s\n' "$conf"
auto=
while read -r k v; do
	case $k in Dir | Dir::State | Dir::State::extended_states)
		case $v in /*) auto=$v ;; *) auto=${auto%/}/$v ;; esac ;;
	esac
done <<END
$conf
END
s; disks() {
	for d; do
		shift
		while [ ! -e "$d" ]; do d=${d%/*}; d=${d:-/}; done
		set -- "$@" "$d"
	done
	stat -L -c %d -- "$@" && stat -f -c '%a %S' -- "$@"
}
disks "$root/var/cache/apt/archives" "$root/opt" "$state" || exit 2
whole=1
s
` + packagesPart

// packagesScript is the end of the survey alone, for after a run: $1 root, $2 apt's
// extended_states.
const packagesScript = `root=$1 auto=$2; shift 2
` + surveyFunc + packagesPart

const surveyFunc = `admin=$root/var/lib/dpkg
s() { printf '\034'; }
show() { while IFS= read -r l || [ -n "$l" ]; do printf '%s\n' "$l"; done <"$1"; } 2>/dev/null
notes() { awk -F '\t' -v names=" $installed " -v whole="$whole" -v root="$root" '
	file == "" {
		if (root == "" && ($1 == "apt" || $1 == "dpkg")) tools = tools $1 " " $3 " " $2 "\n"
		if ($6 != "ok" || $5 ~ /^(half-|unpacked)/) broken = broken $0 "\n"
		next
	}
	/^Package: / { p = substr($0, 10) }
	/^Architecture: / { a = substr($0, 15) }
	file == "auto" {
		if ($0 == "Auto-Installed: 1" && index(names, " " p ":")) print p ":" a
		next
	}
	/^Version: / && (p == "apt" || p == "dpkg") { tools = tools p " " substr($0, 10) " " a "\n"; if (n++) exit }
	END { if (whole != "") printf "\035%s\035%s", tools, broken }' "$@"; }
whole=
`

const packagesPart = `if [ -z "$root" ] && [ -d /run/systemd/system ]; then systemd=1; echo yes; else systemd=; fi
s; for f in "$admin"/updates/[0-9]*; do [ ! -e "$f" ] || echo yes; done
s; list=
if [ $# -gt 0 ]; then
	list=$(dpkg-query --admindir="$admin" -W -f '` + packageFormat + `' -- "$@" 2>/dev/null)
	if [ $? -gt 1 ]; then dpkg-query --admindir="$admin" -W -- "$@" >/dev/null; exit 2; fi
fi
printf '%s\n' "$list"
s; installed= div=
[ ! -s "$admin/diversions" ] || div="
$(show "$admin/diversions")
"
set --
while IFS= read -r l; do
	case $l in
	' '*) l=${l# } ;;
	'' | *"	not-installed	"* | *"	config-files	"*) continue ;;
	*) r=${l#*	}; installed="$installed ${l%%	*}:${r%%	*}"; continue ;;
	esac
	while :; do
		case $l in *' obsolete') l=${l% obsolete} ;; *' remove-on-upgrade') l=${l% remove-on-upgrade} ;; *) break ;; esac
	done
	f=${l% *}
	# Only for paths that the file names, as dpkg-divert loads dpkg's whole database.
	case $div in *"
$f
"*) f=$(dpkg-divert --admindir "$admin" --truename "$f") ;; esac
	if [ -e "$root$f" ]; then printf 'there'; set -- "$@" "$root$f"; else printf 'absent'; fi
	printf '\t%s\n' "$f"
done <<END
$list
END
printf '\035'; [ $# -eq 0 ] || md5sum -z -- "$@" 2>/dev/null
s; set --; [ -z "$installed" ] || [ ! -f "$auto" ] || set -- file=auto "$auto"
# apt and dpkg are those of the system, whose list would take dpkg-query long to read.
if [ -n "$whole" ]; then
	dpkg-query --admindir="$admin" -W -f '` + stateFormat + `' | notes - "$@" ${root:+file=status /var/lib/dpkg/status}
elif [ $# -gt 0 ]; then
	notes "$@"
fi
s; units=
if [ -n "$systemd" ] && [ -n "$installed" ]; then
	units=$(dpkg-query -L $installed | awk -v names="$installed" 'BEGIN { split(names, n); i = 1 } $0 == "" { i++ }
		/^(\/usr)?\/lib\/systemd\/system\/[^\/@]*\.service$/ { sub(/.*\//, ""); print n[i] "\t" $0 }')
	printf '%s\n' "$units"
fi
s; if [ -n "$systemd" ]; then
	set --
	while IFS= read -r l; do [ -z "$l" ] || set -- "$@" "${l#*	}"; done <<END
$units
END
	systemctl show -p ` + unitProperties + ` -- "$@" tyk-dashboard.service tyk-gateway.service tyk-pump.service || exit 2
fi`

const (
	partLocks = iota
	partOS
	partMachine
	partName
	partConfig
	partDisks
	partSystemd // the first of packagesPart
	partJournal
	partPackages
	partSums
	partAuto // in a survey, separated by \035, also apt and dpkg, and what is broken
	partUnits
	partStates
	partCount
)

// survey is the state of the host at one moment.
type survey struct {
	Facts                     // what does not need the sources; Packages are the requested ones
	config  map[string]string // of apt
	options []string          // DPkg::Options
	units   map[string][]string
	states  []Unit           // of those units and of the components'
	cached  map[string]int64 // sizes of files in apt's cache that concern a plan, by name
}

// survey reads the state of the host, and of the packages with these names or patterns.
func (h *Host) survey(ctx context.Context, names ...string) (survey, error) {
	t := task{"read", "the facts of the host"}
	out, err := h.script(ctx, nil, "survey", append([]string{h.o.Root, h.o.StateDir},
		names...)...)
	if err != nil {
		return survey{}, t.wrap(err)
	}
	part := strings.Split(out, "\x1c")
	if len(part) != partCount {
		return survey{}, t.unexpected(out)
	}
	s := survey{config: map[string]string{}}
	s.OS = parseOSRelease(part[partOS])
	s.Hostname = strings.TrimSpace(part[partName])
	if id := strings.TrimSpace(part[partMachine]); id != "" {
		sum := sha256.Sum256([]byte("tykupgrade " + id))
		s.Machine = hex.EncodeToString(sum[:8])
	}
	for line := range strings.Lines(part[partConfig]) {
		k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if strings.HasPrefix(k, "DPkg::Options") {
			if v != "" {
				s.options = append(s.options, v)
			}
			continue
		}
		s.config[k] = v
	}
	within := strings.Split(part[partAuto], "\x1d")
	if len(within) != 3 {
		return survey{}, t.unexpected(out)
	}
	part[partAuto] = within[0]
	for line := range strings.Lines(within[1]) {
		switch f := strings.Fields(line); {
		case len(f) == 3 && f[0] == "apt":
			s.Apt = Version{f[1]}
		case len(f) == 3 && f[0] == "dpkg":
			s.Dpkg, s.Arch = Version{f[1]}, f[2]
		}
	}
	s.Disks = parseDisks([]string{h.path("/var/cache/apt/archives"), h.path("/opt"), h.o.StateDir},
		part[partDisks])
	if s.OS.ID == "" || s.Arch == "" {
		return survey{}, t.wrap(errors.New("/etc/os-release or dpkg is missing; is it " +
			"Debian or Ubuntu?"))
	}
	if s.Broken, err = parsePackages(within[2], s.Arch); err != nil {
		return survey{}, task{"read", "the installed packages"}.wrap(err)
	}
	s.Locks = parseLocks(part[partLocks])
	err = s.packages(h.o.Root, part[partSystemd:])
	return s, err
}

func (o task) unexpected(out string) error {
	return o.fail(Error{Detail: "the host's answer has an unexpected format", Output: tidy(out),
		Next: "check what its login shell prints"})
}

// after reads the packages and units after a run, and keeps everything else of before. It reads the
// whole host if before is empty or apt keeps its list of automatic packages elsewhere.
func (h *Host) after(ctx context.Context, before survey, names ...string) (survey, error) {
	auto := aptDir(before.config, "Dir", "Dir::State", "Dir::State::extended_states")
	if auto != h.path("/var/lib/apt/extended_states") {
		return h.survey(ctx, names...)
	}
	t := task{"read", "the packages of the host"}
	out, err := h.script(ctx, nil, "packages", append([]string{h.o.Root, auto}, names...)...)
	if err != nil {
		return survey{}, t.wrap(err)
	}
	part := strings.Split(out, "\x1c")
	if len(part) != partCount-partSystemd {
		return survey{}, t.unexpected(out)
	}
	err = before.packages(h.o.Root, part)
	return before, err
}

// packages reads the answer of packagesPart.
func (s *survey) packages(root string, part []string) (err error) {
	const first = partSystemd
	s.Systemd, s.Journal = part[0] != "", strings.TrimSpace(part[partJournal-first]) != ""
	if s.Packages, err = parsePackages(part[partPackages-first], s.Arch); err != nil {
		return task{"read", "the installed packages"}.wrap(err)
	}
	if err := s.sums(root, part[partSums-first]); err != nil {
		return err
	}
	auto := strings.Fields(part[partAuto-first])
	for i, p := range s.Packages {
		arch := p.Arch
		if arch == "all" {
			arch = s.Arch // where apt notes it
		}
		s.Packages[i].Auto = slices.Contains(auto, p.base()+":"+arch)
	}
	s.states, s.units = parseUnits(part[partStates-first]), map[string][]string{}
	s.findUnits(part[partUnits-first])
	return nil
}

// parseDisks reads the device numbers of the directories, then the free blocks
// and their size.
func parseDisks(dirs []string, text string) []Disk {
	rows := strings.Split(strings.TrimSpace(text), "\n")
	if len(rows) != 2*len(dirs) {
		return nil
	}
	var disks []Disk
	for i, d := range dirs {
		blocks, size, _ := strings.Cut(rows[len(dirs)+i], " ")
		disks = append(disks, Disk{Path: d, Free: number64(blocks) * number64(size), device: rows[i]})
	}
	return disks
}

// sums fills in the digest on disk of each conffile, in dpkg's order. text has first which of them
// exist, then the digests of the readable ones.
func (s *survey) sums(root, text string) error {
	text, sums, _ := strings.Cut(text, "\x1d")
	digests := map[string]string{}
	for one := range strings.SplitSeq(sums, "\x00") {
		if sum, file, ok := strings.Cut(one, " "); ok && file != "" {
			digests[strings.TrimPrefix(file[1:], root)] = sum
		}
	}
	rows := fields(text, 2)
	for i := range s.Packages {
		for j := range s.Packages[i].Conffiles {
			if len(rows) == 0 {
				return task{"compare", "configuration files"}.wrap(errors.New("the host names fewer " +
					"than dpkg does"))
			}
			c, row := &s.Packages[i].Conffiles[j], rows[0]
			rows = rows[1:]
			if row[0] == "there" {
				c.Disk = cmp.Or(digests[row[1]], "unreadable")
			}
			if row[1] != c.Path {
				c.Diverted = row[1]
			}
		}
	}
	return nil
}

// findUnits notes each installed package's units: those that it ships, and that of its component,
// which a script may create (gateways before 4.0, the dashboard).
func (s *survey) findUnits(shipped string) {
	rows := fields(shipped, 2)
	for _, p := range s.Packages {
		for _, f := range rows {
			if f[0] == p.base()+":"+p.Arch {
				s.units[p.Name] = append(s.units[p.Name], f[1])
			}
		}
		c, ok := component(p.Name)
		if ok && s.Systemd && p.Status != "config-files" && len(s.units[p.Name]) == 0 &&
			slices.ContainsFunc(s.states, func(u Unit) bool {
				return u.Name == c.Unit &&
					u.LoadState == "loaded"
			}) {
			s.units[p.Name] = []string{c.Unit}
		}
	}
}

// serviceNames returns the units of all requested packages.
func (s survey) serviceNames() []string {
	var all []string
	for _, u := range s.units {
		all = append(all, u...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// archives returns apt's cache of .deb files.
func (s survey) archives() string {
	return aptDir(s.config, "Dir", "Dir::Cache", "Dir::Cache::archives")
}
func (s survey) preferences() string {
	return aptDir(s.config, "Dir", "Dir::Etc", "Dir::Etc::preferencesparts")
}
func (s survey) history() string { return aptDir(s.config, "Dir", "Dir::Log", "Dir::Log::History") }

// aptDir joins directories as apt does: an absolute one replaces what is before it.
func aptDir(values map[string]string, keys ...string) string {
	dir := ""
	for _, k := range keys {
		if v := values[k]; strings.HasPrefix(v, "/") {
			dir = v
		} else if v != "" {
			dir = strings.TrimRight(dir, "/") + "/" + v
		}
	}
	return path.Clean("/" + dir)
}
