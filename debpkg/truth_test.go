package debpkg_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/debs"
)

// What the plan says of names, files of others, apt's own choice, diversions,
// space and marks is what apt and dpkg do.
func TestPlanTells(t *testing.T) {
	t.Parallel()
	shared := debs.TykOptions{Config: conf1}
	all := func(v string) debs.Package {
		p := gateway(v, shared)
		p.Arch = "all"
		return p
	}
	f := newFixture(t, all("4.0.8"), gateway("5.2.5", shared), gateway("5.3.0", shared),
		debs.Tyk("tyk-gateway-ee", "5.7.0", shared), debs.Package{Name: "tyk-dep", Version: "1"}, debs.Package{Name: "tyk-dep", Version: "2"},
		debs.Tyk("tyk-pump", "1.8.3", debs.TykOptions{}), debs.Tyk("tyk-pump", "1.9.0", debs.TykOptions{Fields: []string{"Depends: tyk-dep (>= 2)"}}))
	f.install("tyk-gateway=4.0.8", "tyk-pump=1.8.3", "tyk-dep=1")
	f.raw("apt-mark", "auto", "tyk-dep")
	h := f.host()
	ctx := t.Context()

	// apt takes these for patterns, or for a removal.
	for _, name := range []string{"tyk.", "tyk-gateway-", "tyk-pum.", "tyk-pump+"} {
		_, err := h.Plan(ctx, debpkg.Request{Package: name, Version: version(t, "5.2.5")})
		if !errors.Is(err, debpkg.ErrNoPackage) && !errors.Is(err, debpkg.ErrNoVersion) {
			t.Errorf("%q: %v", name, err)
		}
	}

	// A file of another installed package: dpkg refuses, so the plan does.
	p := f.plan(h, f.request("tyk-gateway-ee", "5.7.0"))
	if !slices.Contains(p.Owned, debpkg.Owned{Package: "tyk-gateway-ee", Path: "/opt/tyk-gateway/tyk.conf", Owner: "tyk-gateway"}) {
		t.Errorf("owned %v", p.Owned)
	}
	_, err := h.Apply(ctx, p)
	wantError(t, err, debpkg.ErrRefused, "belongs to the installed tyk-gateway")

	// The next unattended upgrade would choose 5.3.0.
	p = f.plan(h, f.request("tyk-gateway", "5.2.5"))
	if a := p.Actions[0]; a.Candidate != "5.3.0" || a.FromArch != "all" || a.Rollback != "repository" || !strings.Contains(p.String(), "apt's own choice for tyk-gateway is 5.3.0") {
		t.Errorf("action %+v\n%s", a, p)
	}

	// An edited conffile that is diverted: dpkg works on the file behind it.
	diverted := "/opt/tyk-gateway/tyk.conf.mine"
	f.raw("dpkg-divert", "--admindir", f.root.Dir+"/var/lib/dpkg", "--instdir", f.root.Dir, "--local", "--add", "--rename", "--divert", diverted, "/opt/tyk-gateway/tyk.conf")
	f.write(diverted, "edited")
	f.write("/opt/tyk-gateway/tyk.conf", "local")
	p = f.plan(h, f.request("tyk-gateway", "5.2.5"))
	if c := p.Conffiles[0]; c.Diverted != diverted || c.Outcome != debpkg.OutcomeKept {
		t.Errorf("conffile %+v", c)
	}
	before := f.tree()
	held := f.host(func(o *debpkg.Options) { o.Hold = true })
	c := f.apply(held, f.request("tyk-gateway", "5.2.5"))
	f.want("tyk-gateway", "5.2.5", "hold installed")
	if len(c.Saved) != 1 || c.Saved[0].From != "repository" || !strings.HasSuffix(c.Saved[0].Path, "_all.deb") {
		t.Errorf("saved %+v", c.Saved)
	}
	if left, err := filepath.Glob(c.Dir + "/*.deb"); err != nil || len(left) != 1 {
		t.Errorf("left %v, %v", left, err)
	}
	if err := held.Revert(ctx, c, debpkg.RevertOptions{Files: true}); err != nil {
		t.Fatal(err)
	}
	f.want("tyk-gateway", "4.0.8", "hold installed")
	for name, text := range before {
		if got := f.file(name); got != text {
			t.Errorf("%s is %q, was %q", name, got, text)
		}
	}

	// Marks survive the way there and back.
	c = f.apply(h, f.request("tyk-pump", "1.9.0"))
	if err := h.Revert(ctx, c, debpkg.RevertOptions{}); err != nil {
		t.Fatal(err)
	}
	f.want("tyk-dep", "1", "install installed")
	if auto := f.raw("apt-mark", "showauto"); strings.TrimSpace(auto) != "tyk-dep" {
		t.Errorf("automatic: %q", auto)
	}

	// A local file counts for the space too, and the refusal can be lifted.
	big := gateway("6.0.0", debs.TykOptions{Fields: []string{"Installed-Size: 99999999999"}})
	if _, err := f.repo.Add(big); err != nil {
		t.Fatal(err)
	}
	if err := h.Update(ctx); err != nil {
		t.Fatal(err)
	}
	p = f.plan(h, f.request("tyk-gateway", "6.0.0"))
	if err := p.Refused(); err == nil || !strings.Contains(err.Error(), "new files in") {
		t.Errorf("%v", err)
	}
	p = f.plan(f.host(func(o *debpkg.Options) { o.IgnoreSpace = true }), f.request("tyk-gateway", "6.0.0"))
	if err := p.Refused(); err != nil || !strings.Contains(p.String(), "IgnoreSpace is set") {
		t.Errorf("%v\n%s", err, p)
	}

	// apt cannot read its sources: that is an error, and not an empty answer.
	f.write("/etc/apt/sources.list.d/broken.list", "deb broken\n")
	f.write("/etc/apt/sources.list.d/ignored name.list", "deb http://ignored ./\n")
	_, err = h.Facts(ctx)
	wantError(t, err, debpkg.ErrSource, "broken.list")
	_, err = h.Available(ctx, "tyk-gateway")
	wantError(t, err, debpkg.ErrSource, "Malformed entry 1")
	sources, err := h.Sources(ctx)
	if err != nil || len(sources) != 1 {
		t.Errorf("sources %+v, %v", sources, err)
	}
}

// A link of a service user's leads to a file of root's. Neither is its content
// kept as configuration, nor is anything written behind it, as root follows
// nothing that the user can put there.
func TestConffileLedAstray(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		lab.Missing(t, "root, to play the service user")
	}
	lab.Program(t, "setpriv", "util-linux")
	f := newFixture(t, gateway("4.0.8", debs.TykOptions{Config: conf1}), gateway("5.2.5", debs.TykOptions{Config: conf2}))
	f.install("tyk-gateway=4.0.8")
	for d := f.root.Dir; d != "/tmp" && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	tree := f.root.Dir + "/opt/tyk-gateway"
	if err := filepath.WalkDir(tree, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, 65534, 65534))
	}); err != nil {
		t.Fatal(err)
	}
	f.write("/etc/shadow", "root's secret")
	if err := os.Chmod(f.root.Dir+"/etc/shadow", 0o600); err != nil {
		t.Fatal(err)
	}
	conf := tree + "/tyk.conf"
	if err := errors.Join(os.Remove(conf), os.Symlink(f.root.Dir+"/etc/shadow", conf)); err != nil {
		t.Fatal(err)
	}
	h := f.host()
	p := f.plan(h, f.request("tyk-gateway", "5.2.5"))
	c, err := h.Apply(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	archives, err := filepath.Glob(c.Dir + "/files*.tar.gz")
	if err != nil || len(archives) == 0 {
		t.Fatalf("archives %v, %v", archives, err)
	}
	for _, a := range archives {
		out, err := f.try("tar", "-x", "-z", "-O", "-f", a)
		if err != nil || strings.Contains(out, "secret") {
			t.Errorf("%s holds %q, %v", a, out, err)
		}
	}
	if slices.Contains(c.Looked, "/etc/shadow") {
		t.Errorf("looked at %v", c.Looked)
	}
	// Meanwhile the directory becomes a link to one of root's.
	f.write("/etc/profile.d/tyk.conf", "root's")
	f.write("/etc/profile.d/policies/policies.json", "root's")
	if err := errors.Join(os.Rename(tree, tree+".away"), os.Symlink(f.root.Dir+"/etc/profile.d", tree), os.Lchown(tree, 65534, 65534), os.Chown(f.root.Dir+"/opt", 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	_ = h.Revert(t.Context(), c, debpkg.RevertOptions{Files: true}) // dpkg itself follows
	info, err := os.Lstat(f.root.Dir + "/etc/profile.d/tyk.conf")
	if err != nil || info.Mode()&os.ModeSymlink != 0 {
		t.Errorf("the user's link was put into root's directory: %v, %v", info, err)
	}
	if got := f.file("/etc/shadow"); got != "root's secret" {
		t.Errorf("root's file is %q", got)
	}

	// A change that names files elsewhere is not carried out.
	forged := roundTrip(t, c)
	forged.Saved[0].Path = "/tmp/evil.deb"
	wantError(t, h.Revert(t.Context(), forged, debpkg.RevertOptions{}), debpkg.ErrRefused, "outside of")
	forged = roundTrip(t, c)
	forged.Dir = "/tmp/evil"
	wantError(t, h.Revert(t.Context(), forged, debpkg.RevertOptions{}), debpkg.ErrRefused, "outside of")
}
