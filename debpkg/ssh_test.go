package debpkg_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab"
)

// A client that is killed without a word is a lost connection.
func TestSSHKilled(t *testing.T) {
	t.Parallel()
	lab.Program(t, "ssh", "openssh-client")
	config := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(config, []byte("ProxyCommand kill -KILL $PPID\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := debpkg.New(debpkg.SSH("gw1", debpkg.SSHOptions{Config: config, ControlDir: "none"}),
		debpkg.Options{}).Units(t.Context(), "x.service")
	wantError(t, err, debpkg.ErrConnection, "run on gw1: connection to the host failed: ssh: "+
		"signal: killed; the command may still")
}

// SSH as a Runner: exit codes, streams, and what is wrong with a connection.
func TestHostSSH(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	ctx := t.Context()
	r := m.ssh("root")
	var out, errOut bytes.Buffer
	words := []string{"", " ", "a'b", `"$x"`, "\\", "*", "é\n", "--", "!x", "~"}
	if err := r(ctx, append([]string{"printf", "%s|"}, words...), nil, &out, nil); err != nil ||
		out.String() != strings.Join(words, "|")+"|" {
		t.Errorf("%q, %v", out.String(), err)
	}
	out.Reset()
	if err := r(ctx, []string{"sh", "-c", "cat; echo err >&2"}, strings.NewReader("in"), &out,
		&errOut); err != nil || out.String() != "in" || errOut.String() != "err\n" {
		t.Errorf("%q, %q, %v", out.String(), errOut.String(), err)
	}
	for _, code := range []int{1, 100, 254, 255} {
		errOut.Reset()
		err := r(ctx, []string{"sh", "-c", fmt.Sprintf("echo words >&2; exit %d", code)}, nil, nil,
			&errOut)
		var e interface{ ExitCode() int }
		if errors.Is(err, debpkg.ErrConnection) || !errors.As(err, &e) || e.ExitCode() != code ||
			errOut.String() != "words\n" {
			t.Errorf("exit %d: %v, %q", code, err, errOut.String())
		}
	}
	for name, c := range map[string]struct {
		dest  string
		o     debpkg.SSHOptions
		text  string
		retry bool
	}{
		"unknown host key": {"root@" + m.Addr, debpkg.SSHOptions{Config: m.SSHConfig(),
			KnownHosts: "/dev/null", ControlDir: "none"}, "known_hosts", false},
		"no such user": {"nobody-there@" + m.Addr, debpkg.SSHOptions{Config: m.SSHConfig(),
			ControlDir: "none"}, "agent", false},
		"nobody listens": {"root@" + m.Addr, debpkg.SSHOptions{Config: m.SSHConfig(),
			ControlDir: "none", Port: 9}, "works without a question", true},
	} {
		err := debpkg.SSH(c.dest, c.o)(ctx, []string{"true"}, nil, nil, nil)
		wantError(t, err, debpkg.ErrConnection, c.text)
		var e *debpkg.Error
		if !errors.As(err, &e) || e.Retryable() != c.retry {
			t.Errorf("%s: retryable %t", name, e.Retryable())
		}
	}
	for _, dest := range []string{"", "-oProxyCommand=touch /tmp/x"} {
		if err := debpkg.SSH(dest, debpkg.SSHOptions{})(ctx, []string{"true"}, nil, nil,
			nil); err == nil {
			t.Errorf("destination %q was taken", dest)
		}
	}
	cctx, cancel := context.WithCancel(ctx)
	pr, pw := io.Pipe()
	go func() {
		_, _ = pr.Read(make([]byte, 1))
		cancel()
		_, _ = io.Copy(io.Discard, pr)
	}()
	if err := r(cctx, []string{"sh", "-c", "echo x; exec sleep 600"}, nil, pw, nil); !errors.Is(err,
		context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Real shells, started as sshd starts a login shell. Those that run lines of our scripts
// but mean something else by them are refused.
func TestLoginShells(t *testing.T) {
	t.Parallel()
	for shell, posix := range map[string]bool{"dash": true, "bash": true, "fish": false, "tcsh": false} {
		lab.Program(t, shell, shell)
		remote := func(ctx context.Context, command string, stdin io.Reader, stdout, stderr io.Writer) error {
			return debpkg.Local()(ctx, []string{"env", "HOME=" + t.TempDir(), shell, "-c", command}, stdin,
				stdout, stderr)
		}
		err := debpkg.CheckShell(t.Context(), remote)
		if posix && err != nil {
			t.Errorf("%s: %v", shell, err)
		}
		if !posix {
			wantError(t, err, debpkg.ErrShell, "on gw1", "POSIX login shell")
		}
	}
}
