package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/examples/internal/cli"
)

// islandName is the name under which this program runs as the child that holds the gateways.
const islandName = "rehearse-island"

// job describes the work of the child.
type job struct {
	Dir      string      `json:"dir"`
	Redis    string      `json:"redis"` // the program redis-server; empty: none
	From     gatewayPart `json:"from"`
	To       gatewayPart `json:"to"`
	Conf     string      `json:"conf"` // the user's tyk.conf; empty: none
	APIs     string      `json:"apis"` // the user's definitions; empty: none
	Bundle   string      `json:"bundle"`
	Old      string      `json:"old"` // the zip that is in use
	New      string      `json:"new"` // the zip of both builds
	Isolated bool        `json:"isolated"`

	Gates []fleet.Gate `json:"gates"`
}

// said is a line from the child: progress, or the end of a step.
type said struct {
	Event  string   `json:"event,omitempty"`
	Detail []string `json:"detail,omitempty"`
	Done   bool     `json:"done,omitempty"`
	Error  string   `json:"error,omitempty"`
}

// island is the child. Its network has only loopback. When it ends, every process that it started
// ends too.
type island struct {
	cmd *exec.Cmd
	in  *json.Encoder
	out *json.Decoder
	end io.Closer
}

// isolation are the namespaces of the child.
func isolation() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID, Setpgid: true,
		Pdeathsig: syscall.SIGKILL}
	if uid := os.Geteuid(); uid != 0 {
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	return a
}

// land starts the child. The user's gateways run only on an island. Stubs run without one if the
// machine does not support it.
func land(j job) (i *island, isolated bool, err error) {
	j.Isolated = true
	i, err = start(j, isolation())
	switch {
	case err == nil:
		return i, true, nil
	case j.From.Real || j.To.Real:
		return nil, false, cli.Advice(fmt.Errorf("isolate your gateways from the network: %w", err),
			"run it as root, or allow user namespaces")
	}
	j.Isolated = false
	i, err = start(j, &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL})
	return i, false, err
}

func start(j job, attr *syscall.SysProcAttr) (*island, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// Nothing of the caller's environment configures a gateway.
	cmd := &exec.Cmd{Path: exe, Args: []string{islandName}, Dir: j.Dir, Stderr: io.Discard,
		SysProcAttr: attr,
		Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + j.Dir, "TMPDIR=" + j.Dir,
			"LC_ALL=C.UTF-8"}}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	i := &island{cmd: cmd, in: json.NewEncoder(in), out: json.NewDecoder(out), end: in}
	err = i.in.Encode(j)
	if err == nil {
		err = i.answer(&Step{}, func(string) {})
	}
	if err != nil {
		i.close()
		return nil, err
	}
	return i, nil
}

// do runs a step in the child.
func (i *island) do(ctx context.Context, what string, s *Step, event func(string)) error {
	stop := context.AfterFunc(ctx, func() { _ = i.cmd.Process.Kill() })
	defer stop()
	err := i.in.Encode(what)
	if err == nil {
		err = i.answer(s, event)
	}
	return errors.Join(ctx.Err(), err)
}

func (i *island) answer(s *Step, event func(string)) error {
	for {
		var line said
		if err := i.out.Decode(&line); err != nil {
			return fmt.Errorf("the process that holds the gateways has ended: %w", err)
		}
		if line.Event != "" {
			event(line.Event)
		}
		for _, d := range line.Detail {
			s.say("%s", d)
		}
		switch {
		case line.Error != "":
			return errors.New(line.Error)
		case line.Done:
			return nil
		}
	}
}

func (i *island) close() {
	_ = i.end.Close()
	_ = i.cmd.Process.Kill()
	_ = i.cmd.Wait()
}

// child runs this process as the island, a machine or a stub if it is one, and says so.
func child() bool {
	if standsIn(os.Args) {
		return true
	}
	if len(os.Args) == 1 && os.Args[0] == machineName {
		firstProcess()
		return true
	}
	if len(os.Args) != 1 || os.Args[0] != islandName {
		return false
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	var j job
	if err := in.Decode(&j); err != nil {
		return true
	}
	say := func(line said) { _ = out.Encode(line) }
	finish := func(detail []string, err error) {
		line := said{Detail: detail, Done: err == nil}
		if err != nil {
			line.Error = err.Error()
		}
		say(line)
	}
	err := onlyLoopback(j.Isolated)
	finish(nil, err)
	if err != nil {
		return true
	}
	c := &crossing{job: j, event: func(format string, a ...any) {
		say(said{Event: fmt.Sprintf(format,
			a...)})
	}}
	defer c.stopAll()
	for {
		var what string
		if in.Decode(&what) != nil {
			return true
		}
		c.detail = nil
		err := c.step(context.Background(), what)
		finish(c.detail, err)
	}
}

// onlyLoopback brings the interface lo up, and refuses a network that has another one.
func onlyLoopback(isolated bool) error {
	if !isolated {
		return nil
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	all, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range all {
		if i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagUp != 0 {
			return fmt.Errorf("the network has another interface than loopback: %s",
				strings.TrimSpace(i.Name))
		}
	}
	return nil
}
