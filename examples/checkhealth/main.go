// Command checkhealth checks the health of a Tyk stack, once or until it stays healthy.
package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

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

func main() { program().Main() }

// flags, all of the one verb C.
const flags cli.Table = `
C gateway-url…   <URL> or host of a gateway (default path /hello, port 8080); repeatable
C dashboard-url… <URL> or host of a dashboard (/hello or /health, 3000); repeatable
C pump-url…      <URL> or host of a pump (/health, 8083); repeatable
C tcp…           <host:port> that must accept connections; repeatable
C plugin-url…    <URL> of an API call that shows a plugin at work; needs an -expect flag; repeatable
C expect-header… <'Name: value'> in the answer of -plugin-url; repeatable
C expect-status# HTTP <status> of the answer of -plugin-url (default any 2xx)
C expect-body=   <regexp> that the answer of -plugin-url matches
C release=       <version> that the gateways must report
C ready=         <path> of the gateways' readiness endpoint (default /ready)
C max-age~       how old a gateway's own checks may be (default 1m)
C wait~          repeat until all pass, at most this <long>; 0: ask once
C passes#        with -wait: passes in a row that each needs (default 2)
C stable~        with -wait: time that the passes must span
C failures#      with -wait: failures in a row that end it (default none do)
C startup~       with -failures: time in which failures do not count
C timeout~       limit of one try (default 5s)
C json           print the report as JSON
C health-json    print the report as application/health+json
C prom           print the report for Prometheus
C ca=            PEM <file> of the CA to trust
C cert=          PEM <file> of the client certificate
C key=           PEM <file> of its key
C server-name=   <name> for SNI and in the certificate
C auth-file=     <file> with user:password for basic authentication
C header-file=   <file> with lines 'Name: value' to send to -plugin-url, for API keys
`

// needs names the flag that another flag requires. Without it that flag would do nothing, and its
// user would trust a check that never ran.
var needs = map[string]string{
	"expect-header": "plugin-url", "expect-status": "plugin-url", "expect-body": "plugin-url",
	"header-file": "plugin-url",
	"passes":      "wait", "stable": "wait", "failures": "wait", "startup": "failures",
	"cert": "key", "key": "cert",
}

// formats exclude each other.
var formats = map[string]string{"json": "prom", "prom": "health-json", "health-json": "json"}

func program() cli.Command {
	return cli.Command{Name: "checkhealth", About: about,
		Verbs: []cli.Verb{{Flags: flags.Flags("C"), Needs: needs, Excludes: formats, Run: check}},
		Notes: "Exit code 3 means here: a warning, or not yet known."}
}

// check runs the probes once, or until all pass.
func check(ctx context.Context, c *cli.Call) error {
	if err := fit(c); err != nil {
		return err
	}
	probes, err := probesOf(c)
	if err != nil {
		return cli.Exit(cli.Usage, err)
	}
	policy, err := policyOf(c)
	if err != nil {
		return cli.Exit(cli.Usage, err)
	}
	var report health.Report
	if policy.Deadline > 0 {
		if !c.On("json") && !c.On("prom") && !c.On("health-json") {
			policy.Event = (&live{out: c.Out, rows: make([][]string, len(probes))}).event
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
	case c.On("json"):
		err = errors.Join(err, report.WriteJSON(c.Out))
	case c.On("health-json"):
		err = errors.Join(err, report.WriteHealth(c.Out))
	case c.On("prom"):
		err = errors.Join(err, report.WritePrometheus(c.Out))
	default:
		c.Out.Printf("%s", c.Out.Marked(report.Rows(), 1, styles))
	}
	result := map[health.Status]int{health.Pass: cli.Yes, health.Fail: cli.No,
		health.Warn: cli.Unknown, health.Unknown: cli.Unknown}[report.Status]
	switch {
	case err != nil && ctx.Err() != nil:
		return cli.Exit(cli.Interrupted, err)
	case err != nil:
		return cli.Exit(max(result, cli.No), err)
	}
	return cli.Exit(result, nil)
}

// asks are the flags that name what is asked. Without them one of each is asked at its default
// address.
var asks = []string{"dashboard-url", "gateway-url", "pump-url", "plugin-url", "tcp"}

// fit refuses flags that contradict each other.
func fit(c *cli.Call) error {
	gateway := c.Given["gateway-url"] || !c.Any(asks...)
	for _, name := range []string{"release", "ready", "max-age"} {
		if c.Given[name] && !gateway {
			return cli.Wrong("-%s needs -gateway-url", name)
		}
	}
	for _, name := range asks {
		seen := map[string]bool{}
		for _, u := range c.List(name) {
			if seen[u] {
				return cli.Wrong("-%s %s is given twice", name, u)
			}
			seen[u] = true
		}
	}
	if wait := c.Duration("wait"); wait < 0 {
		return cli.Wrong("invalid -wait %v: want a duration such as 2m", wait)
	}
	if c.Given["plugin-url"] && !c.Any("expect-status", "expect-header", "expect-body") {
		return cli.Wrong("-plugin-url needs -expect-status, -expect-header or -expect-body, with what " +
			"only the plugin does")
	}
	if status := c.Number("expect-status"); c.Given["expect-status"] && (status < 100 || status > 599) {
		return cli.Wrong("invalid -expect-status %d: want 100 to 599, such as 401", status)
	}
	return nil
}

func policyOf(c *cli.Call) (health.Policy, error) {
	p := health.Policy{SuccessThreshold: c.Number("passes"), For: c.Duration("stable"),
		FailureThreshold: c.Number("failures"), Startup: c.Duration("startup"),
		Deadline: c.Duration("wait"), TryTimeout: c.Duration("timeout")}
	pem, err := cli.ReadFiles(c.Text("ca"), c.Text("cert"), c.Text("key"))
	if err != nil {
		return p, err
	}
	p.Client, err = health.NewClient(health.ClientOptions{ServerName: c.Text("server-name"),
		CA: pem[0], Cert: pem[1], Key: pem[2]})
	return p, err
}

func probesOf(c *cli.Call) (probes []health.Probe, err error) {
	var want *semver.Version
	if release := c.Text("release"); release != "" {
		bare := strings.Replace(strings.TrimPrefix(release, "v"), "~", "-", 1) // Debian's spelling
		if want, err = semver.StrictNewVersion(bare); err != nil {
			return nil, fmt.Errorf("invalid -release %q: want a version such as 5.2.5", release)
		}
	}
	expect, err := health.NewExpect(c.Number("expect-status"), c.List("expect-header"),
		c.Text("expect-body"))
	if err != nil {
		return nil, fmt.Errorf("-expect-%w", err) // it begins with header or body
	}
	user, err := cli.File(c, "auth-file", health.ParseUser)
	if err != nil {
		return nil, err
	}
	header, err := cli.File(c, "header-file", health.ParseHeader)
	if err != nil {
		return nil, err
	}
	for _, name := range asks {
		urls := c.List(name)
		if !c.Any(asks...) && name != "plugin-url" && name != "tcp" {
			urls = []string{""}
		}
		for _, u := range urls {
			var p health.Probe
			switch name {
			case "dashboard-url":
				p = health.Dashboard(u)
			case "gateway-url":
				p = health.Gateway(u, want)
				p.Ready, p.MaxAge = c.Text("ready"), c.Duration("max-age")
			case "pump-url":
				p = health.Pump(u)
			case "plugin-url":
				p = health.Plugin(u, expect)
				p.Header = header
			case "tcp":
				probes = append(probes, health.TCP(u))
				continue
			}
			p.User = user.Username()
			p.Password, _ = user.Password()
			probes = append(probes, p)
		}
	}
	return probes, nil
}
