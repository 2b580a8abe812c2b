package main

import (
	"context"
	"errors"
	"flag"
	"strings"
	"time"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/pluginbuild"
)

// prepareOptions are the flags of preparing.
type prepareOptions struct {
	noGet bool
	force bool
	goCmd string
}

func (o *prepareOptions) prepareFlags(fs *flag.FlagSet) {
	fs.BoolVar(&o.noGet, "no-get", false, "from 5.1 on: leave the gateway's module to the compiler, so that go.mod does not name it")
	fs.BoolVar(&o.force, "force", false, "prepare in spite of findings that stop the plugin")
	fs.StringVar(&o.goCmd, "go", "go", "the go `program`")
}

// runPrepare brings the plugin's module to release r.
func (c *command) runPrepare(ctx context.Context, r pluginbuild.Release) (any, error) {
	// What an interrupted run left would only confuse the checks.
	old, err := pluginbuild.Recover(c.dir)
	if err != nil {
		return nil, err
	}
	if old.Aside != "" {
		c.stderr.Printf("an interrupted run was undone; what was not as it had saved it (%s) is now in %s\n", strings.Join(old.Moved, ", "), old.Aside)
	}
	plan, err := c.planFor(r)
	if err != nil {
		return nil, err
	}
	c.showFindings(c.stderr, plan.Findings)
	if plan.Blocked() && !c.force {
		return nil, errors.New("nothing was changed: the findings above stop the plugin; put them right, or use -force")
	}
	p, err := pluginbuild.Prepare(ctx, c.dir, r, pluginbuild.PrepareOptions{NoGet: c.noGet, Go: c.goCmd, OnEvent: c.prepareProgress})
	if err != nil || c.json {
		return p, err
	}
	changed := "nothing had to change"
	if len(p.Changed) > 0 {
		changed = "changed " + strings.Join(p.Changed, ", ")
	}
	c.stdout.Printf("%s %s for gateway %s: %s\n", c.stdout.Paint(cli.Good, "prepared"), c.dir, r.Version, changed)
	return p, nil
}

// prepareProgress shows the steps: the running one's last line on a terminal,
// and a line for each that has ended.
func (c *command) prepareProgress(e pluginbuild.Event) {
	switch e.Kind {
	case pluginbuild.Started:
		c.stderr.Redraw(e.Stage + " …")
	case pluginbuild.Output:
		c.stderr.Redraw(e.Stage+" …", "  "+c.stderr.Paint(cli.Faint, e.Line))
	case pluginbuild.Done:
		c.stderr.Clear()
		mark := c.stderr.Paint(cli.Good, "ok")
		if e.Err != nil {
			mark = c.stderr.Paint(cli.Bad, "failed")
		}
		c.stderr.Printf("%-14s %s  %s\n", e.Stage, mark, e.Elapsed.Round(time.Millisecond))
	}
}
