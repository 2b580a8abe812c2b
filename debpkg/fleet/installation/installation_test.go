package installation

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"debug/elf"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/pluginbuild"
)

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

// object is the header of a shared object, for what looks no further.
func object(text string) []byte {
	var h [64]byte
	copy(h[:], elf.ELFMAG)
	h[elf.EI_CLASS], h[elf.EI_DATA] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB)
	h[16] = byte(elf.ET_DYN)
	return append(h[:], text...)
}

// Keys take up to seconds to make. signingKey is that of key.pem.
var otherKey = sync.OnceValues(func() (*rsa.PrivateKey, error) {
	return rsa.GenerateKey(rand.Reader, 2048)
})

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

// step runs one part of an upgrade alone, with a journal.
func step(t *testing.T, u *Upgrade, target string) (*rollout.Report, error) {
	t.Helper()
	waves, err := u.Waves()
	if err != nil {
		t.Fatal(err)
	}
	if waves, err = rollout.Select(waves, target, ""); err != nil {
		t.Fatal(err)
	}
	run := rollout.Run
	journal := filepath.Join(u.dir, target+".journal")
	if _, err := os.Stat(journal); err == nil {
		run = rollout.Resume
	}
	return run(t.Context(), waves, rollout.Options{Journal: journal, Secrets: u.secrets(t.Context())})
}

func prepared(t *testing.T, file string, env map[string]string, without ...Check) *Upgrade {
	t.Helper()
	f, err := Load(file, LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	u, err := New(f, file+".journal", Options{Env: func(name string) string { return env[name] },
		Without: without})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// documented is the file of the command, with every key.
const documented = "../../../examples/upgrade/upgrade.yaml"

func TestGates(t *testing.T) {
	t.Parallel()
	status := http.StatusInternalServerError
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter,
		_ *http.Request) {
		w.WriteHeader(status)
	}))
	defer srv.Close()
	file := write(t, nowhere+fmt.Sprintf("health: {success_threshold: 1, deadline: 300ms}\ngates: "+
		"[{name: front, url: %q}]\n", srv.URL))
	target := GatesAfter + "gateway"
	u := prepared(t, file, nil)
	if _, err := step(t, u, target); err == nil || !strings.Contains(err.Error(), "front") ||
		!strings.Contains(err.Error(), "check gates") {
		t.Errorf("error %v", err)
	}
	rep, err := step(t, prepared(t, file, nil, CheckGates), target)
	if err != nil || !strings.Contains(string(rep.Saved(target, "hold")), "check gates") {
		t.Errorf("%v, %s", err, rep.Saved(target, "hold"))
	}
	status = http.StatusOK
	if _, err := step(t, u, target); err != nil {
		t.Error(err)
	}
}

// A release that the table lacks comes from a file or a repository, and without
// them the operator learns which keys name one.
func TestReleaseThatTheTableLacks(t *testing.T) {
	t.Parallel()
	file := write(t, strings.NewReplacer("5.2.5", "99.0.0", "so: plugin_v99.0.0_linux_amd64.so",
		"source: .\n  prepare: true").Replace(strings.ReplaceAll(withPlugin, "5.2.5", "99.0.0")))
	dir := filepath.Dir(file)
	known, err := pluginbuild.Lookup(semver.MustParse("5.14.0"))
	if err != nil {
		t.Fatal(err)
	}
	known.Version = semver.MustParse("99.0.0")
	table, err := json.Marshal([]pluginbuild.Release{known})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{"more.json": string(table),
		"go.mod":  "module example.com/p\n\ngo 1.25\n",
		"tyk.mod": "module github.com/TykTechnologies/tyk\n\ngo 1.25\n",
		"p.go": "package main\n\nimport \"net/http\"\n\nfunc AddFooBarHeader(http.ResponseWriter, " +
			"*http.Request) {}\n\nfunc main() {}\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	u := prepared(t, file, nil)
	if _, err := u.planBundle(t.Context(), u.bundles()[0]); err == nil ||
		!strings.Contains(err.Error(), "nearest is 5.14.0; correct the version, name a file with the "+
			"release as plugin.releases, or the gateway's repository as plugin.repo") {
		t.Errorf("error %v", err)
	}
	u.Plugin.Releases, u.Plugin.Source = filepath.Join(dir, "more.json"), filepath.Join(dir, "empty")
	if err := os.Mkdir(u.Plugin.Source, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := u.planBundle(t.Context(), u.bundles()[0]); err == nil ||
		!strings.Contains(err.Error(), u.Plugin.Source+": ") {
		t.Errorf("it is not said where: %v", err)
	}
	u.Plugin.Source = dir
	p, err := u.planBundle(t.Context(), u.bundles()[0])
	if err != nil || p.Plugins[0].Build.Commit != known.Commit ||
		filepath.Base(p.Plugins[0].Target) != "plugin_v99.0.0_linux_amd64.so" {
		t.Errorf("%+v, %v", p, err)
	}
	git := lab.Program(t, "git", "git")
	for _, args := range []string{"init -q", "-c user.name=a -c user.email=a@b commit -q " +
		"--allow-empty -m x", "tag v99.0.0"} {
		cmd := exec.Command(git, strings.Fields(args)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	u = prepared(t, file, nil)
	u.Plugin.Repo, u.Plugin.ReleaseMod = dir, filepath.Join(dir, "tyk.mod")
	if p, err = u.planBundle(t.Context(), u.bundles()[0]); err != nil ||
		len(p.Plugins[0].Build.Commit) != 40 || p.Plugins[0].Build.Commit == known.Commit {
		t.Errorf("%+v, %v", p, err)
	}
}

// An image that is named is of the edition that it is of.
func TestImage(t *testing.T) {
	t.Parallel()
	u := prepared(t, write(t, strings.Replace(withPlugin, "component: gateway",
		"component: gateway, package: tyk-gateway-ee", 1)), nil)
	if i := u.image(); i.Edition != pluginbuild.Enterprise {
		t.Errorf("%+v", i)
	}
	u.Plugin.Compiler.Image = "registry.example.org/compiler:v5.8.0-ee"
	if i := u.image(); i.Edition != "" || i.Ref != u.Plugin.Compiler.Image {
		t.Errorf("%+v", i)
	}
}

// A budget in percent is one of the hosts alone.
func TestBudget(t *testing.T) {
	t.Parallel()
	u := prepared(t, write(t, "versions: {gateway: 5.2.5, pump: 1.9.0}\nbudget: 50%\nhosts: [{name: "+
		"a, component: gateway}, {name: b, component: gateway}, {name: c, component: pump}]\ngates: "+
		"[{name: g, url: \"http://h/\"}]\n"), nil)
	waves, err := u.Waves()
	if err != nil {
		t.Fatal(err)
	}
	if o := u.RunOptions(t.Context(), waves); o.Budget != (rollout.CountOrPercent{Count: 1}) {
		t.Errorf("budget %+v", o.Budget)
	}
	if last := waves[len(waves)-1]; last.Name != GatesAfter+"pump" || last.Canary.Count != 1 ||
		waves[0].Canary.Count != len(waves[0].Targets) {
		t.Errorf("waves %+v", waves)
	}
}

// The documented file is one that the command takes.
func TestDocumentedFile(t *testing.T) {
	t.Parallel()
	u := prepared(t, documented, nil)
	waves, err := u.Waves()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, w := range waves {
		names = append(names, w.Name)
	}
	if got, want := strings.Join(names, ", "), "prepare, dashboard, gates after dashboard, gateway, "+
		"gates after gateway, pump, gates after pump"; got != want {
		t.Errorf("waves %s, want %s", got, want)
	}
}

// It names every key that there is.
func TestDocumentedFileIsComplete(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(documented)
	if err != nil {
		t.Fatal(err)
	}
	var check func(reflect.Type)
	check = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct {
			return
		}
		for i := range typ.NumField() {
			key, options, _ := strings.Cut(typ.Field(i).Tag.Get("yaml"), ",")
			if key == "" && options == "" {
				continue // not of the file
			}
			if key != "" && !regexp.MustCompile(`\b`+key+`\b`).Match(data) {
				t.Errorf("upgrade.yaml does not name %s of %s", key, typ)
			}
			check(typ.Field(i).Type)
		}
	}
	check(reflect.TypeFor[File]())
}

func TestFingerprint(t *testing.T) {
	t.Parallel()
	file := write(t, strings.Replace(withPlugin, "so: plugin_v5.2.5_linux_amd64.so", "source: .", 1))
	dir := filepath.Dir(file)
	last := ""
	for _, c := range []struct {
		name, text string
		counts     bool
	}{{"plugin.go", "package main", true}, {"plugin.go", "package  main", true}, {"x.so", "built",
		false}, {".git/HEAD", "x", false}, {"sub/go.mod", "module x", true}} {
		path := filepath.Join(dir, c.name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(c.text),
			0o600)); err != nil {
			t.Fatal(err)
		}
		got, err := fingerprintOf(prepared(t, file, nil))
		if err != nil || last != "" && (got != last) != c.counts {
			t.Errorf("%s: %s after %s, %v", c.name, got, last, err)
		}
		last = got
	}
}

func fingerprintOf(u *Upgrade) (string, error) { return u.fingerprint(u.bundles()[0].Plugins[0]) }
