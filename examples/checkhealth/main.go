// Command checkhealth checks the health of a Tyk stack, once or until it stays healthy.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/health"
)

const about = `Asks gateways, dashboards and pumps for their health, and a plugin for its effect. Without
any of these flags it asks one of each at its default address. A gateway passes once it has
checked its own Redis, ten seconds after a start: use -wait after an upgrade. Dashboard and
pump only show that they run.

  checkhealth -gateway-url gw1 -gateway-url gw2 -release 5.2.5 -wait 2m
  checkhealth -plugin-url http://gw1:8080/my-api/get -expect-header 'Foo: Bar'`

func main() { commandOf(&options{}).Main() }

// options are the flags as given.
type options struct {
	gateways, dashboards, pumps, plugins, tcp cli.List

	version, ready         string
	expectHeader           cli.List
	expectStatus           int
	expectBody             string
	wait, timeout          time.Duration
	stable, startup, age   time.Duration
	passes, failures       int
	json, prom, healthJSON bool
	ca, cert, key, server  string
	authFile, headerFile   string
}

func commandOf(o *options) cli.Command {
	return cli.Command{Name: "checkhealth", About: about, Verbs: []cli.Verb{{Flags: o.flags,
		Needs: needs, Run: o.check}},
		Notes: "Exit code 3 means here: a warning, or not yet known."}
}

func (o *options) flags(f *flag.FlagSet) {
	f.Var(&o.gateways, "gateway-url", "`URL` or host of a gateway (default path /hello, port "+
		"8080); repeatable")
	f.Var(&o.dashboards, "dashboard-url", "`URL` or host of a dashboard (/hello or /health, "+
		"3000); repeatable")
	f.Var(&o.pumps, "pump-url", "`URL` or host of a pump (/health, 8083); repeatable")
	f.Var(&o.tcp, "tcp", "`host:port` that must accept connections; repeatable")
	f.Var(&o.plugins, "plugin-url", "`URL` of an API call that shows a plugin at work; needs an "+
		"-expect flag; repeatable")
	f.Var(&o.expectHeader, "expect-header", "`'Name: value'` in the answer of -plugin-url; repeatable")
	f.IntVar(&o.expectStatus, "expect-status", 0, "HTTP `status` of the answer of -plugin-url "+
		"(default any 2xx)")
	f.StringVar(&o.expectBody, "expect-body", "", "`regexp` that the answer of -plugin-url matches")
	f.StringVar(&o.version, "release", "", "`version` that the gateways must report")
	f.StringVar(&o.ready, "ready", "", "`path` of the gateways' readiness endpoint (default /ready)")
	f.DurationVar(&o.age, "max-age", 0, "how old a gateway's own checks may be (default 1m)")
	f.DurationVar(&o.wait, "wait", 0, "repeat until all pass, at most this `long`; 0: ask once")
	f.IntVar(&o.passes, "passes", 0, "with -wait: passes in a row that each needs (default 2)")
	f.DurationVar(&o.stable, "stable", 0, "with -wait: time that the passes must span")
	f.IntVar(&o.failures, "failures", 0, "with -wait: failures in a row that end it (default none do)")
	f.DurationVar(&o.startup, "startup", 0, "with -failures: time in which failures do not count")
	f.DurationVar(&o.timeout, "timeout", 0, "limit of one try (default 5s)")
	f.BoolVar(&o.json, "json", false, "print the report as JSON")
	f.BoolVar(&o.healthJSON, "health-json", false, "print the report as application/health+json")
	f.BoolVar(&o.prom, "prom", false, "print the report for Prometheus")
	f.StringVar(&o.ca, "ca", "", "PEM `file` of the CA to trust")
	f.StringVar(&o.cert, "cert", "", "PEM `file` of the client certificate")
	f.StringVar(&o.key, "key", "", "PEM `file` of its key")
	f.StringVar(&o.server, "server-name", "", "`name` for SNI and in the certificate")
	f.StringVar(&o.authFile, "auth-file", "", "`file` with user:password for basic authentication")
	f.StringVar(&o.headerFile, "header-file", "", "`file` with lines 'Name: value' to send to "+
		"-plugin-url, for API keys")
}

// check runs the probes once, or until all pass.
func (o *options) check(ctx context.Context, c *cli.Call) error {
	if err := o.fit(c); err != nil {
		return err
	}
	probes, err := o.probes()
	if err != nil {
		return cli.Exit(cli.Usage, err)
	}
	policy, err := o.policy()
	if err != nil {
		return cli.Exit(cli.Usage, err)
	}
	machine := o.json || o.prom || o.healthJSON
	var report health.Report
	if o.wait > 0 {
		view := &live{out: c.Out, rows: make([][]string, len(probes))}
		if !machine {
			policy.Event = view.event
		}
		report, err = health.Wait(ctx, policy, probes...)
		c.Out.Clear()
	} else {
		report, err = health.Once(ctx, policy, probes...)
	}
	if len(report.Probes) == 0 { // refused before anything was asked
		return cli.Exit(cli.Usage, err)
	}
	switch {
	case o.json:
		err = errors.Join(err, report.WriteJSON(c.Out))
	case o.healthJSON:
		err = errors.Join(err, report.WriteHealth(c.Out))
	case o.prom:
		err = errors.Join(err, report.WritePrometheus(c.Out))
	default:
		c.Out.Printf("%s", table(c.Out, report.Rows()))
	}
	code := map[health.Status]int{health.Pass: cli.Yes, health.Fail: cli.No}
	result, known := code[report.Status]
	if !known {
		result = cli.Unknown
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return cli.Exit(cli.Interrupted, err)
	case err != nil:
		return cli.Exit(max(result, cli.No), err)
	}
	return cli.Exit(result, nil)
}

// needs names the flag that another flag requires. Without it that flag would do nothing, and its
// user would trust a check that never ran.
var needs = map[string]string{
	"expect-header": "plugin-url", "expect-status": "plugin-url", "expect-body": "plugin-url",
	"header-file": "plugin-url",
	"passes":      "wait", "stable": "wait", "failures": "wait", "startup": "failures",
	"cert": "key", "key": "cert",
}

// fit refuses flags that contradict each other.
func (o *options) fit(c *cli.Call) error {
	// Without any, one of each is asked at its default address.
	gateway := c.Given["gateway-url"] || !c.Given["dashboard-url"] && !c.Given["pump-url"] &&
		!c.Given["plugin-url"] && !c.Given["tcp"]
	for _, name := range []string{"release", "ready", "max-age"} {
		if c.Given[name] && !gateway {
			return cli.Wrong("-%s needs -gateway-url", name)
		}
	}
	for name, urls := range map[string]cli.List{"gateway-url": o.gateways,
		"dashboard-url": o.dashboards, "pump-url": o.pumps, "plugin-url": o.plugins, "tcp": o.tcp} {
		seen := map[string]bool{}
		for _, u := range urls {
			if seen[u] {
				return cli.Wrong("-%s %s is given twice", name, u)
			}
			seen[u] = true
		}
	}
	if o.wait < 0 {
		return cli.Wrong("invalid -wait %v: want a duration such as 2m", o.wait)
	}
	if o.json && o.prom || o.json && o.healthJSON || o.prom && o.healthJSON {
		return cli.Wrong("-json, -health-json and -prom exclude each other")
	}
	return nil
}

func (o *options) policy() (health.Policy, error) {
	p := health.Policy{SuccessThreshold: o.passes, For: o.stable, FailureThreshold: o.failures,
		Startup: o.startup, Deadline: o.wait, TryTimeout: o.timeout}
	c := health.ClientOptions{ServerName: o.server}
	for _, file := range []struct {
		path string
		to   *[]byte
	}{{o.ca, &c.CA}, {o.cert, &c.Cert}, {o.key, &c.Key}} {
		if file.path == "" {
			continue
		}
		data, err := os.ReadFile(file.path)
		if err != nil {
			return p, err
		}
		*file.to = data
	}
	client, err := health.NewClient(c)
	p.Client = client
	return p, err
}

func (o *options) probes() ([]health.Probe, error) {
	var want *semver.Version
	if o.version != "" {
		bare := strings.Replace(strings.TrimPrefix(o.version, "v"), "~", "-", 1) // Debian's spelling
		v, err := semver.StrictNewVersion(bare)
		if err != nil {
			return nil, fmt.Errorf("invalid -release %q: want a version such as 5.2.5", o.version)
		}
		want = v
	}
	expect, err := o.expect()
	if err != nil {
		return nil, err
	}
	user, password, err := readAuth(o.authFile)
	if err != nil {
		return nil, err
	}
	header, err := readHeader(o.headerFile)
	if err != nil {
		return nil, err
	}
	if len(o.gateways)+len(o.dashboards)+len(o.pumps)+len(o.plugins)+len(o.tcp) == 0 {
		o.gateways, o.dashboards, o.pumps = cli.List{""}, cli.List{""}, cli.List{""}
	}
	var probes []health.Probe
	add := func(p health.Probe) {
		if p.Kind != health.KindTCP {
			p.User, p.Password = user, password
		}
		probes = append(probes, p)
	}
	for _, u := range o.dashboards {
		add(health.Dashboard(u))
	}
	for _, u := range o.gateways {
		p := health.Gateway(u, want)
		p.Ready, p.MaxAge = o.ready, o.age
		add(p)
	}
	for _, u := range o.pumps {
		add(health.Pump(u))
	}
	for _, u := range o.plugins {
		p := health.Plugin(u, expect)
		p.Header = header
		add(p)
	}
	for _, a := range o.tcp {
		add(health.TCP(a))
	}
	return probes, nil
}

func (o *options) expect() (health.Expect, error) {
	e := health.Expect{Status: o.expectStatus}
	for _, h := range o.expectHeader {
		name, value, _ := strings.Cut(h, ":")
		if e.Header == nil {
			e.Header = map[string]string{}
		}
		if name = strings.TrimSpace(name); name == "" {
			return e, fmt.Errorf("-expect-header %q: want 'Name: value'", h)
		}
		e.Header[name] = strings.TrimSpace(value)
	}
	if o.expectBody != "" {
		re, err := regexp.Compile(o.expectBody)
		if err != nil {
			return e, fmt.Errorf("-expect-body: %w", err)
		}
		e.Body = re
	}
	return e, nil
}

func readAuth(path string) (user, password string, err error) {
	if path == "" {
		return "", "", nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", "", err
	}
	user, password, ok := strings.Cut(strings.TrimRight(string(data), "\r\n"), ":")
	if !ok {
		return "", "", fmt.Errorf("-auth-file %s: want user:password", path)
	}
	return user, password, nil
}

func readHeader(path string) (http.Header, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := http.Header{}
	s := bufio.NewScanner(f)
	for n := 1; s.Scan(); n++ {
		name, value, ok := strings.Cut(s.Text(), ":")
		if !ok && strings.TrimSpace(s.Text()) != "" {
			return nil, fmt.Errorf("-header-file %s, line %d: want 'Name: value'", path, n)
		}
		if ok {
			h.Add(strings.TrimSpace(name), strings.TrimSpace(value))
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("-header-file %s: %w", path, err)
	}
	return h, nil
}
