package debpkg

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"example.com/tykupgrade/internal/lazyregexp"
	"example.com/tykupgrade/internal/run"
)

// Runner runs a command on a host and returns once it has ended. It returns nil for exit code 0,
// and otherwise an error with a method ExitCode() int. An error that matches [ErrConnection] means
// that the command may still be running. Streams may be nil. It may be called concurrently.
// [Local], [SSH] and [Sudo] return Runners.
type Runner = func(ctx context.Context, argv []string, stdin io.Reader, stdout,
	stderr io.Writer) error

// Local returns a Runner for this machine.
func Local() Runner {
	return func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
		vars, argv := withoutEnv(argv)
		return run.Local(run.Options{Env: vars})(ctx, argv, stdin, stdout, stderr)
	}
}

// withoutEnv saves the process of env(1), which precedes every command of a Host. It leaves a
// program that is not on the new PATH to env.
func withoutEnv(argv []string) (vars, rest []string) {
	if len(argv) == 0 || argv[0] != "env" {
		return nil, argv
	}
	path := ""
	for rest = argv[1:]; len(rest) > 0 && strings.Index(rest[0], "=") > 0; rest = rest[1:] {
		if p, ok := strings.CutPrefix(rest[0], "PATH="); ok {
			path = p
		}
		vars = append(vars, rest[0])
	}
	if len(rest) == 0 || strings.HasPrefix(rest[0], "-") || strings.Contains(rest[0], "/") {
		return nil, argv
	}
	for _, dir := range filepath.SplitList(path) {
		if program, err := exec.LookPath(filepath.Join(dir, rest[0])); err == nil && filepath.IsAbs(dir) {
			return vars, append([]string{program}, rest[1:]...)
		}
	}
	return nil, argv
}

// Sudo returns a Runner that runs the commands of r as root through `sudo -n`, which never asks for
// a password. The user needs NOPASSWD for all commands.
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

// DefaultLockWait is how long calls wait for other package managers if [Options.LockWait] is zero.
const DefaultLockWait = 5 * time.Minute

// Options changes how a [Host] works. The zero value is for the running system.
type Options struct {
	// Root is the directory in which apt and dpkg work. AptConfig must set them up for it.
	// Units are then left alone. Empty: the system itself. For a chroot, wrap the Runner
	// instead.
	Root string
	// AptConfig is a file on the host for apt's environment variable
	// APT_CONFIG.
	AptConfig string
	// StateDir is the directory on the host for saved packages and configuration, and for the
	// results of runs. Empty: /var/lib/tykupgrade, below Root.
	StateDir string
	// NewConffiles takes the maintainer's file if an edited configuration file conflicts with a
	// new one. The default keeps the edited file.
	NewConffiles bool
	// NoFetch keeps Plan from downloading the candidates. Their conffiles and scripts are then
	// unknown, and Plan marks what it assumes.
	NoFetch bool
	// Hold puts the packages on hold after Apply and after Revert, so that the next upgrade of
	// the system does not change them. Packages that are on hold stay on hold in any case.
	Hold bool
	// Pin pins the versions after Apply and Revert, with priority 1001. Each package has a
	// file, /etc/apt/preferences.d/tykupgrade-NAME.pref. If such a file exists, Apply and
	// Revert update it without Pin too. Other pins stay.
	Pin bool
	// IgnoreSpace makes a lack of disk space a note of the plan instead of a refusal.
	IgnoreSpace bool
	// AcceptReleaseInfo lets Update accept a changed Origin, Label, Suite or Codename of a
	// source (apt-get --allow-releaseinfo-change).
	AcceptReleaseInfo bool
	// LockWait is how long to wait for other package managers. Zero: [DefaultLockWait].
	LockWait time.Duration
	// Settle is how long a unit must run without a restart to count as stable. SettleLimit is
	// when to give up. Zero: 5 s and 60 s.
	Settle, SettleLimit time.Duration
	Log                 *slog.Logger // nil: silent
	Events              func(Event)  // progress, called synchronously; nil: none
}

// Host is one Debian or Ubuntu system. It keeps no state between calls. Its methods may be called
// concurrently, but the host's own locks make some of them wait.
type Host struct {
	run Runner
	o   Options
	err error // the error in the options; every call returns it

	limit int // bytes that a command may print on a stream
}

// New returns the host on which r runs commands. It does no I/O. Most calls need root there, for
// example through [Sudo].
func New(r Runner, o Options) *Host {
	h := &Host{run: r, o: o, limit: maxOutput}
	for name, dir := range map[string]string{"Root": o.Root, "AptConfig": o.AptConfig,
		"StateDir": o.StateDir} {
		if dir != "" && !path.IsAbs(dir) {
			h.err = task{"use", "debpkg"}.fail(Error{Detail: fmt.Sprintf("option %s is %q", name, dir),
				Next: "use an absolute path"})
		}
	}
	if r == nil {
		h.err = task{"use", "debpkg"}.fail(Error{Detail: "no Runner is given",
			Next: "use Local() or SSH(...)"})
	}
	if o.LockWait < 0 || o.Settle < 0 || o.SettleLimit < 0 {
		h.err = task{"use", "debpkg"}.fail(Error{Detail: "a duration in the options is negative",
			Next: "use zero for the default"})
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
