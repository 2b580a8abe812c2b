package installation

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/bundle/apidef"
	"example.com/tykupgrade/bundle/bundletest"
	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/debpkgtest"
	"example.com/tykupgrade/debpkg/fleet"
)

const two = nowhere + `
plugin: {from: 4.0.8, bundle: {dir: bundles, serve: served}}
bundles:
- name: orders.zip
  manifest: orders/manifest.json
  plugins:
  - {current: orders/auth.so, so: auth_v5.2.5_linux_amd64.so}
  - {current: orders/tail.so, so: tail_v5.2.5_linux_amd64.so}
- {name: billing.zip, symbol: AddFooBarHeader, hook: post, plugins: [{current: plugin.so, so: plugin_v5.2.5_linux_amd64.so}]}
`

// severalFiles writes the builds of two; paths are the plugin paths.
func severalFiles(t *testing.T, text string, auth, tail, billing string) string {
	t.Helper()
	file := write(t, text)
	dir := filepath.Dir(file)
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "orders"), 0o755), os.Mkdir(filepath.Join(dir,
		"served"), 0o755)); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"orders/auth.so": auth,
		"auth_v5.2.5_linux_amd64.so": auth, "orders/tail.so": tail,
		"tail_v5.2.5_linux_amd64.so": tail, "plugin.so": billing,
		"plugin_v5.2.5_linux_amd64.so": billing} {
		if err := os.WriteFile(filepath.Join(dir, name), bundletest.Plugin{Path: path,
			Content: name}.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m := bundle.Manifest{FileList: []string{"auth.so", "tail.so"}, Middleware: bundle.Middleware{
		Driver:    "goplugin",
		AuthCheck: bundle.Hook{Name: "A", Path: "auth.so"}, Post: []bundle.Hook{{Name: "T",
			Path: "tail.so"}}}}
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "orders", "manifest.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Each bundle is made, published and taken back by itself.
func TestSeveralBundles(t *testing.T) {
	t.Parallel()
	file := severalFiles(t, two, "example.com/auth", "example.com/tail", "example.com/billing")
	u := prepared(t, file, nil, CheckPreflight)
	served := filepath.Join(filepath.Dir(file), "served")
	for name, want := range map[string]string{"orders.zip": "auth_v5.2.5_linux_amd64.so, " +
		"tail_v5.2.5_linux_amd64.so", "billing.zip": "plugin_v5.2.5_linux_amd64.so"} {
		rep, err := step(t, u, TargetPlugin+" "+name)
		if err != nil {
			t.Fatal(err)
		}
		var note bundleNote
		if err := json.Unmarshal(rep.Saved(TargetPlugin+" "+name, "bundle"), &note); err != nil ||
			note.Loads["5.2.5"] != want {
			t.Errorf("%s: %+v, %v", name, note, err)
		}
		if _, err := step(t, u, TargetBundle+" "+name); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := filepath.Glob(filepath.Join(served, "*.zip")); len(got) != 2 {
		t.Errorf("served: %v", got)
	}
	if err := undo(t, u, TargetBundle+" billing.zip"); err != nil {
		t.Fatal(err)
	}
	if got, _ := filepath.Glob(filepath.Join(served, "*.zip")); len(got) != 1 ||
		filepath.Base(got[0]) != "orders.zip" {
		t.Errorf("served after the undo: %v", got)
	}
	dirs, err := u.swap(fleet.Host{Name: "g1"}).Caches([]byte(`{"middleware_path": "middleware"}`),
		debpkg.Version{}, version(t, "5.2.5"))
	if err != nil || len(dirs) != 2 || !strings.HasPrefix(dirs[0],
		"/opt/tyk-gateway/middleware/bundles/") {
		t.Errorf("caches %v, %v", dirs, err)
	}
}

func version(t *testing.T, text string) debpkg.Version {
	t.Helper()
	v, err := debpkg.ParseVersion(text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// A gateway opens one file of each plugin path, whichever bundle it is in.
func TestSeveralPluginsWithOnePath(t *testing.T) {
	t.Parallel()
	for name, paths := range map[string][3]string{"two bundles": {"a", "b", "a"}, "one bundle": {"a",
		"a", "b"}} {
		u := prepared(t, severalFiles(t, two, paths[0], paths[1], paths[2]), nil)
		if _, err := u.arrange(t.Context(), u.bundles()[0]); !errors.Is(err, bundle.ErrOutage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSeveralMistakes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ from, to, want string }{
		"no plugins": {"plugins: [{current: plugin.so, so: plugin_v5.2.5_linux_amd64.so}]",
			"plugins: []", "bundles: billing.zip: plugins is missing"},
		"duplicate name": {"name: billing.zip", "name: orders.zip", `duplicate name "orders.zip"`},
		"no name":        {"name: billing.zip", `name: ""`, "bundles: number 2: name: want the name"},
		"symbol for two": {"manifest: orders/manifest.json", "symbol: X\n  hook: pre",
			"a bundle with several plugins needs a manifest"},
		"both forms": {"from: 4.0.8,", "from: 4.0.8, current: plugin.so,",
			"belong to each of bundles"},
		"no new name": {"bundles:\n", "switch: {mode: unique_path, rename: [x]}\nbundles:\n",
			"needs new, another name for the bundle orders.zip"},
		"no way to name": {"name: orders.zip", "name: orders.zip\n  new: o2.zip",
			"new and rename go with"},
		"no plugin": {"plugin: {from: 4.0.8, bundle: {dir: bundles, serve: served}}\n", "",
			"they need the section plugin"},
		"no key": {"bundles:\n", "apis: {dashboard: \"https://d\"}\nbundles:\n",
			"apis.keys: want"},
		"two stores": {"bundles:\n", "apis: {directory: d, gateway: \"http://g\", secret: {env: A, " +
			"file: b}}\nbundles:\n", "apis.secret: want one of env, file and command"},
	} {
		_, err := Load("-", LoadOptions{Stdin: strings.NewReader(strings.Replace(two, c.from, c.to, 1))})
		if !errors.Is(err, ErrFile) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// gateway is a host in memory that also answers cat.
func gateway(files map[string]string) func(fleet.Host) debpkg.Runner {
	fake := debpkgtest.New("g1")
	fake.Install(debpkgtest.Tyk("tyk-gateway", "4.0.8"))
	return func(fleet.Host) debpkg.Runner {
		return func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
			if argv[0] == "cat" {
				text, ok := files[argv[len(argv)-1]]
				if !ok {
					return fmt.Errorf("no file %v", argv)
				}
				_, err := io.WriteString(stdout, text)
				return err
			}
			return fake.Run(ctx, argv, stdin, stdout, stderr)
		}
	}
}

// What the APIs use and the file lacks is refused, and so is a bundle that the hosts' key
// does not fit.
func TestUses(t *testing.T) {
	t.Parallel()
	file := severalFiles(t, two+"apis: {directory: apps}\n", "a", "b", "c")
	apps := filepath.Join(filepath.Dir(file), "apps")
	if err := os.Mkdir(apps, 0o755); err != nil {
		t.Fatal(err)
	}
	api := func(id, rest string) {
		t.Helper()
		text := fmt.Sprintf(
			`{"api_id": %q, "name": %[1]q, "active": true, "proxy": {"listen_path": "/"}, %s}`, id, rest)
		if err := os.WriteFile(filepath.Join(apps, id+".json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	api("one", `"custom_middleware_bundle": "orders.zip"`)
	u := prepared(t, file, nil, CheckPreflight)
	note, err := u.uses(t.Context(), nil)
	if err != nil || note.APIs != 1 || !slices.Equal(note.Notes,
		[]string{"no active API uses bundle billing.zip"}) {
		t.Errorf("%+v, %v", note, err)
	}
	if ids, err := u.apiIDs([]string{"orders.zip"}); err != nil || !slices.Equal(ids,
		[]string{"one"}) {
		t.Errorf("APIs %v, %v", ids, err)
	}
	api("two", `"custom_middleware_bundle": "forgotten.zip"`)
	api("three", `"custom_middleware": {"driver": "goplugin", "post": [{"name": "X", "path": "/opt/x.so"}]}`)
	_, err = u.uses(t.Context(), nil)
	for _, want := range []string{"bundle forgotten.zip of API two has no build",
		"loads /opt/x.so from the gateway's disk"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	if err := errors.Join(os.Remove(filepath.Join(apps, "two.json")), os.Remove(filepath.Join(apps,
		"three.json"))); err != nil {
		t.Fatal(err)
	}
	// An unsigned bundle, and a host whose gateway will ask for a signature.
	key, err := otherKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	u.Connect = gateway(map[string]string{
		"/opt/tyk-gateway/tyk.conf": `{"public_key_path": "/etc/key.pem"}`,
		"/etc/key.pem": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY",
			Bytes: der}))})
	// 5.2.5 only logs, and 5.8.0 refuses.
	if note, err = u.planUses(t.Context(), u.Hosts, true); err != nil {
		t.Errorf("planned: %+v, %v", note, err)
	}
	u.Versions["gateway"] = "5.8.0"
	if note, err = u.planUses(t.Context(), u.Hosts, true); err == nil || !strings.Contains(err.Error(),
		"g1: its tyk.conf has public_key_path, and gateway 5.8.0 refuses an unsigned bundle: set "+
			"plugin.bundle.key") {
		t.Errorf("planned: %+v, %v", note, err)
	}
	u.Versions["gateway"] = "5.2.5"
	for _, b := range u.bundles() {
		if _, err := step(t, u, u.part(TargetPlugin, b)); err != nil {
			t.Fatal(err)
		}
	}
	if note, err = u.uses(t.Context(), u.Hosts); err != nil || !slices.ContainsFunc(note.Notes,
		func(n string) bool { return strings.Contains(n, "not signed") }) {
		t.Errorf("nothing says that the bundle is not signed: %+v, %v", note, err)
	}
	// The check is one that can be skipped.
	if err := u.refuse(CheckAPIs, errors.New("x")); !errors.Is(err, ErrRefused) ||
		!slices.Contains(u.Refused(), CheckAPIs) {
		t.Errorf("%v %v", err, u.Refused())
	}
}

// The bundle's name is changed in the definitions, and back.
func TestRename(t *testing.T) {
	t.Parallel()
	text := strings.Replace(two, "name: orders.zip", "name: orders.zip\n  new: orders-2.zip", 1)
	text = strings.Replace(text, "name: billing.zip,", "name: billing.zip, new: billing-2.zip,", 1)
	file := severalFiles(t, text+"apis: {directory: apps}\nswitch: {mode: new_name, force: true}\n",
		"a", "b", "c")
	definition := filepath.Join(filepath.Dir(file), "apps", "one.json")
	before := `{"api_id": "one", "active": true, "custom_middleware_bundle": "orders.zip", "unknown": 1e400}`
	if err := errors.Join(os.Mkdir(filepath.Dir(definition), 0o755), os.WriteFile(definition,
		[]byte(before), 0o600)); err != nil {
		t.Fatal(err)
	}
	u := prepared(t, file, nil, CheckPreflight)
	target := TargetBundle + " orders.zip"
	if _, err := step(t, u, TargetPlugin+" orders.zip"); err != nil {
		t.Fatal(err)
	}
	if _, err := step(t, u, target); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(definition); err != nil || string(data) != strings.Replace(before,
		"orders.zip", "orders-2.zip", 1) {
		t.Errorf("%s, %v", data, err)
	}
	if err := undo(t, u, target); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(definition); err != nil || string(data) != before {
		t.Errorf("%s, %v", data, err)
	}
	if left, _ := filepath.Glob(u.Journal + ".apis.*"); len(left) > 1 || len(left) == 1 &&
		!strings.HasSuffix(left[0], ".lock") {
		t.Errorf("left: %v", left)
	}
}

// What init writes is a file that Load takes.
func TestDiscover(t *testing.T) {
	t.Parallel()
	gw, dash := debpkgtest.New("gw1"), debpkgtest.New("dash")
	gw.Install(debpkgtest.Tyk("tyk-gateway-ee", "4.0.8"), debpkgtest.Tyk("tyk-pump", "1.5.1"))
	dash.Install(debpkgtest.Tyk("tyk-dashboard", "4.0.8"))
	hosts := map[string]debpkg.Runner{"ops@gw1.example.com": gw.Run, "10.0.0.10": dash.Run,
		"empty": debpkgtest.New("empty").Run}
	apps := t.TempDir()
	if err := os.WriteFile(filepath.Join(apps, "a.json"),
		[]byte(`{"api_id": "a", "active": true, "custom_middleware_bundle": "orders.zip"}`),
		0o600); err != nil {
		t.Fatal(err)
	}
	o := DiscoverOptions{Hosts: []string{"ops@gw1.example.com", "10.0.0.10", "empty"},
		SSH: fleet.SSH{Sudo: true}, HAProxy: []string{"/nonexistent/socket"},
		APIs: apidef.Directory{Path: apps}, Connect: func(h fleet.Host) debpkg.Runner {
			return hosts[h.Address]
		}}
	found, err := Discover(t.Context(), o)
	if err != nil || len(found.Problems) != 2 {
		t.Fatalf("%+v, %v", found, err)
	}
	var text strings.Builder
	if err := found.WriteFile(&text, map[string]string{fleet.Gateway: "5.2.5"}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`gateway: "5.2.5" # installed: 4.0.8`,
		"# TODO: the version to upgrade to", "name: gw1-gateway, " +
			"address: ops@gw1.example.com, component: gateway, package: tyk-gateway-ee",
		"name: gw1-pump", "#- name: orders.zip # of API a", "ssh: {sudo: true}",
		"# TODO: empty: no Tyk package is installed there"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is not in\n%s", want, &text)
		}
	}
	f, err := Load("-", LoadOptions{Stdin: strings.NewReader(text.String())})
	if err != nil || len(f.Hosts) != 3 || f.Backup == nil {
		t.Errorf("%+v, %v\n%s", f, err, &text)
	}
	o.Hosts = []string{"empty"}
	if _, err := Discover(t.Context(), o); err == nil || !strings.Contains(err.Error(),
		"no Tyk component was found") {
		t.Errorf("error %v", err)
	}
}
