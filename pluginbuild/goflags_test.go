package pluginbuild_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/pluginbuild"
)

// What a user wrote with `go env -w` may be fit for another go command: old ones
// refuse to start at flags that they do not know. Their proxy counts nevertheless.
func TestPrepareUnderUserSettings(t *testing.T) {
	env := offline(t, "5.2.5")
	file := filepath.Join(t.TempDir(), "env")
	var settings []string
	for _, kv := range env {
		if strings.HasPrefix(kv, "GOPROXY=") {
			settings = append(settings, kv) // the proxy comes from the file alone
			kv = "GOPROXY="
		}
		k, v, _ := strings.Cut(kv, "=")
		t.Setenv(k, v)
	}
	t.Setenv("GOFLAGS", "")
	t.Setenv("GOENV", file)
	settings = append(settings, "GOFLAGS=-no-such-flag=1 -mod=vendor -modcacherw", "GO111MODULE=off",
		"GOTOOLCHAIN=local")
	if err := os.WriteFile(file, []byte(strings.Join(settings, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, dir := lookup(t, "5.2.5"), newModule(t, "module example.org/plugin\n\ngo 1.19\n", nil)
	if _, err := pluginbuild.Prepare(t.Context(), dir, r, pluginbuild.PrepareOptions{}); err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil || !strings.Contains(string(mod), r.Commit[:12]) {
		t.Errorf("%v\n%s", err, mod)
	}
}

// GOFLAGS that lead the go command to other files than those that Prepare guards.
func TestPrepareRefusesGoFlags(t *testing.T) {
	t.Parallel()
	other := filepath.Join(t.TempDir(), "other.mod")
	for _, flags := range []string{"-modfile=" + other, "-v --overlay=x.json", "'-modfile=" + other +
		"'"} {
		dir := newModule(t, "module example.org/plugin\n\ngo 1.19\n", nil)
		was := treeOf(t, dir)
		_, err := pluginbuild.Prepare(t.Context(), dir, lookup(t, "5.2.5"), pluginbuild.PrepareOptions{
			Env: append(offline(t, "5.2.5"), "GOFLAGS="+flags)})
		var e *pluginbuild.Error
		if !errors.Is(err, pluginbuild.ErrGoFlags) || !errors.As(err, &e) || e.Hint() == "" {
			t.Errorf("%s: %v", flags, err)
		}
		same(t, was, treeOf(t, dir))
	}
}
