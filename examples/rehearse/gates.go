package main

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/health"
)

// firstGates runs the user's gates against the current gateway instead of the user's systems. A
// gate that fails there needs something that the rehearsal lacks, such as an API that -apis does
// not have. It predicts nothing about the new gateway, so it is left out.
func (c *crossing) firstGates(ctx context.Context) error {
	for _, g := range c.job.Gates {
		if g.Query != "" {
			c.say("your gate %s is left out: there is no Prometheus server", g.Name)
			continue
		}
		u, err := url.Parse(g.URL)
		if err != nil {
			c.say("your gate %s is left out: its url does not parse", g.Name)
			continue
		}
		u.Scheme, u.Host, u.User = "http", c.gateway.addr, nil
		g.URL = u.String()
		if why := failed(ctx, g); why != "" {
			c.say("your gate %s is left out: it does not hold with the present gateway here: %s", g.Name,
				why)
			continue
		}
		c.say("your gate %s holds", g.Name)
		c.gates = append(c.gates, g)
	}
	return nil
}

// holdGates runs the gates that passed with the current gateway.
func (c *crossing) holdGates(ctx context.Context, g gatewayPart) error {
	for _, x := range c.gates {
		if why := failed(ctx, x); why != "" {
			return fmt.Errorf("with %s your gate %s no longer holds: %s", g.kind(), x.Name, why)
		}
		c.say("your gate %s holds", x.Name)
	}
	return nil
}

// failed explains why a gate fails; empty: it passes.
func failed(ctx context.Context, g fleet.Gate) string {
	rep, err := health.Once(ctx, health.Policy{TryTimeout: time.Minute, Deadline: 2 * time.Minute},
		g.Probe())
	switch {
	case err != nil:
		return err.Error()
	case rep.Status == health.Pass:
		return ""
	}
	return rep.Probes[0].Error
}
