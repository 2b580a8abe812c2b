package apidef_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/bundle/apidef"
	"example.com/tykupgrade/bundle/bundletest"
	"example.com/tykupgrade/health"
	"example.com/tykupgrade/internal/lab/redis"
	"example.com/tykupgrade/internal/lab/tyk"
	"example.com/tykupgrade/internal/tykversion"
	"example.com/tykupgrade/pluginbuild/preflight"
)

// Variables that name a real gateway: its binary, a plugin that was built for
// it, and the templates directory of its sources or package.
const (
	gatewayEnv   = "TYKUPGRADE_TEST_GATEWAY"
	pluginEnv    = "TYKUPGRADE_TEST_GATEWAY_PLUGIN"
	templatesEnv = "TYKUPGRADE_TEST_GATEWAY_TEMPLATES"
)

// real is a gateway process with a bundle server, an upstream and a Redis of its
// own, all on loopback.
type real struct {
	t       *testing.T
	dir     string
	url     string
	binary  string
	cmd     *exec.Cmd
	log     string
	fetched atomic.Int64
	version *semver.Version
}

func (g *real) put(name string, data []byte) {
	g.t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, name), data, 0o644); err != nil {
		g.t.Fatal(err)
	}
}

func (g *real) start() {
	g.t.Helper()
	log, err := os.OpenFile(g.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		g.t.Fatal(err)
	}
	defer log.Close()
	g.cmd = exec.Command(g.binary, "--conf", filepath.Join(g.dir, "tyk.conf"))
	g.cmd.Dir, g.cmd.Stdout, g.cmd.Stderr = g.dir, log, log
	if err := g.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	for range 600 {
		var hello struct {
			Version string `json:"version"`
		}
		if resp, err := http.Get(g.url + "/hello"); err == nil {
			err = json.NewDecoder(resp.Body).Decode(&hello)
			_ = resp.Body.Close()
			// It listens before its APIs are loaded.
			if code, _ := g.ask("/plain/"); err == nil && code == http.StatusOK {
				if g.version, err = tykversion.Parse(hello.Version); err != nil {
					g.t.Fatal(err)
				}
				return
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	g.t.Fatalf("the gateway does not serve its APIs\n%s", g.tail())
}

// reload makes the gateway read its definitions again, and waits until it has.
func (g *real) reload() {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), http.MethodGet,
		g.url+"/tyk/reload?block=true", nil)
	if err != nil {
		g.t.Fatal(err)
	}
	req.Header.Set("X-Tyk-Authorization", "geheim")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		g.t.Fatalf("reload: HTTP %d", resp.StatusCode)
	}
}

func (g *real) tail() []byte {
	data, _ := os.ReadFile(g.log)
	return data[max(0, len(data)-4000):]
}

func (g *real) stop() {
	if g.cmd == nil {
		return
	}
	_ = g.cmd.Process.Signal(syscall.SIGKILL)
	_ = g.cmd.Wait()
	g.cmd = nil
}

// ask returns the status of a request, and the names of all headers that the
// upstream and the client saw.
func (g *real) ask(path string) (int, map[string]bool) {
	resp, err := http.Get(g.url + path)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	seen := map[string]bool{}
	for name := range resp.Header {
		seen["response "+name] = true
	}
	var upstream http.Header
	if data, err := io.ReadAll(resp.Body); err == nil && json.Unmarshal(data, &upstream) == nil {
		for name := range upstream {
			seen["request "+name] = true
		}
	}
	return resp.StatusCode, seen
}

// plugged reports the status of an API, and whether the plugin added anything
// that an API without one does not have.
func (g *real) plugged() (int, bool) {
	_, plain := g.ask("/plain/")
	code, with := g.ask("/api1/")
	for name := range with {
		if !plain[name] && code == http.StatusOK {
			return code, true
		}
	}
	return code, false
}

func (g *real) want(what string, code int, plugin bool) {
	g.t.Helper()
	for range 5 { // every request, not one of them
		if gotCode, got := g.plugged(); gotCode != code || got != plugin {
			g.t.Fatalf("%s: HTTP %d, plugin %v, want %d, %v\n%s", what, gotCode, got, code, plugin, g.tail())
		}
	}
}

func (g *real) cached(name string) string {
	g.t.Helper()
	dirs, err := bundle.CacheDir(g.version, filepath.Join(g.dir, "middleware"), "api1", name)
	if err != nil {
		g.t.Fatal(err)
	}
	if _, err := os.Stat(dirs[0].Dir); err != nil {
		g.t.Fatalf("the gateway keeps its bundle elsewhere: %v", err)
	}
	return dirs[0].Dir
}

func (g *real) definition(id, value, upstream string) []byte {
	return fmt.Appendf(nil, `{"name":%q,"api_id":%q,"org_id":"org1","active":true,"use_keyless":true,"custom_middleware_bundle":%q,
		"definition":{"location":"header","key":"x-api-version"},"version_data":{"not_versioned":true,"versions":{"Default":{"name":"Default"}}},
		"proxy":{"listen_path":"/%s/","target_url":%q,"strip_listen_path":true}}`, id, id, value, id, upstream)
}

func localRunner(ctx context.Context, argv []string, stdin io.Reader, stdout,
	stderr io.Writer) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	return cmd.Run()
}

// plugins is what the gateway's log says about plugins since a byte of it.
func (g *real) plugins(from int64) error {
	_, err := health.PluginsLoaded(health.LogFile(localRunner, g.log, from)).Run(g.t.Context())
	return err
}

func (g *real) logged() int64 {
	g.t.Helper()
	info, err := os.Stat(g.log)
	if err != nil {
		g.t.Fatal(err)
	}
	return info.Size()
}

// newReal starts a gateway with the API api1, whose bundle a.zip holds the
// plugin, and the API plain. zip writes further bundles with the same plugin;
// extra tells them apart.
func newReal(t *testing.T, binary, plugin,
	templates string) (g *real, zip func(path, extra string)) {
	t.Helper()
	so, err := os.ReadFile(plugin)
	if err != nil {
		t.Fatal(err)
	}
	inspected, err := preflight.Inspect(plugin)
	if err != nil || len(inspected.Exports) == 0 {
		t.Fatalf("%s has no exported function that can be read: %v", plugin, err)
	}
	g = &real{t: t, dir: t.TempDir(), binary: binary}
	g.log = filepath.Join(g.dir, "log")
	for _, d := range []string{"apps", "served", "middleware"} {
		if err := os.Mkdir(filepath.Join(g.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	files := http.FileServer(http.Dir(filepath.Join(g.dir, "served")))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter,
		r *http.Request) {
		g.fetched.Add(1)
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter,
		r *http.Request) {
		_ = json.NewEncoder(w).Encode(r.Header)
	}))
	t.Cleanup(upstream.Close)
	zip = func(path, extra string) {
		t.Helper()
		m := &bundle.Manifest{FileList: []string{"plugin.so", extra}, Middleware: bundle.Middleware{
			Driver: "goplugin",
			Post:   []bundle.Hook{{Name: inspected.Exports[0].Name, Path: "plugin.so"}}}}
		src := fstest.MapFS{"plugin.so": {Data: so}, extra: {Data: []byte(extra)}}
		if _, err := bundle.WriteFile(t.Context(), path, src, m, bundle.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	zip(filepath.Join(g.dir, "served", "a.zip"), "old.txt")
	g.put("apps/api1.json", g.definition("api1", "a.zip", upstream.URL))
	g.put("apps/plain.json", g.definition("plain", "", upstream.URL))
	g.put("policies.json", []byte("{}"))
	host, redisPort, err := net.SplitHostPort(redis.Start(t).Addr)
	if err != nil {
		t.Fatal(err)
	}
	port := redis.FreePort(t)
	g.url = "http://127.0.0.1:" + port
	g.put("tyk.conf", fmt.Appendf(nil, `{"listen_address":"127.0.0.1","listen_port":%s,"secret":"geheim","template_path":%q,"app_path":%q,"middleware_path":%q,
		"use_db_app_configs":false,"policies":{"policy_source":"file","policy_record_name":%q},"storage":{"type":"redis","host":%q,"port":%s},
		"enable_bundle_downloader":true,"bundle_base_url":%q,"hash_keys":true,"allow_insecure_configs":true,"enable_analytics":false}`,
		port, templates, filepath.Join(g.dir, "apps"), filepath.Join(g.dir, "middleware"),
		filepath.Join(g.dir, "policies.json"), host, redisPort, server.URL+"/"))
	t.Cleanup(g.stop)
	g.start()
	t.Logf("gateway %s, plugin path %s", g.version, inspected.PluginPath)
	return g, zip
}

// A real gateway: its inventory, the switch under the same name there and back,
// and what a new name does to it while it runs.
func TestRealGateway(t *testing.T) {
	binary, plugin, templates := os.Getenv(gatewayEnv), os.Getenv(pluginEnv), os.Getenv(templatesEnv)
	if binary == "" || plugin == "" || templates == "" {
		t.Skipf("skipped: set %s, %s and %s to a gateway, a plugin for it and its templates directory",
			gatewayEnv, pluginEnv, templatesEnv)
	}
	t.Parallel()
	drive(t, binary, plugin, templates)
}

// The stub process passes the test of the real ones.
func TestStubGateway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	binary, err := tyk.Build(t.Context(), dir, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"5.0.0", "5.14.0"} {
		if err := os.WriteFile(binary+".version", []byte(version), 0o600); err != nil {
			t.Fatal(err)
		}
		plugin := filepath.Join(dir, "plugin.so")
		if err := os.WriteFile(plugin, bundletest.Plugin{}.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		drive(t, binary, plugin, dir)
	}
}

func drive(t *testing.T, binary, plugin, templates string) {
	g, zip := newReal(t, binary, plugin, templates)
	g.want("start", 200, true)
	if err := g.plugins(0); err != nil {
		t.Errorf("the log of a good start: %v", err)
	}
	gateway := apidef.Gateway{URL: g.url, Secret: "geheim"}
	inv, err := apidef.List(t.Context(), gateway, g.version)
	if err != nil || len(inv.Uses) != 2 || len(inv.Bundles()["a.zip"]) != 1 || len(inv.OnDisk()) != 0 {
		t.Fatalf("inventory %+v, %v", inv, err)
	}

	// The same name, and back.
	next := filepath.Join(g.dir, "next.zip")
	zip(next, "new.txt")
	p := bundle.Publication{Dir: filepath.Join(g.dir, "served"), Name: "a.zip", Run: "test"}
	for _, leg := range []struct {
		what, file string
		do         func() error
	}{
		{"there", "new.txt", func() error { _, err := p.Publish(t.Context(), next); return err }},
		{"back", "old.txt", func() error { return p.Revert(t.Context()) }},
	} {
		if err := leg.do(); err != nil {
			t.Fatal(err)
		}
		fetched := g.fetched.Load()
		g.reload()
		g.want(leg.what+", running", 200, true)
		g.stop()
		g.start()
		g.want(leg.what+", restarted with its cache", 200, true)
		if n := g.fetched.Load(); n != fetched {
			t.Errorf("%s: fetched %d times more", leg.what, n-fetched)
		}
		g.stop()
		if err := os.RemoveAll(g.cached("a.zip")); err != nil {
			t.Fatal(err)
		}
		g.start()
		g.want(leg.what+", switched", 200, true)
		if _, err := os.Stat(filepath.Join(g.cached("a.zip"), leg.file)); err != nil {
			t.Errorf("%s: not the new bundle: %v", leg.what, err)
		}
	}

	// A new name with the same plugin: refused, and this is why.
	zip(filepath.Join(g.dir, "served", "b.zip"), "b.txt")
	change := apidef.Change{From: "a.zip", To: "b.zip", Gateway: g.version}
	if _, err := apidef.NewPlan(t.Context(), gateway, change); !errors.Is(err, apidef.ErrOutage) {
		t.Errorf("not refused: %v", err)
	}
	change.Force = true
	plan, err := apidef.NewPlan(t.Context(), gateway, change)
	if err != nil {
		t.Fatal(err)
	}
	from, journal := g.logged(), filepath.Join(t.TempDir(), "journal")
	if err := apidef.Apply(t.Context(), gateway, plan, journal); err != nil {
		t.Fatal(err)
	}
	code := http.StatusInternalServerError
	if bundle.WithoutPlugin(g.version) == bundle.PluginBypassed {
		code = http.StatusOK
	}
	g.want("new name, running", code, false)
	if err := g.plugins(from); !errors.Is(err, health.ErrUnhealthy) {
		t.Errorf("the log: %v", err)
	}
	from = g.logged()
	g.stop()
	g.start()
	g.want("new name, restarted", 200, true)
	if err := g.plugins(from); err != nil {
		t.Errorf("the log since its start: %v", err)
	}
	if err := apidef.Revert(t.Context(), gateway, journal); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(journal); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("journal: %v", err)
	}
	g.stop()
	g.start()
	g.want("reverted", 200, true)
}
