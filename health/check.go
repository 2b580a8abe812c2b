package health

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// MaxBody is how much of a body is read. A longer health document is refused.
const MaxBody = 256 << 10

const maxHeader = 64 << 10

// Result is what one try of one probe found. Err and Error say the same; only
// Error is in its JSON.
type Result struct {
	Probe      string        `json:"probe"`
	Kind       Kind          `json:"kind"`
	URL        string        `json:"url"`
	Status     Status        `json:"status"`
	Version    string        `json:"version,omitempty"` // normalised: no v in front
	HTTPStatus int           `json:"http_status,omitempty"`
	Components []Component   `json:"components,omitempty"`
	Readiness  Readiness     `json:"readiness,omitempty"` // of a gateway
	Evidence   time.Time     `json:"evidence,omitzero"`   // when the gateway last looked at its Redis
	Findings   []NamedResult `json:"checks,omitempty"`    // of the caller's checks
	NotCovered []string      `json:"not_covered,omitempty"`
	Time       time.Time     `json:"time"` // when the try began
	Latency    time.Duration `json:"latency_ns"`
	Error      string        `json:"error,omitempty"`
	Err        error         `json:"-"`

	instance string
}

// NamedResult is the finding of one of the caller's checks.
type NamedResult struct {
	Name    string `json:"name"`
	Status  Status `json:"status"`
	Version string `json:"version,omitempty"`
	Output  string `json:"output,omitempty"`
}

// ClientOptions describes an HTTP client for probes. The zero value is useful.
type ClientOptions struct {
	CA         []byte // PEM certificates to trust instead of the system's
	Cert, Key  []byte // PEM client certificate
	ServerName string // for SNI and the certificate's name, where the URL has another
}

// NewClient returns a client for [Probe.Check] and [Policy.Client]. It opens a
// connection for every request: a kept one may lead to a process that no
// longer listens.
func NewClient(o ClientOptions) (*http.Client, error) {
	c := &tls.Config{ServerName: o.ServerName, MinVersion: tls.VersionTLS12}
	if len(o.CA) > 0 {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(o.CA) {
			return nil, errors.New("read CA: no PEM certificate in it")
		}
	}
	if len(o.Cert) > 0 || len(o.Key) > 0 {
		cert, err := tls.X509KeyPair(o.Cert, o.Key)
		if err != nil {
			return nil, fmt.Errorf("read client certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:        c,
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: maxHeader,
	}}, nil
}

var plainClient, _ = NewClient(ClientOptions{})

// Check asks once. A nil client is one of [NewClient]; of another only the
// transport and the cookie jar are used. It takes no longer than the probe's
// Timeout, and as long again for Checks. When ctx ends first, the result is
// Unknown and its Err has the context's error and cause.
func (p Probe) Check(ctx context.Context, c *http.Client) Result {
	r := Result{Probe: p.name(), Kind: p.Kind, Time: time.Now().UTC()}
	u, err := p.target()
	if err == nil {
		r.URL = shown(u)
	}
	if err := p.validate(); err != nil {
		r.fail(Fail, err, "")
		return r
	}
	if c == nil {
		c = plainClient
	}
	limit := p.Timeout
	if limit == 0 {
		limit = DefaultTimeout
	}
	try, cancel := context.WithTimeoutCause(ctx, limit, errTryTimeout)
	defer cancel()
	t := &attempt{p: p, u: u, limit: limit, client: &http.Client{
		Transport:     c.Transport,
		Jar:           c.Jar,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	switch p.Kind {
	case KindGateway:
		t.gateway(try, &r)
	case KindDashboard, KindPump:
		t.alive(try, &r)
	case KindTCP:
		t.connect(try, &r)
	default:
		t.request(try, &r)
	}
	// In a time of their own: a package that is missing is told best where
	// nothing answers.
	checks, cancelChecks := context.WithTimeoutCause(ctx, limit, errTryTimeout)
	defer cancelChecks()
	t.callerChecks(checks, &r)
	if ctx.Err() != nil && r.Status != Pass {
		r.fail(Unknown, stoppedBy(ctx), "")
	}
	r.Latency = time.Since(r.Time)
	return r
}

// fail records why a result is not a pass; the gravest reason stays.
func (r *Result) fail(s Status, err error, hint string) {
	var own *Error
	if !errors.As(err, &own) {
		own = &Error{Probe: r.Probe, URL: r.URL, Err: err, hint: hint}
	}
	var stop *stopped
	if r.Status == "" || r.Status == Pass || worst(s, r.Status) != r.Status || errors.As(err, &stop) {
		r.Status, r.Err, r.Error = s, own, printable(own.Error())
	}
}

// add records the failure of a caller's check. Beside one of the probe itself it
// is told as well: it may be why.
func (r *Result) add(err error, hint string) {
	own, failed := r.Err.(*Error)
	if !failed || r.Status != Fail {
		r.fail(Fail, err, hint)
		return
	}
	both := *own
	both.Err = fmt.Errorf("%w; %w", own.Err, err)
	if both.hint == "" {
		both.hint = hint
	}
	r.Err, r.Error = &both, printable(both.Error())
}

// failTransport records that no answer came.
func (t *attempt) failTransport(r *Result, err error) {
	hint, permanent, cause := transportError(err, t.limit)
	r.fail(Fail, &Error{Probe: r.Probe, URL: r.URL, Err: cause, hint: hint, permanent: permanent}, "")
}

// attempt is one try of one probe.
type attempt struct {
	p      Probe
	u      *url.URL
	limit  time.Duration
	client *http.Client
}

type response struct {
	code   int
	header http.Header
	body   []byte
	cut    bool // the body is longer than MaxBody
}

func (t *attempt) fetch(ctx context.Context, u *url.URL) (*response, error) {
	plain := *u
	plain.User = nil
	req, err := http.NewRequestWithContext(ctx, t.p.method(), plain.String(), bytes.NewReader(t.p.Body))
	if err != nil {
		return nil, err
	}
	for name, values := range t.p.Header {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
		req.Header.Del("Host")
	}
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "tykupgrade-health")
	}
	user, password := t.p.User, t.p.Password
	if user == "" && password == "" && u.User != nil {
		user = u.User.Username()
		password, _ = u.User.Password()
	}
	if user != "" || password != "" {
		req.SetBasicAuth(user, password)
	}
	res, err := t.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, MaxBody+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer (HTTP %d): %w", res.StatusCode, err)
	}
	a := &response{code: res.StatusCode, header: res.Header, body: body}
	if len(body) > MaxBody {
		a.body, a.cut = body[:MaxBody], true
	}
	return a, nil
}

// document reads a health document out of an answer.
func (a *response) document() (Document, error) {
	if a.cut {
		return Document{}, fmt.Errorf("%w: longer than %d bytes", ErrMalformed, MaxBody)
	}
	return Parse(a.body)
}

// describe says what kind of answer it was that is not the expected one.
func (a *response) describe() error {
	text := fmt.Sprintf("HTTP %d %s", a.code, http.StatusText(a.code))
	if location, err := url.Parse(a.header.Get("Location")); err == nil && a.code/100 == 3 {
		text += " to " + shown(location)
	}
	if d, err := a.document(); err == nil && d.Output != "" {
		text += ": " + d.Output
	} else if errors.Is(err, ErrMalformed) && len(a.body) > 0 && a.body[0] == '<' {
		text += " with HTML"
	}
	return fmt.Errorf("%w: %s", ErrUnexpected, text)
}

// alive is the probe of dashboard and pump.
func (t *attempt) alive(ctx context.Context, r *Result) {
	what := "its databases"
	if t.p.Kind == KindPump {
		what = "its stores and how far it lags behind"
	}
	r.NotCovered = []string{"more than liveness: the endpoint does not look at " + what}
	a, err := t.fetch(ctx, t.u)
	if err == nil && a.code == http.StatusNotFound && t.p.Kind == KindDashboard && t.u.Path == defaults[KindDashboard].path {
		// The dashboard's configuration reference names /health as the
		// default, its procedures /hello.
		u := *t.u
		u.Path = "/health"
		var second *response
		if second, err = t.fetch(ctx, &u); err == nil && second.code != http.StatusNotFound {
			a, r.URL = second, shown(&u)
		}
	}
	if err != nil {
		t.failTransport(r, err)
		return
	}
	r.HTTPStatus = a.code
	if a.code != http.StatusOK {
		r.fail(Fail, a.describe(), notFoundHint(a.code))
		return
	}
	d, err := a.document()
	if err != nil {
		r.fail(Fail, err, "something else may listen there")
		return
	}
	r.Components = d.Components
	r.setVersion(d.Version)
	r.Status = Pass
	if d.Status != Pass {
		r.fail(d.Status, fmt.Errorf("%w: status %s%s", ErrUnhealthy, d.Status, after(": ", d.Output)), "look at its log")
	}
	if err := t.wrongVersion(d.Version); err != nil {
		r.fail(Fail, err, versionHint)
	}
}

func notFoundHint(code int) string {
	if code == http.StatusNotFound {
		return "check the port and health_check_endpoint_name"
	}
	return ""
}

func after(sep, s string) string {
	if s == "" {
		return ""
	}
	return sep + s
}

func (r *Result) setVersion(reported string) {
	r.Version = reported
	if v, err := ParseVersion(reported); err == nil {
		r.Version = v.String()
	}
}

// wrongVersion holds a reported version to the wanted one.
func (t *attempt) wrongVersion(reported string) error {
	if t.p.Want == nil || reported == "" {
		return nil
	}
	if v, err := ParseVersion(reported); err == nil && v.Equal(t.p.Want) {
		return nil
	}
	return fmt.Errorf("%w: %s, want %s", ErrVersion, reported, t.p.Want)
}

const versionHint = "the old process may still hold the port, or the upgrade did not happen"

// connect is the probe of a TCP port.
func (t *attempt) connect(ctx context.Context, r *Result) {
	r.NotCovered = []string{"only that the port accepts connections"}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.u.Host)
	if err != nil {
		t.failTransport(r, err)
		return
	}
	_ = conn.Close()
	r.Status = Pass
}

// request is the probe of a plugin or of any HTTP server.
func (t *attempt) request(ctx context.Context, r *Result) {
	a, err := t.fetch(ctx, t.u)
	if err != nil {
		t.failTransport(r, err)
		return
	}
	r.HTTPStatus = a.code
	r.Status = Pass
	var hint string
	if t.p.Kind == KindPlugin {
		r.NotCovered = []string{"other APIs and plugins than this one"}
		hint = "search the gateway's log for \"Could not load Go-plugin\", \"plugin file not found\" and \"Couldn't load bundle\""
	}
	e := t.p.Expect
	switch {
	case e.Status == 0 && a.code/100 != 2, e.Status != 0 && a.code != e.Status:
		want := "2xx"
		if e.Status != 0 {
			want = fmt.Sprint(e.Status)
		}
		// The body stays out of the message: an API's answer may echo keys.
		r.fail(Fail, fmt.Errorf("%w: HTTP %d, want %s", ErrUnexpected, a.code, want), hint)
	case e.Body != nil && !e.Body.Match(a.body):
		more := ""
		if a.cut {
			more = fmt.Sprintf(" in its first %d bytes", MaxBody)
		}
		r.fail(Fail, fmt.Errorf("%w: the body does not match %q%s", ErrUnexpected, e.Body, more), hint)
	}
	for name, want := range e.Header {
		values := a.header.Values(name)
		switch found := contains(values, want); {
		case len(values) == 0:
			r.fail(Fail, fmt.Errorf("%w: no header %s", ErrUnexpected, name), hint)
		case !found:
			r.fail(Fail, fmt.Errorf("%w: header %s has another value", ErrUnexpected, name), hint)
		}
	}
}

func contains(values []string, want string) bool {
	for _, v := range values {
		if want == "" || v == want {
			return true
		}
	}
	return false
}

// callerChecks runs what the caller wants to be looked at too.
func (t *attempt) callerChecks(ctx context.Context, r *Result) {
	told := r.Version != ""
	for _, c := range t.p.Checks {
		n := NamedResult{Name: clean(c.Name), Status: Pass}
		f, err := c.Run(ctx)
		if err != nil {
			n.Status, n.Output = Fail, clean(err.Error())
			r.add(fmt.Errorf("%s: %w", n.Name, err), "")
		} else {
			n.Version, n.Output = clean(f.Version), clean(f.Output)
			if err := t.wrongVersion(n.Version); err != nil {
				n.Status = Fail
				r.add(fmt.Errorf("%s: %w", n.Name, err), versionHint)
			}
			if n.Version != "" && !told {
				r.setVersion(n.Version)
				told = true
			}
		}
		if f.Instance != "" {
			r.instance += n.Name + "\x00" + f.Instance + "\x00"
		}
		r.Findings = append(r.Findings, n)
	}
	if !told && defaults[t.p.Kind].port != "" && len(r.NotCovered) > 0 {
		r.NotCovered = append(r.NotCovered, "the version: it does not tell")
	}
}
