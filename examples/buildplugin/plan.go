package main

import (
	"context"

	"example.com/tykupgrade/pluginbuild"
)

// runPlan shows what would be done and what is wrong with the module.
func (c *command) runPlan(ctx context.Context, r pluginbuild.Release) (any, error) {
	return r, ctx.Err()
}
