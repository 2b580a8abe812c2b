package main

import (
	"context"
	"errors"
	"strings"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

// engine connects to the Docker engine; closeEngine releases it.
func (c *command) engine(call *cli.Call) (b *compiler.Builder, closeEngine func() error, err error) {
	c.Options.Progress = shown(call.Err)
	return c.Open()
}

func (c *command) caches(ctx context.Context, call *cli.Call) error {
	b, closeEngine, err := c.engine(call)
	if err != nil {
		return err
	}
	defer func() { _ = closeEngine() }()
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
	defer func() { _ = closeEngine() }()
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
	rows := t.Rows()
	for i, r := range t {
		style, note := cli.Faint, &rows[i+1][len(rows[0])-1]
		if r.Broken {
			style = cli.Bad
		}
		*note = call.Out.Paint(style, *note)
	}
	call.Out.Printf("%s", call.Out.Table(rows))
	return nil
}

// shown shows the steps of preparing and compiling. Of what the go command says while it
// prepares, the last line is enough.
func shown(out *cli.Out) func(pluginbuild.Event) {
	s := cli.Steps{Out: out}
	return func(e pluginbuild.Event) {
		switch e.Kind {
		case pluginbuild.Started:
			s.Start(e.Stage)
		case pluginbuild.Progress:
			s.Move(e.Stage, e.Part, e.Line, e.Current, e.Total)
		case pluginbuild.Output:
			s.Line(e.Stage, e.Line, strings.HasPrefix(e.Stage, "go "))
		case pluginbuild.Done:
			s.End(e.Stage, e.Elapsed, e.Err)
		}
	}
}
