package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/debpkg/rollout/haproxy"
)

// installer stands for debpkg: it brings a version to a host and takes it back.
func installer(host string) rollout.Step {
	return rollout.Step{
		Do:   func(context.Context) error { fmt.Println(host, "install"); return nil },
		Undo: func(context.Context) error { fmt.Println(host, "revert"); return nil },
	}
}

// serves stands for a health gate.
func serves(host string) func(context.Context) error {
	return func(context.Context) error { fmt.Println(host, "serves"); return nil }
}

// memory is a load balancer that believes what it is told.
type memory map[string]rollout.State

func (m memory) Drain(_ context.Context, server string) error {
	fmt.Println(server, "drain")
	m[server] = rollout.State{Drained: true}
	return nil
}

func (m memory) Ready(_ context.Context, server string) error {
	fmt.Println(server, "ready")
	m[server] = rollout.State{Up: true}
	return nil
}

func (m memory) State(_ context.Context, server string) (rollout.State, error) {
	return m[server], nil
}

// The lines of the README.
func upgradeGateways(ctx context.Context, upgrade, revert func(string) func(context.Context) error,
	isUpgraded func(string) func(context.Context) (bool, error),
	healthy func(string) func(context.Context) error) error {
	lb := haproxy.Balancer{Network: "unix", Address: "/run/haproxy/admin.sock", Backends: []string{
		"gateways"}}
	var hosts []rollout.Host
	for _, name := range []string{"gw1", "gw2"} {
		hosts = append(hosts, rollout.Host{
			Name: name, Server: name, // the name in the load balancer
			Install: rollout.Step{Do: upgrade(name), Undo: revert(name), Done: isUpgraded(name)},
			Healthy: healthy(name),
		})
	}
	gateways, err := rollout.Rolling("gateways", hosts, rollout.RollingOptions{Balancer: lb,
		Canary: rollout.Canary{Count: 1, Soak: 10 * time.Minute}})
	if err != nil {
		return err
	}
	report, err := rollout.Run(ctx, []rollout.Wave{gateways},
		rollout.Options{Journal: "gateways.journal", OnBudgetExceeded: rollout.Rollback})
	if err != nil {
		return err
	}
	// after a crash: rollout.Resume; to go back: rollout.Undo; for the change board: report.WriteHTML
	fmt.Println(report.Outcome)
	return nil
}

func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // this one needs a fleet; ExampleRolling goes through without
	do := func(string) func(context.Context) error { return ok }
	done := func(string) func(context.Context) (bool, error) {
		return func(context.Context) (bool, error) { return false, nil }
	}
	fmt.Println(upgradeGateways(ctx, do, do, done, do))
	// Output: run rollout with journal gateways.journal: context canceled
}

func gateways() []rollout.Host {
	return []rollout.Host{
		{Name: "gw1", Server: "gw1", Install: installer("gw1"), Healthy: serves("gw1")},
		{Name: "gw2", Server: "gw2", Install: installer("gw2"), Healthy: serves("gw2")},
	}
}

func ExampleRolling() {
	lb := memory{"gw1": {Up: true}, "gw2": {Up: true}} // in production: haproxy.Balancer{…}
	wave, err := rollout.Rolling("gateways", gateways(), rollout.RollingOptions{
		Balancer: lb,
		Drain:    rollout.DrainOptions{Interval: time.Millisecond},
		Up:       rollout.UpOptions{Interval: time.Millisecond},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	report, err := rollout.Run(context.Background(), []rollout.Wave{wave},
		rollout.Options{OnBudgetExceeded: rollout.Rollback})
	fmt.Println(report.Outcome, err)
	// Output:
	// gw1 drain
	// gw1 install
	// gw1 serves
	// gw1 ready
	// gw2 drain
	// gw2 install
	// gw2 serves
	// gw2 ready
	// done <nil>
}

// twoColours is a switch in memory; in production it is a haproxy.Switch.
type twoColours struct{ now string }

func (c *twoColours) Active(context.Context) (string, error) { return c.now, nil }

func (c *twoColours) Set(_ context.Context, colour string) error {
	fmt.Println("traffic to", colour)
	c.now = colour
	return nil
}

func ExampleBlueGreen() {
	waves, err := rollout.BlueGreen(gateways()[:1], rollout.BlueGreenOptions{
		Switch: &twoColours{"blue"}, Active: "blue", Idle: "green",
		Soak:  time.Minute,
		Watch: func(context.Context) error { return errors.New("5 % of requests fail") },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = rollout.Run(context.Background(), waves, rollout.Options{})
	fmt.Println(err)
	// Output:
	// gw1 install
	// gw1 serves
	// gw1 serves
	// traffic to green
	// traffic to blue
	// run rollout: held: failed targets: 1, allowed: 0 (beyond the failure budget); failed: 1 (switch: soak: 5 % of requests fail); fix the cause, then call Resume or Undo
}

func step(name string, do func(context.Context) error) rollout.Step {
	return rollout.Step{Name: name, Do: do}
}

func ok(context.Context) error { return nil }

func ExampleRun() {
	waves := []rollout.Wave{{Name: "all", Targets: []rollout.Target{
		{Name: "a", Steps: []rollout.Step{step("check", ok)}},
		{Name: "b", Steps: []rollout.Step{step("check",
			func(context.Context) error { return errors.New("disk is full") })}},
		{Name: "c", Steps: []rollout.Step{step("check", ok)}},
	}}}
	report, err := rollout.Run(context.Background(), waves,
		rollout.Options{Budget: rollout.CountOrPercent{Count: 1}})
	for _, t := range report.Targets {
		fmt.Printf("%s: %s %q\n", t.Name, t.Status, t.Error)
	}
	fmt.Println(err)
	// Output:
	// a: done ""
	// b: undone "check: disk is full"
	// c: done ""
	// run rollout: partial; failed: 1 (b: check: disk is full); fix the cause, then call Resume or Undo
}

func ExampleResume() {
	dir, _ := os.MkdirTemp("", "rollout")
	defer func() { _ = os.RemoveAll(dir) }()
	o := rollout.Options{Journal: filepath.Join(dir, "gateways.journal")}
	full := true
	waves := []rollout.Wave{{Name: "all", Targets: []rollout.Target{{Name: "a", Steps: []rollout.Step{
		step("check", func(context.Context) error {
			if full {
				return errors.New("disk is full")
			}
			return nil
		}),
	}}}}}
	report, _ := rollout.Run(context.Background(), waves, o)
	fmt.Println(report.Outcome)
	full = false
	report, err := rollout.Resume(context.Background(), waves, o)
	fmt.Println(report.Outcome, err)
	// Output:
	// held
	// done <nil>
}

func ExampleUndo() {
	dir, _ := os.MkdirTemp("", "rollout")
	defer func() { _ = os.RemoveAll(dir) }()
	o := rollout.Options{Journal: filepath.Join(dir, "gateways.journal")}
	install := installer("gw1")
	install.Name = "install"
	waves := []rollout.Wave{{Name: "all", Targets: []rollout.Target{{Name: "gw1",
		Steps: []rollout.Step{install}}}}}
	_, _ = rollout.Run(context.Background(), waves, o)
	report, err := rollout.Undo(context.Background(), waves, o)
	fmt.Println(report.Outcome, err)
	// Output:
	// gw1 install
	// gw1 revert
	// undone <nil>
}

func ExampleSave() {
	install := rollout.Step{
		Name: "install",
		Do: func(ctx context.Context) error {
			if err := rollout.Save(ctx, "4.0.8"); err != nil { // durable before anything changes
				return err
			}
			return errors.New("unmet dependency")
		},
		Undo: func(ctx context.Context) error {
			var was string
			_, err := rollout.Saved(ctx, &was)
			fmt.Println("back to", was)
			return err
		},
	}
	waves := []rollout.Wave{{Name: "all", Targets: []rollout.Target{{Name: "gw1",
		Steps: []rollout.Step{install}}}}}
	report, _ := rollout.Run(context.Background(), waves, rollout.Options{})
	fmt.Println(report.Targets[0].Status)
	// Output:
	// back to 4.0.8
	// undone
}

func ExampleSaved() {
	var was string
	_, err := rollout.Saved(context.Background(), &was)
	fmt.Println(err)
	// Output: read what a step saved: the context does not belong to a step
}

func ExampleControl() {
	var c rollout.Control
	stop := step("check", func(context.Context) error { c.Stop(); return nil })
	waves := []rollout.Wave{{Name: "all", Targets: []rollout.Target{{Name: "a", Steps: []rollout.Step{
		stop}}, {Name: "b", Steps: []rollout.Step{stop}}}}}
	report, err := rollout.Run(context.Background(), waves, rollout.Options{Control: &c})
	fmt.Println(report.Count(rollout.StatusDone), report.Count(rollout.StatusPending), errors.Is(err,
		rollout.ErrStopped))
	// Output: 1 1 true
}

func ExampleSelect() {
	lb := memory{}
	wave, _ := rollout.Rolling("gateways", gateways(), rollout.RollingOptions{Balancer: lb})
	only, _ := rollout.Select([]rollout.Wave{wave}, "gw2", "install")
	_, err := rollout.Run(context.Background(), only, rollout.Options{})
	fmt.Println(err)
	// Output:
	// gw2 install
	// <nil>
}

func ExampleWaitDrained() {
	lb := memory{"gw1": {Drained: true, Sessions: 1, Detail: "DRAIN"}}
	err := rollout.WaitDrained(context.Background(), lb, "gw1", rollout.DrainOptions{
		Interval: time.Millisecond, Deadline: 5 * time.Millisecond})
	fmt.Println(err)
	// Output: drain gw1: timed out after 5ms: up false, drained true, 1 sessions, 0 queued (DRAIN); end the long-lived sessions, allow more time, or set DrainOptions.Force
}

func ExampleWaitUp() {
	lb := memory{"gw1": {Up: true}}
	fmt.Println(rollout.WaitUp(context.Background(), lb, "gw1", rollout.UpOptions{
		Interval: time.Millisecond}))
	// Output: <nil>
}

func ExampleAll() {
	east, west := memory{"gw1": {Up: true, Sessions: 2}}, memory{"gw1": {Drained: true, Sessions: 1}}
	state, err := rollout.All(east, west).State(context.Background(), "gw1")
	fmt.Printf("%+v %v\n", state, err)
	// Output: {Up:false Changing:false Drained:false Away:false Sessions:3 Queue:0 Total:0 Detail: Pool:} <nil>
}

func ExampleExec() {
	lb := rollout.Exec{
		Run: func(_ context.Context, argv []string, _ io.Reader, stdout, _ io.Writer) error {
			fmt.Println(strings.Join(argv, " "))
			_, err := io.WriteString(stdout, `{"drained":true}`)
			return err
		},
		StateCommand: []string{"lbctl", "state", "{server}"},
	}
	state, err := lb.State(context.Background(), "gw1")
	fmt.Println(state.Drained, err)
	// Output:
	// lbctl state gw1
	// true <nil>
}

func ExampleReadJournal() {
	journal := `{"v":2,"seq":1,"time":"2026-11-23T02:00:00Z","kind":"run","mode":"run","who":{"user":"ops","host":"bastion","pid":7,"since":"2026-11-23T02:00:00Z"}}
{"v":2,"seq":2,"prev":"21d2bf59e8d509befcce53ace715f2d5846ed65dd661d8f1db6e995eb2042164","time":"2026-11-23T02:00:00Z","kind":"plan","wave":"gateways","names":["gw1","gw2"]}
{"v":2,"seq":3,"prev":"e30a8d144d8507cf4f1cc0a715f70fcccdfa7461fcd000421471a8c6e6974157","time":"2026-11-23T02:00:01Z","kind":"target","wave":"gateways","target":"gw1"}
{"v":2,"seq":4,"prev":"8e0f39d5d993d47f2cfb23d0d691b5dccd18f64a5cae4ab3b9106edb8f2619a6","time":"2026-11-23T02:00:01Z","kind":"start","target":"gw1","step":"drain","attempt":1}
{"v":2,"seq":5,"prev":"0c` // the machine lost its power here
	records, err := rollout.ReadJournal(strings.NewReader(journal))
	fmt.Println(len(records), err)
	_ = rollout.BuildReport(records).WriteText(os.Stdout)
	// Output:
	// 4 <nil>
	// outcome   unfinished
	// by        ops@bastion (process 7, since 2026-11-23T02:00:00Z)
	// time      2026-11-23 02:00:00Z to 2026-11-23 02:00:01Z (1s)
	// targets   2, 1 running, 1 pending
	// 2026-11-23 02:00:00Z  run by ops@bastion (process 7, since 2026-11-23T02:00:00Z)
	//
	// TARGET  WAVE      STATUS   TOOK  STEPS
	// gw1     gateways  running  0s    drain (not ended)
}

func ExampleReport_WriteHTML() {
	var page strings.Builder
	err := rollout.BuildReport(nil).WriteHTML(&page)
	fmt.Println(strings.Contains(page.String(), "<script"), err)
	// Output: false <nil>
}
