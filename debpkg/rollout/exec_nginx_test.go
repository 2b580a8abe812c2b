package rollout_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/internal/lab/traffic"
	"example.com/tykupgrade/internal/run"
)

// No request is lost behind nginx on the way there, nor on the way back. Package fleet has the
// same with more requests.
func TestExecDrivesNginx(t *testing.T) {
	t.Parallel()
	servers := []*traffic.Server{traffic.Start(t, "h1", "old"), traffic.Start(t, "h2", "old")}
	nginx := traffic.StartNginx(t, servers[0].Addr, servers[1].Addr)
	lb := rollout.Exec{
		Run:          run.Local(run.Options{}),
		DrainCommand: nginx.Command("drain"), ReadyCommand: nginx.Command("ready"),
		StateCommand: nginx.Command("state"),
	}
	if err := lb.Drain(t.Context(), "h9"); err == nil {
		t.Error("a server that is not there was drained")
	}
	var hosts []rollout.Host
	for _, s := range servers {
		install := func(version string) func(context.Context) error {
			return func(context.Context) error { return s.Install(version) }
		}
		hosts = append(hosts, rollout.Host{
			Name: s.Name, Server: s.Name, Install: rollout.Step{Do: install("new"), Undo: install("old")},
			Healthy: ok,
		})
	}
	w, err := rollout.Rolling("gateways", hosts, rollout.RollingOptions{
		Balancer: lb, Drain: rollout.DrainOptions{Interval: 50 * time.Millisecond}, Up: rollout.UpOptions{
			Interval: 20 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	o := rollout.Options{Journal: filepath.Join(t.TempDir(), "journal")}
	for _, c := range []struct {
		version string
		call    func(context.Context, []rollout.Wave, rollout.Options) (*rollout.Report, error)
	}{{"new", rollout.Run}, {"old", rollout.Undo}} {
		load := traffic.Options{Close: true}.Run(8, nginx.Front)
		_, err := c.call(t.Context(), []rollout.Wave{w}, o)
		sent, failed, why := load.End(500)
		if err != nil || failed > 0 {
			t.Errorf("to %s: %d of %d requests failed, the first by %v; %v", c.version, failed, sent, why,
				err)
		}
		for _, s := range servers {
			if s.Version() != c.version {
				t.Errorf("%s has %s, want %s", s.Name, s.Version(), c.version)
			}
			if st, err := lb.State(t.Context(), s.Name); err != nil || !st.Up || st.Drained {
				t.Errorf("%s is %+v, %v", s.Name, st, err)
			}
		}
		t.Logf("to %s: %d of %d requests failed", c.version, failed, sent)
	}
}
