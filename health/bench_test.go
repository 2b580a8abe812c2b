package health_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/tykupgrade/health"
	"example.com/tykupgrade/internal/lab"
)

// counted wraps a listener and knows how many connections are open.
type counted struct {
	net.Listener
	open, most atomic.Int64
}

type countedConn struct {
	net.Conn
	once func()
}

func (l *counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	n := l.open.Add(1)
	for m := l.most.Load(); n > m && !l.most.CompareAndSwap(m, n); m = l.most.Load() {
	}
	return &countedConn{c, sync.OnceFunc(func() { l.open.Add(-1) })}, nil
}

func (c *countedConn) Close() error { c.once(); return c.Conn.Close() }

func endpoints(tb testing.TB, n int, latency time.Duration) ([]health.Probe, *counted) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter,
		_ *http.Request) {
		time.Sleep(latency)
		_, _ = io.WriteString(w, `{"status":"ok"}`)
	}))
	l := &counted{Listener: server.Listener}
	server.Listener = l
	server.Start()
	tb.Cleanup(server.Close)
	probes := make([]health.Probe, n)
	for i := range probes {
		probes[i] = health.Pump(server.URL)
		probes[i].Name = fmt.Sprint("pump ", i)
		probes[i].Timeout = time.Minute
	}
	return probes, l
}

// 1,000 endpoints that take 50 ms each: seconds per round is ns/op.
func BenchmarkThousandEndpoints(b *testing.B) {
	probes, l := endpoints(b, 1000, 50*time.Millisecond)
	base, most := runtime.NumGoroutine(), 0
	for b.Loop() {
		r, err := health.Once(b.Context(), health.Policy{}, probes...)
		if err != nil || r.Status != health.Pass {
			b.Fatal(err, r.Status)
		}
		most = max(most, runtime.NumGoroutine())
	}
	b.ReportMetric(float64(l.most.Load()), "connections")
	b.ReportMetric(float64(most-base), "goroutines-left")
}

func BenchmarkParse(b *testing.B) {
	body := []byte(`{"status":"pass","version":"5.2.5","description":"Tyk GW","details":{"redis":{"status":"pass","componentType":"datastore","time":"2026-11-23T06:00:00Z"},"dashboard":{"status":"pass","componentType":"system","time":"2026-11-23T06:00:00Z"}}}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := health.Parse(body); err != nil {
			b.Fatal(err)
		}
	}
}

// Goroutines and connections stay within the cap, and none is left.
func TestThousandEndpointsAreBounded(t *testing.T) {
	probes, l := endpoints(t, 1000, time.Millisecond)
	before := runtime.NumGoroutine()
	var most int
	r, err := health.Once(t.Context(), health.Policy{Concurrency: 32,
		Event: func(health.Event) { most = max(most, runtime.NumGoroutine()) }}, probes...)
	if err != nil || r.Status != health.Pass || len(r.Probes) != 1000 {
		t.Fatal(err, r.Status)
	}
	// On a busy machine the server notices a closed connection late; without a
	// cap there would be a thousand.
	if n := l.most.Load(); n > 8*32 {
		t.Errorf("%d connections at a time, want about 32", n)
	}
	// Each try has a worker, the transport's two goroutines and its dial; each
	// connection two of the server's: without a cap there would be thousands.
	if most-before > 32*24 {
		t.Errorf("%d goroutines more at a time", most-before)
	}
	for range 500 {
		if runtime.NumGoroutine() <= before && l.open.Load() == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	buf := make([]byte, 1<<16)
	t.Errorf("%d goroutines and %d connections left:\n%s", runtime.NumGoroutine()-before,
		l.open.Load(), buf[:runtime.Stack(buf, true)])
}

// The cost of a probe must not grow with the number of probes.
func BenchmarkProbes(b *testing.B) {
	for _, n := range []int{1000, 10000, 30000} {
		b.Run(fmt.Sprint("n=", n), func(b *testing.B) {
			answer := roundTrip(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 200, Header: http.Header{},
					Body: io.NopCloser(strings.NewReader(`{"status":"ok"}`))}, nil
			})
			probes := make([]health.Probe, n)
			for i := range probes {
				probes[i] = health.Pump("pump" + strconv.Itoa(i))
			}
			before := lab.CPU(b)
			for b.Loop() {
				if _, err := health.Once(b.Context(), health.Policy{Client: &http.Client{Transport: answer}},
					probes...); err != nil {
					b.Fatal(err)
				}
			}
			lab.ReportCPU(b, lab.CPU(b)-before)
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/probe")
		})
	}
}
