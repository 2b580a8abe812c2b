package main

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/internal/lab"
)

// The tests of this file upgrade and revert two real systemd hosts each, over
// SSH, with the real apt, behind a real HAProxy under load.

func TestFleet(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	t.Run("rolling there and back", s.testThereAndBack)
	t.Run("blue-green there and back", s.testBlueGreen)
	t.Run("canary that crashes", s.testCanary)
	t.Run("one host, one step", s.testOnly)
}

func (s *fixture) testThereAndBack(t *testing.T) {
	for range 3 {
		inv := s.inventory(t, newer, "")
		plan := s.succeed(t, "-file", inv, "plan")
		if !strings.Contains(plan, "tyk-gateway 4.0.8 → 5.2.5") || !strings.Contains(plan, "drain → install → healthy → ready") {
			t.Errorf("plan:\n%s", plan)
		}
		l := startLoad(t, s.Front, 16)
		s.succeed(t, "-file", inv, "run")
		l.none(t, 5000)
		if v := s.versions(t); v != "5.2.5 5.2.5" {
			t.Fatalf("versions %s", v)
		}
		l = startLoad(t, s.Front, 16)
		s.succeed(t, "-file", inv, "undo")
		l.none(t, 5000)
		if v := s.versions(t); v != "4.0.8 4.0.8" {
			t.Fatalf("versions %s", v)
		}
	}
}

func (s *fixture) testBlueGreen(t *testing.T) {
	inv := s.inventory(t, newer, "bluegreen: {component: gateway, map: "+s.Colour+", active: blue, idle: green, soak: 1s, backends: [green]}\n")
	l := startLoad(t, s.Split, 16)
	s.succeed(t, "-file", inv, "run")
	if v := s.versions(t); v != "4.0.8 5.2.5" {
		t.Errorf("versions %s", v)
	}
	if data, err := os.ReadFile(s.Colour); err != nil || string(data) != "active green\n" {
		t.Errorf("stored: %q, %v", data, err)
	}
	s.succeed(t, "-file", inv, "undo")
	l.none(t, 3000)
	if v := s.versions(t); v != "4.0.8 4.0.8" {
		t.Errorf("versions %s", v)
	}
	if data, err := os.ReadFile(s.Colour); err != nil || string(data) != "active blue\n" {
		t.Errorf("stored: %q, %v", data, err)
	}
}

func (s *fixture) testCanary(t *testing.T) {
	inv := s.inventory(t, broken, "canary: {count: 1, soak: 1s}\nbudget: 50%\n")
	before := s.installs(t, s.Hosts[1], broken)
	l := startLoad(t, s.Front, 16)
	code, out := s.rolling(t, "-file", inv, "run")
	l.none(t, 1000)
	if code != cli.No || !strings.Contains(out, "canary h1 failed") || !strings.Contains(out, "h1 has its previous state again") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if v := s.versions(t); v != "4.0.8 4.0.8" {
		t.Errorf("versions %s", v)
	}
	if n := s.installs(t, s.Hosts[1], broken); n != before {
		t.Error("the second host was touched")
	}
}

// TestFleetTrouble takes away Redis, HAProxy's socket and SSH in the middle:
// each time a host may be out of service, the other serves on, and resume
// finishes.
func TestFleetTrouble(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	s := newFixture(t)
	for _, c := range []struct {
		name, until string // what happens once the journal has this
		harm, mend  func()
		fails       bool
	}{
		{"redis", `"step":"install","attempt":1,"ok":true`, s.Redis.Stop, func() {
			if err := s.Redis.StartE(); err != nil {
				t.Error(err)
			}
		}, true},
		{"haproxy's socket", `"step":"install","attempt":1`, func() { _ = os.Rename(s.Sock, s.Sock+".gone") }, func() { _ = os.Rename(s.Sock+".gone", s.Sock) }, true},
		{"ssh", `"kind":"note"`, s.cutSSH, func() {}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			inv := s.inventory(t, newer, "")
			l := startLoad(t, s.Front, 2)
			cmd := s.start(t, "-file", inv, "run")
			waitFor(t, inv+".journal", c.until)
			c.harm()
			err := cmd.Wait()
			out := cmd.Stdout.(*bytes.Buffer).String()
			if c.fails && (err == nil || !strings.Contains(out, "resume or undo") && !strings.Contains(out, "look at the targets")) || !c.fails && err != nil {
				t.Errorf("error %v\n%s", err, out)
			}
			c.mend()
			s.succeed(t, "-file", inv, "resume")
			if v := s.versions(t); v != "5.2.5 5.2.5" {
				t.Errorf("versions %s", v)
			}
			s.succeed(t, "-file", inv, "undo")
			l.none(t, 1000)
			if v := s.versions(t); v != "4.0.8 4.0.8" {
				t.Errorf("versions %s", v)
			}
		})
	}
}

func waitFor(t *testing.T, path, text string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if data, err := os.ReadFile(path); err == nil && bytes.Contains(data, []byte(text)) {
			return
		}
	}
	t.Fatalf("%s never held %s", path, text)
}

// cutSSH kills every ssh client that uses the stage's configuration, shared
// connections included.
func (s *fixture) cutSSH() {
	time.Sleep(300 * time.Millisecond) // apt is at work by then
	for range 1000 {
		if exec.Command("pkill", "-9", "-f", "^ssh .*"+s.Dir).Run() == nil {
			return // it killed one
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestFleetKill kills the operator's process at random moments, several times
// in each rollout, and resumes.
func TestFleetKill(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	s := newFixture(t)
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	l := startLoad(t, s.Front, 4)
	target, back := newer, old
	for kills := 0; kills < 20; target, back = back, target {
		var before []int
		for _, h := range s.Hosts {
			before = append(before, s.installs(t, h, target))
		}
		inv := s.inventory(t, target, "")
		verb := "run"
		for inRun := 0; ; inRun++ {
			cmd := s.start(t, "-file", inv, verb)
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			if inRun < 5 {
				select {
				case <-time.After(time.Duration(rnd.IntN(6000)) * time.Millisecond):
					_ = syscall.Kill(cmd.Process.Pid, syscall.SIGKILL)
				case err := <-ended:
					ended <- err
				}
			}
			if err := <-ended; err == nil {
				break
			} else if cmd.ProcessState.Exited() {
				t.Fatalf("%v\n%s", err, cmd.Stdout)
			}
			kills++
			// A run killed before its first record has left nothing to resume.
			verb = "resume"
			if info, err := os.Stat(inv + ".journal"); err != nil || info.Size() == 0 {
				verb = "run"
			}
		}
		if v := s.versions(t); v != target+" "+target {
			t.Errorf("versions %s, want %s", v, target)
		}
		for i, h := range s.Hosts {
			if n := s.installs(t, h, target) - before[i]; n != 1 {
				t.Errorf("%s was installed %d times on %s\n%s", target, n, h.Name, s.succeed(t, "-file", inv, "report"))
			}
		}
	}
	l.none(t, 5000)
}

// testOnly is what Ansible or a CI system calls.
func (s *fixture) testOnly(t *testing.T) {
	inv := s.inventory(t, newer, "")
	for range 2 { // the second call finds everything done
		out := s.succeed(t, "-file", inv, "-only", "h2", "-json", "run")
		var rep rollout.Report
		if err := json.Unmarshal([]byte(out[strings.Index(out, "\n{")+1:]), &rep); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if rep.Outcome != rollout.OutcomeDone || len(rep.Targets) != 1 || rep.Targets[0].Name != "h2" {
			t.Errorf("report %+v", rep)
		}
	}
	if v := s.versions(t); v != "4.0.8 5.2.5" {
		t.Errorf("versions %s", v)
	}
	s.succeed(t, "-file", inv, "-only", "h2", "undo")
	for _, step := range []string{"drain", "install", "healthy", "ready"} {
		s.succeed(t, "-file", inv, "-only", "h1", "-step", step, "run")
	}
	if v := s.versions(t); v != "5.2.5 4.0.8" {
		t.Errorf("versions %s", v)
	}
	for _, step := range []string{"ready", "install", "drain"} {
		s.succeed(t, "-file", inv, "-only", "h1", "-step", step, "undo")
	}
	if v := s.versions(t); v != "4.0.8 4.0.8" {
		t.Errorf("versions %s", v)
	}
}
