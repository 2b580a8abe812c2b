package haproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/debpkg/rollout/haproxy"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/traffic"
)

// site is three servers behind two backends of one HAProxy: api with cookies, health and agent
// checks, and web, whose servers track those of api. h3 is disabled in haproxy.cfg; bare has no
// health checks.
type site struct {
	dir, api, web string
	servers       []*traffic.Server
	cmd           *exec.Cmd
	out           *bytes.Buffer
}

func (s *site) lb(backends ...string) haproxy.Balancer {
	return haproxy.Balancer{Network: "unix", Address: filepath.Join(s.dir, "admin"),
		Backends: backends}
}

func startSite(t *testing.T, check string, args ...string) *site {
	t.Helper()
	bin := lab.Program(t, "haproxy", "haproxy")
	dir, err := os.MkdirTemp("", "hap")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &site{dir: dir, api: traffic.Port(t), web: traffic.Port(t), out: &bytes.Buffer{}}
	agent := traffic.Agent(t, "ready up") // it would end a drain
	for i := range 3 {
		s.servers = append(s.servers, traffic.Start(t, fmt.Sprint("h", i+1), "old"))
	}
	cfg := fmt.Sprintf(`global
	stats socket %[1]s/admin level admin
defaults
	mode http
	retries 0
	timeout connect 2s
	timeout client 30s
	timeout server 30s
	timeout check 30s
	default-server %[8]s
frontend fapi
	bind %[2]s
	default_backend api
frontend fweb
	bind %[3]s
	default_backend web
backend api
	option httpchk GET /hello
	cookie SRV insert indirect nocache
	server h1 %[4]s check cookie h1 agent-check agent-port %[7]s agent-inter 100ms
	server h2 %[5]s check cookie h2 agent-check agent-port %[7]s agent-inter 100ms
	server h3 %[6]s check cookie h3 disabled
backend web
	server h1 %[4]s track api/h1
	server h2 %[5]s track api/h2
	server h3 %[6]s track api/h3
backend bare
	server h1 %[4]s
backend moved
	server addr %[4]s
	server fqdn localhost:%[9]s resolvers local init-addr last,libc,none
resolvers local
	nameserver none 127.0.0.1:1
	hold refused 1h
	hold timeout 1h
	hold other 1h
`, dir, s.api, s.web, s.servers[0].Addr, s.servers[1].Addr, s.servers[2].Addr, agent, check,
		s.servers[0].Addr[strings.LastIndexByte(s.servers[0].Addr, ':')+1:])
	file := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(cfg), 0o600); err != nil {
		t.Fatal(err)
	}
	if len(args) == 0 {
		args = []string{"-db"}
	}
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "DIR", dir)
	}
	s.cmd = exec.Command(bin, append(args, "-f", file)...)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.cmd.WaitDelay = time.Second // a worker may outlive its master by a moment
	t.Cleanup(func() {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		_ = s.cmd.Wait()
	})
	for _, server := range []string{"h1", "h2"} {
		if err := rollout.WaitUp(t.Context(), s.lb("api", "web"), server, quickUp); err != nil {
			t.Fatalf("%v\n%s", err, s.out)
		}
	}
	return s
}

const quickChecks = "inter 100ms fall 2 rise 2"

var (
	quickUp    = rollout.UpOptions{Interval: 20 * time.Millisecond, Deadline: time.Minute}
	quickDrain = rollout.DrainOptions{Interval: 20 * time.Millisecond, Deadline: time.Minute,
		Grace: 300 * time.Millisecond}
)

func (s *site) state(t *testing.T, server string, backends ...string) rollout.State {
	t.Helper()
	st, err := s.lb(backends...).State(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// ask sends a command that the tests need besides.
func (s *site) ask(t *testing.T, command string) string {
	t.Helper()
	c, err := net.Dial("unix", filepath.Join(s.dir, "admin"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, _ = fmt.Fprintln(c, command)
	var out bytes.Buffer
	_, _ = out.ReadFrom(c)
	return out.String()
}

// A server whose checks have begun to fail still serves: it counts when it is drained, and not
// when another one is.
func TestChecksThatChange(t *testing.T) {
	t.Parallel()
	s := startSite(t, "inter 100ms fall 600 rise 1")
	s.servers[0].SetSick(true)
	var st rollout.State
	for !strings.Contains(st.Detail, "/h1 UP ") {
		st = s.state(t, "h1", "api")
		time.Sleep(10 * time.Millisecond)
	}
	if !st.Up || !st.Changing || st.Drained {
		t.Fatalf("state %+v", st)
	}
	err := rollout.WaitUp(t.Context(), s.lb("api"), "h1", rollout.UpOptions{
		Interval: 10 * time.Millisecond, Deadline: 50 * time.Millisecond})
	if !errors.Is(err, rollout.ErrTimeout) {
		t.Errorf("it counts as up: %v", err)
	}
	ok := func(context.Context) error { return nil }
	for _, c := range []struct{ sick, first string }{{"h1", "h2"}, {"h1", "h1"}} {
		hosts := []rollout.Host{{Name: "g2", Server: "h2", Install: rollout.Step{Do: ok, Undo: ok},
			Healthy: ok}, {Name: "g1", Server: "h1", Install: rollout.Step{Do: ok, Undo: ok}, Healthy: ok}}
		w, err := rollout.Rolling("w", hosts, rollout.RollingOptions{Balancer: s.lb("api"),
			Drain: quickDrain, Up: quickUp})
		if err != nil {
			t.Fatal(err)
		}
		if c.first == "h1" {
			s.servers[0].SetSick(false)
			s.servers[1].SetSick(true)
			for !strings.Contains(s.state(t, "h2", "api").Detail, "/h2 UP ") ||
				s.state(t, "h1", "api").Changing {
				time.Sleep(10 * time.Millisecond)
			}
			w.Targets = w.Targets[1:]
		} else {
			w.Targets = w.Targets[:1]
		}
		_, err = rollout.Run(t.Context(), []rollout.Wave{w}, rollout.Options{})
		if err == nil || !strings.Contains(err.Error(), rollout.ErrLastServer.Error()) {
			t.Errorf("%s was drained while the other one fails: %v", c.first, err)
		}
	}
}

// A process from before a reload has a request under way that the new one knows nothing of.
func TestProcessFromBeforeAReload(t *testing.T) {
	t.Parallel()
	s := startSite(t, quickChecks, "-W", "-S", "DIR/master")
	ctx := t.Context()
	for _, server := range s.servers {
		server.Hold(true)
	}
	ended := make(chan error, 1)
	go func() {
		resp, err := http.Get("http://" + s.web + "/hold")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode != 200 {
				err = errors.New(resp.Status)
			}
		}
		ended <- err
	}()
	busy := ""
	for busy == "" {
		for _, server := range []string{"h1", "h2"} {
			if s.state(t, server, "web").Sessions > 0 {
				busy = server
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	pid := pidOf(s.ask(t, "show info"))
	if err := s.cmd.Process.Signal(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	for {
		if now := pidOf(s.tryAsk("show info")); now != "" && now != pid {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	plain, master := s.lb("web"), s.lb("web")
	master.Master = filepath.Join(s.dir, "master")
	// The master starts again from scratch, too. It is asked about a drained server only.
	if err := plain.Drain(ctx, busy); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := master.State(ctx, busy); !errors.Is(err, haproxy.ErrUnreachable) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	for name, lb := range map[string]haproxy.Balancer{"by its processes": plain,
		"by its master": master} {
		if err := lb.Drain(ctx, busy); err != nil {
			t.Fatal(err)
		}
		st, err := lb.State(ctx, busy)
		if err != nil || st.Sessions == 0 || !strings.Contains(st.Detail, "from before a reload") {
			t.Errorf("%s: %+v, %v", name, st, err)
		}
		o := quickDrain
		o.Deadline = 200 * time.Millisecond
		if err := rollout.WaitDrained(ctx, lb, busy, o); !errors.Is(err, rollout.ErrTimeout) ||
			!strings.Contains(err.Error(), "from before a reload") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, server := range s.servers {
		server.Hold(false)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, lb := range []haproxy.Balancer{master, plain} {
		if err := rollout.WaitDrained(ctx, lb, busy, quickDrain); err != nil {
			t.Error(err)
		}
	}
	master.Master = filepath.Join(s.dir, "nothing")
	if _, err := master.State(ctx, busy); !errors.Is(err, haproxy.ErrUnreachable) {
		t.Errorf("a master that does not answer: %v", err)
	}
}

func (s *site) tryAsk(command string) string {
	c, err := net.Dial("unix", filepath.Join(s.dir, "admin"))
	if err != nil {
		return ""
	}
	defer func() { _ = c.Close() }()
	_, _ = fmt.Fprintln(c, command)
	var out bytes.Buffer
	_, _ = out.ReadFrom(c)
	return out.String()
}

func pidOf(info string) string {
	for line := range strings.Lines(info) {
		if pid, ok := strings.CutPrefix(line, "Pid: "); ok {
			return strings.TrimSpace(pid)
		}
	}
	return ""
}

// An HAProxy that accepts a command and does not carry it out is not believed, and the queues
// of all backends count.
func TestStateIsReadBack(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "hap")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	admin := "0"
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(c).ReadString('\n')
			f := strings.Fields(line)
			switch {
			case strings.HasPrefix(line, "show stat"):
				queue := map[string]int{"web": 3}[f[2]]
				_, _ = fmt.Fprintf(c, "# pxname,svname,qcur,scur,status\n%s,h1,%d,0,UP\n\n", f[2], queue)
			case strings.HasPrefix(line, "show servers state"):
				_, _ = fmt.Fprintf(c, "1\n# be_name srv_name srv_admin_state\n%s h1 %s\n\n", f[3], admin)
			default:
				_, _ = fmt.Fprint(c, "\n")
			}
			_ = c.Close()
		}
	}()
	lb := haproxy.Balancer{Network: "unix", Address: path, Backends: []string{"api", "web"}}
	for name, f := range map[string]func(context.Context, string) error{"drain": lb.Drain,
		"maint": lb.Maintain} {
		if err := f(t.Context(), "h1"); !errors.Is(err, haproxy.ErrRefused) ||
			!strings.Contains(err.Error(), "accepted, but") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if st, err := lb.State(t.Context(), "h1"); err != nil || st.Queue != 3 {
		t.Errorf("state %+v, %v", st, err)
	}
	// Administrative states are judged by mask: a server that haproxy.cfg disables (4) and whose name
	// was changed (64) is in service, and one whose name does not resolve (32) is not.
	for bits, out := range map[string]bool{"4": false, "64": false, "68": false, "32": true,
		"69": true, "2": true, "16": true} {
		admin = bits
		if st, err := lb.State(t.Context(), "h1"); err != nil || st.Drained != out {
			t.Errorf("administrative state %s: %+v, %v", bits, st, err)
		}
	}
	admin = "8"
	if err := lb.Ready(t.Context(), "h1"); !errors.Is(err, haproxy.ErrRefused) {
		t.Errorf("ready: %v", err)
	}
	err = rollout.WaitDrained(t.Context(), lb, "h1", rollout.DrainOptions{Interval: time.Millisecond,
		Deadline: 50 * time.Millisecond})
	if !errors.Is(err, rollout.ErrTimeout) || !strings.Contains(err.Error(), "3 queued") {
		t.Errorf("a queue in the second backend: %v", err)
	}
}

// With a cookie, health and agent checks, a tracking backend and a disabled server, no request of
// 1,000 is lost on the way there, nor of 1,000 on the way back, and every server is as it was. With
// make test-long it is 5,000 each way.
func TestNoRequestIsLost(t *testing.T) {
	t.Parallel()
	least := int64(1000)
	if lab.IsLong() {
		least = 5000
	}
	s := startSite(t, quickChecks)
	lb := s.lb("api", "web")
	var hosts []rollout.Host
	var before []string
	for _, server := range s.servers {
		kept, err := lb.Keep(t.Context(), server.Name)
		if err != nil {
			t.Fatal(err)
		}
		before = append(before, string(kept))
		install := func(version string) func(context.Context) error {
			return func(context.Context) error {
				if st := s.state(t, server.Name, "api", "web"); !st.Drained || st.Sessions > 0 ||
					!strings.Contains(st.Detail, "MAINT") {
					t.Errorf("%s is installed while it is %+v", server.Name, st)
				}
				return server.Install(version)
			}
		}
		hosts = append(hosts, rollout.Host{
			Name: server.Name, Server: server.Name, Install: rollout.Step{Do: install("new"),
				Undo: install("old")},
			Healthy: func(context.Context) error { return nil },
		})
	}
	w, err := rollout.Rolling("gateways", hosts, rollout.RollingOptions{Balancer: lb,
		Drain: quickDrain, Up: quickUp})
	if err != nil {
		t.Fatal(err)
	}
	o := rollout.Options{Journal: filepath.Join(t.TempDir(), "journal")}
	for _, c := range []struct {
		version string
		call    func(context.Context, []rollout.Wave, rollout.Options) (*rollout.Report, error)
	}{{"new", rollout.Run}, {"old", rollout.Undo}} {
		load := traffic.Run(8, s.api, s.web)
		_, err := c.call(t.Context(), []rollout.Wave{w}, o)
		sent, failed, why := load.End(least)
		if err != nil || failed > 0 {
			t.Errorf("to %s: %d of %d requests failed, the first by %v; %v", c.version, failed, sent, why,
				err)
		}
		var now []string
		for _, server := range s.servers {
			if server.Version() != c.version {
				t.Errorf("%s has %s, want %s", server.Name, server.Version(), c.version)
			}
			kept, err := lb.Keep(t.Context(), server.Name)
			if err != nil {
				t.Fatal(err)
			}
			now = append(now, string(kept))
		}
		if !slices.Equal(now, before) {
			t.Errorf("to %s: servers were %s, are %s", c.version, before, now)
		}
		t.Logf("to %s: %d of %d requests failed", c.version, failed, sent)
	}
}
