package site

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg/rollout/haproxy"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/traffic"
)

// HAProxy starts HAProxy in front of the gateways until the test ends, and returns its address.
// It asks each for the path check. The third server is disabled. Lines may be added to the
// backend. Colour and Split are set: the map sends the traffic of Split to blue, h1, or green, h2.
func (s *Site) HAProxy(tb testing.TB, check string, backend ...string) (front string) {
	tb.Helper()
	bin := lab.Program(tb, "haproxy", "haproxy")
	front, s.Split, s.Colour = traffic.Port(tb), traffic.Port(tb), filepath.Join(s.Dir, "active.map")
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
	option httpchk GET %s
	default-server check inter 100ms fall 2 rise 2
frontend front
	bind %s
	default_backend gateways
frontend split
	bind %s
	use_backend %%[str(active),map(%s,blue)]
`, s.Socket(), check, front, s.Split, s.Colour)
	servers := func(name string, lines []string, gateways ...*Gateway) {
		fmt.Fprintf(&cfg, "backend %s\n\t%s\n", name, strings.Join(lines, "\n\t"))
		for _, g := range gateways {
			disabled := ""
			if g.Name == "h3" {
				disabled = " disabled"
			}
			fmt.Fprintf(&cfg, "\tserver %s %s cookie %[1]s%s\n", g.Name, g.Addr, disabled)
		}
	}
	servers("gateways", backend, s.Gateways...)
	servers("blue", nil, s.Gateways[0])
	servers("green", nil, s.Gateways[min(1, len(s.Gateways)-1)])
	file := filepath.Join(s.Dir, "haproxy.cfg")
	for path, text := range map[string]string{file: cfg.String(), s.Colour: "active blue\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	var out bytes.Buffer
	cmd := exec.Command(bin, "-db", "-f", file)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	for _, g := range s.Gateways[:min(2, len(s.Gateways))] {
		for {
			st, err := s.Balancer().State(tb.Context(), g.Name)
			if err == nil && st.Up {
				break
			}
			select {
			case <-ended:
				tb.Fatalf("haproxy has ended: %s", out.String())
			case <-tb.Context().Done():
				tb.Fatal(err)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return front
}

// Socket is HAProxy's stats socket.
func (s *Site) Socket() string { return filepath.Join(s.Dir, "admin") }

// Lines are the key haproxy of an inventory.
func (s *Site) Lines() string {
	return fmt.Sprintf("haproxy: [{address: %s, backends: {gateway: [gateways]}}]", s.Socket())
}

// Balancer is HAProxy with all gateways.
func (s *Site) Balancer() haproxy.Balancer {
	return haproxy.Balancer{Network: "unix", Address: s.Socket(), Backends: []string{"gateways"}}
}
