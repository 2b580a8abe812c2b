package healthtest

import (
	"encoding/json"
	"net"
	"net/http"
	"time"
)

// ServeHTTP answers on the program's main port.
func (s *Program) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.admit(w, r) {
		return
	}
	if !s.o.Control && s.serveHealth(w, r) {
		return
	}
	if s.o.Kind != Gateway {
		http.NotFound(w, r)
		return
	}
	s.serveAPI(w, r)
}

// Control answers on the port of control_api_port, for a program with
// Options.Control.
func (s *Program) Control() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.admit(w, r) && !s.serveHealth(w, r) {
			http.NotFound(w, r)
		}
	})
}

// admit applies mode and delay. It returns false if it has answered the request.
func (s *Program) admit(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	mode, slow := s.mode, s.slow
	again := s.conns[r.RemoteAddr]
	if mode == Reset {
		s.conns[r.RemoteAddr] = true
	}
	s.mu.Unlock()
	switch {
	case mode == HalfOpen:
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	case mode == ResetAll, mode == Reset && again:
		reset(w)
		return false
	}
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
	return true
}

func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if c, ok := conn.(*net.TCPConn); ok {
		_ = c.SetLinger(0)
	}
	_ = conn.Close()
}

func (s *Program) serveHealth(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	s.check()
	hello := r.URL.Path == s.o.HelloPath
	ready := s.o.Kind == Gateway && r.URL.Path == s.o.ReadyPath && hasReady(s.version)
	var status int
	var body any
	switch {
	case !hello && !ready:
	case s.o.Kind != Gateway:
		// Both check nothing and report no version.
		status, body = http.StatusOK, answer{Status: "ok"}
	case r.Method != http.MethodGet:
		status, body = http.StatusMethodNotAllowed, apiError(http.StatusText(http.StatusMethodNotAllowed))
	case ready:
		status, body = s.ready()
	default:
		status, body = s.hello()
	}
	s.mu.Unlock()
	if status == 0 {
		return false
	}
	writeJSON(w, status, body)
	return true
}

func (s *Program) hello() (int, any) {
	a := answer{Status: "pass", Version: s.reported(), Description: "Tyk GW", Details: s.details}
	var failed []string
	for name, d := range s.details {
		if d.Status == "fail" {
			failed = append(failed, name)
		}
	}
	switch {
	case len(failed) == 0:
	case fails503(s.version):
		a.Status = "fail"
		return http.StatusServiceUnavailable, a
	case len(failed) == len(s.details):
		a.Status = "fail"
	default:
		a.Status = "warn"
	}
	return http.StatusOK, a
}

func (s *Program) ready() (int, any) {
	redis := s.failing["redis"] != ""
	if d, known := s.details["redis"]; known {
		redis = d.Status == "fail"
	}
	switch {
	case s.stopping && !older(s.version, 5, 14, 0):
		return http.StatusServiceUnavailable, apiError("Gateway is shutting down")
	case redis:
		return http.StatusServiceUnavailable, apiError("Redis connection not available")
	case s.noReload:
		return http.StatusServiceUnavailable, apiError("A successful API reload did not happen")
	}
	return http.StatusOK, answer{Status: "pass", Version: s.reported(), Description: "Tyk GW Ready",
		Details: s.details}
}

func apiError(message string) map[string]string {
	return map[string]string{"status": "error", "message": message}
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
