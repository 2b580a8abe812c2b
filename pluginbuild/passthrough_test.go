package pluginbuild_test

import (
	"bufio"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/run"
	"example.com/tykupgrade/pluginbuild"
)

// The settings of this process reach the commands: GOPROXY, GOPRIVATE,
// GONOSUMDB, and the SSH agent down to the ssh that git starts. netrc is shown
// by TestPrepareKeepsSecretsOutOfErrors.
func TestPreparePassesSettingsThrough(t *testing.T) {
	sshAgent, sshAdd := lab.Program(t, "ssh-agent", "openssh-client"), lab.Program(t, "ssh-add",
		"openssh-client")
	r := lookup(t, "5.2.5")
	repo := repository(t, gatewayAt(r).Modules()[0].Files, "v5.2.5")
	r.Commit, r.Date = repo.commits["v5.2.5"], time.Time{}

	// An ssh that asks the agent as the real one does, and stays on this machine.
	bin := t.TempDir()
	script := "#!/bin/sh\n" + sshAdd + " -l >&2 || { echo 'git@example.org: Permission denied " +
		"(publickey).' >&2; exit 255; }\n" +
		"for last; do :; done\nexec sh -c \"$last\"\n"
	if err := run.WriteProgram(filepath.Join(bin, "ssh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	refusing := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(refusing.Close)
	for _, kv := range append(offline(t, "5.2.5"), // for what the gateway's module needs
		"GIT_SSH_COMMAND="+filepath.Join(bin, "ssh"), "SSH_AUTH_SOCK=",
		"GOSUMDB=sum.golang.org "+refusing.URL, "GOPRIVATE="+pluginbuild.Module,
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=url.ssh://git@example.org"+repo.dir+".insteadOf",
		"GIT_CONFIG_VALUE_0=https://"+pluginbuild.Module) {
		k, v, _ := strings.Cut(kv, "=")
		t.Setenv(k, v)
	}
	dir := newModule(t, "module example.org/plugin\n\ngo 1.19\n", nil)
	fails := func(hint string) {
		t.Helper()
		_, err := pluginbuild.Prepare(t.Context(), dir, r, pluginbuild.PrepareOptions{})
		var failed *pluginbuild.Error
		if !errors.As(err, &failed) || !strings.Contains(failed.Hint(), hint) {
			t.Fatalf("error %v, want the hint %q", err, hint)
		}
	}
	fails("SSH agent")

	socket := filepath.Join(bin, "agent")
	agent := exec.CommandContext(t.Context(), sshAgent, "-D", "-a", socket)
	out, err := agent.StdoutPipe()
	if err == nil {
		err = agent.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = agent.Process.Kill(); _ = agent.Wait() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil { // it listens
		t.Fatal(err)
	}
	t.Setenv("SSH_AUTH_SOCK", socket)
	key := filepath.Join(bin, "key")
	for _, argv := range [][]string{{lab.Program(t, "ssh-keygen", "openssh-client"), "-q", "-t",
		"ed25519", "-N", "", "-f", key}, {sshAdd, "-q", key}} {
		if out, err := exec.CommandContext(t.Context(), argv[0],
			argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", argv, err, out)
		}
	}
	fails("GONOSUMDB")

	t.Setenv("GONOSUMDB", "github.com/*")
	if _, err := pluginbuild.Prepare(t.Context(), dir, r, pluginbuild.PrepareOptions{}); err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil || !strings.Contains(string(mod), r.Commit[:12]) {
		t.Errorf("%v\n%s", err, mod)
	}
}
