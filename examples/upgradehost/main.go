// Command upgradehost upgrades and reverts the Tyk packages of one Debian or
// Ubuntu host. It shows package debpkg at work: flags, values, calls, print.
package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"strings"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/examples/internal/cli"
)

const about = `Upgrades and reverts the Tyk packages of one Debian or Ubuntu host.

A PACKAGE is tyk-gateway=5.2.5, or tyk-gateway- to remove it. Components are upgraded one
after the other: dashboard, gateway, pump. Other packages follow in one step, so that one
edition can replace another.`

const notes = `Without -host it works on this machine.

  upgradehost plan -host ops@gw1 -sudo tyk-dashboard=5.2.5 tyk-gateway=5.2.5 tyk-pump=1.9.0
  upgradehost apply -host ops@gw1 -sudo -out change.json tyk-gateway=5.2.5
  upgradehost revert -host ops@gw1 -sudo -change change.json
  upgradehost revert -host ops@gw1 -sudo -last tyk-gateway,tyk-pump
  upgradehost forget -host ops@gw1 -sudo -change change.json
  upgradehost forget -host ops@gw1 -sudo -older-than 720h
`

func main() { commandOf(&options{}).Main() }

// options are the flags.
type options struct {
	dest    string
	ssh     debpkg.SSHOptions
	sudo    bool
	helper  bool
	debpkg  debpkg.Options
	debs    string
	out     string // where apply records the changes
	change  string // what revert and forget read
	keep    []string
	prune   cli.Pruning
	last    []string
	json    bool
	verbose bool

	noUpdate, stage, yes, files bool
}

func commandOf(o *options) cli.Command {
	host := func(f *flag.FlagSet) {
		f.StringVar(&o.dest, "host", "", "`user@host` to reach with the system's ssh (default "+
			"this machine)")
		f.StringVar(&o.ssh.Config, "ssh-config", "", "`file` for ssh -F")
		f.StringVar(&o.ssh.Identity, "ssh-identity", "", "private key `file` for ssh -i")
		f.StringVar(&o.ssh.Jump, "ssh-jump", "", "jump `host` for ssh -J")
		f.IntVar(&o.ssh.Port, "ssh-port", 0, "`port` of sshd (default from ssh's configuration)")
		f.BoolVar(&o.sudo, "sudo", false, "become root with sudo -n, which must not ask for a password")
		f.BoolVar(&o.helper, "helper", false, "become root with sudo and the helper that "+
			"install-helper installed")
		f.StringVar(&o.debpkg.Root, "root", "", "private root `directory`, with -apt-config (for "+
			"rehearsals)")
		f.StringVar(&o.debpkg.AptConfig, "apt-config", "", "`file` for APT_CONFIG")
		f.BoolVar(&o.json, "json", false, "print the result as JSON")
		f.BoolVar(&o.verbose, "v", false, "log every command")
	}
	wait := func(f *flag.FlagSet) {
		f.DurationVar(&o.debpkg.LockWait, "lock-wait", debpkg.DefaultLockWait,
			"how long to wait for other package managers")
	}
	conffiles := func(f *flag.FlagSet) {
		f.BoolVar(&o.debpkg.NewConffiles, "new-conffiles", false,
			"take the maintainer's configuration files over edited ones")
	}
	want := func(f *flag.FlagSet) {
		f.StringVar(&o.debs, "debs", "", "install from .deb files in this `directory` on the host, "+
			"without network")
		f.BoolVar(&o.noUpdate, "no-update", false, "do not update the package lists first")
		f.BoolVar(&o.debpkg.IgnoreSpace, "ignore-space", false, "go on although the disk looks too small")
		f.BoolVar(&o.debpkg.AcceptReleaseInfo, "accept-release-info", false,
			"accept that a source changed its Origin, Label or Suite")
	}
	keep := func(f *flag.FlagSet) {
		f.BoolVar(&o.debpkg.Hold, "hold", false, "put the packages on hold afterwards")
		f.BoolVar(&o.debpkg.Pin, "pin", false, "pin the versions in apt's preferences afterwards")
	}
	settle := func(f *flag.FlagSet) {
		f.DurationVar(&o.debpkg.Settle, "settle", 5*time.Second, "how long a unit must stay up unchanged")
	}
	verb := func(name, args, text string, run func(*job, context.Context) error,
		flags ...func(*flag.FlagSet)) cli.Verb {
		return cli.Verb{Name: name, Args: args, About: text,
			Needs: map[string]string{"keep": "older-than", "dry-run": "older-than"},
			Flags: func(f *flag.FlagSet) {
				for _, add := range append([]func(*flag.FlagSet){host}, flags...) {
					add(f)
				}
			},
			Run: func(ctx context.Context, c *cli.Call) error { return advise(run(o.job(c), ctx)) }}
	}
	const packages = "PACKAGE…"
	return cli.Command{Name: "upgradehost", About: about, Notes: notes, Verbs: []cli.Verb{
		verb("facts", "", "show what there is to know before an upgrade", (*job).facts),
		verb("plan", packages, "show what an upgrade would do; changes nothing", (*job).plan, want, keep, wait,
			conffiles),
		verb("apply", packages, "show the plan, ask, carry it out", (*job).apply, want, keep, wait, conffiles,
			settle, func(f *flag.FlagSet) {
				f.BoolVar(&o.yes, "yes", false, "do not ask")
				f.BoolVar(&o.stage, "stage", false, "install now, leave the old processes serving; restart "+
					"the units yourself")
				f.StringVar(&o.out, "out", "", "`file` for what revert -change needs (default "+
					"upgradehost-TIME.json)")
			}),
		verb("revert", "", "restore the previous state of a change", (*job).revert, keep, wait, settle,
			func(f *flag.FlagSet) {
				f.StringVar(&o.change, "change", "", "`file` that apply wrote")
				f.Func("last", "`packages`, separated by commas, whose last change in apt's history to revert",
					func(s string) error { o.last = strings.Split(s, ","); return nil })
				f.BoolVar(&o.files, "files", false, "also restore configuration and overwritten files")
			}),
		verb("repair", "", "finish what an interrupted run of apt or dpkg left half-installed",
			(*job).repair, wait, conffiles),
		verb("history", "", "show what apt did on the host", (*job).history),
		verb("forget", "", "remove what the host keeps for the revert of a change, and the file; or of "+
			"all old changes, but never of one that is unfinished",
			(*job).forget, func(f *flag.FlagSet) {
				f.StringVar(&o.change, "change", "", "`file` that apply wrote")
				o.prune.Flags(f)
				f.Func("keep", "with -older-than: keep the changes of this `file`, which apply wrote; may be "+
					"repeated", func(s string) error { o.keep = append(o.keep, s); return nil })
			}),
		verb("install-helper", "USER", "let a user do this through sudo without other rights; needs root",
			(*job).installHelper),
	}}
}

// job is one call of a verb.
type job struct {
	*options
	*cli.Call
	run  debpkg.Runner // as root
	host *debpkg.Host
}

func (o *options) job(c *cli.Call) *job {
	j := &job{options: o, Call: c}
	r := debpkg.Local()
	if o.dest != "" {
		r = debpkg.SSH(o.dest, o.ssh)
	}
	switch {
	case o.helper:
		r = debpkg.Helper(r)
	case o.sudo:
		r = debpkg.Sudo(r)
	}
	level := slog.LevelWarn
	if o.verbose {
		level = slog.LevelDebug
	}
	o.debpkg.Log = slog.New(slog.NewTextHandler(c.Err, &slog.HandlerOptions{Level: level}))
	o.debpkg.Events = j.progress
	j.run, j.host = r, debpkg.New(r, o.debpkg)
	return j
}

// advise gives an error its exit code, and names flags and verbs where the
// package's own hint names its calls.
func advise(err error) error {
	for _, a := range []struct {
		kind error
		code int
		hint string
	}{
		{debpkg.ErrNotRoot, cli.No, "give -sudo with a user who has NOPASSWD, or log in as root"},
		{debpkg.ErrLocked, cli.Busy, "wait for the other program to end, or give a longer -lock-wait"},
		{debpkg.ErrChanged, cli.Refused, "look at what changed on the host, and call apply again"},
		{debpkg.ErrRefused, cli.Refused, "change the request; upgradehost plan lists every reason"},
		{debpkg.ErrInterrupted, cli.No, "call upgradehost repair, or revert the change"},
		{debpkg.ErrHelper, cli.Refused, "call upgradehost install-helper as root, or give -sudo with a " +
			"user who may do everything"},
		{debpkg.ErrUnsafe, cli.Refused, "give the directory or file to root or to yourself, and take the " +
			"others' write permission away"},
		{debpkg.ErrSource, cli.No, "correct the source, or give -accept-release-info if the " +
			"change is meant"},
	} {
		if errors.Is(err, a.kind) && cli.Code(err) == cli.No {
			return cli.Exit(a.code, cli.Advice(err, a.hint))
		}
	}
	return err
}
