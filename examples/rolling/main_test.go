package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/cli"
)

// A fleet whose hosts nobody can reach.
const nowhere = `
versions: {pump: 1.9.0}
ssh: {config: /dev/null}
hosts: [{name: p1, address: "nobody@127.0.0.1", port: 1, component: pump}]
`

func invoke(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	code = command(job{}).Run(t.Context(), args, cli.Streams{In: strings.NewReader(stdin), Out: &out,
		Err: &errOut})
	return code, out.String(), errOut.String()
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"", cli.Usage, "no verb given (want plan, run"},
		{"run -no-such-flag", cli.Usage, "unknown flag -no-such-flag"},
		{"run", cli.Usage, "-file is missing"},
		{"-file x frobnicate", cli.Usage, `unknown verb "frobnicate"`},
		{"-file x run undo", cli.Usage, `unexpected argument "undo"`},
		{"-file x -step drain run", cli.Usage, "-step needs -only"},
		{"-file x -html y run", cli.Usage, "-html goes with report, not with run"},
		{"-file /nonexistent run", cli.Usage, "/nonexistent: no such file"},
		{"report", cli.Usage, "-file or -journal is missing"},
		{"-journal /nonexistent report", cli.Refused, "the journal /nonexistent holds no run"},
		{"-file testdata/none.yaml -only x plan", cli.Usage, "no such file"},
	} {
		code, _, stderr := invoke(t, "", strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("rolling %s: exit code %d, stderr %q", c.args, code, stderr)
		}
	}
}

func TestNotConfirmed(t *testing.T) {
	t.Parallel()
	inv := filepath.Join(t.TempDir(), "f.yaml")
	if err := os.WriteFile(inv, []byte(nowhere), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := invoke(t, "n\n", "-file", inv, "-without", "plan,findings", "run")
	if code != cli.Refused || !strings.Contains(stderr, "run the rollout of 1 target,") ||
		!strings.Contains(stderr, "not confirmed") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	if _, err := os.Stat(inv + ".journal"); !errors.Is(err, os.ErrNotExist) {
		t.Error("a journal was begun")
	}
}

func TestHostThatCannotBeReached(t *testing.T) {
	t.Parallel()
	inv := filepath.Join(t.TempDir(), "f.yaml")
	if err := os.WriteFile(inv, []byte(nowhere), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, _ := invoke(t, "", "plan", "-file", inv)
	if code != cli.No || !strings.Contains(stdout, "cannot:") || !strings.Contains(stdout,
		"install → healthy") || !strings.Contains(stdout, "The run ends at failure 1") {
		t.Errorf("exit code %d\n%s", code, stdout)
	}
	code, stdout, stderr := invoke(t, "", "-file", inv, "-yes", "run")
	if code != cli.Refused || !strings.Contains(stderr, "or give -without plan") {
		t.Errorf("exit code %d\n%s\n%s", code, stdout, stderr)
	}
	if _, err := os.Stat(inv + ".journal"); err == nil {
		t.Error("a journal was begun though no host can be upgraded")
	}
	code, stdout, stderr = invoke(t, "", "-file", inv, "-yes", "-without", "plan,findings", "run")
	if code != cli.No || !strings.Contains(stdout, "outcome   held") || !strings.Contains(stderr,
		"p1: install failed") {
		t.Errorf("exit code %d\n%s\n%s", code, stdout, stderr)
	}
	code, _, stderr = invoke(t, "", "-file", inv, "-yes", "run")
	if code != cli.Refused || !strings.Contains(stderr, "rolling resume continues it") {
		t.Errorf("a second run: exit code %d, %q", code, stderr)
	}
}

func TestLockedFleet(t *testing.T) {
	t.Parallel()
	inv := filepath.Join(t.TempDir(), "f.yaml")
	lock := `{"user":"eve","host":"elsewhere","pid":7,"since":"2026-01-01T00:00:00Z"}`
	if err := errors.Join(os.WriteFile(inv, []byte(nowhere), 0o600), os.WriteFile(inv+".journal.lock",
		[]byte(lock), 0o600)); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := invoke(t, "", "-file", inv, "-yes", "-without", "plan,findings", "run")
	if code != cli.Busy || !strings.Contains(stderr, "eve@elsewhere (process 7") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	journal := filepath.Join(dir, "j")
	steps := []rollout.Step{{Name: "install", Do: func(context.Context) error { return nil },
		Undo: func(context.Context) error { return errors.New("no such version") }},
		{Name: "healthy", Do: func(context.Context) error { return errors.New("status fail") }}}
	_, err := rollout.Run(t.Context(), []rollout.Wave{{Name: "gateway", Targets: []rollout.Target{
		{Name: "g1", Steps: steps}, {Name: "g2", Steps: steps}}}}, rollout.Options{Journal: journal})
	if err == nil {
		t.Fatal("no error")
	}
	code, stdout, _ := invoke(t, "", "-journal", journal, "report")
	if code != cli.Yes || !strings.Contains(stdout, "not restored") || !strings.Contains(stdout,
		"g1: healthy: status fail") {
		t.Errorf("exit code %d\n%s", code, stdout)
	}
	page := filepath.Join(dir, "p.html")
	if code, _, stderr := invoke(t, "", "-journal", journal, "-html", page,
		"report"); code != cli.Yes {
		t.Error(stderr)
	}
	if data, err := os.ReadFile(page); err != nil || !bytes.Contains(data, []byte("no such version")) {
		t.Errorf("page: %v", err)
	}
	code, stdout, _ = invoke(t, "", "-journal", journal, "-json", "report")
	if code != cli.Yes || !strings.Contains(stdout, `"outcome": "not_restored"`) {
		t.Errorf("exit code %d\n%s", code, stdout)
	}
}
