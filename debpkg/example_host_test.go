package debpkg_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/debpkgtest"
)

func gatewayPlan(ctx context.Context, host *debpkg.Host) (debpkg.Plan, error) {
	version, err := debpkg.ParseVersion("5.2.5")
	if err != nil {
		return debpkg.Plan{}, err
	}
	return host.Plan(ctx, debpkg.Request{Package: "tyk-gateway", Version: version})
}

func plan(ctx context.Context, r debpkg.Runner, o debpkg.Options, out io.Writer) error {
	p, err := gatewayPlan(ctx, debpkg.New(r, o))
	if err != nil {
		return err
	}
	for _, a := range p.Actions {
		fmt.Fprintln(out, a.Kind, a.Package, a.From, "to", a.To)
	}
	for _, c := range p.Conffiles {
		fmt.Fprintln(out, c.Path+":", c.Outcome)
	}
	for _, u := range p.Restarts {
		fmt.Fprintln(out, "restarts", u.Unit)
	}
	fmt.Fprintln(out, "refused:", p.Refused())
	return nil
}

// The answers are those that the real apt gives: TestFakeLikeApt.
func ExampleHost_Plan() {
	replay("plan", plan)
	// Output:
	// upgrade tyk-gateway 4.0.8 to 5.2.5
	// /opt/tyk-gateway/tyk.conf: edits kept, new one next to it as .dpkg-dist
	// restarts tyk-gateway.service
	// refused: <nil>
}

func applyAndRevert(ctx context.Context, r debpkg.Runner, o debpkg.Options, out io.Writer) error {
	o.Events = func(e debpkg.Event) {
		if e.Kind == debpkg.EventStep && e.Package != "" {
			fmt.Fprintln(out, e.Text)
		}
	}
	host := debpkg.New(r, o)
	p, err := gatewayPlan(ctx, host)
	if err != nil {
		return err
	}
	change, err := host.Apply(ctx, p)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "now", change.After[0].Version)
	// A Change is all that Revert needs, on another machine as well.
	data, err := json.Marshal(change)
	if err != nil {
		return err
	}
	var read debpkg.Change
	if err := json.Unmarshal(data, &read); err != nil {
		return err
	}
	if err := host.Revert(ctx, read, debpkg.RevertOptions{Files: true}); err != nil {
		return err
	}
	now, err := host.Packages(ctx, "tyk-gateway")
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "back at", now[0].Version)
	return nil
}

func ExampleHost_Apply() {
	replay("apply and revert", applyAndRevert)
	// Output:
	// save tyk-gateway 4.0.8
	// now 5.2.5
	// back at 4.0.8
}

func ExampleHost_Revert() {
	replay("apply and revert", applyAndRevert)
	// Output:
	// save tyk-gateway 4.0.8
	// now 5.2.5
	// back at 4.0.8
}

// stage installs now, and restarts when the host is out of the balancer.
func stage(ctx context.Context, r debpkg.Runner, o debpkg.Options, out io.Writer) error {
	host := debpkg.New(r, o)
	p, err := gatewayPlan(ctx, host)
	if err != nil {
		return err
	}
	change, err := host.Stage(ctx, p)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "staged:", change.Staged, change.After[0].Version)
	// Later:
	if err := host.Restart(ctx, change.ServiceNames()...); err != nil {
		return err
	}
	return host.Revert(ctx, change, debpkg.RevertOptions{})
}

func ExampleHost_Stage() {
	replay("stage", stage)
	// Output: staged: true 5.2.5
}

func forget(ctx context.Context, r debpkg.Runner, o debpkg.Options, out io.Writer) error {
	host := debpkg.New(r, o)
	p, err := gatewayPlan(ctx, host)
	if err != nil {
		return err
	}
	change, err := host.Apply(ctx, p)
	if err != nil {
		return err
	}
	// Once nobody will want to go back:
	if err := host.Forget(ctx, change); err != nil {
		return err
	}
	fmt.Fprintln(out, "forgotten:", len(change.Saved), "saved package")
	return nil
}

func ExampleHost_Forget() {
	replay("forget", forget)
	// Output: forgotten: 1 saved package
}

// repair finishes what `dpkg --unpack`, or a host that went down, left.
func repair(ctx context.Context, r debpkg.Runner, o debpkg.Options, out io.Writer) error {
	host := debpkg.New(r, o)
	show := func() error {
		ps, err := host.Packages(ctx, "tyk-gateway")
		if err != nil {
			return err
		}
		fmt.Fprintln(out, ps[0].Name, ps[0].Version, ps[0].Status)
		return nil
	}
	return errors.Join(show(), host.Repair(ctx), show())
}

func ExampleHost_Repair() {
	replay("repair", repair)
	// Output:
	// tyk-gateway 5.2.5 unpacked
	// tyk-gateway 5.2.5 installed
}

func history(ctx context.Context, r debpkg.Runner, o debpkg.Options, out io.Writer) error {
	entries, err := debpkg.New(r, o).History(ctx)
	for _, e := range entries {
		for _, a := range e.Actions {
			fmt.Fprintln(out, strings.Join(strings.Fields(fmt.Sprint(a.Kind, " ", a.Package, " ", a.From,
				" ", a.To)), " "))
		}
	}
	return err
}

func ExampleHost_History() {
	replay("history", history)
	// Output:
	// install tyk-gateway 4.0.8
	// upgrade tyk-gateway 4.0.8 5.2.5
}

// revertFromHistory undoes what somebody did by hand.
func revertFromHistory(ctx context.Context, r debpkg.Runner, o debpkg.Options,
	out io.Writer) error {
	host := debpkg.New(r, o)
	change, err := host.RevertFromHistory(ctx, "tyk-gateway")
	if err != nil {
		return err
	}
	a := change.Plan.Actions[0]
	fmt.Fprintln(out, "to undo:", a.Kind, a.Package, a.From, "to", a.To)
	return host.Revert(ctx, change, debpkg.RevertOptions{})
}

func ExampleHost_RevertFromHistory() {
	replay("revert from history", revertFromHistory)
	// Output: to undo: upgrade tyk-gateway 4.0.8 to 5.2.5
}

func facts(ctx context.Context, r debpkg.Runner, o debpkg.Options, out io.Writer) error {
	host := debpkg.New(r, o)
	if err := host.Update(ctx); err != nil {
		return err
	}
	f, err := host.Facts(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, f.OS.Name)
	for _, p := range f.Packages {
		fmt.Fprintln(out, p.Name, p.Version, p.Status)
	}
	for _, a := range f.Available {
		fmt.Fprintln(out, "available:", a.Package, a.Version)
	}
	return nil
}

func ExampleHost_Facts() {
	replay("facts", facts)
	// Output:
	// Debian GNU/Linux 12 (bookworm)
	// tyk-gateway 4.0.8 installed
	// available: tyk-gateway 5.2.5
	// available: tyk-gateway 4.0.8
}

func ExampleFacts_String() {
	fake := debpkgtest.New("gw1")
	fake.Install(debpkgtest.Tyk("tyk-gateway", "4.0.8"))
	fake.Offer(debpkgtest.Tyk("tyk-gateway", "5.2.5"))
	facts, err := debpkg.New(fake.Run, debpkg.Options{}).Facts(context.Background())
	if err != nil {
		fmt.Println(err)
	}
	fmt.Println(facts)
	// Output:
	// gw1
	// debian 12 (bookworm), amd64, apt 2.6.1, dpkg 1.21.22
	// free below /var/cache/apt/archives: 10.0 GiB
	// free below /opt: 10.0 GiB
	// free below /var/lib/tykupgrade: 10.0 GiB
	//
	// PACKAGE      VERSION  STATE      EDITION  SOURCE OFFERS  THIS SYSTEM
	// tyk-gateway  4.0.8    installed  -        5.2.5          not supported
	//
	// SOURCE                               ADDRESS      SIGNED BY  SERVES
	// /etc/apt/sources.list.d/fake.list:1  http://fake  -          tyk-gateway
	//
	// tyk-gateway.service is active (running)
}

func ExampleHost_Update() {
	// What apt prints on standard error when there is no network.
	fake := debpkgtest.New("gw1")
	fake.FailUpdate("W: Failed to fetch " +
		"https://token:@packagecloud.io/tyk/tyk-gateway/debian/dists/bookworm/InRelease  Could not " +
		"resolve 'packagecloud.io'\n")
	host := debpkg.New(fake.Run, debpkg.Options{})
	err := host.Update(context.Background())
	var u *debpkg.UpdateError
	fmt.Println(errors.Is(err, debpkg.ErrNetwork), errors.As(err, &u) && u.Retryable())
	fmt.Println(u.Failures[0].URI)
	// Output:
	// true true
	// https://xxxxx@packagecloud.io/tyk/tyk-gateway/debian/dists/bookworm
}

func ExampleHost_Packages() {
	fake := debpkgtest.New("gw1")
	fake.Install(debpkgtest.Tyk("tyk-gateway", "5.2.5"))
	fake.Hold("tyk-gateway")
	host := debpkg.New(fake.Run, debpkg.Options{})
	list, err := host.Packages(context.Background(), "tyk-*")
	fmt.Println(list[0].Name, list[0].Version, list[0].Installed(), list[0].Held(), list[0].Broken(),
		err)
	// Output: tyk-gateway 5.2.5 true true false <nil>
}

func ExampleHost_Sources() {
	host := debpkg.New(says("\x1c/etc/apt/sources.list.d/tyk_tyk-gateway.list\ndeb "+
		"[signed-by=/usr/share/keyrings/tyk.gpg] https://token:@packagecloud.io/tyk/tyk-gateway/debian "+
		"bookworm main\n\x1d"), debpkg.Options{})
	list, err := host.Sources(context.Background())
	fmt.Println(list[0].URIs[0], list[0].SignedBy, list[0].Tyk(), err)
	// Output: https://xxxxx@packagecloud.io/tyk/tyk-gateway/debian /usr/share/keyrings/tyk.gpg true <nil>
}

func ExampleHost_Debs() {
	host := debpkg.New(says(
		"/srv/debs/tyk-pump_1.9.0_amd64.deb\ttyk-pump\t1.9.0\tamd64\t4711\t0123abcd\n"), debpkg.Options{})
	list, err := host.Debs(context.Background(), "/srv/debs")
	fmt.Println(list[0].Package, list[0].Version, list[0].Arch, list[0].SHA256, err)
	// Output: tyk-pump 1.9.0 amd64 0123abcd <nil>
}

func ExampleHost_Upload() {
	const content = "the .deb file's content"
	host := debpkg.New(says(
		fmt.Sprintf("/var/lib/tykupgrade/uploads/.pump.deb\ttyk-pump\t1.9.0\tamd64\t23\t%x\n",
			sha256.Sum256([]byte(content)))), debpkg.Options{})
	deb, err := host.Upload(context.Background(), "pump.deb", strings.NewReader(content))
	fmt.Println(deb.Path, deb.Package, deb.Version, err)
	// Output: /var/lib/tykupgrade/uploads/pump.deb tyk-pump 1.9.0 <nil>
}

const running = "Id=tyk-gateway.service\nLoadState=loaded\nActiveState=active\nSubState=running\nMainPID=4711\n"

func ExampleHost_Restart() {
	host := debpkg.New(says(running), debpkg.Options{Settle: time.Millisecond})
	fmt.Println(host.Restart(context.Background(), "tyk-gateway.service"))
	// Output: <nil>
}

func ExampleHost_WaitStable() {
	host := debpkg.New(says(strings.Replace(running, "active", "failed", 1)),
		debpkg.Options{Settle: time.Millisecond})
	err := host.WaitStable(context.Background(), "tyk-gateway.service")
	var e *debpkg.Error
	fmt.Println(errors.Is(err, debpkg.ErrUnit), errors.As(err, &e) && e.Retryable())
	fmt.Println(e.Hint())
	// Output:
	// true false
	// read the journal, fix the configuration and restart the unit, or revert
}

func ExampleNew() {
	host := debpkg.New(debpkg.Local(), debpkg.Options{StateDir: "state"})
	_, err := host.Facts(context.Background())
	fmt.Println(err)
	// Output: read the facts of the host: use debpkg: option StateDir is "state"; use an absolute path
}

func ExampleLocal() {
	fmt.Println(debpkg.Local()(context.Background(), []string{"echo", "hello"}, nil, os.Stdout,
		os.Stderr))
	// Output:
	// hello
	// <nil>
}

func ExampleSudo() {
	var r debpkg.Runner = func(_ context.Context, argv []string, _ io.Reader, _, _ io.Writer) error {
		fmt.Println(argv)
		return nil
	}
	fmt.Println(debpkg.Sudo(r)(context.Background(), []string{"apt-get", "update"}, nil, nil, nil))
	// Output:
	// [env LC_ALL=C sudo -n -- apt-get update]
	// <nil>
}

func ExampleSSH() {
	r := debpkg.SSH("-oProxyCommand=reboot", debpkg.SSHOptions{})
	fmt.Println(r(context.Background(), []string{"true"}, nil, nil, nil))
	// Output: connect to -oProxyCommand=reboot: "-oProxyCommand=reboot" is not a destination; want host or user@host
}

func ExampleEdition() {
	fmt.Printf("%q %q\n", debpkg.Edition("tyk-gateway-fips"), debpkg.Edition("tyk-gateway"))
	// Output: "fips" ""
}

func ExampleChange_ServiceNames() {
	c := debpkg.Change{Units: map[string][]string{"tyk-pump": {"tyk-pump.service"},
		"tyk-gateway": {"tyk-gateway.service"}}}
	fmt.Println(c.ServiceNames())
	// Output: [tyk-gateway.service tyk-pump.service]
}
