package debpkg_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/debpkgtest"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/debs"
)

type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }
func (e exitError) ExitCode() int { return int(e) }

// scenarios are what the examples do. prepare brings the real host, and the
// fake, to where each of them begins.
var scenarios = []struct {
	name string
	real func(f *fixture)
	fake func(h *debpkgtest.Host)
	do   func(context.Context, debpkg.Runner, debpkg.Options, io.Writer) error
}{
	{"history", nil, newer, history},
	{"revert from history", nil, newer, revertFromHistory},
	{"facts", nil, nil, facts},
	{"upgrade", func(f *fixture) { f.write("/opt/tyk-gateway/tyk.conf", "edited") }, edited, upgrade},
	{"plan", nil, edited, plan},
	{"apply and revert", nil, edited, applyAndRevert},
	{"stage", nil, edited, stage},
	{"forget", nil, edited, forget},
	{"repair", func(f *fixture) {
		f.raw("dpkg", "--root="+f.root.Dir, "--force-not-root", "--force-script-chrootless", "--unpack",
			f.repo.Dir+"/tyk-gateway_5.2.5_"+debs.Arch()+".deb")
	}, func(h *debpkgtest.Host) { newer(h); h.Break("tyk-gateway") }, repair},
}

func newer(h *debpkgtest.Host)  { h.Install(debpkgtest.Tyk("tyk-gateway", "5.2.5")) }
func edited(h *debpkgtest.Host) { h.Write("/opt/tyk-gateway/tyk.conf", "edited") }

// onFake is a fake host where a scenario begins.
func onFake(name string) (debpkg.Runner, debpkg.Options) {
	fake := debpkgtest.New("gw1")
	fake.Install(debpkgtest.Tyk("tyk-gateway", "4.0.8"))
	fake.Offer(debpkgtest.Tyk("tyk-gateway", "4.0.8"), debpkgtest.Tyk("tyk-gateway", "5.2.5"))
	for _, s := range scenarios {
		if s.name == name && s.fake != nil {
			s.fake(fake)
		}
	}
	return fake.Run, debpkg.Options{LockWait: time.Minute, Settle: time.Millisecond}
}

// replay is the body of an example.
func replay(name string, do func(context.Context, debpkg.Runner, debpkg.Options, io.Writer) error) {
	r, o := onFake(name)
	if err := do(context.Background(), r, o, os.Stdout); err != nil {
		fmt.Println(err)
	}
}

// The fake host of debpkgtest tells in every scenario what the real apt and dpkg
// tell.
func TestFakeLikeApt(t *testing.T) {
	t.Parallel()
	f := upgradable(t)
	f.install("tyk-gateway=5.2.5")
	f.notFetched("tyk-gateway_4.0.8") // as on the fake
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scenarios {
		// In a private root, without units, these two are the calls of the others again.
		if (s.name == "stage" || s.name == "forget") && !lab.IsLong() {
			continue
		}
		if s.real != nil {
			s.real(f)
		}
		var real, fake bytes.Buffer
		if err := s.do(t.Context(), debpkg.Local(), debpkg.Options{Root: f.root.Dir,
			AptConfig: f.root.AptConfig, LockWait: time.Minute}, &real); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		r, o := onFake(s.name)
		if err := s.do(t.Context(), r, o, &fake); err != nil {
			t.Fatalf("%s on the fake: %v", s.name, err)
		}
		if got := strings.ReplaceAll(real.String(), "Plan for "+name,
			"Plan for gw1"); fake.String() != got {
			t.Errorf("%s: the fake tells\n%s\napt and dpkg\n%s", s.name, &fake, got)
		}
	}
}
