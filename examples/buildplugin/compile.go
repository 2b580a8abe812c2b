package main

import (
	"context"
	"errors"
	"flag"

	"example.com/tykupgrade/pluginbuild"
)

// compileOptions are the flags of compiling.
type compileOptions struct{}

func (o *compileOptions) compileFlags(*flag.FlagSet) {}

// runCompile compiles the plugin's module in the image of release r.
func (c *command) runCompile(ctx context.Context, r pluginbuild.Release) (any, error) {
	return nil, errors.New("compile: not there yet")
}
