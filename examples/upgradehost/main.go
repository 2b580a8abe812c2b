// Command upgradehost upgrades and reverts the Tyk packages of one Debian or
// Ubuntu host. It shows package debpkg at work: flags, values, calls, print.
package main

import (
	"context"
	"log/slog"

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

func main() { program(debpkg.Local()).Main() }

// flags by the verbs Facts, Plan, Apply, reVert, Repair, History, forGet and install-helper (I).
const flags cli.Table = `
FPAVRHGI host=         <user@host> to reach with the system's ssh (default this machine)
FPAVRHGI ssh-config=   <file> for ssh -F
FPAVRHGI ssh-identity= private key <file> for ssh -i
FPAVRHGI ssh-jump=     jump <host> for ssh -J
FPAVRHGI ssh-port#     <port> of sshd (default from ssh's configuration)
FPAVRHGI sudo          become root with sudo -n, which must not ask for a password
FPAVRHGI helper        become root with sudo and the helper that install-helper installed
FPAVRHGI root=         private root <directory>, with -apt-config (for rehearsals)
FPAVRHGI apt-config=   <file> for APT_CONFIG
FPAVRHGI json          print the result as JSON
FPAVRHGI v             log every command
PAVR lock-wait~=5m     how long to wait for other package managers
PAR new-conffiles      take the maintainer's configuration files over edited ones
PA debs=               install from .deb files in this <directory> on the host, without network
PA no-update           do not update the package lists first
PA ignore-space        continue although the disk looks too small
PA accept-release-info accept that a source changed its Origin, Label or Suite
PAV hold               put the packages on hold afterwards
PAV pin                pin the versions in apt's preferences afterwards
AV settle~=5s          how long a unit must stay up unchanged
A yes                  do not ask
A stage                install now, leave the old processes serving; restart the units yourself
A out=                 <file> for what revert -change needs (default upgradehost-TIME.json)
VG change=             <file> that apply wrote
V last=                <packages>, separated by commas, whose last change in apt's history to revert
V files                also restore configuration and overwritten files
G older-than~          forget what changes that ended longer ago than this <AGE>, such as 720h, keep
                       for a revert
G dry-run              only say what would be forgotten
G keep…                with -older-than: keep the changes of this <file>, which apply wrote; may be
                       repeated
`

// program is the command. local runs what is for this machine.
func program(local debpkg.Runner) cli.Command {
	verb := func(letter, name, args, about string, do func(*job, context.Context) error) cli.Verb {
		return cli.Verb{Name: name, Args: args, About: about, Flags: flags.Flags(letter),
			Needs:    map[string]string{"keep": "older-than", "dry-run": "older-than"},
			Excludes: map[string]string{"sudo": "helper"},
			Run: func(ctx context.Context, c *cli.Call) error {
				return advise(do(newJob(c, local), ctx))
			}}
	}
	const packages = "PACKAGE…"
	return cli.Command{Name: "upgradehost", About: about, Notes: notes, Verbs: []cli.Verb{
		verb("F", "facts", "", "show what there is to know before an upgrade", (*job).facts),
		verb("P", "plan", packages, "show what an upgrade would do; changes nothing", (*job).plan),
		verb("A", "apply", packages, "show the plan, ask, carry it out", (*job).apply),
		verb("V", "revert", "", "restore the previous state of a change", (*job).revert),
		verb("R", "repair", "", "finish what an interrupted run of apt or dpkg left half-installed",
			(*job).repair),
		verb("H", "history", "", "show what apt did on the host", (*job).history),
		verb("G", "forget", "", "remove what the host keeps for the revert of a change, and the file; or "+
			"of all old changes, but never of one that is unfinished", (*job).forget),
		verb("I", "install-helper", "USER", "let a user do this through sudo without other permissions; "+
			"needs root", (*job).installHelper),
	}}
}

// job is one call of a verb.
type job struct {
	*cli.Call
	run  debpkg.Runner // as root
	host *debpkg.Host
}

func newJob(c *cli.Call, r debpkg.Runner) *job {
	if dest := c.Text("host"); dest != "" {
		r = debpkg.SSH(dest, debpkg.SSHOptions{Config: c.Text("ssh-config"),
			Identity: c.Text("ssh-identity"), Jump: c.Text("ssh-jump"), Port: c.Number("ssh-port")})
	}
	switch {
	case c.On("helper"):
		r = debpkg.Helper(r)
	case c.On("sudo"):
		r = debpkg.Sudo(r)
	}
	level := slog.LevelWarn
	if c.On("v") {
		level = slog.LevelDebug
	}
	return &job{Call: c, run: r, host: debpkg.New(r, debpkg.Options{Root: c.Text("root"),
		AptConfig: c.Text("apt-config"), LockWait: c.Duration("lock-wait"), Settle: c.Duration("settle"),
		NewConffiles: c.On("new-conffiles"), IgnoreSpace: c.On("ignore-space"),
		AcceptReleaseInfo: c.On("accept-release-info"), Hold: c.On("hold"), Pin: c.On("pin"),
		Events: progress(c.Err),
		Log:    slog.New(slog.NewTextHandler(c.Err, &slog.HandlerOptions{Level: level}))})}
}

// advise gives an error its exit code, and names flags and verbs where the
// package's own hint names its calls.
func advise(err error) error {
	return cli.Translate(err, cli.Cases{
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
	})
}
