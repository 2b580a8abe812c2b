package debpkg_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab/debs"
)

// What the plan says of names, files of others, apt's own choice, diversions
// and space is what apt and dpkg do.
func TestPlanTells(t *testing.T) {
	t.Parallel()
	shared := debs.TykOptions{Config: conf1}
	all := func(v string) debs.Package {
		p := gateway(v, shared)
		p.Arch = "all"
		return p
	}
	f := newFixture(t, all("4.0.8"), gateway("5.2.5", shared), gateway("5.3.0", shared),
		debs.Tyk("tyk-gateway-ee", "5.7.0", shared), debs.Tyk("tyk-pump", "1.8.3", debs.TykOptions{}))
	f.fetched()
	f.notFetched("tyk-gateway_4.0.8")
	f.install("tyk-gateway=4.0.8", "tyk-pump=1.8.3")
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
	if !slices.Contains(p.Owned, debpkg.Owned{Package: "tyk-gateway-ee",
		Path: "/opt/tyk-gateway/tyk.conf", Owner: "tyk-gateway"}) {
		t.Errorf("owned %v", p.Owned)
	}
	_, err := h.Apply(ctx, p)
	wantError(t, err, debpkg.ErrRefused, "belongs to the installed tyk-gateway")

	// The next unattended upgrade would choose 5.3.0.
	p = f.plan(h, f.request("tyk-gateway", "5.2.5"))
	if a := p.Actions[0]; a.Candidate != "5.3.0" || a.FromArch != "all" ||
		a.Rollback != "repository" || !strings.Contains(p.String(),
		"apt's own choice for tyk-gateway is 5.3.0") {
		t.Errorf("action %+v\n%s", a, p)
	}

	// So does a pin, and apt would go back by itself.
	pin := "/etc/apt/preferences.d/tyk"
	f.write(pin, "Package: tyk-gateway\nPin: version 4.0.8\nPin-Priority: 1001\n")
	p = f.plan(h, f.request("tyk-gateway", "5.2.5"))
	if a := p.Actions[0]; a.Candidate != "4.0.8" || !strings.Contains(p.String(),
		"apt's own choice for tyk-gateway is 4.0.8, not 5.2.5; set Options.Hold or Options.Pin") {
		t.Errorf("action %+v\n%s", a, p)
	}
	if err := os.Remove(f.root.Dir + pin); err != nil {
		t.Fatal(err)
	}

	// An edited conffile that is diverted: dpkg works on the file behind it.
	diverted := "/opt/tyk-gateway/tyk.conf.mine"
	f.raw("dpkg-divert", "--admindir", f.root.Dir+"/var/lib/dpkg", "--instdir", f.root.Dir, "--local",
		"--add", "--rename", "--divert", diverted, "/opt/tyk-gateway/tyk.conf")
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
	if len(c.Saved) != 1 || c.Saved[0].From != "repository" || !strings.HasSuffix(c.Saved[0].Path,
		"_all.deb") {
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
	p = f.plan(f.host(func(o *debpkg.Options) { o.IgnoreSpace = true }), f.request("tyk-gateway",
		"6.0.0"))
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
