package debpkg_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab/debs"
)

// Each conffile's outcome in the plan is what the real dpkg then does, in both
// directions and with both choices.
func TestConffilesLikeDpkg(t *testing.T) {
	t.Parallel()
	for _, takeNew := range []bool{false, true} {
		t.Run(fmt.Sprintf("new=%t", takeNew), func(t *testing.T) {
			t.Parallel()
			const dir = "/etc/tyk-gateway/"
			pkg := func(v string, files map[string]string) debs.Package {
				p := gateway(v, debs.TykOptions{Config: conf1})
				for name, text := range files {
					p.Files[dir+name] = debs.File{Content: text}
					p.Conffiles = append(p.Conffiles, dir+name)
				}
				return p
			}
			old := pkg("4.0.8", map[string]string{"same": "1", "replaced": "1", "kept": "1", "conflict": "1",
				"converged": "1", "deleted": "1", "deleted-same": "1", "gone": "1", "ordinary": "1",
				"ordinary-same": "1", "leaving": "1", "leaving-same": "1"})
			next := pkg("5.2.5", map[string]string{"same": "1", "replaced": "2", "kept": "1",
				"conflict": "2", "converged": "2", "deleted": "2", "deleted-same": "1", "fresh": "2",
				"in-the-way": "2"})
			for _, name := range []string{"ordinary", "ordinary-same"} {
				next.Files[dir+name] = debs.File{Content: "2"}
			}
			next.Leaving = []string{dir + "leaving", dir + "leaving-same"}
			f := newFixture(t, old, next)
			f.install("tyk-gateway=4.0.8")
			for name, text := range map[string]string{"kept": "mine", "conflict": "mine", "converged": "2",
				"in-the-way": "mine", "ordinary": "mine", "leaving": "mine"} {
				f.write(dir+name, text)
			}
			for _, name := range []string{"deleted", "deleted-same"} {
				if err := os.Remove(f.root.Dir + dir + name); err != nil {
					t.Fatal(err)
				}
			}
			// What an earlier upgrade left, and what a person keeps there.
			f.write(dir+"conflict.dpkg-dist", "of an earlier upgrade")
			f.write(dir+"conflict.dpkg-old", "of an earlier upgrade too")
			f.write(dir+"kept.dpkg-old", "by hand")
			before := f.tree()
			h := f.host(func(o *debpkg.Options) { o.NewConffiles = takeNew })
			p := f.plan(h, f.request("tyk-gateway", "5.2.5"))
			want := map[string]debpkg.Outcome{"same": debpkg.OutcomeSame, "replaced": debpkg.OutcomeReplaced,
				"kept":      debpkg.OutcomeKept,
				"converged": debpkg.OutcomeSame, "deleted-same": debpkg.OutcomeDeleted,
				"gone": debpkg.OutcomeObsolete, "fresh": debpkg.OutcomeNew,
				"conflict": debpkg.OutcomeConflict, "in-the-way": debpkg.OutcomeConflict,
				"deleted":  debpkg.OutcomeDeleted,
				"ordinary": debpkg.OutcomeOverwritten, "ordinary-same": debpkg.OutcomeReplaced,
				"leaving": debpkg.OutcomeMoved, "leaving-same": debpkg.OutcomeRemoved}
			after := map[string]string{"same": "1", "replaced": "2", "kept": "mine", "converged": "2",
				"deleted-same": "", "fresh": "2", "conflict": "mine", "in-the-way": "mine", "deleted": "",
				"conflict.dpkg-dist": "2", "in-the-way.dpkg-dist": "2", "ordinary": "2", "ordinary-same": "2",
				"leaving": "", "leaving-same": "", "leaving.dpkg-old": "mine"}
			if takeNew {
				want["conflict"], want["in-the-way"], want["deleted"] = debpkg.OutcomeTaken,
					debpkg.OutcomeTaken, debpkg.OutcomeRestored
				after["conflict"], after["in-the-way"], after["deleted"] = "2", "2", "2"
				after["conflict.dpkg-old"], after["in-the-way.dpkg-old"] = "mine", "mine"
				delete(after, "conflict.dpkg-dist")
				delete(after, "in-the-way.dpkg-dist")
			}
			for _, c := range p.Conffiles {
				if name, ok := strings.CutPrefix(c.Path, dir); ok && c.Outcome != want[name] {
					t.Errorf("%s will be %q, want %q", name, c.Outcome, want[name])
				}
			}
			c, err := h.Apply(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			for name, text := range after {
				data, err := os.ReadFile(f.root.Dir + dir + name)
				if string(data) != text || (err != nil) != (text == "") {
					t.Errorf("dpkg made %q of %s, want %q (%v)", data, name, text, err)
				}
			}
			if err := h.Revert(t.Context(), c, debpkg.RevertOptions{Files: true}); err != nil {
				t.Fatal(err)
			}
			// Its absence would be taken for a decision at the next upgrade.
			before[dir+"fresh"] = "2"
			if got := f.tree(); !maps.Equal(got, before) {
				t.Errorf("after the revert there is\n%q\nbefore there was\n%q", got, before)
			}
			replaced, err := filepath.Glob(c.Dir + "/files-replaced.*")
			if err != nil || len(replaced) != 1 {
				t.Fatalf("%v, %v", replaced, err)
			}
			if list := f.raw("tar", "-tzf", replaced[0]); !takeNew && !strings.Contains(list,
				dir+"in-the-way.dpkg-dist\n") {
				t.Errorf("what was taken away is not kept:\n%s", list)
			}
			if _, err := h.Apply(t.Context(), f.plan(h, f.request("tyk-gateway", "5.2.5"))); err != nil ||
				f.file(dir+"fresh") != "2" {
				t.Errorf("applied again: %v", err)
			}
		})
	}
}

// Apply refuses when the host is no longer the one that was planned for.
func TestHostChanged(t *testing.T) {
	t.Parallel()
	f := newFixture(t, gateway("4.0.8", debs.TykOptions{Config: conf1}), gateway("5.2.5",
		debs.TykOptions{Config: conf2}), gateway("5.3.0", debs.TykOptions{Config: conf2}))
	f.install("tyk-gateway=4.0.8")
	h := f.host()
	p := f.plan(h, f.request("tyk-gateway", "5.2.5"))
	changed := func(text string) {
		t.Helper()
		_, err := h.Apply(t.Context(), p)
		wantError(t, err, debpkg.ErrChanged, text)
		if entries, err := os.ReadDir(filepath.Join(f.root.Dir, "var/lib/tykupgrade/runs")); err == nil &&
			len(entries) > 0 {
			t.Errorf("left behind: %v", entries)
		}
	}
	f.write("/opt/tyk-gateway/tyk.conf", "edited since")
	changed("/opt/tyk-gateway/tyk.conf was changed")
	f.write("/opt/tyk-gateway/tyk.conf", conf1)
	f.write("/opt/tyk-gateway/policies/policies.json", "edited since")
	changed("policies.json was changed")
	p = f.plan(h, f.request("tyk-gateway", "5.2.5"))
	f.raw("apt-mark", "hold", "tyk-gateway")
	changed("held=true")
	f.raw("apt-mark", "unhold", "tyk-gateway")
	// The publisher pushes another build of the same version.
	if _, err := f.repo.Add(gateway("5.2.5", debs.TykOptions{Config: conf2, Samples: map[string]string{
		"x": "new build"}})); err != nil {
		t.Fatal(err)
	}
	f.raw("apt-get", "-q", "update")
	changed("upgrade tyk-gateway 4.0.8 to 5.2.5")
	f.install("tyk-gateway=5.3.0")
	changed("is now downgrade tyk-gateway 5.3.0 to 5.2.5")
	// A plan that was tampered with, or is for another machine.
	p = f.plan(h, f.request("tyk-gateway", "5.2.5"))
	forged := p
	forged.Actions = slices.Clone(p.Actions)
	forged.Actions[0].To = version(t, "9")
	_, err := h.Apply(t.Context(), forged)
	wantError(t, err, debpkg.ErrRefused, "digest")
	f.write("/etc/machine-id", "0123\n")
	changed("the plan is for")
	if err := os.Remove(f.root.Dir + "/etc/machine-id"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Apply(t.Context(), p); err != nil {
		t.Error(err)
	}
	f.want("tyk-gateway", "5.2.5", "install installed")
}

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
		f.raw("apt-get", "-q", "update")
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
	// In the cache, it is taken from there.
	if out, err := exec.Command("cp", c.Saved[0].Path, f.root.Dir+"/var/cache/apt/archives/").
		CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if err := h.Revert(t.Context(), c, debpkg.RevertOptions{}); err != nil {
		t.Fatal(err)
	}
	if c = f.apply(h, f.request("tyk-gateway", "5.2.5")); c.Saved[0].From != "cache" {
		t.Errorf("saved %+v", c.Saved)
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

// Cancelling before dpkg starts, at every command of an Apply, leaves the host
// as it was and nothing behind.
func TestCancelEverywhere(t *testing.T) {
	t.Parallel()
	f := newFixture(t, gateway("4.0.8", debs.TykOptions{Config: conf1}), gateway("5.2.5",
		debs.TykOptions{Config: conf2}))
	f.install("tyk-gateway=4.0.8")
	p := f.plan(f.host(), f.request("tyk-gateway", "5.2.5"))
	cause := errors.New("enough")
	for n := int64(1); ; n++ {
		ctx, cancel := context.WithCancelCause(t.Context())
		var calls atomic.Int64
		started := false
		h := debpkg.New(func(c context.Context, argv []string, stdin io.Reader, stdout,
			stderr io.Writer) error {
			if calls.Add(1) == n {
				cancel(cause)
			}
			started = started || slices.ContainsFunc(argv, func(a string) bool {
				return strings.HasPrefix(a,
					"APT::Status-Fd")
			})
			return debpkg.Local()(c, argv, stdin, stdout, stderr)
		}, debpkg.Options{Root: f.root.Dir, AptConfig: f.root.AptConfig})
		_, err := h.Apply(ctx, p)
		cancel(nil)
		if err == nil {
			f.want("tyk-gateway", "5.2.5", "install installed")
			if n < 10 {
				t.Errorf("applied after %d commands", n)
			}
			return
		}
		if !errors.Is(err, context.Canceled) || !errors.Is(err, cause) || strings.Contains(err.Error(),
			"LC_ALL") {
			t.Errorf("cancelled at command %d: %v", n, err)
		}
		if started {
			f.want("tyk-gateway", "5.2.5", "install installed")
			return
		}
		f.want("tyk-gateway", "4.0.8", "install installed")
		if entries, err := os.ReadDir(filepath.Join(f.root.Dir, "var/lib/tykupgrade/runs")); err == nil &&
			len(entries) > 0 {
			t.Fatalf("cancelled at command %d: left behind %v", n, entries)
		}
	}
}

// Without fetching, what is not known is said to be assumed.
func TestNoFetch(t *testing.T) {
	t.Parallel()
	f := newFixture(t, gateway("4.0.8", debs.TykOptions{}), gateway("5.2.5", debs.TykOptions{}))
	f.install("tyk-gateway=4.0.8")
	h := f.host(func(o *debpkg.Options) { o.NoFetch = true })
	p := f.plan(h, f.request("tyk-gateway", "5.2.5"))
	if p.Fetched || p.Conffiles[0].Outcome != debpkg.OutcomeUnknown || len(p.Restarts) != 1 ||
		!p.Restarts[0].Assumed {
		t.Errorf("plan %+v", p)
	}
	// Applied by a host that would fetch: the plan says how it was made.
	if _, err := f.host().Apply(t.Context(), p); err != nil {
		t.Error(err)
	}
	p = f.plan(h, f.request("tyk-gateway", "5.2.5"))
	if !p.Empty() || !slices.Equal(p.Unchanged, []string{"tyk-gateway"}) ||
		!strings.Contains(p.String(), "Nothing to do") {
		t.Errorf("plan %s", p)
	}
	if c, err := h.Apply(t.Context(), p); err != nil || !c.Started.IsZero() {
		t.Errorf("%+v, %v", c, err)
	}
	if err := h.Revert(t.Context(), debpkg.Change{}, debpkg.RevertOptions{}); err != nil {
		t.Error(err)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for text, h := range map[string]*debpkg.Host{
		"no Runner":                           debpkg.New(nil, debpkg.Options{}),
		"option Root":                         debpkg.New(debpkg.Local(), debpkg.Options{Root: "x"}),
		"option StateDir":                     debpkg.New(debpkg.Local(), debpkg.Options{StateDir: "x"}),
		"duration in the options is negative": debpkg.New(debpkg.Local(), debpkg.Options{LockWait: -1}),
	} {
		if _, err := h.Facts(t.Context()); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzQuote(f *testing.F) {
	f.Add("echo", "a b", "'")
	f.Add("x=y", "", "\\'\"$`!\n")
	f.Add("-n", "~", "*?[a]{b,c}#")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		argv := []string{a, b, c}
		line, err := debpkg.Quote(append([]string{"printf", `%s\0`}, argv...))
		if err != nil {
			if !strings.ContainsRune(a+b+c, 0) {
				t.Errorf("%q: %v", argv, err)
			}
			return
		}
		out, err := exec.Command("sh", "-c", line).Output()
		if err != nil || string(out) != a+"\x00"+b+"\x00"+c+"\x00" {
			t.Errorf("%q became %q by %s (%v)", argv, out, line, err)
		}
		// As the command itself, a name is never taken for an assignment.
		if line, err := debpkg.Quote([]string{a}); err == nil && strings.Contains(a, "=") &&
			!strings.HasPrefix(line, "'") {
			t.Errorf("%q is %s", a, line)
		}
	})
}
