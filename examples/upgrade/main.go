// Command upgrade takes a whole Tyk installation from one version to another by
// one file: the plugin and its bundle, the backup, then the hosts. It is what a
// team would start from for production.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/examples/internal/cli"
)

const usage = `usage: upgrade -file FILE [flags] plan|apply|resume|revert|status

  plan    what would be prepared, and what happens to which host in which order;
          changes nothing
  apply   prepare, then upgrade: see below; asks first, unless -yes is given
  resume  go on after a crash, a stop, a refusal or a failure
  revert  take back what apply did on the hosts, last host first; the data only
          with -restore
  status  what the journal, the hosts, the bundle and the backup say

apply first prepares, changing nothing on a host but apt's package lists: the
plugin is compiled or taken, checked against the gateway of the new version, and
packed with the present one into a bundle that is verified and proved for both
versions; each host is asked whether it can be upgraded and is healthy now; a
backup is taken and verified. Then come the hosts, by component: drained,
installed, healthy, back into the load balancer. The gates of the file must hold
before, and after each component.

What does not hold refuses the upgrade. -without NAME[,NAME] goes on all the
same, and the journal and the report show it:

  backup     no verified backup
  preflight  the plugin is not known to load in the new gateway
  baseline   a host is not healthy before
  gates      a gate does not hold

Ctrl-C, and a terminal that is gone, stop after the host under way; a second
Ctrl-C undoes that first; SIGUSR1 pauses, SIGUSR2 goes on. All that FILE may hold
is in examples/upgrade/upgrade.yaml. Connection URIs come from the variables or files that it names.

Exit codes: 0 everything is as asked, 1 it is not, 2 wrong usage or file,
3 a host could not be undone and needs a look, 4 somebody else works on it,
5 refused: no host was changed.

`

const (
	exitOK      = ExitOK
	exitFailed  = ExitFailed
	exitUsage   = ExitUsage
	exitStuck   = ExitStuck
	exitLocked  = ExitLocked
	exitRefused = 5
)

func main() {
	cli.OutliveReader()
	redis.SetLogger(quiet{})
	os.Exit(run(os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr))
}

// quiet keeps the Redis client's own log off the terminal.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// command is one invocation.
type command struct {
	invocation
	file, journal, stopAfter, set, html string
	without, restore                    []string
	dropExtra, json, yes                bool
}

var (
	verbs       = []string{"plan", "apply", "resume", "revert", "status"}
	restorables = []string{"config", "redis", "mongo"}
)

func run(args []string, env func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &command{invocation: invocation{Name: "upgrade", Stdin: stdin, Stdout: stdout, Stderr: stderr}}
	f := flag.NewFlagSet(c.Name, flag.ContinueOnError)
	f.StringVar(&c.file, "file", "", "`FILE` that describes the upgrade, YAML or JSON; - is stdin")
	f.StringVar(&c.journal, "journal", "", "`FILE` that the run is recorded in (default: the name of -file with .journal added)")
	f.StringVar(&c.stopAfter, "stop-after", "", "with apply and resume: stop after this `WAVE`, such as prepare or dashboard; resume goes on")
	f.StringVar(&c.set, "set", "", "with apply and resume: verify this backup `SET` instead of taking one: an id, a directory, or latest")
	f.StringVar(&c.html, "html", "", "with status: write the run's report as a page to `FILE`")
	f.Func("without", "go on without these, separated by commas: `NAMES` of "+strings.Join(exceptions, ", "), list(&c.without, exceptions))
	f.Func("restore", "with revert: restore `PARTS` from the backup, separated by commas: "+strings.Join(restorables, ", "), list(&c.restore, restorables))
	f.BoolVar(&c.dropExtra, "drop-extra", false, "with -restore mongo: drop the collections that the backup does not have, which otherwise stay and are named")
	f.BoolVar(&c.json, "json", false, "print JSON")
	f.BoolVar(&c.yes, "yes", false, "do not ask")
	verb, code, done := c.Verb(f, usage, args, verbs)
	forward := verb == "apply" || verb == "resume"
	switch {
	case done:
		return code
	case c.file == "":
		return c.Wrong("-file is missing")
	case c.stopAfter != "" && !forward:
		return c.Wrong("-stop-after goes with apply and resume")
	case c.set != "" && !forward:
		return c.Wrong("-set goes with apply and resume")
	case len(c.without) > 0 && !forward && verb != "plan":
		return c.Wrong("-without goes with plan, apply and resume")
	case len(c.restore) > 0 && verb != "revert":
		return c.Wrong("-restore goes with revert")
	case c.dropExtra && !slices.Contains(c.restore, "mongo"):
		return c.Wrong("-drop-extra goes with -restore mongo")
	case c.html != "" && verb != "status":
		return c.Wrong("-html goes with status")
	case c.file == "-" && forward && !c.yes:
		return c.Wrong("the file comes from stdin, so nobody can be asked: give -yes")
	}
	cfg, err := load(c.file, stdin)
	if err != nil {
		_ = c.Fail(err)
		return exitUsage
	}
	if c.journal == "" {
		c.journal = Journal(c.file, "upgrade.journal")
	}
	u := &upgrade{config: cfg, set: c.set, dropExtra: c.dropExtra, env: env, without: map[string]bool{}, event: func(string, string) {}}
	for _, name := range c.without {
		u.without[name] = true
	}
	switch verb {
	case "plan":
		return c.plan(u)
	case "status":
		return c.status(u)
	case "revert":
		return c.revert(u)
	default:
		return c.apply(u, verb)
	}
}

// list reads a flag that takes some of the known words.
func list(to *[]string, known []string) func(string) error {
	return func(text string) error {
		for word := range strings.SplitSeq(text, ",") {
			if !slices.Contains(known, word) {
				return fmt.Errorf("%q is none of %s", word, strings.Join(known, ", "))
			}
			*to = append(*to, word)
		}
		return nil
	}
}
