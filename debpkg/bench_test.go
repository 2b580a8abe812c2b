package debpkg_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/debs"
)

// BenchmarkCalls upgrades and reverts n packages in a private root. calls/op is how many commands
// go through the Runner: over SSH each is a round trip.
func BenchmarkCalls(b *testing.B) {
	for prog, deb := range map[string]string{"apt-get": "apt", "apt-ftparchive": "apt-utils",
		"gpg": "gnupg", "dpkg-deb": "dpkg"} {
		lab.Program(b, prog, deb)
	}
	for _, n := range []int{1, 3, 9} {
		b.Run(fmt.Sprint("n=", n), func(b *testing.B) { benchCalls(b, n) })
	}
}

func benchCalls(b *testing.B, n int) {
	root, want := benchRoot(b, n)
	var calls atomic.Int64
	local := debpkg.Local()
	host := debpkg.New(func(ctx context.Context, argv []string, in io.Reader, out, errs io.Writer) error {
		calls.Add(1)
		return local(ctx, argv, in, out, errs)
	}, debpkg.Options{Root: root.Dir, AptConfig: root.AptConfig})
	var plan debpkg.Plan
	var change debpkg.Change
	var err error
	steps := []struct {
		name string
		f    func(ctx context.Context)
		cpu  time.Duration
		n    int64
	}{
		{name: "facts", f: func(ctx context.Context) { _, err = host.Facts(ctx) }},
		{name: "plan", f: func(ctx context.Context) { plan, err = host.Plan(ctx, want...) }},
		{name: "apply", f: func(ctx context.Context) { change, err = host.Apply(ctx, plan) }},
		{name: "revert", f: func(ctx context.Context) {
			err = host.Revert(ctx, change, debpkg.RevertOptions{Files: true})
		}},
	}
	for b.Loop() {
		for i := range steps {
			s := &steps[i]
			before, cpu := calls.Load(), lab.CPU(b)
			if s.f(b.Context()); err != nil {
				b.Fatal(s.name, err)
			}
			s.cpu += lab.CPU(b) - cpu
			s.n += calls.Load() - before
		}
	}
	for _, s := range steps {
		b.ReportMetric(float64(s.n)/float64(b.N), s.name+"-calls/op")
		b.ReportMetric(float64(s.cpu.Milliseconds())/float64(b.N), s.name+"-cpu-ms/op")
	}
}

// benchRoot has n packages in version 1 installed, and 2 to be had.
func benchRoot(b *testing.B, n int) (*debs.Root, []debpkg.Request) {
	b.Helper()
	repo, err := debs.NewRepo(filepath.Join(b.TempDir(), "repo"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = repo.Close() })
	var packages []debs.Package
	var want []debpkg.Request
	install := []string{"-q", "-y", "install"}
	for i := range n {
		name := fmt.Sprint("zz-bench", i)
		conf := "/etc/" + name + ".conf"
		for _, v := range []string{"1", "2"} {
			packages = append(packages, debs.Package{Name: name, Version: v, Conffiles: []string{conf},
				Files: map[string]debs.File{conf: {Content: v + "\n"}}})
		}
		want = append(want, debpkg.Request{Package: name, Version: version(b, "2")})
		install = append(install, name+"=1")
	}
	if _, err := repo.Add(packages...); err != nil {
		b.Fatal(err)
	}
	root, err := debs.NewRoot(filepath.Join(b.TempDir(), "root"), repo)
	if err != nil {
		b.Fatal(err)
	}
	for _, args := range [][]string{{"-q", "update"}, install} {
		cmd := exec.CommandContext(b.Context(), "apt-get", args...)
		cmd.Env = append(os.Environ(), "APT_CONFIG="+root.AptConfig, "LC_ALL=C",
			"DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("apt-get %v: %v\n%s", args, err, out)
		}
	}
	return root, want
}
