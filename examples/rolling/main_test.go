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
	code = run(args, strings.NewReader(stdin), &out, &errOut)
	return code, out.String(), errOut.String()
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"-h", exitOK, "Exit codes:"},
		{"", exitUsage, "give one of plan"},
		{"-no-such-flag", exitUsage, "not defined"},
		{"run", exitUsage, "-inventory is missing"},
		{"-inventory x frobnicate", exitUsage, "give one of plan"},
		{"-inventory x run undo", exitUsage, `got "run" and "undo"`},
		{"-inventory x -step drain run", exitUsage, "-step needs -only"},
		{"-inventory x -html y run", exitUsage, "-html goes with report"},
		{"-inventory /nonexistent run", exitUsage, "no such file"},
		{"report", exitUsage, "-inventory is missing"},
		{"-journal /nonexistent report", exitFailed, "no such file"},
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
	code, _, stderr := invoke(t, "n\n", "-inventory", inv, "run")
	if code != exitFailed || !strings.Contains(stderr, "run the rollout of 1 targets") || !strings.Contains(stderr, "not confirmed") {
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
	code, stdout, _ := invoke(t, "", "plan", "-inventory", inv)
	if code != exitFailed || !strings.Contains(stdout, "cannot:") || !strings.Contains(stdout, "install → healthy") || !strings.Contains(stdout, "The run ends at failure 1") {
		t.Errorf("exit code %d\n%s", code, stdout)
	}
	code, stdout, stderr := invoke(t, "", "-inventory", inv, "-yes", "run")
	if code != exitFailed || !strings.Contains(stdout, "outcome   held") || !strings.Contains(stderr, "p1: install failed") {
		t.Errorf("exit code %d\n%s\n%s", code, stdout, stderr)
	}
	code, _, stderr = invoke(t, "", "-inventory", inv, "-yes", "run")
	if code != exitFailed || !strings.Contains(stderr, "resume it, undo it") {
		t.Errorf("a second run: exit code %d, %q", code, stderr)
	}
}

func TestLockedFleet(t *testing.T) {
	t.Parallel()
	inv := filepath.Join(t.TempDir(), "f.yaml")
	lock := `{"user":"eve","host":"elsewhere","pid":7,"since":"2026-01-01T00:00:00Z"}`
	if err := errors.Join(os.WriteFile(inv, []byte(nowhere), 0o600), os.WriteFile(inv+".journal.lock", []byte(lock), 0o600)); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := invoke(t, "", "-inventory", inv, "-yes", "run")
	if code != exitLocked || !strings.Contains(stderr, "eve@elsewhere (process 7") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	journal := filepath.Join(dir, "j")
	steps := []rollout.Step{{Name: "install", Do: func(context.Context) error { return nil }, Undo: func(context.Context) error { return errors.New("no such version") }},
		{Name: "healthy", Do: func(context.Context) error { return errors.New("status fail") }}}
	_, err := rollout.Run(t.Context(), []rollout.Wave{{Name: "gateway", Targets: []rollout.Target{{Name: "g1", Steps: steps}, {Name: "g2", Steps: steps}}}}, rollout.Options{Journal: journal})
	if err == nil {
		t.Fatal("no error")
	}
	code, stdout, _ := invoke(t, "", "-journal", journal, "report")
	if code != exitOK || !strings.Contains(stdout, "needs a look") || !strings.Contains(stdout, "g1: healthy: status fail") {
		t.Errorf("exit code %d\n%s", code, stdout)
	}
	page := filepath.Join(dir, "p.html")
	if code, _, stderr := invoke(t, "", "-journal", journal, "-html", page, "report"); code != exitOK {
		t.Error(stderr)
	}
	if data, err := os.ReadFile(page); err != nil || !bytes.Contains(data, []byte("no such version")) {
		t.Errorf("page: %v", err)
	}
	code, stdout, _ = invoke(t, "", "-journal", journal, "-json", "report")
	if code != exitOK || !strings.Contains(stdout, `"outcome": "needs a look"`) {
		t.Errorf("exit code %d\n%s", code, stdout)
	}
}
