package tykmod_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/tykmod"
)

const replace = "github.com/jensneuse/graphql-go-tools=github.com/TykTechnologies/graphql-go-tools@v1.6.2-0.20220426094453-0cc35471c1ca"

var gateway = tykmod.Gateway{
	Version:  "v1.9.2-0.20220722123456-6c76e802a298",
	Commit:   "6c76e802a29838d058588ff924358706a078d0c5",
	Go:       "1.15",
	Replaces: []string{replace, "example.org/dep@v1.1.0=example.org/dep@v1.0.0"},
}

const plugin = `package main

import (
	"net/http"

	"github.com/TykTechnologies/tyk/ctx"
	"github.com/TykTechnologies/tyk/log"
)

func AddFooBarHeader(rw http.ResponseWriter, r *http.Request) {
	log.Get().Info(ctx.GetSession(r).Alias)
}

func main() {}
`

// A real go command gets, tidies, vendors and compiles against the stub, and
// refuses when the replace is missing.
func TestRealGo(t *testing.T) {
	t.Parallel()
	goCmd := lab.Program(t, "go", "golang-go")
	dir := t.TempDir()
	url, err := tykmod.Proxy(filepath.Join(dir, "proxy"), gateway.Modules()...)
	if err != nil {
		t.Fatal(err)
	}
	src := filepath.Join(dir, "plugin")
	m := tykmod.Module{Files: map[string]string{"go.mod": "module example.org/plugin\n\ngo 1.15\n",
		"main.go": plugin}}
	if err := m.Extract(src); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), goCmd, args...)
		cmd.Dir, cmd.Env = src, append(os.Environ(), tykmod.Env(url, filepath.Join(dir, "modcache"))...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("get", tykmod.Path+"@"+gateway.Commit); err == nil || !strings.Contains(out,
		"jensneuse") {
		t.Errorf("go get without the replace: %v\n%s", err, out)
	}
	for _, args := range [][]string{
		{"mod", "edit", "-replace=" + gateway.Replaces[0], "-replace=" + gateway.Replaces[1]},
		{"get", tykmod.Path + "@" + gateway.Commit},
		{"mod", "tidy"},
		{"mod", "vendor"},
		{"list", "-export", "-deps", "-mod=vendor", "./..."}, // compiles, without linking
		{"list", "-export", "-deps", "-mod=mod", "./..."},
	} {
		if out, err := run(args...); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	mod, err := os.ReadFile(filepath.Join(src, "go.mod"))
	if err != nil || !strings.Contains(string(mod), tykmod.Path+" "+gateway.Version) {
		t.Errorf("go.mod %v\n%s", err, mod)
	}
	if _, err := os.Stat(filepath.Join(src,
		"vendor/github.com/TykTechnologies/graphql-go-tools")); err == nil {
		t.Error("the fork is vendored under its own path")
	}
}
