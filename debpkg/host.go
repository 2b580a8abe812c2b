package debpkg

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"example.com/tykupgrade/internal/run"
)

// Runner runs a command on a host and returns once it has ended: nil for exit
// code 0, otherwise an error with a method ExitCode() int, or one that matches
// [ErrConnection] when it is not known what became of the command. Streams may
// be nil. [Local], [SSH] and [Sudo] make Runners.
type Runner func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error

// Local runs commands on this machine.
func Local() Runner { return run.Local(run.Options{}) }

// Sudo runs commands of r as root by way of `sudo -n`, which never asks for a
// password: the user needs NOPASSWD for all commands.
func Sudo(r Runner) Runner {
	return func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
		var tail run.Tail
		errOut := io.Writer(&tail)
		if stderr != nil {
			errOut = io.MultiWriter(stderr, &tail)
		}
		err := r(ctx, append([]string{"sudo", "-n", "--"}, argv...), stdin, stdout, errOut)
		if text := tail.String(); err != nil && strings.Contains(text, "sudo:") && (strings.Contains(text, "password") || strings.Contains(text, "not allowed")) {
			return &Error{Op: "run " + argv[0] + " through sudo", Kind: ErrNotRoot, Detail: strings.TrimSpace(text), Cause: err,
				Next: "give the user NOPASSWD for all commands in sudoers, or log in as root"}
		}
		return err
	}
}

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
	// NoFetch keeps Plan from downloading the candidates. What it then cannot
	// know (the candidates' conffiles and scripts) is marked as assumed.
	NoFetch bool
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
}

// New returns the host that r runs commands on. It does no I/O. Most calls
// need root there: a Runner of root's, or [Sudo].
func New(r Runner, o Options) *Host {
	h := &Host{run: r, o: o}
	for name, dir := range map[string]string{"Root": o.Root, "AptConfig": o.AptConfig, "StateDir": o.StateDir} {
		if dir != "" && !path.IsAbs(dir) {
			h.err = fmt.Errorf("use debpkg: option %s is %q; give an absolute path", name, dir)
		}
	}
	if r == nil {
		h.err = errors.New("use debpkg: no Runner given; take Local() or SSH(...)")
	}
	if o.LockWait < 0 || o.Settle < 0 || o.SettleLimit < 0 {
		h.err = errors.New("use debpkg: a negative duration in the options")
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

// env is what every command of ours runs under. NEEDRESTART_SUSPEND keeps
// needrestart's dpkg hook from asking; sbin is missing from the path of an SSH
// session, and dpkg refuses to work without it.
func (h *Host) env() []string {
	env := []string{"env", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_SUSPEND=1",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if h.o.AptConfig != "" {
		env = append(env, "APT_CONFIG="+h.o.AptConfig)
	}
	return env
}

func (h *Host) dpkgRoot() []string {
	if h.o.Root == "" {
		return nil
	}
	return []string{"--root=" + h.o.Root}
}

// stream runs a command with our environment.
func (h *Host) stream(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer, argv ...string) error {
	if h.err != nil {
		return h.err
	}
	h.o.Log.DebugContext(ctx, "run", "argv", argv)
	return brief(ctx, h.run(ctx, append(h.env(), argv...), stdin, stdout, stderr))
}

// output runs a command and returns its standard output.
func (h *Host) output(ctx context.Context, argv ...string) (string, error) {
	var out, errOut bytes.Buffer
	err := h.stream(ctx, nil, &out, &errOut, argv...)
	return out.String(), explain(ctx, err, errOut.String())
}

// combined runs a command and returns what it printed on both streams.
func (h *Host) combined(ctx context.Context, argv ...string) (string, error) {
	var out lockedBuffer
	err := h.stream(ctx, nil, &out, &out, argv...)
	return out.b.String(), err
}

// lockedBuffer takes both streams of a command, which a Runner copies
// concurrently.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// script runs a POSIX shell script; its arguments are $1 and so on.
func (h *Host) script(ctx context.Context, stdin io.Reader, text string, args ...string) (string, error) {
	var out, errOut bytes.Buffer
	err := h.stream(ctx, stdin, &out, &errOut, append([]string{"sh", "-c", text, "sh"}, args...)...)
	return out.String(), explain(ctx, err, errOut.String())
}

// brief makes the error of a command short: the argv of a script is the script.
func brief(ctx context.Context, err error) error {
	var e *run.Error
	switch {
	case err == nil, errors.Is(err, ErrConnection), errors.Is(err, ErrNotRoot):
		return err
	case ctx.Err() != nil:
		return ended(ctx)
	case errors.As(err, &e):
		return &commandError{text: e.Err.Error(), err: err}
	}
	return err
}

// explain tells what a command printed, where it did.
func explain(ctx context.Context, err error, stderr string) error {
	if err == nil || ctx.Err() != nil || errors.Is(err, ErrConnection) || errors.Is(err, ErrNotRoot) {
		return err
	}
	if text := strings.TrimSpace(stderr); text != "" {
		return &commandError{text: redact(text), err: err}
	}
	return err
}

type commandError struct {
	text string
	err  error
}

func (e *commandError) Error() string { return e.text }
func (e *commandError) Unwrap() error { return e.err }

// exitCode is the command's exit code, or -1 when it has none.
func exitCode(err error) int {
	var e interface{ ExitCode() int }
	if err == nil {
		return 0
	}
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return -1
}

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
