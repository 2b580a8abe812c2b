package fleet_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/internal/lab/traffic"
)

// thereAndBack upgrades a site and reverts it under load, and returns how many requests failed.
func thereAndBack(t *testing.T, s *site, o traffic.Options, front, more string,
	least int64) (failed int64) {
	t.Helper()
	run := rollout.Options{Journal: filepath.Join(t.TempDir(), "journal")}
	for _, c := range []struct {
		version string
		call    func(context.Context, []rollout.Wave, rollout.Options) (*rollout.Report, error)
	}{{newer, rollout.Run}, {older, rollout.Undo}} {
		waves, err := s.inventory(t, more).Waves(fleet.Options{})
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
		if want := strings.Repeat(c.version+" ", len(s.gateways)-1) + c.version; s.versions() != want {
			t.Errorf("versions %s, want %s", s.versions(), want)
		}
	}
	return failed
}

// No request of 5,000 is lost on the way there, nor of 5,000 on the way back, with the balancers
// that an inventory can name. With none, requests are lost: the test would see it.
func TestBalancers(t *testing.T) {
	t.Parallel()
	t.Run("haproxy", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, 3)
		front := s.haproxy(t, "/hello", "cookie SRV insert indirect nocache")
		before := s.kept(t)
		if n := thereAndBack(t, s, traffic.Options{}, front,
			fmt.Sprintf("haproxy: [{address: %s, backends: {gateway: [gateways]}}]", s.socket()),
			5000); n > 0 {
			t.Errorf("%d requests failed", n)
		}
		if now := s.kept(t); now != before {
			t.Errorf("servers were %s, are %s", before, now)
		}
	})
	t.Run("exec", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, 2)
		nginx := traffic.StartNginx(t, s.addrs()...)
		// A worker that nginx ends after a reload closes the connections that clients keep.
		more := strings.ReplaceAll(fmt.Sprintf("balancer: {kind: exec, drain: [%s], ready: [%s], "+
			"state: [%s]}",
			strings.Join(nginx.Command("drain"), ", "), strings.Join(nginx.Command("ready"), ", "),
			strings.Join(nginx.Command("state"), ", ")), "{server}", `"{server}"`)
		if n := thereAndBack(t, s, traffic.Options{Close: true}, nginx.Front, more, 5000); n > 0 {
			t.Errorf("%d requests failed", n)
		}
	})
	t.Run("ready", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, 2)
		front := s.haproxy(t, "/check") // HAProxy is told nothing: it only checks
		more := "balancer: {kind: ready, settle: 8s, drain: [fail-check], ready: [pass-check]}"
		if n := thereAndBack(t, s, traffic.Options{}, front, more, 1000); n > 0 {
			t.Errorf("%d requests failed", n)
		}
	})
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, 1)
		front := s.haproxy(t, "/hello")
		if n := thereAndBack(t, s, traffic.Options{}, front, "balancer: none", 100); n == 0 {
			t.Error("no request failed, so the other balancers show nothing")
		}
	})
}

// The server of a host is out all the while that its package is installed.
func TestOutWhileInstalled(t *testing.T) {
	t.Parallel()
	s := newSite(t, 2)
	s.haproxy(t, "/hello")
	inv := s.inventory(t, fmt.Sprintf("haproxy: [{address: %s, backends: {gateway: [gateways]}}]",
		s.socket()))
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
				if st, err := s.balancer().State(ctx, target.Name); err != nil || !st.Drained ||
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
