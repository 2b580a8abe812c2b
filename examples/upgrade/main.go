// Command upgrade takes a whole Tyk installation from one version to another by one
// file: the plugins and their bundles, the backup, then the hosts. It is what a team would
// start from for production. Package installation does the work.
package main

import (
	"context"
	"flag"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/fleet/installation"
	"example.com/tykupgrade/examples/internal/cli"
)

const about = `Takes a whole Tyk installation from one version to another by one file.

apply first prepares, which changes nothing on a host but apt's package lists: each plugin
is compiled or taken, checked against the gateway of the new version, and packed with the
present one into a bundle that is verified for both versions; each host is asked whether
it can be upgraded and is healthy now; a backup is taken and verified; the bundles are
published under the names that the APIs have, and the old files are kept. Then come the
hosts, by component: drained, installed, stopped, started with the new bundles, healthy,
back into the load balancer. The gates of the file must hold before, and after each
component.`

const notes = `A failed check stops the upgrade. -without NAME[,NAME] skips it, and the journal and the
report show that:

  backup     no verified backup
  database   a database that a component uses is not in the backup
  preflight  the plugin is not known to load in the new gateway
  apis       an API uses a plugin that the file lacks, or a bundle whose signature is refused
  publish    nobody checks whether the bundle server has the bundle
  balancer   hosts are restarted under traffic
  findings   versions, licences or configuration that do not go together
  baseline   a host is not healthy before
  gates      a gate does not hold

` + cli.Signals + `
examples/upgrade/upgrade.yaml has every key of FILE, and init writes one from what it finds.
In FILE ${NAME} is the variable NAME.
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

	init initOptions

	connect func(fleet.Host) debpkg.Runner // for tests; nil: SSH
}

// stdinJournal is the journal of a file that comes from stdin.
const stdinJournal = "upgrade.journal"

// work is one call with its upgrade.
type work struct {
	*options
	*installation.Upgrade
	c *cli.Call
}

func commandOf(o *options) cli.Command {
	file := func(f *flag.FlagSet) {
		f.StringVar(&o.file, "file", "", "`FILE` that describes the upgrade, YAML or JSON; - is stdin")
		f.StringVar(&o.journal, "journal", "", "`FILE` that records the run (default: -file with "+
			".journal added)")
		f.BoolVar(&o.json, "json", false, "print JSON")
	}
	without := func(f *flag.FlagSet) { cli.Without(f, &o.without, checks()...) }
	yes := func(f *flag.FlagSet) { f.BoolVar(&o.yes, "yes", false, "do not ask") }
	forward := func(f *flag.FlagSet) {
		f.StringVar(&o.stopAfter, "stop-after", "", "stop after this `WAVE`, such as prepare or "+
			"dashboard; resume continues")
		f.StringVar(&o.set, "set", "", "verify this backup `SET` instead of taking one: an id, a "+
			"directory, or latest")
	}
	verb := func(name, text string, run func(*work, context.Context) error,
		flags ...func(*flag.FlagSet)) cli.Verb {
		return cli.Verb{Name: name, About: text, Required: []string{"file"}, Needs: map[string]string{
			"drop-extra": "restore"},
			Flags: cli.Groups(append(flags, file)...),
			Run: func(ctx context.Context, c *cli.Call) error {
				w, err := o.load(c)
				if err != nil {
					return err
				}
				return run(w, ctx)
			}}
	}
	return cli.Command{Name: "upgrade", About: about, Notes: notes, Verbs: []cli.Verb{
		{Name: "init", About: "write a commented FILE from what hosts, HAProxy and API definitions " +
			"say; changes nothing else", Flags: o.init.flags, Run: o.init.run},
		verb("plan", "show what would be prepared, what happens to which host in which order, and all "+
			"that would be refused; changes nothing", (*work).plan, without),
		verb("apply", "prepare, then upgrade; asks first, unless -yes is given", (*work).forward, without,
			yes, forward),
		verb("resume", "continue after a crash, a stop, a refusal or a failure", (*work).forward, without,
			yes, forward),
		verb("revert", "take back what apply did on the hosts, last host first, and the bundles; the "+
			"data only with -restore", (*work).revert, yes,
			func(f *flag.FlagSet) {
				parts := installation.Restorables()
				f.Func("restore", "restore `PARTS` from the backup, separated by commas: "+strings.Join(parts,
					", "), cli.Words(&o.restore, parts...))
				f.BoolVar(&o.dropExtra, "drop-extra", false, "with -restore mongo: drop the collections that "+
					"the backup does not have; otherwise they stay and are named")
			}),
		verb("accept", "remove what only a revert needs: saved packages, cached bundles, the old bundles",
			(*work).accept, yes),
		verb("prune", "remove from the hosts what a revert of old upgrades needs; never of a change "+
			"that is unfinished or that the journal can revert", func(w *work, ctx context.Context) error {
			return w.c.Prune(ctx, &w.Inventory, nil, o.journal)
		}, yes, cli.PruneFlags),
		verb("status", "show what the journal, the hosts, the bundles and the backup say", (*work).status,
			func(f *flag.FlagSet) {
				f.StringVar(&o.html, "html", "",
					"write the run's report as a page to `FILE`")
			}),
		{Name: "audit", About: "print who did what, one line for each event",
			Flags: func(f *flag.FlagSet) {
				file(f)
				cli.AuditFlag(f)
			},
			Run: func(_ context.Context, c *cli.Call) error {
				if o.file == "" && o.journal == "" {
					return cli.Wrong("-file or -journal is missing")
				}
				return c.Audit(cli.Journal(o.journal, o.file, stdinJournal))
			}},
	}}
}

func checks() []string {
	var all []string
	for _, c := range installation.Checks() {
		all = append(all, string(c))
	}
	return all
}

// load reads the file and puts the upgrade together.
func (o *options) load(c *cli.Call) (*work, error) {
	if o.dropExtra && !slices.Contains(o.restore, "mongo") {
		return nil, cli.Wrong("-drop-extra needs -restore mongo")
	}
	if o.file == "-" && !o.yes && c.Verb != "plan" && c.Verb != "status" {
		return nil, cli.Wrong("the file comes from stdin, so nobody can be asked: give -yes")
	}
	f, err := installation.Load(o.file, installation.LoadOptions{Stdin: c.In})
	if err != nil {
		return nil, cli.WrongFile(err)
	}
	f.Connect = o.connect
	o.journal = cli.Journal(o.journal, o.file, stdinJournal)
	io := installation.Options{Set: o.set, DropExtra: o.dropExtra, Env: c.Env}
	for _, name := range o.without {
		io.Without = append(io.Without, installation.Check(name))
	}
	u, err := installation.New(f, o.journal, io)
	return &work{o, u, c}, err
}

// confirm asks unless -yes is given.
func (w *work) confirm(question string) error {
	return w.c.Sure(w.yes, question)
}
