package debpkg_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab/debs"
)

// From .deb files, as in a place without network: checked first, installed,
// and reverted although no source has either version.
func TestOffline(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := filepath.Join(t.TempDir(), "debs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	build := func(p debs.Package) string {
		t.Helper()
		path, err := p.Build(dir)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	v1, v2 := build(gateway("4.0.8", debs.TykOptions{Config: conf1})),
		build(gateway("5.2.5", debs.TykOptions{Config: conf2}))
	pump := build(debs.Tyk("tyk-pump", "1.9.0", debs.TykOptions{}))
	foreign := debs.Tyk("tyk-dashboard", "5.2.5", debs.TykOptions{})
	foreign.Arch = "s390x"
	dashboard := build(foreign)
	torn := filepath.Join(dir, "torn_1_all.deb.part")
	if err := os.WriteFile(torn, []byte("!<arch>\ngarbage"), 0o644); err != nil {
		t.Fatal(err)
	}
	f.install(v1)
	h := f.host()
	ctx := t.Context()
	facts, err := h.Facts(ctx)
	if err != nil || !slices.Equal(facts.ByHand, []string{"tyk-gateway"}) {
		t.Errorf("installed by hand: %v, %v", facts.ByHand, err)
	}
	list, err := h.Debs(ctx, dir)
	if err != nil || len(list) != 4 {
		t.Fatalf("%+v, %v", list, err)
	}
	i := slices.IndexFunc(list, func(d debpkg.Deb) bool { return d.Path == v2 })
	good := list[i]
	refuse := func(text string, r debpkg.Request) {
		t.Helper()
		_, err := h.Plan(ctx, r)
		wantError(t, err, debpkg.ErrDeb, text)
	}
	refuse("holds tyk-pump", debpkg.Request{Package: "tyk-gateway", Deb: pump})
	refuse("holds version 5.2.5", debpkg.Request{Package: "tyk-gateway", Version: version(t, "5.3.0"),
		Deb: v2})
	refuse("is for s390x", debpkg.Request{Package: "tyk-dashboard", Deb: dashboard})
	refuse("has SHA-256 "+good.SHA256, debpkg.Request{Package: "tyk-gateway", Deb: v2,
		SHA256: strings.Repeat("0", 64)})
	refuse("2 files fit", debpkg.Request{Package: "tyk-gateway", Deb: dir})
	refuse("garbage", debpkg.Request{Package: "tyk-gateway", Deb: filepath.Join(dir, "garbage.deb")})
	refuse("torn", debpkg.Request{Package: "tyk-gateway", Deb: torn})
	refuse("there is no .deb file", debpkg.Request{Package: "tyk-gateway", Deb: f.root.Dir})

	p := roundTrip(t, f.plan(h, debpkg.Request{Package: "tyk-gateway", Version: version(t, "5.2.5"),
		Deb: dir, SHA256: good.SHA256}, debpkg.Request{Package: "tyk-pump", Deb: pump}))
	if p.Actions[0].Rollback != "repack" || p.Actions[0].Deb != v2 || p.DownloadSize() != 0 {
		t.Errorf("actions %+v", p.Actions)
	}
	f.write("/opt/tyk-gateway/tyk.conf", "edited")
	p = f.plan(h, p.Requests...)
	c, err := h.Apply(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	f.want("tyk-gateway", "5.2.5", "install installed")
	f.want("tyk-pump", "1.9.0", "install installed")
	if len(c.Saved) != 1 || c.Saved[0].From != "repack" {
		t.Fatalf("saved %+v", c.Saved)
	}
	if err := h.Revert(ctx, c, debpkg.RevertOptions{}); err != nil {
		t.Fatal(err)
	}
	f.want("tyk-gateway", "4.0.8", "install installed")
	f.want("tyk-pump", "", "")
	if got := f.file("/opt/tyk-gateway/tyk.conf"); got != "edited" {
		t.Errorf("conffile %q", got)
	}
	if got := f.file("/opt/tyk-gateway/policies/policies.json"); !strings.Contains(got, "4.0.8") {
		t.Errorf("policies %q", got)
	}

	// Upload, and a saved file that was damaged since.
	data, err := os.Open(v2)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = data.Close() }()
	up, err := h.Upload(ctx, filepath.Base(v2), data)
	if err != nil || up.SHA256 != good.SHA256 || up.Package != "tyk-gateway" {
		t.Fatalf("uploaded %+v, %v", up, err)
	}
	if _, err := h.Upload(ctx, "../x.deb", strings.NewReader("")); err == nil {
		t.Error("uploaded outside the directory")
	}
	c = f.apply(h, debpkg.Request{Package: "tyk-gateway", Deb: up.Path})
	if err := os.WriteFile(c.Saved[0].Path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	err = h.Revert(ctx, c, debpkg.RevertOptions{})
	wantError(t, err, debpkg.ErrNoRollback, "no source offers tyk-gateway 4.0.8")
	f.want("tyk-gateway", "5.2.5", "install installed")
}

// The installed version has gone from the source and was never in the cache:
// it was saved from the source before, or is packed again.
func TestSavedDeb(t *testing.T) {
	t.Parallel()
	f := newFixture(t, gateway("4.0.8", debs.TykOptions{Config: conf1}), gateway("5.2.5",
		debs.TykOptions{Config: conf2}))
	f.install("tyk-gateway=4.0.8")
	h := f.host()
	c := f.apply(h, f.request("tyk-gateway", "5.2.5"))
	if c.Saved[0].From != "repository" {
		t.Errorf("saved %+v", c.Saved)
	}
	withdraw := func() {
		t.Helper()
		if err := os.Remove(filepath.Join(f.repo.Dir, "tyk-gateway_4.0.8_"+debs.Arch()+
			".deb")); err != nil {
			t.Fatal(err)
		}
		if err := f.repo.Publish(); err != nil {
			t.Fatal(err)
		}
		f.update()
	}
	withdraw()
	if err := h.Revert(t.Context(), c, debpkg.RevertOptions{}); err != nil {
		t.Fatal(err)
	}
	f.want("tyk-gateway", "4.0.8", "install installed")
	if p := f.plan(h, f.request("tyk-gateway", "5.2.5")); p.Actions[0].Rollback != "repack" ||
		!strings.Contains(p.String(), "packed again") {
		t.Errorf("plan %s", p)
	}
	c = f.apply(h, f.request("tyk-gateway", "5.2.5"))
	if c.Saved[0].From != "repack" {
		t.Errorf("saved %+v", c.Saved)
	}
}
