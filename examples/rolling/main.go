// Command rolling upgrades or reverts a fleet of hosts behind a load balancer, host by
// host or blue-green, from an inventory file.
package main

import (
	"context"
	"flag"
	"strings"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/examples/internal/cli"
)

const notes = `With -only HOST, run is one idempotent, resumable call for that host, for teams whose
own engine (Ansible, Temporal, Nomad, a CI system) goes through the hosts. -step NAME
narrows it to one of drain, install, healthy, ready.

` + cli.Signals

// flags by the verbs Plan, Work (run, resume and undo), Accept, pruNe, Report and audit (L).
const flags cli.Table = `
PWANRL file=    <FILE> with hosts and versions, YAML or JSON; - is stdin
PWANRL journal= <FILE> that records the run (default: -file with .journal added)
PWRL only=      work on this <HOST> alone
PWRL step=      with -only: this step <NAME> alone
PWANR json      print JSON
WAN yes         do not ask
R html=         write a page to <FILE>
`

// job is one call of a verb.
type job struct {
	*cli.Call
	inv     *fleet.Inventory // nil for report and audit, which need the journal alone
	journal string
	without []string

	connect func(fleet.Host) debpkg.Runner // for tests; nil: SSH
	now     func() time.Time               // for tests; nil: time.Now
}

func main() { command(job{}).Main() }

func command(o job) cli.Command {
	without := func(f *flag.FlagSet) { cli.Without(f, &o.without, fleet.Checks()...) }
	verb := func(letter, name, about string, do func(*job, context.Context) error,
		groups ...func(*flag.FlagSet)) cli.Verb {
		v := cli.Verb{Name: name, About: about, Needs: map[string]string{"step": "only"},
			Flags: cli.Groups(append(groups, flags.Flags(letter))...)}
		if !strings.Contains("RL", letter) {
			v.Required = []string{"file"}
		}
		v.Run = func(ctx context.Context, c *cli.Call) error {
			j := o
			j.Call = c
			if err := j.open(); err != nil {
				return err
			}
			return do(&j, ctx)
		}
		return v
	}
	return cli.Command{Name: "rolling", About: "Upgrades a fleet of hosts, host by host, from an " +
		"inventory file.", Notes: notes, Verbs: []cli.Verb{
		verb("P", "plan", "show what happens to which host in which order; exit code 1 if a host "+
			"cannot be upgraded", (*job).plan, without),
		verb("W", "run", "upgrade the fleet: asks every host, then you, unless -yes is given",
			(*job).work, without),
		verb("W", "resume", "continue after a crash, a stop or a failure", (*job).work, without),
		verb("W", "undo", "take back what the run did, last host first", (*job).work,
			without),
		verb("A", "accept", "remove from the hosts what only an undo needs, and put the journal aside",
			(*job).accept),
		verb("N", "prune", "remove from the hosts what an undo of old runs needs, whether accepted or "+
			"not; never of a change that is unfinished or that the journal can undo", (*job).forget,
			cli.PruneFlags),
		verb("R", "report", "show what was done, also during a run; -html writes a page for a "+
			"change board", (*job).report),
		verb("L", "audit", "print who did what, one line for each event", (*job).audit,
			cli.AuditFlag),
	}}
}

// open reads the inventory, and finds the journal: each host, and each step, has one of its own.
func (j *job) open() (err error) {
	file := j.Text("file")
	switch {
	case file == "" && j.Text("journal") == "":
		return cli.Wrong("-file or -journal is missing")
	case j.Verb != "report" && j.Verb != "audit":
		if j.inv, err = fleet.Load(file, j.In); err != nil {
			return cli.WrongFile(err)
		}
		j.inv.Connect = j.connect
	}
	j.journal = cli.Journal(j.Text("journal"), file, "fleet.journal")
	for _, part := range []string{j.Text("only"), j.Text("step")} {
		if part != "" {
			j.journal += "." + strings.ReplaceAll(part, " ", "-")
		}
	}
	return nil
}
