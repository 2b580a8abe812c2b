// Command takebackup takes, verifies, restores, lists and prunes backup sets.
// It shows package backup at work: flags, values, calls, print.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/examples/internal/cli"
)

const usage = `usage: takebackup VERB [flags] [arguments]

  take     -dir DIR …          take a new set below DIR
  verify   [flags] SET         check a set; with -level live against what runs
  restore  [flags] SET         verify the set, restore from it, prove the result
  restore-dump [flags] PATH    restore what mongodump wrote: --out or --archive
  list     -dir DIR            the sets below DIR, newest first
  prune    -dir DIR …          remove old sets, never the newest that verifies
  export   [flags] SET FILE    one .tar.zst file, encrypted with -recipient
  import   -dir DIR FILE       a set from such a file

SET is the directory of a set, or with -dir its id or the word "latest".
What to take, compare or restore is chosen with -config, -redis, -mongo and -postgres.
takebackup VERB -h lists a verb's flags.

Connection URIs come from the environment or from a file, so that no password
is on a command line: TAKEBACKUP_REDIS_URI or -redis-uri-file,
TAKEBACKUP_MONGODB_URI or -mongo-uri-file.

exit codes:
  0  done
  1  failed; the message says why and what to do
  2  wrong usage
  3  the set is damaged, or what runs is not as in the set
`

func main() {
	cli.OutliveReader()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	redis.SetLogger(quiet{})
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// quiet keeps the Redis client's own log off the terminal.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// part is one kind of component: its flags, and what they make. The makers
// return nil where the part was not chosen.
type part interface {
	flags(fs *flag.FlagSet, verb string)
	source(c *command) (backup.Source, error)
	restorer(c *command) (backup.Restorer, error)
	close()
}

// command is what the flags say, and where the answer goes.
type command struct {
	verb    string
	args    []string
	env     func(string) string
	parts   []part
	dir     string
	json    bool
	verbose bool

	label      string
	level      string
	recipients listFlag
	identity   string
	exportTo   string
	dryRun     bool
	replace    bool
	rescue     string
	policy     backup.Policy

	stdout, stderr *cli.Out
}

// verbs are what the command can do, and how many arguments each takes.
var verbs = map[string]struct {
	do   func(*command, context.Context) (any, error)
	args int
}{
	"take":         {(*command).take, 0},
	"verify":       {(*command).verify, 1},
	"restore":      {(*command).restore, 1},
	"restore-dump": {(*command).restoreDump, 1},
	"list":         {(*command).list, 0},
	"prune":        {(*command).prune, 0},
	"export":       {(*command).export, 2},
	"import":       {(*command).importSet, 1},
}

// errUsage is a mistake on the command line.
var errUsage = errors.New("wrong usage")

func run(ctx context.Context, args []string, env func(string) string, stdout, stderr io.Writer) int {
	c := &command{env: env, parts: parts(), stdout: cli.NewOut(stdout), stderr: cli.NewOut(stderr)}
	defer func() {
		for _, p := range c.parts {
			p.close()
		}
	}()
	if len(args) == 0 {
		_, _ = io.WriteString(stderr, usage)
		return 2
	}
	if args[0] == "-h" || args[0] == "-help" || args[0] == "--help" || args[0] == "help" {
		_, _ = io.WriteString(stdout, usage)
		return 0
	}
	verb, ok := verbs[args[0]]
	if !ok {
		c.stderr.Printf("takebackup: there is no verb %q, only %s\nrun takebackup -h for help\n", args[0], strings.Join(slices.Sorted(maps.Keys(verbs)), ", "))
		return 2
	}
	c.verb = args[0]
	fs := c.flagSet(stderr)
	switch err := fs.Parse(args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	c.args = fs.Args()
	if len(c.args) != verb.args {
		c.stderr.Printf("takebackup %s: %d arguments given, %d needed\nrun takebackup -h for help\n", c.verb, len(c.args), verb.args)
		return 2
	}
	result, err := verb.do(c, ctx)
	c.stderr.Clear()
	return c.answer(result, err)
}

func (c *command) flagSet(stderr io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet("takebackup "+c.verb, flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.BoolVar(&c.json, "json", false, "print one JSON object")
	fs.BoolVar(&c.verbose, "v", false, "log each step to standard error")
	fs.StringVar(&c.dir, "dir", "", "the `directory` of the sets")
	switch c.verb {
	case "take":
		fs.StringVar(&c.label, "label", "", "free `text` for the manifest, such as the reason")
		fs.StringVar(&c.exportTo, "export", "", "afterwards export the set to this `file`")
		fs.Var(&c.recipients, "recipient", "encrypt the export to this age recipient (age1…); may be repeated")
	case "export":
		fs.Var(&c.recipients, "recipient", "encrypt to this age recipient (age1…); may be repeated")
	case "import":
		fs.StringVar(&c.identity, "identity", "", "the `file` with the age identity to decrypt with")
	case "verify":
		fs.StringVar(&c.level, "level", "structure", "files, structure or live")
	case "restore", "restore-dump":
		fs.BoolVar(&c.dryRun, "dry-run", false, "verify and plan, change nothing")
		fs.BoolVar(&c.replace, "replace", false, "also where data is there already")
		if c.verb == "restore" {
			fs.StringVar(&c.rescue, "rescue", "", "the `directory` for sets of what is replaced (default: \"rescued\" beside the set; list and prune have to be asked for it)")
		}
	case "prune":
		fs.IntVar(&c.policy.Keep, "keep", 0, "keep so many sets")
		fs.DurationVar(&c.policy.MaxAge, "max-age", 0, "remove sets older than this, such as 720h")
		fs.BoolVar(&c.policy.DryRun, "dry-run", false, "only say what would go")
	}
	for _, p := range c.parts {
		_, mongo := p.(*mongoPart)
		if c.verb == "take" || c.verb == "verify" || c.verb == "restore" || (c.verb == "restore-dump" || c.verb == "prune") && mongo {
			p.flags(fs, c.verb)
		}
	}
	return fs
}

// answer prints the result and says what the exit code is.
func (c *command) answer(result any, err error) int {
	code := 0
	switch {
	case errors.Is(err, errUsage):
		code = 2
	case errors.Is(err, backup.ErrDamaged), errors.Is(err, backup.ErrNotASet), errors.Is(err, backup.ErrDiffers):
		code = 3
	case err != nil:
		code = 1
	}
	if c.json {
		out := map[string]any{"ok": err == nil, "result": result}
		if err != nil {
			out["error"] = err.Error()
			var e interface {
				Hint() string
				Retryable() bool
			}
			if errors.As(err, &e) {
				out["hint"], out["retryable"] = e.Hint(), e.Retryable()
			}
		}
		enc := json.NewEncoder(c.stdout)
		enc.SetIndent("", "  ")
		_ = enc.Encode(out) // c.stdout knows
	}
	if werr := c.stdout.Err(); werr != nil && code == 0 {
		c.stderr.Printf("takebackup %s: done, but the answer could not be printed: %v\n", c.verb, werr)
		return 1
	}
	if err != nil && (!c.json || code == 2) {
		c.stderr.Printf("%s %v\n", c.stderr.Paint(cli.Bad, "takebackup "+c.verb+":"), err)
		if code == 2 {
			c.stderr.Printf("run takebackup %s -h for help\n", c.verb)
		}
	}
	return code
}

func (c *command) log() *slog.Logger {
	if !c.verbose {
		return nil
	}
	return slog.New(slog.NewTextHandler(c.stderr, nil))
}

// progress draws one bar for each component, and a line for each collection.
func (c *command) progress() func(backup.Event) {
	var order []string
	bars := map[string]string{}
	items := map[string][]string{}
	parts := map[string]*collections{}
	return func(e backup.Event) {
		if _, known := bars[e.Component]; !known {
			order = append(order, e.Component)
			parts[e.Component] = &collections{}
		}
		label := string(e.Phase)
		if e.Component != "" {
			label = e.Component + " " + label
		}
		line := cli.Bar(label, e.Bytes, max(e.TotalBytes, e.Bytes))
		switch {
		case e.Done:
			line += c.stderr.Paint(cli.Good, "  done")
		case e.Item != "":
			line += "  " + c.stderr.Paint(cli.Faint, e.Item)
		}
		bars[e.Component] = line
		items[e.Component] = parts[e.Component].take(e)
		var lines []string
		for _, name := range order {
			lines = append(append(lines, bars[name]), items[name]...)
		}
		c.stderr.Redraw(lines...)
	}
}

func usagef(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errUsage}, a...)...)
}

// listFlag is a flag that may be repeated.
type listFlag []string

func (l *listFlag) String() string     { return strings.Join(*l, ",") }
func (l *listFlag) Set(s string) error { *l = append(*l, s); return nil }
