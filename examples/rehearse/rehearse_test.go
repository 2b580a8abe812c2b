package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/compiler"
	"example.com/tykupgrade/internal/lab/stage"
	"example.com/tykupgrade/internal/lab/tyk"
)

var update = flag.Bool("update", false, "write the golden files")

// commandEnv makes the test binary the command. Plugins then have no debug information, and Go's
// library is compiled as other tests need it. With stubEnv that file is the stub instead of the test
// binary, in which bundles take much longer with the race detector.
const (
	commandEnv = "REHEARSE_TEST_COMMAND"
	stubEnv    = "REHEARSE_TEST_STUB"
)

func TestMain(m *testing.M) {
	if child() {
		return
	}
	if os.Getenv(commandEnv) != "" {
		if stub := os.Getenv(stubEnv); stub != "" {
			running = stub
		}
		quick = " '" + compiler.NoDebug + "'"
		main()
	}
	os.Exit(m.Run())
}

// newCommand is the command as users have it, a process that adopts what its children leave.
func newCommand(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), commandEnv+"=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// rehearse runs the command with variables added to the environment, in a
// temporary directory of its own that must be empty in the end.
type result struct {
	code           int
	stdout, stderr string
}

func rehearse(t *testing.T, env []string, args ...string) result {
	t.Helper()
	cmd, stdout, stderr, left := run(t, env, args...)
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	left()
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func run(t *testing.T, env []string,
	args ...string) (cmd *exec.Cmd, stdout, stderr *bytes.Buffer, left func()) {
	t.Helper()
	tmp, err := os.MkdirTemp("", "r") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = removeAll(tmp) })
	cmd = newCommand(t, args...)
	cmd.Env = append(append(cmd.Env, "TMPDIR="+tmp), env...)
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	return cmd, stdout, stderr, func() {
		t.Helper()
		entries, err := os.ReadDir(tmp)
		if err != nil || len(entries) > 0 {
			t.Errorf("left in the temporary directory: %v, %v", entries, err)
		}
	}
}

func (r result) report(t *testing.T) Report {
	t.Helper()
	var rep struct {
		Report
		Steps []struct {
			Step
			Detail string `json:"detail"`
		} `json:"steps"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &rep); err != nil {
		t.Fatalf("%v\n%s\n%s", err, r.stdout, r.stderr)
	}
	for _, s := range rep.Steps {
		s.Step.Detail = []string{s.Detail}
		rep.Report.Steps = append(rep.Report.Steps, &s.Step)
	}
	return rep.Report
}

// needs skips where a rehearsal would leave something out.
func needs(t *testing.T) {
	t.Helper()
	for prog, deb := range map[string]string{"go": "golang-go", "redis-server": "redis-server",
		"apt-ftparchive": "apt-utils", "gpg": "gnupg", "gpgv": "gpgv", "apt-get": "apt", "dpkg": "dpkg"} {
		lab.Program(t, prog, deb)
	}
}

// The plugin is not compiled in tests that are about other steps: without a C
// compiler the command leaves that out.
var noCompiler = []string{"CC=no-such-compiler"}

func TestUsage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken")
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"-h", cli.Yes, "Exit codes:"},
		{"-version", cli.Yes, "rehearse "},
		{"-colour", cli.Usage, "unknown flag -colour"},
		{"more", cli.Usage, `unexpected argument "more"`},
		{"-fail dashboard", cli.Usage, `invalid -fail "dashboard": want gateway`},
		{"-from 5.2.5 -to 4.0.8", cli.Usage, "-from 5.2.5 -to 4.0.8 is not an upgrade"},
		{"-from 5.2.5 -to 5.2.5", cli.Usage, "is not an upgrade"},
		{"-to five", cli.Usage, "name a release, such as -to 5.2.5"},
		{"-to 99.0.0", cli.Usage, "go run ./examples/buildplugin list shows all"},
		{"-fleet -gateway x", cli.Usage, "-gateway does not go with -fleet"},
		{"-manifest x", cli.Usage, "-manifest needs -plugin"},
		{"-plugin " + dir + "/none", cli.Usage, "invalid -plugin"},
		{"-plugin " + broken, cli.Usage, "want a directory"},
		{"-gateway " + dir, cli.Usage, "invalid -gateway " + dir + ": want a file"},
		{"-conf " + broken, cli.Usage, "invalid -conf " + broken + ": not a JSON object"},
		{"-apis " + broken, cli.Usage, "invalid -apis"},
		{"-file " + dir + "/none", cli.Usage, "invalid -file"},
		{"-file " + broken, cli.Usage, "upgrade plan -file"},
	} {
		var stdout, stderr bytes.Buffer
		code := command().Run(t.Context(), strings.Fields(c.args), cli.Streams{Out: &stdout,
			Err: &stderr})
		got := &stderr
		if c.code == cli.Yes {
			got = &stdout
		}
		if code != c.code || !strings.Contains(got.String(), c.want) || c.code != cli.Yes &&
			stdout.Len() > 0 {
			t.Errorf("rehearse %s: exit code %d, stdout %q, stderr\n%s", c.args, code, &stdout, &stderr)
		}
		if lines := strings.Count(stderr.String(), "\n"); c.code != cli.Yes && lines != 2 {
			t.Errorf("rehearse %s: %d lines, want the cause and the hint:\n%s", c.args, lines, &stderr)
		}
	}
}

// volatile is what differs from run to run, from machine to machine, and with
// the wording of the packages: the golden file is about the command's own.
var volatile = []struct {
	re *regexp.Regexp
	by string
}{
	{regexp.MustCompile(`in /\S*/rehearse-\d+`), "in DIR"},
	{regexp.MustCompile(`[ \d]{4}\.\ds  `), "   N.Ns  "},
	{regexp.MustCompile(`in \d+ s\n`), "in N s\n"},
	{regexp.MustCompile(`\b[0-9a-f]{12}\b`), "DIGEST"},
	{regexp.MustCompile(`(?m)^((?:ok     |skipped|failed ) .{37}).*$`), "$1…"},
	{regexp.MustCompile(`(?m)^ {45}.*\n`), ""},
	{regexp.MustCompile(`(?m)^\.\.\. .*\n`), ""},
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	for _, v := range volatile {
		got = v.re.ReplaceAllString(got, v.by)
	}
	path := filepath.Join("testdata", name)
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(path, []byte(got),
			0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("output differs from %s (-update writes it):\n%s", path, got)
	}
}

// A gateway that cannot start is found, and everything is as before afterwards. -keep keeps the
// directory with everything in it and nothing running. The same run is printed as text and as a
// page.
func TestFailingGateway(t *testing.T) {
	lab.Long(t) // .ci/run rehearses a failing gateway as well
	t.Parallel()
	needs(t)
	html := filepath.Join(t.TempDir(), "report.html")
	cmd, stdout, stderr, _ := run(t, noCompiler, "-fail", "gateway", "-json", "-keep", "-report", html)
	_ = cmd.Run()
	res := result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
	rep := res.report(t)
	if res.code != 0 || !rep.OK || !rep.Reverted || rep.Left == nil || *rep.Left != (Left{}) {
		t.Errorf("exit code %d, report %+v\n%s", res.code, rep, res.stderr)
	}
	for _, name := range []string{"backup", "root/opt/tyk-gateway/tyk.conf", "plugin/go.mod",
		"gateway.log", "host/gateway.log"} {
		if _, err := os.Stat(filepath.Join(rep.Dir, name)); rep.Dir == "" || err != nil {
			t.Errorf("not kept: %v", err)
		}
	}
	data, err := os.ReadFile(html)
	if err != nil || !bytes.Contains(data, []byte("every step is ok")) || !bytes.Contains(data,
		[]byte("gateway switched")) ||
		!bytes.Contains(data, []byte("packbundle publish")) || !bytes.Contains(data,
		[]byte("as before")) {
		t.Errorf("page: %v\n%s", err, data)
	}
	var text bytes.Buffer
	shown := newRehearsal(options{from: mustVersion(t, "4.0.8"), to: mustVersion(t, "5.2.5"),
		fail: "gateway", stdout: &text})
	shown.print.out.Printf("%s → %s in %s\n\n", rep.From, rep.To, rep.Dir)
	for _, s := range rep.Steps {
		shown.print.print(s)
	}
	rep.Dir = ""
	shown.summary(&rep)
	golden(t, "fail.txt", text.String())
	var whats []string
	for _, p := range rep.Proof {
		whats = append(whats, p.What)
		if !p.Same || p.Before != p.After || p.Before == p.Upgraded || len(p.Before) != 64 {
			t.Errorf("proof %+v", p)
		}
	}
	if want := []string{"files", "mongodb", "packages", "redis"}; !slices.Equal(whats, want) {
		t.Errorf("proofs of %v, want %v", whats, want)
	}
	details := map[string]string{
		"broken gateway":  "the process has ended: exit status 1: tyk-gateway 5.2.5: cannot start",
		"revert packages": "tyk-gateway is 4.0.8 again",
		"restore data":    "dropped what the set does not have: tyk_analytics.tyk_new_feature",
		"bundle":          "gateway 4.0.8 loads plugin.so; gateway 5.2.5 loads plugin_v5.2.5_linux_",
	}
	for _, s := range rep.Steps {
		if want := details[s.Name]; !strings.Contains(s.Detail[0], want) {
			t.Errorf("step %s lacks %q: %s", s.Name, want, s.Detail[0])
		}
		skipped := s.Name == "compile plugin" || s.Name == "preflight"
		if skipped != (s.Status == statusSkipped) || s.Status == statusFailed || s.Detail[0] == "" ||
			s.Real == (s.Stub != "") && !skipped {
			t.Errorf("step %+v", s)
		}
	}
}

// The whole story with another pair of versions and a user's module, compiled by the local Go.
func TestUpgradeWithoutEngine(t *testing.T) {
	t.Parallel()
	needs(t)
	lab.Program(t, "gcc", "gcc")
	stub, err := tyk.Build(t.Context(), t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	res := rehearse(t, []string{"DOCKER_HOST=unix:///nowhere/docker.sock", stubEnv + "=" + stub}, "-json",
		"-from", "5.0.3", "-to", "v5.3.0", "-plugin", theirs(t, "GetSession"))
	rep := res.report(t)
	if res.code != 0 || !rep.OK || rep.Reverted || rep.From != "5.0.3" || rep.To != "5.3.0" {
		t.Fatalf("exit code %d\n%s\n%s", res.code, res.stdout, res.stderr)
	}
	want := map[string]string{
		"components":      "no Docker engine answers at unix:///nowhere/docker.sock",
		"plugin today":    "a copy of your module ",
		"compile plugin":  "plugin_v5.3.0_linux_",
		"preflight":       "verdict: loads",
		"bundle":          "gateway 5.0.3 loads plugin.so; gateway 5.3.0 loads plugin_v5.3.0_linux_",
		"backup":          "redis: 505 keys",
		"upgrade gateway": "gateway pass 5.3.0",
		"upgrade pump":    "tyk-pump 1.9.0",
		"health gate":     "Foo: Bar",

		"gateway today":    "an API request shows the plugin: response header Foo",
		"publish bundle":   "the running gateway 5.0.3 keeps its plugin, also after a reload",
		"gateway switched": "the log since the start has no plugin that failed to load",
		"gateway back":     "a stub gateway 5.0.3 fetched the bundle",
	}
	stubs := map[string]string{
		"plugin today":   "plugin.so is compiled in the way of 5.3.0, not of 5.0.3",
		"compile plugin": "without a container",
		"services":       "the gateway loads no plugin",
		"gateway today":  "programs that treat bundles and plugins",
		"health gate":    "the header that stands for the plugin",
	}
	for _, s := range rep.Steps {
		if s.Status != statusOK || !strings.Contains(s.Detail[0], want[s.Name]) {
			t.Errorf("step %+v", s)
		}
		if !strings.Contains(s.Stub, stubs[s.Name]) {
			t.Errorf("step %s does not name its stub: %s", s.Name, stubs[s.Name])
		}
		delete(want, s.Name)
	}
	if len(want) > 0 {
		t.Errorf("steps are missing: %v", want)
	}
}

// A machine with nothing but Go is told what it lacks, and sees the rest. This module's source is
// not needed.
func TestOnlyGo(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	if err := os.Symlink(lab.Program(t, "go", "golang-go"), filepath.Join(bin, "go")); err != nil {
		t.Fatal(err)
	}
	cmd, stdout, stderr, left := run(t, []string{"PATH=" + bin,
		"DOCKER_HOST=unix:///nowhere/docker.sock"}, "-json", "-fail", "gateway")
	cmd.Dir = t.TempDir()
	_ = cmd.Run()
	left()
	res := result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
	rep := res.report(t)
	if res.code != 0 || !rep.OK || !rep.Reverted || len(rep.Proof) != 2 {
		t.Fatalf("exit code %d\n%s\n%s", res.code, res.stdout, res.stderr)
	}
	want := map[string]string{
		"compile plugin": "Debian packages gcc", "preflight": "no plugin was compiled",
		"install 4.0.8":    "apt-get, dpkg",
		"apt update, plan": "Debian packages apt, dpkg", "revert packages": "apt-get",
		"redis": "Debian package redis-server",
	}
	if stage.Program("redis-server") != "" {
		delete(want, "redis") // in a sbin directory, which is looked into as well
	}
	for _, s := range rep.Steps {
		if s.Name == "broken gateway" && strings.Contains(s.Detail[0], "apt") {
			t.Errorf("there is no apt, and it says: %s", s.Detail[0])
		}
		if reason, ok := want[s.Name]; ok && (s.Status != statusSkipped || !strings.Contains(s.Detail[0],
			reason)) {
			t.Errorf("step %+v, want it skipped for %q", s, reason)
		}
	}
}

// The hosts of -fleet run stubs that are compiled from this module.
func TestFleetOutsideOfTheModule(t *testing.T) {
	t.Parallel()
	cmd, stdout, stderr, left := run(t, noCompiler, "-fleet")
	cmd.Dir = t.TempDir()
	_ = cmd.Run()
	left()
	if cmd.ProcessState.ExitCode() != cli.No || !strings.Contains(stderr.String(),
		"run it there: go run ./examples/rehearse -fleet") {
		t.Errorf("exit code %d\n%s\n%s", cmd.ProcessState.ExitCode(), stdout, stderr)
	}
}

// A place that cannot hold the directory is refused, and nothing is rehearsed.
func TestNoPlace(t *testing.T) {
	t.Parallel()
	if err := room(t.TempDir(), 1<<62); err == nil || !strings.Contains(err.Error(),
		"TMPDIR names another place") {
		t.Errorf("error %v", err)
	}
	if err := room(t.TempDir(), 1); err != nil {
		t.Error(err)
	}
	res := rehearse(t, []string{"TMPDIR=/nonexistent"}, "-json")
	if rep := res.report(t); res.code != cli.No || rep.OK || len(rep.Steps) > 0 ||
		!strings.Contains(res.stderr, "TMPDIR names another place") {
		t.Errorf("exit code %d, report %+v\n%s", res.code, rep, res.stderr)
	}
	if text := rehearse(t, []string{"TMPDIR=/nonexistent"}); text.stdout != "" {
		t.Errorf("nothing was rehearsed, and it says:\n%s", text.stdout)
	}
}

// Two real hosts behind HAProxy, in the variant that also shows a revert.
func TestFleet(t *testing.T) {
	lab.Long(t) // .ci/run has the run that succeeds
	t.Parallel()
	if err := stage.Available(); err != nil {
		lab.Missing(t, err.Error())
	}
	res := rehearse(t, nil, "-fleet", "-fail", "gateway", "-json")
	rep := res.report(t)
	if res.code != 0 || !rep.OK || !rep.Reverted || rep.Requests == nil || rep.Requests.Failed != 0 ||
		rep.Requests.Sent < 1000 || rep.Left == nil || *rep.Left != (Left{}) {
		t.Errorf("exit code %d\n%s\n%s", res.code, res.stdout, res.stderr)
	}
}
