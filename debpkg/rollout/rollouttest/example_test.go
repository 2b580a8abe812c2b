package rollouttest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/debpkg/rollout/rollouttest"
)

// hosts are what a team upgrades; at has the version of each.
func hosts(at map[string]string) []rollout.Host {
	var all []rollout.Host
	for _, name := range []string{"gw1", "gw2"} {
		set := func(version string) func(context.Context) error {
			return func(context.Context) error { at[name] = version; return nil }
		}
		all = append(all, rollout.Host{
			Name: name, Server: name,
			Install: rollout.Step{Do: set("new"), Undo: set("old")},
			Healthy: func(context.Context) error { return nil },
		})
	}
	return all
}

func ExampleBalancer() {
	lb := rollouttest.NewBalancer("gw1", "gw2")
	lb.SetMode("gw2", "maint") // somebody works on it
	lb.SetUp("gw1", true)
	wave, err := rollout.Rolling("gateways", hosts(map[string]string{}), rollout.RollingOptions{
		Balancer: lb, MinUp: -1, // a downtime is planned
		Drain: rollout.DrainOptions{Interval: time.Millisecond},
		Up:    rollout.UpOptions{Interval: time.Millisecond},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = rollout.Run(context.Background(), []rollout.Wave{wave}, rollout.Options{})
	fmt.Println(strings.Join(lb.Log(), ", "), err)
	fmt.Println(lb.Mode("gw1"), lb.Mode("gw2"))
	// Output:
	// drain gw1, maint gw1, ready gw1, maint gw2, maint gw2 <nil>
	// ready maint
}

func ExampleCrashAfter() {
	dir, err := os.MkdirTemp("", "crash")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	at := map[string]string{}
	wave, err := rollout.Rolling("gateways", hosts(at), rollout.RollingOptions{
		Balancer: rollouttest.NewBalancer("gw1", "gw2"),
		Drain:    rollout.DrainOptions{Interval: time.Millisecond},
		Up:       rollout.UpOptions{Interval: time.Millisecond},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	waves, o := []rollout.Wave{wave}, rollout.Options{Journal: filepath.Join(dir, "journal")}
	err = rollouttest.CrashAfter(context.Background(), 12, rollout.Run, waves, o)
	fmt.Println(errors.Is(err, rollouttest.ErrCrashed))
	_, err = rollout.Resume(context.Background(), waves, o)
	fmt.Println(at, err)
	// Output:
	// true
	// map[gw1:new gw2:new] <nil>
}
