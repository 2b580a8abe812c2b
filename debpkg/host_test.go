package debpkg_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/debs"
)

// From a clean host through an upgrade and back, as a user with sudo: what runs is
// what was requested. The installation goes over SSH.
func TestHostUpgrade(t *testing.T) {
	t.Parallel()
	m := newMachine(t, gateway("4.0.8", debs.TykOptions{}), gateway("5.2.5", debs.TykOptions{}))
	h := debpkg.New(debpkg.Sudo(m.ssh("deploy")), m.options())
	if err := h.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := m.apply(h, m.request("tyk-gateway", "4.0.8"))
	running := func(want string) int64 {
		t.Helper()
		u := m.unit(h, "tyk-gateway.service")
		if !u.Active() || u.MainPID == 0 || u.FileState != "enabled" {
			t.Errorf("unit %+v", u)
		}
		// Type=simple: the unit is active before its process says anything.
		said := m.exec("sh", "-c", `for i in $(seq 100); do
	s=$(journalctl -q -o cat "_PID=$1"); [ -z "$s" ] || break; sleep 0.2
done; echo "$s"`, "said", fmt.Sprint(u.MainPID))
		if said != "tyk-gateway "+want+" started" {
			t.Errorf("the process says %q, want version %s", said, want)
		}
		return u.MainPID
	}
	facts, err := h.Facts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv(suiteEnv) == "" && (facts.OS.ID != "debian" || facts.OS.VersionID != "12") ||
		!facts.Systemd || facts.Hostname != m.Host.Name || facts.Machine == "" || facts.Apt.IsZero() ||
		facts.Dpkg.IsZero() ||
		len(facts.Disks) != 3 || facts.Disks[0].Free <= 0 || len(facts.Packages) != 1 ||
		len(facts.Units) != 1 || len(facts.Available) != 2 || len(facts.ByHand) != 0 {
		t.Errorf("facts %+v", facts)
	}
	roundTrip(t, facts)
	h = debpkg.New(debpkg.Sudo(m.user("deploy")), m.options())
	old := running("4.0.8")
	p := m.plan(h, m.request("tyk-gateway", "5.2.5"))
	if len(p.Restarts) != 1 || p.Restarts[0] != (debpkg.Restart{Unit: "tyk-gateway.service",
		Package: "tyk-gateway"}) {
		t.Errorf("restarts %+v", p.Restarts)
	}
	c, err := h.Apply(t.Context(), roundTrip(t, p))
	if err != nil {
		t.Fatal(err)
	}
	if pid := running("5.2.5"); pid == old {
		t.Error("the process is the old one")
	}
	if len(c.UnitsBefore) != 1 || len(c.UnitsAfter) != 1 || c.UnitsBefore[0].MainPID != old ||
		c.UnitsAfter[0].InvocationID == c.UnitsBefore[0].InvocationID {
		t.Errorf("units before %+v, after %+v", c.UnitsBefore, c.UnitsAfter)
	}
	if err := h.Revert(t.Context(), roundTrip(t, c), debpkg.RevertOptions{}); err != nil {
		t.Fatal(err)
	}
	running("4.0.8")
	if err := h.Revert(t.Context(), first, debpkg.RevertOptions{}); err != nil {
		t.Fatal(err)
	}
	if u := m.unit(h, "tyk-gateway.service"); u.Active() {
		t.Errorf("reverting the installation left %+v", u)
	}
	if got := m.version("tyk-gateway"); !strings.Contains(got, "deinstall config-files") {
		t.Errorf("tyk-gateway is %s", got)
	}
	// Without root: told before anything happens.
	plain := debpkg.New(m.ssh("deploy"), m.options())
	if p, err := plain.Plan(t.Context(), m.request("tyk-gateway", "5.2.5")); err == nil {
		if _, err := plain.Apply(t.Context(), p); err == nil || strings.Contains(m.exec("cat",
			"/var/log/apt/history.log"), "Requested-By: deploy") {
			t.Errorf("applied without root: %v", err)
		}
	}
	m.exec("sh", "-c", "mv /etc/sudoers.d/deploy /root/deploy.sudo")
	_, err = h.Facts(t.Context())
	m.exec("sh", "-c", "mv /root/deploy.sudo /etc/sudoers.d/deploy")
	wantError(t, err, debpkg.ErrNotRoot, "NOPASSWD")
}

// A service that dies: reported with its journal, reverted although systemd's
// start limit was hit.
func TestHostCrash(t *testing.T) {
	t.Parallel()
	m := newMachine(t, gateway("4.0.8", debs.TykOptions{}), gateway("5.2.5",
		debs.TykOptions{Crash: true}))
	// A busy machine starts the broken program late.
	h := m.host(func(o *debpkg.Options) { o.Settle = 2 * time.Second })
	m.install("tyk-gateway=4.0.8")
	c, err := h.Apply(t.Context(), m.plan(h, m.request("tyk-gateway", "5.2.5")))
	wantError(t, err, debpkg.ErrUnit, "tyk-gateway.service", "tyk-gateway 5.2.5: cannot start",
		"or revert")
	if c.ExitCode != 0 {
		t.Errorf("apt's exit code is %d; it was to be fooled", c.ExitCode)
	}
	var e *debpkg.Error
	if !errors.As(err, &e) || e.Output == "" {
		t.Errorf("no journal in %+v", e)
	}
	// Let the start limit trip, as it does while people think.
	m.exec("sh", "-c", "while [ $(systemctl show -P Result tyk-gateway) != exit-code ] && [ "+
		"$(systemctl show -P ActiveState tyk-gateway) != failed ]; do systemctl restart tyk-gateway; "+
		"sleep 0.1; done; for i in 1 2 3 4 5 6 7 8; do systemctl restart tyk-gateway; done; true")
	if err := h.Restart(t.Context(), "tyk-gateway.service"); !errors.Is(err, debpkg.ErrUnit) {
		t.Errorf("restarting the broken version: %v", err)
	}
	if err := h.Revert(t.Context(), roundTrip(t, c), debpkg.RevertOptions{}); err != nil {
		t.Fatal(err)
	}
	if u := m.unit(h, "tyk-gateway.service"); !u.Active() || u.NRestarts != 0 {
		t.Errorf("after the revert %+v", u)
	}
	if got := m.version("tyk-gateway"); got != "4.0.8 install installed" {
		t.Errorf("after the revert: %s", got)
	}
	wantError(t, h.Restart(t.Context(), "nix.service"), debpkg.ErrUnit, "nix.service")
	wantError(t, h.WaitStable(t.Context(), "nix.service"), debpkg.ErrUnit, "not-found")
}

// Stage installs and leaves the old process serving until Restart.
func TestHostStage(t *testing.T) {
	t.Parallel()
	m := newMachine(t, gateway("4.0.8", debs.TykOptions{}), gateway("5.2.5", debs.TykOptions{}),
		gateway("5.3.0", debs.TykOptions{Postinst: waiting}), debs.Tyk("tyk-pump", "1.9.0",
			debs.TykOptions{}))
	h := m.host()
	m.install("tyk-gateway=4.0.8")
	old := m.unit(h, "tyk-gateway.service")
	_, err := h.Stage(t.Context(), m.plan(h, m.request("tyk-pump", "1.9.0")))
	wantError(t, err, debpkg.ErrRefused, "tyk-pump")
	c, err := h.Stage(t.Context(), m.plan(h, m.request("tyk-gateway", "5.2.5")))
	if err != nil {
		t.Fatal(err)
	}
	if got := m.version("tyk-gateway"); got != "5.2.5 install installed" || !c.Staged {
		t.Errorf("staged: %s", got)
	}
	now := m.unit(h, "tyk-gateway.service")
	if now.MainPID != old.MainPID || now.InvocationID != old.InvocationID ||
		now.LoadState != "loaded" {
		t.Errorf("the unit was %+v, is %+v", old, now)
	}
	if err := h.Restart(t.Context(), c.ServiceNames()...); err != nil {
		t.Fatal(err)
	}
	if now := m.unit(h, "tyk-gateway.service"); now.MainPID == old.MainPID || !now.Active() ||
		now.NeedDaemonReload {
		t.Errorf("after the restart %+v", now)
	}
	if got := m.exec("journalctl", "-q", "-o", "cat", "-u", "tyk-gateway", "-n",
		"2"); !strings.Contains(got, "tyk-gateway 5.2.5 started") {
		t.Errorf("journal %s", got)
	}

	// The run is killed: the unit does not stay masked.
	p := m.plan(h, m.request("tyk-gateway", "5.3.0"))
	done := make(chan error, 1)
	go func() {
		_, err := h.Stage(t.Context(), p)
		done <- err
	}()
	m.begun()
	if got := m.unit(h, "tyk-gateway.service"); got.LoadState != "masked" {
		t.Errorf("while it is staged: %+v", got)
	}
	m.exec("sh", "-c", `for d in /var/lib/tykupgrade/runs/*; do read -r p <$d/pid; pkill -KILL -s "$p"; done; true`)
	wantError(t, <-done, debpkg.ErrInterrupted, "the run vanished")
	if got := m.unit(h, "tyk-gateway.service"); got.LoadState != "loaded" || !got.Active() {
		t.Errorf("after the run was killed: %+v", got)
	}
}

// The ssh client and the shared connection are killed while postinst runs: the
// change is completed, attached to again, and reported.
func TestHostConnectionCut(t *testing.T) {
	t.Parallel()
	v1, v2 := gateway("4.0.8", debs.TykOptions{}), gateway("5.2.5", debs.TykOptions{Postinst: waiting})
	for _, p := range []debs.Package{v1, v2} {
		// A unit that waits for a timer or an administrator.
		p.Files["/lib/systemd/system/lab-once.service"] = debs.File{
			Content: "[Service]\nType=oneshot\nExecStart=/bin/touch /run/lab-once\n"}
	}
	m := newMachine(t, v1, v2)
	h := debpkg.New(m.ssh("root"), m.options())
	m.install("tyk-gateway=4.0.8")
	p := m.plan(h, m.request("tyk-gateway", "5.2.5"))
	type result struct {
		c   debpkg.Change
		err error
	}
	done := make(chan result, 1)
	go func() {
		c, err := h.Apply(t.Context(), p)
		done <- result{c, err}
	}()
	m.begun()
	killSSH(t, filepath.Dir(m.SSHConfig()))
	m.exec("touch", "/run/lab-go")
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	if !m.saw("the connection is lost") {
		t.Error("no event tells of the lost connection")
	}
	if got := m.version("tyk-gateway"); got != "5.2.5 install installed" ||
		r.c.After[0].Version.String() != "5.2.5" {
		t.Errorf("after the cut: %s, change %+v", got, r.c.After)
	}
	if n := strings.Count(m.exec("cat", "/var/log/apt/history.log"),
		"Upgrade: tyk-gateway:amd64 (4.0.8, 5.2.5)"); n != 1 {
		t.Errorf("apt ran %d times", n)
	}
	// apt's history does not tell which units ran: those that do not are left.
	c, err := h.RevertFromHistory(t.Context(), "tyk-gateway")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Revert(t.Context(), c, debpkg.RevertOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := m.version("tyk-gateway"); got != "4.0.8 install installed" ||
		!m.unit(h, "tyk-gateway.service").Active() {
		t.Errorf("after the revert: %s", got)
	}
	m.exec("test", "!", "-e", "/run/lab-once")
}

// applyHelper is an operator's process of its own: it applies the plan in a
// file over SSH.
func applyHelper(file string) int {
	var in struct {
		Plan                  debpkg.Plan
		Addr, Config, Control string
	}
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &in)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	h := debpkg.New(debpkg.SSH("root@"+in.Addr, debpkg.SSHOptions{Config: in.Config,
		ControlDir: in.Control}), debpkg.Options{})
	if _, err := h.Apply(context.Background(), in.Plan); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// The operator's process is killed while postinst runs. Another one with the
// same plan attaches to the run, and does nothing twice.
func TestHostOperatorKilled(t *testing.T) {
	lab.Long(t) // TestHostCrash is of the same kind
	t.Parallel()
	m := newMachine(t, gateway("4.0.8", debs.TykOptions{}), gateway("5.2.5",
		debs.TykOptions{Postinst: waiting}))
	h := m.host()
	m.install("tyk-gateway=4.0.8")
	m.exec("apt-mark", "hold", "tyk-gateway")
	p := m.plan(h, m.request("tyk-gateway", "5.2.5"))
	file := filepath.Join(t.TempDir(), "plan.json")
	// A shared connection of the operator's own, which ends with the host.
	data, err := json.Marshal(map[string]any{"Plan": p, "Addr": m.Addr, "Config": m.SSHConfig(),
		"Control": filepath.Join(filepath.Dir(m.SSHConfig()), "op")})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	operator := exec.Command(os.Args[0])
	operator.Env = append(os.Environ(), "DEBPKG_APPLY="+file)
	if err := operator.Start(); err != nil {
		t.Fatal(err)
	}
	m.begun()
	if err := operator.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = operator.Wait()
	go func() {
		for !m.saw("attach to the run") {
			time.Sleep(20 * time.Millisecond)
		}
		_, _ = m.Exec(context.Background(), nil, "touch", "/run/lab-go")
	}()
	c, err := h.Apply(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.version("tyk-gateway"); got != "5.2.5 hold installed" || len(c.Saved) != 1 {
		t.Errorf("resumed: %s, %+v", got, c)
	}
	if n := strings.Count(m.exec("cat", "/var/log/apt/history.log"),
		"Upgrade: tyk-gateway:amd64 (4.0.8, 5.2.5)"); n != 1 {
		t.Errorf("apt ran %d times", n)
	}
	if err := h.Revert(t.Context(), c, debpkg.RevertOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := m.version("tyk-gateway"); got != "4.0.8 hold installed" {
		t.Errorf("reverted: %s", got)
	}
}

// The context ends while postinst runs: dpkg is let finish, the change is
// complete and the error says why the caller was stopped.
func TestHostCancelled(t *testing.T) {
	t.Parallel()
	m := newMachine(t, gateway("4.0.8", debs.TykOptions{}), gateway("5.2.5",
		debs.TykOptions{Postinst: waiting}))
	h := m.host()
	m.install("tyk-gateway=4.0.8")
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("the operator went home")
	go func() {
		m.begun()
		// Meanwhile others see who is at work.
		locks, err := h.Locks(t.Context())
		if err != nil || len(locks) == 0 || locks[0].Path != "/var/lib/dpkg/lock-frontend" ||
			locks[0].Command != "apt-get" {
			t.Errorf("locks %+v, %v", locks, err)
		}
		cancel(cause)
		_, _ = m.Exec(context.Background(), nil, "touch", "/run/lab-go")
	}()
	c, err := h.Apply(ctx, m.plan(h, m.request("tyk-gateway", "5.2.5")))
	if !errors.Is(err, context.Canceled) || !errors.Is(err, cause) {
		t.Errorf("error %v", err)
	}
	if got := m.version("tyk-gateway"); got != "5.2.5 install installed" || len(c.After) != 1 {
		t.Errorf("cancelled: %s, %+v", got, c)
	}
}
