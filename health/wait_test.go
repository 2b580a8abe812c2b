package health_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/tykupgrade/health"
	"example.com/tykupgrade/internal/lab/tyk"
)

// Time in these tests is virtual; the stub lives in it too.

func TestWaitCountsOnlyFreshAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stub := tyk.New(tyk.Options{Kind: tyk.Gateway, Version: "5.2.5"})
		start := time.Now()
		var counted []time.Duration
		tries := 0
		report, err := health.Wait(t.Context(), health.Policy{SuccessThreshold: 3, Client: client(stub),
			Event: func(e health.Event) {
				tries++
				if e.Try != tries || e.Needed != 3 || e.Of != 1 || e.Index != 0 {
					t.Errorf("event %+v", e)
				}
				if e.Counted {
					counted = append(counted, time.Since(start))
				}
			}}, health.Gateway("http://gw", version(t, "5.2.5")))
		if err != nil || report.Status != health.Pass {
			t.Fatalf("%s, %v", report.Status, err)
		}
		// One per own check of the gateway, at 10, 20 and 30 s, each seen
		// within the interval (backed off before the first).
		if len(counted) != 3 || counted[0] < 10*time.Second || counted[0] > 20*time.Second ||
			time.Since(start) < 30*time.Second || time.Since(start) > 33*time.Second {
			t.Errorf("counted at %v, of %d tries", counted, tries)
		}
		p := report.Probes[0]
		if p.Passes != 3 || p.Tries != tries || tries < 15 || !strings.Contains(p.LastError,
			"not yet known") || p.Error != "" {
			t.Errorf("report %+v", p)
		}
	})
}

func TestWaitNeverTrustsAWedgedGateway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stub := tyk.New(tyk.Options{Kind: tyk.Gateway, Version: "5.2.5"})
		time.Sleep(11 * time.Second)
		stub.SetWedged(true)
		report, err := health.Wait(t.Context(), health.Policy{Client: client(stub)},
			health.Gateway("http://gw", nil))
		if !errors.Is(err, health.ErrDeadline) || !errors.Is(err, health.ErrStale) ||
			report.Probes[0].Status != health.Unknown {
			t.Errorf("%v, %+v", err, report)
		}
	})
}

func TestWaitThroughAnUpgrade(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stub := tyk.New(tyk.Options{Kind: tyk.Gateway, Version: "4.0.8"})
		start := time.Now()
		go func() {
			time.Sleep(25 * time.Second)
			stub.Restart("5.2.5") // the old process had answered until now
			stub.SetRedis(errors.New("redis: connection refused"))
			time.Sleep(15 * time.Second)
			stub.SetRedis(nil)
		}()
		seen := map[string]bool{}
		report, err := health.Wait(t.Context(), health.Policy{Client: client(stub), Startup: time.Minute,
			FailureThreshold: 1, Event: func(e health.Event) {
				for _, sentinel := range []error{health.ErrVersion, health.ErrNotYetKnown,
					health.ErrUnhealthy} {
					if errors.Is(e.Result.Err, sentinel) {
						seen[sentinel.Error()] = true
					}
				}
			}}, health.Gateway("http://gw", version(t, "5.2.5")))
		if err != nil || report.Probes[0].Version != "5.2.5" {
			t.Fatalf("%v, %+v", err, report)
		}
		if len(seen) != 3 {
			t.Errorf("on the way seen: %v", seen)
		}
		if d := time.Since(start); d < 55*time.Second || d > 70*time.Second {
			t.Errorf("took %v; own checks that pass are at 45 and 55 s", d)
		}
	})
}

func TestWaitBeginsAnew(t *testing.T) {
	t.Parallel()
	const later, earlier = "2026-11-23T06:00:10Z", "2026-11-23T06:00:00Z"
	for _, c := range []struct {
		name      string
		times     []string
		instances []string
		counted   []bool
	}{
		{"own checks step on", []string{earlier, later}, nil, []bool{true, true}},
		{"an older one: another process", []string{later, earlier, later}, nil, []bool{true, true, true}},
		{"another instance", []string{earlier, earlier, later}, []string{"pid 1", "pid 2", "pid 2"},
			[]bool{true, true, true}},
		{"the same twice", []string{earlier, earlier, later}, nil, []bool{true, false, true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				try := 0
				h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Date", date)
					_, _ = io.WriteString(w,
						`{"status":"pass","version":"5.2.5","details":{"redis":{"status":"pass","time":"`+
							c.times[min(try, len(c.times)-1)]+`"}}}`)
				})
				p := health.Gateway("http://gw", nil)
				p.Checks = []health.Check{{Name: "unit", Run: func(context.Context) (health.Finding, error) {
					if c.instances == nil {
						return health.Finding{}, nil
					}
					return health.Finding{Instance: c.instances[min(try, len(c.instances)-1)]}, nil
				}}}
				var counted []bool
				_, err := health.Wait(t.Context(), health.Policy{Client: client(h),
					Event: func(e health.Event) {
						counted = append(counted, e.Counted)
						try++
					}}, p)
				if err != nil || !slices.Equal(counted, c.counted) {
					t.Errorf("counted %v, want %v; %v", counted, c.counted, err)
				}
			})
		})
	}
}

// switchable is a pump that answers what a test sets.
type switchable struct{ body atomic.Value }

func (s *switchable) say(status string) *switchable {
	s.body.Store(`{"status":"` + status + `"}`)
	return s
}

func (s *switchable) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, s.body.Load().(string))
}

func TestWaitPolicy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		policy  health.Policy
		says    string
		is      error
		text    string
		atLeast time.Duration
		atMost  time.Duration
	}{
		{"passes span a duration", health.Policy{SuccessThreshold: 2, For: 30 * time.Second}, "pass", nil,
			"", 30 * time.Second, 31 * time.Second},
		{"deadline", health.Policy{Deadline: 5 * time.Second}, "fail", health.ErrDeadline, "status fail",
			5 * time.Second, 5 * time.Second},
		{"deadline before enough passes", health.Policy{SuccessThreshold: 99, Deadline: 5 * time.Second},
			"pass", health.ErrDeadline, "deadline", 5 * time.Second, 5 * time.Second},
		{"failure threshold", health.Policy{FailureThreshold: 3}, "fail", health.ErrUnhealthy,
			"3 failures in a row", 0, 6 * time.Second},
		{"failures while starting do not count", health.Policy{FailureThreshold: 2,
			Startup: 20 * time.Second}, "fail", health.ErrUnhealthy, "2 failures in a row", 20 * time.Second,
			40 * time.Second},
		{"warn is not a pass", health.Policy{Deadline: time.Minute, FailureThreshold: 1}, "warn",
			health.ErrDeadline, "status warn", time.Minute, time.Minute},
		{"warn accepted", health.Policy{AcceptWarn: true}, "warn", nil, "", 0, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.policy.Client = client(new(switchable).say(c.says))
				start := time.Now()
				report, err := health.Wait(t.Context(), c.policy, health.Pump(""))
				took := time.Since(start)
				if (err == nil) != (c.is == nil) || c.is != nil && !errors.Is(err, c.is) {
					t.Errorf("error %v, want %v", err, c.is)
				}
				if err != nil && (!strings.Contains(err.Error(), c.text) || strings.Count(err.Error(),
					"see its log") > 1) {
					t.Errorf("error %q, want %q in it", err, c.text)
				}
				if took < c.atLeast || took > c.atMost {
					t.Errorf("took %v, want %v to %v", took, c.atLeast, c.atMost)
				}
				if len(report.Probes) != 1 || report.Probes[0].Tries == 0 || err != nil &&
					(report.Error != err.Error() || report.Status == health.Pass) {
					t.Errorf("report %+v", report)
				}
			})
		})
	}
}

func TestWaitNeedsAllAtTheSameTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := new(switchable).say("pass"), new(switchable).say("fail")
		go func() {
			time.Sleep(20 * time.Second)
			a.say("fail") // had passed long ago
			b.say("pass")
			time.Sleep(20 * time.Second)
			a.say("pass")
		}()
		start := time.Now()
		mux := http.NewServeMux()
		mux.Handle("a/", a)
		mux.Handle("b/", b)
		report, err := health.Wait(t.Context(), health.Policy{Client: client(mux)},
			health.Pump("http://a"), health.Pump("http://b"))
		if err != nil || report.Status != health.Pass || time.Since(start) < 40*time.Second {
			t.Errorf("after %v: %v, %+v", time.Since(start), err, report)
		}
	})
}

// Pauses are random parts of a limit that doubles up to its cap.
func TestWaitJitter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var pauses []time.Duration
		_, _ = health.Wait(t.Context(), health.Policy{Interval: time.Second, MaxInterval: 8 * time.Second,
			Deadline: time.Hour,
			Client:   client(new(switchable).say("fail")),
			Event:    func(e health.Event) { pauses = append(pauses, e.Next) }}, health.Pump(""))
		for i, limit := range []time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second} {
			if pauses[i] <= 0 || pauses[i] > limit {
				t.Errorf("pause %d is %v, limit %v", i, pauses[i], limit)
			}
		}
		longest, sum := slices.Max(pauses), time.Duration(0)
		for _, p := range pauses {
			sum += p
		}
		// About 900 draws from 0 to 8 s: the mean is 4 s, give or take 0.08.
		if mean := sum / time.Duration(len(pauses)); longest > 8*time.Second || longest < 7*time.Second ||
			mean < 3*time.Second || mean > 5*time.Second {
			t.Errorf("longest %v, mean %v of %d", longest, mean, len(pauses))
		}
	})
}

func TestWaitStopsAtOnceOnWhatNoRepetitionMends(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(tyk.New(tyk.Options{Kind: tyk.Pump}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	bad := health.Pump(server.URL) // its certificate is of an unknown authority
	bad.Timeout = time.Minute
	causes := make(chan error, 1)
	entered := make(chan struct{})
	other := health.TCP(strings.TrimPrefix(server.URL, "https://"))
	other.Checks = []health.Check{{Name: "slow", Run: func(ctx context.Context) (health.Finding,
		error) {
		close(entered)
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return health.Finding{}, ctx.Err()
	}}}
	other.Timeout = time.Minute
	bad.Checks = []health.Check{{Name: "order", Run: func(context.Context) (health.Finding,
		error) {
		<-entered
		return health.Finding{}, nil
	}}}
	report, err := health.Wait(t.Context(), health.Policy{Deadline: time.Hour + time.Minute}, bad,
		other)
	var we *health.WaitError
	if !errors.As(err, &we) || we.Retryable() || we.Hint() == "" || !strings.Contains(err.Error(),
		"unknown authority") {
		t.Errorf("error %v", err)
	}
	if cause := <-causes; !errors.Is(err, cause) || !strings.Contains(cause.Error(),
		"unknown authority") {
		t.Errorf("the other try was cancelled with cause %v", cause)
	}
	if report.Status != health.Fail || report.Probes[0].Tries != 1 ||
		report.Probes[1].Status != health.Unknown {
		t.Errorf("report %+v", report)
	}
}

func TestWaitCancelled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("the operator pressed ^C")
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() { time.Sleep(15 * time.Second); cancel(why) }()
		report, err := health.Wait(ctx, health.Policy{Client: client(new(switchable).say("fail"))},
			health.Pump(""))
		if !errors.Is(err, context.Canceled) || !errors.Is(err, why) ||
			!errors.Is(err, health.ErrUnhealthy) {
			t.Errorf("error %v", err)
		}
		if report.Probes[0].Status != health.Fail {
			t.Errorf("the last answer was replaced: %+v", report.Probes[0])
		}
	})
}

// An answer that the end cut off does not stand for what the probe said.
func TestWaitKeepsTheLastAnswer(t *testing.T) {
	t.Parallel()
	for range 20 { // which of two simultaneous ends is seen first is chance
		synctest.Test(t, func(t *testing.T) {
			tries := 0
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if tries++; tries > 1 {
					<-r.Context().Done()
					return
				}
				_, _ = io.WriteString(w, `{"status":"fail"}`)
			})
			p := health.Pump("")
			p.Timeout = time.Hour
			report, err := health.Wait(t.Context(), health.Policy{Client: client(h), Deadline: time.Minute},
				p)
			if !errors.Is(err, health.ErrDeadline) || !errors.Is(err, health.ErrUnhealthy) ||
				report.Probes[0].Tries != 1 {
				t.Errorf("%v, %+v", err, report.Probes[0])
			}
			synctest.Wait()
		})
	}
}

func TestConcurrencyCap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		running, most := 0, 0
		h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			running--
			mu.Unlock()
			_, _ = io.WriteString(w, `{"status":"ok"}`)
		})
		var probes []health.Probe
		for i := range 100 {
			probes = append(probes, health.Pump("pump"+strconv.Itoa(i)))
		}
		start := time.Now()
		report, err := health.Once(t.Context(), health.Policy{Client: client(h), Concurrency: 7},
			probes...)
		if err != nil || report.Status != health.Pass || len(report.Probes) != 100 {
			t.Fatalf("%v, %s", err, report.Status)
		}
		if most != 7 || time.Since(start) != 15*time.Second {
			t.Errorf("%d at a time, took %v; want 7 and 15 s", most, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
		defer cancel()
		report, err = health.Once(ctx, health.Policy{Client: client(h), Concurrency: 7}, probes...)
		if !errors.Is(err, context.DeadlineExceeded) || report.Status != health.Unknown ||
			report.Probes[0].Status != health.Pass || report.Probes[99].Tries != 0 {
			t.Errorf("cut short: %v, %s", err, report.Status)
		}
		time.Sleep(time.Second) // the handlers end
	})
}

func TestPolicyIsValidated(t *testing.T) {
	t.Parallel()
	none := client(http.HandlerFunc(func(http.ResponseWriter,
		*http.Request) {
		t.Error("something was asked")
	}))
	for _, p := range []health.Policy{
		{SuccessThreshold: -1}, {Deadline: -1}, {Interval: time.Minute, MaxInterval: time.Second},
		{For: time.Hour},
	} {
		p.Client = none
		if _, err := health.Wait(t.Context(), p, health.Pump("")); err == nil {
			t.Errorf("policy %+v was taken", p)
		}
	}
	if _, err := health.Wait(t.Context(), health.Policy{Client: none}); err == nil {
		t.Error("no probes were taken")
	}
	if _, err := health.Wait(t.Context(), health.Policy{Client: none}, health.Pump(""),
		health.Pump("localhost")); err == nil || !strings.Contains(err.Error(), "duplicate probe name") {
		t.Errorf("two of a name: %v", err)
	}
}
