package debpkg

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"example.com/tykupgrade/internal/printable"
)

// String returns the plan as tables, for approval.
func (p Plan) String() string {
	var b strings.Builder
	host := p.Host.Hostname
	if host == "" {
		host = "this host"
	}
	fmt.Fprintf(&b, "Plan for %s (%s %s, %s)\n", host, p.OS.ID, p.OS.VersionID, p.Arch)
	if p.Empty() {
		fmt.Fprintln(&b, "\nNothing to do.")
	} else {
		section(&b, "PACKAGE\tACTION\tFROM\tTO\tSOURCE\tROLLBACK", func(row func(...string)) {
			for _, a := range p.Actions {
				kind := string(a.Kind)
				if a.Held {
					kind += ", stays on hold"
				}
				if !a.Requested {
					kind += " (not requested)"
				}
				row(a.Package, kind, dash(a.From.text), dash(a.To.text), dash(a.Origin), dash(a.Rollback))
			}
		})
		switch {
		case len(p.Downloads) == 0:
			fmt.Fprint(&b, "\nNothing to download.\n")
		case p.Fetched:
			fmt.Fprintf(&b, "\nDownloaded already: %s in %d files.\n", size(p.DownloadSize()),
				len(p.Downloads))
		default:
			fmt.Fprintf(&b, "\nTo download: %s in %d files.\n", size(p.DownloadSize()), len(p.Downloads))
		}
	}
	for _, u := range p.Unchanged {
		fmt.Fprintf(&b, "%s is already as requested.\n", u)
	}
	for _, u := range p.KeptBack {
		fmt.Fprintf(&b, "%s is on hold and stays as it is.\n", u)
	}
	for _, r := range p.Restarts {
		sure := "will be restarted"
		if r.Assumed {
			sure = "is assumed to be restarted"
		}
		fmt.Fprintf(&b, "%s %s by the installation of %s.\n", r.Unit, sure, r.Package)
	}
	if len(p.Conffiles) > 0 {
		section(&b, "CONFIGURATION FILE\tON DISK\tIN THE CANDIDATE\tOUTCOME", func(row func(...string)) {
			for _, c := range p.Conffiles {
				disk, candidate := "as shipped", "as before"
				switch {
				case c.Disk == "":
					disk = "absent"
				case c.Disk == "unreadable":
					disk = "unreadable"
				case c.Shipped == "":
					disk = "not from a package"
				case c.Disk != c.Shipped:
					disk = "edited"
				}
				switch {
				case c.Outcome == OutcomeUnknown:
					candidate = "unknown"
				case c.Candidate == "":
					candidate = "absent"
				case c.Candidate != c.Shipped:
					candidate = "changed"
				}
				row(c.Path, disk, candidate, string(c.Outcome))
			}
		})
	}
	for _, refuse := range []bool{true, false} {
		for _, pr := range p.Problems {
			if pr.Refuse != refuse {
				continue
			}
			word := "Note"
			if refuse {
				word = "REFUSED"
			}
			text := pr.Text
			if pr.Next != "" {
				text += "; " + pr.Next
			}
			fmt.Fprintf(&b, "\n%s: %s.", word, text)
		}
	}
	if len(p.Problems) > 0 {
		b.WriteByte('\n')
	}
	return printable.Text(b.String())
}

func size(n int64) string {
	switch {
	case n < 1<<20:
		return fmt.Sprintf("%d bytes", n)
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

func section(b *strings.Builder, head string, rows func(row func(...string))) {
	b.WriteByte('\n')
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, head)
	rows(func(cells ...string) { fmt.Fprintln(w, strings.Join(cells, "\t")) })
	_ = w.Flush() // into memory
	for line := range strings.Lines(table.String()) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
