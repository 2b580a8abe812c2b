// Package postgres runs a real PostgreSQL server for tests, in a directory of
// its own, on loopback and a socket, as an unprivileged user.
package postgres

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/port"
)

// Server is one server; the superuser is postgres, trusted on loopback.
type Server struct {
	Bin  string // directory of the programs
	Dir  string // data directory
	Port string
	URI  string // postgresql://postgres@127.0.0.1:PORT/postgres

	cmd  *exec.Cmd
	gone chan struct{}
	kept kept
}

// User is who runs the server when the test is root: nobody.
const User = 65534

// Bin returns the newest directory of PostgreSQL's programs, or skips the test.
func Bin(t testing.TB) string {
	t.Helper()
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	best, number := "", 0
	for _, d := range dirs {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(d)))
		if _, err := os.Stat(filepath.Join(d, "initdb")); err == nil && n > number {
			best, number = d, n
		}
	}
	if best == "" {
		lab.Missing(t, "initdb is not in /usr/lib/postgresql/*/bin (Debian package postgresql)")
	}
	return best
}

// Start runs a server until the test ends. settings are lines of postgresql.conf.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	return start(t, t.Cleanup, Bin(t), "", settings...)
}

// StartIn is Start with the data directory in dir, and the write-ahead log elsewhere, so
// that a small disk stops statements and not the server. Empty: both elsewhere.
func StartIn(t testing.TB, dir string, settings ...string) *Server {
	t.Helper()
	return start(t, t.Cleanup, Bin(t), dir, settings...)
}

// StartBin is Start with the programs in bin, which may be of another version.
func StartBin(t testing.TB, bin string, settings ...string) *Server {
	t.Helper()
	return start(t, t.Cleanup, bin, "", settings...)
}

// shared is the server of [Shared], which ends with the last test that uses it.
var shared struct {
	sync.Mutex
	users int
	*Server
	end []func()
}

// Shared returns a server that the tests of a package share. Each makes databases and roles with
// names of its own, changes nothing else, and does not stop the server.
func Shared(t testing.TB) *Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	shared.users++
	t.Cleanup(func() {
		shared.Lock()
		defer shared.Unlock()
		if shared.users--; shared.users > 0 {
			return
		}
		for _, f := range slices.Backward(shared.end) {
			f()
		}
		shared.end, shared.Server = nil, nil
	})
	if shared.Server == nil {
		shared.Server = start(t, func(f func()) { shared.end = append(shared.end, f) }, Bin(t), "")
	}
	return shared.Server
}

func start(t testing.TB, cleanup func(func()), bin, dir string, settings ...string) *Server {
	t.Helper()
	top, err := os.MkdirTemp(lab.Memory(), "tykupgrade-pg") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	cleanup(func() { _ = os.RemoveAll(top) })
	s := &Server{Bin: bin, Dir: filepath.Join(top, "data")}
	if err := os.Chmod(top, 0o755); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(top, User, User); err != nil {
			t.Fatal(err)
		}
	}
	if dir != "" {
		s.Dir = filepath.Join(dir, "data")
		if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	s.copyCluster(t, cleanup)
	if dir != "" {
		wal, moved := filepath.Join(s.Dir, "pg_wal"), filepath.Join(top, "pg_wal")
		out, err := s.command("sh", "-c", `cp -a "$1" "$2" && rm -r "$1" && ln -s "$2" "$1"`, "sh", wal,
			moved).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if s.Port, err = port.Free(); err != nil {
		t.Fatal(err)
	}
	conf := append([]string{"listen_addresses = '127.0.0.1'", "port = " + s.Port,
		"unix_socket_directories = '" + top + "'", "fsync = off",
		"shared_buffers = 16MB", "max_connections = 30", "log_min_messages = fatal",
		"wal_level = minimal", "max_wal_senders = 0", "autovacuum = off", "full_page_writes = off",
		"wal_init_zero = off", "max_logical_replication_workers = 0"}, settings...)
	f, err := os.OpenFile(filepath.Join(s.Dir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(strings.Join(conf, "\n") + "\n")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	s.URI = "postgresql://postgres@127.0.0.1:" + s.Port + "/postgres"
	s.Run(t)
	cleanup(s.Stop)
	return s
}

// templates are clusters that initdb made, by the directory of its programs. The servers
// that run at a time share them: initdb takes longer than all that most tests do.
var templates = struct {
	sync.Mutex
	of map[string]*template
}{of: map[string]*template{}}

type template struct {
	users int
	dir   string
}

// copyCluster gives the server a data directory.
func (s *Server) copyCluster(t testing.TB, cleanup func(func())) {
	t.Helper()
	templates.Lock()
	defer templates.Unlock()
	c := templates.of[s.Bin]
	if c == nil {
		c = &template{dir: s.initCluster(t)}
		templates.of[s.Bin] = c
	}
	c.users++
	cleanup(func() {
		templates.Lock()
		defer templates.Unlock()
		if c.users--; c.users == 0 {
			_ = os.RemoveAll(c.dir)
			delete(templates.of, s.Bin)
		}
	})
	if out, err := exec.Command("cp", "-a", filepath.Join(c.dir, "data"),
		s.Dir).CombinedOutput(); err != nil {
		t.Fatalf("copy the cluster: %v\n%s", err, out)
	}
}

func (s *Server) initCluster(t testing.TB) string {
	t.Helper()
	top, err := os.MkdirTemp(lab.Memory(), "tykupgrade-pg")
	if err != nil {
		t.Fatal(err)
	}
	fail := func(format string, args ...any) {
		_ = os.RemoveAll(top)
		t.Fatalf(format, args...)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(top, User, User); err != nil {
			fail("%v", err)
		}
	}
	init := s.command("initdb", "--pgdata="+filepath.Join(top, "data"), "--username=postgres",
		"--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync",
		"--wal-segsize=1")
	init.Dir = top
	if out, err := init.CombinedOutput(); err != nil {
		fail("initdb: %v\n%s", err, out)
	}
	return top
}

// command runs a program of the server, or of the system, as nobody when the test is root.
func (s *Server) command(name string, args ...string) *exec.Cmd {
	if path := filepath.Join(s.Bin, name); name != "sh" {
		name = path
	}
	cmd := exec.Command(name, args...)
	cmd.Dir = filepath.Dir(s.Dir)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGINT, Setpgid: true}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: User, Gid: User}
	}
	return cmd
}

// Run starts a server that was stopped and waits until it answers.
func (s *Server) Run(t testing.TB) {
	t.Helper()
	s.cmd = s.command("postgres", "-D", s.Dir)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.gone = make(chan struct{})
	go func(cmd *exec.Cmd, gone chan struct{}) { _ = cmd.Wait(); close(gone) }(s.cmd, s.gone)
	for range 3000 {
		// What pg_ctl looks at: the last line of the file shows how far the server is.
		pid, _ := os.ReadFile(filepath.Join(s.Dir, "postmaster.pid"))
		if strings.HasSuffix(strings.TrimSpace(string(pid)), "ready") && strings.HasPrefix(string(pid),
			strconv.Itoa(s.cmd.Process.Pid)+"\n") {
			return
		}
		select {
		case <-s.gone:
			t.Fatal("postgres ended")
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Fatal("postgres does not answer")
}

// Stop ends the server at once (fast shutdown).
func (s *Server) Stop() {
	_ = s.cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-s.gone:
	case <-time.After(10 * time.Second):
		_ = s.cmd.Process.Signal(syscall.SIGQUIT)
		<-s.gone
	}
	s.kept.busy.Lock()
	defer s.kept.busy.Unlock()
	s.kept.end()
}
