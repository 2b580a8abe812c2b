package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"filippo.io/age"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/internal/lab"
)

// apiName matches names of package backup.
var apiName = regexp.MustCompile(
	`\b(Mongo(New|Replace|Drop|Merge)|Redis[A-Z]\w+|set [A-Z]\w+|Exclude|Include|AllowStale|Parallel|UsersAndRoles|Rescue|Listener)\b`)

// cmd runs the command as a user would.
type cmd struct {
	t   *testing.T
	env map[string]string
}

func (c cmd) run(want int, args ...string) (stdout, stderr string) {
	c.t.Helper()
	var out, errOut bytes.Buffer
	code := program().Run(c.t.Context(), args,
		cli.Streams{Env: func(name string) string { return c.env[name] }, Out: &out, Err: &errOut})
	if code != want {
		c.t.Fatalf("takebackup %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), code, want,
			&out, &errOut)
	}
	if name := apiName.FindString(errOut.String()); name != "" {
		c.t.Errorf("takebackup %s: %q is a name that the user of the command does not see\n%s",
			strings.Join(args, " "), name, &errOut)
	}
	return out.String(), errOut.String()
}

// json runs the command with -json and returns what it prints.
func (c cmd) json(want int, args ...string) map[string]any {
	c.t.Helper()
	out, _ := c.run(want, append([]string{args[0], "-json"}, args[1:]...)...)
	var v map[string]any
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		c.t.Fatalf("%v in %s", err, out)
	}
	if v["ok"] != (want == 0) {
		c.t.Errorf("ok is %v", v["ok"])
	}
	return v
}

func host(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range map[string]string{"opt/tyk-gateway/tyk.conf": "{}",
		"opt/tyk-gateway/policies/p.json": "p", "opt/tyk-pump/pump.conf": "{}"} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestUsage(t *testing.T) {
	t.Parallel()
	c := cmd{t: t}
	if out, _ := c.run(0, "-h"); !strings.Contains(out, "Exit codes") {
		t.Error(out)
	}
	for _, verb := range program().Verbs {
		if help, _ := c.run(0, verb.Name, "-h"); !strings.Contains(help, "-json") {
			t.Error(help)
		}
	}
	dir := t.TempDir()
	for _, args := range [][]string{
		{}, {"frob"}, {"take"}, {"take", "-dir", dir}, {"take", "-no-such-flag"}, {"take", "-dir", dir,
			"-config", "extra"},
		{"take", "-dir", dir, "-redis"}, {"take", "-dir", dir, "-config", "-recipient", "x"}, {"list"},
		{"prune", "-dir", dir}, {"verify"},
		{"verify", "-level", "deep", dir}, {"verify", "latest"}, {"verify", "-config", dir},
		{"verify", "-level", "live", dir},
		{"import", dir}, {"restore", "a", "b"}, {"undo"}, {"accept", "-redis", "latest"}, {"take", "-dir",
			dir, "-path", "/etc/hosts"},
		{"take", "-dir", dir, "-config", "-root", dir, "-host", "x"},
		{"take", "-dir", dir, "-redis", "-redis-command", "PSYNC"}, {"prune", "-dir", dir, "-keep",
			"many"},
	} {
		if _, msg := c.run(2, args...); strings.Count(msg, "\n") != 2 {
			t.Errorf("%v: want the cause and what to do:\n%s", args, msg)
		}
	}
}

// A flag whose variable was empty demands what it says all the same, and a pasted identity of age
// is not repeated.
func TestEmptyFlags(t *testing.T) {
	t.Parallel()
	c := cmd{t: t}
	root, dir, file := host(t), t.TempDir(), filepath.Join(t.TempDir(), "set.tar.zst")
	c.run(0, "take", "-dir", dir, "-config", "-root", root, "-export", file)
	in := filepath.Join(dir, "in")
	for _, args := range [][]string{
		{"take", "-dir", in, "-config", "-root", root, "-sign="},
		{"verify", "-dir", dir, "-require-signature=", "latest"},
		{"import", "-dir", in, "-require-signature=", file},
		{"import", "-dir", in, "-identity=", file},
		{"import", "-dir", in, "-require-encrypted", "-identity=", file},
	} {
		if _, msg := c.run(2, args...); !strings.Contains(msg, "needs a value") {
			t.Errorf("%v: %s", args, msg)
		}
	}
	c.run(2, "restore", "-dir", dir, "-config", "-root", root, "-require-signature=", "latest")
	if _, err := os.Stat(in); err == nil {
		t.Error("a set was written")
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if _, msg := c.run(2, "export", "-dir", dir, "-recipient", identity.String(), "latest",
		file); strings.Contains(msg, "AGE-SECRET-KEY") || !strings.Contains(msg, "-recipient") {
		t.Error(msg)
	}
}

func TestMain(m *testing.M) {
	if os.Getenv("TAKEBACKUP_TEST_MAIN") != "" {
		main()
	}
	os.Exit(m.Run())
}

// A reader that has gone does not kill the command half way.
func TestNobodyReads(t *testing.T) {
	t.Parallel()
	gone, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, format := range []string{"-json", "-v"} {
		command := exec.CommandContext(t.Context(), os.Args[0], "take", format, "-v", "-dir", dir,
			"-config", "-root", host(t))
		command.Env = append(os.Environ(), "TAKEBACKUP_TEST_MAIN=1")
		command.Stdout, command.Stderr = w, w
		if err := command.Run(); command.ProcessState.ExitCode() != 1 {
			t.Errorf("%s: %v", format, err)
		}
	}
	if sets, err := backup.List(dir); err != nil || len(sets) != 2 {
		t.Errorf("%d sets, %v", len(sets), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*.partial")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestSetsOfFiles(t *testing.T) {
	t.Parallel()
	c := cmd{t: t}
	root, dir := host(t), t.TempDir()
	out, _ := c.run(0, "take", "-dir", dir, "-config", "-root", root, "-label", "before 5.3.0")
	if !strings.Contains(out, "complete and verified:") || !strings.Contains(out, "config") {
		t.Error(out)
	}
	set := c.json(0, "take", "-dir", dir, "-config", "-root", root)["result"].(map[string]any)
	id := set["id"].(string)
	if out, _ := c.run(0, "list", "-dir", dir); !strings.Contains(out, id) || !strings.Contains(out,
		"before 5.3.0") {
		t.Error(out)
	}
	if list := c.json(0, "list", "-dir", dir)["result"].([]any); len(list) != 2 {
		t.Errorf("%v", list)
	}
	c.run(0, "verify", "-dir", dir, "latest")
	c.run(0, "verify", "-dir", dir, "-level", "live", "-config", "-root", root, id)

	conf := filepath.Join(root, "opt/tyk-gateway/tyk.conf")
	if err := os.WriteFile(conf, []byte("broken"), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, msg := c.run(1, "verify", "-dir", dir, "-level", "live", "-config", "-root", root,
		id); !strings.Contains(msg, "/opt/tyk-gateway/tyk.conf") {
		t.Error(msg)
	}
	if out, _ := c.run(0, "restore", "-dir", dir, "-dry-run", "-config", "-root", root,
		id); !strings.Contains(out, "dry run") || !strings.Contains(out, "replace") {
		t.Error(out)
	}
	if out, _ := c.run(0, "restore", "-dir", dir, "-config", "-root", root, filepath.Join(dir,
		id)); !strings.Contains(out, "verified") {
		t.Error(out)
	}
	if data, _ := os.ReadFile(conf); string(data) != "{}" {
		t.Errorf("tyk.conf is %q", data)
	}
	if kept, _ := filepath.Glob(filepath.Join(dir, "rescued", "2*")); len(kept) != 1 {
		t.Errorf("rescued: %v", kept)
	}
	// An edit since the restore stops its undo.
	if err := os.WriteFile(conf, []byte("edited"), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, msg := c.run(5, "undo", "-dir", dir, "-config", "-root", root, id); !strings.Contains(msg,
		"/opt/tyk-gateway/tyk.conf") || !strings.Contains(msg, "-drop-edits") {
		t.Error(msg)
	}
	c.run(0, "undo", "-dir", dir, "-config", "-root", root, "-drop-edits", id)
	if data, _ := os.ReadFile(conf); string(data) != "broken" {
		t.Errorf("tyk.conf is %q", data)
	}
	// What was replaced is not a backup of its own: it is neither listed nor the latest.
	if list := c.json(0, "list", "-dir", dir)["result"].([]any); len(list) != 2 {
		t.Errorf("%v", list)
	}
	if list := c.json(0, "list", "-dir", filepath.Join(dir, "rescued"))["result"].([]any); len(
		list) != 1 {
		t.Errorf("%v", list)
	}
	if _, msg := c.run(2, "restore", "-dir", dir, "-config", "-root", root, "-rescue", dir+"/.",
		id); !strings.Contains(msg, "holds the sets") {
		t.Error(msg)
	}
	if out, _ := c.run(0, "prune", "-dir", dir, "-keep", "1", "-dry-run"); !strings.Contains(out,
		"would remove") {
		t.Error(out)
	}
	if pruned := c.json(0, "prune", "-dir", dir, "-keep",
		"1")["result"].(map[string]any); pruned["verified"] != id {
		t.Errorf("%v", pruned)
	}
	if err := os.Truncate(filepath.Join(dir, id, "config/opt/tyk-gateway/tyk.conf"), 1); err != nil {
		t.Fatal(err)
	}
	c.run(1, "verify", "-dir", dir, id)
	c.run(5, "restore", "-dir", dir, "-config", "-root", root, id)
	c.run(1, "export", "-dir", t.TempDir(), "latest", "x")
	c.run(1, "verify", dir)
	// A newest set that does not open is not passed over.
	if err := os.Truncate(filepath.Join(dir, id, "manifest.json"), 1); err != nil {
		t.Fatal(err)
	}
	if _, msg := c.run(5, "restore", "-dir", dir, "-config", "-root", root,
		"latest"); !strings.Contains(msg, "name a set by its ID") {
		t.Error(msg)
	}
}

func TestExportImport(t *testing.T) {
	t.Parallel()
	c := cmd{t: t}
	root, dir, tmp := host(t), t.TempDir(), t.TempDir()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	key, file := filepath.Join(tmp, "key"), filepath.Join(tmp, "set.tar.zst.age")
	if err := os.WriteFile(key, []byte(identity.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.run(0, "take", "-dir", dir, "-config", "-root", root, "-export", file, "-recipient",
		identity.Recipient().String())
	if _, msg := c.run(1, "import", "-dir", filepath.Join(tmp, "other"), file); !strings.Contains(msg,
		"identity") {
		t.Error(msg)
	}
	c.run(0, "import", "-dir", filepath.Join(tmp, "other"), "-identity", key, file)
	c.run(0, "verify", "-dir", filepath.Join(tmp, "other"), "latest")
	plain, third := filepath.Join(tmp, "plain.tar.zst"), filepath.Join(tmp, "third")
	c.run(2, "export", "-require-encrypted", "-dir", dir, "latest", plain)
	c.run(0, "export", "-dir", dir, "latest", plain)
	c.run(2, "import", "-dir", third, "-require-encrypted", plain)
	c.run(2, "import", "-dir", third, "-allow-plain", plain)
	if _, msg := c.run(1, "import", "-dir", third, "-identity", key, plain); !strings.Contains(msg,
		"not encrypted") || !strings.Contains(msg, "-allow-plain") {
		t.Error(msg)
	}
	c.run(0, "import", "-dir", third, "-identity", key, "-allow-plain", plain)
	c.run(2, "import", "-dir", t.TempDir(), "-identity", plain, file)
}

// A set is signed with a key of ssh-keygen, and a set that another key or nobody signed is
// refused by every verb that is told to require a signature.
func TestSigned(t *testing.T) {
	t.Parallel()
	keygen := lab.Program(t, "ssh-keygen", "openssh-client")
	c := cmd{t: t}
	root, dir, tmp := host(t), t.TempDir(), t.TempDir()
	for _, name := range []string{"ours", "theirs"} {
		if out, err := exec.CommandContext(t.Context(), keygen, "-q", "-t", "ed25519", "-N", "", "-f",
			filepath.Join(tmp, name)).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	ours, theirs := filepath.Join(tmp, "ours"), filepath.Join(tmp, "theirs.pub")
	config := []string{"-dir", dir, "-config", "-root", root}
	with := func(args ...string) []string { return append(args, config...) }
	c.run(2, with("take", "-sign", theirs)...) // a public key
	if err := os.Chmod(ours, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, msg := c.run(2, with("take", "-sign", ours)...); !strings.Contains(msg, "others may read") {
		t.Error(msg)
	}
	if sets, _ := backup.List(dir); len(sets) > 0 {
		t.Errorf("%d sets are left", len(sets))
	}
	if err := os.Chmod(ours, 0o600); err != nil {
		t.Fatal(err)
	}
	c.run(0, with("take", "-sign", ours)...)
	file := filepath.Join(tmp, "set.tar.zst")
	c.run(0, "export", "-dir", dir, "latest", file)
	conf := filepath.Join(root, "opt/tyk-gateway/tyk.conf")
	if err := os.WriteFile(conf, []byte("broken"), 0o640); err != nil {
		t.Fatal(err)
	}
	for key, code := range map[string]int{theirs: 1, ours + ".pub": 0} {
		c.run(code, "verify", "-dir", dir, "-require-signature", key, "latest")
		in := filepath.Join(tmp, fmt.Sprint("in", code))
		c.run(code, "import", "-dir", in, "-require-signature", key, file)
		if sets, _ := backup.List(in); len(sets) != 1-code {
			t.Errorf("%d sets imported", len(sets))
		}
	}
	_, msg := c.run(5, with("restore", "-require-signature", theirs, "latest")...)
	if !strings.Contains(msg, "signed it") {
		t.Error(msg)
	}
	if data, _ := os.ReadFile(conf); string(data) != "broken" {
		t.Errorf("tyk.conf is %q", data)
	}
	c.run(0, with("restore", "-require-signature", ours+".pub", "latest")...)
	if data, _ := os.ReadFile(conf); string(data) != "{}" {
		t.Errorf("tyk.conf is %q", data)
	}
}
