package health

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// MaxBody is how many bytes of a body a probe reads. A longer health document is an error.
const MaxBody = 256 << 10

const maxHeader = 64 << 10

// Result is the outcome of one try of one probe. Error is the text of Err, for JSON.
type Result struct {
	Probe      string        `json:"probe"`
	Kind       Kind          `json:"kind"`
	URL        string        `json:"url"`
	Status     Status        `json:"status"`
	Version    string        `json:"version,omitempty"` // normalised: no v in front
	HTTPStatus int           `json:"http_status,omitempty"`
	Components []Component   `json:"components,omitempty"`
	Readiness  Readiness     `json:"readiness,omitempty"` // of a gateway
	Evidence   time.Time     `json:"evidence,omitzero"`   // when the gateway last checked its Redis
	Findings   []NamedResult `json:"checks,omitempty"`    // of the caller's checks
	NotCovered []string      `json:"not_covered,omitempty"`
	Time       time.Time     `json:"time"` // when the try began
	Latency    time.Duration `json:"latency_ns"`
	Error      string        `json:"error,omitempty"`
	Err        error         `json:"-"`

	instance string
	// the result without regard to the age of the gateway's own check
	fresh *Result
}

// NamedResult is the finding of one of the caller's checks.
type NamedResult struct {
	Name    string `json:"name"`
	Status  Status `json:"status"`
	Version string `json:"version,omitempty"`
	Output  string `json:"output,omitempty"`
}

// Check tries the probe once. It uses the transport and the cookie jar of c; nil means a
// client of [NewClient]. It takes at most the probe's Timeout, and the same again for Checks.
// If ctx ends first, the result is Unknown and Err wraps the context's error and its cause.
// Several goroutines may call it.
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
	// The checks have their own time limit: if nothing answers, a missing package may be why.
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
		own = newError(r.Probe, r.URL, err, hint, true)
	}
	var stop *stopped
	if r.Status == "" || r.Status == Pass || worst(s, r.Status) != r.Status || errors.As(err, &stop) {
		r.Status, r.Err, r.Error = s, own, printable(own.Error())
	}
}

// add records the failure of a caller's check. If the probe failed too, the error has both,
// since one may be the cause of the other.
func (r *Result) add(err error, hint string) {
	own, failed := r.Err.(*Error)
	if !failed || r.Status != Fail {
		r.fail(Fail, err, hint)
		return
	}
	both := *own
	both.Err = fmt.Errorf("%w; %w", own.Err, err)
	if both.Next == "" {
		both.Next = hint
	}
	r.Err, r.Error = &both, printable(both.Error())
}

// failTransport records that no answer came.
func (t *attempt) failTransport(r *Result, err error) {
	hint, permanent, cause := transportError(err, t.limit)
	r.fail(Fail, newError(r.Probe, r.URL, cause, hint, !permanent), "")
}

// callerChecks runs the caller's checks.
func (t *attempt) callerChecks(ctx context.Context, r *Result) {
	reported := r.Version != ""
	for _, c := range t.p.Checks {
		n := NamedResult{Name: clean(c.Name), Status: Pass}
		f, err := c.Run(ctx)
		if errors.Is(err, ErrLogUnreadable) {
			n.Status, n.Output = Unknown, clean(err.Error())
			r.fail(Unknown, fmt.Errorf("%s: %w", n.Name, err), "give the user of the check permission to "+
				"read the log")
		} else if err != nil {
			n.Status, n.Output = Fail, clean(err.Error())
			r.add(fmt.Errorf("%s: %w", n.Name, err), "")
		} else {
			n.Version, n.Output = clean(f.Version), clean(f.Output)
			if err := t.wrongVersion(n.Version); err != nil {
				n.Status = Fail
				r.add(fmt.Errorf("%s: %w", n.Name, err), versionHint)
			}
			if n.Version != "" && !reported {
				r.setVersion(n.Version)
				reported = true
			}
		}
		if f.Instance != "" {
			r.instance += n.Name + "\x00" + f.Instance + "\x00"
		}
		r.Findings = append(r.Findings, n)
	}
	if !reported && defaults[t.p.Kind].port != "" && len(r.NotCovered) > 0 {
		r.NotCovered = append(r.NotCovered, "the version: not reported")
	}
}
