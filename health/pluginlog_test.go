package health_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/bundle/bundletest"
	"example.com/tykupgrade/health"
	"example.com/tykupgrade/internal/lab/tyk"
)

// Lines of real gateways, but for addresses.
const (
	old5   = `time="Nov 29 00:33:58" level=error msg="Could not load Go-plugin" error="plugin.Open(\"/mw/bundles/1a/plugin\"): plugin already loaded" mwPath=/mw/bundles/1a/plugin.so mwSymbolName=AddFooBarHeader`
	new514 = `time="2026-11-29T01:14:46Z" level=error message="Could not load Go-plugin" error="plugin.Open(\"/mw/plugin\"): plugin was built with a different version of package internal/goarch" mwPath=/mw/plugin.so mwSymbolName=Auth`
	json5  = `{"level":"error","message":"plugin file not found","error":"plugin file not found","mwPath":"/mw/p.so","mwSymbolName":"Auth","time":"2026-11-29T01:14:46Z"}`
	tty4   = "\x1b[90m[Nov 29 00:33:58]\x1b[0m \x1b[31mERROR\x1b[0m \x1b[36mmain:\x1b[0m Couldn't " +
		"fetch bundle: HTTP Error, got status code 404 \x1b[36mapi_id=\x1b[0mapi1"
	verify = `time="Nov 29 00:33:58" level=info msg="----> Bundle verification failed: a.zip" prefix=main`
	fine   = `time="Nov 29 00:33:58" level=info msg="Loading API" api_id=api1`
)

func TestReadPluginLog(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		log     string
		entries int
		want    string // kinds and what they name
	}{
		"up to 5.13": {old5, 1,
			"plugin_already_loaded AddFooBarHeader /mw/bundles/1a/plugin.so  "},
		"5.14":                {new514, 1, "plugin_not_loaded Auth /mw/plugin.so  "},
		"JSON":                {json5, 1, "plugin_not_found Auth /mw/p.so  "},
		"JSON after a prefix": {"Nov 29 gw1 tyk[812]: " + json5, 1, "plugin_not_found Auth /mw/p.so  "},
		"terminal":            {tty4, 1, "bundle_not_fetched    api1"},
		"verification":        {verify, 1, "bundle_not_verified   a.zip "},
		"fine":                {fine, 1, ""},
		"twice": {old5 + "\n" + strings.Replace(old5, "00:33:58", "00:34:00", 1), 2,
			"plugin_already_loaded AddFooBarHeader /mw/bundles/1a/plugin.so  "},
		"of another program": {"panic: plugin already loaded\nCould not load Go-plugin\n", 0, ""},
		"quoted in a field": {
			`time="Nov 29 00:33:58" level=info msg="GET /x" path="Could not load Go-plugin"`, 1, ""},
		"nothing": {"", 0, ""},
		"a very long line": {strings.Repeat("x", 300_000) + "\n" + old5, 1,
			"plugin_already_loaded AddFooBarHeader /mw/bundles/1a/plugin.so  "},
		"a second bundle": {
			`time="Nov 29 00:33:58" level=error msg="Couldn't load bundle" error="Couldn't merge bundle \"b.zip\": two auth_check"`, 1, "bundle_not_loaded    "},
		"response, file gone": {
			`time="x" level=error message="Could not load Go-plugin. File was not found" error="plugin file not found" mwPath=/p.so`, 1, "plugin_not_found  /p.so  "},
		"manifest not JSON": {
			`time="x" level=info msg="----> Couldn't unmarshal the manifest file for bundle: a.zip"`, 1,
			"bundle_not_loaded   a.zip "},
		"downloader is turned": {
			`time="x" level=warning msg="Bundle downloader is disabled." prefix=main`, 1,
			"bundle_not_fetched    "},
	} {
		l, err := health.ReadPluginLog(strings.NewReader(c.log))
		var got []string
		for _, f := range l.Faults {
			got = append(got, strings.Join([]string{string(f.Kind), f.Symbol, f.Path, f.Bundle, f.API}, " "))
			if f.Cause == "" && f.Bundle == "" || strings.Contains(f.String(), "\x1b") {
				t.Errorf("%s: %+v", name, f)
			}
		}
		if err != nil || l.Entries != c.entries || strings.Join(got, "\n") != c.want {
			t.Errorf("%s: %d entries, %q, %v", name, l.Entries, got, err)
		}
	}
}

func FuzzReadPluginLog(f *testing.F) {
	for _, s := range []string{old5, new514, json5, tty4, verify, fine,
		`{"level":"x","msg":{"a":[1]}}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, log string) {
		l, err := health.ReadPluginLog(strings.NewReader(log))
		if err != nil {
			t.Fatal(err)
		}
		for _, fault := range l.Faults {
			if strings.ContainsAny(fault.String(), "\x1b\r\n\u202e") {
				t.Errorf("%q", fault)
			}
		}
		if _, err := json.Marshal(l); err != nil {
			t.Error(err)
		}
	})
}

func local(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	return cmd.Run()
}

// A gateway of each era whose bundle has no build for it, read from its log file
// since its start: the same check passes, fails and does not know.
func TestPluginsLoaded(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"4.0.8", "5.2.5", "5.14.0"} {
		for _, format := range []string{"", "json", "legacy"} {
			dir := t.TempDir()
			path := filepath.Join(dir, "tyk.log")
			if err := os.WriteFile(path, []byte(old5+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			size, err := health.LogSize(t.Context(), local, path)
			if err != nil {
				t.Fatal(err)
			}
			probe := health.Gateway("", nil)
			check := func(name string, read health.LogReader) health.Result {
				p := probe
				p.Checks = []health.Check{health.PluginsLoaded(read)}
				r := p.Check(t.Context(), nil)
				if r.Findings[0].Name != "plugins" {
					t.Errorf("%s: %+v", name, r.Findings)
				}
				return r
			}
			log, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = log.Close() })
			zip, err := bundletest.Files{"plugin.so": {Gateway: version}}.Zip("plugin.so", bundle.Options{})
			if err != nil {
				t.Fatal(err)
			}
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_,
					_ = w.Write(zip)
			}))
			t.Cleanup(server.Close)
			apps := filepath.Join(dir, "apps")
			if err := os.Mkdir(apps, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(apps, "a.json"),
				[]byte(`{"api_id":"a","custom_middleware_bundle":"a.zip","proxy":{"listen_path":"/"}}`),
				0o600); err != nil {
				t.Fatal(err)
			}
			if r := check("nothing yet", health.LogFile(local, path, size)); r.Status == health.Pass ||
				r.Findings[0].Status != health.Unknown {
				t.Errorf("%s %s, not started: %+v", version, format, r.Findings)
			}
			stub := tyk.NewAPIs(tyk.Options{Version: version, CheckEvery: 1}, tyk.Conf{
				AppPath: apps, Downloader: true, BundleBaseURL: server.URL, LogFormat: format, Log: log})
			gateway := httptest.NewServer(stub)
			t.Cleanup(gateway.Close)
			probe = health.Gateway(gateway.URL, nil)
			if r := check("loaded", health.LogFile(local, path, size)); r.Findings[0].Status != health.Pass {
				t.Errorf("%s %s: %+v", version, format, r.Findings)
			}
			if r := check("the whole file has an old fault", health.LogFile(local, path,
				0)); r.Status != health.Fail {
				t.Errorf("%s %s: %+v", version, format, r)
			}
			stub.Restart("5.3.9")
			r := check("another release", health.LogFile(local, path, size))
			if r.Status != health.Fail || !errors.Is(r.Err, health.ErrUnhealthy) ||
				!strings.Contains(r.Error, "AddFooBarHeader") || !strings.Contains(r.Error,
				"different version of package") {
				t.Errorf("%s %s: %+v", version, format, r)
			}
			r = check("no file", health.LogFile(local, path+".none", 0))
			if r.Status == health.Pass || r.Findings[0].Status != health.Unknown {
				t.Errorf("%s %s, no file: %+v", version, format, r)
			}
		}
	}
}

func TestJournal(t *testing.T) {
	t.Parallel()
	const id = "0123456789abcdef0123456789abcdef"
	for name, c := range map[string]struct {
		id, log string
		fail    string
		status  health.Status
	}{
		"loaded":        {id, fine, "", health.Pass},
		"refused":       {id, fine + "\n" + old5, "", health.Fail},
		"no permission": {id, "", "journalctl", health.Unknown},
		"no unit":       {"", fine, "", health.Unknown},
		"other lines":   {id, "Started Tyk API Gateway.\n", "", health.Unknown},
	} {
		run := func(_ context.Context, argv []string, _ io.Reader, stdout, stderr io.Writer) error {
			if argv[0] == c.fail {
				_, _ = fmt.Fprint(stderr, "No journal files were opened due to insufficient permissions.")
				return errors.New("exit status 1")
			}
			text := c.log
			if argv[0] == "systemctl" {
				text = c.id + "\n"
			} else if argv[len(argv)-1] != "_SYSTEMD_INVOCATION_ID="+id {
				t.Errorf("%q", argv)
			}
			_, err := stdout.Write([]byte(text))
			return err
		}
		f, err := health.PluginsLoaded(health.Journal(run, "tyk-gateway.service")).Run(t.Context())
		got := health.Pass
		switch {
		case errors.Is(err, health.ErrLogUnreadable):
			got = health.Unknown
		case err != nil:
			got = health.Fail
		}
		if got != c.status || c.fail != "" && !strings.Contains(err.Error(), "insufficient permissions") {
			t.Errorf("%s: %s, %v, %v", name, got, f, err)
		}
	}
}

func ExampleReadPluginLog() {
	l, err := health.ReadPluginLog(bytes.NewReader([]byte(old5)))
	fmt.Println(l.Faults[0], err)
	// Output: plugin already loaded, symbol AddFooBarHeader, path /mw/bundles/1a/plugin.so: plugin.Open("/mw/bundles/1a/plugin"): plugin already loaded <nil>
}
