package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/debs"
	"example.com/tykupgrade/internal/lab/host"
	"example.com/tykupgrade/internal/lab/redis"
	"example.com/tykupgrade/internal/lab/tyk"
)

// stage is two gateway hosts behind HAProxy, with a Redis behind them, and this
// command built to a binary.
type stage struct {
	dir, bin     string
	hosts        []*host.Host
	redis        *redis.Server
	front, split string // addresses: both hosts; the active colour
	sock, colour string // HAProxy's socket; its map file
}

const old, newer, broken = "4.0.8", "5.2.5", "5.3.0"

func newStage(t *testing.T) *stage {
	t.Helper()
	haproxy := lab.Program(t, "haproxy", "haproxy")
	for prog, deb := range map[string]string{"apt-ftparchive": "apt-utils", "gpg": "gnupg", "dpkg-deb": "dpkg"} {
		lab.Program(t, prog, deb)
	}
	if err := host.Available(); err != nil {
		lab.Missing(t, err.Error())
	}
	dir, err := os.MkdirTemp("", "fleet") // short: it holds Unix sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &stage{dir: dir, bin: filepath.Join(dir, "rolling"), sock: filepath.Join(dir, "admin"), colour: filepath.Join(dir, "active.map")}
	s.must(t, "go", "build", "-o", s.bin, ".")
	s.redis = redis.Start(t, "--bind", "0.0.0.0", "--protected-mode", "no")
	repo := s.packages(t)

	var wg sync.WaitGroup
	s.hosts = make([]*host.Host, 2)
	errs := make([]error, 2)
	for i := range s.hosts {
		wg.Go(func() { s.hosts[i], errs[i] = s.boot(t.Context(), fmt.Sprintf("h%d", i+1), repo) })
	}
	wg.Wait()
	t.Cleanup(func() {
		for _, h := range s.hosts {
			if h != nil {
				_ = h.Close()
			}
		}
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	s.balance(t, haproxy)
	return s
}

func (s *stage) must(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return string(out)
}

// packages builds the gateways: they die at SIGTERM, take a second to start and
// look at Redis every half second. One version cannot start at all.
func (s *stage) packages(t *testing.T) *debs.Repo {
	t.Helper()
	bin, err := tyk.Build(t.Context(), s.dir, "")
	if err != nil {
		t.Fatal(err)
	}
	repo, err := debs.NewRepo(filepath.Join(s.dir, "repo"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = repo.Close() })
	gateway := debs.TykOptions{Binary: bin, Args: "-conf /opt/tyk-gateway/tyk.conf", Config: fmt.Sprintf(
		`{"listen_port": 8080, "storage": {"host": %q, "port": %s}, "tykd": {"start-delay": "1s", "check-every": "500ms"}}`, bridge(t), s.redis.Port)}
	bad := gateway
	bad.Crash = true
	if _, err := repo.Add(debs.Tyk("tyk-gateway", old, gateway), debs.Tyk("tyk-gateway", newer, gateway), debs.Tyk("tyk-gateway", broken, bad)); err != nil {
		t.Fatal(err)
	}
	return repo
}

// bridge is the address under which containers reach this machine.
func bridge(t *testing.T) string {
	t.Helper()
	docker0, err := net.InterfaceByName("docker0")
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := docker0.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if ip, _, err := net.ParseCIDR(a.String()); err == nil && ip.To4() != nil {
			return ip.String()
		}
	}
	t.Fatal("docker0 has no IPv4 address")
	return ""
}

func (s *stage) boot(ctx context.Context, name string, repo *debs.Repo) (*host.Host, error) {
	h, err := host.Start(ctx, host.Options{Name: name, Mounts: map[string]string{"/repo": repo.Dir}})
	if err != nil {
		return nil, err
	}
	_, err = h.Exec(ctx, strings.NewReader(repo.List("file:/repo", "/repo/key.gpg")), "sh", "-ec",
		"cat >/etc/apt/sources.list.d/tyk_tyk-gateway.list; apt-get -q update; apt-get -q -y install tyk-gateway="+old)
	return h, err
}

func (s *stage) balance(t *testing.T, haproxy string) {
	t.Helper()
	s.front, s.split = "127.0.0.1:"+redis.FreePort(t), "127.0.0.1:"+redis.FreePort(t)
	if err := os.WriteFile(s.colour, []byte("active blue\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg := fmt.Sprintf(`global
	stats socket %[1]s level admin
defaults
	mode http
	timeout connect 2s
	timeout client 30s
	timeout server 30s
	option httpchk GET /hello
	default-server check inter 500ms fall 2 rise 2
frontend front
	bind %[2]s
	default_backend gateways
frontend split
	bind %[3]s
	use_backend %%[str(active),map(%[4]s,blue)]
backend gateways
	server h1 %[5]s:8080
	server h2 %[6]s:8080
backend blue
	server h1 %[5]s:8080
backend green
	server h2 %[6]s:8080
`, s.sock, s.front, s.split, s.colour, s.hosts[0].Addr, s.hosts[1].Addr)
	file := filepath.Join(s.dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(cfg), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command(haproxy, "-db", "-f", file)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lb := rollout.HAProxy{Network: "unix", Address: s.sock}
	for server, backends := range map[string][]string{"h1": {"gateways", "blue"}, "h2": {"gateways", "green"}} {
		lb.Backends = backends
		if err := rollout.WaitUp(t.Context(), lb, server, rollout.UpOptions{}); err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
	}
}

// inventory writes the file for a version, with lines added, and returns its
// path; the journal of an earlier run is removed.
func (s *stage) inventory(t *testing.T, version, more string) string {
	t.Helper()
	var ssh strings.Builder
	for _, h := range s.hosts {
		fmt.Fprintf(&ssh, "Match host %s\n  Include %s\n", h.Addr, h.SSHConfig())
	}
	config := filepath.Join(s.dir, "ssh_config")
	text := fmt.Sprintf(`versions: {gateway: %s}
ssh: {config: %s}
haproxy: [{address: %s, backends: {gateway: [gateways]}}]
health: {settle: 500ms, deadline: 15s}
up: {deadline: 30s}
hosts:
- {name: h1, address: %s, component: gateway, server: h1, colour: blue}
- {name: h2, address: %s, component: gateway, server: h2, colour: green}
%s`, version, config, s.sock, s.hosts[0].Addr, s.hosts[1].Addr, more)
	path := filepath.Join(s.dir, "fleet.yaml")
	if err := errors.Join(os.WriteFile(config, []byte(ssh.String()), 0o600), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(path + ".journal")
	return path
}

// rolling runs the command and returns its exit code and output.
func (s *stage) rolling(t *testing.T, args ...string) (int, string) {
	t.Helper()
	cmd := s.start(t, args...)
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), cmd.Stdout.(*bytes.Buffer).String()
}

func (s *stage) start(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(s.bin, append([]string{"-yes"}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// Shared connections of ssh hold the output open after the command ended.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// succeed is rolling for calls that must end with 0.
func (s *stage) succeed(t *testing.T, args ...string) string {
	t.Helper()
	code, out := s.rolling(t, args...)
	if code != 0 {
		t.Fatalf("rolling %q: exit code %d\n%s", args, code, out)
	}
	return out
}

// versions asks dpkg and the running gateways.
func (s *stage) versions(t *testing.T) string {
	t.Helper()
	var all []string
	for _, h := range s.hosts {
		out, err := h.Exec(t.Context(), nil, "dpkg-query", "-W", "-f", "${Version} ${db:Status-Abbrev}", "tyk-gateway")
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.Get("http://" + h.Addr + ":8080/hello")
		body := []byte("down")
		if err == nil {
			body, _ = io.ReadAll(resp.Body)
			_ = resp.Body.Close()
		}
		version, _, _ := strings.Cut(out, " ")
		if !strings.Contains(out, " ii") || !bytes.Contains(body, []byte(version)) {
			t.Errorf("%s: dpkg says %q, the gateway %s", h.Name, out, body)
		}
		all = append(all, version)
	}
	return strings.Join(all, " ")
}

// installs counts how often dpkg began to bring the version to a host.
func (s *stage) installs(t *testing.T, h *host.Host, version string) int {
	t.Helper()
	out, err := h.Exec(t.Context(), nil, "cat", "/var/log/dpkg.log")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) == 6 && f[2] == "upgrade" && f[5] == version {
			n++
		}
	}
	return n
}

// load sends requests to addr until stopped, without keep-alive: Go's client
// repeats what fails on a kept connection, and so hides failures.
type load struct {
	total, failed atomic.Int64
	first         atomic.Value // the first failure
	stop          func()
}

func startLoad(t *testing.T, addr string) *load {
	l := &load{}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for worker := range 16 {
		rnd := rand.New(rand.NewPCG(uint64(worker), 7))
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(time.Duration(rnd.IntN(12)) * time.Millisecond):
				}
				path := "/fast"
				switch n := rnd.IntN(100); {
				case n < 1:
					path = "/delay/2.5s/x"
				case n < 10:
					path = "/delay/150ms/x"
				}
				method := http.MethodGet
				if rnd.IntN(4) == 0 {
					method = http.MethodPost
				}
				l.request(client, method, "http://"+addr+path)
			}
		})
	}
	l.stop = sync.OnceFunc(func() { close(done); wg.Wait() })
	t.Cleanup(l.stop)
	return l
}

func (l *load) request(client *http.Client, method, url string) {
	req, err := http.NewRequest(method, url, strings.NewReader("body"))
	if err != nil {
		panic(err)
	}
	l.total.Add(1)
	resp, err := client.Do(req)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			err = errors.New(resp.Status)
		}
	}
	if err != nil {
		l.failed.Add(1)
		l.first.CompareAndSwap(nil, fmt.Sprintf("%s %s at %s: %v", method, url, time.Now().Format("15:04:05.000"), err))
	}
}

// none stops the load once it has sent at least so many requests and fails the
// test if any of them failed.
func (l *load) none(t *testing.T, least int64) {
	t.Helper()
	for l.total.Load() < least {
		time.Sleep(10 * time.Millisecond)
	}
	l.stop()
	t.Logf("%d of %d requests failed", l.failed.Load(), l.total.Load())
	if n := l.failed.Load(); n > 0 {
		t.Errorf("%d of %d requests failed, the first: %v", n, l.total.Load(), l.first.Load())
	}
}
