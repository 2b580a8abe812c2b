// Command rolling upgrades or reverts a fleet of hosts behind HAProxy, host by
// host or blue-green, from an inventory file.
package main

import (
	"flag"
	"io"
	"os"
	"strings"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/examples/internal/fleet"
)

const usage = `usage: rolling -inventory FILE [flags] plan|run|resume|undo|report

  plan    what happens to which host, in which order, and when it stops
  run     upgrade the fleet; asks first, unless -yes is given
  resume  go on after a crash, a stop or a failure
  undo    take back what the run did, last host first
  report  what was done: -html FILE writes a page for a change board

With -only HOST, run is one idempotent, resumable call for that host, for teams
whose own engine (Ansible, Temporal, Nomad, a CI system) goes through the hosts;
-step NAME narrows it to one of drain, install, healthy, ready. The inventory
may come from stdin ("-"), and -json prints the report.

While a run goes on: Ctrl-C, and a terminal that is gone, stop it after the hosts
that are under way, a second Ctrl-C undoes these first; SIGUSR1 pauses, SIGUSR2
goes on.

Exit codes: 0 everything is as asked, 1 it is not, 2 wrong usage or inventory,
3 a host could not be undone and needs a look, 4 somebody else works on the fleet.

`

const (
	exitOK     = fleet.ExitOK
	exitFailed = fleet.ExitFailed
	exitUsage  = fleet.ExitUsage
	exitLocked = fleet.ExitLocked
)

func main() {
	cli.OutliveReader()
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// command is one invocation.
type command struct {
	fleet.Command
	inventory, journal, only, step, html string
	json, yes                            bool
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &command{Command: fleet.Command{Name: "rolling", Stdin: stdin, Stdout: stdout, Stderr: stderr}}
	f := flag.NewFlagSet(c.Name, flag.ContinueOnError)
	f.StringVar(&c.inventory, "inventory", "", "`FILE` that describes hosts and versions, YAML or JSON; - is stdin")
	f.StringVar(&c.journal, "journal", "", "`FILE` that the run is recorded in (default: the inventory's name with .journal added)")
	f.StringVar(&c.only, "only", "", "work on this `HOST` alone")
	f.StringVar(&c.step, "step", "", "with -only: this step `NAME` alone")
	f.StringVar(&c.html, "html", "", "with report: write a page to `FILE`")
	f.BoolVar(&c.json, "json", false, "print JSON")
	f.BoolVar(&c.yes, "yes", false, "do not ask")
	verb, code, done := c.Verb(f, usage, args, []string{"plan", "run", "resume", "undo", "report"})
	switch {
	case done:
		return code
	case c.inventory == "" && (verb != "report" || c.journal == ""):
		return c.Wrong("-inventory is missing")
	case c.step != "" && c.only == "":
		return c.Wrong("-step needs -only")
	case c.html != "" && verb != "report":
		return c.Wrong("-html goes with report")
	}
	if c.journal == "" {
		c.journal = fleet.Journal(c.inventory, "fleet.journal")
	}
	if c.only != "" {
		// Each host, and each step, has a journal of its own.
		c.journal += "." + c.only
		if c.step != "" {
			c.journal += "." + strings.ReplaceAll(c.step, " ", "-")
		}
	}
	if verb == "report" {
		return c.report()
	}
	inv, err := fleet.Load(c.inventory, stdin)
	if err != nil {
		_ = c.Fail(err)
		return exitUsage
	}
	if verb == "plan" {
		return c.plan(inv)
	}
	return c.work(inv, rollout.Mode(verb))
}
