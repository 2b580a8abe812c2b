package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

// engine connects to the Docker engine; closeEngine releases it.
func (c *command) engine(call *cli.Call) (b *compiler.Builder, closeEngine func(), err error) {
	docker, err := compiler.Connect(c.connect)
	if err != nil {
		return nil, nil, err
	}
	o := c.options
	o.Progress = (&progress{out: call.Err}).event
	if o.Env, err = compiler.HostEnv(o.Env); err == nil {
		o.Env, err = compiler.WithProxies(o.Env, "", docker.DaemonHost())
	}
	if err != nil {
		return nil, nil, errors.Join(err, docker.Close())
	}
	return compiler.New(docker, o), func() { _ = docker.Close() }, nil
}

func (c *command) caches(ctx context.Context, call *cli.Call) error {
	b, closeEngine, err := c.engine(call)
	if err != nil {
		return err
	}
	defer closeEngine()
	if c.remove {
		removed, err := b.RemoveCaches(ctx)
		return c.names(call, "removed", removed, err)
	}
	list, err := b.ListCaches(ctx)
	if err != nil {
		return err
	}
	if c.json {
		return call.JSON(map[string]any{"caches": list})
	}
	rows := [][]string{{"VOLUME", "KIND", "CREATED"}}
	for _, v := range list {
		rows = append(rows, []string{v.Name, v.Kind, v.Created})
	}
	call.Out.Printf("%s", call.Out.Table(rows))
	return nil
}

func (c *command) sweep(ctx context.Context, call *cli.Call) error {
	b, closeEngine, err := c.engine(call)
	if err != nil {
		return err
	}
	defer closeEngine()
	swept, err := b.Sweep(ctx, c.older)
	return c.names(call, "swept", swept, err)
}

func (c *command) names(call *cli.Call, what string, names []string, err error) error {
	if c.json {
		return errors.Join(err, call.JSON(map[string]any{what: names}))
	}
	for _, name := range names {
		call.Out.Printf("removed %s\n", name)
	}
	return err
}

// list shows the release table, or the release that -release names.
func (c *command) list(ctx context.Context, call *cli.Call) error {
	t, err := c.sources.Releases()
	if err == nil && c.release != "" {
		var r pluginbuild.Release
		r, err = c.find(ctx)
		t = pluginbuild.Table{r}
	}
	if err != nil {
		return err
	}
	if c.json {
		return t.Write(call.Out)
	}
	rows := [][]string{{"RELEASE", "COMMIT", "DATE", "PATH", "GO", "BUILD", "REPLACES", "EDITIONS",
		"NOTES (-json: in full)"}}
	for _, r := range t {
		var editions, replaces []string
		for _, e := range r.Compiler.Editions {
			editions = append(editions, string(e))
		}
		for _, p := range r.Replaces {
			replaces = append(replaces, p.Old[strings.LastIndexByte(p.Old, '/')+1:])
		}
		date, build := "", string(r.Compiler.Mode)
		if !r.Date.IsZero() {
			date = r.Date.Format("2006-01-02")
		}
		if r.Next != nil {
			build = strings.TrimPrefix(build+"+ng", "+")
		}
		note, style := []rune(strings.Join(r.Notes, "; ")), cli.Faint
		if len(note) > 60 {
			note = append(note[:60], '…')
		}
		if r.Broken {
			note, style = []rune("broken: "+string(note)), cli.Bad
		}
		rows = append(rows, []string{r.Version.String(), r.Commit[:12], date,
			string(rune('0' + r.Path())), r.Compiler.Go, build,
			strings.Join(replaces, ","), strings.Join(append(editions, map[bool][]string{
				true: {"std"}}[len(editions) == 0]...), " "), call.Out.Paint(style, string(note))})
	}
	call.Out.Printf("%s", call.Out.Table(rows))
	return nil
}

// progress shows the steps: bars for what is transferred on a terminal, the
// compiler's lines as they come, and a line for each step that has ended.
type progress struct {
	out   *cli.Out
	parts []string
	bars  map[string]string
}

func (p *progress) event(e pluginbuild.Event) {
	switch e.Kind {
	case pluginbuild.Started:
		p.parts, p.bars = nil, map[string]string{}
		p.out.Redraw(e.Stage + " …")
	case pluginbuild.Progress:
		if p.bars[e.Part] == "" {
			p.parts = append(p.parts, e.Part)
		}
		label := strings.TrimSpace(e.Part + " " + e.Line)
		if p.bars[e.Part] = label; e.Current > 0 {
			p.bars[e.Part] = cli.Bar(label, e.Current, e.Total)
		}
		// Images of many layers would scroll the terminal.
		lines := []string{e.Stage + " …"}
		for _, part := range p.parts[max(0, len(p.parts)-12):] {
			lines = append(lines, "  "+p.bars[part])
		}
		p.out.Redraw(lines...)
	case pluginbuild.Output:
		if strings.HasPrefix(e.Stage, "go ") { // of a step of the preparation the last line is enough
			p.out.Redraw(e.Stage+" …", "  "+p.out.Paint(cli.Faint, e.Line))
			return
		}
		p.out.Printf("%s\n", p.out.Paint(cli.Faint, e.Line))
	case pluginbuild.Done:
		p.out.Clear()
		mark := p.out.Paint(cli.Good, "ok")
		if e.Err != nil {
			mark = p.out.Paint(cli.Bad, "failed")
		}
		p.out.Printf("%-14s %s  %s\n", e.Stage, mark, e.Elapsed.Round(time.Millisecond))
	}
}
