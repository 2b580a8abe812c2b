package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/tykmod"
	"example.com/tykupgrade/pluginbuild"
)

// mainEnv makes the test binary the command itself.
const mainEnv = "BUILDPLUGIN_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		main()
	}
	os.Exit(m.Run())
}

// A reader of the messages that goes away does not stop what was begun.
func TestReaderGoes(t *testing.T) {
	offline(t, "5.2.5")
	dir := plugin(t, "module example.org/plugin\n\ngo 1.26.0\n")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "prepare", "-release", "5.2.5", "-dir", dir)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), mainEnv+"=1"), w, w
	// Exit code 1: the answer could not be printed.
	if err := errors.Join(r.Close(), cmd.Run(), w.Close()); cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("%v", err)
	}
	mod, readErr := os.ReadFile(filepath.Join(dir, "go.mod"))
	if readErr != nil || !strings.Contains(string(mod), "cbda400a37ee") {
		t.Errorf("%v\n%s", readErr, mod)
	}
	if _, err := os.Stat(filepath.Join(dir, ".tykupgrade-prepare")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the backup is left: %v", err)
	}
}

// A module that another process prepares is exit code 4, and is not touched.
func TestBusy(t *testing.T) {
	offline(t, "5.2.5")
	const text = "module example.org/plugin\n\ngo 1.26.0\n"
	dir := plugin(t, text)
	if err := os.Mkdir(filepath.Join(dir, ".tykupgrade-prepare"), 0o700); err != nil {
		t.Fatal(err)
	}
	held, err := os.Create(filepath.Join(dir, ".tykupgrade-prepare", "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Close() }()
	if err := syscall.Flock(int(held.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"prepare"}, {"prepare", "-json"}, {"build"}} {
		var out, errOut bytes.Buffer
		code := run(t.Context(), append(args, "-release", "5.2.5", "-dir", dir), &out, &errOut)
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if code != cli.Busy || err != nil || string(mod) != text ||
			!strings.Contains(errOut.String(), "another Prepare, or its go command, is at work") {
			t.Errorf("%v: %d %s%s, %v", args, code, &out, &errOut, err)
		}
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return new(command).tool().Run(ctx, args, cli.Streams{Env: os.Getenv, In: strings.NewReader(""),
		Out: stdout, Err: stderr})
}

// call runs the command as main does.
func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func plugin(t *testing.T, gomod string) string {
	t.Helper()
	dir := t.TempDir()
	m := tykmod.Module{Files: map[string]string{"go.mod": gomod, "main.go": `package main

import (
	"net/http"

	"github.com/TykTechnologies/tyk/log"
)

var logger = log.Get()

func AddFooBarHeader(rw http.ResponseWriter, r *http.Request) { logger.Info("called") }
`}}
	if err := m.Extract(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// offline sets the environment so that modules come from the stub proxy alone.
func offline(t *testing.T, version string) {
	t.Helper()
	lab.Program(t, "go", "golang-go")
	r, err := pluginbuild.Lookup(semver.MustParse(version))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	url, err := tykmod.Proxy(filepath.Join(dir, "proxy"), tykmod.Gateway{Version: r.PseudoVersion(),
		Commit: r.Commit, Go: r.Go}.Modules()...)
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range tykmod.Env(url, filepath.Join(dir, "modcache")) {
		k, v, _ := strings.Cut(kv, "=")
		t.Setenv(k, v)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"-h"}, 0, "Exit codes:"},
		{[]string{"compile", "-h"}, 0, "-require-digest"},
		{nil, 2, "no verb given"},
		{[]string{"plan"}, 2, "-release is missing"},
		{[]string{"plan", "-no-such-flag"}, 2, "unknown flag"},
		{[]string{"plan", "-compile", "-release", "5.2.5"}, 2, "unknown flag"},
		{[]string{"plan", "-release", "latest"}, 2, "want a version such as 5.2.5"},
		{[]string{"plan", "-release", "5.2.5", "extra"}, 2, `"extra"`},
		{[]string{"plan", "-release", "5.99.0"}, 1, "give -releases FILE, or -repo"},
		{[]string{"plan", "-release", "5.14.0", "-variant", "ng"}, 1, "no next-generation compiler"},
		{[]string{"sweep"}, 2, "-older is missing"},
		{[]string{"plan", "-release", "5.2.5", "-dir", "/no/such/dir"}, 2, "/no/such/dir"},
		{[]string{"plan", "-release", "5.2.5", "-edition", "fips"}, 1, "unknown edition"},
		{[]string{"list", "-releases", "/no/such/file"}, 2, "/no/such/file"},
	} {
		code, stdout, stderr := call(t, c.args...)
		if code != c.code || !strings.Contains(stdout+stderr, c.want) {
			t.Errorf("%q: exit code %d, %s\nwant %d and %q", c.args, code, stderr, c.code, c.want)
		}
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	code, out, _ := call(t, "list")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != 0 || len(lines) != len(pluginbuild.Releases())+1 || !strings.Contains(out,
		"\n5.14.0   2e9450120e2b  2026-07-07  3") || !strings.Contains(out, "broken: ") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	code, out, _ = call(t, "list", "-json")
	var table []map[string]any
	if err := json.Unmarshal([]byte(out), &table); code != 0 || err != nil ||
		len(table) != len(pluginbuild.Releases()) {
		t.Errorf("exit code %d, %d releases, %v", code, len(table), err)
	}
	if code, out, _ = call(t, "list", "-release", "5.14.0"); code != 0 || strings.Count(out,
		"\n") != 2 {
		t.Errorf("exit code %d\n%s", code, out)
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	dir := plugin(t, "module example.org/plugin\n\ngo 1.26.0\n")
	code, out, stderr := call(t, "plan", "-release", "v5.2.5", "-current", "4.0.8", "-dir", dir)
	if code != 0 || stderr != "" {
		t.Errorf("exit code %d, %s", code, stderr)
	}
	for _, want := range []string{"path 3", "Row 2 of the procedure's table fits this pair, but is wrong",
		"cbda400a37ee4b057793ba485f412e8087aea12a", "tykio/tyk-plugin-compiler:v5.2.5",
		"plugin_v5.2.5_linux_amd64.so", "\ngo mod tidy\n", "to do   go.mod:3: go 1.26.0",
		"AddFooBarHeader has the signature of a request hook"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	code, out, _ = call(t, "plan", "-release", "5.2.5", "-dir", dir, "-json", "-name", "auth.so",
		"-goarch", "arm64", "-no-get")
	var p struct {
		Path                  int
		Image, Output, Commit string
		Commands              []struct{ Argv []string }
		Findings              []struct{ Code, Severity string }
	}
	if err := json.Unmarshal([]byte(out), &p); code != 0 || err != nil || p.Path != 3 ||
		p.Output != "auth_v5.2.5_linux_arm64.so" ||
		len(p.Commands) != 1 || len(p.Findings) < 2 {
		t.Errorf("exit code %d, %v, %+v", code, err, p)
	}
	// Another plugin of the bundle with the same module path.
	code, out, _ = call(t, "plan", "-release", "5.2.5", "-dir", dir, "-with",
		plugin(t, "module example.org/plugin\n"))
	if code != 1 || !strings.Contains(out, "same module path example.org/plugin") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	// What the gateway's own go.mod adds.
	mod := filepath.Join(t.TempDir(), "go.mod")
	old := plugin(t, "module example.org/plugin\n\ngo 1.19\n\nrequire example.org/dep v1.1.0\n")
	if err := os.WriteFile(mod, []byte("module github.com/TykTechnologies/tyk\n\ngo 1.19\n\nrequire "+
		"example.org/dep v1.0.0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, _ = call(t, "plan", "-release", "5.2.5", "-dir", old, "-release-mod", mod)
	if code != 1 || !strings.Contains(out, "newer than the gateway's v1.0.0") {
		t.Errorf("exit code %d\n%s", code, out)
	}
}

// A release that the table lacks, from a repository and from a file.
func TestPlanForUnknownRelease(t *testing.T) {
	t.Parallel()
	git := lab.Program(t, "git", "git")
	repo, dir := t.TempDir(), plugin(t, "module example.org/plugin\n\ngo 1.26.0\n")
	for _, args := range [][]string{{"init", "-q"}, {"commit", "-q", "--allow-empty", "-m", "x"},
		{"tag", "v5.99.0"}} {
		cmd := exec.CommandContext(t.Context(), git, append([]string{"-C", repo, "-c", "user.name=a",
			"-c", "user.email=a@example.org"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	code, out, stderr := call(t, "plan", "-release", "5.99.0", "-dir", dir, "-repo", repo)
	if code != 0 || !strings.Contains(out, "not in the release table") || !strings.Contains(out,
		"tykio/tyk-plugin-compiler:v5.99.0") {
		t.Errorf("exit code %d\n%s%s", code, out, stderr)
	}
	mod, file := filepath.Join(repo, "go.mod"), filepath.Join(repo, "releases.json")
	if err := errors.Join(os.WriteFile(mod,
		[]byte("module github.com/TykTechnologies/tyk\n\ngo 1.27.0\n"), 0o600),
		os.WriteFile(file, []byte(`[{"version":"5.98.0","commit":"`+strings.Repeat("a", 40)+
			`","go":"1.26.0","compiler":{"go":"1.26","mode":"workspace","suffix":true}}]`),
			0o600)); err != nil {
		t.Fatal(err)
	}
	code, out, stderr = call(t, "plan", "-release", "5.99.0", "-dir", dir, "-repo", repo,
		"-release-mod", mod)
	if code != 0 || strings.Contains(out, "not in the release table") || strings.Contains(out,
		"-go=") {
		t.Errorf("exit code %d\n%s%s", code, out, stderr)
	}
	// What it knows of the release is an entry for the table, as CONTRIBUTING.md has it.
	code, out, stderr = call(t, "list", "-release", "5.99.0", "-repo", repo, "-release-mod", mod,
		"-json")
	entry, err := pluginbuild.ReadTable(strings.NewReader(out))
	if code != 0 || err != nil || len(entry) != 1 || entry[0].Go != "1.27.0" ||
		entry[0].Compiler.Mode != pluginbuild.Workspace || len(entry[0].Notes) != 0 {
		t.Errorf("exit code %d, %v\n%s%s", code, err, out, stderr)
	}
	code, out, stderr = call(t, "plan", "-release", "5.98.0", "-dir", dir, "-releases", file)
	if code != 0 || !strings.Contains(out, strings.Repeat("a", 40)) {
		t.Errorf("exit code %d\n%s%s", code, out, stderr)
	}
}

func TestPrepare(t *testing.T) {
	offline(t, "5.2.5")
	dir := plugin(t, "module example.org/plugin\n\ngo 1.26.0\n")
	code, out, stderr := call(t, "prepare", "-release", "5.2.5", "-dir", dir)
	if code != 0 || !strings.Contains(out, "prepared "+dir+
		" for gateway 5.2.5: changed go.mod, go.sum") || !strings.Contains(stderr, "go mod tidy    ok") {
		t.Errorf("exit code %d\n%s%s", code, out, stderr)
	}
	code, out, _ = call(t, "prepare", "-release", "5.2.5", "-dir", dir, "-json")
	var result struct {
		Prepare struct {
			Commands []struct{ Argv []string }
			Changed  []string
		}
	}
	if err := json.Unmarshal([]byte(out), &result); code != 0 || err != nil ||
		len(result.Prepare.Commands) != 3 || result.Prepare.Changed == nil {
		t.Errorf("exit code %d, %v\n%s", code, err, out)
	}
	// A failure is an exit code, a message, and in JSON an object.
	code, out, stderr = call(t, "prepare", "-release", "5.2.4", "-dir", dir, "-json")
	var failed struct {
		Error struct{ Message, Hint string }
	}
	if err := json.Unmarshal([]byte(out), &failed); code != 1 || err != nil ||
		failed.Error.Hint == "" || !strings.Contains(stderr, failed.Error.Message) {
		t.Errorf("exit code %d, %v\n%s%s", code, err, out, stderr)
	}
	// What stops the plugin stops the command before anything changes.
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\n\nfunc hidden() {}\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr = call(t, "prepare", "-release", "5.2.5", "-dir", dir)
	if code != 5 || !strings.Contains(stderr, "nothing was changed") || !strings.Contains(stderr,
		"no exported function") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
	if code, _, stderr = call(t, "prepare", "-release", "5.2.5", "-dir", dir, "-force"); code != 0 {
		t.Errorf("with -force: exit code %d\n%s", code, stderr)
	}
}
