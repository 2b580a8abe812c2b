package debpkg

import (
	"fmt"
	"strings"

	"example.com/tykupgrade/internal/printable"
)

// String returns the facts as tables.
func (f Facts) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s %s (%s), %s, apt %s, dpkg %s", f.Hostname, f.OS.ID, f.OS.VersionID,
		dash(f.OS.Codename), f.Arch, f.Apt, f.Dpkg)
	if !f.Systemd {
		b.WriteString(", no systemd")
	}
	b.WriteByte('\n')
	for _, d := range f.Disks {
		fmt.Fprintf(&b, "free below %s: %s\n", d.Path, size(d.Free))
	}
	f.printPackages(&b)
	f.printSources(&b)
	if len(f.Units) > 0 {
		b.WriteByte('\n')
	}
	for _, u := range f.Units {
		fmt.Fprintln(&b, u)
	}
	if f.Journal {
		b.WriteString("dpkg was interrupted and has work to finish\n")
	}
	for _, p := range f.Broken {
		fmt.Fprintf(&b, "left half-way: %s %s is %s\n", p.Name, p.Version, p.Status)
	}
	for _, l := range f.Locks {
		fmt.Fprintln(&b, l)
	}
	return printable.Text(b.String())
}

func (f Facts) printPackages(b *strings.Builder) {
	if len(f.Packages) == 0 {
		b.WriteString("\nNo Tyk package is installed.\n")
		return
	}
	section(b, "PACKAGE\tVERSION\tSTATE\tEDITION\tSOURCE OFFERS\tTHIS SYSTEM",
		func(row func(...string)) {
			for _, p := range f.Packages {
				state := p.Status
				if p.Held() {
					state += ", on hold"
				}
				var offers []string
				for _, a := range f.Available {
					if a.Package == p.Name {
						offers = append(offers, a.Version.String())
					}
				}
				offered := strings.Join(offers[:min(len(offers), 4)], ", ")
				if offers == nil {
					offered = "nothing: installed by hand"
				}
				row(p.Name, p.Version.String(), state, dash(Edition(p.Name)), offered, Supports(p.Name,
					p.Version, f.OS, f.Arch).brief())
			}
		})
	for _, p := range f.Packages {
		for _, c := range p.Conffiles {
			if c.Edited() {
				fmt.Fprintf(b, "edited: %s\n", c.Path)
			}
		}
	}
}

func (f Facts) printSources(b *strings.Builder) {
	var tyk []Source
	for _, s := range f.Sources {
		if s.Tyk() {
			tyk = append(tyk, s)
		}
	}
	if tyk == nil {
		b.WriteString("\nNo source for Tyk packages is set up: install from .deb files.\n")
		return
	}
	section(b, "SOURCE\tADDRESS\tSIGNED BY\tSERVES", func(row func(...string)) {
		for _, s := range tyk {
			row(fmt.Sprintf("%s:%d", s.File, s.Line), strings.Join(s.URIs, " "), dash(s.SignedBy),
				dash(strings.Join(s.Serves, ", ")))
		}
	})
}

func (s Support) brief() string {
	text := "not supported"
	switch {
	case !s.Known:
		return "unknown"
	case s.OK:
		text = "supported"
	}
	if s.Disputed() {
		text += ", disputed"
	}
	return text
}
