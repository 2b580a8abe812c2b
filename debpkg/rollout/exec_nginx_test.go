package rollout_test

import (
	"testing"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/internal/lab/traffic"
	"example.com/tykupgrade/internal/run"
)

// The commands of the docs take a server of nginx out and in. What becomes of requests meanwhile is
// tested in package fleet.
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
	for range 2 { // each may be called twice
		if err := lb.Drain(t.Context(), "h1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := rollout.WaitDrained(t.Context(), lb, "h1", rollout.DrainOptions{Readings: 1,
		Interval: 50 * time.Millisecond}); err != nil {
		t.Error(err)
	}
	traffic.Run(1, nginx.Front).End(3)
	if st, err := lb.State(t.Context(), "h2"); err != nil || !st.Up || st.Drained {
		t.Errorf("h2 is %+v, %v", st, err)
	}
	for range 2 {
		if err := lb.Ready(t.Context(), "h1"); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := lb.State(t.Context(), "h1"); err != nil || !st.Up || st.Drained {
		t.Errorf("h1 is %+v, %v", st, err)
	}
}
