package host_test

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/host"
)

// The images of the suites that tests run. .ci/run makes them before it measures.
func TestImages(t *testing.T) {
	t.Parallel()
	if err := host.Available(); err != nil {
		lab.Missing(t, err.Error())
	}
	for _, suite := range []string{"bookworm", "trixie"} {
		name, err := host.Image(t.Context(), suite)
		if err != nil && host.NoSuite(err) {
			t.Logf("%s cannot be had from the mirror of this machine: %v", suite, err)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		again, err := host.Image(t.Context(), suite)
		if err != nil || again != name || !strings.Contains(name, suite) {
			t.Errorf("image %s, then %s, %v", name, again, err)
		}
	}
}

func TestHost(t *testing.T) {
	t.Parallel()
	if err := host.Available(); err != nil {
		lab.Missing(t, err.Error())
	}
	ctx := t.Context()
	h, err := host.Start(ctx, host.Options{Name: "lab-test", Mounts: map[string]string{
		"/srv/x": t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if err := h.Close(); err != nil {
			t.Errorf("closed twice: %v", err)
		}
		if out, err := h.Exec(context.Background(), nil, "hostname"); err == nil {
			t.Errorf("a closed host answers %q", out)
		}
	})
	out, err := exec.CommandContext(ctx, "ssh", "-F", h.SSHConfig(), "-o", "BatchMode=yes", "-o",
		"StrictHostKeyChecking=yes", "deploy@"+h.Addr,
		"sudo", "-n", "systemctl", "is-active", "ssh.service").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "active" {
		t.Errorf("through SSH as deploy: %q, %v", out, err)
	}
	if out, err := h.Exec(context.Background(), strings.NewReader("in"), "sh", "-c",
		"cat; hostname; test -d /srv/x"); err != nil || out != "inlab-test\n" {
		t.Errorf("exec: %q, %v", out, err)
	}
}
