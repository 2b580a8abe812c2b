package haproxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/debpkg/rollout/haproxy"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/traffic"
)

// proxy is a running HAProxy with servers h1 and h2 in the backends api and
// web, colours in a map, and runtime sockets of every kind.
type proxy struct {
	dir, tcp, front string
	mapFile         string
	slow            chan struct{} // closing it ends the slow requests
	sick            [2]atomic.Bool
}

func (p *proxy) sock(name string) string { return filepath.Join(p.dir, name) }

func startHAProxy(t *testing.T) *proxy {
	t.Helper()
	bin := lab.Program(t, "haproxy", "haproxy")
	// Unix socket paths are short, test directories are not.
	dir, err := os.MkdirTemp("", "hap")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &proxy{dir: dir, slow: make(chan struct{}), mapFile: filepath.Join(dir, "active.map"),
		tcp: traffic.Port(t), front: traffic.Port(t)}
	var servers [2]string
	for i := range servers {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/hello" && p.sick[i].Load():
				w.WriteHeader(500)
			case r.URL.Path == "/slow":
				<-p.slow
			}
			_, _ = fmt.Fprintf(w, "h%d", i+1)
		}))
		t.Cleanup(s.Close)
		servers[i] = s.Listener.Addr().String()
	}
	if err := os.WriteFile(p.mapFile, []byte("# which colour is live\nother x\nactive blue\n"),
		0o640); err != nil {
		t.Fatal(err)
	}
	cfg := fmt.Sprintf(`global
	stats socket %[1]s/admin level admin
	stats socket %[1]s/operator level operator
	stats socket ipv4@%[2]s level admin
defaults
	mode http
	timeout connect 2s
	timeout client 30s
	timeout server 30s
	timeout check 30s
	option httpchk GET /hello
	default-server check inter 100ms fall 2 rise 2
frontend front
	bind %[3]s
	use_backend %%[str(active),map(%[6]s,blue)]
backend api
	server h1 %[4]s
	server h2 %[5]s
backend web
	server h1 %[4]s
backend blue
	server h1 %[4]s
backend green
	server h2 %[5]s
`, dir, p.tcp, p.front, servers[0], servers[1], p.mapFile)
	file := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(cfg), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command(bin, "-db", "-f", file)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	h := p.api()
	for _, server := range []string{"h1", "h2"} {
		if err := rollout.WaitUp(t.Context(), h, server, rollout.UpOptions{
			Interval: 20 * time.Millisecond, Deadline: time.Minute}); err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
	}
	return p
}

func (p *proxy) api() haproxy.Balancer {
	return haproxy.Balancer{Network: "unix", Address: p.sock("admin"), Backends: []string{"api"}}
}

func TestHAProxy(t *testing.T) {
	t.Parallel()
	p := startHAProxy(t)
	ctx := t.Context()
	quick := rollout.DrainOptions{Interval: 10 * time.Millisecond}

	for name, h := range map[string]haproxy.Balancer{
		"unix": {Network: "unix", Address: p.sock("admin"), Backends: []string{"api", "web"}},
		"tcp":  {Network: "tcp", Address: p.tcp, Backends: []string{"api", "web"}},
	} {
		if err := h.Drain(ctx, "h1"); err != nil {
			t.Fatal(name, err)
		}
		if err := rollout.WaitDrained(ctx, h, "h1", quick); err != nil {
			t.Error(name, err)
		}
		s, err := h.State(ctx, "h1")
		if err != nil || s.Up || !s.Drained || !strings.Contains(s.Detail, "web/h1 DRAIN") {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
		if err := h.Ready(ctx, "h1"); err != nil {
			t.Fatal(name, err)
		}
		if err := rollout.WaitUp(ctx, h, "h1", rollout.UpOptions{
			Interval: 10 * time.Millisecond}); err != nil {
			t.Error(name, err)
		}
	}

	for name, c := range map[string]struct {
		h      haproxy.Balancer
		server string
		want   string
		retry  bool
	}{
		"no such server": {p.api(), "h9", "o such server", false},
		"no such backend": {haproxy.Balancer{Network: "unix", Address: p.sock("admin"),
			Backends: []string{"nope"}}, "h1", "No such", false},
		"not an admin": {haproxy.Balancer{Network: "unix", Address: p.sock("operator"),
			Backends: []string{"api"}}, "h1", `level admin`, false},
		"no socket": {haproxy.Balancer{Network: "unix", Address: p.sock("gone"),
			Backends: []string{"api"}}, "h1", "check that HAProxy runs", true},
		"no backend named": {haproxy.Balancer{Network: "unix", Address: p.sock("admin")}, "h1",
			"no backend named", false},
		"a second command": {p.api(), "h1 state ready; disable server api/h2", "invalid name", false},
	} {
		err := c.h.Drain(ctx, c.server)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		var he *haproxy.Error
		if errors.As(err, &he) && he.Retryable() != c.retry {
			t.Errorf("%s: retryable is %t", name, he.Retryable())
		}
	}
}

// A session under way keeps the server from being drained, until it ends, or
// the deadline passes and it is ended by force.
func TestHAProxySessions(t *testing.T) {
	t.Parallel()
	p := startHAProxy(t)
	h := haproxy.Balancer{Network: "unix", Address: p.sock("admin"), Backends: []string{"blue"}}
	ended := make(chan error, 1)
	go func() {
		resp, err := http.Get("http://" + p.front + "/slow")
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != 200 {
				err = errors.New(resp.Status)
			}
		}
		ended <- err
	}()
	for {
		s, err := h.State(t.Context(), "h1")
		if err != nil {
			t.Fatal(err)
		}
		if s.Sessions == 1 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := h.Drain(t.Context(), "h1"); err != nil {
		t.Fatal(err)
	}
	o := rollout.DrainOptions{Interval: 10 * time.Millisecond, Deadline: 100 * time.Millisecond}
	err := rollout.WaitDrained(t.Context(), h, "h1", o)
	var be *rollout.Error
	if !errors.As(err, &be) || be.Last.Sessions != 1 || !strings.Contains(err.Error(), "1 sessions") {
		t.Fatalf("error %v", err)
	}
	o.Force = true
	if err := rollout.WaitDrained(t.Context(), h, "h1", o); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("the session was not ended")
	}
	close(p.slow)
}

// A drained server that is down, as while a package is installed, is still a
// drained one: a resumed run drains it again.
func TestHAProxyDrainsAServerThatIsDown(t *testing.T) {
	t.Parallel()
	p := startHAProxy(t)
	h := p.api()
	if err := h.Drain(t.Context(), "h2"); err != nil {
		t.Fatal(err)
	}
	p.sick[1].Store(true)
	for {
		s, err := h.State(t.Context(), "h2")
		if err != nil {
			t.Fatal(err)
		}
		if !s.Drained || s.Up {
			t.Fatalf("state %+v", s)
		}
		if strings.Contains(s.Detail, "DOWN") {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := h.Drain(t.Context(), "h2"); err != nil {
		t.Error(err)
	}
	if err := rollout.WaitDrained(t.Context(), h, "h2", rollout.DrainOptions{
		Interval: 10 * time.Millisecond}); err != nil {
		t.Error(err)
	}
}

func TestWaitUpSeesASickServer(t *testing.T) {
	t.Parallel()
	p := startHAProxy(t)
	p.sick[1].Store(true)
	for {
		s, err := p.api().State(t.Context(), "h2")
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(s.Detail, "api/h2 DOWN") {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	err := rollout.WaitUp(t.Context(), p.api(), "h2", rollout.UpOptions{
		Interval: 10 * time.Millisecond, Deadline: 50 * time.Millisecond})
	var be *rollout.Error
	if !errors.As(err, &be) || !strings.Contains(err.Error(), "DOWN") {
		t.Fatalf("error %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("operator pressed stop")
	time.AfterFunc(30*time.Millisecond, func() { cancel(cause) })
	if err := rollout.WaitUp(ctx, p.api(), "h2", rollout.UpOptions{}); !errors.Is(err, cause) {
		t.Errorf("error %v", err)
	}
}

func TestMapSwitch(t *testing.T) {
	t.Parallel()
	p := startHAProxy(t)
	ctx := t.Context()
	get := func() string {
		resp, err := http.Get("http://" + p.front + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, _ := io.ReadAll(resp.Body)
		return string(body)
	}
	s := haproxy.Switch{Instances: []haproxy.Balancer{p.api(), {Network: "tcp", Address: p.tcp}},
		File: p.mapFile}
	owner := os.Geteuid()
	if owner == 0 { // another owner can be given and is kept
		owner = 65534
		if err := os.Chown(p.mapFile, owner, owner); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ colour, server string }{{"green", "h2"}, {"blue", "h1"}} {
		if err := s.Set(ctx, c.colour); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(p.mapFile)
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); int(st.Uid) != owner || info.Mode().Perm() != 0o640 {
			t.Errorf("the map file belongs to %d with mode %v, want %d and 0640", st.Uid,
				info.Mode().Perm(), owner)
		}
		if now, err := s.Active(ctx); now != c.colour || err != nil {
			t.Errorf("active is %q, %v", now, err)
		}
		if got := get(); got != c.server {
			t.Errorf("%s is served by %s", c.colour, got)
		}
		data, err := os.ReadFile(p.mapFile)
		if want := "# which colour is live\nother x\nactive " + c.colour + "\n"; err != nil ||
			string(data) != want {
			t.Errorf("file %q, %v", data, err)
		}
	}
	// What cannot be stored, or not set everywhere, is taken back.
	s.Store = readOnly{}
	if err := s.Set(ctx, "green"); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("error %v", err)
	}
	s.Store = nil
	broken := s
	broken.Instances = append(broken.Instances[:1:1], haproxy.Balancer{Network: "unix",
		Address: p.sock("gone")})
	if err := broken.Set(ctx, "green"); err == nil {
		t.Error("a missing instance was accepted")
	}
	if now, err := s.Active(ctx); now != "blue" || err != nil {
		t.Errorf("active is %q, %v", now, err)
	}
	for name, bad := range map[string]haproxy.Switch{
		"no instance": {File: p.mapFile}, "no such map": {Instances: s.Instances, File: "/nope"},
		"no such key": {Instances: s.Instances, File: p.mapFile, Key: "nope"},
		"injection":   {Instances: s.Instances, File: p.mapFile + " x"},
	} {
		if _, err := bad.Active(ctx); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// readOnly is a map file that cannot be written.
type readOnly struct{}

func (readOnly) Read(_ context.Context, path string) ([]byte, error) { return os.ReadFile(path) }
func (readOnly) Write(context.Context, string, []byte) error {
	return errors.New(
		"read-only")
}
