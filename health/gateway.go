package health

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/internal/tykversion"
)

// Readiness is what a gateway's /ready said.
type Readiness string

// The answers of /ready.
const (
	Ready            Readiness = "ready"
	NotReady         Readiness = "not ready"
	ReadyUnsupported Readiness = "unsupported" // the release has none, or its path is another
)

const defaultMaxAge = time.Minute

// era is how a release's endpoints behave.
type era struct {
	hello503 bool // /hello answers HTTP 503 when it fails; elsewhere it is always 200
	ready    bool // there is a /ready
	known    bool
}

var readySince = semver.New(5, 8, 3, "", "")

// eraOf knows the tags from 3.0.0 to 5.14.0 and takes later ones to be like
// the last. A gateway built outside Tyk's pipeline says v5.5.0-dev whatever it
// is, so nothing is known of a version with "dev" in it.
func eraOf(v *semver.Version) era {
	if v == nil || v.Prerelease() == "dev" {
		return era{}
	}
	e := era{known: true, ready: !v.LessThan(readySince)}
	// Introduced, taken back, in again by the 5.8 line, and gone since.
	switch p := v.Patch(); {
	case v.Major() != 5:
	case v.Minor() == 8:
		e.hello503 = p == 3 || p >= 6 && p <= 12
	case v.Minor() == 9:
		e.hello503 = p == 0
	}
	return e
}

// gateway judges /hello and, where the release has it, /ready.
func (t *attempt) gateway(ctx context.Context, r *Result) {
	r.NotCovered = []string{"whether plugins load: send an API request with Plugin"}
	if t.p.Want == nil {
		r.NotCovered = append(r.NotCovered, "the version: none was expected")
	}
	a, err := t.fetch(ctx, t.u)
	if err != nil {
		t.failTransport(r, err)
		return
	}
	r.HTTPStatus = a.code
	if a.code != http.StatusOK && a.code != http.StatusServiceUnavailable {
		r.fail(Fail, a.describe(), a.hint("check the port, health_check_endpoint_name and "+
			"control_api_port"))
		return
	}
	d, err := a.document()
	if err != nil {
		if a.code != http.StatusOK {
			err = fmt.Errorf("HTTP %d: %w", a.code, err)
		}
		r.fail(Fail, err, "another program or a proxy may answer there")
		return
	}
	v, _ := tykversion.Parse(d.Version)
	e := eraOf(v)
	r.setVersion(d.Version)
	r.Components = d.Components
	r.Status = Pass
	t.judge(r, a, d, e)
	if err := t.wrongVersion(d.Version); err != nil {
		r.fail(Fail, err, versionHint)
	}
	if t.p.Want != nil && d.Version == "" {
		r.fail(Fail, fmt.Errorf("%w: none told, want %s", ErrVersion, t.p.Want),
			"something else may listen there")
	}
	if e.known && !e.ready {
		r.Readiness = ReadyUnsupported
		r.NotCovered = append(r.NotCovered, "readiness: "+t.readyPath()+" exists since 5.8.3")
		return
	}
	t.ready(ctx, r, e)
}

// judge reads the gateway's own view of itself.
func (t *attempt) judge(r *Result, a *response, d Document, e era) {
	var redis *Component
	for i := range d.Components {
		c := &d.Components[i]
		if c.Name == "redis" {
			redis = c
		}
		if c.Status == Pass {
			continue
		}
		// A gateway that cannot reach Redis is of no use, though releases
		// that also check a dashboard call it "warn".
		status := Warn
		switch {
		case c.Status == Unknown:
			status = Unknown
		case c.Name == "redis":
			status = Fail
		}
		r.fail(status, fmt.Errorf("%w: %s: %s%s", ErrUnhealthy, c.Name, c.Status, after(": ", c.Output)),
			"")
	}
	if d.Status != Pass {
		r.fail(d.Status, fmt.Errorf("%w: status %s%s", ErrUnhealthy, d.Status, after(": ", d.Output)), "")
	}
	if a.code == http.StatusServiceUnavailable {
		hint := ""
		if e.known && !e.hello503 {
			hint = "this release answers 200 even when it fails: something in front says 503"
		}
		r.fail(Fail, fmt.Errorf("%w: HTTP 503", ErrUnhealthy), hint)
	}
	switch {
	case redis == nil:
		// Seen in 5.14.0: "pass" for ten seconds with Redis down.
		r.fail(Unknown, fmt.Errorf("%w: status %s without details of redis", ErrNotYetKnown, d.Status),
			"a gateway's first own check comes ten seconds after its start")
	case redis.Time.IsZero():
		r.fail(Unknown, fmt.Errorf("%w: the details of redis carry no time", ErrNotYetKnown), "")
	default:
		r.Evidence = redis.Time
		t.age(r, a)
	}
}

// age compares two times of the same machine, so clocks need not agree. A
// gateway whose Redis client hung repeated its last answer for ever (TT-17486).
// A proxy that writes Date itself (nginx does) compares two clocks after all:
// Wait then goes by whether the checks get newer.
func (t *attempt) age(r *Result, a *response) {
	limit := t.p.MaxAge
	if limit == 0 {
		limit = defaultMaxAge
	}
	now, err := http.ParseTime(a.header.Get("Date"))
	if err != nil {
		return
	}
	switch age := now.Sub(r.Evidence); {
	case age > limit:
		fresh := *r
		r.fail(Unknown, fmt.Errorf("%w: the gateway's last own check is %v old by the Date of the answer",
			ErrStale, age.Round(time.Second)),
			"restart it, or raise the maximum age if liveness_check.check_duration is that long")
		r.fresh = &fresh
	case age < -limit:
		r.NotCovered = append(r.NotCovered, "the age of the gateway's own check: the Date of the "+
			"answer is from another clock")
	}
}

// fetchReady asks the readiness path under the prefix that /hello has behind a
// proxy, and at the root if nothing answers there.
func (t *attempt) fetchReady(ctx context.Context) (*url.URL, *response, error) {
	u := *t.u
	ready := t.readyPath()
	u.Path, u.RawPath = ready, ""
	prefix := path.Dir(path.Clean(t.u.Path))
	if prefix == "/" || prefix == "." || strings.HasPrefix(ready, prefix+"/") {
		a, err := t.fetch(ctx, &u)
		return &u, a, err
	}
	below := u
	below.Path = prefix + ready
	a, err := t.fetch(ctx, &below)
	if err == nil && a.code == http.StatusNotFound {
		// /hello itself may be named with a slash in it.
		if b, err := t.fetch(ctx, &u); err == nil && b.code != http.StatusNotFound {
			return &u, b, nil
		}
	}
	return &below, a, err
}

func (t *attempt) readyPath() string {
	if t.p.Ready != "" {
		return t.p.Ready
	}
	return "/ready"
}

// ready asks the readiness endpoint. An API that listens on every path answers
// there too, so only the gateway's own words count.
func (t *attempt) ready(ctx context.Context, r *Result, e era) {
	u, a, err := t.fetchReady(ctx)
	if err != nil {
		hint, permanent, cause := transportError(err, t.limit)
		r.fail(Fail, newError(r.Probe, shown(u), cause, hint, !permanent), "")
		return
	}
	d, docErr := a.document()
	switch {
	case a.code == http.StatusOK && docErr == nil && d.Description == "Tyk GW Ready":
		r.Readiness = Ready
		if d.Status != Pass {
			r.Readiness = NotReady
			r.fail(Fail, fmt.Errorf("%w: %s says %s", ErrNotReady, u.Path, d.Status), "")
		}
	case a.code == http.StatusServiceUnavailable:
		r.Readiness = NotReady
		said := "HTTP 503"
		if docErr == nil && d.Output != "" {
			said = d.Output
		}
		r.fail(Fail, fmt.Errorf("%w: %s: %s", ErrNotReady, u.Path, said), "")
	default:
		r.Readiness = ReadyUnsupported
		note := fmt.Sprintf("readiness: %s answered HTTP %d, not as a gateway does", u.Path, a.code)
		r.NotCovered = append(r.NotCovered, note)
		if e.ready {
			r.fail(Warn, errors.New(note), "check readiness_check_endpoint_name")
		}
	}
}
