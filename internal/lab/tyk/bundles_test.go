package tyk_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/bundle/bundletest"
	"example.com/tykupgrade/internal/lab/tyk"
)

// yard is a bundle server and a gateway with one API.
type yard struct {
	t       *testing.T
	dir     string // apps, middleware, served
	server  *httptest.Server
	stub    *tyk.APIs
	log     logBuffer
	fetched atomic.Int64
}

type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newYard(t *testing.T) *yard {
	y := &yard{t: t, dir: t.TempDir()}
	for _, d := range []string{"apps", "served"} {
		if err := os.Mkdir(filepath.Join(y.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	files := http.FileServer(http.Dir(filepath.Join(y.dir, "served")))
	y.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter,
		r *http.Request) {
		y.fetched.Add(1)
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(y.server.Close)
	y.define("a.zip")
	return y
}

func (y *yard) write(name string, data []byte) {
	y.t.Helper()
	if err := os.WriteFile(filepath.Join(y.dir, name), data, 0o644); err != nil {
		y.t.Fatal(err)
	}
}

func (y *yard) define(bundles string) {
	y.write("apps/api1.json", fmt.Appendf(nil,
		`{"api_id":"api1","active":true,"custom_middleware_bundle":%q,"proxy":{"listen_path":"/api1/"}}`,
		bundles))
}

func (y *yard) publish(name, hook string, f bundletest.Files, o bundle.Options) {
	y.t.Helper()
	data, err := f.Zip(hook, o)
	if err != nil {
		y.t.Fatal(err)
	}
	y.write("served/"+name, data)
}

func (y *yard) start(version string, change func(*tyk.Conf)) {
	c := tyk.Conf{AppPath: filepath.Join(y.dir, "apps"), MiddlewarePath: filepath.Join(y.dir,
		"middleware"),
		Downloader: true, BundleBaseURL: y.server.URL, Secret: "s", Log: &y.log}
	if change != nil {
		change(&c)
	}
	y.stub = tyk.NewAPIs(tyk.Options{Version: version}, c)
}

// ask sends a request to the API: its status and the file of the plugin.
func (y *yard) ask() string {
	w := httptest.NewRecorder()
	y.stub.ServeHTTP(w, httptest.NewRequest("GET", "/api1/x", nil))
	return fmt.Sprint(w.Code, " ", w.Header().Get("X-Plugin-File"))
}

func (y *yard) reload() {
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/tyk/reload", nil)
	r.Header.Set("x-tyk-authorization", "s")
	if y.stub.ServeHTTP(w, r); w.Code != 200 {
		y.t.Errorf("reload: %d", w.Code)
	}
}

func (y *yard) uncache(version, value string) {
	y.t.Helper()
	dirs, err := bundle.CacheDir(semver.MustParse(version), filepath.Join(y.dir, "middleware"), "api1",
		value)
	if err != nil {
		y.t.Fatal(err)
	}
	for _, d := range dirs {
		if _, err := os.Stat(d.Dir); err != nil {
			y.t.Errorf("%s: %v", version, err)
		}
		if err := os.RemoveAll(d.Dir); err != nil {
			y.t.Fatal(err)
		}
	}
}

func (y *yard) want(what, want string) {
	y.t.Helper()
	if got := y.ask(); got != want {
		y.t.Errorf("%s: %s, want %s\n%s", what, got, want, y.log.String())
	}
}

// The table of what happens, as it was measured on real gateways.
func TestSwitchOfBundles(t *testing.T) {
	t.Parallel()
	for version, without := range map[string]string{"3.0.0": "200 ", "4.0.0": "200 ", "4.0.8": "200 ",
		"4.0.13": "500 ", "4.3.2": "200 ", "5.0.0": "200 ", "5.0.1": "500 ", "5.2.5": "500 ",
		"5.14.0": "500 "} {
		y := newYard(t)
		y.publish("a.zip", "plugin.so", bundletest.Files{"plugin.so": {Content: "old"}}, bundle.Options{})
		y.publish("b.zip", "plugin.so", bundletest.Files{"plugin.so": {Content: "new"}}, bundle.Options{})
		y.start(version, nil)
		y.want(version+" start", "200 plugin.so")
		y.define("b.zip")
		y.reload()
		y.want(version+" new name, reload", without)
		if log := y.log.String(); !strings.Contains(log, `error="plugin.Open(`) || !strings.Contains(log,
			"plugin already loaded") || !strings.Contains(log, "Could not load Go-plugin") {
			t.Errorf("%s: %s", version, log)
		}
		y.reload()
		y.want(version+" again", without)
		if w := httptest.NewRecorder(); true {
			if y.stub.ServeHTTP(w, httptest.NewRequest("GET", "/hello", nil)); !strings.Contains(
				w.Body.String(), `"pass"`) {
				t.Errorf("%s: /hello %s", version, w.Body)
			}
		}
		y.stub.Restart(version)
		y.want(version+" restart", "200 plugin.so")

		// The same name: cached until the directory is removed.
		y = newYard(t)
		both := bundletest.Files{"plugin.so": {Gateway: version}}
		y.publish("a.zip", "plugin.so", both, bundle.Options{})
		y.start(version, nil)
		y.publish("a.zip", "other.so", bundletest.Files{"other.so": {Gateway: version}}, bundle.Options{})
		y.reload()
		y.stub.Restart(version)
		if y.want(version+" kept", "200 plugin.so"); y.fetched.Load() != 1 {
			t.Errorf("%s: fetched %d times", version, y.fetched.Load())
		}
		y.uncache(version, "a.zip")
		y.stub.Restart(version)
		y.want(version+" removed", "200 other.so")
	}
}

// A build for another release does not load; both do from one bundle.
func TestBundleForTwoReleases(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.publish("a.zip", "plugin.so", bundletest.Files{"plugin.so": {Gateway: "4.0.8"},
		"plugin_v5.2.5_linux_amd64.so": {Gateway: "5.2.5"}}, bundle.Options{})
	y.start("4.0.8", nil)
	y.want("4.0.8", "200 plugin.so")
	y.stub.Restart("5.2.5")
	y.want("5.2.5", "200 plugin_v5.2.5_linux_amd64.so")
	y.stub.Restart("5.3.0")
	y.want("5.3.0", "500 ")
	if log := y.log.String(); !strings.Contains(log, "different version of package") {
		t.Error(log)
	}
}

func TestSignaturesByEra(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY",
		Bytes: x509.MarshalPKCS1PublicKey(&key.PublicKey)})
	for version, unsigned := range map[string]string{"5.0.11": "200 plugin.so", "5.0.12": "404 ",
		"5.1.0": "200 plugin.so", "5.3.0": "200 plugin.so", "5.3.1": "404 ", "5.14.0": "404 "} {
		for _, signed := range []bool{false, true} {
			y := newYard(t)
			y.write("pub.pem", public)
			o, want := bundle.Options{}, unsigned
			if signed {
				o.Signer, want = key, "200 plugin.so"
			}
			y.publish("a.zip", "plugin.so", bundletest.Files{"plugin.so": {}}, o)
			y.start(version, func(c *tyk.Conf) { c.PublicKeyPath = filepath.Join(y.dir, "pub.pem") })
			y.want(fmt.Sprint(version, " signed ", signed), want)
			if failed := strings.Contains(y.log.String(), "Bundle verification failed"); failed == signed {
				t.Errorf("%s signed %v: %s", version, signed, y.log.String())
			}
		}
	}
}

func TestListsOfBundles(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.publish("a.zip", "a.so", bundletest.Files{"a.so": {Path: "a"}}, bundle.Options{})
	y.publish("b.zip", "b.so", bundletest.Files{"b.so": {Path: "b"}}, bundle.Options{})
	y.define("a.zip, b.zip")
	y.start("5.14.0", nil)
	y.want("5.14.0 takes the list as one name", "404 ")
	y.stub.Restart("5.15.0")
	w := httptest.NewRecorder()
	y.stub.ServeHTTP(w, httptest.NewRequest("GET", "/api1/x", nil))
	if got := w.Header().Values("X-Plugin-File"); strings.Join(got, " ") != "a.so b.so" {
		t.Errorf("5.15.0: %v\n%s", got, y.log.String())
	}
	y.uncache("5.15.0", "a.zip, b.zip")
}

func TestLogFormats(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ version, format, want string }{
		{"5.2.5", "", `level=error msg="plugin file not found" error="plugin file not found" mwPath=`},
		{"4.0.8", "", `level=error msg="Could not load Go-plugin"`},
		{"5.14.0", "", `level=error message="plugin file not found"`},
		{"5.14.0", "legacy", `level=error msg="plugin file not found"`},
		{"5.14.0", "json", `"message":"plugin file not found"`},
	} {
		y := newYard(t)
		m := bundletest.Files{"x.so": {}}
		y.publish("a.zip", "x.so", m, bundle.Options{})
		y.start(c.version, func(c2 *tyk.Conf) { c2.LogFormat = c.format })
		if err := os.Remove(filepath.Join(dirOf(y, c.version), "x.so")); err != nil {
			t.Fatal(err)
		}
		y.stub.Restart(c.version)
		if log := y.log.String(); !strings.Contains(log, c.want) {
			t.Errorf("%+v: %s", c, log)
		}
	}
}

func dirOf(y *yard, version string) string {
	dirs, err := bundle.CacheDir(semver.MustParse(version), filepath.Join(y.dir, "middleware"), "api1",
		"a.zip")
	if err != nil {
		y.t.Fatal(err)
	}
	return dirs[0].Dir
}
