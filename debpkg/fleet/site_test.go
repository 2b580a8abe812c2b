package fleet_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/debpkgtest"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout/haproxy"
	"example.com/tykupgrade/health/healthtest"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/traffic"
)

const (
	older = "4.0.8"
	newer = "5.2.5"
)

// gateway is a host in memory whose gateway serves on this machine. As with Tyk's packages, an
// installation ends the process with all requests under way.
type gateway struct {
	name, addr string
	fake       *debpkgtest.Host
	stub       *healthtest.Program

	mu     sync.Mutex // a host runs one command at a time
	srv    *http.Server
	failed bool // the load balancer's check of /check fails
}

func newGateway(t *testing.T, name string) *gateway {
	t.Helper()
	g := &gateway{name: name, addr: "127.0.0.1:0", fake: debpkgtest.New(name),
		stub: healthtest.New(healthtest.Options{Kind: healthtest.Gateway, Version: older})}
	g.fake.Offer(debpkgtest.Tyk("tyk-gateway", newer), debpkgtest.Tyk("tyk-gateway", older))
	g.fake.Install(debpkgtest.Tyk("tyk-gateway", older))
	if err := g.start(older); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		_ = g.srv.Close()
	})
	return g
}

func (g *gateway) start(version string) error {
	l, err := net.Listen("tcp", g.addr)
	if err != nil {
		return err
	}
	g.addr = l.Addr().String()
	g.stub.Restart(version)
	g.srv = &http.Server{Handler: http.HandlerFunc(g.serve)}
	go func(s *http.Server) { _ = s.Serve(l) }(g.srv)
	return nil
}

func (g *gateway) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/check" {
		g.mu.Lock()
		failed := g.failed
		g.mu.Unlock()
		if failed {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return
	}
	g.stub.ServeHTTP(w, r)
}

func (g *gateway) version() string {
	version, _, _ := strings.Cut(g.fake.State("tyk-gateway"), " ")
	return version
}

// run is the host's Runner.
func (g *gateway) run(ctx context.Context, argv []string, stdin io.Reader, stdout,
	stderr io.Writer) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch argv[0] {
	case "fail-check", "pass-check":
		g.failed = argv[0] == "fail-check"
		return nil
	case "cat":
		_, err := io.WriteString(stdout, "{}")
		return err
	}
	before := len(g.fake.Done())
	err := g.fake.Run(ctx, argv, stdin, stdout, stderr)
	restarts := slices.ContainsFunc(g.fake.Done()[before:], func(what string) bool {
		return strings.HasPrefix(what, "install") || strings.HasPrefix(what, "restart")
	})
	if !restarts {
		return err
	}
	_ = g.srv.Close()
	time.Sleep(50 * time.Millisecond)
	return errors.Join(err, g.start(g.version()))
}

// site is gateways with an inventory.
type site struct {
	dir      string
	gateways []*gateway
}

// newSite starts gateways h1, h2 and so on.
func newSite(t *testing.T, n int) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "fleet") // short: it holds Unix sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &site{dir: dir}
	for i := range n {
		s.gateways = append(s.gateways, newGateway(t, fmt.Sprint("h", i+1)))
	}
	return s
}

func (s *site) addrs() []string {
	var all []string
	for _, g := range s.gateways {
		all = append(all, g.addr)
	}
	return all
}

// file is the inventory, with lines added.
func (s *site) file(more string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "versions: {gateway: %s}\nhealth: {success_threshold: 1, deadline: 5m, settle: "+
		"1ms}\nup: {deadline: 5m}\n%s\nhosts:\n", newer, more)
	for _, g := range s.gateways {
		fmt.Fprintf(&b, "- {name: %s, component: gateway, server: %[1]s, health: \"http://%s\"}\n",
			g.name, g.addr)
	}
	return b.String()
}

func (s *site) inventory(t *testing.T, more string) *fleet.Inventory {
	t.Helper()
	inv, err := fleet.Parse([]byte(s.file(more)))
	if err != nil {
		t.Fatal(err)
	}
	inv.Connect = func(h fleet.Host) debpkg.Runner { return s.host(h.Name).run }
	return inv
}

func (s *site) host(name string) *gateway {
	for _, g := range s.gateways {
		if g.name == name {
			return g
		}
	}
	return nil
}

func (s *site) versions() string {
	var all []string
	for _, g := range s.gateways {
		all = append(all, g.version())
	}
	return strings.Join(all, " ")
}

// haproxy starts HAProxy in front of the gateways and returns its address. Its stats socket is
// in the site's directory. The third server is disabled. Lines may be added to the backend.
func (s *site) haproxy(t *testing.T, check string, backend ...string) (front string) {
	t.Helper()
	bin := lab.Program(t, "haproxy", "haproxy")
	front = traffic.Port(t)
	var cfg strings.Builder
	fmt.Fprintf(&cfg, `global
	stats socket %s level admin
defaults
	mode http
	retries 0
	timeout connect 2s
	timeout client 30s
	timeout server 30s
	timeout check 30s
	default-server check inter 100ms fall 2 rise 2
frontend front
	bind %s
	default_backend gateways
backend gateways
	option httpchk GET %s
	%s
`, s.socket(), front, check, strings.Join(backend, "\n\t"))
	for i, g := range s.gateways {
		disabled := ""
		if i == 2 {
			disabled = " disabled"
		}
		fmt.Fprintf(&cfg, "\tserver %s %s cookie %[1]s%s\n", g.name, g.addr, disabled)
	}
	file := filepath.Join(s.dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(cfg.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command(bin, "-db", "-f", file)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for _, g := range s.gateways[:min(2, len(s.gateways))] {
		for {
			st, err := s.balancer().State(t.Context(), g.name)
			if err == nil && st.Up {
				break
			}
			if t.Context().Err() != nil {
				t.Fatalf("%v\n%s", err, out.String())
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return front
}

func (s *site) socket() string { return filepath.Join(s.dir, "admin") }

func (s *site) balancer() haproxy.Balancer {
	return haproxy.Balancer{Network: "unix", Address: s.socket(), Backends: []string{"gateways"}}
}

// kept is the administrative state of every server.
func (s *site) kept(t *testing.T) string {
	t.Helper()
	var all []json.RawMessage
	for _, g := range s.gateways {
		k, err := s.balancer().Keep(t.Context(), g.name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, k)
	}
	data, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
