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

// Readiness is the answer of a gateway's /ready.
type Readiness string

// The answers of /ready.
const (
	Ready            Readiness = "ready"
	NotReady         Readiness = "not ready"
	ReadyUnsupported Readiness = "unsupported" // the release has no /ready, or at another path
)

const defaultMaxAge = time.Minute

// era describes the health endpoints of a release.
type era struct {
	hello503 bool // /hello answers HTTP 503 when it fails; otherwise always 200
	ready    bool // the release has /ready
	known    bool
}

var readySince = semver.New(5, 8, 3, "", "")

// eraOf knows the tags from 3.0.0 to 5.14.0 and treats later ones like the last. Every gateway
// built outside Tyk's pipeline reports v5.5.0-dev, so a "dev" version is unknown.
func eraOf(v *semver.Version) era {
	if v == nil || v.Prerelease() == "dev" {
		return era{}
	}
	e := era{known: true, ready: !v.LessThan(readySince)}
	// 5.8.3 introduced it. Later releases removed it, added it again and removed it.
	switch p := v.Patch(); {
	case v.Major() != 5:
	case v.Minor() == 8:
		e.hello503 = p == 3 || p >= 6 && p <= 12
	case v.Minor() == 9:
		e.hello503 = p == 0
	}
	return e
}

// gateway requests /hello and, if the release has it, /ready.
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
		r.fail(Fail, fmt.Errorf("%w: none reported, want %s", ErrVersion, t.p.Want),
			"another program may listen there")
	}
	if e.known && !e.ready {
		r.Readiness = ReadyUnsupported
		r.NotCovered = append(r.NotCovered, "readiness: "+t.readyPath()+" exists since 5.8.3")
		return
	}
	t.ready(ctx, r, e)
}

// judge evaluates the gateway's report about itself.
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
		// A gateway without Redis is useless. Releases that also check a dashboard still
		// report "warn".
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
			hint = "this release answers 200 even when it fails: a proxy in front answers 503"
		}
		r.fail(Fail, fmt.Errorf("%w: HTTP 503", ErrUnhealthy), hint)
	}
	switch {
	case redis == nil:
		// Seen in 5.14.0: "pass" for ten seconds with Redis down.
		r.fail(Unknown, fmt.Errorf("%w: status %s without details of redis", ErrNotYetKnown, d.Status),
			"wait: a gateway first checks itself ten seconds after its start")
	case redis.Time.IsZero():
		r.fail(Unknown, fmt.Errorf("%w: the details of redis have no time", ErrNotYetKnown), "")
	default:
		r.Evidence = redis.Time
		t.age(r, a)
	}
}

// age compares two times of the same machine, so clocks need not agree. A gateway whose Redis
// client hung repeated its last answer for ever (TT-17486). nginx and other proxies write Date
// themselves, so age compares two clocks. Wait then only demands that the checks get newer.
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
			"restart the gateway, or raise the maximum age if liveness_check.check_duration is longer")
		r.fresh = &fresh
	case age < -limit:
		r.NotCovered = append(r.NotCovered, "the age of the gateway's own check: the Date of the "+
			"answer is from another clock")
	}
}

// fetchReady requests the readiness path under the prefix that /hello has behind a proxy. If
// that is not found, it requests the path at the root.
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
		// The name of /hello itself may contain a slash.
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

// ready requests the readiness endpoint. An API that listens on every path answers there too,
// so only the gateway's own document counts.
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
			r.fail(Fail, fmt.Errorf("%w: %s: status %s", ErrNotReady, u.Path, d.Status), "")
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
		note := fmt.Sprintf("readiness: %s answered HTTP %d, but not as a gateway", u.Path, a.code)
		r.NotCovered = append(r.NotCovered, note)
		if e.ready {
			r.fail(Warn, errors.New(note), "check readiness_check_endpoint_name")
		}
	}
}
