package main

import (
	"fmt"
	"strings"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/examples/internal/cli"
)

// progress shows what happens: a bar on a terminal, and waits everywhere.
func progress(out *cli.Out) func(debpkg.Event) {
	return func(e debpkg.Event) {
		switch e.Kind {
		case debpkg.EventDownload, debpkg.EventInstall:
			label := strings.TrimSpace(string(e.Kind) + " " + e.Package)
			out.Redraw(cli.Bar(fmt.Sprintf("%-28s", label), int64(e.Percent), 100) + "  " + e.Text)
		case debpkg.EventStep:
			out.Redraw(e.Text)
		case debpkg.EventConffile:
			out.Printf("edited configuration file: %s\n", e.Text)
		default:
			out.Printf("%s\n", out.Paint(cli.Warn, strings.TrimSpace(e.Package+" "+e.Text)))
		}
	}
}

// ok prints a line of success for people.
func (j *job) ok(format string, a ...any) {
	j.Say("%s %s", j.Out.Paint(cli.Good, "ok"), fmt.Sprintf(format, a...))
}

// changed prints a change for people.
func (j *job) changed(c debpkg.Change) {
	for _, a := range c.Plan.Actions {
		j.ok("%s, was %s", a.After(), a.Before())
	}
	for _, u := range c.UnitsAfter {
		j.Say("   %s", c.UnitText(u))
	}
	if c.Note != "" {
		j.Say("%s", j.Out.Paint(cli.Warn, "note: "+c.Note))
	}
}
