package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/internal/lab/site"
)

// A host that is not healthy before stops the upgrade, and a version that does not stay up is
// reverted. The hosts are in memory.
func TestHostsThatFail(t *testing.T) {
	t.Parallel()
	s := site.Start(t, 2)
	s.HAProxy(t, "/hello")
	file := filepath.Join(s.Dir, "upgrade.yaml")
	text := strings.Replace(s.File(site.Broken, s.Lines()), "deadline: 5m, settle", "deadline: 2s, settle", 1)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	call := func(args ...string) (int, string) {
		var out bytes.Buffer
		args = append([]string{"-file", file, "-without", "backup", "-yes"}, args...)
		code := commandOf(&options{connect: s.Connect}).Run(t.Context(), args,
			cli.Streams{In: strings.NewReader(""), Out: &out, Err: &out})
		return code, out.String()
	}
	s.Gateways[1].Cut(errors.New("no route to host"))
	if code, out := call("apply"); code != cli.Refused || !strings.Contains(out, "no route to host") {
		t.Errorf("a host that is gone: exit code %d\n%s", code, out)
	}
	s.Gateways[1].Cut(nil)
	s.Gateways[1].Stop()
	if code, out := call("apply"); code != cli.Refused || !strings.Contains(out,
		"-without baseline") {
		t.Errorf("a host that is not healthy: exit code %d\n%s", code, out)
	}
	if err := s.Gateways[1].Restart(); err != nil {
		t.Fatal(err)
	}
	if code, out := call("apply"); code != cli.No || !strings.Contains(out,
		"h1 has its previous state again") || !strings.Contains(out, "outcome   held") {
		t.Errorf("a version that does not stay up: exit code %d\n%s", code, out)
	}
	if v := s.Versions(); v != "4.0.8 4.0.8" || len(s.Gateways[1].Installed(0)) > 0 {
		t.Errorf("versions %s, h2 was given %v", v, s.Gateways[1].Installed(0))
	}
	var out bytes.Buffer
	if code := commandOf(&options{}).Run(t.Context(), []string{"audit", "-file", file}, cli.Streams{
		Out: &out, Err: &out}); code != cli.Yes || !strings.Contains(out.String(),
		`"target":"h1"`) {
		t.Errorf("audit: exit code %d\n%s", code, out.String())
	}
}
