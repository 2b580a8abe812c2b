package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/bundle/bundletest"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/internal/lab"
	runner "example.com/tykupgrade/internal/run"
)

// realEnv holds the flags of a rehearsal with real gateways, such as "-from 5.2.5 -to 5.14.0
// -gateway-from OLD -gateway NEW -plugin DIR".
const realEnv = "TYKUPGRADE_TEST_REHEARSE"

// trap is a listener of this machine that nothing on an island may reach.
func trap(t *testing.T) (addr string, hits *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	hits = &atomic.Int64{}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			hits.Add(1)
			_ = conn.Close()
		}
	}()
	return l.Addr().String(), hits
}

// A program on an island reaches nothing of this machine; without one it does.
func TestIsland(t *testing.T) {
	t.Parallel()
	addr, hits := trap(t)
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	bash := lab.Program(t, "bash", "bash")
	script := fmt.Sprintf("exec 3<>/dev/tcp/%s/%s", host, port)
	cmd := exec.Command(bash, "-c", script)
	cmd.SysProcAttr = isolation()
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		lab.Missing(t, "a network namespace: "+err.Error()+" (run as root or allow user namespaces)")
	}
	if err == nil || hits.Load() != 0 {
		t.Errorf("it reached %s from the island: %v %s", addr, err, out)
	}
	if out, err := exec.Command(bash, "-c", script).CombinedOutput(); err != nil {
		t.Errorf("the trap does not answer: %v %s", err, out)
	}
}

// userConf is a configuration that leads to other systems in every way.
func userConf(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	return fmt.Sprintf(`{"listen_port":8080,"secret":"geheim-1","node_secret":"geheim-2","control_api_port":9696,
"app_path":"/opt/tyk-gateway/apps","template_path":"/opt/tyk-gateway/templates","pid_file_location":"/var/run/tyk.pid",
"use_db_app_configs":true,"db_app_conf_options":{"connection_string":"http://%[1]s"},
"policies":{"policy_source":"service","policy_connection_string":"http://%[1]s"},
"storage":{"type":"redis","host":%[2]q,"port":%[3]s,"password":"geheim-3","addrs":["%[1]s"]},
"slave_options":{"use_rpc":true,"connection_string":"%[1]s","api_key":"geheim-4"},
"bundle_base_url":"http://user:geheim-5@%[1]s/bundles/","statsd_connection_string":"%[1]s","use_graylog":true,"graylog_network_addr":"%[1]s",
"opentelemetry":{"enabled":true,"endpoint":"%[1]s"},"tracing":{"enabled":true,"options":{"reporter":{"url":"http://%[1]s"}}},
"x_unknown":{"collector":"%[1]s","url":"https://%[1]s/x?token=geheim-6","files":["/etc/hostname"]},
"hash_keys":true,"http_server_options":{"use_ssl":true,"enable_websockets":true,"certificates":[{"domain_name":"*","cert_file":"/etc/a.pem"}]},
"max_idle_connections_per_host":500,"global_session_lifetime":100}`, addr, host, port)
}

// What a rehearsed gateway reads leads nowhere else, holds no secret, and keeps the rest.
func TestRewrite(t *testing.T) {
	t.Parallel()
	raw, err := readConf([]byte(userConf("192.0.2.7:6379")))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	g := gatewayConf{dir: dir, templates: dir, port: "18080", secret: "rehearsal",
		redisHost: "127.0.0.1", redisPort: "16379",
		bundles: "http://127.0.0.1:1/", apps: dir, middleware: dir, upstream: "127.0.0.1:2"}
	data, changed, err := g.rewrite(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"192.0.2", "geheim", "/opt/", "/etc/", "/var/run", "user:", ":6379"} {
		if strings.Contains(string(data), bad) {
			t.Errorf("%q is left in\n%s", bad, data)
		}
	}
	for _, good := range []string{`"hash_keys": true`, `"max_idle_connections_per_host": 500`,
		`"enable_websockets": true`, `"use_ssl": false`, `"port": 16379`, `"listen_port": 18080`} {
		if !strings.Contains(string(data), good) {
			t.Errorf("it lacks %s:\n%s", good, data)
		}
	}
	if all := strings.Join(changed, " "); !strings.Contains(all, "x_unknown.collector (address)") ||
		!strings.Contains(all, "slave_options (removed)") {
		t.Errorf("changed: %s", all)
	}
	api, err := rewriteAPI([]byte(`{"api_id":"a","domain":"x.example","custom_middleware_bundle":"a.zip","proxy":{"listen_path":"/a/","target_url":"https://192.0.2.7/x"},
		"n":12345678901234567890,"event_handlers":{"events":{"AuthFailure":[{"handler_meta":{"target_path":"http://192.0.2.7/hook"}}]}}}`), dir, "127.0.0.1:2")
	if err != nil || strings.Contains(string(api), "192.0.2") || !strings.Contains(string(api),
		`"listen_path":"/a/"`) || !strings.Contains(string(api), "12345678901234567890") {
		t.Errorf("definition: %v\n%s", err, api)
	}
}

// The whole switch on an island with the user's configuration and definitions: nothing of this
// machine is reached, and the plugin is at work before, during and after.
func TestCrossing(t *testing.T) {
	t.Parallel()
	addr, hits := trap(t)
	dir := t.TempDir()
	r := newRehearsal(options{from: mustVersion(t, "5.2.5"), to: mustVersion(t, "5.14.0")})
	r.dir = dir
	stub, err := r.stub()
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := runner.WriteProgram(path, data, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	binary, err := os.ReadFile(stub)
	if err != nil {
		t.Fatal(err)
	}
	gateway := func(version string) gatewayPart {
		g := gatewayPart{Version: version, Real: true, Binary: write(version+"/tyk", binary),
			Templates: dir}
		write(version+"/tyk.version", []byte(version))
		return g
	}
	zip := func(name string, f bundletest.Files, m *bundle.Manifest) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if _, err := bundle.WriteFile(t.Context(), path, f.FS(), m, bundle.Options{}); err != nil {
			t.Fatal(err)
		}
		return path
	}
	old, next := bundletest.Plugin{Gateway: "5.2.5"}, bundletest.Plugin{Gateway: "5.14.0"}
	both := bundletest.Files{"plugin.so": old, "plugin_v5.14.0_linux_amd64.so": next}
	one := bundletest.Files{"plugin.so": old}
	write("apis/mine.json",
		[]byte(`{"api_id":"mine","name":"mine","active":true,"custom_middleware_bundle":"orders.zip","proxy":{"listen_path":"/mine/","target_url":"http://`+addr+`/"}}`))
	write("apis/other.json",
		[]byte(`{"api_id":"other","active":true,"custom_middleware_bundle":"elsewhere.zip","proxy":{"listen_path":"/other/","target_url":"http://`+addr+`/"}}`))
	gates := []fleet.Gate{{Name: "mine", URL: "https://api.example.com/mine/x?y=1", Body: "Host|{"},
		{Name: "elsewhere", URL: "https://" + addr + "/elsewhere/"},
		{Name: "metrics", URL: "https://" + addr, Query: "up"}}
	cross := func(t *testing.T, new string, to gatewayPart) ([]*Step, error) {
		t.Helper()
		j := job{Dir: t.TempDir(), From: gateway("5.2.5"), To: to, Conf: write("tyk.conf",
			[]byte(userConf(addr))), APIs: filepath.Join(dir, "apis"),
			Gates:  gates,
			Bundle: "orders.zip", Old: zip("old.zip", one, one.Manifest("plugin.so")), New: new}
		i, isolated, err := land(j)
		if err != nil {
			lab.Missing(t, err.Error())
		}
		defer i.close()
		if !isolated {
			t.Error("not isolated")
		}
		var steps []*Step
		for _, what := range []string{stepToday, stepPublish, stepNext, stepBack} {
			s := &Step{Name: what}
			steps = append(steps, s)
			if err := i.do(t.Context(), what, s, func(string) {}); err != nil {
				return steps, err
			}
		}
		return steps, nil
	}
	steps, err := cross(t, zip("both.zip", both, both.Manifest("plugin.so")), gateway("5.14.0"))
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range steps {
		text, holds := strings.Join(step.Detail, "\n"), "your gate mine holds"
		if strings.Contains(text, holds) != (i != 1) {
			t.Errorf("step %s: gates:\n%s", step.Name, text)
		}
		if i == 0 && (!strings.Contains(text, "your gate elsewhere is left out: it does not hold") ||
			!strings.Contains(text, "your gate metrics is left out")) {
			t.Errorf("step %s says nothing of the gates that are left out:\n%s", step.Name, text)
		}
	}
	for i, want := range []string{"your API mine: HTTP 200", "keeps its plugin, also after a reload",
		"your gateway 5.14.0 fetched the bundle", "your gateway 5.2.5 fetched the bundle"} {
		if text := strings.Join(steps[i].Detail, "\n"); !strings.Contains(text, want) {
			t.Errorf("step %s lacks %q:\n%s", steps[i].Name, want, text)
		}
	}
	if text := strings.Join(steps[0].Detail, "\n"); !strings.Contains(text, "API other is left out") ||
		!strings.Contains(text, "storage") && !strings.Contains(text, "slave_options (removed)") {
		t.Errorf("the first step does not say what was changed:\n%s", text)
	}
	// A bundle without the new build, and one that preflight judged wrong.
	if _, err := cross(t, zip("one.zip", one, one.Manifest("plugin.so")),
		gateway("5.14.0")); err == nil || !strings.Contains(err.Error(),
		"your gateway 5.14.0 does not run the plugin: HTTP 500") {
		t.Errorf("a bundle without the new build: %v", err)
	}
	wrong := gateway("5.14.0")
	wrong.Verdict = "fails"
	if _, err := cross(t, filepath.Join(dir, "both.zip"), wrong); err == nil ||
		!strings.Contains(err.Error(), "preflight was wrong") {
		t.Errorf("preflight said fails: %v", err)
	}
	// A gate that the new gateway does not hold.
	gates = []fleet.Gate{{Name: "old", URL: "https://api.example.com/hello", Body: `"5\.2\.5"`}}
	if _, err := cross(t, filepath.Join(dir, "both.zip"), gateway("5.14.0")); err == nil ||
		!strings.Contains(err.Error(), "with your gateway 5.14.0 your gate old no longer holds") {
		t.Errorf("a gate that does not hold: %v", err)
	}
	// The binary is of another release than the one that was named.
	wrong = gateway("5.2.5")
	wrong.Version = "5.14.0"
	if _, err := cross(t, filepath.Join(dir, "both.zip"), wrong); err == nil ||
		!strings.Contains(err.Error(), `says that it is "5.2.5", not 5.14.0`) {
		t.Errorf("another release: %v", err)
	}
	if n := hits.Load(); n != 0 {
		t.Errorf("the rehearsed gateways reached this machine %d times", n)
	}
}

// A header of the connection alone is not taken for the plugin's.
func TestShows(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Both", "1")
		if r.URL.Path == withPlugin {
			w.Header().Set("Keep-Alive", "timeout=5")
			_, _ = w.Write([]byte(`{"Foo":["Bar"],"Connection":["close"],"Host":["x"]}`))
			return
		}
		_, _ = w.Write([]byte(`{"Host":["x"]}`))
	}))
	defer s.Close()
	c := crossing{gateway: &service{addr: s.Listener.Addr().String()}}
	if code, shows, err := c.shows(); code != 200 || shows != "request header Foo" || err != nil {
		t.Errorf("%d, %q, %v", code, shows, err)
	}
}

func TestFindBuilds(t *testing.T) {
	t.Parallel()
	from, to := mustVersion(t, "5.2.5"), mustVersion(t, "5.14.0")
	suffix := "_linux_" + goarch + ".so"
	for _, c := range []struct {
		files []string
		want  string
	}{
		{[]string{"a.so", "a_v5.14.0" + suffix}, "a.so a_v5.14.0" + suffix},
		{[]string{"a_v5.2.5" + suffix, "a_v5.14.0" + suffix}, "a_v5.2.5" + suffix + " a_v5.14.0" +
			suffix},
		{[]string{"a.so"}, "!no a_v5.14.0"},
		{[]string{"a_v5.14.0" + suffix}, "!no a.so for 5.2.5"},
		{[]string{"a.so", "a_v5.14.0" + suffix, "b.so"}, "!no b_v5.14.0"},
		{nil, "!neither go.mod nor a .so file"},
	} {
		dir := t.TempDir()
		for _, f := range c.files {
			if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		all, err := findBuilds(dir, from, to)
		if says, bad := strings.CutPrefix(c.want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%v: %v, %v", c.files, all, err)
			}
		} else if err != nil || len(all) != 1 || filepath.Base(all[0].current)+" "+
			filepath.Base(all[0].target) != c.want {
			t.Errorf("%v: %v, %v", c.files, all, err)
		}
	}
}

func TestReadFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "upgrade.yaml")
	text := "versions: {gateway: 5.14.0}\nhosts: []\nplugin: {from: 5.2.5, current: a.so, so: " +
		"a_v5.14.0_linux_amd64.so, symbol: F, hook: pre, gateway: image:x, bundle: {name: orders.zip}}\n" +
		"gates: [{name: teapot, url: 'https://api.example.com/x', status: 418}]\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	in, from, to := inputs{file: path, gateway: "mine"}, "", "5.13.0"
	gates, err := in.readFile(&from, &to)
	if err != nil || len(gates) != 1 || gates[0].Status != 418 {
		t.Fatal(gates, err)
	}
	dir := filepath.Dir(path)
	want := inputs{file: path, gateway: "mine", current: dir + "/a.so", target: dir +
		"/a_v5.14.0_linux_amd64.so", symbol: "F", hook: "pre", name: "orders.zip"}
	if in != want || from != "5.2.5" || to != "5.13.0" {
		t.Errorf("%+v, from %s to %s", in, from, to)
	}
}

// The gateway of a package or image comes out, and nothing next to its directory.
func TestUnpack(t *testing.T) {
	t.Parallel()
	archive := func(names ...string) *bytes.Buffer {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, n := range names {
			if err := w.WriteHeader(&tar.Header{Name: n, Mode: 0o755, Size: int64(len(n)),
				Typeflag: tar.TypeReg}); err != nil {
				t.Fatal(err)
			}
			_, _ = w.Write([]byte(n))
		}
		_ = w.Close()
		return &b
	}
	for _, prefix := range []string{"./opt/tyk-gateway/", "tyk-gateway/"} {
		dir := filepath.Join(t.TempDir(), "in")
		if err := unpack(archive(prefix+"tyk", prefix+"templates/error.json",
			prefix+"templates/../../../../evil", "../evil", prefix+"tyk.conf"), dir); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"tyk", "templates/error.json"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
				t.Error(err)
			}
		}
		if all, _ := filepath.Glob(filepath.Join(dir, "..", "*")); len(all) != 1 {
			t.Errorf("next to the directory: %v", all)
		}
	}
	if err := unpack(archive("opt/else"), t.TempDir()); err == nil || !strings.Contains(err.Error(),
		"it has no /opt/tyk-gateway/tyk") {
		t.Error(err)
	}
}

// At 60 columns no line is longer than the screen, unless it is one word.
func TestNarrow(t *testing.T) {
	t.Setenv("COLUMNS", "60")
	var out bytes.Buffer
	r := newRehearsal(options{from: mustVersion(t, "4.0.8"), to: mustVersion(t, "5.2.5"),
		stdout: &out})
	r.print.print(&Step{Name: "gateway switched", Status: statusOK, Duration: 123.4,
		Stub:   strings.Repeat("stub ", 30),
		Detail: []string{strings.Repeat("some words ", 20), "/a/" + strings.Repeat("path", 30)}})
	r.report.Steps = []*Step{{Status: statusOK}}
	r.summary(r.report)
	for line := range strings.Lines(out.String()) {
		line = strings.TrimRight(line, "\n")
		if len([]rune(line)) > 60 && strings.Contains(strings.TrimSpace(line), " ") {
			t.Errorf("%d columns: %q", len([]rune(line)), line)
		}
	}
	if !strings.Contains(out.String(), "\n        some words some words") {
		t.Errorf("no text of its own line:\n%s", &out)
	}
}

// Real gateways and a plugin for them.
func TestRealGateways(t *testing.T) {
	flags := os.Getenv(realEnv)
	if flags == "" {
		t.Skipf("skipped: set %s to flags such as -from 5.2.5 -to 5.14.0 -gateway-from OLD -gateway "+
			"NEW -plugin DIR", realEnv)
	}
	needs(t)
	res := rehearse(t, nil, append(strings.Fields(flags), "-json")...)
	rep := res.report(t)
	for _, s := range rep.Steps {
		t.Logf("%s %s %.1f s real %v: %s", s.Status, s.Name, s.Duration, s.Real, s.Detail[0])
		if strings.HasPrefix(s.Name, "gateway") || s.Name == "publish bundle" {
			if s.Status != statusOK || !s.Real {
				t.Errorf("step %s: %s, real %v", s.Name, s.Status, s.Real)
			}
		}
	}
	if res.code != cli.Yes {
		t.Errorf("exit code %d\n%s", res.code, res.stderr)
	}
	if data, _ := json.Marshal(rep); bytes.Contains(data, []byte("disagrees")) {
		t.Error("preflight was wrong")
	}
}
