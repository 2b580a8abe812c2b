// Package traffic has servers that die when a new version is installed, and clients that count
// what fails, to test what an upgrade does to requests.
package traffic

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"example.com/tykupgrade/internal/lab/port"
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
	s := &Server{Name: name, Addr: Port(tb)}
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
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter,
		r *http.Request) {
		s.serve(w, r, version)
	})}
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
	case "/delay/50ms/slow":
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
	addr, err := port.Addr()
	if err != nil {
		tb.Fatal(err)
	}
	return addr
}
