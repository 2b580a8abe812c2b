package debpkg_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/debs"
)

// Operators who apply the same plan at once get the same change: apt runs
// once, and what a revert needs is whole.
func TestOperatorsAtOnce(t *testing.T) {
	t.Parallel()
	f := upgradable(t)
	f.raw("apt-mark", "hold", "tyk-gateway")
	f.write("/opt/tyk-gateway/policies/policies.json", "mine")
	before := f.tree()
	p := f.plan(f.host(), f.request("tyk-gateway", "5.2.5"))
	changes := make([]debpkg.Change, 2)
	if lab.IsLong() {
		changes = make([]debpkg.Change, 4)
	}
	var wg sync.WaitGroup
	for i := range changes {
		wg.Go(func() {
			var err error
			if changes[i], err = f.host().Apply(t.Context(), roundTrip(t, p)); err != nil {
				t.Errorf("operator %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	for _, c := range changes {
		if c.Dir != changes[0].Dir || len(c.Saved) != 1 || len(c.After) != 1 ||
			c.After[0].Version.String() != "5.2.5" {
			t.Fatalf("change %+v", c)
		}
	}
	data, err := os.ReadFile(changes[0].Saved[0].Path)
	if sum := sha256.Sum256(data); err != nil ||
		hex.EncodeToString(sum[:]) != changes[0].Saved[0].SHA256 {
		t.Errorf("the saved .deb: %v", err)
	}
	if n := strings.Count(f.file("/var/log/apt/history.log"), "Upgrade: tyk-gateway"); n != 1 {
		t.Errorf("apt ran %d times", n)
	}
	if left, err := filepath.Glob(changes[0].Dir + ".*"); err != nil || left != nil {
		t.Errorf("left behind: %v, %v", left, err)
	}
	// One whose process was killed knows the plan alone.
	killed := debpkg.Change{Plan: roundTrip(t, p)}
	if err := f.host().Revert(t.Context(), killed, debpkg.RevertOptions{Files: true}); err != nil {
		t.Fatal(err)
	}
	f.want("tyk-gateway", "4.0.8", "hold installed")
	if now := f.tree(); !maps.Equal(now, before) {
		t.Errorf("after the revert there is\n%q\nbefore there was\n%q", now, before)
	}
	// Its host was reinstalled under the same name.
	f.write("/etc/machine-id", "0123\n")
	for _, err := range []error{f.host().Revert(t.Context(), killed, debpkg.RevertOptions{}),
		f.host().Forget(t.Context(), killed)} {
		wantError(t, err, debpkg.ErrRefused, "(machine -), this is", "was reinstalled")
	}
	if err := os.Remove(f.root.Dir + "/etc/machine-id"); err != nil {
		t.Fatal(err)
	}
	list, err := f.host().Prune(t.Context(), debpkg.PruneOptions{Before: time.Now().Add(time.Hour),
		DryRun: true})
	if err != nil || len(list) != 1 || list[0].State != debpkg.PruneForgotten ||
		list[0].Dir != changes[0].Dir || list[0].Kilobytes == 0 {
		t.Errorf("what a prune would do: %+v, %v", list, err)
	}
	if err := f.host().Forget(t.Context(), killed); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Dir(changes[0].Dir)); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	killed.Plan.Digest = "short"
	wantError(t, f.host().Revert(t.Context(), killed, debpkg.RevertOptions{}), debpkg.ErrRefused,
		"digest")
}

// What is kept for a revert was exchanged on the host's disk, or is gone: that
// is told before anything changes.
func TestKeptChanged(t *testing.T) {
	t.Parallel()
	f := newFixture(t, gateway("5.2.5", debs.TykOptions{Config: conf2}))
	f.fetched()
	build := func(o debs.TykOptions) string {
		t.Helper()
		file, err := gateway("4.0.8", o).Build(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	f.install(build(debs.TykOptions{Config: conf1}))
	// The configuration is a link. What dpkg does to the file behind it in a
	// private root is not what it does on a system, so the test writes it.
	real := filepath.Join(f.root.Dir, "/etc/tyk.conf")
	conf := filepath.Join(f.root.Dir, "/opt/tyk-gateway/tyk.conf")
	if err := errors.Join(os.Rename(conf, real), os.Symlink("../../etc/tyk.conf", conf)); err != nil {
		t.Fatal(err)
	}
	h := f.host()
	c := f.apply(h, f.request("tyk-gateway", "5.2.5"))
	if !slices.Contains(c.Files, "/etc/tyk.conf") || !slices.Contains(c.Files,
		"/opt/tyk-gateway/tyk.conf") {
		t.Errorf("saved %v", c.Files)
	}
	f.write("/etc/tyk.conf", "new")
	archive := filepath.Join(c.Dir, "files.tar.gz")
	for _, name := range []string{archive, c.Saved[0].Path} {
		whole, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		other, err := os.ReadFile(build(debs.TykOptions{Config: conf1,
			Postinst: "touch \"$DPKG_ROOT/owned\"\n"}))
		if err != nil {
			t.Fatal(err)
		}
		for _, exchange := range []func() error{
			func() error { return os.WriteFile(name, other, 0o600) }, // a valid .deb of that version
			func() error { return os.Remove(name) },
		} {
			if err := exchange(); err != nil {
				t.Fatal(err)
			}
			wantError(t, h.Revert(t.Context(), c, debpkg.RevertOptions{Files: true}), debpkg.ErrNoRollback,
				name)
			f.want("tyk-gateway", "5.2.5", "install installed")
		}
		if err := os.WriteFile(name, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Revert(t.Context(), c, debpkg.RevertOptions{Files: true}); err != nil {
		t.Fatal(err)
	}
	if got := f.file("/etc/tyk.conf"); got != conf1 {
		t.Errorf("behind the link there is %q", got)
	}
	if _, err := os.Stat(f.root.Dir + "/owned"); err == nil {
		t.Error("the exchanged package was installed")
	}
	forged := roundTrip(t, c)
	forged.Plan.Actions[0].Package = "-oDPkg::Pre-Invoke::=touch /owned"
	if err := h.Revert(t.Context(), forged, debpkg.RevertOptions{}); err == nil ||
		!strings.Contains(err.Error(), "not a package name") {
		t.Errorf("a forged change: %v", err)
	}

	// Forget removes a change's directory and nothing else.
	f.write("/precious/file", "x")
	runs := filepath.Dir(c.Dir)
	for _, dir := range []string{"", runs, runs + "/", runs + "/.", runs + "/../../../../precious",
		runs + "/x/y", f.root.Dir + "/precious"} {
		if err := h.Forget(t.Context(), debpkg.Change{Dir: dir}); err == nil {
			t.Errorf("forgot %q", dir)
		}
	}
	f.file("/precious/file")
	f.file(strings.TrimPrefix(archive, f.root.Dir))
}

// An upload that breaks off leaves what was there, and nothing else.
func TestUploadBreaksOff(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	file, err := gateway("5.2.5", debs.TykOptions{}).Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	h := f.host()
	up := func(r io.Reader) (debpkg.Deb, error) { return h.Upload(t.Context(), "gateway.deb", r) }
	d, err := up(strings.NewReader(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]io.Reader{
		"cut": io.MultiReader(strings.NewReader(string(data[:len(data)/2])),
			iotest.ErrReader(errors.New("cut"))),
		"garbage": strings.NewReader("garbage"),
	} {
		if _, err := up(r); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	// Two at once do not write into each other's.
	other, err := gateway("5.2.5", debs.TykOptions{Config: conf2}).Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	slow, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := up(pr)
		done <- err
	}()
	_, _ = pw.Write(slow[:1])
	if d, err = up(strings.NewReader(string(data))); err != nil {
		t.Fatal(err)
	}
	_, _ = pw.Write(slow[1:])
	if whole, err := os.ReadFile(d.Path); err != nil || string(whole) != string(data) {
		t.Errorf("the file that was uploaded whole has %d bytes, %v", len(whole), err)
	}
	_ = pw.CloseWithError(errors.New("cut"))
	if err := <-done; err == nil {
		t.Error("a file that broke off was taken")
	}
	list, err := h.Debs(t.Context(), filepath.Dir(d.Path))
	if err != nil || len(list) != 1 || list[0] != d {
		t.Errorf("%+v, %v", list, err)
	}
	if entries, err := os.ReadDir(filepath.Dir(d.Path)); err != nil || len(entries) != 1 {
		t.Errorf("left behind %v, %v", entries, err)
	}
	if _, err := h.Debs(t.Context(), "--help"); err == nil || !strings.Contains(err.Error(),
		"absolute") {
		t.Errorf("an option for a path: %v", err)
	}
}

// A directory that others can write to is not a place for what root installs.
func TestStateDirOfOthers(t *testing.T) {
	t.Parallel()
	f := upgradable(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	h := f.host(func(o *debpkg.Options) { o.StateDir = dir })
	if _, err := h.Apply(t.Context(), f.plan(h, f.request("tyk-gateway", "5.2.5"))); err == nil ||
		!strings.Contains(err.Error(), "can be written to by") {
		t.Errorf("applied: %v", err)
	}
	_, err := h.Upload(t.Context(), "x.deb", strings.NewReader("x"))
	wantError(t, err, debpkg.ErrUnsafe, dir)
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	f.want("tyk-gateway", "4.0.8", "install installed")
}
