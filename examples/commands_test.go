// Package examples_test runs every command as its user does.
package examples_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/tykupgrade/examples/internal/cli"
)

// bad is one wrong call: its arguments, exit code and words of the answer.
type bad struct {
	args string
	code int
	want string
}

// The files in the directory of each call.
var files = map[string]string{
	"broken.yaml": "hosts: [",
	"broken.json": "{\"file_list\": ",
	"text.so":     "no plugin",
	"redis.uri":   "redis://127.0.0.1:1",
	"hosts.yaml": "versions: {gateway: 5.2.5}\nssh: {config: /dev/null}\nhosts: [{name: g1, " +
		"address: \"nobody@127.0.0.1\", port: 1, component: gateway}]\n",
	"wrong.yaml": "versions: {gateway: new}\nhosts: [{name: g1, component: gatway}]\n",
}

var calls = map[string][]bad{
	"packbundle": {
		{"", cli.Usage, "no verb given"},
		{"frobnicate", cli.Usage, `unknown verb "frobnicate"`},
		{"build -no-such-flag", cli.Usage, "unknown flag -no-such-flag"},
		{"verify", cli.Usage, "BUNDLE is missing"},
		{"verify none.zip", cli.No, "none.zip: no such file"},
		{"verify text.so", cli.No, "text.so"},
		{"build -manifest broken.json", cli.Usage, "broken.json: parse manifest"},
		{"build -manifest empty", cli.Usage, "empty"},
		{"which -release new text.so", cli.Usage, `invalid -release "new"`},
		{"which text.so", cli.Usage, "-release is missing"},
		{"publish -dir none text.so a.zip", cli.Usage, "none"},
		{"verify text.so more", cli.Usage, `unexpected argument "more"`},
	},
	"rolling": {
		{"", cli.Usage, "no verb given"},
		{"frobnicate", cli.Usage, `unknown verb "frobnicate"`},
		{"plan -no-such-flag", cli.Usage, "unknown flag -no-such-flag"},
		{"plan", cli.Usage, "-file is missing"},
		{"plan -file none.yaml", cli.Usage, "none.yaml: no such file"},
		{"plan -file empty", cli.Usage, "empty: is a directory"},
		{"plan -file broken.yaml", cli.Usage, "correct the file"},
		{"run -file hosts.yaml -without luck", cli.Usage, `unknown word "luck"`},
		{"resume -yes -file hosts.yaml", cli.Refused, "holds no run"},
		{"undo -yes -file hosts.yaml", cli.Refused, "holds no run"},
		{"accept -yes -file hosts.yaml", cli.Refused, "holds no run"},
		{"run -file hosts.yaml -step drain", cli.Usage, "-step needs -only"},
	},
	"upgrade": {
		{"", cli.Usage, "no verb given"},
		{"frobnicate", cli.Usage, `unknown verb "frobnicate"`},
		{"plan -no-such-flag", cli.Usage, "unknown flag -no-such-flag"},
		{"plan", cli.Usage, "-file is missing"},
		{"plan -file none.yaml", cli.Usage, "none.yaml: no such file"},
		{"plan -file empty", cli.Usage, "empty: is a directory"},
		{"plan -file broken.yaml", cli.Usage, "correct the file"},
		{"apply -file hosts.yaml -without luck", cli.Usage, `unknown word "luck"`},
		{"resume -yes -file hosts.yaml -without backup", cli.Refused, "holds no run"},
		{"revert -yes -file hosts.yaml", cli.Refused, "holds no run"},
		{"accept -yes -file hosts.yaml", cli.Refused, "holds no run"},
		{"status -file hosts.yaml -set latest", cli.Usage, "-set goes with apply, resume"},
		{"init", cli.Usage, "-host is missing"},
		{"init -host g1 -host=-x", cli.Usage, `invalid -host "-x": want an SSH destination`},
		{"init -host nobody@127.0.0.1:1 -ssh-config /dev/null", cli.Refused,
			"no Tyk component was found"},
	},
	"buildplugin": {
		{"", cli.Usage, "no verb given"},
		{"frobnicate", cli.Usage, `unknown verb "frobnicate"`},
		{"plan -no-such-flag", cli.Usage, "unknown flag -no-such-flag"},
		{"check", cli.Usage, ""},
		{"check -gateway none.so text.so", cli.Usage, "none.so: no such file"},
		{"check -gateway text.so text.so", cli.Usage, "not an ELF file"},
		{"check -gateway empty text.so", cli.Usage, "empty"},
		{"check -gateway=", cli.Usage, "-gateway needs a value"},
		{"list -releases broken.json", cli.Usage, "broken.json: read release table"},
		{"list -releases empty", cli.Usage, "empty"},
		{"plan -release 5.2.5 -releases none.json", cli.Usage, "none.json: no such file"},
		{"plan -release 5.2.5 -release-mod broken.yaml", cli.Usage, "broken.yaml"},
		{"plan -release 99.0.0", cli.No, "not in the release table"},
		{"check -gateway text.so -release new text.so", cli.Usage, `invalid -release "new"`},
		{"sweep", cli.Usage, "-older is missing"},
	},
	"checkhealth": {
		{"-no-such-flag", cli.Usage, "unknown flag -no-such-flag"},
		{"-gateway-url", cli.Usage, "needs a value"},
		{"-gateway-url ://", cli.Usage, "bad URL"},
		{"-plugin-url here -expect-status 200", cli.Usage, "bad URL"},
		{"-plugin-url http://127.0.0.1:1", cli.Usage, "-plugin-url needs -expect-status"},
		{"-plugin-url http://127.0.0.1:1 -expect-status 700", cli.Usage, "want 100 to 599"},
		{"-gateway-url http://127.0.0.1:1 -timeout soon", cli.Usage,
			`invalid -timeout "soon": want a duration`},
		{"-gateway-url http://127.0.0.1:1 -release new", cli.Usage, `invalid -release "new"`},
		{"-gateway-url http://127.0.0.1:1 -header-file none", cli.Usage, ""},
		{"-gateway-url https://127.0.0.1:1 -ca none", cli.Usage, "none: no such file"},
		{"-json more", cli.Usage, `unexpected argument "more"`},
		{"-json -prom", cli.Usage, "exclude each other"},
		{"-gateway-url http://127.0.0.1:1 -release=", cli.Usage, "-release needs a value"},
	},
	"takebackup": {
		{"", cli.Usage, "no verb given"},
		{"frobnicate", cli.Usage, `unknown verb "frobnicate"`},
		{"take -no-such-flag", cli.Usage, "unknown flag -no-such-flag"},
		{"take", cli.Usage, "-dir is missing"},
		{"take -dir sets", cli.Usage, "nothing chosen"},
		{"take -dir sets -redis", cli.Usage, "TAKEBACKUP_REDIS_URI"},
		{"take -dir sets -redis -redis-uri-file broken.json", cli.Usage, "Redis URI"},
		{"take -dir sets -mongo -mongo-uri-file broken.json", cli.Usage, "mongodb://"},
		{"take -dir sets -postgres -postgres-uri-file broken.json", cli.Usage, "postgresql://"},
		{"take -dir sets -redis -redis-uri-file redis.uri -redis-ca text.so", cli.Usage, "text.so"},
		{"take -dir sets -config -host=", cli.Usage, "-host needs a value"},
		{"take -dir sets -config -host=-x", cli.Usage, `invalid -host "-x": want an SSH destination`},
		{"take -dir sets -config -root / -host h", cli.Usage, "-root and -host exclude each other"},
		{"take -dir sets -config -require-encrypted", cli.Usage, "-require-encrypted needs -recipient"},
		{"restore -redis -redis-uri-file redis.uri -redis-mode dead none", cli.Usage,
			"want live or offline"},
		{"prune -mongo -mongo-uri-file none", cli.Usage, "none: no such file"},
		{"take -dir sets -config -sign text.so", cli.Usage, "not a private key"},
		{"take -dir sets -config -root none", cli.Usage, "invalid -root: stat none: no such file"},
		{"verify empty", cli.No, "empty"},
		{"verify none", cli.No, "none"},
		{"verify -level deep empty", cli.Usage, `unknown -level "deep"`},
		{"verify latest", cli.Usage, "latest needs -dir"},
		{"restore -config empty", cli.Refused, "empty"},
		{"restore -dir empty -config latest", cli.Refused, "no set"},
		{"restore -config -require-signature broken.json empty", cli.Usage, "line 1"},
		{"restore-dump -redis none.rdb", cli.No, "none.rdb: no such file"},
		{"undo -redis", cli.Usage, "SET is missing"},
		{"import -dir empty text.so", cli.No, ""},
		{"export -require-encrypted empty a.tar", cli.Usage, "-recipient"},
		{"prune -dir empty", cli.Usage, "-keep or -max-age is missing"},
		{"prune -dir empty -keep many", cli.Usage, "-keep"},
		{"list -dir none", cli.Usage, "none"},
	},
	"upgradehost": {
		{"", cli.Usage, "no verb given"},
		{"frobnicate", cli.Usage, `unknown verb "frobnicate"`},
		{"plan -no-such-flag", cli.Usage, "unknown flag -no-such-flag"},
		{"plan", cli.Usage, "nothing is requested"},
		{"plan tyk-gateway=v5.2.5", cli.Usage, "v5.2.5"},
		{"apply -yes tyk-gateway", cli.Usage, "it has no version"},
		{"apply -yes tyk-gateway=1 tyk-gateway=2", cli.Usage, "requested twice"},
		{"apply -yes -debs empty tyk-gateway=1", cli.Usage, "absolute path"},
		{"apply -yes -out broken.json tyk-gateway=1", cli.Usage, "read broken.json"},
		{"apply -yes -out none/change.json tyk-gateway=1", cli.Usage, "none: no such file"},
		{"apply -yes -host= tyk-gateway=1", cli.Usage, "-host needs a value"},
		{"facts -sudo -helper", cli.Usage, "exclude each other"},
		{"revert -yes", cli.Usage, "-yes goes with apply"},
		{"revert -change none.json", cli.Usage, "none.json: no such file"},
		{"revert -change empty", cli.Usage, "empty"},
		{"revert -change broken.json", cli.Usage, "name a file of changes"},
		{"forget -change broken.json", cli.Usage, "name a file of changes"},
		{"forget -older-than 1h -keep broken.json", cli.Usage, "name a file of changes"},
		{"revert -change broken.json -last tyk-pump", cli.Usage, "either -change FILE or -last PACKAGES"},
		{"forget", cli.Usage, "either -change FILE or -older-than AGE"},
		{"forget -older-than 30d", cli.Usage, "30d"},
		{"facts -host=-x", cli.Usage, `invalid -host "-x": want an SSH destination`},
		{"facts -host nobody@127.0.0.1 -ssh-port 1 -ssh-config /dev/null", cli.No,
			"connection to the host failed"},
		{"install-helper", cli.Usage, "USER is missing"},
		{"install-helper root:x", cli.No, "not a user name"},
	},
	"rehearse": {
		{"-no-such-flag", cli.Usage, "unknown flag -no-such-flag"},
		{"-plugin none", cli.Usage, ""},
		{"-gateway none", cli.Usage, ""},
		{"-file none.yaml", cli.Usage, ""},
		{"-file broken.yaml", cli.Usage, ""},
		{"-fail luck", cli.Usage, "luck"},
		{"-apis none", cli.Usage, ""},
		{"more", cli.Usage, `unexpected argument "more"`},
	},
}

var built string // their directory; empty: no test has requested them

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}

// A wrong call is answered by the cause and what to do, with the right exit code. It prints
// nothing else and leaves nothing behind.
func TestBadInput(t *testing.T) {
	t.Parallel()
	bin, err := commands()
	if err != nil {
		t.Fatal(err)
	}
	for name, all := range calls {
		if len(all) < 8 {
			t.Errorf("%s has %d wrong calls, want 8 or more", name, len(all))
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, c := range all {
				c.run(t, bin, name)
			}
		})
	}
}

func (c bad) run(t *testing.T, bin, name string) {
	t.Helper()
	dir := t.TempDir()
	for file, text := range files {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	before, home := tree(t, dir), t.TempDir()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, name), strings.Fields(c.args)...)
	// No home, engine or temporary file of this machine takes part. ssh keeps sockets at home.
	cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + dir,
		"DOCKER_HOST=unix:///nonexistent"}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(stderr.String(), "\n"), "\n")
	if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(stderr.String(),
		c.want) || stdout.Len() > 0 || len(lines) != 2 ||
		!strings.HasPrefix(lines[0], name) || !strings.HasPrefix(lines[1], "  ") {
		t.Errorf("%s %s: exit code %d, want %d\nstdout %q\nstderr:\n%s", name, c.args, code, c.code,
			&stdout, &stderr)
	}
	// A file that is missing is named with its flag.
	for i, arg := range strings.Fields(c.args) {
		if prev := strings.Fields("x " + c.args)[i]; strings.HasPrefix(arg, "none") &&
			strings.HasPrefix(prev, "-") && prev != "-redis" && !strings.Contains(stderr.String(), prev) {
			t.Errorf("%s %s: the error does not name %s:\n%s", name, c.args, prev, &stderr)
		}
	}
	if after := tree(t, dir); !slices.Equal(before, after) {
		t.Errorf("%s %s left %v, before it was %v", name, c.args, after, before)
	}
}

// tree lists everything below a directory.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		all = append(all, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
