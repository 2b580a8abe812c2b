package debpkg_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/debs"
	"example.com/tykupgrade/internal/lab/host"
)

// The newest Debian, with apt 3, sqv and systemd 257: plan, apply, a run that is
// killed, and back.
func TestHostDebian13(t *testing.T) {
	t.Parallel()
	needMachines(t)
	if _, err := host.Image(t.Context(), "trixie"); err != nil {
		if host.NoSuite(err) {
			lab.Unavailable(t, "Debian 13 from the mirror of this machine: "+err.Error())
		}
		t.Fatal(err)
	}
	dir := t.TempDir()
	box, err := host.Start(t.Context(), host.Options{Suite: "trixie", Name: "debian13",
		Mounts: map[string]string{"/srv/lab": dir}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := box.Close(); err != nil {
			t.Error(err)
		}
	})
	m := machineOn(t, box, dir, "/srv/lab", gateway("4.0.8", debs.TykOptions{Config: conf1}),
		gateway("5.2.5", debs.TykOptions{Config: conf2}), gateway("5.3.0",
			debs.TykOptions{Postinst: waiting}))
	h := debpkg.New(debpkg.Sudo(m.ssh("deploy")), m.options())
	ctx := t.Context()
	facts, err := h.Facts(ctx)
	if err != nil || facts.OS.VersionID != "13" ||
		!strings.HasPrefix(facts.Apt.String(), "3.") || !facts.Systemd || len(facts.Available) != 3 {
		t.Fatalf("facts %+v, %v", facts, err)
	}
	h = debpkg.New(debpkg.Sudo(m.user("deploy")), m.options())
	m.exec("apt-get", "-q", "-y", "install", "tyk-gateway=4.0.8") // apt's cache stays empty
	m.exec("sh", "-c", "echo edited >/opt/tyk-gateway/tyk.conf")
	p := m.plan(h, m.request("tyk-gateway", "5.2.5"))
	if p.Conffiles[0].Outcome != debpkg.OutcomeConflict || p.Actions[0].Rollback != "repository" ||
		p.Refused() != nil {
		t.Errorf("plan %s", p)
	}
	c, err := h.Apply(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.version("tyk-gateway"); got != "5.2.5 install installed" ||
		!m.unit(h, "tyk-gateway.service").Active() {
		t.Errorf("applied: %s", got)
	}
	h = m.host()
	p = m.plan(h, m.request("tyk-gateway", "5.3.0"))
	done := make(chan error, 1)
	go func() {
		_, err := h.Apply(ctx, p)
		done <- err
	}()
	m.begun()
	m.exec("sh", "-c", `read -r p <"$1/pid"; pkill -KILL -s "$p"`, "kill",
		"/var/lib/tykupgrade/runs/"+p.Digest[:16])
	wantError(t, <-done, debpkg.ErrInterrupted, "the run vanished")
	m.exec("touch", "/run/lab-go")
	if err := h.Revert(ctx, debpkg.Change{Plan: p}, debpkg.RevertOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := m.version("tyk-gateway"); got != "5.2.5 install installed" {
		t.Errorf("reverted: %s", got)
	}
	if err := h.Revert(ctx, c, debpkg.RevertOptions{Files: true}); err != nil {
		t.Fatal(err)
	}
	if got := m.version("tyk-gateway"); got != "4.0.8 install installed" ||
		m.exec("cat", "/opt/tyk-gateway/tyk.conf") != "edited" {
		t.Errorf("reverted: %s", got)
	}
	for want, request := range map[error]debpkg.Request{
		debpkg.ErrNoVersion: m.request("tyk-gateway", "9"),
		debpkg.ErrNoPackage: m.request("tyk-nix", "1")} {
		if _, err := h.Plan(ctx, request); !errors.Is(err, want) {
			t.Errorf("%v is %v", request, err)
		}
	}
	other, err := debs.NewForeignRepo(filepath.Join(dir, "other"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(other.Close(), os.Chmod(other.Dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	m.exec("sed", "-i", "s,/srv/lab/key.gpg,/srv/lab/other/key.gpg,",
		"/etc/apt/sources.list.d/tyk_tyk-gateway.list")
	wantError(t, h.Update(ctx), debpkg.ErrSignature, "tyk_tyk-gateway.list:1")
}

// logind kills all that a session leaves behind (KillUserProcesses=yes). The
// connection is cut while postinst runs: apt continues.
func TestHostKillUserProcesses(t *testing.T) {
	t.Parallel()
	m := newMachine(t, gateway("4.0.8", debs.TykOptions{}), gateway("5.2.5",
		debs.TykOptions{Postinst: waiting}))
	t.Cleanup(func() {
		m.exec("sh", "-c", `sed -i /pam_systemd/d /etc/pam.d/common-session; rm -rf /etc/systemd/logind.conf.d
systemctl stop systemd-logind; systemctl mask systemd-logind`)
	})
	m.exec("sh", "-ec", `mkdir -p /etc/systemd/logind.conf.d
printf '[Login]\nKillUserProcesses=yes\nKillExcludeUsers=\n' >/etc/systemd/logind.conf.d/kill.conf
systemctl unmask systemd-logind; systemctl start systemd-logind
echo 'session optional pam_systemd.so' >>/etc/pam.d/common-session`)
	alone := debpkg.SSH("deploy@"+m.Addr, debpkg.SSHOptions{Config: m.SSHConfig(),
		ControlDir: "none"})
	if err := alone(t.Context(), []string{"sh", "-c",
		"setsid sleep 86399 >/dev/null 2>&1 </dev/null &"}, nil, nil, nil); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(3 * time.Minute); m.exec("sh", "-c",
		"pgrep -f 'sleep 8639[9]' || true") != ""; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("logind kills nothing here, so the test shows nothing: " + m.exec("sh", "-c",
				"loginctl; journalctl -u systemd-logind -n 20 --no-pager; true"))
		}
	}
	h := debpkg.New(debpkg.Sudo(m.ssh("deploy")), m.options())
	m.install("tyk-gateway=4.0.8")
	p := m.plan(h, m.request("tyk-gateway", "5.2.5"))
	done := make(chan error, 1)
	go func() {
		_, err := h.Apply(t.Context(), p)
		done <- err
	}()
	m.begun()
	killSSH(t, filepath.Dir(m.SSHConfig()))
	// Until the session and what belongs to it has gone.
	for deadline := time.Now().Add(3 * time.Minute); !m.saw("the connection is lost") &&
		time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	time.Sleep(time.Second)
	m.exec("touch", "/run/lab-go")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := m.version("tyk-gateway"); got != "5.2.5 install installed" {
		t.Errorf("after the cut: %s", got)
	}
}

// A jump host and a key of its own are used.
func TestHostLogin(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	// Only the jump host knows the way to its own loopback.
	dir := t.TempDir()
	key, err := os.ReadFile(filepath.Join(filepath.Dir(m.SSHConfig()), "id"))
	if err != nil {
		t.Fatal(err)
	}
	hostKey := m.exec("cat", "/etc/ssh/ssh_host_ed25519_key.pub")
	known, config, id := filepath.Join(dir, "known hosts"), filepath.Join(dir, "config"),
		filepath.Join(dir, "my key")
	for name, text := range map[string]string{id: string(key),
		known: "127.0.0.1 " + hostKey + "\n" + m.Addr + " " + hostKey + "\n",
		config: "Host *\n  IdentityFile \"" + id + "\"\n  IdentitiesOnly yes\n  UserKnownHostsFile \"" +
			known + "\"\n  GlobalKnownHostsFile /dev/null\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := debpkg.SSHOptions{Config: config, Identity: id, KnownHosts: known, Jump: "root@" + m.Addr,
		ControlDir: "none"}
	// One command: each makes two connections, or one.
	hostname := func(dest string) (string, error) {
		var out bytes.Buffer
		err := debpkg.SSH(dest, o)(t.Context(), []string{"hostname"}, nil, &out, nil)
		return strings.TrimSpace(out.String()), err
	}
	if got, err := hostname("root@127.0.0.1"); err != nil || got != m.Host.Name {
		t.Errorf("through the jump host: %s, %v", got, err)
	}
	o.Jump = "root@" + m.Addr + ":9"
	_, err = hostname("root@127.0.0.1")
	wantError(t, err, debpkg.ErrConnection)
	// No file names the key but Identity.
	o.Jump, o.Config = "", "/dev/null"
	if got, err := hostname("root@" + m.Addr); err != nil || got != m.Host.Name {
		t.Errorf("with a key of its own: %s, %v", got, err)
	}
	o.Identity = filepath.Join(dir, "absent")
	_, err = hostname("root@" + m.Addr)
	wantError(t, err, debpkg.ErrConnection, "load the right key into the agent, or set Identity")
}
