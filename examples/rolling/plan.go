package main

import (
	"context"
	"errors"
	"slices"

	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/cli"
)

// planned is what -json prints.
type planned struct {
	Hosts    []fleet.Planned `json:"hosts"`
	Findings []fleet.Finding `json:"findings,omitempty"`
	Problems []string        `json:"problems,omitempty"`
}

// plan asks every host what an upgrade would do there.
func (o *options) plan(ctx context.Context, c *cli.Call, inv *fleet.Inventory) error {
	waves, err := o.waves(inv, nil)
	if err != nil {
		return err
	}
	p := planned{Hosts: inv.Plans(ctx, waves)}
	refused := o.check(ctx, inv, waves, &p)
	var answer error
	if refused != nil {
		answer = cli.Exit(cli.No, nil)
	}
	if o.json {
		if err := c.JSON(p); err != nil {
			return err
		}
		return answer
	}
	c.Out.Printf("%s\n%s\n", c.Plans(p.Hosts), inv.Stops(waves))
	o.show(c, p)
	return answer
}

// check collects everything that a run would be refused for.
func (o *options) check(ctx context.Context, inv *fleet.Inventory, waves []rollout.Wave,
	p *planned) error {
	var errs []error
	problem := func(exception string, err error) {
		if err == nil || slices.Contains(o.without, exception) {
			return
		}
		errs = append(errs, err)
		if exception != "plan" {
			p.Problems = append(p.Problems, err.Error()+"; or give -without "+exception)
		}
	}
	problem("balancer", inv.Unbalanced())
	problem("plan", fleet.Refused(p.Hosts))
	findings, err := inv.Findings(ctx, inv.HostsOf(waves))
	p.Findings = findings
	if fleet.Refused(p.Hosts) == nil { // otherwise it is said already that a host cannot be asked
		problem("findings", err)
	}
	for _, f := range findings {
		if f.Refuse {
			problem("findings", errors.New(f.String()))
		}
	}
	return errors.Join(errs...)
}

// show prints what check found.
func (o *options) show(c *cli.Call, p planned) {
	for _, f := range p.Findings {
		if !f.Refuse {
			c.Out.Printf("%s %s\n", c.Out.Paint(cli.Warn, "note:"), f)
		}
	}
	for _, text := range p.Problems {
		c.Out.Printf("%s %s\n", c.Out.Paint(cli.Bad, "cannot:"), text)
	}
	c.Problems(p.Hosts)
}

func (o *options) waves(inv *fleet.Inventory, progress func(host,
	text string)) ([]rollout.Wave, error) {
	waves, err := inv.Waves(fleet.Options{Progress: progress, Asked: true})
	if err == nil && o.only != "" {
		if waves, err = rollout.Select(waves, o.only, o.step); err != nil {
			err = cli.Exit(cli.Usage, err)
		}
	}
	return waves, err
}
