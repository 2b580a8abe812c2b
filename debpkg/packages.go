package debpkg

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Package is what dpkg knows of one package.
type Package struct {
	Name      string
	Arch      string
	Version   Version // also of a removed package whose configuration is left
	Want      string  // dpkg's word: install, hold, deinstall, purge, unknown
	Status    string  // dpkg's word: installed, config-files, half-configured, unpacked, half-installed, not-installed, triggers-…
	Reinst    bool    `json:",omitempty"` // dpkg demands a reinstallation
	Conffiles []Conffile
}

// Installed says whether the package is installed and configured. Packages
// with triggers pending count: dpkg runs those by itself.
func (p Package) Installed() bool {
	return !p.Reinst && (p.Status == "installed" || strings.HasPrefix(p.Status, "triggers-"))
}

// Held says whether the package is on hold.
func (p Package) Held() bool { return p.Want == "hold" }

// Broken says whether an installation stopped half-way.
func (p Package) Broken() bool {
	return p.Reinst || p.Status == "half-installed" || p.Status == "unpacked" || p.Status == "half-configured"
}

// Conffile is one configuration file that dpkg guards.
type Conffile struct {
	Path     string
	Shipped  string // MD5 of what the installed version shipped
	Disk     string // MD5 of what is there; empty: no file; "unreadable": root is needed
	Obsolete bool   `json:",omitempty"` // no longer part of the package
}

// Edited says whether the file differs from what the package shipped.
func (c Conffile) Edited() bool { return c.Disk != c.Shipped }

const (
	stateFormat   = `${Package}\t${Architecture}\t${Version}\t${db:Status-Want}\t${db:Status-Status}\t${db:Status-Eflag}\n`
	packageFormat = stateFormat + `${Conffiles}\n`
)

// Packages returns what dpkg knows of the packages whose names match the given
// names or dpkg patterns ("tyk-*"), conffiles compared with the disk. Unknown
// names are left out.
func (h *Host) Packages(ctx context.Context, names ...string) ([]Package, error) {
	if len(names) == 0 {
		return nil, nil
	}
	list, err := h.dpkgQueryAs(ctx, packageFormat, names...)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, p := range list {
		for _, c := range p.Conffiles {
			paths = append(paths, h.path(c.Path))
		}
	}
	sums, err := h.md5(ctx, paths)
	if err != nil {
		return nil, err
	}
	for i := range list {
		for j := range list[i].Conffiles {
			list[i].Conffiles[j].Disk, sums = sums[0], sums[1:]
		}
	}
	return list, nil
}

// dpkgQuery is Packages without the conffiles.
func (h *Host) dpkgQuery(ctx context.Context, names ...string) ([]Package, error) {
	return h.dpkgQueryAs(ctx, stateFormat, names...)
}

func (h *Host) dpkgQueryAs(ctx context.Context, format string, names ...string) ([]Package, error) {
	argv := append([]string{"dpkg-query", "--admindir=" + h.path("/var/lib/dpkg"), "-W", "-f", format, "--"}, names...)
	out, err := h.output(ctx, argv...)
	// 1: some name matches nothing.
	if err != nil && exitCode(err) != 1 {
		return nil, task{"read", "the installed packages"}.wrap(err)
	}
	list, err := parsePackages(out)
	if err != nil {
		return nil, task{"read", "the installed packages"}.wrap(err)
	}
	return list, nil
}

// parsePackages reads [packageFormat]. Lines of the Conffiles field start with
// a blank.
func parsePackages(text string) ([]Package, error) {
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
			for len(words) > 2 && (words[len(words)-1] == "obsolete" || words[len(words)-1] == "remove-on-upgrade") {
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
				// A name that dpkg has only seen in a dependency. Its blank line follows.
				continue
			}
			list = append(list, Package{Name: f[0], Arch: f[1], Version: Version{f[2]}, Want: f[3], Status: f[4], Reinst: f[5] != "ok"})
		}
	}
	return list, nil
}

// md5 returns the checksum of each file, in their order.
func (h *Host) md5(ctx context.Context, paths []string) ([]string, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	out, err := h.script(ctx, nil, `for f; do
	if [ ! -e "$f" ]; then echo absent; elif ! md5sum <"$f" 2>/dev/null; then echo unreadable; fi
done`, paths...)
	if err != nil {
		return nil, task{"compare", "configuration files"}.wrap(err)
	}
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if len(lines) != len(paths) {
		return nil, task{"compare", "configuration files"}.wrap(fmt.Errorf("%d answers for %d files", len(lines), len(paths)))
	}
	for i, l := range lines {
		lines[i], _, _ = strings.Cut(l, " ")
		if l == "absent" {
			lines[i] = ""
		}
	}
	return lines, nil
}

// broken lists every package on the host that an earlier run left half-way.
func (h *Host) broken(ctx context.Context) ([]Package, error) {
	all, err := h.dpkgQuery(ctx, "*")
	if err != nil {
		return nil, err
	}
	var list []Package
	for _, p := range all {
		if p.Broken() {
			list = append(list, p)
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
	Origin  string // where, as apt-cache madison prints it; credentials removed
}

// Available lists the versions that the sources offer, newest first, by the
// package lists as of the last update. Unknown packages have none.
func (h *Host) Available(ctx context.Context, packages ...string) ([]Available, error) {
	if len(packages) == 0 {
		return nil, nil
	}
	out, err := h.output(ctx, append([]string{"apt-cache", "madison", "--"}, packages...)...)
	// apt 3 exits with 100 for unknown packages, apt 2 with 0.
	if err != nil && exitCode(err) != 100 {
		return nil, task{"read", "the available versions"}.wrap(err)
	}
	return parseMadison(out), nil
}

func parseMadison(text string) []Available {
	var list []Available
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSpace(line), " | ", 3)
		if len(f) == 3 && !strings.HasSuffix(f[2], " Sources") {
			list = append(list, Available{Package: strings.TrimSpace(f[0]), Version: Version{strings.TrimSpace(f[1])}, Origin: redact(strings.TrimSpace(f[2]))})
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
