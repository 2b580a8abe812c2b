// Command upgradehost upgrades and reverts the Tyk packages of one Debian or
// Ubuntu host. It shows package debpkg at work: flags, values, calls, print.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/examples/internal/cli"
)

const usage = `usage: upgradehost VERB [flags]

  facts     what there is to know before an upgrade
  plan      what an upgrade would do; changes nothing
  apply     show the plan, ask, carry it out
  revert    restore the previous state of a change
  repair    finish what an interrupted run of apt or dpkg left half-installed
  history   what apt did on the host
  forget    remove what the host keeps for the revert of a change

  upgradehost plan  -host ops@gw1 -sudo -gateway 5.2.5 -dashboard 5.2.5 -pump 1.9.0
  upgradehost apply -host ops@gw1 -sudo -gateway 5.2.5 -out change.json
  upgradehost revert -host ops@gw1 -sudo -change change.json
  upgradehost revert -host ops@gw1 -sudo -last tyk-gateway,tyk-pump
  upgradehost forget -host ops@gw1 -sudo -change change.json

Without -host it works on this machine. Components are upgraded one after the
other: dashboard, gateway, pump. upgradehost VERB -h lists a verb's flags.

exit codes:
    0  done, or nothing to do
    1  failed; the message says why and what to do
    2  wrong usage
    3  refused or not approved: nothing was changed
  130  interrupted
`

const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitRefused     = 3
	exitInterrupted = 130
)

func main() {
	cli.OutliveReader()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// command is what the flags say, and where the answer goes.
type command struct {
	verb string

	host     string
	ssh      debpkg.SSHOptions
	sudo     bool
	options  debpkg.Options
	versions map[string]*string // by package
	packages listFlag           // name=version, for editions
	debs     string
	noUpdate bool
	stage    bool
	yes      bool
	out      string
	change   string
	last     string
	files    bool
	json     bool
	verbose  bool

	stdin          *bufio.Reader
	stdout, stderr *cli.Out
}

type listFlag []string

func (l *listFlag) String() string     { return strings.Join(*l, ",") }
func (l *listFlag) Set(s string) error { *l = append(*l, s); return nil }

// errUsage is a mistake on the command line, errDeclined a plan that the person
// at the terminal did not want.
var (
	errUsage    = errors.New("wrong usage")
	errDeclined = errors.New("not approved; nothing was changed")
)

var verbs = map[string]func(*command, context.Context) (any, error){
	"facts": (*command).facts, "plan": (*command).plan, "apply": (*command).apply, "revert": (*command).revert, "repair": (*command).repair, "history": (*command).history, "forget": (*command).forget,
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &command{stdin: bufio.NewReader(stdin), stdout: cli.NewOut(stdout), stderr: cli.NewOut(stderr), versions: map[string]*string{}}
	if len(args) == 0 || args[0] == "-h" || args[0] == "-help" || args[0] == "--help" {
		c.stdout.Printf("%s", usage)
		if len(args) == 0 {
			return exitUsage
		}
		return exitDone
	}
	c.verb = args[0]
	do, ok := verbs[c.verb]
	if !ok {
		c.stderr.Printf("upgradehost: there is no verb %q; upgradehost -h lists them\n", c.verb)
		return exitUsage
	}
	fs := c.flags(stderr)
	if err := fs.Parse(args[1:]); errors.Is(err, flag.ErrHelp) {
		return exitDone
	} else if err != nil {
		return exitUsage
	}
	if fs.NArg() > 0 {
		c.stderr.Printf("upgradehost %s: %q is not a flag\n", c.verb, fs.Arg(0))
		return exitUsage
	}
	level := slog.LevelWarn
	if c.verbose {
		level = slog.LevelDebug
	}
	c.options.Log = slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{Level: level}))
	c.options.Events = c.progress
	result, err := do(c, ctx)
	c.stderr.Clear()
	if c.json && result != nil {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		if jerr := enc.Encode(result); err == nil {
			err = jerr
		}
	}
	if err == nil {
		return exitDone
	}
	c.stderr.Printf("upgradehost %s: %s\n", c.verb, c.stderr.Paint(cli.Bad, err.Error()))
	switch {
	case errors.Is(err, errUsage):
		return exitUsage
	case ctx.Err() != nil:
		return exitInterrupted
	case errors.Is(err, debpkg.ErrRefused), errors.Is(err, debpkg.ErrChanged), errors.Is(err, errDeclined):
		return exitRefused
	}
	return exitFailed
}

func (c *command) flags(stderr io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet("upgradehost "+c.verb, flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&c.host, "host", "", "`user@host` to reach with the system's ssh (default this machine)")
	fs.StringVar(&c.ssh.Config, "ssh-config", "", "`file` for ssh -F")
	fs.StringVar(&c.ssh.Identity, "ssh-identity", "", "private key `file` for ssh -i")
	fs.StringVar(&c.ssh.Jump, "ssh-jump", "", "jump `host` for ssh -J")
	fs.IntVar(&c.ssh.Port, "ssh-port", 0, "`port` of sshd (default from ssh's configuration)")
	fs.BoolVar(&c.sudo, "sudo", false, "become root with sudo -n, which must not ask for a password")
	fs.StringVar(&c.options.Root, "root", "", "private root `directory`, with -apt-config (for rehearsals)")
	fs.StringVar(&c.options.AptConfig, "apt-config", "", "`file` for APT_CONFIG")
	fs.BoolVar(&c.json, "json", false, "print the result as JSON")
	fs.BoolVar(&c.verbose, "v", false, "log every command")
	if c.verb == "plan" || c.verb == "apply" {
		for _, comp := range debpkg.Components() {
			name := strings.TrimPrefix(comp.Package, "tyk-")
			c.versions[comp.Package] = fs.String(name, "", "`version` of "+comp.Package+" to install")
		}
		fs.Var(&c.packages, "package", "`name=version` of another package or edition, name- to remove it; repeatable")
		fs.StringVar(&c.debs, "debs", "", "install from .deb files in this `directory` on the host, without network")
		fs.BoolVar(&c.noUpdate, "no-update", false, "do not update the package lists first")
	}
	switch c.verb {
	case "plan", "apply", "repair":
		fs.BoolVar(&c.options.NewConffiles, "new-conffiles", false, "take the maintainer's configuration files over edited ones")
		fallthrough
	case "revert":
		fs.DurationVar(&c.options.LockWait, "lock-wait", debpkg.DefaultLockWait, "how long to wait for other package managers")
	}
	switch c.verb {
	case "apply":
		fs.BoolVar(&c.yes, "yes", false, "do not ask")
		fs.BoolVar(&c.stage, "stage", false, "install now, leave the old processes serving; restart the units yourself")
		fs.StringVar(&c.out, "out", "", "`file` for what revert -change needs (default upgradehost-TIME.json)")
		fs.DurationVar(&c.options.Settle, "settle", 5*time.Second, "how long a unit must stay up unchanged")
	case "forget":
		fs.StringVar(&c.change, "change", "", "`file` that apply wrote; it is removed too")
	case "revert":
		fs.StringVar(&c.change, "change", "", "`file` that apply wrote")
		fs.StringVar(&c.last, "last", "", "comma-separated `packages` whose last change in apt's history to revert")
		fs.BoolVar(&c.files, "files", false, "also bring back configuration and overwritten files")
		fs.DurationVar(&c.options.Settle, "settle", 5*time.Second, "how long a unit must stay up unchanged")
	}
	return fs
}

func usageError(format string, a ...any) error {
	return fmt.Errorf("%w: %s", errUsage, fmt.Sprintf(format, a...))
}

// open makes the host of the flags.
func (c *command) open() *debpkg.Host {
	r := debpkg.Local()
	if c.host != "" {
		r = debpkg.SSH(c.host, c.ssh)
	}
	if c.sudo {
		r = debpkg.Sudo(r)
	}
	return debpkg.New(r, c.options)
}
