package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/internal/redact"
)

// Kind is the kind of a probe.
type Kind string

// The kinds of probes. Each has a constructor.
const (
	KindGateway   Kind = "gateway"
	KindDashboard Kind = "dashboard"
	KindPump      Kind = "pump"
	KindPlugin    Kind = "plugin"
	KindHTTP      Kind = "http"
	KindTCP       Kind = "tcp"
)

// DefaultTimeout is the time limit of one try without a Timeout.
const DefaultTimeout = 5 * time.Second

// Probe is one request and the answer that it expects. Make it with a constructor, then set
// optional fields. fmt, JSON and slog print no secrets of it.
type Probe struct {
	Name string // in reports; empty: the kind and the host
	Kind Kind

	// URL is the address to probe. For gateway, dashboard and pump, parts may be missing: "gw1"
	// is http://gw1:8080/hello. The scheme is http and the path is the program's default. For a
	// dashboard this is /hello, or /health if /hello is not found. The default port applies
	// only if the scheme is missing too. A gateway with control_api_port answers on that port
	// alone. User and password in the URL are used for basic authentication.
	URL string

	Want *semver.Version // the expected version; nil: any
	// gateway: its readiness path, "/ready" if empty (readiness_check_endpoint_name)
	Ready string
	// gateway: maximum age of its own checks; 0: a minute. Raise it with liveness_check.check_duration
	MaxAge  time.Duration
	Timeout time.Duration // of one try, and the same again for its Checks; 0: DefaultTimeout

	Method   string // plugin and HTTP; empty: GET
	Body     []byte // plugin and HTTP
	Expect   Expect // plugin and HTTP
	Header   http.Header
	User     string
	Password string

	Checks []Check // the caller's own; they run one by one after the probe itself
}

// Check is an additional check by the caller, such as of a package's version or a unit's state.
// It runs whether or not the probe itself passed. All Checks of a probe share one Timeout. Run
// must return when its context ends. An error makes the result a failure. If the probe fails
// too, the result's error has both causes.
type Check struct {
	Name string
	Run  func(context.Context) (Finding, error)
}

// Finding is the result of a [Check].
type Finding struct {
	Version  string // compared with Probe.Want; empty: unknown
	Instance string // a process: "pid 812, restarts 0". Wait counts from zero after a change
	Output   string
}

// Expect describes the expected answer. The zero value accepts any 2xx status.
type Expect struct {
	Status int               // 0: any 2xx
	Header map[string]string // required headers; an empty value matches any value
	Body   *regexp.Regexp    // matched against the first MaxBody bytes
}

// NewExpect makes an Expect from text, such as the flags of a command. A header is
// "Name: value", or "Name" for any value. body is a regular expression; empty matches any body.
// The error begins with the word header or body.
func NewExpect(status int, headers []string, body string) (e Expect, err error) {
	e.Status = status
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ":")
		if name = strings.TrimSpace(name); name == "" {
			return e, fmt.Errorf("header %q: want 'Name: value'", h)
		}
		if e.Header == nil {
			e.Header = map[string]string{}
		}
		e.Header[name] = strings.TrimSpace(value)
	}
	if body != "" {
		if e.Body, err = regexp.Compile(body); err != nil {
			return e, fmt.Errorf("body: %w", err)
		}
	}
	return e, nil
}

func (e Expect) empty() bool { return e.Status == 0 && len(e.Header) == 0 && e.Body == nil }

// Gateway probes a gateway's health, readiness and version. An empty base means
// http://localhost:8080/hello. A nil want accepts any version.
func Gateway(base string, want *semver.Version) Probe {
	return Probe{Kind: KindGateway, URL: base, Want: want}
}

// Dashboard probes whether a dashboard is alive, by default at http://localhost:3000/hello. A
// pass shows only that it answers.
func Dashboard(base string) Probe { return Probe{Kind: KindDashboard, URL: base} }

// Pump probes whether a pump is alive, by default at http://localhost:8083/health. A pass
// shows only that it answers.
func Pump(base string) Probe { return Probe{Kind: KindPump, URL: base} }

// Plugin sends an API request whose answer shows that a plugin ran. Expect a status, header or
// body that only the plugin produces; an empty Expect is invalid.
func Plugin(url string, e Expect) Probe { return Probe{Kind: KindPlugin, URL: url, Expect: e} }

// HTTP sends a request to any HTTP server.
func HTTP(url string, e Expect) Probe { return Probe{Kind: KindHTTP, URL: url, Expect: e} }

// TCP opens a connection to host:port and closes it.
func TCP(address string) Probe { return Probe{Kind: KindTCP, URL: "tcp://" + address} }

var defaults = map[Kind]struct{ port, path string }{
	KindGateway:   {"8080", "/hello"},
	KindDashboard: {"3000", "/hello"},
	KindPump:      {"8083", "/health"},
}

// target resolves the URL. The result still has the user part; see shown.
func (p Probe) target() (*url.URL, error) {
	def, known := defaults[p.Kind]
	raw := p.URL
	if raw == "" && known {
		raw = "localhost"
	}
	bare := known && !strings.Contains(raw, "://")
	if bare {
		raw = "http://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		// url.Error quotes the whole URL with its password.
		var e *url.Error
		if errors.As(err, &e) {
			err = e.Err
		}
		return nil, fmt.Errorf("bad URL: %w", err)
	}
	wantScheme := u.Scheme == "http" || u.Scheme == "https"
	if p.Kind == KindTCP {
		wantScheme = u.Scheme == "tcp" && u.Port() != ""
	}
	switch {
	case !wantScheme && p.Kind == KindTCP:
		return nil, errors.New("bad URL: want tcp://host:port")
	case !wantScheme:
		return nil, fmt.Errorf("bad URL: scheme %q is neither http nor https", clean(u.Scheme))
	case u.Hostname() == "":
		return nil, errors.New("bad URL: no host")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("bad URL: invalid port %s", clean(port))
		}
	}
	if bare && u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), def.port)
	}
	if known && (u.Path == "" || u.Path == "/") {
		u.Path = def.path
	}
	u.Fragment = ""
	return u, nil
}

// validate returns an error for a probe that cannot pass.
func (p Probe) validate() error {
	u, err := p.target()
	fail := func(err error, hint string) error {
		return newError(p.name(), "", fmt.Errorf("%w: %w", ErrInvalid, err), hint, false)
	}
	switch {
	case defaults[p.Kind].port == "" && p.Kind != KindPlugin && p.Kind != KindHTTP &&
		p.Kind != KindTCP:
		return fail(fmt.Errorf("unknown kind %q", p.Kind), "make probes with their constructors")
	case err != nil:
		return fail(err, "want http://host:port/path")
	case p.Kind == KindPlugin && p.Expect.empty():
		return fail(errors.New("no expected answer shows that the plugin ran"),
			"expect a status, header or body that only the plugin produces")
	case p.Ready != "" && !strings.HasPrefix(p.Ready, "/"):
		return fail(fmt.Errorf("readiness path %q does not begin with a slash", p.Ready), "")
	case p.Timeout < 0 || p.MaxAge < 0:
		return fail(errors.New("negative Timeout or MaxAge"), "")
	}
	if _, err := http.NewRequest(p.method(), u.String(), nil); err != nil {
		return fail(fmt.Errorf("bad method %q", clean(p.Method)), "")
	}
	for _, c := range p.Checks {
		if c.Name == "" || c.Run == nil {
			return fail(errors.New("a check has no name or no function"), "")
		}
	}
	return nil
}

func (p Probe) method() string {
	if p.Method == "" || defaults[p.Kind].port != "" {
		return http.MethodGet
	}
	return p.Method
}

func (p Probe) name() string {
	if p.Name != "" {
		return clean(p.Name)
	}
	u, err := p.target()
	if err != nil {
		return string(p.Kind)
	}
	name := string(p.Kind) + " " + u.Host
	if p.Kind == KindPlugin || p.Kind == KindHTTP {
		name += u.Path
	}
	return clean(name)
}

// shown returns the URL without password and query, which may hold keys.
func shown(u *url.URL) string { return clean(redact.URL(u)) }

// String returns the probe's name and URL, without password and query.
func (p Probe) String() string {
	u, err := p.target()
	if err != nil {
		return p.name() + " (bad URL)"
	}
	return p.name() + " (" + shown(u) + ")"
}

// Format prints [Probe.String] for every verb.
func (p Probe) Format(f fmt.State, _ rune) { _, _ = fmt.Fprint(f, p.String()) }

// MarshalJSON writes [Probe.String].
func (p Probe) MarshalJSON() ([]byte, error) { return json.Marshal(p.String()) }

// LogValue logs [Probe.String].
func (p Probe) LogValue() slog.Value { return slog.StringValue(p.String()) }
