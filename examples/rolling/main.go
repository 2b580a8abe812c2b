// Command rolling upgrades or reverts a fleet of hosts behind HAProxy, host by
// host or blue-green, from an inventory file.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"example.com/tykupgrade/debpkg/rollout"
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

While a run goes on: Ctrl-C stops it after the hosts that are under way, a
second Ctrl-C undoes these first; SIGUSR1 pauses, SIGUSR2 goes on.

Exit codes: 0 everything is as asked, 1 it is not, 2 wrong usage or inventory,
3 a host could not be undone and needs a look, 4 somebody else works on the fleet.

`

const (
	exitOK = iota
	exitFailed
	exitUsage
	exitStuck
	exitLocked
)

func main() {
	// A reader that has gone, as after Ctrl-C in `rolling run | tee log`, would
	// otherwise kill the process before it has undone the host under way.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// command is one invocation.
type command struct {
	inventory, journal, only, step, html string
	json, yes                            bool
	stdin                                io.Reader
	stdout, stderr                       io.Writer
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &command{stdin: stdin, stdout: stdout, stderr: stderr}
	f := flag.NewFlagSet("rolling", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() { _, _ = fmt.Fprint(stderr, usage); f.PrintDefaults() }
	f.StringVar(&c.inventory, "inventory", "", "`FILE` that describes hosts and versions, YAML or JSON; - is stdin")
	f.StringVar(&c.journal, "journal", "", "`FILE` that the run is recorded in (default: the inventory's name with .journal added)")
	f.StringVar(&c.only, "only", "", "work on this `HOST` alone")
	f.StringVar(&c.step, "step", "", "with -only: this step `NAME` alone")
	f.StringVar(&c.html, "html", "", "with report: write a page to `FILE`")
	f.BoolVar(&c.json, "json", false, "print JSON")
	f.BoolVar(&c.yes, "yes", false, "do not ask")
	// Flags may stand before and after the verb.
	verb := ""
	for len(args) > 0 {
		if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
			return exitOK
		} else if err != nil {
			return exitUsage
		}
		if args = f.Args(); len(args) > 0 {
			if verb != "" {
				return c.wrong("one of plan, run, resume, undo, report; got %q and %q", verb, args[0])
			}
			verb, args = args[0], args[1:]
		}
	}
	switch {
	case verb != "plan" && verb != "run" && verb != "resume" && verb != "undo" && verb != "report":
		return c.wrong("give one of plan, run, resume, undo, report")
	case c.inventory == "" && (verb != "report" || c.journal == ""):
		return c.wrong("-inventory is missing")
	case c.step != "" && c.only == "":
		return c.wrong("-step needs -only")
	case c.html != "" && verb != "report":
		return c.wrong("-html goes with report")
	}
	if c.journal == "" {
		c.journal = c.inventory + ".journal"
		if c.inventory == "-" {
			c.journal = "fleet.journal"
		}
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
		_, _ = fmt.Fprintln(stderr, err)
		return exitUsage
	}
	if verb == "plan" {
		return c.plan(inv)
	}
	return c.work(inv, rollout.Mode(verb))
}

func (c *command) wrong(format string, a ...any) int {
	_, _ = fmt.Fprintf(c.stderr, "rolling: "+format+"\n(rolling -h shows the usage)\n", a...)
	return exitUsage
}

func (c *command) fail(err error) int {
	_, _ = fmt.Fprintln(c.stderr, "rolling:", err)
	return exitFailed
}
