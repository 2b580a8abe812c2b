package debpkg

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"path"
	"strconv"
	"strings"
	"time"

	"example.com/tykupgrade/internal/lazyregexp"
	"example.com/tykupgrade/internal/run"
)

// Runner runs a command on a host and returns once it has ended. It returns nil
// for exit code 0, and otherwise an error with a method ExitCode() int. An error
// that matches [ErrConnection] means that the command may still be running.
// Streams may be nil. Several goroutines may call it. [Local], [SSH] and [Sudo]
// make Runners.
type Runner = func(ctx context.Context, argv []string, stdin io.Reader, stdout,
	stderr io.Writer) error

// Local runs commands on this machine.
func Local() Runner { return run.Local(run.Options{}) }

// Sudo runs commands of r as root through `sudo -n`, which never asks for a
// password. The user needs NOPASSWD for all commands.
func Sudo(r Runner) Runner {
	return func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
		var tail run.Tail
		errOut := io.Writer(&tail)
		if stderr != nil {
			errOut = io.MultiWriter(stderr, &tail)
		}
		// sudo's own messages are in the language of its caller.
		err := r(ctx, append([]string{"env", "LC_ALL=C", "sudo", "-n", "--"}, argv...), stdin, stdout,
			errOut)
		if text := sudoRefusal.FindString(tail.String()); err != nil && text != "" {
			return &Error{Op: "run", Object: argv[0] + " through sudo", Kind: ErrNotRoot, Detail: tidy(text),
				Err:  err,
				Next: "give the user NOPASSWD for all commands and no requiretty in sudoers, or log in as root"}
		}
		return err
	}
}

// Seen with sudo 1.8 to 1.9 in the C locale.
var sudoRefusal = lazyregexp.New(
	`(?m)^(?:sudo: (?:a password is required|.*(?:must have a tty|a terminal is required|no tty present|not allowed|may not run|setuid root|no new privileges).*|unable to .*sudoers.*|no valid sudoers sources found.*)|Sorry, user .* (?:is not allowed|may not run) .*|\S+ is not (?:in the sudoers file|allowed to run sudo).*)$`)

// DefaultLockWait is how long Apply and its like wait for other package
// managers when [Options.LockWait] is zero.
const DefaultLockWait = 5 * time.Minute

// Options changes how a [Host] works. The zero value is the running system
// with Tyk's packages.
type Options struct {
	// Root is the directory that apt and dpkg work in, together with AptConfig,
	// which must set them up for it; units and services are then left alone.
	// Empty: the system itself. For a chroot, wrap the Runner instead.
	Root string
	// AptConfig is a file on the host for apt's environment variable
	// APT_CONFIG.
	AptConfig string
	// StateDir is where the host keeps saved packages and configuration, and
	// what became of each Apply. Empty: /var/lib/tykupgrade, below Root.
	StateDir string
	// NewConffiles takes the maintainer's configuration files where an edited
	// one conflicts with a new one. The default keeps the edited ones.
	NewConffiles bool
	// NoFetch keeps Plan from downloading the candidates. Plan then marks as assumed
	// what only the candidates say: their conffiles and scripts.
	NoFetch bool
	// Hold puts the packages on hold after Apply and after Revert, so that the
	// next upgrade of the system leaves their versions alone. Packages that are
	// on hold already stay so in either case.
	Hold bool
	// Pin pins the versions that Apply and Revert leave, with priority 1001, in a file for
	// each package: /etc/apt/preferences.d/tykupgrade-NAME.pref. A pin that such a file
	// holds already follows the package without Pin too, so that it never names a version
	// that was left behind. Pins of others stay.
	Pin bool
	// IgnoreSpace makes too little free space a note of the plan instead of a
	// refusal.
	IgnoreSpace bool
	// AcceptReleaseInfo lets Update accept that a source changed its Origin,
	// Label, Suite or Codename (apt-get --allow-releaseinfo-change).
	AcceptReleaseInfo bool
	// LockWait is how long to wait for other package managers.
	LockWait time.Duration
	// Settle is how long a unit must stay up unchanged to count as stable, and
	// SettleLimit when to give up. Zero: 5 s and 60 s.
	Settle, SettleLimit time.Duration
	Log                 *slog.Logger // nil: silent
	Events              func(Event)  // progress, called synchronously; nil: none
}

// Host is one Debian or Ubuntu system. Its methods hold no state between
// calls, and may be called by several goroutines as far as the host's own
// locks let them get on.
type Host struct {
	run Runner
	o   Options
	err error // what is wrong with the options; every call returns it

	limit int // bytes that a command may print on a stream
}

// New returns the host that r runs commands on. It does no I/O. Most calls
// need root there: a Runner of root's, or [Sudo].
func New(r Runner, o Options) *Host {
	h := &Host{run: r, o: o, limit: maxOutput}
	for name, dir := range map[string]string{"Root": o.Root, "AptConfig": o.AptConfig,
		"StateDir": o.StateDir} {
		if dir != "" && !path.IsAbs(dir) {
			h.err = task{"use", "debpkg"}.fail(Error{Detail: fmt.Sprintf("option %s is %q", name, dir),
				Next: "give an absolute path"})
		}
	}
	if r == nil {
		h.err = task{"use", "debpkg"}.fail(Error{Detail: "no Runner given",
			Next: "take Local() or SSH(...)"})
	}
	if o.LockWait < 0 || o.Settle < 0 || o.SettleLimit < 0 {
		h.err = task{"use", "debpkg"}.fail(Error{Detail: "a duration in the options is negative",
			Next: "give zero for the default"})
	}
	if o.Root == "/" {
		h.o.Root = ""
	}
	h.o.StateDir = cmp.Or(o.StateDir, h.path("/var/lib/tykupgrade"))
	h.o.LockWait = cmp.Or(o.LockWait, DefaultLockWait)
	h.o.Settle = cmp.Or(o.Settle, 5*time.Second)
	h.o.SettleLimit = cmp.Or(o.SettleLimit, time.Minute)
	if o.Log == nil {
		h.o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Events == nil {
		h.o.Events = func(Event) {}
	}
	return h
}

// path puts an absolute path of the system below Root.
func (h *Host) path(p string) string { return path.Join("/", h.o.Root, p) }

// fields splits the lines of text at tabs and drops lines of other lengths.
func fields(text string, n int) [][]string {
	var rows [][]string
	for line := range strings.Lines(text) {
		if f := strings.Split(strings.TrimSuffix(line, "\n"), "\t"); len(f) == n {
			rows = append(rows, f)
		}
	}
	return rows
}

func number64(s string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
