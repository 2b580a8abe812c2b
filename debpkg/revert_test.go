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
	if _, err := h.Apply(ctx, p); err != nil {
		t.Errorf("a reverted plan: %v", err)
	}
	f.want("tyk-gateway", "5.2.5", "install installed")
	setBack()
	if err := h.Revert(ctx, c, debpkg.RevertOptions{}); err != nil {
		t.Errorf("a second run of the revert: %v", err)
	}
	f.want("tyk-gateway", "4.0.8", "install installed")
	for range 2 {
		setBack()
		if err := h.Repair(ctx); err != nil {
			t.Error(err)
		}
	}
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
