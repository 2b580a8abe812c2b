package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/internal/lab"
	labhost "example.com/tykupgrade/internal/lab/host"
)

// Configuration files of another machine, with a real sshd there.
func TestHost(t *testing.T) {
	if err := labhost.Available(); err != nil {
		lab.Missing(t, err.Error())
	}
	ctx := t.Context()
	h, err := labhost.Start(ctx, labhost.Options{Name: "takebackup"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	on := func(script string) string {
		t.Helper()
		out, err := h.Exec(ctx, nil, "sh", "-ec", script)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	// The command has no option for ssh's configuration: it is the user's.
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "ssh"), fmt.Appendf(nil,
		"#!/bin/sh\nexec '%s' -F '%s' \"$@\"\n", ssh, h.SSHConfig()), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	cache, err := os.MkdirTemp("", "ssh") // short, for its sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_CACHE_HOME", cache)
	t.Cleanup(func() {
		sockets, _ := filepath.Glob(filepath.Join(cache, "tykupgrade", "ssh", "*"))
		for _, s := range sockets {
			if out, err := exec.Command(ssh, "-S", s, "-O", "exit", "any").CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		}
		_ = os.RemoveAll(cache)
	})

	on(`useradd -r tyk
mkdir -p /opt/tyk-gateway/policies /etc/default
echo secret >/opt/tyk-gateway/tyk.conf; chown tyk:tyk /opt/tyk-gateway/tyk.conf; chmod 640 /opt/tyk-gateway/tyk.conf
touch -d '2024-05-06 07:08:09 UTC' /opt/tyk-gateway/tyk.conf
echo '{}' >"/opt/tyk-gateway/policies/it's a \$policy.json"
ln -s ../opt/tyk-gateway/tyk.conf /etc/tyk.conf
echo A=1 >/etc/default/tyk-gateway
printf 'Package: tyk-gateway\nStatus: install ok installed\nVersion: 5.2.5\nArchitecture: all\nMaintainer: x <x@y>\nDescription: x\n\n' >>/var/lib/dpkg/status`)
	const state = `find /opt/tyk-gateway /etc/default/tyk-gateway ! -type d -printf '%p %M %U %G %s %T@\n' | sort; cat /opt/tyk-gateway/tyk.conf`
	before := on(state)

	c, dir, root := cmd{t: t}, t.TempDir(), "root@"+h.Addr
	set := c.json(0, "take", "-dir", dir, "-config", "-host", root)["result"].(map[string]any)
	if versions := fmt.Sprint(set["packages"]); !strings.Contains(versions, "tyk-gateway:5.2.5") {
		t.Errorf("the set belongs to the packages %s, not to those of the host", versions)
	}
	c.run(0, "verify", "-dir", dir, "-level", "live", "-config", "-host", root, "latest")
	on(`echo broken >/opt/tyk-gateway/tyk.conf; chmod 600 /opt/tyk-gateway/tyk.conf; rm /opt/tyk-gateway/policies/*; echo 2 >>/etc/default/tyk-gateway`)
	if _, msg := c.run(1, "verify", "-dir", dir, "-level", "live", "-config", "-host", root,
		"latest"); !strings.Contains(msg, "/opt/tyk-gateway/tyk.conf") || !strings.Contains(msg,
		"policy.json is missing") {
		t.Error(msg)
	}
	if out, _ := c.run(0, "restore", "-dir", dir, "-config", "-host", root,
		"latest"); !strings.Contains(out, "verified") {
		t.Error(out)
	}
	if after := on(state); after != before {
		t.Errorf("after the restore:\n%s\nbefore:\n%s", after, before)
	}
	if left := on(`find / -xdev -name '*.restore-*'`); left != "" {
		t.Errorf("left over: %s", left)
	}

	// A user who may not read them gets no set.
	if _, msg := c.run(1, "take", "-dir", t.TempDir(), "-config", "-host", "deploy@"+
		h.Addr); !strings.Contains(msg, "tyk.conf") || !strings.Contains(msg, "Permission denied") {
		t.Error(msg)
	}
}
