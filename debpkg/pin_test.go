package debpkg_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab/debs"
)

// The pin names the version that is there: after an upgrade, after a revert by a host
// that sets no option, and not at all once the package is gone.
func TestPin(t *testing.T) {
	t.Parallel()
	broken := gateway("6.1.0", debs.TykOptions{})
	broken.Scripts["preinst"] = "exit 1\n"
	f := newFixture(t, gateway("4.0.8", debs.TykOptions{}), gateway("5.2.5", debs.TykOptions{}),
		gateway("5.3.0", debs.TykOptions{}), broken)
	f.fetched()
	f.install("tyk-gateway=4.0.8")
	const theirs = "/etc/apt/preferences.d/theirs.pref"
	f.write(theirs, "Package: tyk-pump\nPin: version 1.9.0\nPin-Priority: 500\n")
	pin := f.root.Dir + "/etc/apt/preferences.d/tykupgrade-tyk-gateway.pref"
	keeps := func(version string) {
		t.Helper()
		_, err := os.Stat(pin)
		if version == "" {
			if !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the pin is there: %v", err)
			}
			return
		}
		// What the next upgrade of the system would do.
		if out := f.raw("apt-cache", "policy", "tyk-gateway"); err != nil ||
			!strings.Contains(out, "Candidate: "+version+"\n") {
			t.Errorf("apt does not keep %s (%v):\n%s", version, err, out)
		}
	}
	plain, h := f.host(), f.host(func(o *debpkg.Options) { o.Pin = true })
	keeps("")
	c, err := h.Apply(t.Context(), roundTrip(t, f.plan(h, f.request("tyk-gateway", "5.2.5"))))
	if err != nil || c.Note != "" {
		t.Fatalf("%v, note %q", err, c.Note)
	}
	keeps("5.2.5")
	if err := plain.Revert(t.Context(), c, debpkg.RevertOptions{}); err != nil {
		t.Fatal(err)
	}
	keeps("4.0.8")
	// A version that does not arrive is not pinned.
	if _, err := plain.Apply(t.Context(), f.plan(plain, f.request("tyk-gateway", "6.1.0"))); err == nil {
		t.Error("6.1.0 was installed")
	}
	keeps("")
	// A pin that cannot be written is told.
	if err := os.MkdirAll(filepath.Join(pin, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	c, err = h.Apply(t.Context(), f.plan(h, f.request("tyk-gateway", "5.2.5")))
	if err != nil || !strings.Contains(c.Note, "cannot pin tyk-gateway to 5.2.5") {
		t.Errorf("%v, note %q", err, c.Note)
	}
	if err := errors.Join(os.RemoveAll(pin), os.WriteFile(pin, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	f.apply(plain, debpkg.Request{Package: "tyk-gateway", Remove: true})
	keeps("")
	if got := f.file(theirs); !strings.Contains(got, "500") {
		t.Errorf("the pin of others is %q", got)
	}
}
