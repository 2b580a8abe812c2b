package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
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
	t.Run("trouble", s.testTrouble)
	t.Run("killed", s.testKilled)
}

func (s *fixture) testThereAndBack(t *testing.T) {
	inv := s.inventory(t, newer, "")
	plan := s.succeed(t, "-file", inv, "plan")
	if !strings.Contains(plan, "tyk-gateway 4.0.8 → 5.2.5") || !strings.Contains(plan,
		"drain → install → healthy → ready") {
		t.Errorf("plan:\n%s", plan)
	}
	for _, c := range []struct{ verb, want string }{{"run", "5.2.5 5.2.5"}, {"undo", "4.0.8 4.0.8"}} {
		l := startLoad(t, s.Front, 16)
		s.succeed(t, "-file", inv, c.verb)
		l.none(t, 5000)
		if v := s.versions(t); v != c.want {
			t.Fatalf("versions %s", v)
		}
	}
}

func (s *fixture) testBlueGreen(t *testing.T) {
	inv := s.inventory(t, newer, "bluegreen: {component: gateway, map: "+s.Colour+
		", active: blue, idle: green, soak: 1s, backends: [green]}\n")
	l := startLoad(t, s.Split, 8)
	s.succeed(t, "-file", inv, "run")
	if v := s.versions(t); v != "4.0.8 5.2.5" {
		t.Errorf("versions %s", v)
	}
	if data, err := os.ReadFile(s.Colour); err != nil || string(data) != "active green\n" {
		t.Errorf("stored: %q, %v", data, err)
	}
	s.succeed(t, "-file", inv, "undo")
	l.none(t, 1000)
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
	l := startLoad(t, s.Front, 8)
	code, out := s.rolling(t, "-file", inv, "run")
	l.none(t, 500)
	if code != cli.No || !strings.Contains(out, "canary h1 failed") || !strings.Contains(out,
		"h1 has its previous state again") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if v := s.versions(t); v != "4.0.8 4.0.8" {
		t.Errorf("versions %s", v)
	}
	if n := s.installs(t, s.Hosts[1], broken); n != before {
		t.Error("the second host was touched")
	}
}

// testTrouble takes away Redis, HAProxy's socket and SSH in the middle of one run. Each time a
// host may be out of service, the other serves on, and resume goes on.
func (s *fixture) testTrouble(t *testing.T) {
	lab.Long(t)
	s.Patience = 20 * time.Second // what comes back, comes back with the next call
	inv := s.inventory(t, newer, "")
	impatient, err := os.ReadFile(inv)
	if err != nil {
		t.Fatal(err)
	}
	s.Patience = 0
	l := startLoad(t, s.Front, 2)
	verb := "run"
	for _, c := range []struct {
		name, until string // what happens once the call has written this to the journal
		harm, mend  func()
		fails       bool
	}{
		{"redis", `"step":"install","attempt":1,"ok":true`, s.Redis.Stop, func() {
			if err := s.Redis.StartE(); err != nil {
				t.Error(err)
			}
		}, true},
		{"haproxy's socket", `"kind":"start"`, func() { _ = os.Rename(s.Sock, s.Sock+".gone") },
			func() { _ = os.Rename(s.Sock+".gone", s.Sock) }, true},
		{"ssh", `"kind":"note"`, s.cutSSH, func() {}, false},
	} {
		file := impatient
		if !c.fails {
			file = bytes.ReplaceAll(file, []byte("deadline: 20s"), []byte("deadline: 5m"))
		}
		if err := os.WriteFile(inv, file, 0o600); err != nil {
			t.Fatal(err)
		}
		before, err := os.ReadFile(inv + ".journal")
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		cmd := s.start(t, "-file", inv, verb)
		waitFor(t, inv+".journal", len(before), c.until)
		c.harm()
		err = cmd.Wait()
		out := cmd.Stdout.(*bytes.Buffer).String()
		if c.fails && (err == nil || !strings.Contains(out, "resume or undo") && !strings.Contains(out,
			"look at the targets")) || !c.fails && err != nil {
			t.Errorf("%s: error %v\n%s", c.name, err, out)
		}
		c.mend()
		verb = "resume"
	}
	if v := s.versions(t); v != "5.2.5 5.2.5" {
		t.Errorf("versions %s", v)
	}
	s.succeed(t, "-file", inv, "undo")
	l.none(t, 500)
	if v := s.versions(t); v != "4.0.8 4.0.8" {
		t.Errorf("versions %s", v)
	}
}

// waitFor waits until a file has a text after so many bytes.
func waitFor(t *testing.T, path string, after int, text string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); time.Now().Before(deadline); time.Sleep(
		5 * time.Millisecond) {
		if data, err := os.ReadFile(path); err == nil && len(data) > after && bytes.Contains(data[after:],
			[]byte(text)) {
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

// testKilled kills the operator's process with kill -9 at random moments, there and back, and
// goes on each time. Package fleet has the same with hosts in memory and more kills.
func (s *fixture) testKilled(t *testing.T) {
	lab.Long(t)
	kills := 4
	if n, err := strconv.Atoi(os.Getenv("TYKUPGRADE_TEST_KILLS")); err == nil {
		kills = n
	}
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	l := startLoad(t, s.Front, 4)
	inv := s.inventory(t, newer, "")
	installs := func(version string) string {
		var all []string
		for _, h := range s.Hosts {
			all = append(all, strconv.Itoa(s.installs(t, h, version)))
		}
		return strings.Join(all, " ")
	}
	for killed := 0; killed < kills; {
		s.inventory(t, newer, "")
		for _, c := range []struct{ first, again, to string }{{"run", "resume", newer}, {"undo", "undo",
			old}} {
			before := installs(c.to)
			verb := c.first
			for n := 0; ; n++ {
				cmd := s.start(t, "-file", inv, verb)
				ended := make(chan error, 1)
				go func() { ended <- cmd.Wait() }()
				var err error
				if n < 2 {
					select {
					case <-time.After(time.Duration(1000+rnd.IntN(9000)) * time.Millisecond):
						_ = syscall.Kill(cmd.Process.Pid, syscall.SIGKILL)
						err = <-ended
					case err = <-ended:
					}
				} else {
					err = <-ended
				}
				if err == nil {
					break
				}
				if cmd.ProcessState.Exited() {
					t.Fatalf("%v\n%s", err, cmd.Stdout)
				}
				killed++
				// A run that is killed before its first record has left nothing to resume.
				if info, err := os.Stat(inv + ".journal"); err == nil && info.Size() > 0 {
					verb = c.again
				}
			}
			if v := s.versions(t); v != c.to+" "+c.to {
				t.Errorf("versions %s, want %s", v, c.to)
			}
			var was, now [2]int
			_, _ = fmt.Sscan(before, &was[0], &was[1])
			_, _ = fmt.Sscan(installs(c.to), &now[0], &now[1])
			if now[0] != was[0]+1 || now[1] != was[1]+1 {
				t.Errorf("%s was installed %d and %d times\n%s", c.to, now[0]-was[0], now[1]-was[1],
					s.succeed(t, "-file", inv, "report"))
			}
		}
	}
	l.none(t, 500)
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
