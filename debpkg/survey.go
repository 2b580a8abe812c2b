package debpkg

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"path"
	"slices"
	"strings"
)

// surveyScript answers in one call what every plan, change and revert needs of
// the host: $1 root, $2 StateDir, then names or patterns of packages. Parts of
// the answer end with a file separator, in the order of the constants below.
const surveyScript = `root=$1 state=$2; shift 2
admin=$root/var/lib/dpkg
s() { printf '\034'; }
cat "$root/etc/os-release" 2>/dev/null || cat "$root/usr/lib/os-release"
s; cat "$root/etc/machine-id" 2>/dev/null
s; uname -n
s; dpkg --print-architecture || exit 2
s; dpkg-query -W -f '${Package} ${Version}\n' apt dpkg
s; if [ -z "$root" ] && [ -d /run/systemd/system ]; then systemd=1; echo yes; else systemd=; fi
s; for f in "$admin"/updates/[0-9]*; do [ ! -e "$f" ] || echo yes; done
s; apt-config dump --format '%f %v%n' Dir Dir::Cache Dir::Cache::archives Dir::Log Dir::Log::History DPkg::Options || exit 2
s; for d in "$root/var/cache/apt/archives" "$root/opt" "$state"; do
	e=$d; while [ ! -e "$e" ]; do e=$(dirname "$e"); done
	printf '%s\t%s\t%s\n' "$d" "$(stat -c %d "$e")" "$(df -P -k -- "$e" | tail -n 1 | awk '{ print $(NF-2) }')"
done
s; dpkg-query --admindir="$admin" -W -f '` + stateFormat + `' | awk -F '\t' '$6 != "ok" || $5 ~ /^(half-|unpacked)/'
s; list=
if [ $# -gt 0 ]; then
	list=$(dpkg-query --admindir="$admin" -W -f '` + packageFormat + `' -- "$@" 2>/dev/null)
	if [ $? -gt 1 ]; then dpkg-query --admindir="$admin" -W -- "$@" >/dev/null; exit 2; fi
fi
printf '%s\n' "$list"
s; div=$(dpkg-divert --admindir "$admin" --list 2>/dev/null)
printf '%s\n' "$list" | while IFS= read -r l; do
	case $l in ' '*) l=${l# } ;; *) continue ;; esac
	while :; do
		case $l in *' obsolete') l=${l% obsolete} ;; *' remove-on-upgrade') l=${l% remove-on-upgrade} ;; *) break ;; esac
	done
	f=${l% *}
	case $div in *"diversion of $f to "*) f=$(dpkg-divert --admindir "$admin" --truename "$f") ;; esac
	if [ ! -e "$root$f" ]; then printf 'absent\t'; elif m=$(md5sum <"$root$f" 2>/dev/null); then printf '%s\t' "${m%% *}"; else printf 'unreadable\t'; fi
	printf '%s\n' "$f"
done
s; names=$(printf '%s\n' "$list" | awk -F '\t' 'NF == 6 && $5 != "not-installed" && $5 != "config-files" { print $1 }')
[ -z "$names" ] || apt-mark showauto $names 2>/dev/null
s; units=
if [ -n "$systemd" ]; then
	units=$(for p in $names; do
		dpkg-query -L "$p" 2>/dev/null | while read -r f; do
			case $f in *@*) ;; /lib/systemd/system/*.service | /usr/lib/systemd/system/*.service) printf '%s\t%s\n' "$p" "${f##*/}" ;; esac
		done
	done)
	printf '%s\n' "$units"
fi
s; if [ -n "$systemd" ]; then
	systemctl show -p ` + unitProperties + ` -- $(printf '%s\n' "$units" | cut -f 2) tyk-dashboard.service tyk-gateway.service tyk-pump.service || exit 2
fi
s
` + lockFunc + `locks "$root/var/lib/dpkg/lock-frontend" "$root/var/lib/dpkg/lock" "$root/var/lib/apt/lists/lock" "$root/var/cache/apt/archives/lock"`

const (
	partOS = iota
	partMachine
	partName
	partArch
	partTools
	partSystemd
	partJournal
	partConfig
	partDisks
	partBroken
	partPackages
	partSums
	partAuto
	partUnits
	partStates
	partLocks
	partCount
)

// survey is the host at one moment.
type survey struct {
	Facts                     // what does not need the sources; Packages are those asked for
	config  map[string]string // of apt
	options []string          // DPkg::Options
	units   map[string][]string
	states  []Unit // of those units and of the components'
}

// survey looks at the host and at the packages with these names or patterns.
func (h *Host) survey(ctx context.Context, names ...string) (survey, error) {
	t := task{"read", "the facts of the host"}
	out, err := h.script(ctx, nil, "survey", surveyScript, append([]string{h.o.Root, h.o.StateDir}, names...)...)
	if err != nil {
		return survey{}, t.wrap(err)
	}
	part := strings.Split(out, "\x1c")
	if len(part) != partCount {
		return survey{}, t.fail(Error{Detail: "the host's answer has another form", Output: tidy(out), Next: "look at what its login shell prints"})
	}
	s := survey{config: map[string]string{}, units: map[string][]string{}}
	s.OS, s.Arch = parseOSRelease(part[partOS]), strings.TrimSpace(part[partArch])
	s.Systemd, s.Journal = part[partSystemd] != "", strings.TrimSpace(part[partJournal]) != ""
	s.Hostname = strings.TrimSpace(part[partName])
	if id := strings.TrimSpace(part[partMachine]); id != "" {
		sum := sha256.Sum256([]byte("tykupgrade " + id))
		s.Machine = hex.EncodeToString(sum[:8])
	}
	for line := range strings.Lines(part[partTools]) {
		name, v, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch name {
		case "apt":
			s.Apt = Version{v}
		case "dpkg":
			s.Dpkg = Version{v}
		}
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
	for _, f := range fields(part[partDisks], 3) {
		s.Disks = append(s.Disks, Disk{Path: f[0], Free: number64(f[2]) * 1024, device: f[1]})
	}
	if s.OS.ID == "" || s.Arch == "" {
		return survey{}, t.wrap(errors.New("/etc/os-release or dpkg does not answer; is it Debian or Ubuntu?"))
	}
	if s.Broken, err = parsePackages(part[partBroken], s.Arch); err == nil {
		s.Packages, err = parsePackages(part[partPackages], s.Arch)
	}
	if err != nil {
		return survey{}, task{"read", "the installed packages"}.wrap(err)
	}
	if err := s.sums(part[partSums]); err != nil {
		return survey{}, err
	}
	auto := strings.Fields(part[partAuto])
	for i, p := range s.Packages {
		s.Packages[i].Auto = slices.Contains(auto, p.Name)
	}
	s.states = parseUnits(part[partStates])
	s.findUnits(part[partUnits])
	s.Locks = parseLocks(part[partLocks])
	return s, nil
}

// sums fills in what is on the disk of each conffile, in dpkg's order.
func (s *survey) sums(text string) error {
	rows := fields(text, 2)
	for i := range s.Packages {
		for j := range s.Packages[i].Conffiles {
			if len(rows) == 0 {
				return task{"compare", "configuration files"}.wrap(errors.New("the host names fewer than dpkg does"))
			}
			c, row := &s.Packages[i].Conffiles[j], rows[0]
			rows = rows[1:]
			if row[0] != "absent" {
				c.Disk = row[0]
			}
			if row[1] != c.Path {
				c.Diverted = row[1]
			}
		}
	}
	return nil
}

// findUnits notes each installed package's units: those whose files it ships,
// and that of its component if a script puts it in place (gateways before 4.0
// and the dashboard may do so).
func (s *survey) findUnits(shipped string) {
	for _, f := range fields(shipped, 2) {
		s.units[f[0]] = append(s.units[f[0]], f[1])
	}
	for _, p := range s.Packages {
		c, ok := component(p.Name)
		if ok && s.Systemd && p.Status != "config-files" && len(s.units[p.Name]) == 0 &&
			slices.ContainsFunc(s.states, func(u Unit) bool { return u.Name == c.Unit && u.LoadState == "loaded" }) {
			s.units[p.Name] = []string{c.Unit}
		}
	}
}

// serviceNames are the units of all packages that were asked for.
func (s survey) serviceNames() []string {
	var all []string
	for _, u := range s.units {
		all = append(all, u...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// archives is apt's cache of .deb files, history its log.
func (s survey) archives() string {
	return aptDir(s.config, "Dir", "Dir::Cache", "Dir::Cache::archives")
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
