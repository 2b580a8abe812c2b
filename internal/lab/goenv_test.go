package lab_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/internal/lab"
)

// What a user wrote with go env -w reaches no go command of a test, but for
// the settings that lead to modules.
func TestGoEnv(t *testing.T) {
	goCmd := lab.Program(t, "go", "golang-go")
	file := filepath.Join(t.TempDir(), "env")
	hostile := "GOFLAGS=-buildvcs=false " +
		"-mod=vendor\nGOTOOLCHAIN=go1.16.15\nGO111MODULE=off\nGOWORK=/nowhere/go.work\nGOPROXY=https://modules.example.org\n"
	if err := os.WriteFile(file, []byte(hostile), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOENV", file)
	ask := func(env []string, name string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), goCmd, "env", name)
		cmd.Env, cmd.Dir = env, t.TempDir()
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go env %s: %v", name, err)
		}
		return strings.TrimSpace(string(out))
	}
	for name, want := range map[string]string{
		"GOFLAGS": "", "GOTOOLCHAIN": "local", "GO111MODULE": "", "GOWORK": "off",
	} {
		if got := ask(lab.GoEnv(), name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if got := ask(lab.GoEnv("GOFLAGS=-modcacherw"), "GOFLAGS"); got != "-modcacherw" {
		t.Errorf("GOFLAGS is %q, the caller's value must win", got)
	}
}
