// Command upgrade takes a whole Tyk installation from one version to another by one
// file: the plugin and its bundle, the backup, then the hosts. It is what a team would
// start from for production.
package main

import (
	"context"
	"flag"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/examples/internal/cli"
)

const about = `Takes a whole Tyk installation from one version to another by one file.

apply first prepares, which changes nothing on a host but apt's package lists: the plugin
is compiled or taken, checked against the gateway of the new version, and packed with the
present one into a bundle that is verified for both versions; each host is asked whether
it can be upgraded and is healthy now; a backup is taken and verified; the bundle is
published under the name that the APIs have, and the old file is kept. Then come the
hosts, by component: drained, installed, stopped, started with the new bundle, healthy,
back into the load balancer. The gates of the file must hold before, and after each
component.`

const notes = `A failed check stops the upgrade. -without NAME[,NAME] skips it, and the journal and the
report show that:

  backup     no verified backup
  database   a database that a component uses is not in the backup
  preflight  the plugin is not known to load in the new gateway
  publish    nobody checks whether the bundle server has the bundle
  balancer   hosts are restarted under traffic
  findings   versions, licences or configuration that do not go together
  baseline   a host is not healthy before
  gates      a gate does not hold

` + cli.Signals + `
examples/upgrade/upgrade.yaml has every key of FILE. Connection URIs come from the variables
or files that it names. Exit code 3 means here: a host could not be restored and needs
attention.
`

func main() {
	redis.SetLogger(quiet{})
	commandOf(&options{}).Main()
}

// quiet keeps the Redis client's own log off the terminal.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// options are the flags.
type options struct {
	file, journal, stopAfter, set, html string
	without, restore                    []string
	dropExtra, json, yes                bool
}

var restorables = []string{"config", "redis", "mongo", "postgres"}

func commandOf(o *options) cli.Command {
	file := func(f *flag.FlagSet) {
		f.StringVar(&o.file, "file", "", "`FILE` that describes the upgrade, YAML or JSON; - is stdin")
		f.StringVar(&o.journal, "journal", "", "`FILE` that records the run (default: -file with .journal added)")
		f.BoolVar(&o.json, "json", false, "print JSON")
	}
	without := func(f *flag.FlagSet) {
		f.Func("without", "skip these checks, separated by commas: `NAMES` of "+strings.Join(exceptions, ", "), cli.Words(&o.without, exceptions...))
	}
	yes := func(f *flag.FlagSet) { f.BoolVar(&o.yes, "yes", false, "do not ask") }
	forward := func(f *flag.FlagSet) {
		f.StringVar(&o.stopAfter, "stop-after", "", "stop after this `WAVE`, such as prepare or dashboard; resume continues")
		f.StringVar(&o.set, "set", "", "verify this backup `SET` instead of taking one: an id, a directory, or latest")
	}
	verb := func(name, text string, run func(*upgrade, context.Context, *cli.Call) error, flags ...func(*flag.FlagSet)) cli.Verb {
		return cli.Verb{Name: name, About: text, Required: []string{"file"}, Needs: map[string]string{"drop-extra": "restore"},
			Flags: func(f *flag.FlagSet) {
				for _, add := range append([]func(*flag.FlagSet){file}, flags...) {
					add(f)
				}
			},
			Run: func(ctx context.Context, c *cli.Call) error {
				u, err := o.upgrade(c)
				if err != nil {
					return cli.Exit(cli.Usage, err)
				}
				return run(u, ctx, c)
			}}
	}
	return cli.Command{Name: "upgrade", About: about, Notes: notes, Verbs: []cli.Verb{
		verb("plan", "show what would be prepared, and what happens to which host in which order; changes nothing", (*upgrade).plan, without),
		verb("apply", "prepare, then upgrade; asks first, unless -yes is given", (*upgrade).forward, without, yes, forward),
		verb("resume", "continue after a crash, a stop, a refusal or a failure", (*upgrade).forward, without, yes, forward),
		verb("revert", "take back what apply did on the hosts, last host first, and the bundle; the data only with -restore", (*upgrade).revert, yes,
			func(f *flag.FlagSet) {
				f.Func("restore", "restore `PARTS` from the backup, separated by commas: "+strings.Join(restorables, ", "), cli.Words(&o.restore, restorables...))
				f.BoolVar(&o.dropExtra, "drop-extra", false, "with -restore mongo: drop the collections that the backup does not have; otherwise they stay and are named")
			}),
		verb("accept", "remove what only a revert needs: saved packages, cached bundles, the old bundle", (*upgrade).accept, yes),
		verb("status", "show what the journal, the hosts, the bundle and the backup say", (*upgrade).status,
			func(f *flag.FlagSet) { f.StringVar(&o.html, "html", "", "write the run's report as a page to `FILE`") }),
	}}
}

// upgrade reads the file and puts the upgrade together.
func (o *options) upgrade(c *cli.Call) (*upgrade, error) {
	if o.dropExtra && !slices.Contains(o.restore, "mongo") {
		return nil, cli.Wrong("-drop-extra needs -restore mongo")
	}
	if o.file == "-" && !o.yes && (c.Verb == "apply" || c.Verb == "resume" || c.Verb == "revert" || c.Verb == "accept") {
		return nil, cli.Wrong("the file comes from stdin, so nobody can be asked: give -yes")
	}
	cfg, err := load(o.file, c.In)
	if err != nil {
		return nil, err
	}
	switch {
	case o.journal == "" && o.file == "-":
		o.journal = "upgrade.journal"
	case o.journal == "":
		o.journal = o.file + ".journal"
	}
	u := &upgrade{config: cfg, options: o, env: c.Env, without: map[string]bool{}, event: func(string, string) {}}
	for _, name := range o.without {
		u.without[name] = true
	}
	return u, nil
}
