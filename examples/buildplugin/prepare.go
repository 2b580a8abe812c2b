package main

import (
	"context"
	"flag"

	"example.com/tykupgrade/pluginbuild"
)

type prepareOptions struct{}

func (o *prepareOptions) prepareFlags(*flag.FlagSet) {}

// runPrepare brings the plugin's module to release r.
func (c *command) runPrepare(ctx context.Context, r pluginbuild.Release) (any, error) {
	return r.Commit, ctx.Err()
}
