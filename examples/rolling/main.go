// Command rolling upgrades or reverts a fleet of hosts behind a load balancer, host by
// host or blue-green, from an inventory file.
package main

import (
	"context"
	"flag"
	"strings"

	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/cli"
)

const notes = `With -only HOST, run is one idempotent, resumable call for that host, for teams whose
own engine (Ansible, Temporal, Nomad, a CI system) goes through the hosts. -step NAME
narrows it to one of drain, install, healthy, ready.

` + cli.Signals + `
Exit code 3 means here: a host could not be restored and needs attention.
`

// options are the flags.
type options struct {
	file, journal, only, step, html string
	without                         []string
	json, yes                       bool
}

// exceptions are the checks that -without skips.
var exceptions = []string{"plan", "balancer", "findings"}

func main() { command().Main() }

func command() cli.Command {
	o := &options{}
	about := func(f *flag.FlagSet) {
		f.StringVar(&o.file, "file", "", "`FILE` with hosts and versions, YAML or JSON; - is stdin")
		f.BoolVar(&o.json, "json", false, "print JSON")
	}
	part := func(f *flag.FlagSet) {
		about(f)
		f.StringVar(&o.only, "only", "", "work on this `HOST` alone")
		f.StringVar(&o.step, "step", "", "with -only: this step `NAME` alone")
	}
	journal := func(f *flag.FlagSet) {
		f.StringVar(&o.journal, "journal", "", "`FILE` that records the run (default: -file with "+
			".journal added)")
	}
	without := func(f *flag.FlagSet) {
		f.Func("without", "skip checks: `NAMES` of "+strings.Join(exceptions, ", "), cli.Words(&o.without,
			exceptions...))
	}
	plan := func(f *flag.FlagSet) {
		part(f)
		without(f)
	}
	work := func(f *flag.FlagSet) {
		part(f)
		without(f)
		journal(f)
		f.BoolVar(&o.yes, "yes", false, "do not ask")
	}
	verb := func(name, text string, flags func(*flag.FlagSet), run func(context.Context, *cli.Call,
		*fleet.Inventory) error) cli.Verb {
		return cli.Verb{Name: name, About: text, Flags: flags, Required: []string{"file"},
			Needs: map[string]string{"step": "only"},
			Run: func(ctx context.Context, c *cli.Call) error {
				inv, err := fleet.Load(o.file, c.In)
				if err != nil {
					return cli.Exit(cli.Usage, err)
				}
				o.place()
				return run(ctx, c, inv)
			}}
	}
	mode := func(m rollout.Mode) func(context.Context, *cli.Call, *fleet.Inventory) error {
		return func(ctx context.Context, c *cli.Call, inv *fleet.Inventory) error {
			return o.work(ctx, c,
				inv, m)
		}
	}
	return cli.Command{Name: "rolling", About: "Upgrades a fleet of hosts, host by host, from an " +
		"inventory file.", Notes: notes, Verbs: []cli.Verb{
		verb("plan", "show what happens to which host in which order; exit code 1 if a host cannot "+
			"be upgraded", plan, o.plan),
		verb("run", "upgrade the fleet: asks every host, then you, unless -yes is given", work,
			mode(rollout.ModeRun)),
		verb("resume", "continue after a crash, a stop or a failure", work, mode(rollout.ModeResume)),
		verb("undo", "take back what the run did, last host first", work, mode(rollout.ModeUndo)),
		verb("accept", "remove from the hosts what only an undo needs, and put the journal aside",
			func(f *flag.FlagSet) {
				about(f)
				journal(f)
				f.BoolVar(&o.yes, "yes", false, "do not ask")
			}, o.accept),
		{Name: "report", About: "show what was done, also while a run goes on; -html writes a page for " +
			"a change board", Run: o.report,
			Flags: func(f *flag.FlagSet) {
				part(f)
				journal(f)
				f.StringVar(&o.html, "html", "", "write a page to `FILE`")
			}, Needs: map[string]string{"step": "only"}},
	}}
}

// place finds the journal: each host, and each step, has one of its own.
func (o *options) place() {
	switch {
	case o.journal == "" && o.file == "-":
		o.journal = "fleet.journal"
	case o.journal == "":
		o.journal = o.file + ".journal"
	}
	if o.only != "" {
		o.journal += "." + o.only
		if o.step != "" {
			o.journal += "." + strings.ReplaceAll(o.step, " ", "-")
		}
	}
}
