package health_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/health"
	"example.com/tykupgrade/internal/lab/tyk"
)

// stack is a gateway, a dashboard and a pump that answer without a network.
func stack() (*http.Client, *tyk.Stub) {
	gateway := tyk.New(tyk.Options{Kind: tyk.Gateway, Version: "5.2.5", CheckEvery: time.Millisecond,
		Plugin: tyk.Loaded})
	time.Sleep(2 * time.Millisecond)
	mux := http.NewServeMux()
	mux.Handle("gw1/", gateway)
	mux.Handle("dash/", tyk.New(tyk.Options{Kind: tyk.Dashboard}))
	mux.Handle("pump/", tyk.New(tyk.Options{Kind: tyk.Pump}))
	return client(mux), gateway
}

func ExampleWait() {
	c, _ := stack()
	want := semver.MustParse("5.2.5")
	pump := health.Pump("pump")
	pump.Checks = []health.Check{{Name: "package", Run: func(context.Context) (health.Finding, error) {
		return health.Finding{Version: "1.9.0"}, nil // of dpkg-query, for example
	}}}
	report, err := health.Wait(context.Background(), health.Policy{
		SuccessThreshold: 3,
		Interval:         5 * time.Millisecond, // left alone: a second
		Deadline:         time.Minute,
		Client:           c, // left alone: one of NewClient
	},
		health.Gateway("gw1", want),
		health.Dashboard("dash"),
		pump,
		health.Plugin("http://gw1:8080/my-api/get", health.Expect{Header: map[string]string{
			"Foo": "Bar"}}),
	)
	if err != nil {
		fmt.Println(err)
	}
	for _, p := range report.Probes {
		fmt.Printf("%s: %s %q\n", p.Probe, p.Status, p.Version)
	}
	// Output:
	// gateway gw1:8080: pass "5.2.5"
	// dashboard dash:3000: pass ""
	// pump pump:8083: pass "1.9.0"
	// plugin gw1:8080/my-api/get: pass ""
}

// The README's lines; they need hosts of those names, so they are compiled only.
func Example() {
	ctx := context.Background()
	want := semver.MustParse("5.2.5")
	report, err := health.Wait(ctx, health.Policy{
		// in a row; of a gateway on three own checks, so 30 s after its start at the earliest
		SuccessThreshold: 3,
		For:              30 * time.Second,
		Startup:          time.Minute, // failures in it do not count
		FailureThreshold: 3,           // then it ends early
		Deadline:         5 * time.Minute,
		Event:            func(e health.Event) { log.Print(e.Result.Probe, " ", e.Result.Status) },
	},
		health.Dashboard("dash1"), // http://dash1:3000/hello
		health.Gateway("gw1", want),
		health.Pump("pump1"),
		health.Plugin("http://gw1:8080/my-api/get", health.Expect{Header: map[string]string{
			"Foo": "Bar"}}),
	)
	if err != nil {
		log.Print(err)
	}
	// also WriteJSON, WriteHealth (application/health+json), WritePrometheus
	_ = report.WriteTable(os.Stdout)
}

func ExampleOnce() {
	c, gateway := stack()
	gateway.SetRedis(errors.New("storage: Redis is either down or was not configured"))
	time.Sleep(2 * time.Millisecond)
	report, err := health.Once(context.Background(), health.Policy{Client: c}, health.Gateway("gw1",
		nil), health.Pump("pump"))
	fmt.Println(report.Status, err)
	fmt.Println(report.Probes[0].Error)
	// Output:
	// fail <nil>
	// check gateway gw1:8080 at http://gw1:8080/hello: unhealthy: redis: fail: storage: Redis is either down or was not configured
}

func ExampleGateway() {
	c, gateway := stack()
	gateway.Restart("5.2.5") // its first own check is yet to come
	gateway.SetWedged(true)
	r := health.Gateway("gw1", nil).Check(context.Background(), c)
	fmt.Println(r.Status, errors.Is(r.Err, health.ErrNotYetKnown))
	// Output: unknown true
}

func ExampleDashboard() {
	c, _ := stack()
	r := health.Dashboard("dash").Check(context.Background(), c)
	fmt.Println(r.Status, r.NotCovered)
	// Output: pass [more than liveness: the endpoint does not check its databases the version: not reported]
}

func ExamplePump() {
	c, _ := stack()
	r := health.Pump("http://pump:8083/health").Check(context.Background(), c)
	fmt.Println(r.Status)
	// Output: pass
}

func ExamplePlugin() {
	c, gateway := stack()
	probe := health.Plugin("http://gw1:8080/my-api/get",
		health.Expect{Body: regexp.MustCompile(`"Foo":\["Bar"\]`)})
	fmt.Println(probe.Check(context.Background(), c).Status)
	gateway.SetPlugin(tyk.Broken) // the .so was built for another release; /hello still says pass
	fmt.Println(probe.Check(context.Background(), c).Status)
	// Output:
	// pass
	// fail
}

func ExampleHTTP() {
	c, _ := stack()
	fmt.Println(health.HTTP("http://gw1:8080/x", health.Expect{Status: 200}).
		Check(context.Background(), c).Status)
	// Output: pass
}

func ExampleTCP() {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	fmt.Println(health.TCP(server.Listener.Addr().String()).Check(context.Background(), nil).Status)
	// Output: pass
}

func ExampleNewClient() {
	_, err := health.NewClient(health.ClientOptions{CA: []byte("not PEM"), ServerName: "gw1.internal"})
	fmt.Println(err)
	// Output: read CA: no PEM certificate
}

func ExampleParse() {
	d, err := health.Parse(
		[]byte(`{"status":"up","checks":{"redis:connections":[{"status":"down","output":"refused"}]}}`))
	fmt.Println(d.Status, d.Components[0].Name, d.Components[0].Status, err)
	// Output: pass redis:connections fail <nil>
}

func ExampleHandler() {
	c, _ := stack()
	h := health.Handler(func(ctx context.Context) (health.Report, error) {
		return health.Once(ctx, health.Policy{Client: c}, health.Gateway("gw1", nil), health.Pump("pump"))
	}, health.HandlerOptions{})
	res := get(h, "/?format=prometheus")
	fmt.Println(res.StatusCode)
	res = get(h, "/")
	fmt.Println(res.StatusCode, res.Header.Get("Content-Type"))
	// Output:
	// 200
	// 200 application/health+json
}

func ExampleReport_WriteTable() {
	r := health.Report{Probes: []health.ProbeReport{{Tries: 2, Result: health.Result{
		Probe: "gateway gw1:8080", Status: health.Pass, Version: "5.2.5",
		Latency: 3 * time.Millisecond}}}}
	_ = r.WriteTable(os.Stdout)
	// Output:
	// PROBE             STATUS  VERSION  LATENCY  TRIES  REMARK
	// gateway gw1:8080  pass    5.2.5    3ms      2
}

func ExampleReport_WritePrometheus() {
	r := health.Report{Probes: []health.ProbeReport{{Result: health.Result{Probe: "pump pump:8083",
		Kind: health.KindPump, Status: health.Pass}}}}
	var b strings.Builder
	_ = r.WritePrometheus(&b)
	fmt.Println(strings.Join(strings.Split(b.String(), "\n")[:3], "\n"))
	// Output:
	// # HELP tyk_probe_success Whether the probe passed.
	// # TYPE tyk_probe_success gauge
	// tyk_probe_success{probe="pump pump:8083",kind="pump"} 1
}

func ExampleReport_WriteJSON() {
	_ = health.Report{Status: health.Pass}.WriteJSON(os.Stdout)
	// Output:
	// {
	//   "status": "pass",
	//   "started": "0001-01-01T00:00:00Z",
	//   "duration_ns": 0,
	//   "probes": null
	// }
}

func ExampleReport_WriteHealth() {
	_ = health.Report{Status: health.Pass}.WriteHealth(os.Stdout)
	// Output:
	// {
	//   "status": "pass",
	//   "description": "Tyk stack as seen by tykupgrade",
	//   "checks": {}
	// }
}
