package fleet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/internal/lab/traffic"
)

// Hosts lets another process run commands on the hosts of a site, as SSH does: a command that has
// begun ends whatever becomes of its caller.
type Hosts struct{ s *site }

// Command is one command, and Answer what came of it.
type (
	Command struct {
		Host  string
		Argv  []string
		Stdin []byte
	}
	Answer struct {
		Stdout, Stderr []byte
		Code           int
		Failed         string
	}
)

// Run runs one.
func (h *Hosts) Run(c Command, a *Answer) error {
	var out, errOut bytes.Buffer
	err := h.s.host(c.Host).run(context.Background(), c.Argv, bytes.NewReader(c.Stdin), &out, &errOut)
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

// operate is the process that is killed.
func operate(t *testing.T, dir, verb string) error {
	inv, err := fleet.Load(filepath.Join(dir, "fleet.yaml"), nil)
	if err != nil {
		return err
	}
	c, err := rpc.Dial("unix", filepath.Join(dir, "hosts"))
	if err != nil {
		return err
	}
	inv.Connect = func(h fleet.Host) debpkg.Runner { return remote(c, h.Name) }
	inv.Hurry(10 * time.Millisecond)
	waves, err := inv.Waves(fleet.Options{})
	if err != nil {
		return err
	}
	call := map[string]func(context.Context, []rollout.Wave, rollout.Options) (*rollout.Report,
		error){"run": rollout.Run, "resume": rollout.Resume, "undo": rollout.Undo}[verb]
	o := inv.RunOptions()
	o.Journal = filepath.Join(dir, "journal")
	_, err = call(t.Context(), waves, o)
	return err
}

// A run is killed with kill -9 and resumed, and killed and undone, eight times each.
// Nothing is installed that should not be, no request is lost, and every server is in its former
// state, also the one that was out of service before. TYKUPGRADE_TEST_KILLS asks for more.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("FLEET_TEST_OPERATOR"); dir != "" {
		if err := operate(t, dir, os.Getenv("FLEET_TEST_VERB")); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Parallel()
	kills := 8
	if n, err := strconv.Atoi(os.Getenv("TYKUPGRADE_TEST_KILLS")); err == nil {
		kills = n
	}
	s := newSite(t, 3)
	front := s.haproxy(t, "/hello")
	before := s.kept(t)
	file := s.file(fmt.Sprintf("haproxy: [{address: %s, backends: {gateway: [gateways]}}]",
		s.socket()))
	if err := os.WriteFile(filepath.Join(s.dir, "fleet.yaml"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	server := rpc.NewServer()
	if err := server.Register(&Hosts{s}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(s.dir, "hosts"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go server.Accept(l)

	load := traffic.Run(2, front)
	killed := map[string]int{}
	for round := 0; killed["resume"] < kills || killed["undo"] < kills; round++ {
		journal := filepath.Join(s.dir, "journal")
		_ = os.Remove(journal)
		then, want := "resume", newer
		if round%2 == 1 {
			then, want = "undo", older
		}
		done := make([]int, len(s.gateways))
		for i, g := range s.gateways {
			done[i] = len(g.fake.Done())
		}
		verb := "run"
		for tries := 0; ; tries++ {
			dead, err := s.operator(t, verb, tries < 10)
			if err == nil {
				break
			}
			if !dead {
				t.Fatalf("round %d: %s: %v", round, verb, err)
			}
			if info, err := os.Stat(journal); err == nil && info.Size() > 0 {
				killed[then]++
				verb = then
			}
		}
		t.Logf("round %d: killed so far: %v", round, killed)
		if verb == "run" && then == "undo" { // it was not killed: it is taken back all the same
			if _, err := s.operator(t, then, false); err != nil {
				t.Fatal(err)
			}
		}
		for i, g := range s.gateways {
			var installed []string
			for _, what := range g.fake.Done()[done[i]:] {
				if version, ok := strings.CutPrefix(what, "install tyk-gateway="); ok {
					installed = append(installed, version)
				}
			}
			allowed := [][]string{{newer}}
			if then == "undo" {
				allowed = [][]string{nil, {newer, older}}
			}
			if !slices.ContainsFunc(allowed, func(a []string) bool { return slices.Equal(a, installed) }) ||
				g.version() != want {
				t.Errorf("round %d, %s: %s has %s after the installation of %q", round, then, g.name,
					g.version(), installed)
			}
		}
		if now := s.kept(t); now != before {
			t.Errorf("round %d, %s: servers were %s, are %s", round, then, before, now)
		}
		if then == "resume" {
			if _, err := s.operator(t, "undo", false); err != nil {
				t.Fatal(err)
			}
		}
	}
	if sent, failed, why := load.End(500); failed > 0 {
		t.Errorf("%d of %d requests failed, the first: %v", failed, sent, why)
	}
	t.Logf("killed: %v", killed)
}

// operator runs a call in a process of its own, and may kill it at a random moment.
func (s *site) operator(t *testing.T, verb string, kill bool) (dead bool, err error) {
	t.Helper()
	bin, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), "FLEET_TEST_OPERATOR="+s.dir, "FLEET_TEST_VERB="+verb)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if kill {
		select {
		case err = <-ended:
		case <-time.After(time.Duration(rand.IntN(1500)) * time.Millisecond):
			_ = cmd.Process.Kill()
			err = <-ended
		}
	} else {
		err = <-ended
	}
	if err != nil && cmd.ProcessState.Exited() {
		return false, fmt.Errorf("%w\n%s", err, out.String())
	}
	return err != nil, err
}
