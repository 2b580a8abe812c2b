package fleet_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/internal/lab/site"
	"example.com/tykupgrade/internal/lab/traffic"
)

// operate is the process that is killed.
func operate(t *testing.T, dir, verb string) error {
	inv, err := fleet.Load(filepath.Join(dir, "fleet.yaml"), nil)
	if err != nil {
		return err
	}
	if inv.Connect, err = site.Dial(filepath.Join(dir, "hosts")); err != nil {
		return err
	}
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

// A run is killed with kill -9 and resumed, and killed and undone, three times each at random
// moments. Nothing is installed that should not be, no request is lost, and every server is in its
// former state, also the one that was out of service before. TYKUPGRADE_TEST_KILLS asks for more.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("FLEET_TEST_OPERATOR"); dir != "" {
		if err := operate(t, dir, os.Getenv("FLEET_TEST_VERB")); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Parallel()
	kills := 2
	if n, err := strconv.Atoi(os.Getenv("TYKUPGRADE_TEST_KILLS")); err == nil {
		kills = n
	}
	s := site.Start(t, 3)
	front := s.HAProxy(t, "/hello")
	before := s.Kept(t)
	if err := os.WriteFile(filepath.Join(s.Dir, "fleet.yaml"), []byte(s.File(site.New, s.Lines())),
		0o600); err != nil {
		t.Fatal(err)
	}
	s.Listen(t, filepath.Join(s.Dir, "hosts"))
	load := traffic.Run(2, front)
	killed := map[string]int{}
	for round := 0; killed["resume"] < kills || killed["undo"] < kills; round++ {
		_ = os.Remove(journalOf(s))
		then, want, allowed := "resume", site.New, [][]string{{site.New}}
		if round%2 == 1 {
			then, want, allowed = "undo", site.Old, [][]string{nil, {site.New, site.Old}}
		}
		done := make([]int, len(s.Gateways))
		for i, g := range s.Gateways {
			done[i] = len(g.Fake.Done())
		}
		verb := "run"
		for tries := 0; ; tries++ {
			dead, err := operator(t, s, verb, tries < 2)
			if err == nil {
				break
			}
			if !dead {
				t.Fatalf("round %d: %s: %v", round, verb, err)
			}
			if len(records(s)) > 0 {
				killed[then]++
				verb = then
			}
		}
		t.Logf("round %d: killed so far: %v", round, killed)
		if verb == "run" && then == "undo" { // it was not killed: it is taken back all the same
			if _, err := operator(t, s, then, false); err != nil {
				t.Fatal(err)
			}
		}
		for i, g := range s.Gateways {
			installed := g.Installed(done[i])
			if !slices.ContainsFunc(allowed, func(a []string) bool { return slices.Equal(a, installed) }) ||
				g.Version() != want {
				t.Errorf("round %d, %s: %s has %s after the installation of %q", round, then, g.Name,
					g.Version(), installed)
			}
		}
		if now := s.Kept(t); now != before {
			t.Errorf("round %d, %s: servers were %s, are %s", round, then, before, now)
		}
		if then == "resume" {
			if _, err := operator(t, s, "undo", false); err != nil {
				t.Fatal(err)
			}
		}
	}
	if sent, failed, why := load.End(200); failed > 0 {
		t.Errorf("%d of %d requests failed, the first: %v", failed, sent, why)
	}
	t.Logf("killed: %v", killed)
}

func journalOf(s *site.Site) string { return filepath.Join(s.Dir, "journal") }

func records(s *site.Site) []byte {
	data, _ := os.ReadFile(journalOf(s))
	return data
}

// operator runs a call in a process of its own, and may kill it: after a random number of records
// of the call, and a moment more.
func operator(t *testing.T, s *site.Site, verb string, kill bool) (dead bool, err error) {
	t.Helper()
	bin, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), "FLEET_TEST_OPERATOR="+s.Dir, "FLEET_TEST_VERB="+verb)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	begun := bytes.Count(records(s), []byte("\n"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	after := begun + 1 + rand.IntN(120) // a whole run has about 150
	for kill && bytes.Count(records(s), []byte("\n")) < after {
		select {
		case err := <-ended:
			ended <- err
			kill = false
		case <-time.After(2 * time.Millisecond):
		}
	}
	if kill {
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		_ = cmd.Process.Kill()
	}
	err = <-ended
	if err != nil && cmd.ProcessState.Exited() {
		return false, fmt.Errorf("%w\n%s", err, out.String())
	}
	return err != nil, err
}
