package fleet_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/site"
	"example.com/tykupgrade/internal/lab/traffic"
)

// thereAndBack upgrades a site and reverts it under load, and returns how many requests failed.
// change may change each inventory.
func thereAndBack(t *testing.T, s *site.Site, o traffic.Options, front, more string, least int64,
	change func(*fleet.Inventory)) (failed int64) {
	t.Helper()
	run := rollout.Options{Journal: filepath.Join(t.TempDir(), "journal")}
	for _, c := range []struct {
		version string
		call    func(context.Context, []rollout.Wave, rollout.Options) (*rollout.Report, error)
	}{{site.New, rollout.Run}, {site.Old, rollout.Undo}} {
		inv := s.Inventory(t, site.New, more)
		inv.Hurry(20 * time.Millisecond)
		if change != nil {
			change(inv)
		}
		waves, err := inv.Waves(fleet.Options{})
		if err != nil {
			t.Fatal(err)
		}
		load := o.Run(8, front)
		rep, err := c.call(t.Context(), waves, run)
		sent, lost, why := load.End(least)
		if err != nil {
			t.Fatalf("to %s: %v\n%v", c.version, err, rep.Events)
		}
		t.Logf("to %s: %d of %d requests failed (%v)", c.version, lost, sent, why)
		failed += lost
		if want := strings.Repeat(c.version+" ", len(s.Gateways)-1) + c.version; s.Versions() != want {
			t.Errorf("versions %s, want %s", s.Versions(), want)
		}
	}
	return failed
}

// No request is lost on the way there and on the way back, with the balancers that an inventory
// can name. With none, requests are lost: the test would see it. Of each way it sends 1,000
// requests, and 5,000 with make test-long.
func TestBalancers(t *testing.T) {
	t.Parallel()
	least := int64(1000)
	if lab.IsLong() {
		least = 5000
	}
	t.Run("haproxy", func(t *testing.T) {
		t.Parallel()
		s := site.Start(t, 3)
		front := s.HAProxy(t, "/hello", "cookie SRV insert indirect nocache")
		before := s.Kept(t)
		if n := thereAndBack(t, s, traffic.Options{}, front, s.Lines()+"\ndrain: {grace: 300ms}", least,
			nil); n > 0 {
			t.Errorf("%d requests failed", n)
		}
		if now := s.Kept(t); now != before {
			t.Errorf("servers were %s, are %s", before, now)
		}
	})
	t.Run("exec", func(t *testing.T) {
		t.Parallel()
		s := site.Start(t, 2)
		nginx := traffic.StartNginx(t, s.Addrs()...)
		// A worker that nginx ends after a reload closes the connections that clients keep.
		more := strings.ReplaceAll(fmt.Sprintf("balancer: {kind: exec, drain: [%s], ready: [%s], "+
			"state: [%s]}",
			strings.Join(nginx.Command("drain"), ", "), strings.Join(nginx.Command("ready"), ", "),
			strings.Join(nginx.Command("state"), ", ")), "{server}", `"{server}"`)
		if n := thereAndBack(t, s, traffic.Options{Close: true}, nginx.Front, more, least,
			nil); n > 0 {
			t.Errorf("%d requests failed", n)
		}
	})
	t.Run("ready", func(t *testing.T) {
		t.Parallel()
		s := site.Start(t, 2)
		front := s.HAProxy(t, "/check") // HAProxy is told nothing: it only checks
		more := "balancer: {kind: ready, settle: 1ms, drain: [fail-check], ready: [pass-check]}"
		// The host's own commands wait until HAProxy has noticed, so that no time is guessed.
		noticed := func(inv *fleet.Inventory) {
			inv.Connect = func(h fleet.Host) debpkg.Runner { return noticing(s, h.Name) }
		}
		if n := thereAndBack(t, s, traffic.Options{}, front, more, 500, noticed); n > 0 {
			t.Errorf("%d requests failed", n)
		}
	})
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		s := site.Start(t, 1)
		front := s.HAProxy(t, "/hello")
		if n := thereAndBack(t, s, traffic.Options{}, front, "balancer: none", 100, nil); n == 0 {
			t.Error("no request failed, so the other balancers show nothing")
		}
	})
}

// noticing is a host whose fail-check and pass-check return when HAProxy acts on them.
func noticing(s *site.Site, host string) debpkg.Runner {
	return func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
		err := s.Gateway(host).Run(ctx, argv, stdin, stdout, stderr)
		up, ours := map[string]bool{"fail-check": false, "pass-check": true}[argv[0]]
		for ours && err == nil {
			st, err := s.Balancer().State(ctx, host)
			if err != nil || st.Up == up && !st.Changing && (up || st.Sessions+st.Queue == 0) {
				return err
			}
			time.Sleep(10 * time.Millisecond)
		}
		return err
	}
}

// The server of a host is out all the while that its package is installed.
func TestOutWhileInstalled(t *testing.T) {
	t.Parallel()
	s := site.Start(t, 2)
	s.HAProxy(t, "/hello")
	inv := s.Inventory(t, site.New, s.Lines())
	inv.Hurry(20 * time.Millisecond)
	waves, err := inv.Waves(fleet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range waves[0].Targets {
		target := &waves[0].Targets[i]
		for j, step := range target.Steps {
			if step.Name != "install" {
				continue
			}
			target.Steps[j].Do = func(ctx context.Context) error {
				if st, err := s.Balancer().State(ctx, target.Name); err != nil || !st.Drained ||
					st.Sessions > 0 {
					t.Errorf("%s is installed while its server is %+v, %v", target.Name, st, err)
				}
				time.Sleep(time.Millisecond)
				return step.Do(ctx)
			}
		}
	}
	if _, err := rollout.Run(t.Context(), waves, rollout.Options{}); err != nil {
		t.Fatal(err)
	}
}

// The idle colour is upgraded and gets the traffic, and a revert brings both back. The map file
// follows.
func TestBlueGreen(t *testing.T) {
	t.Parallel()
	s := site.Start(t, 2)
	s.HAProxy(t, "/hello")
	more := fmt.Sprintf("%s\nbluegreen: {component: gateway, map: %s, active: blue, idle: green, "+
		"soak: 50ms, backends: [green]}", s.Lines(), s.Colour)
	inv := s.Inventory(t, site.New, more)
	inv.Hurry(20 * time.Millisecond)
	waves, err := inv.Waves(fleet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	o := rollout.Options{Journal: filepath.Join(s.Dir, "journal")}
	load := traffic.Run(4, s.Split)
	for _, c := range []struct {
		call           func(context.Context, []rollout.Wave, rollout.Options) (*rollout.Report, error)
		versions, file string
	}{{rollout.Run, site.Old + " " + site.New, "active green\n"},
		{rollout.Undo, site.Old + " " + site.Old, "active blue\n"}} {
		if _, err := c.call(t.Context(), waves, o); err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(s.Colour); s.Versions() != c.versions || string(data) != c.file {
			t.Errorf("versions %s, map %q, %v", s.Versions(), data, err)
		}
	}
	if sent, failed, why := load.End(300); failed > 0 {
		t.Errorf("%d of %d requests failed, the first: %v", failed, sent, why)
	}
}

// A canary whose gateway does not stay up is reverted, and no other host is touched.
func TestCanaryThatCrashes(t *testing.T) {
	t.Parallel()
	s := site.Start(t, 2)
	front := s.HAProxy(t, "/hello")
	inv := s.Inventory(t, site.Broken, s.Lines()+"\ncanary: {count: 1, soak: 1ms}\nbudget: 50%")
	inv.Hurry(20 * time.Millisecond)
	waves, err := inv.Waves(fleet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	before := s.Kept(t)
	load := traffic.Run(4, front)
	rep, err := rollout.Run(t.Context(), waves, rollout.Options{})
	if err == nil || rep.Outcome != rollout.OutcomeHeld || !strings.Contains(rep.Halt,
		"canary h1 failed") {
		t.Errorf("%v, %+v", err, rep)
	}
	if sent, failed, why := load.End(200); failed > 0 {
		t.Errorf("%d of %d requests failed, the first: %v", failed, sent, why)
	}
	if n := s.Gateways[1].Installed(0); len(n) > 0 || s.Versions() != site.Old+" "+site.Old ||
		s.Kept(t) != before {
		t.Errorf("versions %s, the second host was given %v, servers %s", s.Versions(), n, s.Kept(t))
	}
}
