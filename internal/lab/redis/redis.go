// Package redis starts real redis-server processes for tests: one server, with
// AOF, users or TLS, a cluster, a Sentinel. Everything listens on loopback
// ports of its own and is killed when the test ends.
package redis

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/port"
)

// Server is one running redis-server. Start and Stop may be called in turn.
type Server struct {
	Dir      string // working directory: dump.rdb, appendonlydir
	Addr     string // host:port
	Port     string
	Password string      // of the default user; empty: none
	TLS      *tls.Config // what a client needs; nil: plain

	t       testing.TB
	program string
	args    []string

	mu   sync.Mutex
	cmd  *exec.Cmd
	gone chan struct{} // closed when cmd has ended
}

// Start runs a server with args added to redis-server's command line, which
// win over the defaults here: nothing saved by itself, snapshots without delay.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	s := newServer(t, "redis-server", args...)
	s.Start()
	return s
}

// StartTLS runs a server that speaks TLS alone and demands a certificate.
func StartTLS(t testing.TB, args ...string) *Server {
	t.Helper()
	dir := t.TempDir()
	s := newServer(t, "redis-server")
	s.TLS = certificates(t, dir)
	s.args = append(s.args, "--port", "0", "--tls-port", s.Port, "--tls-cert-file", dir+"/cert.pem",
		"--tls-key-file", dir+"/key.pem",
		"--tls-ca-cert-file", dir+"/cert.pem", "--tls-auth-clients", "yes", "--tls-replication", "yes")
	s.args = append(s.args, args...)
	s.Start()
	return s
}

func newServer(t testing.TB, program string, args ...string) *Server {
	t.Helper()
	path := lab.Program(t, program, program) // Debian has a package of each name
	s := &Server{t: t, program: path, Dir: t.TempDir(), Port: FreePort(t)}
	s.Addr = net.JoinHostPort("127.0.0.1", s.Port)
	s.args = append(append(s.defaults(), "--enable-debug-command", "yes", "--shutdown-timeout", "0"),
		args...)
	t.Cleanup(s.Kill)
	return s
}

// Start runs the server again and returns once it answers and has loaded.
func (s *Server) Start() {
	s.t.Helper()
	if err := s.StartE(); err != nil {
		s.t.Fatal(err)
	}
}

// StartE is Start for callers that want the error. It does nothing if the server
// runs.
func (s *Server) StartE() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil && !s.exited() {
		return nil
	}
	for i, a := range s.args {
		if a == "--requirepass" {
			s.Password = s.args[i+1]
		}
	}
	s.cmd = exec.Command(s.program, s.args...)
	// A test binary that is killed takes its servers with it.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return err
	}
	s.gone = make(chan struct{})
	go func(cmd *exec.Cmd, gone chan struct{}) {
		_ = cmd.Wait()
		close(gone)
	}(s.cmd, s.gone)
	c := s.client()
	defer c.Close()
	deadline := time.Now().Add(3 * time.Minute)
	for {
		err := c.Ping(context.Background()).Err()
		if err == nil || strings.HasPrefix(err.Error(), "NOAUTH") || strings.HasPrefix(err.Error(),
			"WRONGPASS") || strings.HasPrefix(err.Error(), "LOADING") {
			return nil
		}
		if time.Now().After(deadline) || s.exited() {
			log, _ := os.ReadFile(filepath.Join(s.Dir, "log"))
			return fmt.Errorf("redis-server does not answer: %w\n%s", err, log[max(0, len(log)-600):])
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (s *Server) exited() bool {
	select {
	case <-s.gone:
		return true
	default:
		return false
	}
}

// Stop ends the server politely, as a service manager does.
func (s *Server) Stop() { s.end(syscall.SIGTERM) }

// Kill ends the server at once.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

func (s *Server) end(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGCONT)
	_ = s.cmd.Process.Signal(sig)
	<-s.gone
	// A child that saves in the background outlives its parent.
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	s.cmd = nil
}

// Listener makes l speak TLS in a way that the server trusts.
func (s *Server) Listener(l net.Listener) net.Listener {
	c := s.TLS.Clone()
	c.ClientCAs, c.ClientAuth = c.RootCAs, tls.RequireAndVerifyClientCert
	return tls.NewListener(l, c)
}

// Loading runs a server that loads rdb, 2 ms for each key, and answers twenty
// times a second meanwhile where keys have some hundred bytes.
func Loading(t testing.TB, rdb string) *Server {
	t.Helper()
	s := newServer(t, "redis-server", "--key-load-delay", "2000",
		"--loading-process-events-interval-bytes", "2048")
	data, err := os.ReadFile(rdb)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "dump.rdb"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Start()
	return s
}

// Pid is the server's process id.
func (s *Server) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmd.Process.Pid
}

func (s *Server) options() *redis.Options {
	return &redis.Options{Addr: s.Addr, Password: s.Password, TLSConfig: s.TLS, MaxRetries: -1}
}

func (s *Server) client() *redis.Client { return redis.NewClient(s.options()) }

// Client returns a client of the default user, closed with the test.
func (s *Server) Client() *redis.Client {
	c := s.client()
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// User returns a client of another user.
func (s *Server) User(name, password string) *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: s.Addr, Username: name, Password: password,
		TLSConfig: s.TLS, MaxRetries: -1})
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// Do runs one command, however long it takes, and fails the test where the server refuses it.
func (s *Server) Do(args ...any) any {
	s.t.Helper()
	o := s.options()
	o.ReadTimeout = 10 * time.Minute
	c := redis.NewClient(o)
	defer c.Close()
	v, err := c.Do(context.Background(), args...).Result()
	if err != nil && err != redis.Nil {
		s.t.Fatalf("%v: %v", args, err)
	}
	return v
}

// Cluster runs n masters that share the slots, and returns a client.
func Cluster(t testing.TB, n int) ([]*Server, *redis.ClusterClient) {
	t.Helper()
	servers := make([]*Server, n)
	var addrs []string
	for i := range servers {
		servers[i] = Start(t, "--cluster-enabled", "yes", "--cluster-port", FreePort(t),
			"--cluster-node-timeout", "5000", "--cluster-require-full-coverage", "no")
		addrs = append(addrs, servers[i].Addr)
	}
	const slots = 16384
	for i, s := range servers {
		s.Do("CLUSTER", "ADDSLOTSRANGE", i*slots/n, (i+1)*slots/n-1)
		s.Do("CLUSTER", "SET-CONFIG-EPOCH", i+1)
		bus := s.args
		for j, a := range bus {
			if a == "--cluster-port" {
				servers[0].Do("CLUSTER", "MEET", "127.0.0.1", s.Port, bus[j+1])
			}
		}
	}
	WaitFor(t, "the cluster to agree", func() bool {
		for _, s := range servers {
			info, _ := s.Do("CLUSTER", "INFO").(string)
			if !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info,
				"cluster_slots_assigned:16384") || !strings.Contains(info, "cluster_known_nodes:"+
				strconv.Itoa(n)) {
				return false
			}
		}
		return true
	})
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
	t.Cleanup(func() { _ = c.Close() })
	return servers, c
}

// Sentinel runs a Sentinel that watches master under the name "mymaster", and
// returns its address.
func Sentinel(t testing.TB, master *Server) string {
	t.Helper()
	s := newServer(t, "redis-sentinel")
	conf := filepath.Join(s.Dir, "sentinel.conf")
	text := fmt.Sprintf("port %s\nbind 127.0.0.1\ndir %s\nlogfile %s/log\nsentinel monitor mymaster "+
		"127.0.0.1 %s 1\n", s.Port, s.Dir, s.Dir, master.Port)
	if master.Password != "" {
		text += "sentinel auth-pass mymaster " + master.Password + "\n"
	}
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.args = []string{conf}
	s.Start()
	return s.Addr
}

// FreePort returns a port of [port.Free].
func FreePort(t testing.TB) string {
	t.Helper()
	n, err := port.Free()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// WaitFor asks until done, and fails the test after three minutes.
func WaitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 3 minutes for %s", what)
		}
	}
}

// certificates makes one self-signed certificate that serves as everybody's.
func certificates(t testing.TB, dir string) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{
		CommonName: "localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{
			x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	for name, data := range map[string][]byte{"cert.pem": certPEM, "key.pem": keyPEM} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool}
}
