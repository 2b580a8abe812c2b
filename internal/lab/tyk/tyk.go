// Package tyk stands in for Tyk's gateway, dashboard and pump, whose packages
// and images the registries here do not serve. A [Stub] answers as the real
// programs do over time: a gateway says "pass" without details until its first
// check, keeps an old answer between checks, and turns to 503 or not by its
// version. The rules were read in the gateway's sources and tried with 5.14.0.
//
// The command tykd below it serves a stub as a process, for test packages.
package tyk

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Kind is one of the three programs.
type Kind string

// The programs that a Stub can be.
const (
	Gateway   Kind = "gateway"
	Dashboard Kind = "dashboard"
	Pump      Kind = "pump"
)

// Options describes a stub. Only Kind is needed; a gateway also wants Version.
type Options struct {
	Kind       Kind
	Version    string           // bare: "5.2.5"; a gateway up to 4.0.x says "v4.0.8"
	CheckEvery time.Duration    // liveness_check.check_duration; 0: the gateway's 10 s
	HelloPath  string           // ""; the program's default
	ReadyPath  string           // ""; /ready
	Control    bool             // control_api_port is set: health is on [Stub.Control] only
	Dashboard  bool             // use_db_app_configs: a gateway also checks its dashboard
	RPC        bool             // policy_source rpc: a gateway also checks its MDCB
	Plugin     Plugin           // state of the API's plugin
	Upstream   http.Handler     // what the API proxies to; nil: [Echo]
	Now        func() time.Time // nil: time.Now
}

// Plugin is what became of the Go plugin that the stub's only API names. It
// adds the header Foo: Bar, as AddFooBarHeader of Tyk's documentation does.
type Plugin int

// The states of a plugin.
const (
	NoPlugin Plugin = iota
	Loaded
	Broken // the .so did not load: by version, traffic passes without it or gets HTTP 500
)

// Mode is how a stub treats every request.
type Mode int

// The ways to treat a request.
const (
	Normal   Mode = iota
	HalfOpen      // the connection stands, no answer ever comes
	Reset         // the second request of a kept-alive connection meets a TCP reset
	ResetAll      // every request does
)

// Stub is one program. It serves HTTP and is safe for concurrent use.
type Stub struct {
	o   Options
	now func() time.Time

	mu       sync.Mutex
	version  string
	started  time.Time
	tick     int64 // number of the last check
	details  map[string]item
	failing  map[string]string // component: what its check says
	wedged   bool
	noReload bool
	stopping bool
	plugin   Plugin
	mode     Mode
	slow     time.Duration
	conns    map[string]bool // connections that served a request, for Reset
}

type item struct {
	Status        string `json:"status"`
	Output        string `json:"output,omitempty"`
	ComponentType string `json:"componentType,omitempty"`
	Time          string `json:"time"`
}

type answer struct {
	Status      string          `json:"status"`
	Version     string          `json:"version,omitempty"`
	Description string          `json:"description,omitempty"`
	Details     map[string]item `json:"details,omitempty"`
}

// New returns a stub that has just started.
func New(o Options) *Stub {
	if o.CheckEvery == 0 {
		o.CheckEvery = 10 * time.Second
	}
	if o.HelloPath == "" {
		o.HelloPath = "/hello"
		if o.Kind == Pump {
			o.HelloPath = "/health"
		}
	}
	if o.ReadyPath == "" {
		o.ReadyPath = "/ready"
	}
	if o.Upstream == nil {
		o.Upstream = http.HandlerFunc(Echo)
	}
	s := &Stub{o: o, now: o.Now, failing: map[string]string{}, conns: map[string]bool{}, plugin: o.Plugin}
	if s.now == nil {
		s.now = time.Now
	}
	s.version, s.started = o.Version, s.now()
	return s
}

// Restart makes it a new process of the given version: details are gone until
// the next check.
func (s *Stub) Restart(version string) {
	s.change(func() {
		s.version, s.started, s.tick, s.details, s.stopping = version, s.now(), 0, nil, false
	})
}

// SetRedis takes Redis away for as long as err is not nil. /hello shows it
// from the next check on.
func (s *Stub) SetRedis(err error) { s.setFailing("redis", err) }

// SetDashboard does the same with the dashboard that a gateway checks.
func (s *Stub) SetDashboard(err error) { s.setFailing("dashboard", err) }

// SetRPC does the same with the MDCB that a gateway checks.
func (s *Stub) SetRPC(err error) { s.setFailing("rpc", err) }

func (s *Stub) setFailing(component string, err error) {
	s.change(func() {
		delete(s.failing, component)
		if err != nil {
			s.failing[component] = err.Error()
		}
	})
}

// SetWedged stops the checks: /hello repeats its last answer for ever, as
// gateways did whose Redis client hung (TT-17486).
func (s *Stub) SetWedged(v bool) { s.change(func() { s.wedged = v }) }

// SetReloaded says whether the gateway has loaded its APIs once, which /ready
// demands. A new stub has.
func (s *Stub) SetReloaded(v bool) { s.change(func() { s.noReload = !v }) }

// SetStopping says that the gateway is shutting down; /ready of 5.14 shows it.
func (s *Stub) SetStopping(v bool) { s.change(func() { s.stopping = v }) }

// SetPlugin changes the state of the plugin.
func (s *Stub) SetPlugin(p Plugin) { s.change(func() { s.plugin = p }) }

// SetMode changes how every request from now on is treated.
func (s *Stub) SetMode(m Mode) { s.change(func() { s.mode, s.conns = m, map[string]bool{} }) }

// SetSlow delays every answer.
func (s *Stub) SetSlow(d time.Duration) { s.change(func() { s.slow = d }) }

// change applies f after the checks that were due before it.
func (s *Stub) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.check()
	f()
}

// check runs the check that is due, in arrears: nothing changed since.
func (s *Stub) check() {
	due := int64(s.now().Sub(s.started) / s.o.CheckEvery)
	if s.o.Kind != Gateway || s.wedged || due <= s.tick {
		return
	}
	s.tick = due
	// Seconds, as the gateway writes them; finer only for stubs that check more often.
	layout := time.RFC3339
	if s.o.CheckEvery < time.Second {
		layout = time.RFC3339Nano
	}
	at := s.started.Add(time.Duration(due) * s.o.CheckEvery).Format(layout)
	s.details = map[string]item{"redis": s.item("redis", "datastore", at)}
	if s.o.Dashboard {
		s.details["dashboard"] = s.item("dashboard", "system", at)
	}
	if s.o.RPC {
		s.details["rpc"] = s.item("rpc", "system", at)
	}
}

func (s *Stub) item(component, kind, at string) item {
	if output, bad := s.failing[component]; bad {
		return item{Status: "fail", Output: output, ComponentType: kind, Time: at}
	}
	return item{Status: "pass", ComponentType: kind, Time: at}
}

// ServeHTTP answers on the program's main port.
func (s *Stub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.admit(w, r) {
		return
	}
	if !s.o.Control && s.serveHealth(w, r) {
		return
	}
	if s.o.Kind != Gateway {
		http.NotFound(w, r)
		return
	}
	s.serveAPI(w, r)
}

// Control answers on the port of control_api_port, for a stub with
// Options.Control.
func (s *Stub) Control() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.admit(w, r) && !s.serveHealth(w, r) {
			http.NotFound(w, r)
		}
	})
}

// admit applies mode and delay; false means that the request is done with.
func (s *Stub) admit(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	mode, slow := s.mode, s.slow
	again := s.conns[r.RemoteAddr]
	if mode == Reset {
		s.conns[r.RemoteAddr] = true
	}
	s.mu.Unlock()
	switch {
	case mode == HalfOpen:
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	case mode == ResetAll, mode == Reset && again:
		reset(w)
		return false
	}
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
	return true
}

func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if c, ok := conn.(*net.TCPConn); ok {
		_ = c.SetLinger(0)
	}
	_ = conn.Close()
}

func (s *Stub) serveHealth(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	s.check()
	hello := r.URL.Path == s.o.HelloPath
	ready := s.o.Kind == Gateway && r.URL.Path == s.o.ReadyPath && hasReady(s.version)
	var status int
	var body any
	switch {
	case !hello && !ready:
	case s.o.Kind != Gateway:
		// Both look at nothing, and neither names its version.
		status, body = http.StatusOK, answer{Status: "ok"}
	case r.Method != http.MethodGet:
		status, body = http.StatusMethodNotAllowed, apiError(http.StatusText(http.StatusMethodNotAllowed))
	case ready:
		status, body = s.ready()
	default:
		status, body = s.hello()
	}
	s.mu.Unlock()
	if status == 0 {
		return false
	}
	writeJSON(w, status, body)
	return true
}

func (s *Stub) hello() (int, any) {
	a := answer{Status: "pass", Version: s.reported(), Description: "Tyk GW", Details: s.details}
	var failed []string
	for name, d := range s.details {
		if d.Status == "fail" {
			failed = append(failed, name)
		}
	}
	switch {
	case len(failed) == 0:
	case fails503(s.version):
		a.Status = "fail"
		return http.StatusServiceUnavailable, a
	case len(failed) == len(s.details):
		a.Status = "fail"
	default:
		a.Status = "warn"
	}
	return http.StatusOK, a
}

func (s *Stub) ready() (int, any) {
	redis := s.failing["redis"] != ""
	if d, known := s.details["redis"]; known {
		redis = d.Status == "fail"
	}
	switch {
	case s.stopping && !older(s.version, 5, 14, 0):
		return http.StatusServiceUnavailable, apiError("Gateway is shutting down")
	case redis:
		return http.StatusServiceUnavailable, apiError("Redis connection not available")
	case s.noReload:
		return http.StatusServiceUnavailable, apiError("A successful API reload did not happen")
	}
	return http.StatusOK, answer{Status: "pass", Version: s.reported(), Description: "Tyk GW Ready", Details: s.details}
}

// serveAPI is the gateway's one API, listening on every other path.
func (s *Stub) serveAPI(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	plugin, version := s.plugin, s.version
	s.mu.Unlock()
	switch {
	case plugin == Loaded:
		r = r.Clone(r.Context())
		r.Header.Add("Foo", "Bar")
		w.Header().Add("Foo", "Bar")
	case plugin == Broken && !passesWithoutPlugin(version):
		writeJSON(w, http.StatusInternalServerError, map[string]string{"error": http.StatusText(http.StatusInternalServerError)})
		return
	}
	s.o.Upstream.ServeHTTP(w, r)
}

// Echo answers with what it was asked: an upstream. A path that begins
// with /delay/150ms/ takes that long.
func Echo(w http.ResponseWriter, r *http.Request) {
	if rest, ok := strings.CutPrefix(r.URL.Path, "/delay/"); ok {
		text, _, _ := strings.Cut(rest, "/")
		d, err := time.ParseDuration(text)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		select {
		case <-time.After(d):
		case <-r.Context().Done():
			return
		}
	}
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"method": r.Method, "path": r.URL.Path, "headers": r.Header, "body_bytes": n})
}

func apiError(message string) map[string]string {
	return map[string]string{"status": "error", "message": message}
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// The rules below are those of the gateway's tags 3.0.0 to 5.14.0.

func (s *Stub) reported() string {
	if older(s.version, 4, 1, 0) {
		return "v" + s.version
	}
	return s.version
}

func fails503(version string) bool {
	return slices.Contains([]string{"5.8.3", "5.8.6", "5.8.7", "5.8.8", "5.8.9", "5.8.10", "5.8.11", "5.8.12", "5.9.0"}, version)
}

func hasReady(version string) bool { return !older(version, 5, 8, 3) }

func passesWithoutPlugin(version string) bool {
	return older(version, 4, 0, 13) || !older(version, 4, 1, 0) && older(version, 5, 0, 1)
}

func older(version string, major, minor, patch int) bool {
	var v [3]int
	_, _ = fmt.Sscanf(version, "%d.%d.%d", &v[0], &v[1], &v[2])
	return slices.Compare(v[:], []int{major, minor, patch}) < 0
}
