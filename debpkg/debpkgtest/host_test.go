package debpkgtest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/debpkgtest"
)

const conf = "/opt/tyk-gateway/tyk.conf"

func gateway(t testing.TB) (*debpkgtest.Host, *debpkg.Host) {
	t.Helper()
	fake := debpkgtest.New("gw1")
	fake.Install(debpkgtest.Tyk("tyk-gateway", "4.0.8"))
	fake.Offer(debpkgtest.Tyk("tyk-gateway", "4.0.8"), debpkgtest.Tyk("tyk-gateway", "5.2.5"))
	return fake, debpkg.New(fake.Run, debpkg.Options{Settle: time.Millisecond, LockWait: time.Second})
}

func request(t testing.TB, pkg, version string) debpkg.Request {
	t.Helper()
	v, err := debpkg.ParseVersion(version)
	if err != nil {
		t.Fatal(err)
	}
	return debpkg.Request{Package: pkg, Version: v}
}

// A plan that was reverted can be applied again, and that change reverted.
func TestReverted(t *testing.T) {
	t.Parallel()
	fake, host := gateway(t)
	p, err := host.Plan(t.Context(), request(t, "tyk-gateway", "5.2.5"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		c, err := host.Apply(t.Context(), p)
		if err != nil || fake.State("tyk-gateway") != "5.2.5 install installed" {
			t.Fatalf("%v, %s", err, fake.State("tyk-gateway"))
		}
		for range 2 {
			if err := host.Revert(t.Context(), c, debpkg.RevertOptions{}); err != nil ||
				fake.State("tyk-gateway") != "4.0.8 install installed" {
				t.Fatalf("%v, %s", err, fake.State("tyk-gateway"))
			}
		}
	}
}

func TestUpgradeAndBack(t *testing.T) {
	t.Parallel()
	fake, host := gateway(t)
	fake.Hold("tyk-gateway")
	fake.Write(conf, "mine")
	ctx := t.Context()
	p, err := host.Plan(ctx, request(t, "tyk-gateway", "5.2.5"))
	if err != nil || p.Refused() != nil || len(p.Conffiles) != 1 ||
		p.Conffiles[0].Outcome != debpkg.OutcomeConflict || len(p.Restarts) != 1 {
		t.Fatalf("%v\n%s", err, p)
	}
	c, err := host.Apply(ctx, p)
	if err != nil || fake.State("tyk-gateway") != "5.2.5 hold installed" ||
		!fake.Active("tyk-gateway.service") || fake.Read(conf+".dpkg-dist") == "" {
		t.Fatalf("%v, %s", err, fake.State("tyk-gateway"))
	}
	if again, err := host.Apply(ctx, p); err != nil || again.Dir != c.Dir {
		t.Errorf("applied again: %v", err)
	}
	fake.Write(conf, "changed since")
	if err := host.Revert(ctx, c, debpkg.RevertOptions{Files: true}); err != nil {
		t.Fatal(err)
	}
	if fake.State("tyk-gateway") != "4.0.8 hold installed" || fake.Read(conf) != "mine" ||
		fake.Read(conf+".dpkg-dist") != "" {
		t.Errorf("reverted: %s, %q", fake.State("tyk-gateway"), fake.Read(conf))
	}
	if want := []string{"install tyk-gateway=5.2.5", "install tyk-gateway=4.0.8",
		"restart tyk-gateway.service"}; !slices.Equal(fake.Done(), want) {
		t.Errorf("done %q", fake.Done())
	}
	for _, want := range []debpkg.PruneState{debpkg.PruneYoung, debpkg.PruneInUse, debpkg.PruneForgotten} {
		o := debpkg.PruneOptions{Before: c.Ended.Add(time.Hour), DryRun: true}
		switch want {
		case debpkg.PruneYoung:
			o.Before = c.Started
		case debpkg.PruneInUse:
			o.Keep = []debpkg.Change{c}
		}
		if list, err := host.Prune(ctx, o); err != nil || len(list) != 1 || list[0].State != want {
			t.Errorf("to prune: %v, %v, want %s", list, err, want)
		}
	}
	if err := host.Forget(ctx, c); err != nil {
		t.Error(err)
	}
	if err := host.Update(ctx); err != nil {
		t.Error(err)
	}
	f, err := host.Facts(ctx)
	if err != nil || len(f.Packages) != 1 || len(f.Units) != 1 || len(f.Available) != 2 ||
		f.Sources[0].Serves == nil {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	apply := func(change func(*debpkgtest.Host)) (*debpkgtest.Host, *debpkg.Host, debpkg.Change,
		error) {
		fake, host := gateway(t)
		change(fake)
		p, err := host.Plan(t.Context(), request(t, "tyk-gateway", "5.2.5"))
		if err != nil {
			return fake, host, debpkg.Change{}, err
		}
		c, err := host.Apply(t.Context(), p)
		return fake, host, c, err
	}
	replace := func(change func(*debpkgtest.Package)) func(*debpkgtest.Host) {
		return func(h *debpkgtest.Host) {
			p := debpkgtest.Tyk("tyk-gateway", "5.2.5")
			change(&p)
			h.Withdraw("tyk-gateway", "5.2.5")
			h.Offer(p)
		}
	}
	for name, c := range map[string]struct {
		change func(*debpkgtest.Host)
		kind   error
		after  string
	}{
		"postinst": {replace(func(p *debpkgtest.Package) { p.PostinstExit = 7 }), debpkg.ErrScript,
			"5.2.5 install half-configured"},
		"crash": {replace(func(p *debpkgtest.Package) { p.Crash = true }), debpkg.ErrUnit,
			"5.2.5 install installed"},
		"version": {func(h *debpkgtest.Host) { h.Withdraw("tyk-gateway", "5.2.5") }, debpkg.ErrNoVersion,
			"4.0.8 install installed"},
		"lock": {func(h *debpkgtest.Host) { h.Locked("unattended-upgr") }, debpkg.ErrLocked,
			"4.0.8 install installed"},
		"cut": {func(h *debpkgtest.Host) { h.Disconnect(3, 1) }, debpkg.ErrConnection,
			"4.0.8 install installed"},
	} {
		fake, host, change, err := apply(c.change)
		if !errors.Is(err, c.kind) || fake.State("tyk-gateway") != c.after {
			t.Errorf("%s: %v, %s", name, err, fake.State("tyk-gateway"))
		}
		if change.Started.IsZero() {
			continue
		}
		if err := host.Revert(t.Context(), change, debpkg.RevertOptions{}); err != nil ||
			fake.State("tyk-gateway") != "4.0.8 install installed" || !fake.Active("tyk-gateway.service") {
			t.Errorf("%s: reverted: %v, %s", name, err, fake.State("tyk-gateway"))
		}
	}
	fake, host := gateway(t)
	fake.FailUpdate("W: Failed to fetch http://fake/InRelease  401  Unauthorized\n")
	if err := host.Update(t.Context()); !errors.Is(err, debpkg.ErrNetwork) {
		t.Error(err)
	}
}

// How many calls a step costs, each of which is a round trip over SSH.
func TestCalls(t *testing.T) {
	t.Parallel()
	fake, _ := gateway(t)
	n := 0
	var names []string
	host := debpkg.New(func(ctx context.Context, argv []string, in io.Reader, out,
		errOut io.Writer) error {
		n++
		names = append(names, argv[min(len(argv)-1, 8)])
		return fake.Run(ctx, argv, in, out, errOut)
	}, debpkg.Options{Settle: time.Millisecond})
	calls := func(what string, most int, f func() error) {
		t.Helper()
		n, names = 0, nil
		if err := f(); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d calls", what, n)
		if n > most {
			t.Errorf("%s takes %d calls, at most %d are allowed: %q", what, n, most, names)
		}
	}
	ctx := t.Context()
	var p debpkg.Plan
	var c debpkg.Change
	calls("Facts", 2, func() error { _, err := host.Facts(ctx); return err })
	calls("Plan", 6, func() (err error) {
		p, err = host.Plan(ctx, request(t, "tyk-gateway",
			"5.2.5"))
		return err
	})
	calls("Apply", 17, func() (err error) { c, err = host.Apply(ctx, p); return err })
	calls("Revert", 17, func() error { return host.Revert(ctx, c, debpkg.RevertOptions{Files: true}) })
}

// upgrade is the function under test of an in-house team: it upgrades a gateway
// and goes back when the service does not stay up.
func upgrade(ctx context.Context, host *debpkg.Host, version debpkg.Version) error {
	plan, err := host.Plan(ctx, debpkg.Request{Package: "tyk-gateway", Version: version})
	if err != nil {
		return err
	}
	change, err := host.Apply(ctx, plan)
	if errors.Is(err, debpkg.ErrUnit) {
		return errors.Join(err, host.Revert(ctx, change, debpkg.RevertOptions{Files: true}))
	}
	return err
}

// A unit test without apt, root or a container: the new version crashes.
func Example() {
	fake := debpkgtest.New("gw1")
	fake.Install(debpkgtest.Tyk("tyk-gateway", "4.0.8"))
	broken := debpkgtest.Tyk("tyk-gateway", "5.2.5")
	broken.Crash = true
	fake.Offer(broken)

	host := debpkg.New(fake.Run, debpkg.Options{Settle: time.Millisecond})
	version, err := debpkg.ParseVersion("5.2.5")
	if err != nil {
		fmt.Println(err)
	}
	err = upgrade(context.Background(), host, version)
	fmt.Println("unit failed:", errors.Is(err, debpkg.ErrUnit))
	fmt.Println(fake.State("tyk-gateway"))
	for _, step := range fake.Done() {
		fmt.Println(step)
	}
	// Output:
	// unit failed: true
	// 4.0.8 install installed
	// install tyk-gateway=5.2.5
	// install tyk-gateway=4.0.8
	// restart tyk-gateway.service
}
