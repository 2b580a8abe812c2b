package main

import (
	"context"
	"strings"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
)

func (c *command) runWhich(context.Context) (any, error) {
	m, _, err := c.read(bundle.VerifyOptions{})
	if err != nil {
		return nil, err
	}
	version, err := semver.NewVersion(c.which)
	if err != nil {
		return nil, err
	}
	goos, goarch, _ := strings.Cut(c.platform, "/")
	all, err := m.Resolve(version, goos, goarch)
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
	return map[string]any{"bundle": c.bundle, "gateway": version.String(), "platform": c.platform, "hooks": all}, err
}
