package debpkg

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"example.com/tykupgrade/internal/lazyregexp"
	"example.com/tykupgrade/internal/redact"
)

// Package is dpkg's record of one package.
type Package struct {
	Name    string // with ":ARCH" for a foreign architecture
	Arch    string
	Version Version // also set for a removed package whose configuration is left
	Want    string  // dpkg's selection: install, hold, deinstall, purge, unknown
	// dpkg's status: installed, config-files, half-configured, unpacked, half-installed,
	// not-installed, triggers-…
	Status    string
	Reinst    bool `json:",omitempty"` // dpkg requires a reinstallation
	Auto      bool `json:",omitempty"` // apt installed it for another package
	Conffiles []Conffile
}

// base returns the name without an architecture.
func (p Package) base() string {
	name, _, _ := strings.Cut(p.Name, ":")
	return name
}

// Installed reports whether the package is installed and configured. Packages with pending triggers
// count, because dpkg runs those itself.
func (p Package) Installed() bool {
	return !p.Reinst && (p.Status == "installed" || strings.HasPrefix(p.Status, "triggers-"))
}

// Held reports whether the package is on hold.
func (p Package) Held() bool { return p.Want == "hold" }

// Broken reports whether an installation stopped half-way.
func (p Package) Broken() bool {
	return p.Reinst || p.Status == "half-installed" || p.Status == "unpacked" ||
		p.Status == "half-configured"
}

// Conffile is a configuration file that dpkg protects.
type Conffile struct {
	Path     string
	Shipped  string // MD5 of what the installed version shipped
	Disk     string // MD5 of the file on disk; empty: no file; "unreadable": root is needed
	Obsolete bool   `json:",omitempty"` // no longer part of the package
	Diverted string `json:",omitempty"` // its path on disk, if dpkg-divert has moved it
}

// Edited reports whether the file differs from what the package shipped.
func (c Conffile) Edited() bool { return c.Disk != c.Shipped }

const (
	stateFormat   = `${Package}\t${Architecture}\t${Version}\t${db:Status-Want}\t${db:Status-Status}\t${db:Status-Eflag}\n`
	packageFormat = stateFormat + `${Conffiles}\n`
)

// Packages returns dpkg's records of the packages that match the given names or dpkg patterns
// ("tyk-*"). It compares conffiles with the disk. Unknown names are left out.
func (h *Host) Packages(ctx context.Context, names ...string) ([]Package, error) {
	if len(names) == 0 {
		return nil, nil
	}
	s, err := h.survey(ctx, names...)
	return s.Packages, err
}

// parsePackages reads [packageFormat]. Lines of the Conffiles field start with
// a blank.
func parsePackages(text, native string) ([]Package, error) {
	var list []Package
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.TrimSpace(line) == "":
		case line[0] == ' ':
			if len(list) == 0 {
				return nil, fmt.Errorf("unexpected line of dpkg-query %q", line)
			}
			words := strings.Split(line[1:], " ")
			var c Conffile
			for len(words) > 2 && (words[len(words)-1] == "obsolete" ||
				words[len(words)-1] == "remove-on-upgrade") {
				c.Obsolete = c.Obsolete || words[len(words)-1] == "obsolete"
				words = words[:len(words)-1]
			}
			if len(words) < 2 {
				return nil, fmt.Errorf("unexpected line of dpkg-query %q", line)
			}
			c.Path, c.Shipped = strings.Join(words[:len(words)-1], " "), words[len(words)-1]
			p := &list[len(list)-1]
			p.Conffiles = append(p.Conffiles, c)
		default:
			f := strings.Split(line, "\t")
			if len(f) != 6 {
				return nil, fmt.Errorf("unexpected line of dpkg-query %q", line)
			}
			if f[4] == "not-installed" {
				// This is a name that dpkg has only seen in a dependency. Its blank
				// line follows.
				continue
			}
			if native != "" && f[1] != native && f[1] != "all" {
				f[0] += ":" + f[1] // so that the siblings of Multi-Arch: same differ
			}
			list = append(list, Package{Name: f[0], Arch: f[1], Version: Version{f[2]}, Want: f[3],
				Status: f[4], Reinst: f[5] != "ok"})
		}
	}
	return list, nil
}

func find(list []Package, name string) (Package, bool) {
	i := slices.IndexFunc(list, func(p Package) bool { return p.Name == name })
	if i < 0 {
		return Package{}, false
	}
	return list[i], true
}

// Available is a version that a source offers.
type Available struct {
	Package string
	Version Version
	Origin  string // the source, as apt-cache madison prints it; credentials removed
}

// Available returns the versions that the sources offer, newest first, from the package lists on
// the host. Unknown packages have none.
func (h *Host) Available(ctx context.Context, packages ...string) ([]Available, error) {
	if len(packages) == 0 {
		return nil, nil
	}
	_, list, err := h.offers(ctx, packages)
	return list, err
}

// unknownOnly matches what apt-cache prints for an unknown package. apt 3 then exits with 100, apt
// 2 with 0.
var unknownOnly = lazyregexp.New(
	`^(?:[EWN]: (?:Unable to locate package|No packages found).*\n?)*$`)

// offers reads the source files, and the versions of the packages that the sources offer.
func (h *Host) offers(ctx context.Context, packages []string) ([]Source, []Available, error) {
	t := task{"read", "the sources and what they offer"}
	out, errOut, err := h.raw(ctx, nil, append(append(script("offers"),
		h.path("/etc/apt")), packages...)...)
	if err != nil && (exitCode(err) != 100 || !unknownOnly.MatchString(errOut)) {
		if exitCode(err) < 0 {
			return nil, nil, t.wrap(explain(ctx, err, errOut))
		}
		return nil, nil, aptError(t, said{err: tidy(errOut)}, err)
	}
	files, offers, _ := strings.Cut(out, "\x1d")
	return parseSources(files), parseMadison(offers), nil
}

func parseMadison(text string) []Available {
	var list []Available
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSpace(line), " | ", 3)
		if len(f) == 3 && !strings.HasSuffix(f[2], " Sources") {
			list = append(list, Available{Package: strings.TrimSpace(f[0]), Version: Version{
				strings.TrimSpace(f[1])}, Origin: redact.Text(strings.TrimSpace(f[2]))})
		}
	}
	slices.SortStableFunc(list, func(a, b Available) int {
		if c := strings.Compare(a.Package, b.Package); c != 0 {
			return c
		}
		return b.Version.Compare(a.Version)
	})
	return list
}
