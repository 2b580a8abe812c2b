package debpkg

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"example.com/tykupgrade/internal/run"
)

// SSHOptions changes how [SSH] connects. The zero value is what `ssh DEST`
// does, with the user's configuration, agent and jump hosts, except that
// unknown host keys are refused and nothing is ever asked.
type SSHOptions struct {
	Config     string        // ssh -F
	Port       int           // 0: from the configuration
	Identity   string        // ssh -i, a private key file
	KnownHosts string        // a known_hosts file instead of the user's
	Jump       string        // ssh -J
	Timeout    time.Duration // for connecting, and for noticing a dead connection; 0: 15 s
	// ControlDir is where connections are kept open for sharing, for a minute
	// after the last use. Empty: below the user's cache directory. "none": no
	// sharing.
	ControlDir string
}

// SSH runs commands on dest, "host" or "user@host", by means of the system's
// OpenSSH client (7.6 or newer), whose login shell there must understand POSIX
// quoting. When the connection cannot be made or is lost, the error matches
// [ErrConnection], and the command may still be running there.
func SSH(dest string, o SSHOptions) Runner {
	local := run.Local(run.Options{})
	return func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
		command, err := Quote(argv)
		if err != nil {
			return fmt.Errorf("run on %s: %w", dest, err)
		}
		args, err := o.argv(dest)
		if err != nil {
			return fmt.Errorf("connect to %s: %w", dest, err)
		}
		filter := &marker{w: stderr}
		err = local(ctx, append(args, command+ownExit), stdin, stdout, filter)
		filter.flush()
		return sshError(ctx, dest, err, filter)
	}
}

// ownExit tells an exit code 255 of the command from ssh's own 255 for a
// broken connection. The marker comes last on standard error.
const ownExit = `; rc=$?; [ $rc -ne 255 ] || printf '` + exitMark + `' >&2; exit $rc`

const exitMark = "\x01tykupgrade:255\x01"

// argv is the ssh command line up to the remote command.
func (o SSHOptions) argv(dest string) ([]string, error) {
	if dest == "" || strings.HasPrefix(dest, "-") {
		return nil, fmt.Errorf("%q is not a destination; write host or user@host", dest)
	}
	seconds := strconv.Itoa(int(max(time.Second, cmp.Or(o.Timeout, 15*time.Second)).Seconds()))
	argv := []string{"ssh", "-T", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
		"-o", "ConnectTimeout=" + seconds, "-o", "ServerAliveInterval=" + seconds, "-o", "ServerAliveCountMax=2"}
	add := func(flag, value string) {
		if value != "" {
			argv = append(argv, flag, value)
		}
	}
	add("-F", o.Config)
	add("-i", o.Identity)
	add("-J", o.Jump)
	if o.Port != 0 {
		add("-p", strconv.Itoa(o.Port))
	}
	if o.KnownHosts != "" {
		add("-o", "UserKnownHostsFile="+o.KnownHosts)
	}
	dir, err := o.controlDir()
	if err != nil {
		return nil, err
	}
	if dir == "" {
		argv = append(argv, "-o", "ControlPath=none")
	} else {
		argv = append(argv, "-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", "ControlPath="+filepath.Join(dir, "%C"))
	}
	return append(argv, "--", dest), nil
}

// controlDir returns the directory for shared connections, or "" where there
// can be none.
func (o SSHOptions) controlDir() (string, error) {
	dir := o.ControlDir
	if dir == "none" {
		return "", nil
	}
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", nil // no home directory: every command connects by itself
		}
		dir = filepath.Join(cache, "tykupgrade", "ssh")
	}
	// A Unix socket's path has at most 107 bytes; ssh makes one of the
	// directory, 40 hex digits and 18 bytes while it is being created.
	if len(dir) > 107-60 {
		return "", nil
	}
	return dir, os.MkdirAll(dir, 0o700)
}

func sshError(ctx context.Context, dest string, err error, m *marker) error {
	code := exitCode(err)
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case code == 255 && !m.seen, code == -1:
		var start interface{ Unwrap() []error }
		detail := strings.TrimSpace(m.tail.String())
		if e := (*run.Error)(nil); detail == "" && errors.As(err, &e) {
			detail = "ssh: " + e.Err.Error()
		}
		e := &Error{Op: "run on " + dest, Kind: ErrConnection, Detail: detail, Cause: err, Retry: true,
			Next: "the command may still be running there; check that `ssh " + dest + "` works without a question"}
		switch {
		case strings.Contains(detail, "connect to host"), strings.Contains(detail, "Could not resolve hostname"):
			e.Next = "check the address, and that `ssh " + dest + "` works without a question"
		case strings.Contains(detail, "Host key verification failed"), strings.Contains(detail, "No matching host key"):
			e.Retry, e.Next = false, "compare the host's key with the one its owner states, then add it to known_hosts"
		case strings.Contains(detail, "Permission denied"):
			e.Retry, e.Next = false, "load the right key into the agent, or name it; passwords are never asked for"
		case errors.As(err, &start) && strings.Contains(err.Error(), "executable file not found"):
			e.Retry, e.Next = false, "install the OpenSSH client here"
		}
		return e
	}
	return err
}

// marker passes standard error on and keeps the exit marker out of it.
type marker struct {
	w    io.Writer
	tail run.Tail
	held []byte // may be the beginning of the marker
	seen bool
}

func (m *marker) Write(p []byte) (int, error) {
	m.held = append(m.held, p...)
	for {
		i := bytes.IndexByte(m.held, exitMark[0])
		if i < 0 {
			m.pass(len(m.held))
			return len(p), nil
		}
		m.pass(i)
		if len(m.held) < len(exitMark) && strings.HasPrefix(exitMark, string(m.held)) {
			return len(p), nil
		}
		if bytes.HasPrefix(m.held, []byte(exitMark)) {
			m.held, m.seen = m.held[len(exitMark):], true
		} else {
			m.pass(1)
		}
	}
}

func (m *marker) flush() { m.pass(len(m.held)) }

func (m *marker) pass(n int) {
	_, _ = m.tail.Write(m.held[:n])
	if m.w != nil && n > 0 {
		_, _ = m.w.Write(m.held[:n])
	}
	m.held = m.held[n:]
}

// Quote returns a command line that a POSIX shell splits into argv again. It
// refuses what no command line can hold: a NUL byte, and no command at all.
func Quote(argv []string) (string, error) {
	if len(argv) == 0 || argv[0] == "" {
		return "", errors.New("no command given")
	}
	var b strings.Builder
	for i, arg := range argv {
		if strings.ContainsRune(arg, 0) {
			return "", fmt.Errorf("argument %d holds a NUL byte", i)
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		// An assignment or a keyword in front would be taken as such, so the
		// command itself is quoted whenever it is not a plain name.
		if arg != "" && !strings.ContainsFunc(arg, func(r rune) bool {
			return !(alnum(r) || strings.ContainsRune("_./:,@%+-", r) || r == '=' && i > 0)
		}) {
			b.WriteString(arg)
			continue
		}
		b.WriteString("'" + strings.ReplaceAll(arg, "'", `'\''`) + "'")
	}
	return b.String(), nil
}
