package debpkg

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"example.com/tykupgrade/internal/run"
)

// SSHOptions changes how [SSH] connects. The zero value connects like `ssh DEST`, with the user's
// configuration, agent and jump hosts. It refuses unknown host keys, never asks a question, and
// forwards nothing to the host.
type SSHOptions struct {
	Config     string        // ssh -F
	Port       int           // 0: from the configuration
	Identity   string        // ssh -i, a private key file
	KnownHosts string        // a known_hosts file instead of the user's
	Jump       string        // ssh -J
	Timeout    time.Duration // to connect, and to detect a dead connection; 0: 15 s
	// Forward keeps the forwarding of the agent, X11 and ports in the user's configuration.
	// Root on the host can use what is forwarded.
	Forward bool
	// ControlDir is the directory for shared connections, which stay open for a minute after
	// their last use. It must belong to this user and be writable by nobody else. Empty: a
	// directory below the user's cache directory. "none": no sharing. A path of more than 56
	// bytes is too long for a socket, so connections are not shared there.
	ControlDir string
}

// SSH returns a Runner for dest, "host" or "user@host". It uses the system's OpenSSH client, 7.6 or
// newer. The first call returns an [ErrShell] unless the login shell is a POSIX shell, because
// other shells run a script line by line. If the connection fails or is lost, the error matches
// [ErrConnection], and the command may still be running.
func SSH(dest string, o SSHOptions) Runner {
	local := run.Local(run.Options{})
	remote := func(ctx context.Context, command string, stdin io.Reader, stdout,
		stderr io.Writer) error {
		args, err := o.argv(dest)
		if err != nil {
			return task{"connect", "to " + dest}.wrap(err)
		}
		filter := &marker{w: stderr}
		err = local(ctx, append(args, command), stdin, stdout, filter)
		filter.flush()
		return sshError(ctx, dest, err, filter)
	}
	shell := &probe{}
	return func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
		command, err := Quote(argv)
		if err != nil {
			return task{"run", "on " + dest}.wrap(err)
		}
		if err := shell.check(ctx, dest, remote); err != nil {
			return err
		}
		return remote(ctx, command+ownExit, stdin, stdout, stderr)
	}
}

// probe remembers that the login shell understands the output of Quote.
type probe struct {
	mu sync.Mutex
	ok bool
}

// probeLine prints posix2 in a POSIX shell. fish and csh refuse it or print
// something else, and it does nothing there.
const probeLine = `x=1; [ "$x" = 1 ] && printf 'posix%s' "$((x+1))"`

func (p *probe) check(ctx context.Context, dest string, remote func(ctx context.Context,
	command string, stdin io.Reader, stdout, stderr io.Writer) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ok {
		return nil
	}
	var out, errOut run.Tail
	err := remote(ctx, probeLine+ownExit, nil, &out, &errOut)
	if strings.Contains(out.String(), "posix2") && err == nil {
		p.ok = true
		return nil
	}
	if err != nil && (ctx.Err() != nil || errors.Is(err, ErrConnection) || exitCode(err) < 0) {
		return err
	}
	return &Error{Op: "run", Object: "on " + dest, Kind: ErrShell,
		Detail: strings.TrimSpace(tidy(errOut.String())), Err: err,
		Next: "give the user a POSIX login shell such as /bin/sh, or connect as another user"}
}

// ownExit distinguishes an exit code 255 of the command from ssh's own 255 for a broken connection.
// The marker comes last on standard error.
const ownExit = `; rc=$?; [ $rc -ne 255 ] || printf '` + exitMark + `' >&2; exit $rc`

const exitMark = "\x01tykupgrade:255\x01"

// argv returns the ssh command line up to the remote command.
func (o SSHOptions) argv(dest string) ([]string, error) {
	if dest == "" || strings.HasPrefix(dest, "-") {
		return nil, fmt.Errorf("%q is not a destination; want host or user@host", dest)
	}
	seconds := strconv.Itoa(int(max(time.Second, cmp.Or(o.Timeout, 15*time.Second)).Seconds()))
	argv := []string{"ssh", "-T", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
		"-o", "ConnectTimeout=" + seconds, "-o", "ServerAliveInterval=" + seconds, "-o",
		"ServerAliveCountMax=2"}
	if !o.Forward {
		argv = append(argv, "-a", "-x", "-o", "ClearAllForwardings=yes")
	}
	add := func(flag, value string) {
		if value != "" {
			argv = append(argv, flag, value)
		}
	}
	add("-F", o.Config)
	add("-i", strings.ReplaceAll(o.Identity, "%", "%%"))
	add("-J", o.Jump)
	if o.Port != 0 {
		add("-p", strconv.Itoa(o.Port))
	}
	if o.KnownHosts != "" {
		file, err := quoteOption(o.KnownHosts)
		if err != nil {
			return nil, err
		}
		add("-o", "UserKnownHostsFile="+file)
	}
	dir, err := o.controlDir()
	if err != nil {
		return nil, err
	}
	if dir == "" {
		argv = append(argv, "-o", "ControlPath=none")
	} else {
		socket, err := quoteOption(strings.ReplaceAll(filepath.Join(dir, o.master(dest)), "%", "%%"))
		if err != nil {
			return nil, err
		}
		argv = append(argv, "-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", "ControlPath="+
			socket)
	}
	return append(argv, "--", dest), nil
}

// quoteOption quotes a path for ssh's configuration, in which blanks separate words.
func quoteOption(path string) (string, error) {
	if strings.ContainsAny(path, "\"\n") {
		return "", fmt.Errorf("ssh does not accept the path %q; use one without quotes and line ends",
			path)
	}
	return `"` + path + `"`, nil
}

// master names the shared connection. Only Runners with the same login and the same host keys share
// one, because the second user does not check the key again.
func (o SSHOptions) master(dest string) string {
	sum := sha256.New()
	home, _ := os.UserHomeDir()
	fmt.Fprintf(sum, "%q %d %q %q %q %q %t\n", dest, o.Port, o.Config, o.Identity, o.KnownHosts,
		o.Jump, o.Forward)
	for _, f := range []string{cmp.Or(o.Config, filepath.Join(home, ".ssh", "config")),
		cmp.Or(o.KnownHosts, filepath.Join(home, ".ssh", "known_hosts"))} {
		if info, err := os.Stat(f); err == nil && info.Mode().IsRegular() {
			fmt.Fprintf(sum, "%d %d\n", info.Size(), info.ModTime().UnixNano())
		}
	}
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

// controlDir returns the directory for shared connections, or "" if there can
// be none.
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
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	// A Unix socket's path has at most 107 bytes. ssh uses the directory, a slash, 32 hex
	// digits, and 18 bytes more during the creation.
	if len(dir) > 107-51 {
		return "", nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	return dir, private(dir)
}

// private refuses a directory that somebody else could exchange or write to. A
// parent with the sticky bit, such as /tmp, lets nobody exchange what is ours.
func private(dir string) error {
	for d, last := dir, true; ; d, last = filepath.Dir(d), false {
		info, err := os.Lstat(d)
		if err != nil {
			return err
		}
		if info.Mode()&os.ModeSymlink != 0 {
			if info, err = os.Stat(d); err != nil {
				return err
			}
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || int(st.Uid) != os.Geteuid() && st.Uid != 0 || info.Mode().Perm()&0o022 != 0 &&
			(last || info.Mode()&os.ModeSticky == 0) {
			return &Error{Op: "use", Object: dir + " for shared connections", Kind: ErrUnsafe, Detail: d +
				" belongs to, or can be written to by, somebody else",
				Next: "set ControlDir to a directory of your own, or to none"}
		}
		if d == filepath.Dir(d) {
			return nil
		}
	}
}

func sshError(ctx context.Context, dest string, err error, m *marker) error {
	code := exitCode(err)
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case code == 255 && !m.seen, code == -1:
		var start interface{ Unwrap() []error }
		detail := strings.TrimSpace(tidy(m.tail.String()))
		if e := (*run.Error)(nil); detail == "" && errors.As(err, &e) {
			detail = "ssh: " + e.Err.Error()
		}
		e := &Error{Op: "run", Object: "on " + dest, Kind: ErrConnection, Detail: detail, Err: err,
			Retry: true,
			Next: "the command may still be running there; check that `ssh " + dest +
				"` works without a question"}
		switch {
		case strings.Contains(detail, "connect to host"), strings.Contains(detail,
			"Could not resolve hostname"):
			e.Next = "check the address, and that `ssh " + dest + "` works without a question"
		case strings.Contains(detail, "Host key verification failed"), strings.Contains(detail,
			"No matching host key"):
			e.Retry, e.Next = false, "compare the host's key with its owner's copy, then add it "+
				"to known_hosts"
		case strings.Contains(detail, "Permission denied"):
			e.Retry, e.Next = false, "load the right key into the agent, or set Identity; ssh never "+
				"asks for a password"
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
	held []byte // possible beginning of the marker
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

// Quote returns a command line that a POSIX shell splits into argv again. An empty argv and an
// argument with a NUL byte are errors.
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
		// A shell would interpret an assignment or a keyword in front, so the command
		// itself is quoted unless it is a plain name.
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
