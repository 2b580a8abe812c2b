package main

import (
	"context"
	"errors"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

// list shows the release table, or the release that -release names.
func list(ctx context.Context, call *cli.Call) error {
	s, err := sources(ctx, call)
	if err != nil {
		return err
	}
	t, err := s.Releases()
	if err == nil && call.Given["release"] {
		t = make(pluginbuild.Table, 1)
		t[0], err = find(ctx, call)
	}
	if err != nil {
		return err
	}
	if call.On("json") {
		return t.Write(call.Out)
	}
	rows := t.Rows()
	for i, r := range t {
		note := &rows[i+1][len(rows[0])-1]
		*note = call.Out.Paint(map[bool]cli.Style{false: cli.Faint, true: cli.Bad}[r.Broken], *note)
	}
	call.Out.Printf("%s", call.Out.Table(rows))
	return nil
}

// engine lists or removes what builds have left on the Docker engine.
func (c *command) engine(ctx context.Context, call *cli.Call) error {
	b, closeEngine, err := c.Open()
	if err != nil {
		return err
	}
	defer func() { _ = closeEngine() }()
	switch {
	case call.Verb == "sweep":
		swept, err := b.Sweep(ctx, call.Duration("older"))
		return removed(call, "swept", swept, err)
	case call.On("remove"):
		names, err := b.RemoveCaches(ctx)
		return removed(call, "removed", names, err)
	}
	caches, err := b.ListCaches(ctx)
	if err != nil {
		return err
	}
	return call.Show(map[string]any{"caches": caches}, call.Out.Table(compiler.CacheRows(caches)))
}

// removed prints names, also if an error ended the removal.
func removed(call *cli.Call, key string, names []string, err error) error {
	return errors.Join(err, call.Show(map[string]any{key: names}, cli.Lines(names)))
}
