package debpkg_test

import (
	"context"
	"errors"
	"fmt"
	"io"

	"example.com/tykupgrade/debpkg"
)

// upgrade plans, shows the plan, applies it and goes back.
func upgrade(ctx context.Context, r debpkg.Runner, o debpkg.Options, out io.Writer) error {
	host := debpkg.New(r, o)
	if err := host.Update(ctx); err != nil {
		return err
	}
	version, err := debpkg.ParseVersion("5.2.5")
	if err != nil {
		return err
	}
	plan, err := host.Plan(ctx, debpkg.Request{Package: "tyk-gateway", Version: version})
	if err != nil {
		return err
	}
	fmt.Fprint(out, plan) // for a person to approve
	change, err := host.Apply(ctx, plan)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "installed:", change.After[0].Version)
	// And back, with the configuration as it was.
	if err := host.Revert(ctx, change, debpkg.RevertOptions{Files: true}); err != nil {
		return err
	}
	fmt.Fprintln(out, "reverted")
	return nil
}

// Plan, have it approved, apply, and go back. The Runner is that of a host of
// package debpkgtest instead of debpkg.Sudo(debpkg.SSH("ops@gw1", debpkg.SSHOptions{})).
func Example() {
	replay("upgrade", upgrade)
	// Output:
	// Plan for gw1 (debian 12, amd64)
	//
	// PACKAGE      ACTION   FROM   TO     SOURCE  ROLLBACK
	// tyk-gateway  upgrade  4.0.8  5.2.5  stable  repository
	//
	// Nothing to download.
	// tyk-gateway.service will be restarted by the installation of tyk-gateway.
	//
	// CONFIGURATION FILE         ON DISK  IN THE CANDIDATE  OUTCOME
	// /opt/tyk-gateway/tyk.conf  edited   changed           edits kept, new one next to it as .dpkg-dist
	//
	// Note: tyk-gateway 5.2.5 on debian 12 amd64: the origins disagree: procedure (2024-02-06): no, publishing CI (2026-08): yes.
	// installed: 5.2.5
	// reverted
}

func ExampleParseRequest() {
	add, _ := debpkg.ParseRequest("tyk-gateway-ee=5.7.0")
	remove, _ := debpkg.ParseRequest("tyk-gateway-")
	fmt.Println(add.Package, add.Version, remove.Package, remove.Remove)
	_, err := debpkg.ParseRequest("tyk-gateway")
	fmt.Println(err)
	// Output:
	// tyk-gateway-ee 5.7.0 tyk-gateway true
	// read the request "tyk-gateway": it has no version; write tyk-gateway=5.2.5, or tyk-gateway- to remove it
}

func ExampleInOrder() {
	var want []debpkg.Request
	for _, s := range []string{"tyk-pump=1.9.0", "tyk-gateway-", "tyk-gateway-ee=5.7.0",
		"tyk-dashboard=5.7.0"} {
		r, _ := debpkg.ParseRequest(s)
		want = append(want, r)
	}
	for _, group := range debpkg.InOrder(want) {
		fmt.Println(group)
	}
	// Output:
	// [tyk-dashboard=5.7.0]
	// [tyk-pump=1.9.0]
	// [tyk-gateway- tyk-gateway-ee=5.7.0]
}

func ExampleParseVersion() {
	_, err := debpkg.ParseVersion("v5.2.5")
	fmt.Println(err)
	// Output: parse version "v5.2.5": a Debian version starts with a digit; write 5.2.5 rather than v5.2.5
}

func ExampleVersion_Compare() {
	rc, _ := debpkg.ParseVersion("5.3.0~rc1")
	final, _ := debpkg.ParseVersion("5.3.0")
	fmt.Println(rc.Compare(final), final.Compare(rc))
	// Output: -1 1
}

func ExampleQuote() {
	line, err := debpkg.Quote([]string{"echo", "it's", "$HOME", "5.2.5"})
	fmt.Println(line, err)
	// Output: echo 'it'\''s' '$HOME' 5.2.5 <nil>
}

func ExampleSupports() {
	v, _ := debpkg.ParseVersion("5.2.5")
	fmt.Println(debpkg.Supports("tyk-gateway", v, debpkg.OS{ID: "debian", VersionID: "12"}, "amd64"))
	// Output: procedure (2024-02-06): no, publishing CI (2026-08): yes
}

// says is a Runner of a host that gives the same answer to every command.
func says(answer string) debpkg.Runner {
	return func(_ context.Context, _ []string, stdin io.Reader, stdout, _ io.Writer) error {
		if stdin != nil {
			_, _ = io.Copy(io.Discard, stdin)
		}
		_, err := io.WriteString(stdout, answer)
		return err
	}
}

func ExampleHost_Units() {
	host := debpkg.New(says(
		"Id=tyk-gateway.service\nLoadState=loaded\nActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainStatus=1\nNRestarts=5\n"), debpkg.Options{})
	units, err := host.Units(context.Background(), "tyk-gateway.service")
	fmt.Println(units[0], err)
	// Output: tyk-gateway.service is failed (failed), result exit-code, exit status 1, 5 restarts <nil>
}

func ExampleHost_Locks() {
	host := debpkg.New(says("/var/lib/dpkg/lock-frontend\t4711\tunattended-upgr\n"), debpkg.Options{})
	locks, err := host.Locks(context.Background())
	fmt.Println(locks[0], err)
	// Output: unattended-upgr (process 4711) holds /var/lib/dpkg/lock-frontend <nil>
}

func ExampleHost_Available() {
	host := debpkg.New(says("\x1dtyk-pump | 1.9.0 | https://packagecloud.io/tyk/tyk-pump/debian "+
		"bookworm/main amd64 Packages\n"), debpkg.Options{})
	list, err := host.Available(context.Background(), "tyk-pump")
	fmt.Println(list[0].Package, list[0].Version, err)
	// Output: tyk-pump 1.9.0 <nil>
}

// What went wrong is asked with errors.Is; the next step and whether a retry
// can help come with the error.
func ExampleError() {
	var err error = &debpkg.Error{Op: "apply", Object: "tyk-gateway=5.2.5", Kind: debpkg.ErrLocked,
		Detail: "unattended-upgr (process 4711) holds /var/lib/dpkg/lock-frontend",
		Retry:  true, Next: "wait for it to end"}
	var e *debpkg.Error
	fmt.Println(errors.Is(err, debpkg.ErrLocked), errors.As(err, &e) && e.Retryable())
	fmt.Println(err)
	// Output:
	// true true
	// apply tyk-gateway=5.2.5: another package manager is at work: unattended-upgr (process 4711) holds /var/lib/dpkg/lock-frontend; wait for it to end
}

func ExamplePlan_Refused() {
	plan := debpkg.Plan{Problems: []debpkg.Problem{{Refuse: true,
		Text: "it would remove tyk-pump 1.8.3, which is not requested",
		Next: "request the removal if you mean it"}}}
	fmt.Println(plan.Refused())
	// Output: apply the plan: plan is refused: it would remove tyk-pump 1.8.3, which is not requested; request the removal if you mean it
}

func ExampleComponents() {
	for _, c := range debpkg.Components() {
		fmt.Println(c.Package, c.Config)
	}
	// Output:
	// tyk-dashboard /opt/tyk-dashboard/tyk_analytics.conf
	// tyk-gateway /opt/tyk-gateway/tyk.conf
	// tyk-pump /opt/tyk-pump/pump.conf
}

// The lines of the README: over SSH, and back where something went wrong.
func upgradeOverSSH(ctx context.Context) error {
	host := debpkg.New(debpkg.Sudo(debpkg.SSH("ops@gw1", debpkg.SSHOptions{})), debpkg.Options{})
	// fails when a source cannot be reached or trusted, on every apt version
	if err := host.Update(ctx); err != nil {
		return err
	}
	version, err := debpkg.ParseVersion("5.2.5")
	if err != nil {
		return err
	}
	plan, err := host.Plan(ctx, debpkg.Request{Package: "tyk-gateway", Version: version})
	if err != nil {
		return err
	}
	fmt.Print(plan) // for a person to approve; json.Marshal for a machine
	change, err := host.Apply(ctx, plan)
	if err != nil && !change.Started.IsZero() {
		// the previous state exactly, configuration included
		err = errors.Join(err, host.Revert(ctx, change, debpkg.RevertOptions{Files: true}))
	}
	return err
}

func Example_ssh() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // there is no such host here
	fmt.Println(errors.Is(upgradeOverSSH(ctx), context.Canceled))
	// Output: true
}
