package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/health"
	"example.com/tykupgrade/internal/lab/tyk"
)

// stack is a gateway, a dashboard and a pump on ports of their own.
func stack(t *testing.T, o tyk.Options) (gateway *tyk.Stub, args []string) {
	t.Helper()
	o.Kind = tyk.Gateway
	if o.Version == "" {
		o.Version = "5.2.5"
	}
	gateway = tyk.New(o)
	for flag, stub := range map[string]*tyk.Stub{"-gateway-url": gateway,
		"-dashboard-url": tyk.New(tyk.Options{Kind: tyk.Dashboard}), "-pump-url": tyk.New(tyk.Options{
			Kind: tyk.Pump})} {
		s := httptest.NewServer(stub)
		t.Cleanup(s.Close)
		args = append(args, flag, s.URL)
	}
	return gateway, args
}

// apiName matches names of package health.
var apiName = regexp.MustCompile(
	`\b(MaxAge|ServerName|Timeout|MaxInterval|Interval|Passes|set [A-Z]\w+|Probe\.\w+)\b`)

func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = program().Run(t.Context(), args, cli.Streams{Out: &out, Err: &errs})
	if name := apiName.FindString(out.String() + errs.String()); name != "" {
		t.Errorf("checkhealth %q: %q is a name that the user of the command does not see\n%s%s", args,
			name, &out, &errs)
	}
	return code, out.String(), errs.String()
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	now := time.Now()
	clock := func() time.Time { return now }
	fresh, freshArgs := stack(t, tyk.Options{Now: clock, Dashboard: true})
	if code, out, _ := call(t, freshArgs...); code != 3 || !strings.Contains(out, "not yet known") {
		t.Errorf("just started: exit %d\n%s", code, out)
	}
	now = now.Add(11 * time.Second)
	if code, out, errs := call(t, append(freshArgs, "-release", "v5.2.5")...); code != 0 ||
		errs != "" || strings.Count(out, "pass") != 3 || strings.Contains(out, "\x1b") {
		t.Errorf("healthy: exit %d\n%s%s", code, out, errs)
	}
	if code, out, _ := call(t, append(freshArgs, "-release", "5.3.0")...); code != 1 ||
		!strings.Contains(out, "5.2.5, want 5.3.0") {
		t.Errorf("other version: exit %d\n%s", code, out)
	}
	fresh.SetDashboard(errors.New("refused"))
	now = now.Add(10 * time.Second)
	if code, out, _ := call(t, freshArgs...); code != 3 || !strings.Contains(out, "warn") {
		t.Errorf("warn: exit %d\n%s", code, out)
	}
	fresh.SetRedis(errors.New("redis is down"))
	now = now.Add(10 * time.Second)
	if code, out, _ := call(t, freshArgs...); code != 1 || !strings.Contains(out, "redis is down") {
		t.Errorf("fail: exit %d\n%s", code, out)
	}
	if code, _, _ := call(t, "-tcp", strings.TrimPrefix(freshArgs[1], "http://")); code != 0 {
		t.Errorf("tcp: exit %d", code)
	}
}

func TestWrongUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("topsecret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	long := filepath.Join(dir, "long")
	if err := os.WriteFile(long, []byte("Authorization: topsecret"+strings.Repeat("x", 1<<17)),
		0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"-plugin-url", "http://localhost:1/", "-expect-status", "200", "-header-file", long},
		{"-nope"}, {"now"}, {"-release", "five"}, {"-gateway-url", "ftp://x"}, {"-plugin-url",
			"http://x/"}, {"-plugin-url", "http://x/", "-expect-body", "("},
		{"-passes", "3"}, {"-wait", "-1s"}, {"-wait", "1s", "-stable", "2s"}, {"-ca", filepath.Join(dir,
			"none")}, {"-ca", bad}, {"-auth-file", bad}, {"-header-file", bad},
		{"-gateway-url", "gw", "-gateway-url", "gw"}, {"-gateway-url", "gw:99999"}, {"-json", "-prom"},
		{"-wait", "1s", "-startup", "1s"}, {"-cert", bad},
		{"-pump-url", "p", "-release", "5.2.5"}, {"-expect-status", "200"}, {"-header-file", bad},
		{"-plugin-url", "http://x/", "-expect-header", ": x"},
	} {
		code, out, errs := call(t, args...)
		if code != 2 || out != "" || errs == "" || strings.Contains(errs, "topsecret") {
			t.Errorf("%q: exit %d, %q, %q", args, code, out, errs)
		}
	}
	code, help, errs := call(t, "-h")
	if code != 0 || errs != "" || !strings.Contains(help, "3 means here: a warning") {
		t.Errorf("-h: exit %d\n%s", code, errs)
	}
}

// An answer that could not be printed is not a pass.
func TestFullOutput(t *testing.T) {
	t.Parallel()
	pump := httptest.NewServer(tyk.New(tyk.Options{Kind: tyk.Pump}))
	t.Cleanup(pump.Close)
	for _, format := range []string{"", "-json", "-prom", "-health-json"} {
		r, w := io.Pipe()
		_ = r.CloseWithError(errors.New("disk full"))
		var errs bytes.Buffer
		if code := program().Run(t.Context(), append([]string{"-pump-url", pump.URL},
			strings.Fields(format)...), cli.Streams{Out: w, Err: &errs}); code != 1 ||
			!strings.Contains(errs.String(), "disk full") {
			t.Errorf("%s: exit %d, %s", format, code, &errs)
		}
	}
}

func TestMachineFormats(t *testing.T) {
	t.Parallel()
	_, args := stack(t, tyk.Options{})
	code, out, _ := call(t, append(args, "-json")...)
	var r health.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 3 || r.Status != health.Unknown ||
		len(r.Probes) != 3 {
		t.Errorf("-json: exit %d, %v\n%s", code, err, out)
	}
	if _, out, _ := call(t, append(args, "-prom")...); !strings.HasPrefix(out, "# HELP ") {
		t.Errorf("-prom:\n%s", out)
	}
	_, out, _ = call(t, append(args, "-health-json")...)
	if d, err := health.Parse([]byte(out)); err != nil || d.Status != health.Fail {
		t.Errorf("-health-json: %+v, %v", d, err)
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	gateway, args := stack(t, tyk.Options{Version: "4.0.8", CheckEvery: 50 * time.Millisecond})
	done := time.AfterFunc(200*time.Millisecond, func() { gateway.Restart("5.2.5") })
	defer done.Stop()
	code, out, errs := call(t, append(args, "-release", "5.2.5", "-wait", "1m")...)
	if code != 0 || strings.Count(out, "pass") != 3 {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	code, out, errs = call(t, append(args, "-release", "5.3.0", "-wait", "1m", "-failures", "1")...)
	if code != 1 || !strings.Contains(errs, "1 failures in a row") || !strings.Contains(out,
		"want 5.3.0") {
		t.Errorf("failures: exit %d\n%s%s", code, out, errs)
	}
	gateway.SetWedged(true)
	gateway.Restart("5.2.5")
	code, out, errs = call(t, append(args, "-wait", "300ms", "-json")...)
	if code != 3 || !strings.Contains(errs, "deadline") || !strings.Contains(out,
		`"error": "wait for 3 health probes`) {
		t.Errorf("deadline: exit %d\n%s%s", code, out, errs)
	}
	ctx, cancel := context.WithCancel(t.Context())
	timer := time.AfterFunc(100*time.Millisecond, cancel)
	defer timer.Stop()
	var o, e bytes.Buffer
	if code := program().Run(ctx, append(args, "-wait", "1m"), cli.Streams{Out: &o,
		Err: &e}); code != 130 || !strings.Contains(e.String(), "stopped") {
		t.Errorf("interrupt: exit %d\n%s", code, e.String())
	}
}

func TestPluginWithSecretsAndTLS(t *testing.T) {
	t.Parallel()
	stub := tyk.New(tyk.Options{Kind: tyk.Gateway, Version: "5.2.5", Plugin: tyk.Loaded})
	server := httptest.NewTLSServer(stub)
	t.Cleanup(server.Close)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca := file("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE",
		Bytes: server.Certificate().Raw})))
	args := []string{"-plugin-url", server.URL + "/my-api/get", "-ca", ca, "-server-name",
		"example.com",
		"-header-file", file("headers", "X-Api-Key: topsecret1\n"), "-auth-file", file("auth",
			"u:topsecret2\n")}
	// The stub's API echoes the headers that reached it.
	code, out, errs := call(t, append(args, "-expect-header", "Foo: Bar", "-expect-body",
		`"X-Api-Key":\["topsecret1"\]`, "-expect-status", "200")...)
	if code != 0 {
		t.Errorf("loaded: exit %d\n%s%s", code, out, errs)
	}
	stub.SetPlugin(tyk.Broken)
	code, out, errs = call(t, append(args, "-expect-header", "Foo: Bar")...)
	if code != 1 || strings.Contains(out+errs, "topsecret") || !strings.Contains(out, "HTTP 500") {
		t.Errorf("broken: exit %d\n%s%s", code, out, errs)
	}
}
