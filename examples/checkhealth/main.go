// Command checkhealth asks a Tyk stack whether it is healthy, once or until it
// stays so.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/health"
)

const usage = `Usage: checkhealth [flags]

Asks gateways, dashboards and pumps for their health, and a plugin for its
effect; with none of these flags given, one of each at its default address. A
gateway passes once it has checked its own Redis, which takes it ten seconds
after a start: use -wait after an upgrade. Dashboard and pump can prove no more
than that they live.

Exit codes: 0 pass, 1 fail, 2 wrong use, 3 warn or not yet known, 130 interrupted.

  checkhealth -gateway gw1 -gateway gw2 -version 5.2.5 -wait 2m
  checkhealth -plugin http://gw1:8080/my-api/get -expect-header 'Foo: Bar'

`

const (
	exitPass        = 0
	exitFail        = 1
	exitUsage       = 2
	exitUnknown     = 3
	exitInterrupted = 130
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second one ends it at once
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// list is a flag that can be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// options are the flags as given.
type options struct {
	gateways, dashboards, pumps, plugins, tcp list

	version, ready         string
	expectHeader           list
	expectStatus           int
	expectBody             string
	wait, timeout          time.Duration
	stable, startup, age   time.Duration
	passes, failures       int
	json, prom, healthJSON bool
	ca, cert, key, server  string
	authFile, headerFile   string
}

func (o *options) flags(stderr io.Writer) *flag.FlagSet {
	f := flag.NewFlagSet("checkhealth", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() { fmt.Fprint(f.Output(), usage); f.PrintDefaults() }
	f.Var(&o.gateways, "gateway", "`URL` or host of a gateway (default path /hello, port 8080); repeatable")
	f.Var(&o.dashboards, "dashboard", "`URL` or host of a dashboard (/hello or /health, 3000); repeatable")
	f.Var(&o.pumps, "pump", "`URL` or host of a pump (/health, 8083); repeatable")
	f.Var(&o.tcp, "tcp", "`host:port` that must accept connections; repeatable")
	f.Var(&o.plugins, "plugin", "`URL` of an API call that shows a plugin at work; needs an -expect flag; repeatable")
	f.Var(&o.expectHeader, "expect-header", "`'Name: value'` in the answer of -plugin; repeatable")
	f.IntVar(&o.expectStatus, "expect-status", 0, "HTTP `status` of the answer of -plugin (default any 2xx)")
	f.StringVar(&o.expectBody, "expect-body", "", "`regexp` that the answer of -plugin matches")
	f.StringVar(&o.version, "version", "", "`version` that the gateways must report")
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
	f.StringVar(&o.headerFile, "header-file", "", "`file` with lines 'Name: value' to send to -plugin, for API keys")
	return f
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	f := o.flags(stderr)
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return exitPass
	} else if err != nil {
		return exitUsage
	}
	fail := func(code int, err error) int {
		fmt.Fprintln(stderr, "checkhealth:", err)
		return code
	}
	if f.NArg() > 0 {
		return fail(exitUsage, fmt.Errorf("unexpected argument %q; see -h", f.Arg(0)))
	}
	if err := o.fit(f); err != nil {
		return fail(exitUsage, err)
	}
	probes, err := o.probes()
	if err != nil {
		return fail(exitUsage, err)
	}
	policy, err := o.policy()
	if err != nil {
		return fail(exitUsage, err)
	}
	out := cli.NewOut(stdout)
	machine := o.json || o.prom || o.healthJSON
	if machine {
		out = cli.NewOut(io.Discard)
	}
	var report health.Report
	if o.wait > 0 {
		view := &live{out: out, rows: make([][]string, len(probes))}
		policy.Event = view.event
		report, err = health.Wait(ctx, policy, probes...)
		out.Clear()
	} else {
		report, err = health.Once(ctx, policy, probes...)
	}
	if len(report.Probes) == 0 { // refused before anything was asked
		return fail(exitUsage, err)
	}
	switch {
	case o.json:
		err = errors.Join(err, report.WriteJSON(stdout))
	case o.healthJSON:
		err = errors.Join(err, report.WriteHealth(stdout))
	case o.prom:
		err = errors.Join(err, report.WritePrometheus(stdout))
	default:
		out.Printf("%s", table(out, report.Rows()))
		err = errors.Join(err, out.Err())
	}
	code := map[health.Status]int{health.Pass: exitPass, health.Fail: exitFail}
	result, known := code[report.Status]
	if !known {
		result = exitUnknown
	}
	if err != nil {
		if ctx.Err() != nil {
			result = exitInterrupted
		}
		return fail(max(result, exitFail), err)
	}
	return result
}

// needs names, for flags that would else do nothing, the flag that they go with:
// nobody should believe in a check that was not made.
var needs = map[string]string{
	"version": "gateway", "ready": "gateway", "max-age": "gateway",
	"expect-header": "plugin", "expect-status": "plugin", "expect-body": "plugin", "header-file": "plugin",
	"passes": "wait", "stable": "wait", "failures": "wait", "startup": "failures",
	"cert": "key", "key": "cert",
}

func (o *options) fit(f *flag.FlagSet) error {
	given := map[string]bool{}
	f.Visit(func(x *flag.Flag) { given[x.Name] = true })
	given["wait"] = o.wait != 0
	// Without any, one of each is asked at its default address.
	given["gateway"] = given["gateway"] || !given["dashboard"] && !given["pump"] && !given["plugin"] && !given["tcp"]
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if with := needs[name]; given[name] && with != "" && !given[with] {
			return fmt.Errorf("-%s needs -%s", name, with)
		}
	}
	if o.json && o.prom || o.json && o.healthJSON || o.prom && o.healthJSON {
		return errors.New("-json, -health-json and -prom exclude each other")
	}
	return nil
}

func (o *options) policy() (health.Policy, error) {
	p := health.Policy{SuccessThreshold: o.passes, For: o.stable, FailureThreshold: o.failures, Startup: o.startup, Deadline: o.wait, TryTimeout: o.timeout}
	if o.wait < 0 {
		return p, errors.New("-wait is negative")
	}
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
		v, err := health.ParseVersion(o.version)
		if err != nil {
			return nil, fmt.Errorf("-version: %w", err)
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
		o.gateways, o.dashboards, o.pumps = list{""}, list{""}, list{""}
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
