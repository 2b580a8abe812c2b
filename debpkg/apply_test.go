package debpkg_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab"
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
			f.fetched()
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
			if takeNew {
				return
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
	f.fetched()
	f.install("tyk-gateway=4.0.8")
	h := f.host()
	p := f.plan(h, f.request("tyk-gateway", "5.2.5"))
	changed := func(texts ...string) {
		t.Helper()
		_, err := h.Apply(t.Context(), p)
		wantError(t, err, debpkg.ErrChanged, texts...)
		if entries, err := os.ReadDir(filepath.Join(f.root.Dir, "var/lib/tykupgrade/runs")); err == nil &&
			len(entries) > 0 {
			t.Errorf("left behind: %v", entries)
		}
	}
	f.write("/opt/tyk-gateway/tyk.conf", "edited since")
	f.write("/opt/tyk-gateway/policies/policies.json", "edited since")
	f.raw("apt-mark", "hold", "tyk-gateway")
	changed("/opt/tyk-gateway/tyk.conf was changed", "policies.json was changed", "held=true")
	f.write("/opt/tyk-gateway/tyk.conf", conf1)
	f.raw("apt-mark", "unhold", "tyk-gateway")
	p = f.plan(h, f.request("tyk-gateway", "5.2.5"))
	// The publisher pushes another build of the same version.
	if _, err := f.repo.Add(gateway("5.2.5", debs.TykOptions{Config: conf2, Samples: map[string]string{
		"x": "new build"}})); err != nil {
		t.Fatal(err)
	}
	f.update()
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

// Cancelling before dpkg starts, at any command of an Apply, leaves the host as it
// was and nothing behind. make test-long cancels at each.
func TestCancelEverywhere(t *testing.T) {
	t.Parallel()
	f := upgradable(t)
	p := f.plan(f.host(), f.request("tyk-gateway", "5.2.5"))
	cause := errors.New("enough")
	step := int64(7)
	if os.Getenv(lab.LongEnv) != "" {
		step = 1
	}
	for n := int64(1); ; n += step {
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
	f := upgradable(t)
	h := f.host(func(o *debpkg.Options) { o.NoFetch = true })
	p := f.plan(h, f.request("tyk-gateway", "5.2.5"))
	if p.Fetched || p.Conffiles[0].Outcome != debpkg.OutcomeUnknown || len(p.Restarts) != 1 ||
		!p.Restarts[0].Assumed {
		t.Errorf("plan %+v", p)
	}
	// Applied by a host that would fetch: the plan records how it was made.
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
