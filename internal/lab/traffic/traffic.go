// Package traffic has servers that die when a new version is installed, and clients that count
// what fails, to test what an upgrade does to requests.
package traffic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Server answers with its name and version. Installing a version ends it at once, with all
// requests under way, and starts it again a moment later, as packages of gateways do.
type Server struct {
	Name, Addr string

	mu      sync.Mutex
	version string
	srv     *http.Server
	sick    bool
	hold    chan struct{} // nil: /hold answers at once
}

// Start starts a server on a loopback port until the test ends.
func Start(tb testing.TB, name, version string) *Server {
	tb.Helper()
	s := &Server{Name: name, Addr: "127.0.0.1:0"}
	if err := s.listen(version); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		s.Hold(false)
		s.mu.Lock()
		defer s.mu.Unlock()
		_ = s.srv.Close()
	})
	return s
}

func (s *Server) listen(version string) error {
	l, err := net.Listen("tcp", s.Addr)
	if err != nil {
		return err
	}
	s.Addr = l.Addr().String()
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, version) })}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.srv, s.version = srv, version
	go func() { _ = srv.Serve(l) }()
	return nil
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request, version string) {
	s.mu.Lock()
	sick, hold := s.sick, s.hold
	s.mu.Unlock()
	switch r.URL.Path {
	case "/hello":
		if sick {
			w.WriteHeader(http.StatusInternalServerError)
		}
	case "/slow":
		time.Sleep(50 * time.Millisecond)
	case "/hold":
		if hold != nil {
			<-hold
		}
	}
	_, _ = io.Copy(io.Discard, r.Body)
	_, _ = io.WriteString(w, s.Name+" "+version)
}

// Install replaces the version.
func (s *Server) Install(version string) error {
	s.mu.Lock()
	srv := s.srv
	s.mu.Unlock()
	if err := srv.Close(); err != nil {
		return err
	}
	time.Sleep(50 * time.Millisecond)
	return s.listen(version)
}

// Version returns what is installed.
func (s *Server) Version() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.version
}

// SetSick sets whether /hello fails.
func (s *Server) SetSick(sick bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sick = sick
}

// Hold sets whether requests of /hold wait. Those that wait are let go by false.
func (s *Server) Hold(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hold != nil {
		close(s.hold)
		s.hold = nil
	}
	if on {
		s.hold = make(chan struct{})
	}
}

// Load is clients that send requests until they are stopped.
type Load struct {
	sent, failed atomic.Int64
	first        atomic.Pointer[error]
	cancel       context.CancelFunc
	wg           sync.WaitGroup
}

// Run starts clients for the addresses, each on a connection of its own for each request. Every
// second client keeps cookies.
func Run(clients int, addrs ...string) *Load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{cancel: cancel}
	for i := range clients {
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
		if i%2 == 0 {
			c.Jar, _ = cookiejar.New(nil)
		}
		l.wg.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				if err := l.one(c, "http://"+addrs[n%len(addrs)], n); err != nil {
					l.failed.Add(1)
					l.first.CompareAndSwap(nil, &err)
				}
				l.sent.Add(1)
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	return l
}

func (l *Load) one(c *http.Client, url string, n int) error {
	var resp *http.Response
	var err error
	switch {
	case n%4 == 1:
		resp, err = c.Post(url+"/post", "text/plain", strings.NewReader(strings.Repeat("x", 1000)))
	case n%20 == 2:
		resp, err = c.Get(url + "/slow")
	default:
		resp, err = c.Get(url + "/")
	}
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return err
}

// End returns once so many requests were sent, and how many failed, with the first reason.
func (l *Load) End(least int64) (sent, failed int64, why error) {
	for l.sent.Load() < least {
		time.Sleep(10 * time.Millisecond)
	}
	l.cancel()
	l.wg.Wait()
	if p := l.first.Load(); p != nil {
		why = *p
	}
	return l.sent.Load(), l.failed.Load(), why
}

// Agent answers every connection with a word for HAProxy's agent check.
func Agent(tb testing.TB, word string) (port string) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = io.WriteString(c, word+"\n")
				_ = c.Close()
			}
		}
	}()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

// Port returns a loopback address that is free now.
func Port(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
