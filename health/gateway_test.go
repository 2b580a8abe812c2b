package health_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/health"
	"example.com/tykupgrade/health/healthtest"
	"example.com/tykupgrade/internal/lab/tyk"
	"example.com/tykupgrade/internal/tykversion"
)

func client(h http.Handler) *http.Client { return healthtest.Client(h) }

func version(t testing.TB, s string) *semver.Version {
	t.Helper()
	v, err := tykversion.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

const date = "Mon, 23 Nov 2026 06:00:05 GMT"

// recorded answers with fixed answers by path; what is not scripted is 404.
type recorded map[string]struct {
	code int
	body string
}

func (rec recorded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a, ok := rec[r.URL.Path]
	if !ok {
		http.Error(w, "404 page not found", http.StatusNotFound)
		return
	}
	w.Header().Set("Date", date)
	if a.code/100 == 3 {
		w.Header().Set("Location", "https://sso.example/login?state=topsecret")
	}
	w.WriteHeader(a.code)
	_, _ = io.WriteString(w, a.body)
}

func redis(status, extra string) string {
	return `"redis":{"status":"` + status + `"` + extra +
		`,"componentType":"datastore","time":"2026-11-23T06:00:00Z"}`
}

func TestGatewayAnswersOfEveryEra(t *testing.T) {
	t.Parallel()
	type answers = recorded
	hello := func(code int, body string) answers { return answers{"/hello": {code, body}} }
	with := func(a answers, code int, body string) answers {
		a["/ready"] = struct {
			code int
			body string
		}{code, body}
		return a
	}
	const down = `,"output":"storage: Redis is either down or was not configured"`
	for _, c := range []struct {
		name    string
		answers answers
		want    string // expected version
		status  health.Status
		is      error
		text    string // in the error or the remarks
		version string
		ready   health.Readiness
	}{
		{"4.0.8 says v", hello(200,
			`{"status":"pass","version":"v4.0.8","description":"Tyk GW","details":{`+redis("pass", "")+`}}`),
			"4.0.8", health.Pass, nil, "readiness: /ready exists since 5.8.3", "4.0.8",
			health.ReadyUnsupported},
		{"5.2.5", hello(200, `{"status":"pass","version":"5.2.5","description":"Tyk GW","details":{`+
			redis("pass", "")+`}}`),
			"v5.2.5", health.Pass, nil, "whether plugins load", "5.2.5", health.ReadyUnsupported},
		{"pass in the first seconds",
			hello(200, `{"status":"pass","version":"5.2.5","description":"Tyk GW"}`),
			"5.2.5", health.Unknown, health.ErrNotYetKnown, "without details of redis", "5.2.5",
			health.ReadyUnsupported},
		{"details without redis",
			hello(200, `{"status":"pass","version":"5.2.5","details":{"dashboard":{"status":"pass","time":"2026-11-23T06:00:00Z"}}}`),
			"", health.Unknown, health.ErrNotYetKnown, "", "5.2.5", health.ReadyUnsupported},
		{"redis without a time",
			hello(200, `{"status":"pass","version":"5.2.5","details":{"redis":{"status":"pass","time":"soon"}}}`),
			"", health.Unknown, health.ErrNotYetKnown, "have no time", "5.2.5", health.ReadyUnsupported},
		{"redis down, HTTP 200", hello(200, `{"status":"fail","version":"5.2.5","details":{`+redis("fail",
			down)+`}}`),
			"5.2.5", health.Fail, health.ErrUnhealthy, "Redis is either down", "5.2.5",
			health.ReadyUnsupported},
		{"redis down called warn", hello(200, `{"status":"warn","version":"5.2.5","details":{`+
			redis("fail", down)+`,"dashboard":{"status":"pass","time":"2026-11-23T06:00:00Z"}}}`),
			"5.2.5", health.Fail, health.ErrUnhealthy, "redis: fail", "5.2.5", health.ReadyUnsupported},
		{"dashboard down", hello(200, `{"status":"warn","version":"5.2.5","details":{`+redis("pass", "")+
			`,"dashboard":{"status":"fail","output":"refused","time":"2026-11-23T06:00:00Z"}}}`),
			"5.2.5", health.Warn, health.ErrUnhealthy, "dashboard: fail: refused", "5.2.5",
			health.ReadyUnsupported},
		{"5.8.6 fails with 503", with(hello(503, `{"status":"fail","version":"5.8.6","details":{`+
			redis("fail", down)+`}}`), 503, `{"status":"error","message":"Redis connection not available"}`),
			"5.8.6", health.Fail, health.ErrUnhealthy, "redis: fail", "5.8.6", health.NotReady},
		{"503 of a proxy in front", with(hello(503, `{"status":"pass","version":"5.8.4","details":{`+
			redis("pass", "")+`}}`), 200, `{"status":"pass","description":"Tyk GW Ready"}`),
			"5.8.4", health.Fail, health.ErrUnhealthy, "a proxy in front answers 503", "5.8.4", health.Ready},
		{"503 without a document", hello(503, "upstream connect error"), "", health.Fail,
			health.ErrMalformed, "HTTP 503", "", ""},
		{"5.14.0 ready", with(hello(200, `{"status":"pass","version":"5.14.0","details":{`+redis("pass",
			"")+`}}`), 200, `{"status":"pass","version":"5.14.0","description":"Tyk GW Ready"}`),
			"5.14.0", health.Pass, nil, "", "5.14.0", health.Ready},
		{"5.14.0 shutting down", with(hello(200, `{"status":"pass","version":"5.14.0","details":{`+
			redis("pass", "")+`}}`), 503, `{"status":"error","message":"Gateway is shutting down"}`),
			"5.14.0", health.Fail, health.ErrNotReady, "shutting down", "5.14.0", health.NotReady},
		{"/ready missing where it must be", hello(200, `{"status":"pass","version":"5.14.0","details":{`+
			redis("pass", "")+`}}`),
			"5.14.0", health.Warn, nil, "readiness_check_endpoint_name", "5.14.0", health.ReadyUnsupported},
		{"an API answers /ready", with(hello(200, `{"status":"pass","version":"5.14.0","details":{`+
			redis("pass", "")+`}}`), 200, `{"status":"pass","path":"/ready"}`),
			"5.14.0", health.Warn, nil, "but not as a gateway", "5.14.0", health.ReadyUnsupported},
		{"unstamped build, /ready unknown",
			hello(200, `{"status":"pass","version":"v5.5.0-dev","details":{`+redis("pass", "")+`}}`),
			"", health.Pass, nil, "readiness: /ready answered HTTP 404", "5.5.0-dev",
			health.ReadyUnsupported},
		{"unstamped build, /ready there",
			with(hello(200, `{"status":"pass","version":"v5.5.0-dev","details":{`+redis("pass", "")+`}}`),
				503, `{"status":"error","message":"A successful API reload did not happen"}`),
			"", health.Fail, health.ErrNotReady, "API reload", "5.5.0-dev", health.NotReady},
		{"the old process answers", hello(200, `{"status":"pass","version":"v4.0.8","details":{`+
			redis("pass", "")+`}}`),
			"5.2.5", health.Fail, health.ErrVersion, "4.0.8, want 5.2.5", "4.0.8", health.ReadyUnsupported},
		{"release candidate is not the release",
			hello(200, `{"status":"pass","version":"5.2.5-rc1","details":{`+redis("pass", "")+`}}`),
			"5.2.5", health.Fail, health.ErrVersion, "5.2.5-rc1, want 5.2.5", "5.2.5-rc1",
			health.ReadyUnsupported},
		{"release candidate as Debian writes it",
			hello(200, `{"status":"pass","version":"v5.3.0-rc1","details":{`+redis("pass", "")+`}}`),
			"5.3.0~rc1", health.Pass, nil, "", "5.3.0-rc1", health.ReadyUnsupported},
		{"no version", hello(200, `{"status":"pass","details":{`+redis("pass", "")+`}}`), "5.2.5",
			health.Fail, health.ErrVersion, "none reported", "", health.ReadyUnsupported},
		{"stale", hello(200,
			`{"status":"pass","version":"5.2.5","details":{"redis":{"status":"pass","time":"2026-11-23T05:55:00Z"}}}`),
			"5.2.5", health.Unknown, health.ErrStale, "5m5s old", "5.2.5", health.ReadyUnsupported},
		{"later draft", hello(200,
			`{"status":"up","releaseId":"5.2.5","checks":{"redis":[{"status":"ok","time":"2026-11-23T06:00:00Z"}]}}`),
			"5.2.5", health.Pass, nil, "", "5.2.5", health.ReadyUnsupported},
		{"405", hello(405, `{"status":"error","message":"Method Not Allowed"}`), "", health.Fail,
			health.ErrUnexpected, "405 Method Not Allowed: Method Not Allowed", "", ""},
		{"405 object with 200", hello(200, `{"status":"error","message":"Method Not Allowed"}`), "",
			health.Fail, health.ErrUnhealthy, "Method Not Allowed", "", health.ReadyUnsupported},
		{"404", answers{}, "", health.Fail, health.ErrUnexpected, "control_api_port", "", ""},
		{"redirect", hello(302, ""), "", health.Fail, health.ErrUnexpected,
			"to https://sso.example/login?", "", ""},
		{"HTML from a proxy", hello(200, "\n<!DOCTYPE html><title>login</title>"), "", health.Fail,
			health.ErrMalformed, "HTML", "", ""},
		{"bad gateway HTML", hello(502, "<html>nginx</html>"), "", health.Fail, health.ErrUnexpected,
			"502 Bad Gateway with HTML", "", ""},
		{"empty", hello(200, ""), "", health.Fail, health.ErrMalformed, "empty body", "", ""},
		{"cut off", hello(200, `{"status":"pass","version":"5.2`), "", health.Fail, health.ErrMalformed,
			"unexpected end", "", ""},
		{"plain text", hello(200, "OK"), "", health.Fail, health.ErrMalformed, "", "", ""},
		{"another JSON", hello(200, `{"message":"hi"}`), "", health.Fail, health.ErrMalformed,
			"no status", "", ""},
		{"made-up status", hello(200, `{"status":"splendid"}`), "", health.Fail, health.ErrMalformed,
			`"splendid"`, "", ""},
		{"oversize", hello(200, `{"status":"pass","version":"`+strings.Repeat("x", health.MaxBody)+`"}`),
			"", health.Fail, health.ErrMalformed, "longer than", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var want *semver.Version
			if c.want != "" {
				want = version(t, c.want)
			}
			r := health.Gateway("http://gw1:8080", want).Check(t.Context(), client(c.answers))
			if r.Status != c.status || r.Version != c.version {
				t.Errorf("status %s, version %q, want %s, %q: %v", r.Status, r.Version, c.status, c.version,
					r.Err)
			}
			// What /ready says of a body without a version is not the point of a row.
			if c.version != "" && r.Readiness != c.ready {
				t.Errorf("readiness %q, want %q", r.Readiness, c.ready)
			}
			if c.is != nil && !errors.Is(r.Err, c.is) {
				t.Errorf("error %v is not %v", r.Err, c.is)
			}
			if said := r.Error + strings.Join(r.NotCovered, " "); !strings.Contains(said, c.text) ||
				strings.Contains(said, "topsecret") {
				t.Errorf("want %q and no secret in %q", c.text, said)
			}
			if (r.Err == nil) != (r.Status == health.Pass) {
				t.Errorf("status %s with error %v", r.Status, r.Err)
			}
		})
	}
}

// The rules are those of the release table: for each of its releases the stub,
// which has rules of its own, is judged as the table says.
func TestErasMatchTheReleases(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/releases.json")
	if err != nil {
		t.Fatal(err)
	}
	var releases []struct {
		Version   string
		Always200 bool `json:"hello_always_200"`
		HasReady  bool `json:"has_ready"`
	}
	if err := json.Unmarshal(data, &releases); err != nil || len(releases) < 132 {
		t.Fatalf("%d releases, %v", len(releases), err)
	}
	for _, rel := range releases {
		hello503, ready := health.EraOf(version(t, rel.Version))
		if hello503 == rel.Always200 || ready != rel.HasReady {
			t.Errorf("%s: hello503 %v, ready %v; the release table says always 200 %v, ready %v",
				rel.Version, hello503, ready, rel.Always200, rel.HasReady)
		}
		now := time.Now()
		stub := tyk.New(tyk.Options{Kind: tyk.Gateway, Version: rel.Version,
			Now: func() time.Time { return now }})
		now = now.Add(11 * time.Second)
		check := func() health.Result {
			return health.Gateway("http://gw", version(t, rel.Version)).Check(t.Context(), client(stub))
		}
		wantReady := health.ReadyUnsupported
		if rel.HasReady {
			wantReady = health.Ready
		}
		if r := check(); r.Status != health.Pass || r.Readiness != wantReady {
			t.Errorf("%s: %s, %s, want %s: %v", rel.Version, r.Status, r.Readiness, wantReady, r.Err)
		}
		stub.SetRedis(errors.New("down"))
		now = now.Add(10 * time.Second)
		wantCode := http.StatusOK
		if !rel.Always200 {
			wantCode = http.StatusServiceUnavailable
		}
		if r := check(); r.Status != health.Fail || r.HTTPStatus != wantCode {
			t.Errorf("%s with Redis down: %s, HTTP %d, want %d", rel.Version, r.Status, r.HTTPStatus,
				wantCode)
		}
	}
}

func TestDashboardAndPump(t *testing.T) {
	t.Parallel()
	old := recorded{"/health": {200, `{"status":"ok"}`}}
	r := health.Dashboard("").Check(t.Context(), client(old))
	if r.Status != health.Pass || r.URL != "http://localhost:3000/health" {
		t.Errorf("dashboard: %s at %s: %v", r.Status, r.URL, r.Err)
	}
	// A path that was named is not swapped for another.
	if r := health.Dashboard("http://d:3000/alive").Check(t.Context(),
		client(old)); r.Status != health.Fail {
		t.Errorf("dashboard at a named path: %s", r.Status)
	}
	for _, c := range []struct {
		name   string
		f      health.Finding
		err    error
		status health.Status
		is     error
	}{
		{"package is the wanted one", health.Finding{Version: "1.9.0", Output: "active"}, nil,
			health.Pass, nil},
		{"package is another", health.Finding{Version: "1.8.3"}, nil, health.Fail, health.ErrVersion},
		{"unit is dead", health.Finding{}, errors.New("unit tyk-pump\nis failed"), health.Fail, nil},
	} {
		p := health.Pump("http://pump:8083")
		p.Want = version(t, "1.9.0")
		p.Checks = []health.Check{{Name: "package", Run: func(context.Context) (health.Finding,
			error) {
			return c.f, c.err
		}}}
		r := p.Check(t.Context(), client(tyk.New(tyk.Options{Kind: tyk.Pump})))
		if r.Status != c.status || c.is != nil && !errors.Is(r.Err, c.is) || c.err != nil &&
			!errors.Is(r.Err, c.err) {
			t.Errorf("%s: %s, %v", c.name, r.Status, r.Err)
		}
		if len(r.Findings) != 1 || r.Findings[0].Status != c.status {
			t.Errorf("%s: findings %+v", c.name, r.Findings)
		}
		if strings.Contains(r.Error, "\n") {
			t.Errorf("%s: error of several lines %q", c.name, r.Error)
		}
		if !strings.Contains(r.NotCovered[0], "more than liveness") {
			t.Errorf("%s: not covered %q", c.name, r.NotCovered)
		}
		if told := slices.Contains(r.NotCovered, "the version: not reported"); told != (c.f.Version == "") {
			t.Errorf("%s: not covered %q", c.name, r.NotCovered)
		}
	}
	if r := health.Pump("").Check(t.Context(),
		client(recorded{"/health": {200, `{"status":"down"}`}})); r.Status != health.Fail ||
		!errors.Is(r.Err, health.ErrUnhealthy) {
		t.Errorf("pump that says down: %s, %v", r.Status, r.Err)
	}
}

// roundTrip is a transport without a server.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Where nothing answers, the caller's checks are asked all the same, and what
// they found stands next to the probe's failure.
func TestChecksOfWhatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	refused, missing := errors.New("connection refused"), errors.New("tyk-gateway is not installed")
	for name, answer := range map[string]roundTrip{
		"refused": func(*http.Request) (*http.Response, error) { return nil, refused },
		"hangs": func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil,
				r.Context().Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := health.Gateway("gw", version(t, "5.2.5"))
			p.Timeout = 250 * time.Millisecond
			c := &http.Client{Transport: answer}
			says := map[bool]error{true: refused, false: health.ErrNoAnswer}[name == "refused"]
			for what, check := range map[string]struct {
				f   health.Finding
				err error
				is  error
			}{
				"package": {err: missing, is: missing},
				"version": {f: health.Finding{Version: "4.0.8"}, is: health.ErrVersion},
			} {
				p.Checks = []health.Check{{Name: what, Run: func(ctx context.Context) (health.Finding, error) {
					if err := ctx.Err(); err != nil {
						return health.Finding{}, err
					}
					return check.f, check.err
				}}}
				r := p.Check(t.Context(), c)
				if !errors.Is(r.Err, says) || !errors.Is(r.Err, check.is) || r.Status != health.Fail ||
					!strings.Contains(r.Error, "; "+what+": ") || r.Findings[0].Status != health.Fail {
					t.Errorf("%s: %s %v, findings %+v", what, r.Status, r.Err, r.Findings)
				}
				_, err := health.Wait(t.Context(), health.Policy{Client: c, FailureThreshold: 1}, p)
				if !errors.Is(err, says) || !errors.Is(err, check.is) || !strings.Contains(err.Error(),
					check.is.Error()) {
					t.Errorf("wait: %v", err)
				}
			}
		})
	}
}

func TestPluginShowsItselfOnlyInARequest(t *testing.T) {
	t.Parallel()
	probe := health.Plugin("http://gw:8080/api/get", health.Expect{Header: map[string]string{
		"Foo": "Bar"}, Body: regexp.MustCompile(`"Foo":\["Bar"\]`)})
	for _, c := range []struct {
		version string
		plugin  tyk.Plugin
		status  health.Status
		text    string
	}{
		{"5.2.5", tyk.Loaded, health.Pass, ""},
		{"5.2.5", tyk.Broken, health.Fail, "HTTP 500"},
		{"4.0.8", tyk.Broken, health.Fail, "does not match"},
		{"4.0.8", tyk.NoPlugin, health.Fail, "does not match"},
	} {
		now := time.Now()
		stub := tyk.New(tyk.Options{Kind: tyk.Gateway, Version: c.version, Plugin: c.plugin,
			Now: func() time.Time { return now }})
		now = now.Add(11 * time.Second)
		if r := health.Gateway("http://gw", nil).Check(t.Context(),
			client(stub)); r.Status != health.Pass {
			t.Errorf("%s: /hello is %s, want pass whatever the plugin", c.version, r.Status)
		}
		r := probe.Check(t.Context(), client(stub))
		if r.Status != c.status || !strings.Contains(r.Error, c.text) {
			t.Errorf("%s, plugin %d: %s, %v", c.version, c.plugin, r.Status, r.Err)
		}
		if c.status == health.Fail && !strings.Contains(r.Error, "Could not load Go-plugin") {
			t.Errorf("no hint where to look in %q", r.Error)
		}
	}
	for _, c := range []struct {
		e    health.Expect
		text string
	}{
		{health.Expect{Status: 403}, "HTTP 200, want 403"},
		{health.Expect{Header: map[string]string{"Foo": "Baz"}}, "header Foo has another value"},
		{health.Expect{Header: map[string]string{"Nope": ""}}, "no header Nope"},
	} {
		stub := tyk.New(tyk.Options{Kind: tyk.Gateway, Version: "5.2.5", Plugin: tyk.Loaded})
		if r := health.HTTP("http://gw/x", c.e).Check(t.Context(),
			client(stub)); r.Status != health.Fail || !strings.Contains(r.Error, c.text) {
			t.Errorf("want %q, got %v", c.text, r.Err)
		}
	}
}
