package debpkg_test

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab/debs"
)

// Every row of the failure catalogue that a plan or an apply can meet, really
// produced.
func TestFailures(t *testing.T) {
	t.Parallel()
	f := newFixture(t,
		gateway("4.0.8", debs.TykOptions{Config: conf1}), gateway("5.2.5",
			debs.TykOptions{Config: conf2}),
		gateway("6.0.0", debs.TykOptions{Fields: []string{"Depends: libnothing (>= 2)"}}),
		gateway("6.1.0", debs.TykOptions{Postinst: "echo the configuration is wrong >&2; exit 7"}),
		gateway("6.2.0", debs.TykOptions{Fields: []string{"Conflicts: tyk-pump"}}),
		gateway("6.3.0", debs.TykOptions{Fields: []string{"Installed-Size: 99999999999"}}),
		debs.Tyk("tyk-gateway-ee", "5.7.0", debs.TykOptions{Fields: []string{"Conflicts: tyk-gateway",
			"Replaces: tyk-gateway"}}),
		debs.Tyk("tyk-pump", "1.8.3", debs.TykOptions{}), debs.Tyk("tyk-pump", "1.9.0",
			debs.TykOptions{Fields: []string{"Depends: tyk-dep (>= 2)"}}),
		debs.Package{Name: "tyk-dep", Version: "1"}, debs.Package{Name: "tyk-dep", Version: "2"},
	)
	f.fetched()
	f.install("tyk-gateway=4.0.8", "tyk-pump=1.8.3", "tyk-dep=1")
	h := f.host()
	ctx := t.Context()

	_, err := h.Plan(ctx, f.request("tyk-pump", "5.2.5"))
	wantError(t, err, debpkg.ErrNoVersion, "tyk-pump", "the sources offer 1.9.0, 1.8.3",
		"own version line")
	_, err = h.Plan(ctx, f.request("tyk-nix", "5.2.5"))
	wantError(t, err, debpkg.ErrNoPackage, "tyk-nix")
	_, err = h.Plan(ctx, f.request("tyk-gateway", "6.0.0"))
	wantError(t, err, debpkg.ErrDepends, "libnothing")
	for name, want := range map[string][]debpkg.Request{
		"nothing is requested": nil,
		"not a package name":   {{Package: "-o", Version: version(t, "1")}},
		"requested twice":      {f.request("tyk-pump", "1.9.0"), f.request("tyk-pump", "1.8.3")},
		"has no version":       {{Package: "tyk-pump"}},
		"takes no version":     {{Package: "tyk-pump", Version: version(t, "1"), Remove: true}},
		"absolute path":        {{Package: "tyk-pump", Deb: "x.deb"}},
	} {
		if _, err := h.Plan(ctx, want...); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v: %v", want, err)
		}
	}

	refused := func(text string, want ...debpkg.Request) {
		t.Helper()
		p := f.plan(h, want...)
		_, err := h.Apply(ctx, p)
		wantError(t, err, debpkg.ErrRefused, text)
		if !strings.Contains(p.String(), "REFUSED: ") {
			t.Errorf("the table hides the refusal:\n%s", p)
		}
	}
	refused("it would remove tyk-pump 1.8.3, which is not requested", f.request("tyk-gateway",
		"6.2.0"))
	refused("it would remove tyk-gateway 4.0.8", f.request("tyk-gateway-ee", "5.7.0"))
	refused("new files in", f.request("tyk-gateway", "6.3.0"))
	f.raw("apt-mark", "hold", "tyk-dep")
	_, err = h.Plan(ctx, f.request("tyk-pump", "1.9.0"))
	wantError(t, err, debpkg.ErrDepends, "Depends: tyk-dep (>= 2)", "tyk-dep is on hold")
	f.raw("apt-mark", "unhold", "tyk-dep")
	f.want("tyk-gateway", "4.0.8", "install installed")
	f.want("tyk-pump", "1.8.3", "install installed")

	// A dependency that comes along is named, and goes back with the rest. Its mark
	// survives the way there and back. So does a package whose removal is requested.
	f.raw("apt-mark", "auto", "tyk-dep")
	p := f.plan(h, f.request("tyk-pump", "1.9.0"), f.request("tyk-gateway-ee", "5.7.0"),
		debpkg.Request{Package: "tyk-gateway", Remove: true})
	if len(p.Actions) != 4 || !slices.ContainsFunc(p.Actions,
		func(a debpkg.Action) bool { return a.Package == "tyk-dep" && !a.Requested }) {
		t.Errorf("actions %+v", p.Actions)
	}
	c, err := h.Apply(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	f.want("tyk-dep", "2", "install installed")
	f.want("tyk-gateway", "", "")
	f.want("tyk-gateway-ee", "5.7.0", "install installed")
	if err := h.Revert(ctx, c, debpkg.RevertOptions{}); err != nil {
		t.Fatal(err)
	}
	f.want("tyk-dep", "1", "install installed")
	f.want("tyk-pump", "1.8.3", "install installed")
	f.want("tyk-gateway", "4.0.8", "install installed")
	f.want("tyk-gateway-ee", "", "")
	if auto := f.raw("apt-mark", "showauto"); strings.TrimSpace(auto) != "tyk-dep" {
		t.Errorf("automatic: %q", auto)
	}

	// postinst fails: the error has the script's words, later plans are
	// refused, a revert puts everything right.
	c, err = h.Apply(ctx, f.plan(h, f.request("tyk-gateway", "6.1.0")))
	wantError(t, err, debpkg.ErrScript, "exit status 7", "half-configured at 6.1.0")
	if !errors.Is(err, debpkg.ErrOutcome) {
		t.Errorf("%v is not an ErrOutcome", err)
	}
	var e *debpkg.Error
	if !errors.As(err, &e) || !strings.Contains(e.Output, "the configuration is wrong") {
		t.Errorf("the whole output is not there: %+v", e)
	}
	if c.ExitCode != 100 || c.Dir == "" {
		t.Errorf("change %+v", c)
	}
	f.want("tyk-gateway", "6.1.0", "install half-configured")
	refused("left tyk-gateway 6.1.0 half-configured", f.request("tyk-gateway", "5.2.5"))
	facts, err := h.Facts(ctx)
	if err != nil || len(facts.Broken) != 1 || facts.Broken[0].Name != "tyk-gateway" {
		t.Errorf("broken %+v, %v", facts.Broken, err)
	}
	wantError(t, h.Repair(ctx), debpkg.ErrScript, "exit status 7")
	if _, err := h.Apply(ctx, c.Plan); !errors.Is(err, debpkg.ErrScript) {
		t.Errorf("the same plan again: %v", err)
	}
	if err := h.Revert(ctx, roundTrip(t, c), debpkg.RevertOptions{}); err != nil {
		t.Fatal(err)
	}
	f.want("tyk-gateway", "4.0.8", "install installed")

	// A foreign package that is half-configured makes apt exit with 100, and
	// does not make ours failed.
	if _, err := f.repo.Add(debs.Package{Name: "foreign", Version: "1", Scripts: map[string]string{
		"postinst": "exit 1\n"}}); err != nil {
		t.Fatal(err)
	}
	if err := h.Update(ctx); err != nil {
		t.Fatal(err)
	}
	if out, err := f.try("apt-get", "-q", "-y", "install", "foreign"); err == nil {
		t.Fatalf("foreign was installed:\n%s", out)
	}
	p = f.plan(h, f.request("tyk-gateway", "5.2.5"))
	if !strings.Contains(p.String(), "foreign 1 half-configured") {
		t.Errorf("the plan hides the broken package:\n%s", p)
	}
	c, err = h.Apply(ctx, p)
	if err != nil || c.ExitCode != 100 || !strings.Contains(c.Note, "foreign") {
		t.Errorf("exit code %d, note %q, %v", c.ExitCode, c.Note, err)
	}
	f.want("tyk-gateway", "5.2.5", "install installed")
}

// The rows that our own flags prevent, and those of apt by hand: each output
// is real, and is told apart.
func TestCatalogue(t *testing.T) {
	t.Parallel()
	f := newFixture(t, gateway("4.0.8", debs.TykOptions{Config: conf1}), gateway("5.2.5",
		debs.TykOptions{Config: conf2}),
		gateway("6.0.0", debs.TykOptions{Fields: []string{"Depends: libnothing"}}), gateway("6.1.0",
			debs.TykOptions{Config: conf2, Postinst: "exit 7"}))
	f.install("tyk-gateway=5.2.5")
	fails := func(kind error, argv ...string) {
		t.Helper()
		out, err := f.try(argv...)
		if err == nil {
			t.Errorf("%v succeeded:\n%s", argv, out)
			return
		}
		if e := debpkg.Classify("test", "", out, err); !errors.Is(e, kind) || e.Next == "" ||
			!strings.Contains(e.Output, strings.TrimSpace(out)) {
			t.Errorf("%v is taken for %v:\n%s", argv, e.Kind, out)
		}
	}
	fails(debpkg.ErrDowngrade, "apt-get", "-y", "install", "tyk-gateway=4.0.8")
	fails(debpkg.ErrNoVersion, "apt-get", "-y", "install", "tyk-gateway=9")
	fails(debpkg.ErrNoPackage, "apt-get", "-y", "install", "nix")
	fails(debpkg.ErrDepends, "apt-get", "-y", "install", "tyk-gateway=6.0.0")
	fails(debpkg.ErrRemoval, "apt-get", "-y", "--no-remove", "install", "tyk-gateway-")
	f.raw("apt-mark", "hold", "tyk-gateway")
	fails(debpkg.ErrHeld, "apt-get", "-y", "--allow-downgrades", "install", "tyk-gateway=4.0.8")
	f.raw("apt-mark", "unhold", "tyk-gateway")
	f.install("tyk-gateway=4.0.8")
	f.write("/opt/tyk-gateway/tyk.conf", "edited")
	fails(debpkg.ErrConffile, "apt-get", "-y", "install", "tyk-gateway=5.2.5")
	f.want("tyk-gateway", "5.2.5", "install unpacked")
	// Repair answers the prompt.
	if err := f.host().Repair(t.Context()); err != nil {
		t.Error(err)
	}
	f.want("tyk-gateway", "5.2.5", "install installed")
	if got := f.file("/opt/tyk-gateway/tyk.conf"); got != "edited" {
		t.Errorf("conffile %q", got)
	}
	// The disk of a file: source is not mounted, or was filled again.
	gone := filepath.Join(f.repo.Dir, "tyk-gateway_6.1.0_"+debs.Arch()+".deb")
	if err := os.Rename(gone, gone+".away"); err != nil {
		t.Fatal(err)
	}
	_, err := f.host().Plan(t.Context(), f.request("tyk-gateway", "6.1.0"))
	wantError(t, err, debpkg.ErrNetwork, "File not found", "check that the source's directory is mounted")
	if err := os.Rename(gone+".away", gone); err != nil {
		t.Fatal(err)
	}
	fails(debpkg.ErrScript, "apt-get", "-y", "install", "tyk-gateway=6.1.0")
	f.write("/var/lib/dpkg/updates/0000", "Package: tyk-gateway\n")
	fails(debpkg.ErrInterrupted, "apt-get", "-y", "install", "tyk-gateway=5.2.5")
	if err := os.Remove(filepath.Join(f.root.Dir, "/var/lib/dpkg/updates/0000")); err != nil {
		t.Fatal(err)
	}
	e := debpkg.Classify("do it", "something\n", "E: never seen\n", nil)
	if !errors.Is(e, debpkg.ErrApt) || !strings.Contains(e.Error(),
		"do it: apt or dpkg failed: E: never seen; read the whole output") {
		t.Errorf("unknown output: %v", e)
	}
	if os.Geteuid() == 0 {
		if su, err := exec.LookPath("setpriv"); err == nil {
			if err := os.Chmod(f.root.Dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"-y", "install", "nix"}, {"update"}} {
				fails(debpkg.ErrNotRoot, append([]string{su, "--reuid=65534", "--clear-groups", "env",
					"APT_CONFIG=", "apt-get"}, args...)...)
			}
		}
	}
}

// update through a web server that fails in every way.
func TestUpdate(t *testing.T) {
	t.Parallel()
	f := newFixture(t, gateway("5.2.5", debs.TykOptions{}))
	files := http.FileServer(http.Dir(f.repo.Dir))
	var mode atomic.Value // how the server fails
	mode.Store("")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch broken := mode.Load(); {
		case broken == "gone":
			http.NotFound(w, r)
		case broken == "resized" && strings.HasSuffix(r.URL.Path, ".deb"):
			_, _ = w.Write([]byte("something else"))
		case broken == "gone deb" && strings.HasSuffix(r.URL.Path, ".deb"):
			http.NotFound(w, r)
		default:
			files.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	list := "/etc/apt/sources.list.d/tyk_tyk-gateway.list"
	withUser := strings.Replace(server.URL, "http://", "http://token-secret:@", 1)
	f.write("/etc/apt/sources.list.d/lab0.list", "")
	f.write(list, "# by hand\n"+f.repo.List(withUser+"/", f.repo.KeyFile))
	h := f.host()
	ctx := t.Context()
	if err := h.Update(ctx); err != nil {
		t.Fatal(err)
	}
	facts, err := h.Facts(ctx)
	if err != nil || len(facts.Sources) != 1 || !facts.Sources[0].Tyk() ||
		facts.Sources[0].Line != 2 || facts.Sources[0].SignedBy != f.repo.KeyFile ||
		!slices.Equal(facts.Sources[0].Serves, []string{"tyk-gateway"}) ||
		strings.Contains(facts.Sources[0].URIs[0], "secret") {
		t.Errorf("sources %+v, %v", facts.Sources, err)
	}

	expect := func(kind error, name string) {
		t.Helper()
		err := h.Update(ctx)
		wantError(t, err, kind, "tyk_tyk-gateway.list:2")
		var u *debpkg.UpdateError
		if !errors.As(err, &u) || len(u.Failures) != 1 || u.Retryable() != (kind == debpkg.ErrNetwork) {
			t.Errorf("%s: %#v", name, err)
		}
		if strings.Contains(err.Error(), "secret") || strings.Contains(u.Output, "secret") {
			t.Errorf("%s: the token is told: %v", name, err)
		}
	}
	mode.Store("gone")
	expect(debpkg.ErrNetwork, "404")
	mode.Store("")
	other, err := debs.NewForeignRepo(filepath.Join(t.TempDir(), "other"))
	if err != nil {
		t.Fatal(err)
	}
	f.write(list, "# by hand\n"+f.repo.List(withUser+"/", other.KeyFile))
	expect(debpkg.ErrSignature, "foreign key, with an older index")
	if err := os.RemoveAll(filepath.Join(f.root.Dir, "/var/lib/apt/lists")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(f.root.Dir, "/var/lib/apt/lists/partial"), 0o755); err != nil {
		t.Fatal(err)
	}
	expect(debpkg.ErrSignature, "foreign key, without an index")
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	// The key file itself is the cause.
	key := filepath.Join(t.TempDir(), "tyk.gpg")
	f.write(list, "# by hand\n"+f.repo.List(withUser+"/", key))
	wantError(t, h.Update(ctx), debpkg.ErrSignature, "the key file "+key+" does not exist")
	for text, content := range map[string]string{"is empty": "",
		"is an HTML page, not a key": "<!DOCTYPE html><html><body>Sign in</body></html>\n"} {
		if err := os.WriteFile(key, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		wantError(t, h.Update(ctx), debpkg.ErrSignature, "the key file "+key+" "+text)
	}
	// Somebody changes the index behind the signature's back.
	f.write(list, "# by hand\n"+f.repo.List(withUser+"/", f.repo.KeyFile))
	inRelease := filepath.Join(f.repo.Dir, "InRelease")
	good, err := os.ReadFile(inRelease)
	if err != nil {
		t.Fatal(err)
	}
	// Newer each time, or the web server answers "not modified".
	forged := time.Now().Add(time.Minute)
	if err := errors.Join(os.WriteFile(inRelease, bytes.Replace(good, []byte("Origin: Lab"),
		[]byte("Origin: Bad"), 1), 0o644),
		os.Chtimes(inRelease, forged, forged)); err != nil {
		t.Fatal(err)
	}
	expect(debpkg.ErrSignature, "forged")
	later := forged.Add(time.Minute)
	if err := errors.Join(os.WriteFile(inRelease, good, 0o644), os.Chtimes(inRelease, later,
		later)); err != nil {
		t.Fatal(err)
	}
	if err := h.Update(ctx); err != nil {
		t.Fatal(err)
	}

	// The index is fine, the package has changed or gone.
	for _, how := range []string{"resized", "gone deb"} {
		mode.Store(how)
		_, err = h.Plan(ctx, f.request("tyk-gateway", "5.2.5"))
		wantError(t, err, debpkg.ErrStale, "tyk-gateway", "update the package lists")
	}
	mode.Store("")
	p := f.plan(h, f.request("tyk-gateway", "5.2.5"))
	if len(p.Downloads) != 1 || p.DownloadSize() != p.Actions[0].Size ||
		strings.Contains(p.Downloads[0].URI, "secret") {
		t.Errorf("downloads %+v", p.Downloads)
	}
	if !strings.Contains(p.String(), "Downloaded already: ") {
		t.Errorf("plan %s", p)
	}
	// The plan fetched it, so that apply needs no network.
	server.Close()
	if _, err := h.Apply(ctx, p); err != nil {
		t.Error(err)
	}
	f.want("tyk-gateway", "5.2.5", "install installed")
	expect(debpkg.ErrNetwork, "network down")
}

func TestUnsignedSource(t *testing.T) {
	t.Parallel()
	f := newFixture(t, gateway("5.2.5", debs.TykOptions{}))
	for _, name := range []string{"InRelease", "Release", "Release.gpg"} {
		if err := os.RemoveAll(filepath.Join(f.repo.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Join(f.root.Dir, "/var/lib/apt/lists")); err != nil {
		t.Fatal(err)
	}
	if err := f.host().Update(t.Context()); err == nil {
		t.Error("an unsigned source was updated")
	}
	f.raw("apt-get", "-q", "update", "-o", "Acquire::AllowInsecureRepositories=1")
	_, err := f.host().Plan(t.Context(), f.request("tyk-gateway", "5.2.5"))
	wantError(t, err, debpkg.ErrUnauthenticated)
}
