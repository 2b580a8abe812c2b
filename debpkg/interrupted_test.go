package debpkg_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/debs"
	"example.com/tykupgrade/internal/run"
)

// killSession kills a job and all that it started, as a host that goes down
// does.
func killSession(t *testing.T, leader int) {
	t.Helper()
	list, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		data, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		// pid (comm) state ppid pgrp session; comm may hold anything.
		rest := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		if len(rest) > 3 && rest[3] == strconv.Itoa(leader) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			if err != nil {
				t.Fatal(err)
			}
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// The host goes down while postinst runs: the run is found to have vanished,
// Repair finishes it, or Revert goes back.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	const waits = "if [ ! -e \"$DPKG_ROOT/go\" ]; then touch \"$DPKG_ROOT/begun\"; sleep 60; fi\n"
	f := newFixture(t, gateway("4.0.8", debs.TykOptions{}), gateway("5.2.5",
		debs.TykOptions{Postinst: waits}))
	f.fetched()
	f.install("tyk-gateway=4.0.8")
	h := f.host()
	crash := func() debpkg.Plan {
		t.Helper()
		p := f.plan(h, f.request("tyk-gateway", "5.2.5"))
		done := make(chan error, 1)
		go func() {
			c, err := h.Apply(t.Context(), p)
			if c.Dir == "" {
				err = errors.Join(err, errors.New("the change is empty"))
			}
			done <- err
		}()
		for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
			if _, err := os.Stat(f.root.Dir + "/begun"); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("postinst has not begun")
			}
		}
		pid, err := os.ReadFile(filepath.Join(f.root.Dir, "var/lib/tykupgrade/runs", p.Digest[:16],
			"pid"))
		if err != nil {
			t.Fatal(err)
		}
		leader, err := strconv.Atoi(strings.Fields(string(pid))[0])
		if err != nil {
			t.Fatal(err)
		}
		killSession(t, leader)
		err = <-done
		wantError(t, err, debpkg.ErrInterrupted, "the run vanished", "half-configured at 5.2.5")
		if err := os.Remove(f.root.Dir + "/begun"); err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := crash()
	f.want("tyk-gateway", "5.2.5", "install half-configured")
	// dpkg's own journal of what it was doing blocks everyone.
	_, err := h.Plan(t.Context(), f.request("tyk-gateway", "4.0.8"))
	wantError(t, err, debpkg.ErrInterrupted, "Repair")
	c, err := h.Apply(t.Context(), p)
	if !errors.Is(err, debpkg.ErrInterrupted) {
		t.Fatalf("the same plan again: %v", err)
	}
	f.write("/go", "")
	if err := h.Revert(t.Context(), c, debpkg.RevertOptions{}); err != nil {
		t.Fatal(err)
	}
	f.want("tyk-gateway", "4.0.8", "install installed")
	if err := os.Remove(f.root.Dir + "/go"); err != nil {
		t.Fatal(err)
	}
	crash()
	f.write("/go", "")
	if err := h.Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.want("tyk-gateway", "5.2.5", "install installed")
	if c, err := h.Apply(t.Context(), p); err != nil || c.After[0].Version.String() != "5.2.5" {
		t.Errorf("after the repair the plan is done: %+v, %v", c, err)
	}
	// The host went down while the record of the repair was being replaced.
	f.write("/var/lib/tykupgrade/runs/repair.gone/log", "")
	if err := h.Repair(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(f.root.Dir + "/var/lib/tykupgrade/runs/repair.gone"); !errors.Is(err,
		os.ErrNotExist) {
		t.Errorf("it is left: %v", err)
	}
}

// dpkg runs out of space, on a package that is larger than it says: the
// installed version stays.
func TestDiskFull(t *testing.T) {
	lab.SmallDisk(t, 3<<20, func(disk string) {
		f := newFixture(t, gateway("4.0.8", debs.TykOptions{}),
			gateway("5.2.5", debs.TykOptions{Fields: []string{"Installed-Size: 1"},
				Samples: map[string]string{"big": strings.Repeat("x", 8<<20)}}))
		root, err := debs.NewRoot(filepath.Join(disk, "root"), f.repo)
		if err != nil {
			t.Fatal(err)
		}
		f.root = root
		// apt's own caches are larger than the disk.
		f.write("/etc/apt/private.conf", f.file("/etc/apt/private.conf")+
			"Dir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\n")
		f.update()
		f.install("tyk-gateway=4.0.8")
		state := t.TempDir()
		cautious := f.host(func(o *debpkg.Options) { o.StateDir = state })
		if err := f.plan(cautious, f.request("tyk-gateway", "5.2.5")).Refused(); err == nil ||
			!strings.Contains(err.Error(), "new files in") {
			t.Errorf("a package that is larger than it says: %v", err)
		}
		h := f.host(func(o *debpkg.Options) { o.StateDir, o.IgnoreSpace = state, true })
		c, err := h.Apply(t.Context(), f.plan(h, f.request("tyk-gateway", "5.2.5")))
		wantError(t, err, debpkg.ErrDiskFull, "No space left")
		f.want("tyk-gateway", "4.0.8", "install installed")
		if err := h.Revert(t.Context(), c, debpkg.RevertOptions{}); err != nil {
			t.Error(err)
		}
		// A download that does not fit is refused before it begins.
		random := make([]byte, 4<<20)
		_, _ = rand.NewChaCha8([32]byte{}).Read(random)
		if _, err := f.repo.Add(gateway("5.3.0", debs.TykOptions{Samples: map[string]string{
			"big": string(random)}})); err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(http.FileServer(http.Dir(f.repo.Dir)))
		defer server.Close()
		f.write("/etc/apt/sources.list.d/lab0.list", f.repo.List(server.URL+"/", f.repo.KeyFile))
		f.raw("apt-get", "-q", "update")
		if err := f.plan(cautious, f.request("tyk-gateway", "5.3.0")).Refused(); err == nil ||
			!strings.Contains(err.Error(), "downloads in") {
			t.Errorf("a download that is larger than the disk: %v", err)
		}

		// Only one of the package's directories is on the small disk.
		p := gateway("6.0.0", debs.TykOptions{})
		p.Files["/srv/tyk/big"] = debs.File{Content: strings.Repeat("x", 8<<20)}
		if _, err := f.repo.Add(p); err != nil {
			t.Fatal(err)
		}
		if f.root, err = debs.NewRoot(filepath.Join(t.TempDir(), "root"), f.repo); err != nil {
			t.Fatal(err)
		}
		small := filepath.Join(disk, "srv")
		if err := errors.Join(os.Mkdir(small, 0o755), os.Symlink(small, filepath.Join(f.root.Dir,
			"srv"))); err != nil {
			t.Fatal(err)
		}
		f.update()
		if err := f.plan(f.host(), f.request("tyk-gateway", "6.0.0")).Refused(); err == nil ||
			!strings.Contains(err.Error(), "new files in "+f.root.Dir+"/srv need 8.0 MiB") {
			t.Errorf("one directory on a small disk: %v", err)
		}
	})
}

// The facts that a person looks at before an upgrade.
func TestFacts(t *testing.T) {
	t.Parallel()
	f := newFixture(t, gateway("4.0.8", debs.TykOptions{Config: conf1}), gateway("5.2.5",
		debs.TykOptions{}), debs.Tyk("tyk-gateway-fips", "5.3.2", debs.TykOptions{}),
		debs.Tyk("tyk-dashboard", "4.0.8", debs.TykOptions{}), debs.Tyk("tyk-pump", "1.9.0",
			debs.TykOptions{}))
	f.fetched()
	f.install("tyk-gateway=4.0.8", "tyk-dashboard", "tyk-pump")
	f.raw("apt-mark", "hold", "tyk-pump")
	f.raw("apt-get", "-y", "remove", "tyk-dashboard")
	f.write("/opt/tyk-gateway/tyk.conf", "edited")
	h := f.host()
	facts, err := h.Facts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range roundTrip(t, facts).Packages {
		got = append(got, fmt.Sprintf("%s %s %s installed=%t held=%t edited=%t", p.Name, p.Version,
			p.Status, p.Installed(), p.Held(), p.Conffiles[0].Edited()))
	}
	if want := []string{"tyk-dashboard 4.0.8 config-files installed=false held=false edited=false",
		"tyk-gateway 4.0.8 installed installed=true held=false edited=true",
		"tyk-pump 1.9.0 installed installed=true held=true edited=false"}; !slices.Equal(got, want) {
		t.Errorf("packages %q", got)
	}
	got = nil
	for _, a := range facts.Available {
		got = append(got, a.Package+" "+a.Version.String()+" "+debpkg.Edition(a.Package))
		if !strings.Contains(a.Origin, f.repo.Dir) {
			t.Errorf("origin %q", a.Origin)
		}
	}
	if want := []string{"tyk-dashboard 4.0.8 ", "tyk-gateway 5.2.5 ", "tyk-gateway 4.0.8 ",
		"tyk-gateway-fips 5.3.2 fips", "tyk-pump 1.9.0 "}; !slices.Equal(got, want) {
		t.Errorf("available %q", got)
	}
	if facts.Systemd || facts.Arch != debs.Arch() || len(facts.Sources) != 1 ||
		len(facts.Sources[0].Serves) != 4 || len(facts.ByHand)+len(facts.Broken)+len(facts.Locks) != 0 {
		t.Errorf("facts %+v", facts)
	}
	// What is on hold and not requested is said to stay.
	if p := f.plan(h, f.request("tyk-gateway", "5.2.5")); !slices.Equal(p.KeptBack,
		[]string{"tyk-pump"}) || !strings.Contains(p.String(), "tyk-pump is on hold and stays") {
		t.Errorf("plan %s", p)
	}
}

// The operator's machine dies while it sends something: what was recorded before
// stays, and the change is found complete; no file is brought back whose present
// state is not kept.
func TestSendingCut(t *testing.T) {
	t.Parallel()
	f := upgradable(t)
	p := f.plan(f.host(), f.request("tyk-gateway", "5.2.5"))
	local, part, seen := debpkg.Local(), "change.json", 0
	cut := debpkg.New(func(ctx context.Context, argv []string, stdin io.Reader, stdout,
		stderr io.Writer) error {
		if stdin != nil && slices.ContainsFunc(argv,
			func(a string) bool { return filepath.Base(a) == part }) {
			if seen++; seen == 1 {
				return errors.Join(local(ctx, argv, io.LimitReader(stdin, 30), stdout, stderr),
					errors.New("cut"))
			}
		}
		return local(ctx, argv, stdin, stdout, stderr)
	}, debpkg.Options{Root: f.root.Dir, AptConfig: f.root.AptConfig})
	// That it was installed is what counts for the caller.
	if _, err := cut.Apply(t.Context(), p); err != nil || seen != 1 {
		t.Fatalf("error %v, recorded %d times", err, seen)
	}
	c, err := f.host().Apply(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	f.want("tyk-gateway", "5.2.5", "install installed")
	if n := strings.Count(f.file("/var/log/apt/history.log"),
		"Upgrade: tyk-gateway:amd64 (4.0.8, 5.2.5)"); n != 1 || len(c.After) != 1 {
		t.Errorf("apt ran %d times, change %+v", n, c)
	}
	f.write("/opt/tyk-gateway/tyk.conf", "edited since")
	part, seen = filepath.Base(c.Dir), 0
	if err := cut.Revert(t.Context(), c, debpkg.RevertOptions{Files: true}); err == nil || seen != 1 {
		t.Errorf("error %v, %d lists", err, seen)
	}
	if got := f.file("/opt/tyk-gateway/tyk.conf"); got != "edited since" {
		t.Errorf("the configuration is %q", got)
	}
	if err := f.host().Revert(t.Context(), c, debpkg.RevertOptions{Files: true}); err != nil {
		t.Error(err)
	}
	if got := f.file("/opt/tyk-gateway/tyk.conf"); got == "edited since" {
		t.Error("the configuration was not brought back")
	}
	if left, err := filepath.Glob(filepath.Join(c.Dir, "*.tmp")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// A job that has ended before anybody followed it is told of all the same. The installed
// version is saved from apt's cache, which has it. Of the new one it has only a part, which does
// not count.
func TestQuickJob(t *testing.T) {
	t.Parallel()
	f := upgradable(t)
	p := f.plan(f.host(), f.request("tyk-gateway", "5.2.5"))
	if err := os.Truncate(filepath.Join(f.root.Dir, "var/cache/apt/archives/tyk-gateway_5.2.5_"+
		debs.Arch()+".deb"), 500); err != nil {
		t.Fatal(err)
	}
	local, runs := debpkg.Local(), filepath.Join(f.root.Dir, "var/lib/tykupgrade/runs", p.Digest[:16])
	slow := func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
		for begun := true; begun; time.Sleep(20 * time.Millisecond) {
			_, err := os.Stat(filepath.Join(runs, "pid"))
			_, ended := os.Stat(filepath.Join(runs, "rc"))
			begun = err == nil && ended != nil
		}
		return local(ctx, argv, stdin, stdout, stderr)
	}
	var told []debpkg.EventKind
	h := debpkg.New(slow, debpkg.Options{Root: f.root.Dir, AptConfig: f.root.AptConfig,
		Events: func(e debpkg.Event) { told = append(told, e.Kind) }})
	c, err := h.Apply(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(told, debpkg.EventInstall) {
		t.Errorf("events %v", told)
	}
	if len(c.Saved) != 1 || c.Saved[0].From != "cache" {
		t.Errorf("saved %+v", c.Saved)
	}
}

// A job that cannot take its place says why, and nothing of it stays.
func TestCannotStart(t *testing.T) {
	t.Parallel()
	f := upgradable(t)
	p := f.plan(f.host(), f.request("tyk-gateway", "5.2.5"))
	bin := t.TempDir()
	if err := run.WriteProgram(filepath.Join(bin, "flock"),
		[]byte("#!/bin/sh\necho 'flock: 9: No locks available' >&2\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	local := debpkg.Local()
	noLocks := func(ctx context.Context, argv []string, stdin io.Reader, stdout,
		stderr io.Writer) error {
		argv = slices.Clone(argv)
		for i, a := range argv {
			if path, ok := strings.CutPrefix(a, "PATH="); ok {
				argv[i] = "PATH=" + bin + ":" + path
			}
		}
		return local(ctx, argv, stdin, stdout, stderr)
	}
	_, err := debpkg.New(noLocks, debpkg.Options{Root: f.root.Dir, AptConfig: f.root.AptConfig}).
		Apply(t.Context(), p)
	if err == nil || !strings.Contains(err.Error(), "start the run in") ||
		!strings.Contains(err.Error(), "No locks available") {
		t.Errorf("%v", err)
	}
	if left, err := os.ReadDir(filepath.Join(f.root.Dir, "var/lib/tykupgrade/runs")); err != nil ||
		len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
	f.want("tyk-gateway", "4.0.8", "install installed")
}
