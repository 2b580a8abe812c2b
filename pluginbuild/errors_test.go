package pluginbuild_test

import (
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/tykupgrade/internal/lab/tykmod"
	"example.com/tykupgrade/pluginbuild"
)

// The failures that users meet, each provoked with the real go command, and
// what they are told.
func TestStepErrorHints(t *testing.T) {
	t.Parallel()
	refusing := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(refusing.Close)
	failing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "bad gateway", http.StatusBadGateway)
	}))
	t.Cleanup(failing.Close)
	denying := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no", http.StatusUnauthorized)
	}))
	t.Cleanup(denying.Close)
	const good = "module example.org/plugin\n\ngo 1.19\n"
	dep := func(mod string) tykmod.Module {
		return tykmod.Module{Path: "example.org/dep", Version: "v1.0.0", Files: map[string]string{
			"go.mod": mod, "dep.go": "package dep\n"}}
	}
	// Straight from a repository, as with GOPRIVATE; git is told where it is.
	repo := repository(t, map[string]string{"go.mod": "module " + pluginbuild.Module + "\n"}, "v5.2.5")
	direct := []string{"GOPROXY=direct", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=url.file://" +
		repo.dir + ".insteadOf",
		"GIT_CONFIG_VALUE_0=https://" + pluginbuild.Module}
	useDep := map[string]string{"dep.go": "package main\n\nimport _ \"example.org/dep\"\n"}
	for name, c := range map[string]struct {
		mod   string
		files map[string]string
		env   []string
		serve []tykmod.Module
		step  string
		hint  string
		tag   bool // ask for the tag instead of the commit
		retry bool
	}{
		"unknown revision": {mod: good, env: []string{"GOPROXY=" + refusing.URL},
			step: "go get", hint: "does not have that commit"},
		"unknown revision, on disk": {mod: good, env: []string{"GOPROXY=file://" +
			t.TempDir()}, step: "go get", hint: "does not have that commit"},
		"checksum database refuses": {mod: good, env: []string{"GOSUMDB=sum.golang.org " +
			refusing.URL}, step: "go get", hint: "GONOSUMDB"},
		"checksum mismatch": {step: "go mod tidy", mod: good,
			files: map[string]string{"go.sum": "github.com/sirupsen/logrus v1.9.0/go.mod " +
				"h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"}, hint: "before you remove a line"},
		"unknown revision, from the repository": {mod: good, env: direct, step: "go get",
			hint: "does not have that commit"},
		"major version": {mod: good, env: direct, tag: true, step: "go get",
			hint: "commit instead of a tag"},
		"go too new": {mod: good + "\nrequire example.org/dep v1.0.0\n",
			files: useDep, serve: []tykmod.Module{dep("module example.org/dep\n\ngo 1.99\n")},
			step: "go get", hint: "newer Go"},
		"nothing listens": {mod: good, env: []string{"GOPROXY=http://127.0.0.1:1"},
			step: "go get", hint: "network", retry: true},
		"server fails": {mod: good, env: []string{"GOPROXY=" + failing.URL},
			step: "go get", hint: "network", retry: true},
		"server wants credentials": {mod: good, env: []string{"GOPROXY=" + denying.URL},
			step: "go get", hint: "netrc"},
		"downloads forbidden": {mod: good, env: []string{"GOPROXY=off"}, step: "go get",
			hint: "GOPROXY=off"},
		"package is gone": {mod: good, files: map[string]string{
			"x.go": "package main\n\nimport _ \"github.com/TykTechnologies/tyk/gone\"\n"},
			step: "go mod tidy", hint: "does not have: change the import"},
		"declares another path": {mod: good + "\nrequire example.org/dep v1.0.0\n",
			files: useDep, serve: []tykmod.Module{dep("module example.org/renamed\n")}, step: "go get",
			hint: "replace directive"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := offline(t, "5.2.5")
			proxy := strings.TrimPrefix(env[0], "GOPROXY=file://")
			if _, err := tykmod.Proxy(proxy, c.serve...); err != nil {
				t.Fatal(err)
			}
			dir := newModule(t, c.mod, c.files)
			was := treeOf(t, dir)
			o := pluginbuild.PrepareOptions{Env: append(slices.Clone(env), c.env...)}
			if c.tag {
				o.Go = wrapper(t, "case $1 in get) exec go get "+pluginbuild.Module+"@v5.2.5;; esac")
			}
			_, err := pluginbuild.Prepare(t.Context(), dir, lookup(t, "5.2.5"), o)
			var failed *pluginbuild.Error
			if !errors.As(err, &failed) {
				t.Fatalf("error %v", err)
			}
			if failed.Op != c.step || !strings.Contains(failed.Hint(), c.hint) ||
				failed.Retryable() != c.retry || failed.ExitCode != 1 || failed.Output == "" {
				t.Errorf("step %q, retry %v, code %d, hint %q, want %q, %v and %q in it\n%s", failed.Op,
					failed.Retryable(), failed.ExitCode, failed.Hint(), c.step, c.retry, c.hint, failed.Output)
			}
			if !strings.Contains(err.Error(), failed.Hint()) {
				t.Errorf("error %q lacks the hint", err)
			}
			same(t, was, treeOf(t, dir))
		})
	}
}

// The caller's settings reach the commands, netrc among them, and passwords do
// not reach errors and events.
func TestPrepareKeepsSecretsOutOfErrors(t *testing.T) {
	t.Parallel()
	var asked atomic.Value
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		asked.Store(user + ":" + password)
		http.Error(w, "no", http.StatusForbidden)
	}))
	t.Cleanup(server.Close)
	home := t.TempDir()
	ca, netrc := filepath.Join(home, "ca.pem"), filepath.Join(home, ".netrc")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := errors.Join(os.WriteFile(ca, cert, 0o600), os.WriteFile(netrc,
		[]byte("machine "+server.Listener.Addr().String()+" login bob password hunter2\n"),
		0o600)); err != nil {
		t.Fatal(err)
	}
	dir := newModule(t, "module example.org/plugin\n\ngo 1.19\n", nil)
	var lines []string
	_, err := pluginbuild.Prepare(t.Context(), dir, lookup(t, "5.2.5"), pluginbuild.PrepareOptions{
		Go: wrapper(t, "echo fetching https://bob:hunter2@example.com/ for $GOPRIVATE >&2"),
		Env: append(tykmod.Env(server.URL, filepath.Join(home, "cache")), "GOPRIVATE=example.net",
			"NETRC="+netrc, "SSL_CERT_FILE="+ca),
		OnEvent: func(e pluginbuild.Event) {
			if e.Kind == pluginbuild.Output {
				lines = append(lines, e.Line)
			}
		},
	})
	var failed *pluginbuild.Error
	if !errors.As(err, &failed) || asked.Load() != "bob:hunter2" {
		t.Fatalf("error %v, credentials seen %q", err, asked.Load())
	}
	all := err.Error() + failed.Output + strings.Join(lines, "\n")
	if strings.Contains(all, "hunter2") || !strings.Contains(all,
		"xxxxx@example.com/ for example.net") {
		t.Errorf("secrets or settings lost:\n%s", all)
	}
}
