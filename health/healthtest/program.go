package healthtest

import (
	"net/http"
	"sync"
	"time"
)

// Kind is the kind of a [Program].
type Kind string

// The kinds of programs.
const (
	Gateway   Kind = "gateway"
	Dashboard Kind = "dashboard"
	Pump      Kind = "pump"
)

// Options describes a program. Only Kind is required; a gateway also needs Version.
type Options struct {
	Kind       Kind
	Version    string           // "5.2.5"; a gateway before 4.1.0 reports it as "v4.0.8"
	CheckEvery time.Duration    // liveness_check.check_duration; 0: the gateway's 10 s
	HelloPath  string           // empty: the program's default
	ReadyPath  string           // empty: /ready
	Control    bool             // control_api_port is set: only [Program.Control] serves health
	Dashboard  bool             // use_db_app_configs: a gateway also checks its dashboard
	RPC        bool             // policy_source rpc: a gateway also checks its MDCB
	Plugin     Plugin           // state of the API's plugin
	Upstream   http.Handler     // the API's upstream; nil: [Echo]
	Now        func() time.Time // nil: time.Now
}

// Plugin is the state of the Go plugin of the gateway's only API. The plugin adds the header
// Foo: Bar, as AddFooBarHeader of Tyk's documentation does.
type Plugin int

// The states of a plugin.
const (
	NoPlugin Plugin = iota
	Loaded
	Broken // the .so did not load: depending on the version, requests pass without it or get HTTP 500
)

// Mode is how a program handles requests.
type Mode int

// The modes.
const (
	Normal   Mode = iota
	HalfOpen      // the connection stays open without an answer
	Reset         // a second request on a connection gets a TCP reset
	ResetAll      // every request gets a TCP reset
)

// Program is a fake gateway, dashboard or pump that serves HTTP. Several goroutines may use it.
type Program struct {
	o   Options
	now func() time.Time

	mu       sync.Mutex
	version  string
	started  time.Time
	tick     int64 // number of the last check
	details  map[string]item
	failing  map[string]string // component to the output of its check
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

// New returns a program that has just started.
func New(o Options) *Program {
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
	s := &Program{o: o, now: o.Now, failing: map[string]string{}, conns: map[string]bool{},
		plugin: o.Plugin}
	if s.now == nil {
		s.now = time.Now
	}
	s.version, s.started = o.Version, s.now()
	return s
}

// Restart replaces the process by one of the given version. The details are empty until its
// first check.
func (s *Program) Restart(version string) {
	s.change(func() {
		s.version, s.started, s.tick, s.details, s.stopping = version, s.now(), 0, nil, false
	})
}

// SetRedis makes checks of Redis fail with err; nil makes them pass. /hello shows it from the
// next check on.
func (s *Program) SetRedis(err error) { s.setFailing("redis", err) }

// SetDashboard does the same for the dashboard that a gateway checks.
func (s *Program) SetDashboard(err error) { s.setFailing("dashboard", err) }

// SetRPC does the same for the MDCB that a gateway checks.
func (s *Program) SetRPC(err error) { s.setFailing("rpc", err) }

func (s *Program) setFailing(component string, err error) {
	s.change(func() {
		delete(s.failing, component)
		if err != nil {
			s.failing[component] = err.Error()
		}
	})
}

// SetWedged stops the checks, so /hello repeats its last answer. Gateways did so when their
// Redis client hung (TT-17486).
func (s *Program) SetWedged(v bool) { s.change(func() { s.wedged = v }) }

// SetReloaded sets whether the gateway has loaded its APIs, as /ready demands. A new program
// has.
func (s *Program) SetReloaded(v bool) { s.change(func() { s.noReload = !v }) }

// SetStopping sets whether the gateway is shutting down, which /ready of 5.14 shows.
func (s *Program) SetStopping(v bool) { s.change(func() { s.stopping = v }) }

// SetPlugin changes the state of the plugin.
func (s *Program) SetPlugin(p Plugin) { s.change(func() { s.plugin = p }) }

// SetMode changes how the program handles requests from now on.
func (s *Program) SetMode(m Mode) { s.change(func() { s.mode, s.conns = m, map[string]bool{} }) }

// SetSlow delays every answer.
func (s *Program) SetSlow(d time.Duration) { s.change(func() { s.slow = d }) }

// change applies f after the checks that were due before it.
func (s *Program) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.check()
	f()
}

// check runs the last check that is due. Nothing has changed since that time.
func (s *Program) check() {
	due := int64(s.now().Sub(s.started) / s.o.CheckEvery)
	if s.o.Kind != Gateway || s.wedged || due <= s.tick {
		return
	}
	s.tick = due
	// Seconds, as the gateway writes them; finer only for programs that check more often.
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

func (s *Program) item(component, kind, at string) item {
	if output, bad := s.failing[component]; bad {
		return item{Status: "fail", Output: output, ComponentType: kind, Time: at}
	}
	return item{Status: "pass", ComponentType: kind, Time: at}
}
