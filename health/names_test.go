package health_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/tykupgrade/health"
)

// sockets counts those that the resolver has open.
type sockets struct {
	address    string
	open, most atomic.Int64
}

type socket struct {
	net.Conn
	s *sockets
}

func (c socket) Close() error {
	c.s.open.Add(-1)
	return c.Conn.Close()
}

// silent counts the sockets to a name server that does not answer; nil: lookups of this process go
// to the machine's own.
var silent atomic.Pointer[sockets]

// Lookups may outlive their test, so the resolver stays, and only its server changes.
func init() {
	net.DefaultResolver = &net.Resolver{PreferGo: true,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			s := silent.Load()
			if s == nil {
				return (&net.Dialer{}).DialContext(ctx, network, address)
			}
			c, err := (&net.Dialer{}).DialContext(ctx, "udp", s.address)
			if err != nil {
				return nil, err
			}
			n := s.open.Add(1)
			for m := s.most.Load(); n > m && !s.most.CompareAndSwap(m, n); m = s.most.Load() {
			}
			return socket{c, s}, nil
		}}
}

// silentDNS makes every lookup of this process ask a name server that does not answer.
func silentDNS(tb testing.TB) *sockets {
	tb.Helper()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s := &sockets{address: server.LocalAddr().String()}
	silent.Store(s)
	tb.Cleanup(func() {
		silent.Store(nil)
		_ = server.Close()
	})
	return s
}

func unresolved(n int, timeout time.Duration) (probes []health.Probe) {
	for i := range n {
		p := health.Pump(fmt.Sprintf("http://pump%d.example.invalid:8083", i))
		p.Timeout = timeout
		probes = append(probes, p)
	}
	return probes
}

// Names that nobody resolves hold few sockets at a time, and are named as the cause.
func TestLookupsAreBounded(t *testing.T) {
	dns := silentDNS(t)
	early := make(chan int64, 1)
	go func() {
		time.Sleep(2 * time.Second) // half of a try's time
		early <- dns.most.Load()
	}()
	r, err := health.Once(t.Context(), health.Policy{}, unresolved(200, 4*time.Second)...)
	if err != nil || r.Status != health.Fail {
		t.Fatal(r.Status, err)
	}
	texts := map[string]int{}
	for _, p := range r.Probes {
		if !errors.Is(p.Err, health.ErrLookup) {
			t.Fatal(p.Err)
		}
		for _, text := range []string{"no answer from a name server", "other lookups were still running"} {
			if strings.Contains(p.Error, text) {
				texts[text]++
			}
		}
	}
	if len(texts) != 2 {
		t.Errorf("%v, want both causes: %v", texts, r.Probes[0].Err)
	}
	// 32 lookups of two questions each. Without a bound it is 400. When the tries end, others begin
	// in their place before the resolver notices.
	if n := <-early; n > 64 || dns.most.Load() == 0 {
		t.Errorf("%d sockets at a time", n)
	}
	// A transport of the caller's is watched as well.
	one := unresolved(1, 2*time.Second)[0]
	if r := one.Check(t.Context(), &http.Client{Transport: &http.Transport{}}); !errors.Is(r.Err,
		health.ErrLookup) || !strings.Contains(r.Error, "no answer from a name server") {
		t.Error(r.Err)
	}
}

// BenchmarkNames probes n hosts whose names nobody resolves. descriptors is how many more
// files were open at a time.
func BenchmarkNames(b *testing.B) {
	silentDNS(b)
	for _, n := range []int{100, 300, 1000} {
		b.Run(fmt.Sprint("n=", n), func(b *testing.B) {
			probes := unresolved(n, time.Second)
			before, most := descriptors(b), 0
			done, gone := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(gone)
				tick := time.NewTicker(10 * time.Millisecond)
				defer tick.Stop()
				for {
					select {
					case <-done:
						return
					case <-tick.C:
						most = max(most, descriptors(b))
					}
				}
			}()
			for b.Loop() {
				if r, err := health.Once(b.Context(), health.Policy{}, probes...); err != nil ||
					!errors.Is(r.Probes[n-1].Err, health.ErrLookup) {
					b.Error(r.Probes[n-1].Err, err)
				}
			}
			close(done)
			<-gone
			b.ReportMetric(float64(most-before), "descriptors")
		})
	}
}

func descriptors(b *testing.B) int {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		b.Error(err)
	}
	return len(all)
}
