package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/site"
	"example.com/tykupgrade/internal/lab/stage"
)

// hostsEnv makes the test binary the command, with the hosts of another process.
const hostsEnv = "ROLLING_TEST_HOSTS"

func TestMain(m *testing.M) {
	if socket := os.Getenv(hostsEnv); socket != "" {
		var o job
		var err error
		if o.connect, err = site.Dial(socket); err != nil {
			panic(err)
		}
		command(o).Main()
	}
	os.Exit(m.Run())
}

// rolling runs the command on the hosts of a site.
func rolling(t *testing.T, s *site.Site, args ...string) (code int, output string) {
	t.Helper()
	var out bytes.Buffer
	code = command(job{connect: s.Connect}).Run(t.Context(), args, cli.Streams{
		In: strings.NewReader(""), Out: &out, Err: &out})
	return code, out.String()
}

// newSite is a site of two gateways behind HAProxy with its inventory, which change changes.
func newSite(t *testing.T, more string) (s *site.Site, front, file string) {
	t.Helper()
	s = site.Start(t, 2)
	front = s.HAProxy(t, "/hello")
	file = filepath.Join(s.Dir, "hosts.yaml")
	describe(t, s, file, site.New, more)
	return s, front, file
}

// describe writes the inventory for a version.
func describe(t *testing.T, s *site.Site, file, version, more string) {
	t.Helper()
	text := s.File(version, s.Lines()+"\n"+more)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// newStage is two systemd hosts behind HAProxy.
func newStage(t *testing.T) *stage.Stage {
	t.Helper()
	if err := stage.Available(); err != nil {
		lab.Missing(t, err.Error())
	}
	dir, err := os.MkdirTemp("", "fleet") // short: it holds Unix sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s, err := stage.New(t.Context(), stage.Options{Dir: dir, Old: site.Old, New: site.New})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// versions asks dpkg and the running gateways.
func versions(ctx context.Context, t *testing.T, s *stage.Stage) string {
	t.Helper()
	all, err := s.Versions(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, " ")
}
