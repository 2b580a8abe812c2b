package site

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/debpkgtest"
	"example.com/tykupgrade/health/healthtest"
	"example.com/tykupgrade/internal/lab/traffic"
	"example.com/tykupgrade/internal/lab/tyk"
)

// checkEvery is how often a gateway looks at its parts.
const checkEvery = 100 * time.Millisecond

const (
	name = "tyk-gateway"
	unit = name + ".service"
)

// Gateway is a host in memory whose gateway serves on this machine. As with Tyk's packages, an
// installation ends the process with all requests under way.
type Gateway struct {
	Name, Addr string
	Fake       *debpkgtest.Host

	dir  string
	conf tyk.Conf // of a gateway with bundles

	program atomic.Pointer[program]
	failed  atomic.Bool // the load balancer's check of /check fails
	log     journal

	mu      sync.Mutex // a host runs one command at a time
	started string     // the unit's process, as the fake counts them
	srv     *http.Server
	gone    error // what every command answers; nil: the host answers
}

// program is the gateway.
type program struct {
	http.Handler
	restart func(version string)
}

// journal is the log of the gateway's process.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) clear() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.text.Reset()
}

func (j *journal) bytes() []byte {
	j.mu.Lock()
	defer j.mu.Unlock()
	return bytes.Clone(j.text.Bytes())
}

func newGateway(tb testing.TB, dir, host string) *Gateway {
	tb.Helper()
	g := &Gateway{Name: host, Addr: traffic.Port(tb), Fake: debpkgtest.New(host), dir: dir}
	plain := healthtest.New(healthtest.Options{Kind: healthtest.Gateway, Version: Old,
		CheckEvery: checkEvery})
	g.program.Store(&program{plain, plain.Restart})
	broken := debpkgtest.Tyk(name, Broken)
	broken.Crash = true
	g.Fake.Offer(debpkgtest.Tyk(name, Old), debpkgtest.Tyk(name, New), debpkgtest.Tyk(name, Next),
		broken)
	g.Fake.Install(debpkgtest.Tyk(name, Old))
	g.started, _ = g.process()
	if err := g.start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.stop()
	})
	return g
}

// process asks the fake for the unit's process, and whether it runs.
func (g *Gateway) process() (id string, active bool) {
	var out bytes.Buffer
	_ = g.Fake.Run(context.Background(), []string{"systemctl", "show", "--", unit}, nil, &out, nil)
	for line := range strings.Lines(out.String()) {
		if v, ok := strings.CutPrefix(line, "InvocationID="); ok {
			id = strings.TrimSpace(v)
		}
		active = active || strings.HasPrefix(line, "ActiveState=active")
	}
	return id, active
}

func (g *Gateway) start() error {
	l, err := net.Listen("tcp", g.Addr)
	if err != nil {
		return err
	}
	g.log.clear()
	g.program.Load().restart(g.Version())
	g.srv = &http.Server{Handler: http.HandlerFunc(g.serve)}
	go func(s *http.Server) { _ = s.Serve(l) }(g.srv)
	return nil
}

func (g *Gateway) stop() {
	if g.srv != nil {
		_ = g.srv.Close()
		g.srv = nil
	}
}

// serveAPIs makes it a gateway with the bundles of its configuration.
func (g *Gateway) serveAPIs() {
	g.conf.Log = &g.log
	apis := tyk.NewAPIs(tyk.Options{Version: g.Version(), CheckEvery: checkEvery}, g.conf)
	g.program.Store(&program{apis, apis.Restart})
}

func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/check" {
		if g.failed.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return
	}
	g.program.Load().ServeHTTP(w, r)
}

// Version is that of the installed package.
func (g *Gateway) Version() string {
	version, _, _ := strings.Cut(g.Fake.State(name), " ")
	return version
}

// Installed lists the versions that were installed after the first n actions of Fake.Done.
func (g *Gateway) Installed(n int) []string {
	var all []string
	for _, what := range g.Fake.Done()[n:] {
		if version, ok := strings.CutPrefix(what, "install "+name+"="); ok {
			all = append(all, version)
		}
	}
	return all
}

// Cut makes every command of the host fail with err, as a network that is down does; nil ends
// that.
func (g *Gateway) Cut(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gone = err
}

// Run is the host's Runner. Two commands are its own: fail-check and pass-check are for load
// balancers that ask for /check.
func (g *Gateway) Run(ctx context.Context, argv []string, stdin io.Reader, stdout,
	stderr io.Writer) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone != nil {
		return fmt.Errorf("%w: %w", debpkg.ErrConnection, g.gone)
	}
	argv = slices.Clone(argv)
	for i := range argv { // each host of this machine has notes of its own
		argv[i] = strings.Replace(argv[i], "/var/lib/tykupgrade/bundles", filepath.Join(g.dir, g.Name,
			"notes"), 1)
	}
	command := strings.Join(argv, " ")
	ours := slices.ContainsFunc(argv, func(a string) bool { return strings.HasPrefix(a, g.dir+"/") })
	switch {
	case argv[0] == "fail-check" || argv[0] == "pass-check":
		g.failed.Store(argv[0] == "fail-check")
		return nil
	case argv[0] == "cat":
		return json.NewEncoder(stdout).Encode(g.conf)
	case command == "systemctl stop "+unit:
		g.stop()
		return nil
	case strings.HasPrefix(command, "systemctl show --property=InvocationID --value"):
		_, err := fmt.Fprintf(stdout, "%032s\n", g.started)
		return err
	case argv[0] == "journalctl":
		_, err := stdout.Write(g.log.bytes())
		return err
	case ours: // the cached bundles and their notes are files of this machine
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
		return cmd.Run()
	}
	err := g.Fake.Run(ctx, argv, stdin, stdout, stderr)
	now, active := g.process()
	if now == g.started && active == (g.srv != nil) {
		return err
	}
	restarted := now != g.started
	g.started = now
	if !active || restarted {
		g.stop()
	}
	if active && restarted {
		time.Sleep(50 * time.Millisecond)
		err = errors.Join(err, g.start())
	}
	return err
}

// Stop ends the gateway's process, and Restart starts it again, as an operator does.
func (g *Gateway) Stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stop()
}

// Restart ends the gateway's process and starts another one.
func (g *Gateway) Restart() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stop()
	return g.start()
}
