package health_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/tykupgrade/health"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; run with -update if that is meant. Got:\n%s", name, got)
	}
}

// report is one with a probe in each state.
func report(t *testing.T) health.Report {
	at := time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)
	mux := http.NewServeMux()
	mux.Handle("good/", recorded{"/hello": {200, `{"status":"pass","version":"v5.2.5","details":{` +
		redis("pass", "") + `}}`}})
	mux.Handle("warn/", recorded{"/hello": {200, `{"status":"warn","version":"5.2.5","details":{` +
		redis("pass", "") +
		`,"dashboard":{"status":"fail","output":"dial \"tcp\": refused\\","componentType":"system","time":"2026-11-23T06:00:00Z"}}}`}})
	mux.Handle("early/", recorded{"/hello": {200, `{"status":"pass","version":"5.2.5"}`}})
	mux.Handle("old/", recorded{"/hello": {200, `{"status":"pass","version":"v4.0.8","details":{` +
		redis("pass", "") + `}}`}})
	want := version(t, "5.2.5")
	quoted := health.Pump("pump")
	quoted.Name = "pump \"a\\b\""
	quoted.Checks = []health.Check{{Name: "package", Run: func(context.Context) (health.Finding,
		error) {
		return health.Finding{Version: "1.9.0", Output: "installed"}, nil
	}}}
	mux.Handle("pump/", recorded{"/health": {200, `{"status": "ok"}`}})
	r, err := health.Once(t.Context(), health.Policy{Client: client(mux)},
		health.Gateway("http://good", want), health.Gateway("http://warn", want),
		health.Gateway("http://early", want), health.Gateway("http://old", want), quoted)
	if err != nil {
		t.Fatal(err)
	}
	// What depends on the clock is set.
	r.Started, r.Duration = at, 1500*time.Millisecond
	for i := range r.Probes {
		r.Probes[i].Time, r.Probes[i].Latency = at, 12340*time.Microsecond
	}
	return r
}

func TestReportFormats(t *testing.T) {
	t.Parallel()
	r := report(t)
	if r.Status != health.Fail {
		t.Errorf("overall %s", r.Status)
	}
	for name, write := range map[string]func(io.Writer) error{
		"report.json": r.WriteJSON, "report.health.json": r.WriteHealth, "report.txt": r.WriteTable,
		"report.prom": r.WritePrometheus,
	} {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		golden(t, name, b.Bytes())
		if err := write(failing{}); err == nil {
			t.Errorf("%s: a failed write is not reported", name)
		}
	}
	var b bytes.Buffer
	_ = r.WriteJSON(&b)
	var back health.Report
	if err := json.Unmarshal(b.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	if err := back.WriteJSON(&again); err != nil || again.String() != b.String() {
		t.Errorf("a report changes on its way through JSON: %v", err)
	}
	b.Reset()
	_ = r.WriteHealth(&b)
	d, err := health.Parse(b.Bytes())
	if err != nil || d.Status != health.Fail || len(d.Components) != len(r.Probes) {
		t.Errorf("our own document does not parse: %+v, %v", d, err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("disk full") }

// Each line is a comment or a sample of the exposition format's grammar, and
// each family is in one piece.
func TestPrometheusGrammar(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	if err := report(t).WritePrometheus(&b); err != nil {
		t.Fatal(err)
	}
	sample := regexp.MustCompile(
		`^([a-z_]+)\{[a-z]+="(?:[^"\\\n]|\\[\\"n])*"(?:,[a-z]+="(?:[^"\\\n]|\\[\\"n])*")*\} [0-9.e+-]+$`)
	family, seen := "", map[string]bool{}
	for line := range strings.Lines(b.String()) {
		line = strings.TrimSuffix(line, "\n")
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			family, _, _ = strings.Cut(name, " ")
			if seen[family] {
				t.Errorf("family %s is in two pieces", family)
			}
			seen[family] = true
			continue
		}
		if strings.HasPrefix(line, "# HELP ") {
			continue
		}
		if m := sample.FindStringSubmatch(line); m == nil || m[1] != family || seen[line] {
			t.Errorf("in family %s: %q", family, line)
		}
		seen[line] = true
	}
	if len(seen) < 20 {
		t.Errorf("only %d lines", len(seen))
	}
}

func get(h http.Handler, target string, header ...string) *http.Response {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func TestHandler(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		made, status := 0, health.Pass
		h := health.Handler(func(context.Context) (health.Report, error) {
			made++
			time.Sleep(time.Second)
			return health.Report{Status: status, Probes: []health.ProbeReport{
				{Result: health.Result{Probe: "p", Status: status}}}}, nil
		}, health.HandlerOptions{MaxAge: 10 * time.Second})
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if res := get(h, "/"); res.StatusCode != 200 ||
					res.Header.Get("Content-Type") != health.MediaType {
					t.Errorf("HTTP %d, %s", res.StatusCode, res.Header.Get("Content-Type"))
				}
			})
		}
		all.Wait()
		time.Sleep(5 * time.Second)
		if res := get(h, "/"); made != 1 || res.Header.Get("Cache-Control") != "max-age=5" {
			t.Errorf("made %d times, %s", made, res.Header.Get("Cache-Control"))
		}
		for s, code := range map[health.Status]int{health.Warn: 200, health.Unknown: 503,
			health.Fail: 503} {
			time.Sleep(11 * time.Second)
			status = s
			if res := get(h, "/"); res.StatusCode != code {
				t.Errorf("%s: HTTP %d, want %d", s, res.StatusCode, code)
			}
			for _, prom := range []*http.Response{get(h, "/?format=prometheus"), get(h, "/", "Accept",
				"text/plain;version=0.0.4;q=0.5,*/*;q=0.1"),
				// What Prometheus 2 sends.
				get(h, "/", "Accept",
					"application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2")} {
				if prom.StatusCode != 200 || prom.Header.Get("Content-Type") != health.PrometheusType {
					t.Errorf("%s as Prometheus: HTTP %d", s, prom.StatusCode)
				}
			}
		}
		for target, code := range map[string]int{"/?format=json": 503, "/?format=table": 503,
			"/?format=yaml": 400} {
			status = health.Fail
			time.Sleep(11 * time.Second)
			if res := get(h, target); res.StatusCode != code {
				t.Errorf("%s: HTTP %d, want %d", target, res.StatusCode, code)
			}
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodHead, "/", nil))
		if w.Code != 503 || w.Body.Len() != 0 {
			t.Errorf("HEAD: %d with %d bytes", w.Code, w.Body.Len())
		}
		w = httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", nil))
		if w.Code != 405 || w.Header().Get("Allow") == "" {
			t.Errorf("POST: %d", w.Code)
		}
	})
}

func TestHandlerWhereTheReportIsLateOrFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var quick atomic.Bool
		h := health.Handler(func(ctx context.Context) (health.Report, error) {
			if !quick.Load() {
				time.Sleep(time.Minute) // longer than its context allows
			}
			if ctx.Err() == nil {
				return health.Report{}, errors.New("bad\x1b[2J policy")
			}
			return health.Report{Status: health.Pass, Probes: []health.ProbeReport{{}}}, nil
		}, health.HandlerOptions{Timeout: 3 * time.Second})
		start := time.Now()
		res := get(h, "/")
		body, _ := io.ReadAll(res.Body)
		d, err := health.Parse(body)
		if res.StatusCode != 503 || time.Since(start) != 3*time.Second || err != nil ||
			d.Output != "unknown: no report within 3s" {
			t.Errorf("late: HTTP %d after %v: %s", res.StatusCode, time.Since(start), body)
		}
		if res := get(h, "/?format=prometheus"); res.StatusCode != 200 {
			t.Errorf("late, for Prometheus: HTTP %d", res.StatusCode)
		}
		time.Sleep(2 * time.Minute)
		quick.Store(true)
		res = get(h, "/")
		if body, _ := io.ReadAll(res.Body); res.StatusCode != 503 || bytes.Contains(body,
			[]byte("\x1b")) || !bytes.Contains(body, []byte("policy")) {
			t.Errorf("failed: HTTP %d %q", res.StatusCode, body)
		}
		// Whoever asked first may go away; the report is made all the same.
		time.Sleep(time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx))
		synctest.Wait()
		if w.Code != 503 {
			t.Errorf("gone client: HTTP %d", w.Code)
		}
		// Its leaving did not end the context: latest would have passed.
		if res := get(h, "/"); res.StatusCode != 503 {
			t.Errorf("after a gone client: HTTP %d", res.StatusCode)
		}
	})
}
