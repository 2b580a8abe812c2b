package health

import (
	"context"
	"errors"
	"fmt"
	"net/http"
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
	// what the result would be if only the age of the gateway's own check did not matter
	fresh *Result
}

// NamedResult is the finding of one of the caller's checks.
type NamedResult struct {
	Name    string `json:"name"`
	Status  Status `json:"status"`
	Version string `json:"version,omitempty"`
	Output  string `json:"output,omitempty"`
}

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
		own = newError(r.Probe, r.URL, err, hint, true)
	}
	var stop *stopped
	if r.Status == "" || r.Status == Pass || worst(s, r.Status) != r.Status || errors.As(err, &stop) {
		r.Status, r.Err, r.Error = s, own, printable(own.Error())
	}
}

// add records the failure of a caller's check. Next to one of the probe itself it
// is told as well: it may be why.
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

// callerChecks runs what the caller wants to be looked at too.
func (t *attempt) callerChecks(ctx context.Context, r *Result) {
	told := r.Version != ""
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
