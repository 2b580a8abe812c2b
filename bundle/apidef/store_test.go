package apidef_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/bundle/apidef"
	"example.com/tykupgrade/internal/lab/tyk"
)

// Odd documents: unknown fields, big numbers, escapes, spaces.
func classic(id, value string) string {
	return fmt.Sprintf(`{ "x_big": 12345678901234567890.10, "api_id": %q, "org_id":"org1","name":"é \u00e9 </x>", "active":true,
	"custom_middleware_bundle" : %q, "proxy":{"listen_path":"/%s/","target_url":"http://127.0.0.1:1"}, "x_tail":[1,2, {"a":null}] }`, id, value, id)
}

func oasTwin(id, value string) (string, string) {
	return strings.Replace(classic(id, value), `"active":true`, `"active":true,"is_oas":true`, 1),
		fmt.Sprintf(`{"openapi":"3.0.3","info":{"title":"x"}, "x-tyk-api-gateway":{"middleware":{"global":{"pluginConfig":{"driver":"goplugin","bundle":{"enabled":true, "path":%q}}}}}}`, value)
}

// bench is a store with the APIs c1, c2 (a.zip), c3 (b.zip) and the OAS API o1
// (a.zip).
type bench struct {
	store apidef.Store
	// read returns the bundle of an API as the store's files have it.
	read func(id string) string
	// write changes an API behind our back.
	write func(id, doc string)
}

func directory(t *testing.T) *bench {
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"c1", "c2"} {
		put(id+".json", classic(id, "a.zip"))
	}
	put("named-otherwise.json", classic("c3", "b.zip"))
	c, o := oasTwin("o1", "a.zip")
	put("o1.json", c)
	put("o1-oas.json", o)
	return &bench{store: apidef.Directory{Path: dir}, write: func(id, doc string) {
		put(id+".json",
			doc)
	}, read: func(id string) string {
		data, err := os.ReadFile(filepath.Join(dir, id+".json"))
		if errors.Is(err, fs.ErrNotExist) {
			data, err = os.ReadFile(filepath.Join(dir, "named-otherwise.json"))
		}
		if err != nil {
			t.Fatal(err)
		}
		if oas, err := os.ReadFile(filepath.Join(dir, id+"-oas.json")); err == nil {
			data = append(data, oas...)
		}
		return string(data)
	}}
}

func gateway(t *testing.T) *bench {
	b := directory(t)
	dir := b.store.(apidef.Directory).Path
	stub := tyk.NewAPIs(tyk.Options{Version: "5.2.5"}, tyk.Conf{AppPath: dir, Secret: "geheim"})
	server := httptest.NewServer(stub)
	t.Cleanup(server.Close)
	b.store = apidef.Gateway{URL: server.URL, Secret: "geheim"}
	write := b.write
	b.write = func(id, doc string) { write(id, doc); stub.Restart("5.2.5") }
	return b
}

func dashboard(t *testing.T) *bench {
	d := &tyk.DashboardAPI{Keys: map[string]string{"geheim": "org1", "geheim2": "org2"}, PageSize: 2}
	for _, id := range []string{"c1", "c2"} {
		d.Add("org1", id, []byte(classic(id, "a.zip")), nil)
	}
	d.Add("org2", "c3", []byte(classic("c3", "b.zip")), nil)
	c, o := oasTwin("o1", "a.zip")
	d.Add("org1", "o1", []byte(c), []byte(o))
	server := httptest.NewServer(d)
	t.Cleanup(server.Close)
	return &bench{store: apidef.Dashboard{URL: server.URL, Keys: []string{"geheim", "geheim2"}},
		read: d.Doc, write: func(id, doc string) { d.Add("org1", id, []byte(doc), nil) }}
}

var benches = map[string]func(*testing.T) *bench{"directory": directory, "gateway": gateway,
	"dashboard": dashboard}

var old = semver.MustParse("5.2.5")

func change(ids ...string) apidef.Change {
	return apidef.Change{From: "a.zip", To: "n.zip", APIs: ids, Gateway: old, Force: true}
}

func TestApplyAndRevert(t *testing.T) {
	t.Parallel()
	for name, makeBench := range benches {
		b := makeBench(t)
		before := map[string]string{}
		for _, id := range []string{"c1", "c2", "c3", "o1"} {
			before[id] = b.read(id)
		}
		p, err := apidef.NewPlan(t.Context(), b.store, change())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(p.Edits) != 3 || p.String() != "a.zip becomes n.zip in 3 APIs: c1, c2, o1" {
			t.Errorf("%s: %s", name, p)
		}
		journal := filepath.Join(t.TempDir(), "journal")
		for range 2 {
			if err := apidef.Apply(t.Context(), b.store, p, journal); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if info, err := os.Stat(journal); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: journal %v, %v", name, info, err)
		}
		for id, was := range before {
			now := b.read(id)
			if id == "c3" && now != was || id != "c3" && (strings.Contains(now, "a.zip") ||
				!strings.Contains(now, "n.zip")) {
				t.Errorf("%s: %s is now %s", name, id, now)
			}
			if name == "directory" && strings.ReplaceAll(now, "n.zip", "a.zip") != strings.ReplaceAll(was,
				"n.zip", "a.zip") {
				t.Errorf("%s: more than the name changed: %s", name, now)
			}
			if !strings.Contains(now, "12345678901234567890.10") && id != "o1" && name != "gateway" {
				t.Errorf("%s: %s lost its number: %s", name, id, now)
			}
		}
		other, err := apidef.NewPlan(t.Context(), b.store, apidef.Change{From: "b.zip", To: "m.zip",
			Force: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := apidef.Apply(t.Context(), b.store, other, journal); !errors.Is(err, apidef.ErrJournal) {
			t.Errorf("%s: another plan with this journal: %v", name, err)
		}
		for range 2 {
			if err := apidef.Revert(t.Context(), b.store, journal); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for id, was := range before {
			if now := b.read(id); name == "directory" && now != was || strings.Contains(now, "n.zip") {
				t.Errorf("%s: %s is %s", name, id, now)
			}
		}
		if _, err := os.Stat(journal); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the journal is there: %v", name, err)
		}
		if err := apidef.Accept(journal); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A document that somebody else changed is neither replaced nor lost.
func TestConditional(t *testing.T) {
	t.Parallel()
	for name, makeBench := range benches {
		b := makeBench(t)
		p, err := apidef.NewPlan(t.Context(), b.store, change("c1", "c2"))
		if err != nil {
			t.Fatal(err)
		}
		b.write("c2", strings.Replace(classic("c2", "a.zip"), `"name":"`, `"name":"changed `, 1))
		journal := filepath.Join(t.TempDir(), "journal")
		err = apidef.Apply(t.Context(), b.store, p, journal)
		if !errors.Is(err, apidef.ErrChanged) || !strings.Contains(b.read("c2"), "changed ") ||
			strings.Contains(b.read("c1"), "n.zip") {
			t.Errorf("%s: %v\n%s", name, err, b.read("c1"))
		}
		if err := b.store.Replace(t.Context(), p.Edits[1].Was, p.Edits[1].Next); !errors.Is(err,
			apidef.ErrChanged) {
			t.Errorf("%s: replaced: %v", name, err)
		}
		if _, err := b.store.API(t.Context(), "none"); !errors.Is(err, apidef.ErrNotFound) {
			t.Errorf("%s: unknown API: %v", name, err)
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	t.Parallel()
	b := directory(t)
	ok := &bundle.SwitchPlan{New: "n.zip", Running: bundle.Outcome{Effect: bundle.PluginRuns}}
	for name, c := range map[string]struct {
		change apidef.Change
		kind   error
		says   string
	}{
		"no switch plan": {apidef.Change{From: "a.zip", To: "n.zip"}, apidef.ErrOutage,
			"bundle.ForUpgrade"},
		"an outage": {apidef.Change{From: "a.zip", To: "n.zip", Switch: &bundle.SwitchPlan{
			New: "n.zip", Running: bundle.Outcome{Effect: bundle.RequestsFail,
				Text: "plugin already loaded"}}}, apidef.ErrOutage, "already loaded"},
		"plan of other name": {apidef.Change{From: "a.zip", To: "m.zip", Switch: ok}, apidef.ErrOutage,
			""},
		"fine": {apidef.Change{From: "a.zip", To: "n.zip", Switch: ok}, nil, ""},
		"same name": {apidef.Change{From: "a.zip", To: "a.zip", Force: true}, nil,
			"not a change"},
		"two names": {apidef.Change{From: "a.zip", To: "n.zip,m.zip", Force: true}, nil,
			"one bundle"},
		"unknown API":       {change("c1", "none"), apidef.ErrNotFound, "none"},
		"of another bundle": {change("c3"), nil, `names "b.zip"`},
		"unused bundle": {apidef.Change{From: "z.zip", To: "n.zip", Force: true}, apidef.ErrNotFound,
			"z.zip"},
	} {
		_, err := apidef.NewPlan(t.Context(), b.store, c.change)
		if name == "fine" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err == nil || c.kind != nil && !errors.Is(err, c.kind) || !strings.Contains(err.Error(),
			c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestListOfBundles(t *testing.T) {
	t.Parallel()
	b := directory(t)
	b.write("c1", classic("c1", "x.zip, a.zip,y.zip"))
	c := change("c1")
	if _, err := apidef.NewPlan(t.Context(), b.store, c); err == nil {
		t.Error("5.2.5 takes the list as one name")
	}
	c.Gateway = semver.MustParse("5.15.0")
	p, err := apidef.NewPlan(t.Context(), b.store, c)
	if err != nil || !strings.Contains(string(p.Edits[0].Next.Classic), `"x.zip, n.zip,y.zip"`) {
		t.Errorf("%v, %v", p, err)
	}
}

func TestBadStores(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := calls.Add(1)
		switch {
		case strings.HasPrefix(r.URL.Path, "/flaky/") && n%3 != 0:
			w.WriteHeader(http.StatusBadGateway)
		case strings.HasPrefix(r.URL.Path, "/flaky/"):
			_, _ = w.Write([]byte("[]"))
		case strings.HasPrefix(r.URL.Path, "/html/"):
			_, _ = w.Write([]byte("<html>"))
		case strings.HasPrefix(r.URL.Path, "/moved/"):
			http.Redirect(w, r, "/flaky/", http.StatusFound)
		case strings.HasPrefix(r.URL.Path, "/slow/"):
			<-r.Context().Done()
		case strings.HasPrefix(r.URL.Path, "/echo/"):
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, `{"message":"bad key %s \u001b[31m"}`, r.Header.Get("X-Tyk-Authorization"))
		}
	}))
	t.Cleanup(server.Close)
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_,
			_ = w.Write([]byte("[]"))
	}))
	t.Cleanup(secure.Close)
	ca := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: secure.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}}}
	for _, c := range []struct {
		url  string
		o    apidef.ClientOptions
		kind error
		says string
	}{
		{server.URL + "/flaky/", apidef.ClientOptions{}, nil, ""},
		{server.URL + "/flaky/", apidef.ClientOptions{Retries: -1}, nil, "502"},
		{server.URL + "/html/", apidef.ClientOptions{}, apidef.ErrDefinition, "gateway's"},
		{server.URL + "/moved/", apidef.ClientOptions{}, nil, "302"},
		{server.URL + "/slow/", apidef.ClientOptions{Timeout: 30 * time.Millisecond, Retries: -1},
			context.DeadlineExceeded, ""},
		{server.URL + "/echo/", apidef.ClientOptions{}, apidef.ErrAuth, "bad key"},
		{"http://u:geheim@h/", apidef.ClientOptions{}, nil, "a user or a query"},
		{"ftp://geheim", apidef.ClientOptions{}, nil, "bad URL"},
		{secure.URL, apidef.ClientOptions{Retries: -1}, nil, "certificate"},
		{secure.URL, apidef.ClientOptions{Client: ca}, nil, ""},
		{"http://127.0.0.1:1", apidef.ClientOptions{Retries: -1}, nil, "refused"},
	} {
		calls.Store(0)
		_, err := apidef.Gateway{URL: c.url, Secret: "geheim", ClientOptions: c.o}.APIs(t.Context())
		if c.kind == nil && c.says == "" {
			if err != nil {
				t.Errorf("%s: %v", c.url, err)
			}
			continue
		}
		if err == nil || c.kind != nil && !errors.Is(err, c.kind) || !strings.Contains(err.Error(),
			c.says) || strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: %v", c.url, err)
		}
	}
	_, err := apidef.Gateway{URL: server.URL, Secret: "ge\nheim"}.APIs(t.Context())
	if !errors.Is(err, apidef.ErrAuth) || strings.Contains(err.Error(), "heim") {
		t.Errorf("a key with a line break: %v", err)
	}
	if _, err := (apidef.Dashboard{URL: server.URL}).APIs(t.Context()); !errors.Is(err,
		apidef.ErrAuth) {
		t.Errorf("no key: %v", err)
	}
}

func TestBadDirectory(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files map[string]string
		says  string
	}{
		"broken": {map[string]string{"a.json": "{"},
			"a.json: cannot use the API definition: not JSON"},
		"no id": {map[string]string{"a.json": "{}"}, "no api_id"},
		"twice": {map[string]string{"a.json": `{"api_id":"a"}`, "b.json": `{"api_id":"a"}`},
			"duplicate api_id"},
		"no twin": {map[string]string{"a.json": `{"api_id":"a","is_oas":true}`}, "a-oas.json"},
		"two names": {map[string]string{
			"a.json": `{"api_id":"a","custom_middleware_bundle":"x","Custom_Middleware_Bundle":"y"}`},
			"duplicate key"},
		"no string": {map[string]string{"a.json": `{"api_id":"a","custom_middleware_bundle":7}`},
			"not a string"},
	} {
		dir := t.TempDir()
		for file, text := range c.files {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := apidef.List(t.Context(), apidef.Directory{Path: dir}, old); err == nil ||
			!strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (apidef.Directory{Path: "/none"}).APIs(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	// A link in app_path is not followed.
	b := directory(t)
	dir := b.store.(apidef.Directory).Path
	p, err := apidef.NewPlan(t.Context(), b.store, change("c1"))
	if err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "target")
	if err := errors.Join(os.Rename(filepath.Join(dir, "c1.json"), target), os.Symlink(target,
		filepath.Join(dir, "c1.json"))); err != nil {
		t.Fatal(err)
	}
	if err := b.store.Replace(t.Context(), p.Edits[0].Was, p.Edits[0].Next); err == nil {
		t.Error("a link was followed")
	}
}
