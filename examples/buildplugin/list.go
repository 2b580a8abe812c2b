package main

import (
	"context"
	"strings"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/pluginbuild"
)

// runList shows the release table, or the release that -version names.
func (c *command) runList(ctx context.Context) (any, error) {
	t, err := c.releases.All()
	if err == nil && c.version != "" {
		var r pluginbuild.Release
		r, err = c.release(ctx)
		t = pluginbuild.Table{r}
	}
	if err != nil {
		return nil, err
	}
	if c.json {
		return t, err
	}
	rows := [][]string{{"RELEASE", "COMMIT", "DATE", "PATH", "GO", "BUILD", "REPLACES", "EDITIONS", "NOTES (-json: in full)"}}
	for _, r := range t {
		editions := "std"
		if len(r.Compiler.Editions) > 0 {
			editions = ""
			for _, e := range r.Compiler.Editions {
				editions += " " + string(e)
			}
		}
		var replaces []string
		for _, p := range r.Replaces {
			replaces = append(replaces, p.Old[strings.LastIndexByte(p.Old, '/')+1:])
		}
		date := ""
		if !r.Date.IsZero() {
			date = r.Date.Format("2006-01-02")
		}
		note, style := clip(strings.Join(r.Notes, "; "), 60), cli.Faint
		if r.Broken {
			note, style = "broken: "+note, cli.Bad
		}
		rows = append(rows, []string{r.Version.String(), r.Commit[:12], date, string(rune('0' + r.Path())), r.Compiler.Go,
			string(r.Compiler.Mode), strings.Join(replaces, ","), strings.TrimSpace(editions), c.stdout.Paint(style, note)})
	}
	c.stdout.Printf("%s", c.stdout.Table(rows))
	return nil, nil
}

func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n]) + "…"
	}
	return s
}
