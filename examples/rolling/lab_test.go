package main

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/host"
	"example.com/tykupgrade/internal/lab/stage"
)

// The fleets wait for their hosts most of the time.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0)))
	}
	os.Exit(m.Run())
}

// fixture is a stage and this command built to a binary.
type fixture struct {
	*stage.Stage
	bin string
}

const old, newer, broken = "4.0.8", "5.2.5", "5.3.0"

func newFixture(t *testing.T) *fixture {
	t.Helper()
	if err := stage.Available(); err != nil {
		lab.Missing(t, err.Error())
	}
	dir, err := os.MkdirTemp("", "fleet") // short: it holds Unix sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &fixture{bin: filepath.Join(dir, "rolling")}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", s.bin,
		".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	if s.Stage, err = stage.New(t.Context(), stage.Options{Dir: dir, Old: old, New: newer,
		Broken: broken}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// inventory writes the file for a version, with lines added, and returns its
// path; the journal of an earlier run is removed.
func (s *fixture) inventory(t *testing.T, version, more string) string {
	t.Helper()
	path, err := s.Inventory(version, more)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// rolling runs the command and returns its exit code and output.
func (s *fixture) rolling(t *testing.T, args ...string) (int, string) {
	t.Helper()
	cmd := s.start(t, args...)
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), cmd.Stdout.(*bytes.Buffer).String()
}

func (s *fixture) start(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	if !slices.Contains(args, "plan") && !slices.Contains(args, "report") {
		args = append([]string{"-yes"}, args...)
	}
	cmd := exec.Command(s.bin, args...)
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
func (s *fixture) succeed(t *testing.T, args ...string) string {
	t.Helper()
	code, out := s.rolling(t, args...)
	if code != 0 {
		t.Fatalf("rolling %q: exit code %d\n%s", args, code, out)
	}
	return out
}

// versions asks dpkg and the running gateways.
func (s *fixture) versions(t *testing.T) string {
	t.Helper()
	all, err := s.Versions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, " ")
}

// installs counts how often dpkg began to bring the version to a host, up or down.
func (s *fixture) installs(t *testing.T, h *host.Host, version string) int {
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

// load is a stage.Load that ends with the test.
type load struct{ *stage.Load }

func startLoad(t *testing.T, addr string, clients int) load {
	l := load{stage.StartLoad(addr, clients)}
	t.Cleanup(l.Stop)
	return l
}

// none stops the load once it has sent at least so many requests and fails the
// test if any of them failed.
func (l load) none(t *testing.T, least int64) {
	t.Helper()
	for total, _ := l.Sent(); total < least; total, _ = l.Sent() {
		time.Sleep(10 * time.Millisecond)
	}
	l.Stop()
	total, failed := l.Sent()
	t.Logf("%d of %d requests failed", failed, total)
	if failed > 0 {
		t.Errorf("%d of %d requests failed, the first: %v", failed, total, l.First())
	}
}
