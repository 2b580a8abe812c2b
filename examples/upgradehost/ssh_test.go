package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/debs"
	"example.com/tykupgrade/internal/lab/host"
)

// TestMain keeps the shared connections of ssh out of the user's cache.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "uh-")
	if err == nil {
		err = os.Setenv("XDG_CACHE_HOME", dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// -host reaches a real host, as a user with sudo: from the facts to what is
// forgotten at the end.
func TestOverSSH(t *testing.T) {
	t.Parallel()
	if err := host.Available(); err != nil {
		lab.Missing(t, err.Error())
	}
	for prog, deb := range map[string]string{"apt-ftparchive": "apt-utils", "gpg": "gnupg",
		"debootstrap": "debootstrap"} {
		lab.Program(t, prog, deb)
	}
	dir := t.TempDir()
	repo, err := debs.NewRepo(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := repo.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := repo.Add(debs.Tyk("tyk-gateway", "4.0.8", debs.TykOptions{Config: "4"}),
		debs.Tyk("tyk-gateway", "5.2.5", debs.TykOptions{Config: "5"})); err != nil {
		t.Fatal(err)
	}
	h, err := host.Start(t.Context(), host.Options{Name: "gw1", Mounts: map[string]string{
		"/srv/lab": dir}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	exec := func(script string) string {
		t.Helper()
		out, err := h.Exec(context.Background(), nil, "sh", "-ec", script)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	exec(`echo 'deb [signed-by=/srv/lab/key.gpg] file:/srv/lab ./' >/etc/apt/sources.list.d/tyk_tyk-gateway.list
apt-get -q update; DEBIAN_FRONTEND=noninteractive apt-get -q -y install tyk-gateway=4.0.8; echo edited >/opt/tyk-gateway/tyk.conf; apt-mark hold tyk-gateway`)
	const files = `cd /opt/tyk-gateway; md5sum tyk.conf* policies/*; dpkg-query -W -f '${Version} ${db:Status-Abbrev}' tyk-gateway`
	before := exec(files)
	command := func(code int, verb string, args ...string) string {
		t.Helper()
		out, errOut := upgradehost(t, code, "", append([]string{verb, "-host", "deploy@" + h.Addr,
			"-ssh-config", h.SSHConfig()}, args...)...)
		return out + errOut
	}
	contains(t, command(cli.Yes, "facts"), "gw1", "debian 12", "tyk-gateway.service")
	contains(t, command(cli.No, "plan", "tyk-gateway=5.2.5"), "root is needed", "give -sudo")
	change := filepath.Join(t.TempDir(), "change.json")
	contains(t, command(cli.Yes, "apply", "-sudo", "-yes", "tyk-gateway=5.2.5", "-settle", "300ms",
		"-out", change), "ok tyk-gateway 5.2.5, was tyk-gateway 4.0.8", "tyk-gateway.service is active")
	contains(t, command(cli.Yes, "revert", "-sudo", "-files", "-settle", "300ms", "-change", change),
		"tyk-gateway 4.0.8 is back")
	if after := exec(files); after != before {
		t.Errorf("after the revert there is\n%s\nbefore there was\n%s", after, before)
	}
	command(cli.Yes, "forget", "-sudo", "-change", change)
	if left := exec("ls /var/lib/tykupgrade/runs"); left != "" {
		t.Errorf("the host keeps %s", left)
	}
}
