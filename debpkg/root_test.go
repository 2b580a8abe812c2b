package debpkg_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/debs"
)

// fixture is a private root with a signed repository, where the real apt and
// dpkg work.
type fixture struct {
	*testing.T
	root  *debs.Root
	repo  *debs.Repo
	mu    sync.Mutex
	event []debpkg.Event
}

func newFixture(t *testing.T, packages ...debs.Package) *fixture {
	t.Helper()
	needApt(t)
	f := fixtureIn(t, t.TempDir(), packages...)
	t.Cleanup(func() {
		if err := f.repo.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func needApt(t *testing.T) {
	t.Helper()
	for prog, deb := range map[string]string{"apt-get": "apt", "apt-ftparchive": "apt-utils",
		"gpg": "gnupg", "dpkg-deb": "dpkg"} {
		lab.Program(t, prog, deb)
	}
}

func fixtureIn(t *testing.T, dir string, packages ...debs.Package) *fixture {
	t.Helper()
	f := &fixture{T: t}
	var err error
	if f.repo, err = debs.NewRepo(filepath.Join(dir, "repo")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.repo.Add(packages...); err != nil {
		t.Fatal(err)
	}
	if f.root, err = debs.NewRoot(filepath.Join(dir, "root"), f.repo); err != nil {
		t.Fatal(err)
	}
	f.update()
	return f
}

// usual is where many tests begin: tyk-gateway 4.0.8 with conf1 is installed, 5.2.5 with conf2 is
// offered. It is made once.
var usual struct {
	once sync.Once
	dir  string
	*fixture
}

// upgradable is a copy of the usual root. Its repository is that of all, and stays as it is.
func upgradable(t *testing.T) *fixture {
	t.Helper()
	needApt(t)
	usual.once.Do(func() {
		var err error
		if usual.dir, err = os.MkdirTemp("", "debpkg-root-"); err != nil {
			t.Fatal(err)
		}
		f := fixtureIn(t, usual.dir, gateway("4.0.8", debs.TykOptions{Config: conf1}), gateway("5.2.5",
			debs.TykOptions{Config: conf2}))
		f.install("tyk-gateway=4.0.8")
		f.fetched()
		usual.fixture = f
	})
	if usual.fixture == nil {
		t.Fatal("the usual root could not be made")
	}
	root, err := usual.root.Copy(filepath.Join(t.TempDir(), "root"))
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{T: t, root: root, repo: usual.repo}
}

// update makes apt know what the repository has now.
func (f *fixture) update() {
	f.Helper()
	if err := f.root.Update(); err != nil {
		f.Fatal(err)
	}
}

// fetched puts what the repository has into apt's cache, for tests that do not show how it gets
// there.
func (f *fixture) fetched() {
	f.Helper()
	if err := f.root.Fetched(); err != nil {
		f.Fatal(err)
	}
}

// notFetched takes the files whose names begin with prefix out of apt's cache again.
func (f *fixture) notFetched(prefix string) {
	f.Helper()
	list, err := filepath.Glob(filepath.Join(f.root.Dir, "var/cache/apt/archives", prefix+"*.deb"))
	if err != nil || len(list) == 0 {
		f.Fatalf("apt's cache has no %s: %v", prefix, err)
	}
	for _, file := range list {
		if err := os.Remove(file); err != nil {
			f.Fatal(err)
		}
	}
}

// host returns a host in the private root; change may alter its options.
func (f *fixture) host(change ...func(*debpkg.Options)) *debpkg.Host {
	o := debpkg.Options{Root: f.root.Dir, AptConfig: f.root.AptConfig, LockWait: 20 * time.Second,
		Events: func(e debpkg.Event) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.event = append(f.event, e)
		}}
	for _, c := range change {
		c(&o)
	}
	return debpkg.New(debpkg.Local(), o)
}

func (f *fixture) events() []debpkg.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.event)
}

// raw runs a command in the private root as an operator by hand would.
func (f *fixture) raw(argv ...string) string {
	f.Helper()
	out, err := f.try(argv...)
	if err != nil {
		f.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return out
}

func (f *fixture) try(argv ...string) (string, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "APT_CONFIG="+f.root.AptConfig, "LC_ALL=C",
		"DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (f *fixture) install(spec ...string) {
	f.Helper()
	f.raw(append([]string{"apt-get", "-q", "-y", "--allow-downgrades", "install"}, spec...)...)
}

func (f *fixture) file(path string) string {
	f.Helper()
	data, err := os.ReadFile(filepath.Join(f.root.Dir, path))
	if err != nil {
		f.Error(err)
	}
	return string(data)
}

// tree returns the files below /etc and /opt by path, apt's own aside.
func (f *fixture) tree() map[string]string {
	f.Helper()
	files := map[string]string{}
	for _, dir := range []string{"/etc", "/opt"} {
		if err := filepath.WalkDir(f.root.Dir+dir, func(path string, d fs.DirEntry, err error) error {
			name := strings.TrimPrefix(path, f.root.Dir)
			if err == nil && d.Type().IsRegular() && !strings.HasPrefix(name, "/etc/apt/") {
				files[name] = f.file(name)
			}
			return err
		}); err != nil {
			f.Fatal(err)
		}
	}
	return files
}

func (f *fixture) write(path, text string) {
	f.Helper()
	path = filepath.Join(f.root.Dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		f.Fatal(err)
	}
}

// want checks a package's version and dpkg's words for its state.
func (f *fixture) want(pkg, version, state string) {
	f.Helper()
	out, err := f.try("dpkg-query", "--admindir="+f.root.Dir+"/var/lib/dpkg", "-W", "-f",
		"${Version} ${db:Status-Want} ${db:Status-Status}", pkg)
	if version == "" {
		if err == nil && !strings.HasSuffix(out, "config-files") && !strings.HasSuffix(out,
			"not-installed") {
			f.Errorf("%s is there: %s", pkg, out)
		}
		return
	}
	if want := version + " " + state; err != nil || out != want {
		f.Errorf("%s is %q (%v), want %q", pkg, out, err, want)
	}
}

func version(t testing.TB, s string) debpkg.Version {
	t.Helper()
	v, err := debpkg.ParseVersion(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func gateway(v string, o debs.TykOptions) debs.Package { return debs.Tyk("tyk-gateway", v, o) }

func (f *fixture) request(pkg, v string) debpkg.Request {
	return debpkg.Request{Package: pkg, Version: version(f, v)}
}

func (f *fixture) plan(h *debpkg.Host, want ...debpkg.Request) debpkg.Plan {
	f.Helper()
	p, err := h.Plan(f.Context(), want...)
	if err != nil {
		f.Fatal(err)
	}
	return p
}

func (f *fixture) apply(h *debpkg.Host, want ...debpkg.Request) debpkg.Change {
	f.Helper()
	c, err := h.Apply(f.Context(), f.plan(h, want...))
	if err != nil {
		f.Fatal(err)
	}
	return c
}

// roundTrip sends a plan or change through JSON, as another machine would.
func roundTrip[T any](t testing.TB, in T) T {
	t.Helper()
	data, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out T
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(out)
	if err != nil || string(again) != string(data) {
		t.Fatalf("%T changes in JSON:\n%s\n%s", in, data, again)
	}
	return out
}

func wantError(t testing.TB, err error, kind error, texts ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("error %v, want %v", err, kind)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error lacks %q: %v", text, err)
		}
	}
	var hint interface {
		Hint() string
		Retryable() bool
	}
	if !errors.As(err, &hint) || hint.Hint() == "" {
		t.Errorf("error has no next step: %v", err)
	}
}

const (
	conf1 = "{\"listen_port\": 8080}\n"
	conf2 = "{\"listen_port\": 8080, \"new\": true}\n"
)

// Plan, apply and revert of the three components, with an edited conffile, an
// edited sample file, and a hold.
func TestUpgradeAndRevert(t *testing.T) {
	t.Parallel()
	f := newFixture(t,
		gateway("4.0.8", debs.TykOptions{Config: conf1}), gateway("5.2.5", debs.TykOptions{Config: conf2,
			Samples: map[string]string{"middleware/new.js": "shipped"}}),
		debs.Tyk("tyk-dashboard", "4.0.8", debs.TykOptions{Config: conf1}), debs.Tyk("tyk-dashboard",
			"5.2.5", debs.TykOptions{Config: conf2}),
		debs.Tyk("tyk-pump", "1.8.3", debs.TykOptions{}), debs.Tyk("tyk-pump", "1.9.0",
			debs.TykOptions{}))
	f.install("tyk-gateway=4.0.8", "tyk-dashboard=4.0.8", "tyk-pump=1.8.3")
	f.raw("apt-mark", "hold", "tyk-gateway")
	const edited = "{\"listen_port\": 9090}\n"
	f.write("/opt/tyk-gateway/tyk.conf", edited)
	f.write("/opt/tyk-gateway/policies/policies.json", "mine")
	f.write("/opt/tyk-gateway/middleware/new.js", "mine too")
	f.write("/etc/default/tyk-gateway", "X=1\n")
	then := f.tree()
	h := f.host()
	p := roundTrip(t, f.plan(h, f.request("tyk-dashboard", "5.2.5"), f.request("tyk-gateway", "5.2.5"),
		f.request("tyk-pump", "1.9.0")))
	if err := p.Refused(); err != nil {
		t.Fatal(err)
	}
	if len(p.Actions) != 3 || p.Empty() {
		t.Fatalf("actions %+v", p.Actions)
	}
	for _, a := range p.Actions {
		if a.Kind != debpkg.Upgrade || !a.Requested || a.SHA256 == "" || a.Size == 0 ||
			a.Rollback != "repository" || a.Held != (a.Package == "tyk-gateway") {
			t.Errorf("action %+v", a)
		}
	}
	outcomes := map[string]debpkg.Outcome{}
	for _, c := range p.Conffiles {
		outcomes[c.Path] = c.Outcome
	}
	if outcomes["/opt/tyk-gateway/tyk.conf"] != debpkg.OutcomeConflict ||
		outcomes["/opt/tyk-dashboard/tyk_analytics.conf"] != debpkg.OutcomeReplaced ||
		outcomes["/opt/tyk-pump/pump.conf"] != debpkg.OutcomeSame {
		t.Errorf("conffiles %v", outcomes)
	}
	if want := []debpkg.Overwrite{{Package: "tyk-gateway", Path: "/opt/tyk-gateway/middleware/new.js"},
		{Package: "tyk-gateway", Path: "/opt/tyk-gateway/policies/policies.json"}}; !slices.Equal(
		p.Overwrites, want) {
		t.Errorf("overwrites %v", p.Overwrites)
	}
	if len(p.Restarts) != 3 || p.Restarts[0].Assumed {
		t.Errorf("restarts %v", p.Restarts)
	}

	c, err := h.Apply(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	f.want("tyk-gateway", "5.2.5", "hold installed")
	f.want("tyk-dashboard", "5.2.5", "install installed")
	f.want("tyk-pump", "1.9.0", "install installed")
	if got := f.file("/opt/tyk-gateway/tyk.conf"); got != edited {
		t.Errorf("the edited conffile is %q", got)
	}
	if got := f.file("/opt/tyk-gateway/tyk.conf.dpkg-dist"); got != conf2 {
		t.Errorf("the new conffile is %q", got)
	}
	if got := f.file("/opt/tyk-dashboard/tyk_analytics.conf"); got != conf2 {
		t.Errorf("the unedited conffile is %q", got)
	}
	var install, download bool
	for _, e := range f.events() {
		install = install || e.Kind == debpkg.EventInstall && e.Package == "tyk-gateway" && e.Percent > 0
		download = download || e.Kind == debpkg.EventDownload
	}
	if !install || !download {
		t.Errorf("no progress in %v", f.events())
	}
	for _, dir := range []string{c.Dir, filepath.Dir(c.Dir)} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, info.Mode(), err)
		}
	}
	if left, err := filepath.Glob(c.Dir + ".*"); err != nil || left != nil {
		t.Errorf("left behind: %v, %v", left, err)
	}

	// The same plan again: the same change, and nothing runs.
	before := f.file("/var/log/apt/history.log")
	again, err := f.host().Apply(t.Context(), roundTrip(t, p))
	if err != nil || again.Dir != c.Dir || len(again.Saved) != 3 {
		t.Errorf("applied again: %+v, %v", again, err)
	}
	if f.file("/var/log/apt/history.log") != before {
		t.Error("applying again ran apt")
	}

	c = roundTrip(t, c)
	if err := h.Revert(t.Context(), c, debpkg.RevertOptions{Files: true}); err != nil {
		t.Fatal(err)
	}
	f.want("tyk-gateway", "4.0.8", "hold installed")
	f.want("tyk-dashboard", "4.0.8", "install installed")
	f.want("tyk-pump", "1.8.3", "install installed")
	if now := f.tree(); !maps.Equal(now, then) {
		t.Errorf("after the revert there is\n%q\nbefore there was\n%q", now, then)
	}
	if err := h.Revert(t.Context(), c, debpkg.RevertOptions{}); err != nil {
		t.Errorf("reverted again: %v", err)
	}
	if err := h.Forget(t.Context(), c); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", c.Dir, err)
	}
}
