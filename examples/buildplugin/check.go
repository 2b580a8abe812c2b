package main

import (
	"context"
	"errors"
	"flag"
)

// checkOptions are the flags of -check.
type checkOptions struct{}

func (o *checkOptions) checkFlags(*flag.FlagSet) {}

// runCheck says whether the plugin named by -check will load in a gateway.
func (c *command) runCheck(ctx context.Context) (any, error) {
	return nil, errors.New("check: not there yet")
}
