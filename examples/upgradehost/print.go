package main

import (
	"fmt"
	"strings"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/examples/internal/cli"
)

// progress shows what goes on: a bar on a terminal, and waits everywhere.
func (c *command) progress(e debpkg.Event) {
	switch e.Kind {
	case debpkg.EventDownload, debpkg.EventInstall:
		const cells = 28
		full := int(e.Percent / 100 * cells)
		label := strings.TrimSpace(string(e.Kind) + " " + e.Package)
		c.stderr.Redraw(fmt.Sprintf("%-28s [%s%s] %3.0f%%  %s", label, strings.Repeat("█", full), strings.Repeat("·", cells-full), e.Percent, e.Text))
	case debpkg.EventStep:
		c.stderr.Redraw(e.Text)
	case debpkg.EventConffile:
		c.stderr.Printf("edited configuration file: %s\n", e.Text)
	default:
		c.stderr.Printf("%s\n", c.stderr.Paint(cli.Warn, strings.TrimSpace(e.Package+" "+e.Text)))
	}
}

func state(pkg string, v debpkg.Version) string {
	if v.IsZero() {
		return pkg + " not installed"
	}
	return pkg + " " + v.String()
}

func (c *command) printChange(change debpkg.Change) {
	for _, a := range change.Plan.Actions {
		c.stdout.Printf("%s %s, was %s\n", c.stdout.Paint(cli.Good, "ok"), state(a.Package, a.To), state(a.Package, a.From))
	}
	for _, u := range change.UnitsAfter {
		if change.Staged {
			c.stdout.Printf("   %s still runs the version before; restart it to switch\n", u.Name)
		} else {
			c.stdout.Printf("   %s\n", u)
		}
	}
	if change.Note != "" {
		c.stdout.Printf("%s\n", c.stdout.Paint(cli.Warn, "note: "+change.Note))
	}
}

func (c *command) printFacts(f debpkg.Facts) {
	o := c.stdout
	o.Printf("%s\n%s %s (%s), %s, apt %s, dpkg %s", o.Paint(cli.Bold, f.Hostname), f.OS.ID, f.OS.VersionID, f.OS.Codename, f.Arch, f.Apt, f.Dpkg)
	if !f.Systemd {
		o.Printf(", no systemd")
	}
	o.Printf("\n")
	for _, d := range f.Disks {
		o.Printf("free below %s: %s\n", d.Path, cli.Bytes(d.Free))
	}
	rows := [][]string{{"PACKAGE", "VERSION", "STATE", "EDITION", "SOURCE OFFERS", "THIS SYSTEM"}}
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
			offered = o.Paint(cli.Warn, "nothing: installed by hand")
		}
		rows = append(rows, []string{p.Name, p.Version.String(), state, debpkg.Edition(p.Name), offered, supported(debpkg.Supports(p.Name, p.Version, f.OS, f.Arch))})
	}
	if len(rows) == 1 {
		o.Printf("\nNo Tyk package is installed.\n")
	} else {
		o.Printf("\n%s", o.Table(rows))
	}
	for _, p := range f.Packages {
		for _, cf := range p.Conffiles {
			if cf.Edited() {
				o.Printf("edited: %s\n", cf.Path)
			}
		}
	}
	rows = [][]string{{"SOURCE", "ADDRESS", "SIGNED BY", "SERVES"}}
	for _, s := range f.Sources {
		if s.Tyk() {
			rows = append(rows, []string{fmt.Sprintf("%s:%d", s.File, s.Line), strings.Join(s.URIs, " "), s.SignedBy, strings.Join(s.Serves, ", ")})
		}
	}
	if len(rows) == 1 {
		o.Printf("\n%s\n", o.Paint(cli.Warn, "No source for Tyk packages is set up: upgrade from .deb files with -debs."))
	} else {
		o.Printf("\n%s", o.Table(rows))
	}
	if len(f.Units) > 0 {
		o.Printf("\n")
	}
	for _, u := range f.Units {
		style := cli.Good
		if !u.Active() {
			style = cli.Bad
		}
		o.Printf("%s\n", o.Paint(style, u.String()))
	}
	if f.Journal {
		o.Printf("%s\n", o.Paint(cli.Bad, "dpkg was interrupted and has work to finish: upgradehost repair"))
	}
	for _, p := range f.Broken {
		o.Printf("%s\n", o.Paint(cli.Bad, fmt.Sprintf("left half-way: %s %s is %s", p.Name, p.Version, p.Status)))
	}
	for _, l := range f.Locks {
		o.Printf("%s\n", o.Paint(cli.Warn, l.String()))
	}
}

func supported(s debpkg.Support) string {
	switch {
	case !s.Known:
		return "unknown"
	case s.Disputed():
		return map[bool]string{true: "supported, disputed", false: "not supported, disputed"}[s.OK]
	case s.OK:
		return "supported"
	}
	return "not supported"
}
