package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"debug/elf"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"example.com/tykupgrade/debpkg/fleet/installation"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/cli"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// A host that nobody can reach.
const nowhere = `
versions: {gateway: 5.2.5}
ssh: {config: /dev/null}
hosts: [{name: g1, address: "nobody@127.0.0.1", port: 1, component: gateway}]
`

const withPlugin = nowhere + `
plugin:
  from: 4.0.8
  current: plugin.so
  so: plugin_v5.2.5_linux_amd64.so
  symbol: AddFooBarHeader
  hook: post
  bundle: {dir: bundles, name: foobar.zip, key: key.pem}
`

func invoke(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	code = commandOf(&options{}).Run(t.Context(), args, cli.Streams{In: strings.NewReader(stdin),
		Out: &out, Err: &errOut})
	return code, out.String(), errOut.String()
}

// object is the header of a shared object, for what looks no further.
func object(text string) []byte {
	var h [64]byte
	copy(h[:], elf.ELFMAG)
	h[elf.EI_CLASS], h[elf.EI_DATA] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB)
	h[16] = byte(elf.ET_DYN)
	return append(h[:], text...)
}

// signingKey takes up to seconds to make.
var signingKey = sync.OnceValues(func() ([]byte, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY",
		Bytes: x509.MarshalPKCS1PrivateKey(key)}), nil
})

// write puts a file and two plugins, which are none, into a new directory.
func write(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	key, err := signingKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"u.yaml": []byte(text), "plugin.so": object("now"), "plugin_v5.2.5_linux_amd64.so": object(
			"then"),
		"key.pem": key,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "u.yaml")
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"", cli.Usage, "no verb given (want init, plan"},
		{"plan -no-such-flag", cli.Usage, "unknown flag -no-such-flag"},
		{"apply", cli.Usage, "-file is missing"},
		{"-file x frobnicate", cli.Usage, `unknown verb "frobnicate"`},
		{"-file x apply revert", cli.Usage, `unexpected argument "revert"`},
		{"-file x -without luck apply", cli.Usage,
			`invalid -without "luck": unknown word "luck" (want backup, `},
		{"-file x -without backup revert", cli.Usage, "-without goes with plan, apply, resume, not " +
			"with revert"},
		{"-file x -restore tables revert", cli.Usage, `unknown word "tables" (want config`},
		{"-file x -restore redis apply", cli.Usage, "-restore goes with revert, not with apply"},
		{"-file x -restore redis -drop-extra revert", cli.Usage, "-drop-extra needs -restore mongo"},
		{"-file x -set latest status", cli.Usage, "-set goes with apply, resume"},
		{"-file x -stop-after prepare plan", cli.Usage, "-stop-after goes with"},
		{"-file x -html y apply", cli.Usage, "-html goes with status"},
		{"-file - apply", cli.Usage, "give -yes"},
		{"-file /nonexistent apply", cli.Usage, "no such file"},
	} {
		code, _, stderr := invoke(t, "", strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("upgrade %s: exit code %d, stderr %q", c.args, code, stderr)
		}
	}
}

func TestFileReportsEverything(t *testing.T) {
	t.Parallel()
	code, _, stderr := invoke(t, `
versions: {gateway: 5.2.5}
hosts:
- {name: backup, component: gateway}
plugin: {from: 5.2.5, so: a, source: b, symbol: X, hook: late, release_mod: m, bundle: {url: here, name: a/b}}
backup: {keep: -1, redis: {uri_env: A, uri_file: b, method: guess, cert: c}, mongo: {}}
switch: fast
gates: [{name: g}, {url: "http://h/"}]
`, "-file", "-", "plan")
	if code != cli.Usage {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{
		"host backup: the name is taken", "the gateways have 5.2.5 already", "plugin.current",
		"want either source", `unknown hook "late"`, "plugin.bundle.dir",
		`plugin.bundle.name: invalid name "a/b"`, `plugin.bundle.url: invalid URL "here"`,
		"switch: unknown mode \"fast\"", "backup.dir", "backup.keep", "backup.redis: want one of",
		"backup.redis", "backup.mongo: want one of",
		"gates: number 1", "gates: number 2", "plugin.release_mod: it goes with repo",
		"backup.redis: cert and key go together",
	} {
		if !strings.Contains(stderr, want) {
			t.Errorf("%q is not in:\n%s", want, stderr)
		}
	}
	for _, text := range []string{"", "plugin: {}", "hosts: []", nowhere + "backups: {}", nowhere +
		"plugin: {password: x}", nowhere + "backup: {dir: d, redis: {uri: redis://x}}"} {
		if code, _, _ := invoke(t, text, "-file", "-", "plan"); code != cli.Usage {
			t.Errorf("%q: exit code %d", text, code)
		}
	}
}

// golden compares with a file, after what differs between runs was replaced.
func golden(t *testing.T, name, got, dir string) {
	t.Helper()
	got = strings.ReplaceAll(got, dir, "DIR")
	got = regexp.MustCompile(`(?m)^(cannot: g1: ).*(\n.*)*`).ReplaceAllString(got, "${1}…\n")
	path := filepath.Join("testdata", name)
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(path, []byte(got),
			0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || got != string(want) {
		t.Errorf("%v\ngot:\n%s\nwant:\n%s", err, got, want)
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	file := write(t, withPlugin+`
  publish: [cp, "{file}", /srv/bundles]
backup: {dir: sets, redis: {uri_env: NO_SUCH_VARIABLE}}
gates: [{name: front, url: "http://127.0.0.1:1/"}]
`)
	if code, _, stderr := invoke(t, "", "-file", file, "plan"); code != cli.Usage ||
		!strings.Contains(stderr, "line 14: unknown key publish") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
	file = write(t, strings.Replace(withPlugin, "key: key.pem", `key: key.pem, publish: [cp, "{file}", /srv/bundles]`, 1)+`
backup: {dir: sets, redis: {uri_env: NO_SUCH_VARIABLE}}
gates: [{name: front, url: "http://127.0.0.1:1/"}]
`)
	code, stdout, _ := invoke(t, "", "-file", file, "plan")
	if code != cli.No {
		t.Errorf("exit code %d", code)
	}
	golden(t, "plan.txt", stdout, filepath.Dir(file))
	_, stdout, _ = invoke(t, "", "-file", file, "-without", "backup,preflight,gates,baseline,publish",
		"plan")
	golden(t, "plan-without.txt", stdout, filepath.Dir(file))
	var p installation.Plan
	code, stdout, _ = invoke(t, "", "-file", file, "-json", "plan")
	if err := json.Unmarshal([]byte(stdout), &p); err != nil || code != cli.No ||
		p.Bundles[0].Plan.Plugins[0].Target.File != "plugin_v5.2.5_linux_amd64.so" ||
		len(p.Problems) != 3 || len(p.Hosts) != 1 {
		t.Errorf("exit code %d, %v\n%s", code, err, stdout)
	}
	if entries, _ := os.ReadDir(filepath.Dir(file)); len(entries) != 4 {
		t.Errorf("a plan left files: %v", entries)
	}
}

func TestMissingPlugin(t *testing.T) {
	t.Parallel()
	file := write(t, withPlugin)
	for _, name := range []string{"plugin.so", "plugin_v5.2.5_linux_amd64.so", "key.pem"} {
		path := filepath.Join(filepath.Dir(file), name)
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		if _, stdout, _ := invoke(t, "", "-file", file, "plan"); !strings.Contains(stdout,
			path+": no such file") {
			t.Errorf("without %s:\n%s", name, stdout)
		}
		if err := os.Rename(path+".away", path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPlanSeesWhatIsNoPlugin(t *testing.T) {
	t.Parallel()
	file := write(t, withPlugin)
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "plugin.so"), []byte("#!/bin/sh"),
		0o600); err != nil {
		t.Fatal(err)
	}
	if code, stdout, _ := invoke(t, "", "-file", file, "plan"); code != cli.No ||
		!strings.Contains(stdout, "plugin.so\" is not an ELF file") {
		t.Errorf("exit code %d\n%s", code, stdout)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	file := write(t, withPlugin)
	dir := filepath.Dir(file)
	code, _, stderr := invoke(t, "", "-file", file, "-yes", "apply")
	if code != cli.Refused || !strings.Contains(stderr, "-without backup,publish skips the checks "+
		"that failed") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	if _, err := os.Stat(file + ".journal"); err == nil {
		t.Error("a journal was begun")
	}
	code, _, stderr = invoke(t, "n\n", "-file", file, "-without", "backup,publish", "apply")
	if code != cli.Refused || !strings.Contains(stderr,
		"apply gateway 5.2.5 on 1 host WITHOUT backup and publish") || !strings.Contains(stderr,
		"not confirmed") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	code, _, stderr = invoke(t, "", "-file", file, "-yes", "-without", "backup,publish", "-stop-after",
		"lunch", "apply")
	if code != cli.Usage || !strings.Contains(stderr, `unknown wave "lunch"`) {
		t.Errorf("exit code %d, %q", code, stderr)
	}

	// Without a gateway to look at, nothing says that the plugin loads.
	code, _, stderr = invoke(t, "", "-file", file, "-yes", "-without", "backup,publish", "apply")
	if code != cli.Refused || !strings.Contains(stderr, "-without preflight") ||
		!strings.Contains(stderr, "no host was changed") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	// A gateway that is none does not help.
	bad := strings.Replace(withPlugin, "symbol:", "gateway: key.pem\n  symbol:", 1)
	if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr = invoke(t, "", "-file", file, "-yes", "-without", "backup,publish", "resume")
	if code != cli.Refused || !strings.Contains(stderr, "not an ELF file") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	// Lifted, it comes as far as the host, and the report says what was lifted.
	code, stdout, stderr := invoke(t, "", "-file", file, "-yes", "-without",
		"backup,preflight,publish", "resume")
	if code != cli.Refused || !strings.Contains(stderr, "g1: ") || !strings.Contains(stdout,
		"plugin preflight SKIPPED: without the check preflight") {
		t.Errorf("exit code %d, %q\n%s", code, stderr, stdout)
	}
	journal, err := os.ReadFile(file + ".journal")
	if err != nil || !bytes.Contains(journal, []byte("without the check preflight")) {
		t.Errorf("%v\n%s", err, journal)
	}
	zips, _ := filepath.Glob(filepath.Join(dir, "bundles", "*.zip"))
	if len(zips) != 1 || filepath.Base(zips[0]) != "foobar.zip" {
		t.Fatalf("bundles: %v", zips)
	}
	if !strings.Contains(stdout, "4.0.8 loads plugin.so, 5.2.5 loads plugin_v5.2.5_linux_amd64.so") {
		t.Errorf("no proof in\n%s", stdout)
	}

	page := filepath.Join(dir, "p.html")
	if code, _, stderr := invoke(t, "", "-file", file, "-html", page, "status"); code != cli.No {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	if data, err := os.ReadFile(page); err != nil || !bytes.Contains(data,
		[]byte("preflight SKIPPED")) {
		t.Errorf("page: %v", err)
	}

	// No host was begun, so apply may begin again, and the old journal stays.
	code, _, _ = invoke(t, "", "-file", file, "-yes", "-without", "backup,publish", "apply")
	if kept, _ := filepath.Glob(file + ".journal.*"); code != cli.Refused || len(kept) != 1 {
		t.Errorf("exit code %d, journals %v", code, kept)
	}
	code, stdout, _ = invoke(t, "", "-file", file, "-json", "status")
	var s installation.Status
	if err := json.Unmarshal([]byte(stdout), &s); err != nil || code != cli.No || s.Run == nil ||
		len(s.Hosts) != 1 || s.Hosts[0].Error == "" {
		t.Errorf("exit code %d, %v\n%s", code, err, stdout)
	}
	if code, _, stderr := invoke(t, "", "-file", file, "-yes", "-restore", "redis",
		"revert"); code != cli.Refused || !strings.Contains(stderr, "no section backup") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	if _, stdout, _ := invoke(t, "", "-file", file, "status"); !strings.Contains(stdout,
		"next: fix what is named above, then upgrade resume") {
		t.Errorf("status:\n%s", stdout)
	}
	if code, _, stderr := invoke(t, "", "-file", file, "-yes", "revert"); code != cli.Yes {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	// What was reverted is not resumed: its backup may be old by then.
	if code, _, stderr := invoke(t, "", "-file", file, "-yes", "-without", "backup,preflight,publish",
		"resume"); code != cli.Refused || !strings.Contains(stderr, "was reverted") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	if _, stdout, _ := invoke(t, "", "-file", file, "status"); !strings.Contains(stdout,
		"next: upgrade apply begins a new run") {
		t.Errorf("status:\n%s", stdout)
	}
}

func TestLocked(t *testing.T) {
	t.Parallel()
	file := write(t, nowhere)
	lock := `{"user":"eve","host":"elsewhere","pid":7,"since":"2026-01-01T00:00:00Z"}`
	if err := os.WriteFile(file+".journal.lock", []byte(lock), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := invoke(t, "", "-file", file, "-yes", "-without", "backup,publish", "apply")
	if code != cli.Busy || !strings.Contains(stderr, "eve@elsewhere (process 7") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }

// An answer that could not be written is not a success.
func TestLostOutput(t *testing.T) {
	t.Parallel()
	file := write(t, nowhere)
	for _, verb := range []string{"plan", "status"} {
		var stderr bytes.Buffer
		code := commandOf(&options{}).Run(t.Context(), []string{"-file", file, verb},
			cli.Streams{Out: full{}, Err: &stderr})
		if code != cli.No {
			t.Errorf("%s: exit code %d, %s", verb, code, &stderr)
		}
	}
}

func TestStatusWithoutRun(t *testing.T) {
	t.Parallel()
	file := write(t, nowhere)
	code, stdout, _ := invoke(t, "", "-file", file, "status")
	if code != cli.No || !strings.Contains(stdout, "no run in ") || !strings.Contains(stdout,
		"; upgrade apply begins one") || !strings.Contains(stdout, "g1") {
		t.Errorf("exit code %d\n%s", code, stdout)
	}
	if code, _, stderr := invoke(t, "", "-file", file, "-html", filepath.Join(t.TempDir(), "x"),
		"status"); code != cli.Refused || !strings.Contains(stderr, rollout.ErrNoRun.Error()) {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	for _, verb := range []string{"resume", "revert"} {
		if code, _, stderr := invoke(t, "", "-file", file, "-yes", verb, "-journal",
			filepath.Join(t.TempDir(), "j")); code == cli.Yes || !strings.Contains(stderr, "no run") &&
			!strings.Contains(stderr, "no section backup") {
			t.Errorf("%s: exit code %d, %q", verb, code, stderr)
		}
	}
}

// init writes a file that plan reads.
func TestInit(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "u.yaml")
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"init", cli.Usage, "-host is missing"},
		{"init -host a -gateway-url http://h", cli.Usage, "-gateway-url and -secret-env go together"},
		{"init -host a -force", cli.Usage, "-force needs -o"},
		{"init -host a -gateway-url http://h -secret-env NO", cli.Usage,
			"the variable NO of -secret-env is not set"},
		{"init -host nobody@127.0.0.1:1 -ssh-config /dev/null -o " + out, cli.Refused,
			"no Tyk component was found"},
		{"init -host a -o " + filepath.Dir(out), cli.Refused, "the file exists"},
	} {
		code, stdout, stderr := invoke(t, "", strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(stderr, c.want) || stdout != "" {
			t.Errorf("upgrade %s: exit code %d, stdout %q, stderr %q", c.args, code, stdout, stderr)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(out), "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
