package main

import (
	"context"
	"strings"

	"example.com/tykupgrade/bundle"
)

func (c *command) runWhich(ctx context.Context) (any, error) {
	m, _, err := c.read(ctx, bundle.VerifyOptions{})
	if err != nil {
		return nil, err
	}
	goos, goarch, _ := strings.Cut(c.platform, "/")
	all, err := m.Resolve(c.version, goos, goarch)
	if !c.json && len(all) > 0 {
		rows := [][]string{{"HOOK", "PATH", "LOADS", "TRIED IN ORDER"}}
		for _, r := range all {
			loads := r.File
			if loads == "" {
				loads = "nothing"
			}
			rows = append(rows, []string{strings.TrimPrefix(r.Hook, "custom_middleware."), r.Path, loads, strings.Join(r.Tried, ", ")})
		}
		c.stdout.Printf("%s", c.stdout.Table(rows))
	}
	return map[string]any{"bundle": c.bundle, "gateway": c.version.String(), "platform": c.platform, "hooks": all}, err
}
