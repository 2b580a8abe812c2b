package health_test

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/tykupgrade/health"
	"example.com/tykupgrade/health/healthtest"
)

// A wait that ends without enough passes says what the passes lack.
func TestWaitSaysWhyItEnded(t *testing.T) {
	t.Parallel()
	gateway := func(every time.Duration) *healthtest.Program {
		return healthtest.New(healthtest.Options{Kind: healthtest.Gateway, Version: "5.2.5",
			CheckEvery: every})
	}
	for name, c := range map[string]struct {
		handler func() http.Handler
		policy  health.Policy
		probe   health.Probe
		want    []string
	}{
		"own check does not get newer": {
			func() http.Handler {
				g := gateway(10 * time.Second)
				go func() { time.Sleep(11 * time.Second); g.SetWedged(true) }()
				return g
			},
			health.Policy{Deadline: 40 * time.Second}, health.Gateway("gw", nil),
			[]string{"1 of 2 passes in a row", "did not get newer in", "check_duration"},
		},
		"balancer before two gateways": {
			func() http.Handler {
				a := gateway(10 * time.Second)
				time.Sleep(5 * time.Second)
				b := gateway(10 * time.Second)
				time.Sleep(11 * time.Second)
				var n atomic.Int64
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if n.Add(1)/2%2 == 0 { // hello of one, then of the other
						a.ServeHTTP(w, r)
					} else {
						b.ServeHTTP(w, r)
					}
				})
			},
			health.Policy{SuccessThreshold: 20, Deadline: time.Minute}, health.Gateway("gw", nil),
			[]string{"of 20 passes in a row", "went back in time", "probe each gateway by its own address"},
		},
		"passes span too little": {
			func() http.Handler { return healthtest.New(healthtest.Options{Kind: healthtest.Pump}) },
			health.Policy{For: 29 * time.Second, Deadline: 29*time.Second + time.Millisecond,
				Interval: 20 * time.Second, MaxInterval: 20 * time.Second},
			health.Pump("pump"), []string{"2 of 2 passes", "do not span 29s"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := c.policy
				p.Client = client(c.handler())
				_, err := health.Wait(t.Context(), p, c.probe)
				if name == "passes span too little" && err == nil {
					t.Skip("the random pauses happened to span it")
				}
				var we *health.WaitError
				if !errors.Is(err, health.ErrDeadline) || !errors.As(err, &we) || len(we.Last) != 1 {
					t.Fatalf("error %v", err)
				}
				for _, want := range c.want {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("no %q in: %v", want, err)
					}
				}
			})
		})
	}
}

// nginx writes Date itself. With its clock an hour ahead every answer looks
// stale, but a check that gets newer is none.
func TestProxyThatRewritesDate(t *testing.T) {
	t.Parallel()
	for name, ahead := range map[string]time.Duration{"ahead": time.Hour, "behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g := healthtest.New(healthtest.Options{Kind: healthtest.Gateway, Version: "5.2.5"})
				proxy := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
					g.ServeHTTP(w, r)
				})
				report, err := health.Wait(t.Context(), health.Policy{Client: client(proxy)},
					health.Gateway("gw", nil))
				if err != nil || !strings.Contains(strings.Join(report.Probes[0].NotCovered, "; "),
					"another clock") {
					t.Errorf("%v; not covered: %q", err, report.Probes[0].NotCovered)
				}
				g.SetWedged(true)
				time.Sleep(2 * time.Minute)
				if _, err := health.Wait(t.Context(), health.Policy{Client: client(proxy),
					Deadline: time.Minute}, health.Gateway("gw", nil)); err == nil {
					t.Error("a wedged gateway passed behind that proxy")
				}
			})
		})
	}
}

// Behind a proxy a gateway has all its endpoints under one prefix.
func TestReadyUnderThePrefix(t *testing.T) {
	t.Parallel()
	g := healthtest.New(healthtest.Options{Kind: healthtest.Gateway, Version: "5.14.0",
		CheckEvery: time.Millisecond})
	mux := http.NewServeMux()
	mux.Handle("/eu/", http.StripPrefix("/eu", g))
	mux.HandleFunc("/", http.NotFound)
	for _, c := range []struct{ path, ready string }{{"/eu/hello", ""}, {"/eu/hello", "/ready"},
		{"/eu/hello", "/eu/ready"}} {
		p := health.Gateway("http://gw"+c.path, nil)
		p.Ready = c.ready
		time.Sleep(2 * time.Millisecond)
		if r := p.Check(t.Context(), client(mux)); r.Status != health.Pass ||
			r.Readiness != health.Ready {
			t.Errorf("%+v: %s, readiness %s: %v", c, r.Status, r.Readiness, r.Err)
		}
	}
	g.SetStopping(true)
	if r := health.Gateway("http://gw/eu/hello", nil).Check(t.Context(), client(mux)); !errors.Is(
		r.Err, health.ErrNotReady) {
		t.Errorf("it shuts down, but: %v", r.Err)
	}
	// health_check_endpoint_name may hold a slash itself.
	named := healthtest.New(healthtest.Options{Kind: healthtest.Gateway, Version: "5.14.0",
		CheckEvery: time.Millisecond, HelloPath: "/health/check"})
	mux = http.NewServeMux()
	mux.Handle("/health/check", named)
	mux.Handle("/ready", named)
	time.Sleep(2 * time.Millisecond)
	if r := health.Gateway("http://gw/health/check", nil).Check(t.Context(),
		client(mux)); r.Readiness != health.Ready {
		t.Errorf("readiness %s: %v", r.Readiness, r.Err)
	}
}

func TestAnswersOfSomethingElse(t *testing.T) {
	t.Parallel()
	tls := httptest.NewUnstartedServer(http.NotFoundHandler())
	tls.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	tls.StartTLS()
	t.Cleanup(tls.Close)
	plain := strings.Replace(tls.URL, "https://", "http://", 1)
	for name, p := range map[string]health.Probe{
		"gateway": health.Gateway(plain, nil), "pump": health.Pump(plain),
		"dashboard": health.Dashboard(plain),
		"plugin":    health.Plugin(plain+"/api", health.Expect{Status: 400}), "http": health.HTTP(plain,
			health.Expect{Status: 400}),
	} {
		r := p.Check(t.Context(), nil)
		var own *health.Error
		if !errors.Is(r.Err, health.ErrUnexpected) || !errors.As(r.Err, &own) ||
			!strings.Contains(own.Hint(), "https://") || own.Kind != health.ErrUnexpected {
			t.Errorf("%s over plain HTTP to a TLS port: %v", name, r.Err)
		}
	}
	for _, body := range []string{"[1]", `"pass"`, "null", "true", "12"} {
		if _, err := health.Parse([]byte(body)); !errors.Is(err, health.ErrMalformed) ||
			!strings.Contains(err.Error(), "not an object") {
			t.Errorf("Parse(%s): %v", body, err)
		}
		if !json.Valid([]byte(body)) {
			t.Error("the test's own JSON is broken")
		}
	}
}

// An ingress that starts shows its default certificate first.
func TestStartupForgivesTLS(t *testing.T) {
	t.Parallel()
	good := httptest.NewUnstartedServer(healthtest.New(healthtest.Options{Kind: healthtest.Pump}))
	good.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	good.StartTLS()
	t.Cleanup(good.Close)
	var tries atomic.Int64
	c := good.Client()
	swap := roundTrip(func(r *http.Request) (*http.Response, error) {
		if tries.Add(1) < 3 {
			plain, err := health.NewClient(health.ClientOptions{}) // does not know the CA
			if err != nil {
				return nil, err
			}
			return plain.Transport.RoundTrip(r)
		}
		return c.Transport.RoundTrip(r)
	})
	policy := health.Policy{Client: &http.Client{Transport: swap}, Startup: time.Minute,
		Interval: time.Millisecond, MaxInterval: time.Millisecond}
	if _, err := health.Wait(t.Context(), policy, health.Pump(good.URL)); err != nil {
		t.Errorf("within Startup: %v", err)
	}
	tries.Store(-1000)
	policy.Startup = 0
	if _, err := health.Wait(t.Context(), policy, health.Pump(good.URL)); err == nil ||
		errors.Is(err, health.ErrDeadline) {
		t.Errorf("after Startup: %v", err)
	}
}

// DNS that does not answer is named as the cause, with the try's time limit.
func TestLookupIsNamedAsTheCause(t *testing.T) {
	t.Parallel()
	p := health.Pump("http://no-such-host.invalid:1")
	p.Timeout = 3 * time.Second
	r := p.Check(t.Context(), nil)
	var own *health.Error
	if !errors.Is(r.Err, health.ErrLookup) || !errors.As(r.Err, &own) || !own.Retryable() ||
		!strings.Contains(own.Hint(), "name servers") {
		t.Errorf("%v", r.Err)
	}
}
