package rollout_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/debpkg/rollout/rollouttest"
)

// A reload of the load balancer or a colleague puts a server back while its host is worked on. It is
// taken out again, by a balancer that knows maintenance and by one that can only drain.
func TestServerIsKeptOut(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"maint", "drain"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { keptOut(t, mode) })
		})
	}
}

func keptOut(t *testing.T, mode string) {
	f := newFleet()
	lb := rollouttest.NewBalancer("s1", "s2")
	balancer := rollout.Balancer(lb)
	if mode == "drain" {
		balancer = struct{ rollout.Balancer }{lb} // hides Maintain
	}
	f.hook = func(_ context.Context, what string) error {
		if what != "g1 install" && what != "g1 revert" {
			return nil
		}
		lb.SetMode("s1", "ready")
		time.Sleep(5 * time.Second)
		if lb.Mode("s1") != mode {
			return fmt.Errorf("s1 is in %s during %s", lb.Mode("s1"), what)
		}
		return nil
	}
	w, err := rollout.Rolling("w", []rollout.Host{f.installs("g1", "s1"), f.installs("g2", "s2")},
		rollout.RollingOptions{Balancer: balancer})
	if err != nil {
		t.Fatal(err)
	}
	o := rollout.Options{Journal: filepath.Join(t.TempDir(), "journal")}
	rep, err := rollout.Run(t.Context(), []rollout.Wave{w}, o)
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprint(rep.Events); !strings.Contains(text, "s1 was put back into service") {
		t.Error(text)
	}
	// A done target is in service, and looking at it does not take it out.
	before := len(lb.Log())
	if _, err := rollout.Resume(t.Context(), []rollout.Wave{w}, o); err != nil ||
		len(lb.Log()) != before {
		t.Errorf("%v, %v", lb.Log()[before:], err)
	}
	if _, err := rollout.Undo(t.Context(), []rollout.Wave{w}, o); err != nil {
		t.Error(err)
	}
}

// Somebody puts a server back into service after the process that took it out was killed. The
// undo takes it out before it touches the host.
func TestUndoTakesOutAgain(t *testing.T) {
	t.Parallel()
	shm := onMemory(t)
	synctest.Test(t, func(t *testing.T) {
		lb := rollouttest.NewBalancer("s0", "s1")
		during := ""
		host := rollout.Host{Name: "g0", Server: "s0",
			Healthy: func(context.Context) error { return nil },
			Install: rollout.Step{
				Do:   func(context.Context) error { return nil },
				Undo: func(context.Context) error { during = lb.Mode("s0"); return nil },
			}}
		other := host
		other.Name, other.Server = "g1", "s1"
		w, err := rollout.Rolling("w", []rollout.Host{host, other},
			rollout.RollingOptions{Balancer: lb})
		if err != nil {
			t.Fatal(err)
		}
		o := rollout.Options{Journal: filepath.Join(shm, "journal")}
		waves := []rollout.Wave{w}
		_ = rollouttest.CrashAfter(t.Context(), 9, rollout.Run, waves, o)
		if lb.Mode("s0") != "maint" {
			t.Fatalf("killed while the server is in %s: %v", lb.Mode("s0"), lb.Log())
		}
		lb.SetMode("s0", "ready")
		if _, err := rollout.Undo(t.Context(), waves, o); err != nil {
			t.Fatal(err)
		}
		if during != "maint" || lb.Mode("s0") != "ready" {
			t.Errorf("reverted while the server is in %q, then it is in %s", during, lb.Mode("s0"))
		}
	})
}

// A reload of the balancer puts a server back while it is drained: it is drained again, or the
// wait would never end.
func TestTakeOutInsists(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lb := rollouttest.NewBalancer("s0")
		time.AfterFunc(300*time.Millisecond, func() { lb.SetMode("s0", "ready") })
		if err := rollout.TakeOut(t.Context(), lb, "s0", rollout.DrainOptions{}); err != nil {
			t.Fatal(err)
		}
		if log := strings.Join(lb.Log(), ", "); log != "drain s0, drain s0, maint s0" ||
			lb.Mode("s0") != "maint" {
			t.Errorf("%s: it is in %s", log, lb.Mode("s0"))
		}
	})
}
