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

// Kind is what a probe asks, and with that what its answer can prove.
type Kind string

// The kinds of probes; each has a constructor.
const (
	KindGateway   Kind = "gateway"
	KindDashboard Kind = "dashboard"
	KindPump      Kind = "pump"
	KindPlugin    Kind = "plugin"
	KindHTTP      Kind = "http"
	KindTCP       Kind = "tcp"
)

// DefaultTimeout is the time limit of one try.
const DefaultTimeout = 5 * time.Second

// Probe is one thing to ask. Make it with a constructor and fill in what is
// special. Printing one, by fmt, JSON or slog, shows no secrets.
type Probe struct {
	Name string // in reports; empty: the kind and the host
	Kind Kind

	// URL says where to ask. For gateway, dashboard and pump a missing scheme
	// is http, a missing path the program's default (of a dashboard /hello,
	// and /health where that is not found), and without a scheme a missing
	// port is the program's default too: "gw1" is http://gw1:8080/hello. With
	// control_api_port set, the gateway answers on that port alone. User and
	// password in it are used for basic authentication.
	URL string

	Want *semver.Version // the expected version; nil: any
	// gateway: its readiness path, "/ready" if empty (readiness_check_endpoint_name)
	Ready string
	// gateway: how old its own checks may be; 0: a minute. Raise it with liveness_check.check_duration
	MaxAge  time.Duration
	Timeout time.Duration // of one try, and again of its Checks; 0: DefaultTimeout

	Method   string // plugin and HTTP; empty: GET
	Body     []byte // plugin and HTTP
	Expect   Expect // plugin and HTTP
	Header   http.Header
	User     string
	Password string

	Checks []Check // the caller's own, after the probe's, one by one
}

// Check is something that the caller looks at in addition: the installed
// package's version, or whether the unit runs. It is asked whatever the probe
// itself found, for no longer than the probe's Timeout, and Run must end when
// its context does. An error makes the result a failure; where the probe fails
// too, the result's error tells of both.
type Check struct {
	Name string
	Run  func(context.Context) (Finding, error)
}

// Finding is what a Check saw.
type Finding struct {
	Version  string // compared with Probe.Want; empty: the check does not tell
	Instance string // a process: "pid 812, restarts 0". Wait starts to count again when it changes
	Output   string
}

// Expect is what an answer must show. The zero value asks for any 2xx status.
type Expect struct {
	Status int               // 0: any 2xx
	Header map[string]string // each must be there with this value; an empty value: with any
	Body   *regexp.Regexp    // matched against the first MaxBody bytes
}

// NewExpect returns the Expect of text, such as the flags of a command. A header is "Name: value",
// or "Name" for any value. body is a regular expression. An empty body is not looked at. The error
// begins with the word header or body.
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

// Gateway asks a gateway for its health, readiness and version. base may be
// empty (http://localhost:8080/hello); want may be nil.
func Gateway(base string, want *semver.Version) Probe {
	return Probe{Kind: KindGateway, URL: base, Want: want}
}

// Dashboard asks a dashboard whether it lives, by default at
// http://localhost:3000/hello. It proves no more than that.
func Dashboard(base string) Probe { return Probe{Kind: KindDashboard, URL: base} }

// Pump asks a pump whether it lives, by default at http://localhost:8083/health.
// It proves no more than that.
func Pump(base string) Probe { return Probe{Kind: KindPump, URL: base} }

// Plugin sends an API request whose answer shows that a plugin ran: one of
// status, header and body must be expected that only the plugin brings about.
func Plugin(url string, e Expect) Probe { return Probe{Kind: KindPlugin, URL: url, Expect: e} }

// HTTP sends any request.
func HTTP(url string, e Expect) Probe { return Probe{Kind: KindHTTP, URL: url, Expect: e} }

// TCP opens a connection to host:port and closes it.
func TCP(address string) Probe { return Probe{Kind: KindTCP, URL: "tcp://" + address} }

var defaults = map[Kind]struct{ port, path string }{
	KindGateway:   {"8080", "/hello"},
	KindDashboard: {"3000", "/hello"},
	KindPump:      {"8083", "/health"},
}

// target resolves the URL. The user part is left in it; see [Probe.shown].
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
		// url.Error quotes the whole, password included.
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
			return nil, fmt.Errorf("bad URL: there is no port %s", clean(port))
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

// validate refuses a probe that no try can make good.
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
		return fail(errors.New("nothing is expected that shows the plugin at work"),
			"expect the status, a header or a body that it brings about")
	case p.Ready != "" && !strings.HasPrefix(p.Ready, "/"):
		return fail(fmt.Errorf("readiness path %q does not begin with a slash", p.Ready), "")
	case p.Timeout < 0 || p.MaxAge < 0:
		return fail(errors.New("a negative time limit or age"), "")
	}
	if _, err := http.NewRequest(p.method(), u.String(), nil); err != nil {
		return fail(fmt.Errorf("bad method %q", clean(p.Method)), "")
	}
	for _, c := range p.Checks {
		if c.Name == "" || c.Run == nil {
			return fail(errors.New("a check lacks its name or function"), "")
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

// shown is the URL as it may be printed: a query can hold an API key.
func shown(u *url.URL) string { return clean(redact.URL(u)) }

// String names the probe and where it asks.
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
