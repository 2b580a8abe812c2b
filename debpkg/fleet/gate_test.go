package fleet_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
)

func TestGates(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow":
			time.Sleep(100 * time.Millisecond)
		case "/api/v1/query":
			_, _ = fmt.Fprintf(w,
				`{"status":"success","data":{"resultType":"vector","result":[{"value":[1,%q]}]}}`,
				r.URL.Query().Get("query"))
			return
		}
		w.Header().Set("Foo", "Bar")
		_, _ = fmt.Fprint(w, `{"data": {"items": [{"state": "open", "n": 3}]}}`)
	}))
	defer srv.Close()
	for _, c := range []struct{ gate, want string }{
		{`url: URL`, ""},
		{`url: URL, status: 404`, "HTTP 200"},
		{`url: URL, header: {Foo: Bar}`, ""},
		{`url: URL, header: {Foo: Baz}`, "Foo"},
		{`url: URL, body: "open"`, ""},
		{`url: URL, body: "closed"`, "body"},
		{`url: URL, json: {data.items.0.state: open, data.items.0.n: 3}`, ""},
		{`url: URL, json: {data.items.0.state: closed}`, `data.items.0.state is "open", want "closed"`},
		{`url: URL, json: {data.items.1.state: open}`, "the body has no data.items.1.state"},
		{`url: URL/slow, max_latency: 20ms`, "max_latency is 20ms"},
		{`url: URL/slow, max_latency: 5m`, ""},
		{`url: URL, query: "0.5", max: 0.5`, ""},
		{`url: URL, query: "0.5", max: 0.4`, "0.5 is above 0.4"},
		{`url: URL, query: "0.5", min: 0.6`, "0.5 is below 0.6"},
		{`url: URL, query: "NaN", min: 0`, "NaN is not a number"},
	} {
		inv, err := fleet.Parse([]byte("versions: {pump: 1.9.0}\nhosts: [{name: p, component: " +
			"pump}]\ngates: [{name: g, " +
			strings.ReplaceAll(c.gate, "URL", srv.URL) + "}]\n"))
		if err != nil {
			t.Fatal(err)
		}
		err = inv.AskGates(t.Context())
		if (err != nil) != (c.want != "") || err != nil && (!strings.Contains(err.Error(), c.want) ||
			!strings.Contains(err.Error(), "g")) {
			t.Errorf("%s: %v", c.gate, err)
		}
	}
	// They hold for as long as they pass, and one that does not pass ends the wait.
	for number, holds := range map[string]bool{"0.5": true, "0.7": false} {
		inv, err := fleet.Parse(fmt.Appendf(nil, "versions: {pump: 1.9.0}\nhosts: [{name: p, component: "+
			"pump}]\nhealth: {success_threshold: 1, deadline: %s}\ngates: [{name: g, url: %q, query: "+
			"%q, max: 0.6}, {name: h, url: %[2]q}]\n", map[bool]string{true: "5m", false: "300ms"}[holds],
			srv.URL, number))
		if err != nil {
			t.Fatal(err)
		}
		if err := inv.HoldGates(t.Context()); (err == nil) != holds || !holds && !errors.Is(err,
			fleet.ErrUnhealthy) {
			t.Errorf("%s: %v", number, err)
		}
	}
	for _, gate := range []string{`url: "http://h/"`, "name: g", `name: g, url: h`,
		`name: g, url: "http://h/", body: "("`, `name: g, url: "http://h/", min: 1`,
		`name: g, url: "http://h/", query: up`,
		`name: g, url: "http://h/", query: up, max: 1, status: 200`} {
		if _, err := fleet.Parse([]byte("versions: {pump: 1.9.0}\nhosts: [{name: p, component: " +
			"pump}]\ngates: [{" + gate + "}]\n")); err == nil {
			t.Errorf("%q was accepted", gate)
		}
	}
}

// Every event is told as JSON; a hook before something can refuse it, and no error shows a
// secret address.
func TestHooks(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var told []string
	status := 200
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var e rollout.HookEvent
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil || r.Method != http.MethodPost {
			t.Errorf("%s: %v", r.Method, err)
		}
		mu.Lock()
		defer mu.Unlock()
		told = append(told, strings.TrimSpace(string(e.Point)+" "+e.Target))
		w.WriteHeader(status)
	}))
	defer srv.Close()
	seen := filepath.Join(t.TempDir(), "seen")
	inv, err := fleet.Parse([]byte("versions: {pump: 1.9.0}\nhosts: [{name: p, component: " +
		"pump}]\nhooks:\n- {name: chat, on: [before_run, before_target, after_run], url: \"" + srv.URL +
		"/secret\"}\n- {name: log, on: [after_target], command: [sh, -c, \"cat >>" + seen + "\"]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	done := false
	waves := []rollout.Wave{{Name: "pump", Targets: []rollout.Target{{Name: "p", Steps: []rollout.Step{
		{Name: "x", Do: func(context.Context) error { done = true; return nil }}}}}}}
	if _, err := rollout.Run(t.Context(), waves, inv.RunOptions()); err != nil || !done ||
		strings.Join(told, ", ") != "before_run, before_target p, after_run" {
		t.Errorf("%v, %v, %q", err, done, told)
	}
	if data, err := os.ReadFile(seen); err != nil || !strings.Contains(string(data), `"target":"p"`) {
		t.Errorf("%s, %v", data, err)
	}
	done, status = false, 403
	if _, err := rollout.Run(t.Context(), waves, inv.RunOptions()); !errors.Is(err,
		rollout.ErrVetoed) || done || strings.Contains(err.Error(), "secret") ||
		!strings.Contains(err.Error(), "403") {
		t.Errorf("%v, %v", err, done)
	}
	srv.Close()
	if _, err := rollout.Run(t.Context(), waves, inv.RunOptions()); !errors.Is(err,
		rollout.ErrVetoed) || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
	for _, hook := range []string{"on: [after_run], url: x", "name: h, url: x",
		"name: h, on: [later], url: x", "name: h, on: [after_run]",
		"name: h, on: [after_run], url: x, command: [y]"} {
		if _, err := fleet.Parse([]byte("versions: {pump: 1.9.0}\nhosts: [{name: p, component: " +
			"pump}]\nhooks: [{" + hook + "}]\n")); err == nil {
			t.Errorf("%q was accepted", hook)
		}
	}
}

// The gates are asked throughout a run, and the report counts.
func TestProber(t *testing.T) {
	t.Parallel()
	var fails atomic.Bool
	var asked atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		if fails.Load() {
			w.WriteHeader(500)
		}
	}))
	defer srv.Close()
	inv, err := fleet.Parse([]byte("versions: {pump: 1.9.0}\nhosts: [{name: p, component: " +
		"pump}]\nprober: {every: 5ms, stop: true}\ngates: [{name: front, url: \"" + srv.URL + "\"}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	work := func(name string, f func()) rollout.Target {
		return rollout.Target{Name: name, Steps: []rollout.Step{{Name: "x",
			Do: func(context.Context) error {
				f()
				// the third begins when two have been counted
				for least := asked.Load() + 3; asked.Load() < least; {
					time.Sleep(time.Millisecond)
				}
				return nil
			}}}}
	}
	rep, err := rollout.Run(t.Context(), []rollout.Wave{{Name: "w", Targets: []rollout.Target{work("a",
		func() {})}}}, inv.RunOptions())
	if err != nil || rep.Probes == nil || rep.Probes.Sent == 0 || rep.Probes.Failed != 0 {
		t.Fatalf("%v, %+v", err, rep.Probes)
	}
	touched := false
	rep, err = rollout.Run(t.Context(), []rollout.Wave{{Name: "w", Targets: []rollout.Target{work("a",
		func() { fails.Store(true) }), work("b", func() { touched = true })}}}, inv.RunOptions())
	if !errors.Is(err, rollout.ErrProbes) || touched || rep.Probes.Failed == 0 {
		t.Errorf("%v, %v, %+v", err, touched, rep.Probes)
	}
}
