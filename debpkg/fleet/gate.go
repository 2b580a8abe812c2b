package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"example.com/tykupgrade/health"
)

// Gate is a request that must get the expected answer before a run, after each component and while
// canaries soak. With a Query, it is a query of a Prometheus server.
type Gate struct {
	Name       string            `yaml:"name"`        // in reports
	URL        string            `yaml:"url"`         // request URL
	Status     int               `yaml:"status"`      // 0: any 2xx
	Header     map[string]string `yaml:"header"`      // expected headers; an empty value: any
	Body       string            `yaml:"body"`        // regular expression
	JSON       map[string]string `yaml:"json"`        // expected values by path, such as data.items.0.state
	MaxLatency Duration          `yaml:"max_latency"` // of one request

	Query string   `yaml:"query"` // PromQL; URL is the server's; the answer is one number
	Min   *float64 `yaml:"min"`   // bounds of Query
	Max   *float64 `yaml:"max"`   // upper bound of query

	For Duration `yaml:"for"` // how long it must hold without a failure
}

// check reports what is wrong with a gate.
func (g Gate) check() error {
	u, err := url.Parse(g.URL)
	switch {
	case g.Name == "":
		return errors.New("the name is missing")
	case err != nil || u.Host == "":
		return fmt.Errorf("gate %s: invalid url %q: want one such as https://api.example.com/orders/",
			g.Name, g.URL)
	case g.Query != "" && g.Min == nil && g.Max == nil:
		return fmt.Errorf("gate %s: query needs min or max", g.Name)
	case g.Query == "" && (g.Min != nil || g.Max != nil):
		return fmt.Errorf("gate %s: min and max go with query", g.Name)
	case g.Query != "" && (g.Body != "" || g.JSON != nil || g.Status != 0 || g.Header != nil):
		return fmt.Errorf("gate %s: query excludes status, header, body and json", g.Name)
	}
	if _, err := regexp.Compile(g.Body); err != nil {
		return fmt.Errorf("gate %s: invalid body: %w", g.Name, err)
	}
	return nil
}

// Probe returns a probe that makes the gate's request once. Body must be valid, as
// [Inventory.Check] requires: Probe panics on an invalid one.
func (g Gate) Probe() health.Probe {
	if g.Query != "" {
		at := strings.TrimSuffix(g.URL, "/") + "/api/v1/query?" + url.Values{"query": {g.Query}}.Encode()
		p := health.HTTP(at, health.Expect{})
		p.Checks = append(p.Checks, health.Check{Name: "query",
			Run: func(ctx context.Context) (health.Finding, error) { return g.query(ctx, at) }})
		p.Name = g.Name
		return p
	}
	e := health.Expect{Status: g.Status, Header: g.Header}
	if g.Body != "" {
		e.Body = regexp.MustCompile(g.Body) // check has compiled it
	}
	p := health.HTTP(g.URL, e)
	p.Name = g.Name
	if g.JSON != nil || g.MaxLatency > 0 {
		p.Checks = append(p.Checks, health.Check{Name: "answer", Run: g.answer})
	}
	return p
}

// answer checks latency and JSON.
func (g Gate) answer(ctx context.Context) (health.Finding, error) {
	begun := time.Now()
	body, err := get(ctx, g.URL)
	if err != nil {
		return health.Finding{}, err
	}
	if took := time.Since(begun); g.MaxLatency > 0 && took > time.Duration(g.MaxLatency) {
		return health.Finding{}, fmt.Errorf("the answer took %v, max_latency is %v",
			took.Round(time.Millisecond), g.MaxLatency)
	}
	if g.JSON == nil {
		return health.Finding{}, nil
	}
	var doc any
	if err := json.Unmarshal(body, &doc); err != nil {
		return health.Finding{}, fmt.Errorf("the body is not JSON: %w", err)
	}
	for path, want := range g.JSON {
		got, err := at(doc, path)
		if err != nil {
			return health.Finding{}, err
		}
		if got != want {
			return health.Finding{}, fmt.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	return health.Finding{}, nil
}

// at follows a path of names and numbers.
func at(doc any, path string) (string, error) {
	for part := range strings.SplitSeq(path, ".") {
		var ok bool
		switch v := doc.(type) {
		case map[string]any:
			doc, ok = v[part]
		case []any:
			var i int
			if i, _ = strconv.Atoi(part); i >= 0 && i < len(v) {
				doc, ok = v[i], true
			}
		}
		if !ok {
			return "", fmt.Errorf("the body has no %s", path)
		}
	}
	if text, ok := doc.(string); ok {
		return text, nil
	}
	text, err := json.Marshal(doc)
	return string(text), err
}

// query asks Prometheus and compares the number with the bounds.
func (g Gate) query(ctx context.Context, at string) (health.Finding, error) {
	body, err := get(ctx, at)
	if err != nil {
		return health.Finding{}, err
	}
	var answer struct {
		Status string
		Error  string
		Data   struct {
			ResultType string
			Result     json.RawMessage
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Status != "success" {
		return health.Finding{}, fmt.Errorf("query %s: %s", g.Query, errors.Join(err,
			errors.New(answer.Status+" "+answer.Error)))
	}
	var samples [][2]any
	switch answer.Data.ResultType {
	case "scalar":
		var one [2]any
		err = json.Unmarshal(answer.Data.Result, &one)
		samples = append(samples, one)
	default:
		var vector []struct{ Value [2]any }
		err = json.Unmarshal(answer.Data.Result, &vector)
		for _, v := range vector {
			samples = append(samples, v.Value)
		}
	}
	if err != nil || len(samples) != 1 {
		return health.Finding{}, fmt.Errorf("query %s: %d results, want one number", g.Query,
			len(samples))
	}
	v, err := strconv.ParseFloat(fmt.Sprint(samples[0][1]), 64)
	switch {
	case err != nil || v != v:
		return health.Finding{}, fmt.Errorf("query %s: %v is not a number", g.Query, samples[0][1])
	case g.Min != nil && v < *g.Min:
		return health.Finding{}, fmt.Errorf("query %s: %v is below %v", g.Query, v, *g.Min)
	case g.Max != nil && v > *g.Max:
		return health.Finding{}, fmt.Errorf("query %s: %v is above %v", g.Query, v, *g.Max)
	}
	return health.Finding{Output: fmt.Sprint(v)}, nil
}

func get(ctx context.Context, at string) ([]byte, error) {
	client, err := health.NewClient(health.ClientOptions{})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	return io.ReadAll(io.LimitReader(resp.Body, health.MaxBody))
}

// Probes of all gates.
func (inv *Inventory) gateProbes() []health.Probe {
	var all []health.Probe
	for _, g := range inv.Gates {
		all = append(all, g.Probe())
	}
	return all
}

// HoldGates waits until every gate has held for its own time, [Gate.For].
func (inv *Inventory) HoldGates(ctx context.Context) error {
	policy := inv.Health.policy()
	for _, g := range inv.Gates {
		policy.For = max(policy.For, time.Duration(g.For))
	}
	if len(inv.Gates) == 0 {
		return nil
	}
	if _, err := health.Wait(ctx, policy, inv.gateProbes()...); err != nil {
		return &Error{Op: "hold gates", Kind: ErrUnhealthy, Err: err, Retry: true}
	}
	return nil
}

// ProbeGates makes the request of every gate without a Query once and returns the failures. The
// prober of a run calls it.
func (inv *Inventory) ProbeGates(ctx context.Context) error {
	var probes []health.Probe
	for _, g := range inv.Gates {
		if g.Query == "" {
			probes = append(probes, g.Probe())
		}
	}
	rep, err := health.Once(ctx, health.Policy{}, probes...)
	errs := []error{err}
	for _, p := range rep.Probes {
		if p.Status != health.Pass {
			errs = append(errs, fmt.Errorf("%s: %s", p.Probe, p.Error))
		}
	}
	return errors.Join(errs...)
}
