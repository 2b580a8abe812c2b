package debpkg

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// OS is what /etc/os-release says.
type OS struct {
	ID        string // debian, ubuntu
	VersionID string // 12, 22.04
	Codename  string
	Name      string // for people
}

// Disk is the free space of a file system.
type Disk struct {
	Path string
	Free int64 // bytes that are available to root or less
}

// Identity tells hosts apart.
type Identity struct {
	Hostname string
	Machine  string // a digest of /etc/machine-id, which is itself confidential
}

// Facts is what there is to know of a host before an upgrade.
type Facts struct {
	Identity
	OS        OS
	Arch      string
	Apt, Dpkg Version
	Systemd   bool
	Disks     []Disk
	Sources   []Source
	Packages  []Package   // Tyk's
	Available []Available // of Tyk's packages
	ByHand    []string    // installed Tyk packages that no source offers: installed from .deb files
	Broken    []Package   // any package that an earlier run left half-way
	Journal   bool        // dpkg was interrupted and has work of its own to finish: see Repair
	Locks     []Lock
	Units     []Unit // of Tyk's installed packages
}

// Component is a Tyk component and where it lives.
type Component struct {
	Package string // base name, without an edition's suffix
	Unit    string
	Config  string
}

// Components are the three that the procedure upgrades, in its order.
var components = []Component{
	{"tyk-dashboard", "tyk-dashboard.service", "/opt/tyk-dashboard/tyk_analytics.conf"},
	{"tyk-gateway", "tyk-gateway.service", "/opt/tyk-gateway/tyk.conf"},
	{"tyk-pump", "tyk-pump.service", "/opt/tyk-pump/pump.conf"},
}

// Components returns Tyk's components in the order in which the procedure
// upgrades them: dashboard, gateway, pump.
func Components() []Component { return slices.Clone(components) }

// component finds the component of a package, whatever its edition.
func component(pkg string) (Component, bool) {
	base := strings.TrimSuffix(strings.TrimSuffix(pkg, "-ee"), "-fips")
	i := slices.IndexFunc(components, func(c Component) bool { return c.Package == base })
	if i < 0 {
		return Component{}, false
	}
	return components[i], true
}

// Edition is the suffix of a Tyk package: ee, fips or empty.
func Edition(pkg string) string {
	for _, e := range []string{"ee", "fips"} {
		if strings.HasSuffix(pkg, "-"+e) {
			return e
		}
	}
	return ""
}

// The editions that releases since 5.7 or some lines of them come in.
var tykPackages = []string{"tyk-dashboard", "tyk-dashboard-ee", "tyk-dashboard-fips", "tyk-gateway", "tyk-gateway-ee", "tyk-gateway-fips", "tyk-pump", "tyk-pump-fips"}

// Facts collects everything. It changes nothing on the host.
func (h *Host) Facts(ctx context.Context) (Facts, error) {
	f, err := h.basics(ctx)
	if err != nil {
		return Facts{}, err
	}
	if f.Sources, err = h.Sources(ctx); err != nil {
		return Facts{}, err
	}
	if f.Packages, err = h.Packages(ctx, "tyk-*"); err != nil {
		return Facts{}, err
	}
	names := slices.Clone(tykPackages)
	for _, p := range f.Packages {
		if !slices.Contains(names, p.Name) {
			names = append(names, p.Name)
		}
	}
	if f.Available, err = h.Available(ctx, names...); err != nil {
		return Facts{}, err
	}
	for i := range f.Sources {
		f.Sources[i].Serves = serves(f.Sources[i], f.Available)
	}
	var installed []string
	for _, p := range f.Packages {
		if p.Status == "config-files" {
			continue
		}
		installed = append(installed, p.Name)
		if !slices.ContainsFunc(f.Available, func(a Available) bool { return a.Package == p.Name }) {
			f.ByHand = append(f.ByHand, p.Name)
		}
	}
	if f.Broken, err = h.broken(ctx); err != nil {
		return Facts{}, err
	}
	if f.Locks, err = h.Locks(ctx); err != nil {
		return Facts{}, err
	}
	units, err := h.unitsOf(ctx, installed)
	if err != nil {
		return Facts{}, err
	}
	var all []string
	for _, u := range units {
		all = append(all, u...)
	}
	slices.Sort(all)
	f.Units, err = h.Units(ctx, slices.Compact(all)...)
	return f, err
}

// serves lists which packages come from a source: madison prints "URI
// suite/component arch Packages".
func serves(s Source, available []Available) []string {
	var names []string
	for _, a := range available {
		for _, u := range s.URIs {
			rest, ok := strings.CutPrefix(bare(a.Origin), bare(u))
			if ok && (rest == "" || rest[0] == ' ' || rest[0] == '/') && !slices.Contains(names, a.Package) && !s.Disabled {
				names = append(names, a.Package)
			}
		}
	}
	return names
}

const basicsScript = `cat "$1/etc/os-release" 2>/dev/null || cat "$1/usr/lib/os-release"
printf '\034'; cat "$1/etc/machine-id" 2>/dev/null
printf '\034'; uname -n
printf '\034'; dpkg --print-architecture
printf '\034'; dpkg-query -W -f '${Package} ${Version}\n' apt dpkg 2>/dev/null
printf '\034'; [ -z "$1" ] && [ -d /run/systemd/system ] && echo yes
printf '\034'; for f in "$1"/var/lib/dpkg/updates/[0-9]*; do [ ! -e "$f" ] || echo yes; done
printf '\034'; shift
for d; do
	while [ ! -e "$d" ]; do d=$(dirname "$d"); done
	df -P -k -- "$d" | tail -n 1
done`

// basics reads what does not depend on packages.
func (h *Host) basics(ctx context.Context) (Facts, error) {
	dirs := []string{h.path("/var/cache/apt/archives"), h.path("/opt"), h.o.StateDir}
	out, err := h.script(ctx, nil, basicsScript, append([]string{h.o.Root}, dirs...)...)
	if err != nil {
		return Facts{}, task{"read", "the facts of the host"}.wrap(err)
	}
	part := strings.Split(out, "\x1c")
	if len(part) != 8 {
		return Facts{}, task{"read", "the facts of the host"}.wrap(fmt.Errorf("unexpected answer %q", out))
	}
	f := Facts{OS: parseOSRelease(part[0]), Arch: strings.TrimSpace(part[3]), Systemd: strings.TrimSpace(part[5]) == "yes", Journal: strings.TrimSpace(part[6]) != ""}
	f.Hostname = strings.TrimSpace(part[2])
	if id := strings.TrimSpace(part[1]); id != "" {
		sum := sha256.Sum256([]byte("tykupgrade " + id))
		f.Machine = hex.EncodeToString(sum[:8])
	}
	for line := range strings.Lines(part[4]) {
		name, v, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch name {
		case "apt":
			f.Apt = Version{v}
		case "dpkg":
			f.Dpkg = Version{v}
		}
	}
	for i, line := range strings.Split(strings.TrimSpace(part[7]), "\n") {
		if w := strings.Fields(line); i < len(dirs) && len(w) >= 6 {
			f.Disks = append(f.Disks, Disk{Path: dirs[i], Free: number64(w[len(w)-3]) * 1024})
		}
	}
	if f.OS.ID == "" || f.Arch == "" {
		return Facts{}, task{"read", "the facts of the host"}.wrap(errors.New("/etc/os-release or dpkg does not answer; is it Debian or Ubuntu?"))
	}
	return f, nil
}

// parseOSRelease reads os-release(5): shell assignments, quoted or not.
func parseOSRelease(text string) OS {
	var os OS
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			continue
		}
		if n := len(value); n > 1 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			value = strings.NewReplacer(`\"`, `"`, `\$`, `$`, `\\`, `\`, "\\`", "`").Replace(value[1 : n-1])
		}
		switch key {
		case "ID":
			os.ID = value
		case "VERSION_ID":
			os.VersionID = value
		case "VERSION_CODENAME":
			os.Codename = value
		case "PRETTY_NAME":
			os.Name = value
		}
	}
	return os
}

// unitsOf returns each installed package's units: those whose files it ships,
// and that of its component where a script puts it in place (gateways before
// 4.0 and the dashboard may do so).
func (h *Host) unitsOf(ctx context.Context, packages []string) (map[string][]string, error) {
	units := map[string][]string{}
	if h.o.Root != "" || len(packages) == 0 {
		return units, nil
	}
	out, err := h.script(ctx, nil, `[ -d /run/systemd/system ] || exit 0
echo systemd
for p; do
	dpkg-query -L "$p" 2>/dev/null | while read -r f; do
		case $f in /lib/systemd/system/*.service | /usr/lib/systemd/system/*.service) printf '%s\t%s\n' "$p" "$f" ;; esac
	done
done`, packages...)
	if err != nil {
		return nil, task{"find", fmt.Sprintf("the units of %s", strings.Join(packages, ", "))}.wrap(err)
	}
	if out == "" {
		return units, nil
	}
	for _, f := range fields(out, 2) {
		if name := path.Base(f[1]); !strings.Contains(name, "@") {
			units[f[0]] = append(units[f[0]], name)
		}
	}
	for _, p := range packages {
		if c, ok := component(p); ok && len(units[p]) == 0 {
			us, err := h.Units(ctx, c.Unit)
			if err != nil {
				return nil, err
			}
			if len(us) == 1 && us[0].LoadState == "loaded" {
				units[p] = []string{c.Unit}
			}
		}
	}
	return units, nil
}

// Disk usage of path by the facts, or -1.
func (f Facts) free(path string) int64 {
	for _, d := range f.Disks {
		if d.Path == path {
			return d.Free
		}
	}
	return -1
}
