package debpkg_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/debs"
)

// A revert that would take somebody else's package along is refused. No step
// hangs on times of files, which lie in the future once the clock was set back,
// nor on the host's name.
func TestRevertTells(t *testing.T) {
	t.Parallel()
	f := newFixture(t, gateway("4.0.8", debs.TykOptions{}), gateway("5.2.5", debs.TykOptions{}),
		debs.Package{Name: "addon", Version: "1", Fields: []string{"Depends: tyk-gateway (>= 5)"}})
	f.fetched()
	f.write("/etc/machine-id", "0123456789abcdef\n")
	f.install("tyk-gateway=4.0.8")
	h, ctx := f.host(), t.Context()
	setBack := func() {
		t.Helper()
		later := time.Now().Add(time.Hour)
		if err := filepath.WalkDir(f.root.Dir+"/var/lib/tykupgrade", func(path string, _ fs.DirEntry,
			err error) error {
			return errors.Join(err, os.Chtimes(path, later, later))
		}); err != nil {
			t.Fatal(err)
		}
	}
	p := f.plan(h, f.request("tyk-gateway", "5.2.5"))
	c, err := h.Apply(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	setBack()
	if again, err := h.Apply(ctx, p); err != nil || again.Dir != c.Dir {
		t.Errorf("applied again: %+v, %v", again, err)
	}

	f.install("addon")
	wantError(t, h.Revert(ctx, c, debpkg.RevertOptions{}), debpkg.ErrRefused,
		"it would also remove addon", "plan these packages together")
	f.want("tyk-gateway", "5.2.5", "install installed")
	f.raw("apt-get", "-q", "-y", "remove", "addon")

	renamed := roundTrip(t, c)
	renamed.Plan.Host.Hostname = "its-old-name"
	if err := h.Revert(ctx, renamed, debpkg.RevertOptions{}); err != nil {
		t.Fatal(err)
	}
	f.want("tyk-gateway", "4.0.8", "install installed")
	setBack()
	if err := h.Revert(ctx, c, debpkg.RevertOptions{}); err != nil {
		t.Errorf("reverted again: %v", err)
	}
	if lab.IsLong() { // TestReverted shows it on a host in memory
		if _, err := h.Apply(ctx, p); err != nil {
			t.Errorf("a reverted plan: %v", err)
		}
		f.want("tyk-gateway", "5.2.5", "install installed")
		setBack()
		if err := h.Revert(ctx, c, debpkg.RevertOptions{}); err != nil {
			t.Errorf("a second run of the revert: %v", err)
		}
		f.want("tyk-gateway", "4.0.8", "install installed")
	}
	for range 2 {
		setBack()
		if err := h.Repair(ctx); err != nil {
			t.Error(err)
		}
	}
}

// Packages of Multi-Arch: same go together, each with what is saved of it.
func TestSiblings(t *testing.T) {
	t.Parallel()
	foreign := "i386"
	if debs.Arch() != "amd64" {
		foreign = "amd64"
	}
	var all []debs.Package
	for _, v := range []string{"1", "2"} {
		for _, arch := range []string{debs.Arch(), foreign} {
			all = append(all, debs.Package{Name: "tyk-lib", Version: v, Arch: arch, Fields: []string{"Multi-Arch: same"}, Files: map[string]debs.File{
				"/usr/share/tyk-lib/data": {Content: v}, "/usr/lib/tyk-lib/" + arch: {Content: v + arch}}})
		}
	}
	f := newFixture(t, all...)
	f.write("/etc/apt/private.conf", f.file("/etc/apt/private.conf")+"APT::Architectures:: \""+foreign+"\";\n")
	f.write("/var/lib/dpkg/arch", debs.Arch()+"\n"+foreign+"\n")
	f.update()
	f.install("tyk-lib=1", "tyk-lib:"+foreign+"=1")
	h, ctx := f.host(), t.Context()
	want := func(version string) {
		t.Helper()
		f.want("tyk-lib:"+debs.Arch(), version, "install installed")
		f.want("tyk-lib:"+foreign, version, "install installed")
	}
	p := f.plan(h, f.request("tyk-lib", "2"))
	if len(p.Actions) != 2 || p.Refused() != nil || len(p.Owned) > 0 || len(p.Overwrites) > 0 {
		t.Fatalf("plan %s\n%+v", p, p)
	}
	for _, a := range p.Actions {
		if a.Rollback != "repository" || a.SHA256 == "" || a.From.String() != "1" || a.Arch != a.FromArch {
			t.Errorf("action %+v", a)
		}
	}
	c, err := h.Apply(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	want("2")
	var saved []string
	for _, s := range c.Saved {
		saved = append(saved, filepath.Base(s.Path)+" "+s.From)
	}
	slices.Sort(saved)
	if list := []string{"tyk-lib_1_" + debs.Arch() + ".deb repository", "tyk-lib_1_" + foreign + ".deb repository"}; !slices.Equal(saved, list) {
		t.Errorf("saved %q", saved)
	}
	if err := h.Revert(ctx, roundTrip(t, c), debpkg.RevertOptions{}); err != nil {
		t.Fatal(err)
	}
	want("1")
}

// Logs that logrotate named by dates (dateext), and compressed in any way.
func TestHistoryLogs(t *testing.T) {
	t.Parallel()
	for prog, deb := range map[string]string{"gzip": "gzip", "xz": "xz-utils", "zstd": "zstd"} {
		lab.Program(t, prog, deb)
	}
	f := newFixture(t, debs.Package{Name: "tyk-a", Version: "1"}, debs.Package{Name: "tyk-a",
		Version: "2"},
		debs.Package{Name: "tyk-a", Version: "3"}, debs.Package{Name: "tyk-a", Version: "4"})
	f.fetched()
	log := f.root.Dir + "/var/log/apt/history.log"
	for i, rotate := range []string{"gzip -c LOG >LOG-20250101.gz", "xz -c LOG >LOG-20260101.xz",
		"zstd -q -c LOG >LOG-20260201.zst", ""} {
		f.install("tyk-a=" + string(rune('1'+i)))
		if rotate != "" {
			f.raw("sh", "-ec", strings.ReplaceAll(rotate+"; rm LOG", "LOG", log))
		}
	}
	entries, err := f.host().History(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Actions[0].To.String())
	}
	if !slices.Equal(got, []string{"1", "2", "3", "4"}) {
		t.Errorf("entries %q", got)
	}
	if err := os.WriteFile(log+"-20250601.xz", []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := f.host().History(t.Context()); err == nil || !strings.Contains(err.Error(),
		"history.log-20250601.xz") {
		t.Errorf("a damaged log: %v", err)
	}
}

// Changes that somebody else made are reverted by apt's history, rotated and
// compressed files included.
func TestRevertFromHistory(t *testing.T) {
	t.Parallel()
	f := newFixture(t, gateway("4.0.8", debs.TykOptions{}), gateway("5.2.5", debs.TykOptions{}),
		debs.Tyk("tyk-pump", "1.8.3", debs.TykOptions{}), debs.Tyk("tyk-pump", "1.9.0",
			debs.TykOptions{}))
	f.install("tyk-gateway=4.0.8", "tyk-pump=1.8.3")
	f.install("tyk-gateway=5.2.5", "tyk-pump=1.9.0")
	h := f.host()
	ctx := t.Context()
	log := f.root.Dir + "/var/log/apt/history.log"
	f.raw("sh", "-c", "gzip -c "+log+" >"+log+".2.gz && rm "+log)
	entries, err := h.History(ctx)
	if err != nil || len(entries) != 2 || entries[1].Actions[0].Kind != debpkg.Upgrade ||
		entries[1].End.IsZero() {
		t.Fatalf("%+v, %v", entries, err)
	}
	c, err := h.RevertFromHistory(ctx, "tyk-gateway", "tyk-pump")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Revert(ctx, roundTrip(t, c), debpkg.RevertOptions{}); err != nil {
		t.Fatal(err)
	}
	f.want("tyk-gateway", "4.0.8", "install installed")
	f.want("tyk-pump", "1.8.3", "install installed")
	// The revert is the newest entry now, in the plain file.
	c, err = h.RevertFromHistory(ctx, "tyk-gateway")
	if err != nil || c.Plan.Actions[0].Kind != debpkg.Downgrade {
		t.Errorf("%+v, %v", c.Plan.Actions, err)
	}
	f.raw("dpkg", "--root="+f.root.Dir, "--force-not-root", "--force-script-chrootless", "-i",
		f.repo.Dir+"/tyk-gateway_5.2.5_"+debs.Arch()+".deb")
	_, err = h.RevertFromHistory(ctx, "tyk-gateway")
	wantError(t, err, debpkg.ErrChanged, "at 5.2.5", "4.0.8")
	_, err = h.RevertFromHistory(ctx, "tyk-nix")
	wantError(t, err, debpkg.ErrNoRollback, "does not mention tyk-nix")
	if _, err := h.RevertFromHistory(ctx); err == nil {
		t.Error("no package was given")
	}
}
