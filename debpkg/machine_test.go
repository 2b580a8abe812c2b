package debpkg_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/debs"
	"example.com/tykupgrade/internal/lab/host"
)

// machines are hosts with systemd and sshd that the tests take in turn.
// Their mount /srv/lab is the directory lab.
var machines struct {
	once sync.Once
	err  error
	lab  string
	free chan *host.Host
}

const machineCount = 2

// suiteEnv names the distribution of the machines, for a run on another than
// Debian 12: bullseye, focal, jammy.
const suiteEnv = "TYKUPGRADE_TEST_SUITE"

func TestMain(m *testing.M) {
	if script := os.Getenv("DEBPKG_APPLY"); script != "" {
		os.Exit(applyHelper(script))
	}
	if secret := os.Getenv("DEBPKG_ATTACK"); secret != "" {
		exchange(secret)
	}
	lab.TempInMemory()
	// The tests wait for systemd, locks and each other more than they compute.
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0)))
	}
	code := m.Run()
	if machines.free != nil {
		for range machineCount {
			if h := <-machines.free; h != nil {
				if err := h.Close(); err != nil {
					fmt.Fprintln(os.Stderr, err)
					code = 1
				}
			}
		}
		_ = os.RemoveAll(machines.lab)
	}
	if usual.fixture != nil {
		if err := usual.repo.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	_ = os.RemoveAll(usual.dir)
	os.Exit(code)
}

func startMachines() {
	if machines.lab, machines.err = os.MkdirTemp("", "debpkg-lab-"); machines.err != nil {
		return
	}
	if machines.err = os.Chmod(machines.lab, 0o755); machines.err != nil {
		return
	}
	machines.free = make(chan *host.Host, machineCount)
	errs := make([]error, machineCount)
	var wg sync.WaitGroup
	for i := range machineCount {
		wg.Go(func() {
			var h *host.Host
			h, errs[i] = host.Start(context.Background(), host.Options{Suite: os.Getenv(suiteEnv),
				Name: fmt.Sprintf("debpkg%d", i), Mounts: map[string]string{"/srv/lab": machines.lab}})
			machines.free <- h
		})
	}
	wg.Wait()
	machines.err = errors.Join(errs...)
}

// machine is a host with systemd for one test, with packages in its source.
type machine struct {
	*testing.T
	*host.Host
	repo *debs.Repo
	dir  string // where the test's directory is in the host

	mu    sync.Mutex
	event []debpkg.Event
}

func newMachine(t *testing.T, packages ...debs.Package) *machine {
	t.Helper()
	needMachines(t)
	machines.once.Do(startMachines)
	if machines.err != nil {
		t.Fatal(machines.err)
	}
	// A directory of its own, as -count runs a test several times.
	dir, err := os.MkdirTemp(machines.lab, t.Name()+"-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h := <-machines.free
	t.Cleanup(func() {
		// What a test leaves must not reach the next one.
		if _, err := h.Exec(context.Background(), nil, "sh", "-c", `apt-mark unhold 'tyk-*' 'zz-*'
for p in $(dpkg-query -W -f '${Package} ' 'tyk-*' 2>/dev/null); do rm -f /var/lib/dpkg/info/$p.p*; dpkg --force-all --purge $p; done
rm -rf /var/lib/tykupgrade /etc/apt/sources.list.d/* /var/lib/apt/lists/* /opt/tyk-* /etc/default/tyk-* /run/lab-* /var/log/apt/history.log* /var/cache/apt/archives/*.deb
systemctl daemon-reload; systemctl reset-failed; true`); err != nil {
			t.Error(err)
		}
		machines.free <- h
	})
	return machineOn(t, h, dir, "/srv/lab/"+filepath.Base(dir), packages...)
}

func needMachines(t *testing.T) {
	t.Helper()
	if err := host.Available(); err != nil {
		lab.Missing(t, err.Error())
	}
	for prog, deb := range map[string]string{"apt-ftparchive": "apt-utils", "gpg": "gnupg",
		"debootstrap": "debootstrap"} {
		lab.Program(t, prog, deb)
	}
}

// machineOn puts the packages into dir, which is there in the host, as its source.
func machineOn(t *testing.T, h *host.Host, dir, there string, packages ...debs.Package) *machine {
	t.Helper()
	if err := os.Chmod(dir, 0o755); err != nil { // apt reads as _apt
		t.Fatal(err)
	}
	m := &machine{T: t, Host: h, dir: there}
	var err error
	if m.repo, err = debs.NewRepo(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.repo.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := m.repo.Add(packages...); err != nil {
		t.Fatal(err)
	}
	lists := filepath.Join(dir, "lists")
	if err := errors.Join(os.Mkdir(lists, 0o755), m.repo.Lists(lists, there)); err != nil {
		t.Fatal(err)
	}
	m.exec("sh", "-c", fmt.Sprintf("echo 'deb [signed-by=%[1]s/key.gpg] file:%[1]s ./' "+
		">/etc/apt/sources.list.d/tyk_tyk-gateway.list && cp -dp %[1]s/lists/* /var/lib/apt/lists/", m.dir))
	return m
}

func (m *machine) exec(argv ...string) string {
	m.Helper()
	out, err := m.Exec(context.Background(), nil, argv...)
	if err != nil {
		m.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// install brings packages onto the host as an operator by hand would, which starts a
// fifth of the processes that a plan and its Apply do. apt's cache has all packages then.
func (m *machine) install(spec ...string) {
	m.Helper()
	m.exec(append([]string{"sh", "-ec", `cp "$0"/*.deb /var/cache/apt/archives/
DEBIAN_FRONTEND=noninteractive exec apt-get -q -y install "$@"`, m.dir}, spec...)...)
}

func (m *machine) ssh(user string) debpkg.Runner {
	return debpkg.SSH(user+"@"+m.Addr, debpkg.SSHOptions{Config: m.SSHConfig(),
		ControlDir: filepath.Dir(m.SSHConfig())})
}

func (m *machine) options() debpkg.Options {
	return debpkg.Options{LockWait: time.Minute, Settle: 300 * time.Millisecond, SettleLimit: time.Minute,
		Events: func(e debpkg.Event) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.event = append(m.event, e)
		}}
}

// host works as root in the host without SSH, which costs twice what most commands do.
func (m *machine) host(change ...func(*debpkg.Options)) *debpkg.Host {
	o := m.options()
	for _, c := range change {
		c(&o)
	}
	return debpkg.New(m.inside(), o)
}

// user runs commands as a user of the host without SSH.
func (m *machine) user(name string) debpkg.Runner {
	return m.inside("setpriv", "--reuid="+name, "--regid="+name, "--init-groups", "--")
}

func (m *machine) inside(front ...string) debpkg.Runner {
	local := debpkg.Local()
	return func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
		return local(ctx, m.Command(append(slices.Clone(front), argv...)...), stdin, stdout, stderr)
	}
}

func (m *machine) saw(text string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.event {
		if strings.Contains(e.Text, text) {
			return true
		}
	}
	return false
}

func (m *machine) request(pkg, v string) debpkg.Request {
	return debpkg.Request{Package: pkg, Version: version(m.T, v)}
}

func (m *machine) plan(h *debpkg.Host, want ...debpkg.Request) debpkg.Plan {
	m.Helper()
	p, err := h.Plan(m.Context(), want...)
	if err != nil {
		m.Fatal(err)
	}
	return p
}

func (m *machine) apply(h *debpkg.Host, want ...debpkg.Request) debpkg.Change {
	m.Helper()
	c, err := h.Apply(m.Context(), m.plan(h, want...))
	if err != nil {
		m.Fatal(err)
	}
	return c
}

func (m *machine) unit(h *debpkg.Host, name string) debpkg.Unit {
	m.Helper()
	us, err := h.Units(m.Context(), name)
	if err != nil || len(us) != 1 {
		m.Fatalf("units %+v, %v", us, err)
	}
	return us[0]
}

func (m *machine) version(pkg string) string {
	m.Helper()
	return m.exec("dpkg-query", "-W", "-f", "${Version} ${db:Status-Want} ${db:Status-Status}", pkg)
}

// waiting is a postinst that reports to have begun, and waits to be released.
const waiting = "touch /run/lab-begun; while [ ! -e /run/lab-go ]; do sleep 0.3; done\n"

// begun waits in the host: each look through the engine would cost as much as a step of
// the test.
func (m *machine) begun() {
	m.Helper()
	if _, err := m.Exec(context.Background(), nil, "timeout", "300", "sh", "-c",
		"until [ -e /run/lab-begun ]; do sleep 0.3; done"); err != nil {
		m.Fatalf("postinst has not begun: %v", err)
	}
}

// killSSH kills every ssh client that has arg among its arguments.
func killSSH(t *testing.T, arg string) {
	t.Helper()
	list, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	for _, f := range list {
		data, err := os.ReadFile(f)
		if err != nil || !bytes.HasPrefix(data, []byte("ssh")) || !bytes.Contains(data, []byte(arg)) {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(f, "/")[2])
		if err != nil {
			t.Fatal(err)
		}
		if p, err := os.FindProcess(pid); err == nil && p.Kill() == nil {
			killed++
		}
	}
	if killed == 0 {
		t.Error("there was no ssh client to kill")
	}
}
