// Package stage sets up what a rollout is shown and tested on: two gateway
// hosts with systemd in containers, behind a real HAProxy, with a real Redis,
// and a load of requests. The gateways are stubs.
package stage

import (
	"bytes"
	"cmp"
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
	"strings"
	"sync"
	"syscall"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/debpkg/rollout/haproxy"
	"example.com/tykupgrade/internal/lab/debs"
	"example.com/tykupgrade/internal/lab/host"
	"example.com/tykupgrade/internal/lab/port"
	"example.com/tykupgrade/internal/lab/redis"
	"example.com/tykupgrade/internal/lab/tyk"
)

// Options says what a stage offers. Dir, Old and New are needed.
type Options struct {
	Dir    string // for sockets, packages and configuration; its path must be short
	Old    string // the version that the hosts begin with
	New    string // another one in the repository
	Broken string // one whose gateway cannot start; empty: none
	// the gateways have one API with this bundle; it is served from Dir/served, which is there
	Bundle string
	Say    func(string) // told what is going on; nil: nobody
}

// Stage is running hosts with their load balancer.
type Stage struct {
	Dir          string
	Hosts        []*host.Host
	Redis        *redis.Server
	Front, Split string // addresses: both hosts; the active colour
	Sock, Colour string // HAProxy's socket; its map file

	Bundles string // address of the bundle server, for the gateways and for this machine

	// Patience is how long a host may take to serve, for Inventory. 0: five minutes, which only a
	// host that never serves takes.
	Patience time.Duration

	o        Options
	server   *http.Server
	balancer *exec.Cmd
	repo     *debs.Repo
}

// Available says why there can be no stage on this machine; nil: there can.
func Available() error {
	var errs []error
	for prog, deb := range map[string]string{"haproxy": "haproxy", "redis-server": "redis-server",
		"apt-ftparchive": "apt-utils", "gpg": "gnupg", "dpkg-deb": "dpkg"} {
		if Program(prog) == "" {
			errs = append(errs, fmt.Errorf("%s is not on PATH (Debian package %s)", prog, deb))
		}
	}
	return errors.Join(append(errs, host.Available())...)
}

// Program finds a program on PATH or in a sbin directory; empty: it is not
// there.
func Program(name string) string {
	for _, dir := range []string{"", "/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	return ""
}

// New starts everything; Close it.
func New(ctx context.Context, o Options) (_ *Stage, err error) {
	if o.Say == nil {
		o.Say = func(string) {}
	}
	s := &Stage{Dir: o.Dir, o: o, Sock: filepath.Join(o.Dir, "admin"), Colour: filepath.Join(o.Dir,
		"active.map")}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	data := filepath.Join(o.Dir, "redis")
	if err := os.Mkdir(data, 0o700); err != nil {
		return nil, err
	}
	o.Say("redis-server")
	if s.Redis, err = redis.Run(Program("redis-server"), data, "--bind", "0.0.0.0", "--protected-mode",
		"no"); err != nil {
		return nil, err
	}
	o.Say("packages")
	if err := s.packages(ctx); err != nil {
		return nil, err
	}
	// The image is made once, and takes a while then.
	o.Say("image of the hosts")
	if _, err := host.Image(ctx, ""); err != nil {
		return nil, err
	}
	o.Say("hosts boot")
	var wg sync.WaitGroup
	hosts, errs := make([]*host.Host, 2), make([]error, 2)
	for i := range hosts {
		wg.Go(func() { hosts[i], errs[i] = s.boot(ctx, fmt.Sprintf("h%d", i+1)) })
	}
	wg.Wait()
	for _, h := range hosts {
		if h != nil {
			s.Hosts = append(s.Hosts, h)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	o.Say("HAProxy")
	return s, s.balance(ctx)
}

// packages builds the gateways: they die at SIGTERM, take a second to start and
// look at Redis every half second.
func (s *Stage) packages(ctx context.Context) error {
	bin, err := tyk.Build(ctx, s.Dir, "")
	if err != nil {
		return err
	}
	if s.repo, err = debs.NewRepo(filepath.Join(s.Dir, "repo")); err != nil {
		return err
	}
	addr, err := bridge()
	if err != nil {
		return err
	}
	more, samples, err := s.serve(addr)
	if err != nil {
		return err
	}
	gateway := debs.TykOptions{Binary: bin, Args: "-conf /opt/tyk-gateway/tyk.conf", Samples: samples,
		Config: fmt.Sprintf(
			`{"listen_port": 8080, "storage": {"host": %q, "port": %s}, %s"tykd": {"start-delay": "1s", "check-every": "500ms"}}`, addr, s.Redis.Port, more)}
	all := []debs.Package{debs.Tyk("tyk-gateway", s.o.Old, gateway),
		debs.Tyk("tyk-gateway", s.o.New, gateway)}
	if s.o.Broken != "" {
		gateway.Crash = true
		all = append(all, debs.Tyk("tyk-gateway", s.o.Broken, gateway))
	}
	_, err = s.repo.Add(all...)
	return err
}

// serve starts the bundle server, and returns what the gateways' configuration and app_path
// have of it.
func (s *Stage) serve(addr string) (config string, samples map[string]string, err error) {
	if s.o.Bundle == "" {
		return "", nil, nil
	}
	l, err := net.Listen("tcp", addr+":0")
	if err != nil {
		return "", nil, err
	}
	s.Bundles = "http://" + l.Addr().String()
	s.server = &http.Server{Handler: http.FileServer(http.Dir(filepath.Join(s.Dir, "served")))}
	go func() { _ = s.server.Serve(l) }()
	config = fmt.Sprintf(
		`"enable_bundle_downloader": true, "bundle_base_url": %q, "app_path": "/opt/tyk-gateway/apps", "middleware_path": "/opt/tyk-gateway/middleware", "secret": "352d20ee67be67f6340b4c0605b044b7", `, s.Bundles)
	api := fmt.Sprintf(`{"api_id": "everything", "active": true, "custom_middleware_bundle": %q, "proxy": {"listen_path": "/"}}`, s.o.Bundle)
	return config, map[string]string{"apps/everything.json": api}, nil
}

// bridge is the address under which containers reach this machine.
func bridge() (string, error) {
	docker0, err := net.InterfaceByName("docker0")
	if err != nil {
		return "", fmt.Errorf("find docker's bridge docker0, over which the hosts reach Redis: %w", err)
	}
	addrs, err := docker0.Addrs()
	if err != nil {
		return "", err
	}
	for _, a := range addrs {
		if ip, _, err := net.ParseCIDR(a.String()); err == nil && ip.To4() != nil {
			return ip.String(), nil
		}
	}
	return "", errors.New("docker0 has no IPv4 address")
}

func (s *Stage) boot(ctx context.Context, name string) (*host.Host, error) {
	h, err := host.Start(ctx, host.Options{Name: name, Mounts: map[string]string{"/repo": s.repo.Dir}})
	if err != nil {
		return nil, err
	}
	_, err = h.Exec(ctx, strings.NewReader(s.repo.List("file:/repo", "/repo/key.gpg")), "sh", "-ec",
		"cat >/etc/apt/sources.list.d/tyk_tyk-gateway.list; apt-get -q update; apt-get -q -y install "+
			"tyk-gateway="+s.o.Old)
	return h, err
}

func (s *Stage) balance(ctx context.Context) error {
	var err error
	if s.Front, err = port.Addr(); err == nil {
		s.Split, err = port.Addr()
	}
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.Colour, []byte("active blue\n"), 0o644); err != nil {
		return err
	}
	cfg := fmt.Sprintf(`global
	stats socket %[1]s level admin
defaults
	mode http
	timeout connect 2s
	timeout client 30s
	timeout server 30s
	timeout check 30s
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
`, s.Sock, s.Front, s.Split, s.Colour, s.Hosts[0].Addr, s.Hosts[1].Addr)
	file := filepath.Join(s.Dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(cfg), 0o600); err != nil {
		return err
	}
	var out bytes.Buffer
	cmd := exec.Command(Program("haproxy"), "-db", "-f", file)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.balancer = cmd
	lb := haproxy.Balancer{Network: "unix", Address: s.Sock}
	for server, backends := range map[string][]string{"h1": {"gateways", "blue"}, "h2": {"gateways",
		"green"}} {
		lb.Backends = backends
		if err := rollout.WaitUp(ctx, lb, server, rollout.UpOptions{}); err != nil {
			s.stopBalancer() // before its output is read
			return fmt.Errorf("%w\n%s", err, out.String())
		}
	}
	return nil
}

// Inventory writes the file of debpkg/fleet for a version, with lines added, and returns its path.
// The journal of an earlier run is removed.
func (s *Stage) Inventory(version, more string) (string, error) {
	var ssh strings.Builder
	for _, h := range s.Hosts {
		fmt.Fprintf(&ssh, "Match host %s\n  Include %s\n", h.Addr, h.SSHConfig())
	}
	config := filepath.Join(s.Dir, "ssh_config")
	text := fmt.Sprintf(`versions: {gateway: %[1]s}
ssh: {config: %[2]s}
haproxy: [{address: %[3]s, backends: {gateway: [gateways]}}]
health: {settle: 500ms, deadline: %[7]s}
up: {deadline: %[7]s}
hosts:
- {name: h1, address: %[4]s, component: gateway, server: h1, colour: blue}
- {name: h2, address: %[5]s, component: gateway, server: h2, colour: green}
%[6]s`, version, config, s.Sock, s.Hosts[0].Addr, s.Hosts[1].Addr, more, cmp.Or(s.Patience, 5*time.Minute))
	path := filepath.Join(s.Dir, "fleet.yaml")
	err := errors.Join(os.WriteFile(config, []byte(ssh.String()), 0o600), os.WriteFile(path,
		[]byte(text), 0o600))
	_ = os.Remove(path + ".journal")
	return path, err
}

// Versions asks dpkg and the running gateway of each host; they must agree.
func (s *Stage) Versions(ctx context.Context) ([]string, error) {
	var all []string
	for _, h := range s.Hosts {
		out, err := h.Exec(ctx, nil, "dpkg-query", "-W", "-f", "${Version} ${db:Status-Abbrev}",
			"tyk-gateway")
		if err != nil {
			return nil, err
		}
		version, state, _ := strings.Cut(strings.TrimSpace(out), " ")
		running, err := hello(ctx, h.Addr)
		if err != nil || state != "ii" || running != version {
			return nil, fmt.Errorf("%s: dpkg says %q, the gateway %q (error: %v)", h.Name, out, running, err)
		}
		all = append(all, version)
	}
	return all, nil
}

func hello(ctx context.Context, addr string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+":8080/hello", nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	var answer struct{ Version string }
	err = json.Unmarshal(body, &answer)
	return strings.TrimPrefix(answer.Version, "v"), err
}

func (s *Stage) stopBalancer() {
	if s.balancer != nil {
		_ = s.balancer.Process.Kill()
		_ = s.balancer.Wait()
		s.balancer = nil
	}
}

// Close ends everything. Dir stays.
func (s *Stage) Close() error {
	s.stopBalancer()
	if s.server != nil {
		_ = s.server.Close()
	}
	var errs []error
	for _, h := range s.Hosts {
		errs = append(errs, h.Close())
	}
	if s.repo != nil {
		errs = append(errs, s.repo.Close())
	}
	if s.Redis != nil {
		s.Redis.Kill()
	}
	return errors.Join(errs...)
}
