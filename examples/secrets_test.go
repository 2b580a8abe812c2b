package examples_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/internal/lab/canary"
)

// The words that must stay where they were given: in a file, or in a variable, which children
// of a command inherit.
const (
	fileCanary = "c4n4ry-9f27"
	envCanary  = "c4n4ry-51d8"
)

// secretFiles hold them in each directory, next to the files of TestBadInput. @ is the
// address of a server that refuses everything, and repeats what it was sent.
var secretFiles = map[string]string{
	"redis.uri": "redis://tyk:" + fileCanary + "@127.0.0.1:1/0", "redis.bad": "redis//" + fileCanary,
	"mongo.uri":    "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100&username=" + fileCanary,
	"postgres.uri": "postgresql://tyk:" + fileCanary + "@127.0.0.1:1/tyk?connect_timeout=1",
	"auth":         "admin:" + fileCanary, "header": "Authorization: " + fileCanary + "\n",
	"header.bad": fileCanary + "\n", "key.pem": fileCanary, "netrc": "machine a password " + fileCanary,
	"tyk.conf":  `{"secret": "` + fileCanary + `", "storage": {"password": "` + fileCanary + `"`,
	"auth.conf": "machine a login b password " + fileCanary,
	"upgrade.yaml": `
versions: {gateway: 5.2.5}
ssh: {config: /dev/null}
hosts: [{name: g1, address: "nobody@127.0.0.1", port: 1, component: gateway}]
plugin: {from: 4.0.8, current: text.so, so: text.so, symbol: F, hook: pre, bundle: {dir: b, name: a.zip, key: key.pem}, compiler: {env: [GOPROXY], netrc: netrc}}
apis: {gateway: "http://@", secret: {file: auth}}
hooks: [{name: chat, on: [before_run, on_failure, after_run], url_env: HOOK}]
backup:
  dir: sets
  redis: {uri_file: redis.uri}
  mongo: {uri_env: MONGO}
  postgres: {uri_command: [cat, postgres.uri]}
`,
	"fleet.yaml": `
versions: {gateway: 5.2.5}
ssh: {config: /dev/null}
hosts: [{name: g1, address: "nobody@127.0.0.1", port: 1, component: gateway}]
hooks: [{name: chat, on: [before_run, on_failure, after_run], url_env: HOOK}]
`,
}

// secretCalls are calls that use a secret and fail. TestSecretsStayInSuccess has those that
// succeed, and the tests of takebackup and upgrade those that need their servers.
var secretCalls = map[string][]string{
	"packbundle": {"build -manifest broken.json -key key.pem",
		"build -key key.pem -manifest m.json -json"},
	"buildplugin": {"compile -release 5.2.5 -netrc netrc -dir empty",
		"compile -release 5.2.5 -netrc netrc -json"},
	"checkhealth": {
		"-gateway-url http://@ -auth-file auth -json",
		"-plugin-url http://@ -header-file header -expect-body none -json",
		"-plugin-url http://@ -header-file header -expect-header Foo:Bar",
		"-plugin-url http://@ -header-file header.bad -expect-status 200",
		"-plugin-url http://127.0.0.1:1 -header-file header -expect-status 200 -health-json",
		"-gateway-url http://@ -auth-file auth -prom",
	},
	"takebackup": {
		"take -v -dir sets -redis -redis-uri-file redis.uri",
		"take -v -json -dir sets -redis -redis-uri-file redis.bad",
		"take -v -dir sets -mongo -mongo-uri-file mongo.uri -mongo-password-file auth",
		"take -v -json -dir sets -postgres -postgres-uri-file postgres.uri",
		"take -dir sets -redis -sign key.pem -redis-uri-file redis.uri",
		"import -dir sets -identity key.pem text.so",
	},
	"upgrade": {
		"plan -file upgrade.yaml", "plan -json -file upgrade.yaml", "apply -yes -file upgrade.yaml",
		"apply -yes -json -file upgrade.yaml -without plan,preflight", "status -json -file upgrade.yaml",
		"init -host nobody@127.0.0.1:1 -ssh-config /dev/null -gateway-url http://@ -secret-env SECRET",
	},
	"rolling": {
		"plan -file fleet.yaml", "run -yes -file fleet.yaml", "run -yes -json -file fleet.yaml",
		"status -json -file fleet.yaml",
	},
	"upgradehost": {"plan -host nobody@127.0.0.1:1 -ssh-config /dev/null -v tyk-gateway=5.2.5"},
	"rehearse":    {"-conf tyk.conf -gateway text.so -json", "-conf tyk.conf -file upgrade.yaml"},
}

// Secrets are not in the output, the logs, reports and journals of any command, nor in the
// arguments of a process; and one that came from a file is in nobody's environment.
func TestSecretsStay(t *testing.T) {
	t.Parallel()
	bin, err := commands()
	if err != nil {
		t.Fatal(err)
	}
	hostile := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WWW-Authenticate", "Basic realm="+r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusUnauthorized)
		_ = r.Header.Write(w)
		if _, password, ok := r.BasicAuth(); ok {
			_, _ = w.Write([]byte("the password " + password + " is wrong"))
		}
	}))
	t.Cleanup(hostile.Close)
	at := strings.TrimPrefix(hostile.URL, "http://")
	watch(t)
	for name := range calls {
		if len(secretCalls[name]) == 0 {
			t.Errorf("%s has no call with a secret", name)
		}
	}
	for name, all := range secretCalls {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, set := range []map[string]string{files, secretFiles} {
				for file, text := range set {
					text = strings.ReplaceAll(text, `"http://@"`, `"http://`+at+`"`)
					if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, args := range all {
				quiet(t, bin, dir, name, strings.ReplaceAll(args, "http://@", "http://"+at))
			}
		})
	}
}

// quiet runs a command that fails, and looks for the words.
func quiet(t *testing.T, bin, dir, name, args string) {
	t.Helper()
	code, out := search(t, bin, dir, name, args, "HOOK=http://127.0.0.1:1/"+envCanary,
		"SECRET="+envCanary, "GOPROXY=https://tyk:"+envCanary+"@127.0.0.1:1",
		"MONGO=mongodb://tyk:"+envCanary+"@127.0.0.1:1/?serverSelectionTimeoutMS=100")
	if code == 0 && !strings.HasPrefix(args, "status") && !strings.HasPrefix(args, "plan -json") {
		t.Errorf("%s %s: it succeeded\n%s", name, args, out)
	}
}

// search runs a command and looks for the words in its output, and in all files but those that
// hold them.
func search(t *testing.T, bin, dir, name, args string, env ...string) (code int, out []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, name), strings.Fields(args)...)
	cmd.Dir, cmd.Env = dir, append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir,
		"TMPDIR=" + dir, "DOCKER_HOST=unix:///nonexistent"}, env...)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if hasCanary(out) {
		t.Errorf("%s %s tells a secret:\n%s", name, args, out)
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || secretFiles[filepath.Base(path)] != "" {
			return err
		}
		data, err := os.ReadFile(path)
		if hasCanary(data) {
			t.Errorf("%s %s: a secret is in %s", name, args, path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return cmd.ProcessState.ExitCode(), out
}

func hasCanary(data []byte) bool {
	return bytes.Contains(data, []byte(fileCanary)) || bytes.Contains(data, []byte(envCanary))
}

// watch looks at all processes until the test ends, for a secret in the arguments, or one from a
// file in the environment. psql and pg_dump take a password from PGPASSWORD, which on Linux only
// their user and root can read.
func watch(t *testing.T) {
	canary.Watch(t, func(p canary.Process) bool {
		if hasCanary(p.Args) {
			return true
		}
		for v := range bytes.SplitSeq(p.Env, []byte{0}) {
			if bytes.Contains(v, []byte(fileCanary)) && !bytes.HasPrefix(v, []byte("PGPASSWORD=")) {
				return true
			}
		}
		return false
	})
}
