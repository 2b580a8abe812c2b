package site

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/rpc"
	"testing"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/fleet"
)

// Listen lets other processes reach the hosts by a Unix socket, until the test ends.
func (s *Site) Listen(tb testing.TB, socket string) {
	tb.Helper()
	server := rpc.NewServer()
	if err := server.Register(&Hosts{s}); err != nil {
		tb.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go server.ServeConn(c)
		}
	}()
}

// Dial reaches the hosts of another process, for fleet.Inventory.Connect.
func Dial(socket string) (func(fleet.Host) debpkg.Runner, error) {
	c, err := rpc.Dial("unix", socket)
	return func(h fleet.Host) debpkg.Runner { return remote(c, h.Name) }, err
}

// Hosts lets another process run commands on the hosts of a site, as SSH does: a command that has
// begun ends whatever becomes of its caller. It is exported for net/rpc: see [Site.Listen].
type Hosts struct{ s *Site }

// Command is one command on a host.
type Command struct {
	Host  string
	Argv  []string
	Stdin []byte
}

// Answer is what came of a [Command].
type Answer struct {
	Stdout, Stderr []byte
	Code           int
	Failed         string
}

// Run runs one.
func (h *Hosts) Run(c Command, a *Answer) error {
	var out, errOut bytes.Buffer
	err := h.s.Gateway(c.Host).Run(context.Background(), c.Argv, bytes.NewReader(c.Stdin), &out, &errOut)
	a.Stdout, a.Stderr = out.Bytes(), errOut.Bytes()
	if err != nil {
		a.Failed = err.Error()
		var exit interface{ ExitCode() int }
		if errors.As(err, &exit) {
			a.Code = exit.ExitCode()
		}
	}
	return nil
}

// exited is how a command failed.
type exited struct{ a Answer }

func (e exited) Error() string { return e.a.Failed }

func (e exited) ExitCode() int { return e.a.Code }

// remote is the Runner of a host of another process.
func remote(c *rpc.Client, host string) debpkg.Runner {
	return func(_ context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
		cmd := Command{Host: host, Argv: argv}
		var err error
		if stdin != nil {
			if cmd.Stdin, err = io.ReadAll(stdin); err != nil {
				return err
			}
		}
		var a Answer
		if err := c.Call("Hosts.Run", cmd, &a); err != nil {
			return err
		}
		if stdout != nil {
			_, _ = stdout.Write(a.Stdout)
		}
		if stderr != nil {
			_, _ = stderr.Write(a.Stderr)
		}
		if a.Failed != "" {
			return exited{a}
		}
		return nil
	}
}
