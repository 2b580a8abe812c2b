// Package host runs Debian and Ubuntu machines as containers with systemd and
// sshd. They need no capability beyond a container's usual ones, boot in about
// a second, and each has an address of its own that this machine reaches.
//
// It needs a Docker engine on this machine and debootstrap, which makes the
// image once; docker keeps it under a name with the recipe's hash. Tested with
// Docker 20.10 on a cgroup v1 machine; a machine with cgroup v2 alone has no
// /sys/fs/cgroup/systemd and gets another set of options, untested.
package host

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Label marks every container of this package.
const Label = "tykupgrade.lab.host"

// Options changes a host. The zero value is a Debian 12 machine.
type Options struct {
	Suite  string            // bookworm (default), bullseye, focal, jammy, …: what debootstrap knows
	Name   string            // the machine's hostname; empty: host
	Mounts map[string]string // directories of this machine to mount read-only, by path in the host
}

// Host is a running container. Its methods may be called by several goroutines.
type Host struct {
	ID   string // the container's
	Name string // the hostname
	Addr string // the address at which this machine reaches it: every port, sshd on 22

	dir string     // key, known_hosts, ssh_config
	ns  []*os.File // the container's namespaces; none: commands go through the engine
}

// Start boots a host and returns once systemd has finished booting and sshd
// answers. [Host.Close] removes it. The image is made first where docker does
// not have it, which takes about a minute and happens once per machine.
func Start(ctx context.Context, o Options) (_ *Host, err error) {
	if o.Name == "" {
		o.Name = "host"
	}
	image, err := Image(ctx, o.Suite)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "lab-host-")
	if err != nil {
		return nil, err
	}
	h := &Host{Name: o.Name, dir: dir}
	defer func() {
		if err != nil {
			_ = h.Close()
		}
	}()
	random := make([]byte, 6)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	argv := []string{"docker", "run", "-d", "--name", "tykupgrade-" + o.Name + "-" +
		hex.EncodeToString(random), "--hostname", o.Name,
		"--label", Label + "=1", "--stop-signal", "SIGRTMIN+3", "--tmpfs", "/run", "--tmpfs", "/run/lock",
		// systemd 256 and newer boot on cgroup v1 only when told.
		"-e", "SYSTEMD_PROC_CMDLINE=SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"}
	if _, err := os.Stat("/sys/fs/cgroup/systemd"); err == nil {
		argv = append(argv, "-v", "/sys/fs/cgroup:/sys/fs/cgroup:ro")
	} else {
		argv = append(argv, "--cgroupns=host", "-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw")
	}
	for in, out := range o.Mounts {
		argv = append(argv, "-v", out+":"+in+":ro")
	}
	// Ended half-way, docker could leave a container whose name nobody knows.
	id, err := output(context.WithoutCancel(ctx), append(argv, image)...)
	if err != nil {
		return nil, err
	}
	h.ID = strings.TrimSpace(id)
	facts, err := output(ctx, "docker", "inspect", "-f",
		"{{.NetworkSettings.IPAddress}} {{.State.Pid}}", h.ID)
	if err != nil {
		return nil, err
	}
	addr, pid, _ := strings.Cut(strings.TrimSpace(facts), " ")
	h.Addr, h.ns = addr, namespaces(h.ID, pid)
	if err := h.boot(ctx); err != nil {
		return nil, err
	}
	return h, h.trust(ctx)
}

func (h *Host) boot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		// Before the bus is there, --wait fails at once. The loop is in the host, as each
		// call through the engine costs many processes.
		out, err := h.Exec(ctx, nil, "sh", "-c", `for i in 1 2 3 4 5 6 7 8 9 10; do
	s=$(systemctl is-system-running --wait 2>/dev/null) && break
	[ "$s" != degraded ] || break
	sleep 0.1
done
echo "$s"; [ "$s" = running ]`)
		state := strings.TrimSpace(out)
		if err == nil || state == "degraded" {
			return nil
		}
		if ctx.Err() != nil {
			logs, _ := output(context.WithoutCancel(ctx), "docker", "logs", "--tail", "20", h.ID)
			return fmt.Errorf("boot container %s: state %q: %w\n%s", h.ID, state, err, logs)
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// trust exchanges keys: the host's own for known_hosts, and one of ours for
// root and deploy.
func (h *Host) trust(ctx context.Context) error {
	key := filepath.Join(h.dir, "id")
	if _, err := output(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f",
		key); err != nil {
		return err
	}
	pub, err := os.ReadFile(key + ".pub")
	if err != nil {
		return err
	}
	hostKey, err := h.Exec(ctx, bytes.NewReader(pub), "sh", "-ec", `
install -d -m 700 /root/.ssh; install -d -m 700 -o deploy -g deploy /home/deploy/.ssh
cat >/root/.ssh/authorized_keys
install -m 600 -o deploy -g deploy /root/.ssh/authorized_keys /home/deploy/.ssh/authorized_keys
cat /etc/ssh/ssh_host_ed25519_key.pub`)
	if err != nil {
		return err
	}
	config := fmt.Sprintf("Host *\n  User root\n  IdentityFile %s\n  IdentitiesOnly yes\n  "+
		"UserKnownHostsFile %s\n  GlobalKnownHostsFile /dev/null\n", key, filepath.Join(h.dir,
		"known_hosts"))
	return errors.Join(
		os.WriteFile(filepath.Join(h.dir, "known_hosts"), []byte(h.Addr+" "+hostKey), 0o600),
		os.WriteFile(h.SSHConfig(), []byte(config), 0o600))
}

// SSHConfig is an OpenSSH client configuration (ssh -F) that reaches the host
// at Addr as root with a key, knowing its host key. The user deploy has the
// same key and sudo without a password.
func (h *Host) SSHConfig() string { return filepath.Join(h.dir, "ssh_config") }

// Close removes the container and the keys. It may be called twice.
func (h *Host) Close() error {
	var err error
	if h.ID != "" {
		_, err = output(context.Background(), "docker", "rm", "-f", "-v", h.ID)
		if err != nil && strings.Contains(err.Error(), "No such container") {
			err = nil
		}
	}
	closeAll(h.ns)
	return errors.Join(err, os.RemoveAll(h.dir))
}

// Available says why hosts cannot be run on this machine; nil: they can.
var Available = sync.OnceValue(func() error {
	for prog, deb := range map[string]string{"docker": "docker.io", "ssh": "openssh-client",
		"ssh-keygen": "openssh-client"} {
		if _, err := exec.LookPath(prog); err != nil {
			return fmt.Errorf("%s is not on PATH (Debian package %s)", prog, deb)
		}
	}
	if _, err := output(context.Background(), "docker", "version", "-f",
		"{{.Server.Version}}"); err != nil {
		return fmt.Errorf("no Docker engine answers (Debian package docker.io): %w", err)
	}
	return nil
})
