package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"example.com/tykupgrade/internal/lazyregexp"
	"example.com/tykupgrade/internal/tykversion"
)

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
	ctx, l := watchLookup(ctx)
	req, err := http.NewRequestWithContext(ctx, t.p.method(), plain.String(),
		bytes.NewReader(t.p.Body))
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
		return nil, l.cause(ctx, err)
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

// document parses the health document of an answer.
func (a *response) document() (Document, error) {
	if a.cut {
		return Document{}, fmt.Errorf("%w: longer than %d bytes", ErrMalformed, MaxBody)
	}
	return Parse(a.body)
}

// wantsTLS reports whether a TLS port answered a plain request. It knows the messages of Go
// (gateways), nginx and Apache.
func (a *response) wantsTLS() bool {
	return a.code == http.StatusBadRequest && plainToTLS.Match(a.body)
}

var plainToTLS = lazyregexp.New(
	`(?i)HTTP request to an HTTPS server|plain HTTP request was sent to HTTPS port|speaking plain HTTP to an SSL-enabled`)

const useHTTPS = "use https:// for this port"

// describe returns an error that describes an unexpected answer.
func (a *response) describe() error {
	if a.wantsTLS() {
		return fmt.Errorf("%w: HTTP %d: the port speaks TLS", ErrUnexpected, a.code)
	}
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

// alive probes a dashboard or a pump.
func (t *attempt) alive(ctx context.Context, r *Result) {
	what := "its databases"
	if t.p.Kind == KindPump {
		what = "its stores and how far it lags behind"
	}
	r.NotCovered = []string{"more than liveness: the endpoint does not check " + what}
	a, err := t.fetch(ctx, t.u)
	if err == nil && a.code == http.StatusNotFound && t.p.Kind == KindDashboard &&
		t.u.Path == defaults[KindDashboard].path {
		// Tyk's configuration reference names /health as the default, its procedures /hello.
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
		r.fail(Fail, a.describe(), a.hint("check the port and health_check_endpoint_name"))
		return
	}
	d, err := a.document()
	if err != nil {
		r.fail(Fail, err, "another program may listen there")
		return
	}
	r.Components = d.Components
	r.setVersion(d.Version)
	r.Status = Pass
	if d.Status != Pass {
		r.fail(d.Status, fmt.Errorf("%w: status %s%s", ErrUnhealthy, d.Status, after(": ", d.Output)),
			"see its log")
	}
	if err := t.wrongVersion(d.Version); err != nil {
		r.fail(Fail, err, versionHint)
	}
}

// hint returns the next step after an answer that is not the program's own.
func (a *response) hint(notFound string) string {
	switch {
	case a.wantsTLS():
		return useHTTPS
	case a.code == http.StatusNotFound:
		return notFound
	case a.code == http.StatusMethodNotAllowed:
		return "a proxy in front changes the method: it must be GET"
	case a.code/100 == 3:
		return "probe the target of the redirect"
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
	if v, err := tykversion.Parse(reported); err == nil {
		r.Version = v.String()
	}
}

// wrongVersion returns an error if the reported version is not the expected one.
func (t *attempt) wrongVersion(reported string) error {
	if t.p.Want == nil || reported == "" {
		return nil
	}
	if v, err := tykversion.Parse(reported); err == nil && v.Equal(t.p.Want) {
		return nil
	}
	return fmt.Errorf("%w: %s, want %s", ErrVersion, reported, t.p.Want)
}

const versionHint = "the old process may still hold the port, or the upgrade did not happen"

// connect probes a TCP port.
func (t *attempt) connect(ctx context.Context, r *Result) {
	r.NotCovered = []string{"more than that the port accepts connections"}
	conn, err := dial(ctx, "tcp", t.u.Host)
	if err != nil {
		t.failTransport(r, err)
		return
	}
	_ = conn.Close()
	r.Status = Pass
}

// request probes a plugin or any HTTP server.
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
		hint = "search the gateway's log for \"Could not load Go-plugin\", \"plugin file not found\" " +
			"and \"Couldn't load bundle\""
	}
	if a.wantsTLS() {
		r.fail(Fail, a.describe(), useHTTPS)
		return
	}
	e := t.p.Expect
	switch {
	case e.Status == 0 && a.code/100 != 2, e.Status != 0 && a.code != e.Status:
		want := "2xx"
		if e.Status != 0 {
			want = fmt.Sprint(e.Status)
		}
		// The message does not have the body: an API's answer may echo keys.
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
