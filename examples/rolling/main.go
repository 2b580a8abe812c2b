// Command rolling upgrades or reverts a fleet of hosts behind a load balancer, host by
// host or blue-green, from an inventory file.
package main

import (
	"context"
	"errors"
	"flag"
	"strings"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/fleet"
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
	file, journal, only, step, html, format string
	without                                 []string
	json, yes                               bool
	prune                                   cli.Pruning

	connect func(fleet.Host) debpkg.Runner // for tests; nil: SSH
}

func main() { command(&options{}).Main() }

func command(o *options) cli.Command {
	verb := func(name, about, flags string, run func(context.Context, *cli.Call,
		*fleet.Inventory) error) cli.Verb {
		return cli.Verb{Name: name, About: about, Required: []string{"file"},
			Needs: map[string]string{"step": "only"},
			Flags: func(f *flag.FlagSet) {
				for name := range strings.FieldsSeq(flags) {
					o.flag(f, name)
				}
			},
			Run: func(ctx context.Context, c *cli.Call) error {
				inv, err := fleet.Load(o.file, c.In)
				if err != nil {
					return cli.Exit(cli.Usage, err)
				}
				inv.Connect = o.connect
				return errors.Join(o.place(), run(ctx, c, inv))
			}}
	}
	// These two need the journal alone.
	report := verb("report", "show what was done, also while a run goes on; -html writes a page for "+
		"a change board", "file only step journal json html", nil)
	audit := verb("audit", "print who did what, one line for each event",
		"file only step journal format", nil)
	report.Required, report.Run, audit.Required, audit.Run = nil, o.report, nil, o.audit
	prune := verb("prune", "remove from the hosts what an undo of old runs needs, whether accepted or "+
		"not; never of a change that is unfinished or that the journal can undo", "file journal json yes",
		func(ctx context.Context, c *cli.Call, inv *fleet.Inventory) error {
			return c.Prune(ctx, inv, &o.prune, o.json, o.yes, o.journals(inv)...)
		})
	flags := prune.Flags
	prune.Required, prune.Flags = append(prune.Required, "older-than"), func(f *flag.FlagSet) {
		flags(f)
		o.prune.Flags(f)
	}
	const work = "file only step journal json without yes"
	return cli.Command{Name: "rolling", About: "Upgrades a fleet of hosts, host by host, from an " +
		"inventory file.", Notes: notes, Verbs: []cli.Verb{
		verb("plan", "show what happens to which host in which order; exit code 1 if a host cannot "+
			"be upgraded", "file only step json without", o.plan),
		verb("run", "upgrade the fleet: asks every host, then you, unless -yes is given", work, o.work),
		verb("resume", "continue after a crash, a stop or a failure", work, o.work),
		verb("undo", "take back what the run did, last host first", work, o.work),
		verb("accept", "remove from the hosts what only an undo needs, and put the journal aside",
			"file journal json yes", o.accept),
		prune,
		report, audit,
	}}
}

// flag registers one flag.
func (o *options) flag(f *flag.FlagSet, name string) {
	switch name {
	case "file":
		f.StringVar(&o.file, name, "", "`FILE` with hosts and versions, YAML or JSON; - is stdin")
	case "json":
		f.BoolVar(&o.json, name, false, "print JSON")
	case "only":
		f.StringVar(&o.only, name, "", "work on this `HOST` alone")
	case "step":
		f.StringVar(&o.step, name, "", "with -only: this step `NAME` alone")
	case "without":
		f.Func(name, "skip checks: `NAMES` of "+strings.Join(fleet.Checks(), ", "),
			cli.Words(&o.without, fleet.Checks()...))
	case "journal":
		f.StringVar(&o.journal, name, "", "`FILE` that records the run (default: -file with "+
			".journal added)")
	case "yes":
		f.BoolVar(&o.yes, name, false, "do not ask")
	case "html":
		f.StringVar(&o.html, name, "", "write a page to `FILE`")
	case "format":
		cli.AuditFlag(f, &o.format)
	}
}

// journals are all that hold runs of the inventory: of the fleet, and of each host or step.
func (o *options) journals(inv *fleet.Inventory) []string {
	all := []string{o.journal}
	for _, h := range inv.Hosts {
		host := o.journal + "." + strings.ReplaceAll(h.Name, " ", "-")
		all = append(all, host, host+".install")
	}
	return all
}

// place finds the journal: each host, and each step, has one of its own.
func (o *options) place() error {
	if o.file == "" && o.journal == "" {
		return cli.Wrong("-file or -journal is missing")
	}
	o.journal = cli.Journal(o.journal, o.file, "fleet.journal")
	for _, part := range []string{o.only, o.step} {
		if part != "" {
			o.journal += "." + strings.ReplaceAll(part, " ", "-")
		}
	}
	return nil
}
