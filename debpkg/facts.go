package debpkg

import (
	"context"
	"slices"
	"strings"
)

// OS is the content of /etc/os-release.
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

	device string
}

// Identity identifies a host.
type Identity struct {
	Hostname string
	Machine  string // a digest of /etc/machine-id, because the ID itself is confidential
}

// Facts describes a host before an upgrade.
type Facts struct {
	Identity
	OS        OS
	Arch      string
	Apt, Dpkg Version
	Systemd   bool
	Disks     []Disk
	Sources   []Source
	Packages  []Package   // Tyk's packages
	Available []Available // of Tyk's packages
	ByHand    []string    // Tyk packages that no source offers: installed from .deb files
	Broken    []Package   // all packages that an earlier run left half-way
	Journal   bool        // a run of dpkg was interrupted: see Repair
	Locks     []Lock
	Units     []Unit // of Tyk's installed packages
}

// Component is a Tyk component with its package and paths.
type Component struct {
	Package string // base name, without an edition's suffix
	Unit    string
	Config  string
}

// The components that the documented procedure upgrades, in its order.
var components = []Component{
	{"tyk-dashboard", "tyk-dashboard.service", "/opt/tyk-dashboard/tyk_analytics.conf"},
	{"tyk-gateway", "tyk-gateway.service", "/opt/tyk-gateway/tyk.conf"},
	{"tyk-pump", "tyk-pump.service", "/opt/tyk-pump/pump.conf"},
}

// Components returns Tyk's components in the documented order of an upgrade: dashboard, gateway,
// pump.
func Components() []Component { return slices.Clone(components) }

// component finds the component of a package of any edition.
func component(pkg string) (Component, bool) {
	base := strings.TrimSuffix(strings.TrimSuffix(pkg, "-ee"), "-fips")
	i := slices.IndexFunc(components, func(c Component) bool { return c.Package == base })
	if i < 0 {
		return Component{}, false
	}
	return components[i], true
}

// Edition returns the suffix of a Tyk package: ee, fips or empty.
func Edition(pkg string) string {
	for _, e := range []string{"ee", "fips"} {
		if strings.HasSuffix(pkg, "-"+e) {
			return e
		}
	}
	return ""
}

// The editions of releases since 5.7, or of some of them.
var tykPackages = []string{"tyk-dashboard", "tyk-dashboard-ee", "tyk-dashboard-fips", "tyk-gateway",
	"tyk-gateway-ee", "tyk-gateway-fips", "tyk-pump", "tyk-pump-fips"}

// Facts reads the facts of the host. It changes nothing.
func (h *Host) Facts(ctx context.Context) (Facts, error) {
	s, err := h.survey(ctx, "tyk-*")
	if err != nil {
		return Facts{}, err
	}
	f := s.Facts
	names := slices.Clone(tykPackages)
	for _, p := range f.Packages {
		if !slices.Contains(names, p.Name) {
			names = append(names, p.Name)
		}
	}
	if f.Sources, f.Available, err = h.offers(ctx, names); err != nil {
		return Facts{}, err
	}
	for i := range f.Sources {
		f.Sources[i].Serves = serves(f.Sources[i], f.Available)
	}
	for _, p := range f.Packages {
		if p.Status != "config-files" && !slices.ContainsFunc(f.Available,
			func(a Available) bool { return a.Package == p.Name }) {
			f.ByHand = append(f.ByHand, p.Name)
		}
	}
	f.Units = pick(s.states, s.serviceNames())
	return f, nil
}

// serves lists which packages come from a source: madison prints "URI
// suite/component arch Packages".
func serves(s Source, available []Available) []string {
	var names []string
	for _, a := range available {
		for _, u := range s.URIs {
			rest, ok := strings.CutPrefix(bare(a.Origin), bare(u))
			if ok && (rest == "" || rest[0] == ' ' || rest[0] == '/') && !slices.Contains(names,
				a.Package) && !s.Disabled {
				names = append(names, a.Package)
			}
		}
	}
	return names
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
