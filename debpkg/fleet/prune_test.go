package fleet

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/debpkgtest"
	"example.com/tykupgrade/debpkg/rollout"
)

// Each machine is pruned once, a machine that is down stops nobody, and what a run in hand did
// stays, also if the run saved a plan and no more.
func TestPrune(t *testing.T) {
	t.Parallel()
	fakes := map[string]*debpkgtest.Host{"a": debpkgtest.New("a"), "b": debpkgtest.New("b")}
	to, err := debpkg.ParseVersion("5.2.5")
	if err != nil {
		t.Fatal(err)
	}
	inv := &Inventory{Hosts: []Host{{Name: "gw", Address: "a"}, {Name: "dashboard", Address: "a"},
		{Name: "down", Address: "c"}, {Name: "gw2", Address: "b"}}}
	inv.Connect = func(h Host) debpkg.Runner {
		if fake := fakes[h.Address]; fake != nil {
			return fake.Run
		}
		return func(context.Context, []string, io.Reader, io.Writer, io.Writer) error {
			return debpkg.ErrConnection
		}
	}
	journals := map[string]*rollout.Report{}
	runs := func(name string, steps func(rollout.Step) rollout.Step) {
		fake := fakes[name]
		fake.Offer(debpkgtest.Tyk("tyk-gateway", "5.2.5"), debpkgtest.Tyk("tyk-gateway", "4.0.8"))
		fake.Install(debpkgtest.Tyk("tyk-gateway", "4.0.8"))
		host := debpkg.New(fake.Run, debpkg.Options{Settle: time.Millisecond})
		step := steps(Package(host, debpkg.Request{Package: "tyk-gateway", Version: to}, PackageOptions{}))
		o := rollout.Options{Journal: filepath.Join(t.TempDir(), "journal")}
		_, _ = rollout.Run(t.Context(), []rollout.Wave{{Name: "w", Targets: []rollout.Target{{Name: name,
			Steps: []rollout.Step{step}}}}}, o)
		if journals[name], err = rollout.History(o.Journal); err != nil || journals[name] == nil {
			t.Fatal(err)
		}
	}
	runs("a", func(s rollout.Step) rollout.Step { return s })
	// The program that upgraded b was killed before it heard of the result.
	runs("b", func(s rollout.Step) rollout.Step {
		do := s.Do
		s.Retry, s.Undo = rollout.Retry{}, nil
		s.Do = func(ctx context.Context) error {
			if err := do(ctx); err != nil {
				return err
			}
			var r record
			_, err := rollout.Saved(ctx, &r)
			return errors.Join(err, rollout.Save(ctx, record{Plan: r.Plan}), errors.New("killed"))
		}
		return s
	})
	prune := func(dry bool, keep ...*rollout.Report) string {
		t.Helper()
		rows, err := inv.Prune(t.Context(), PruneOptions{Before: time.Now().Add(time.Hour), Keep: keep,
			DryRun: dry})
		if !errors.Is(err, debpkg.ErrConnection) || !strings.HasPrefix(err.Error(), "down: ") {
			t.Errorf("a machine that is down: %v", err)
		}
		var text []string
		for _, r := range rows {
			for _, c := range r.Changes {
				text = append(text, r.Host+" "+string(c.State))
			}
			if (r.Error != "") != (r.Host == "down") {
				t.Errorf("%s: %s", r.Host, r.Error)
			}
		}
		return strings.Join(text, ", ")
	}
	undone := *journals["a"]
	undone.Outcome = rollout.OutcomeUndone
	for _, c := range []struct {
		keep []*rollout.Report
		dry  bool
		want string
	}{
		{[]*rollout.Report{journals["a"], journals["b"], nil}, false, "gw in_use, gw2 in_use"},
		{nil, true, "gw forgotten, gw2 forgotten"},
		{[]*rollout.Report{&undone, journals["b"]}, false, "gw forgotten, gw2 in_use"},
		{nil, true, "gw2 forgotten"},
	} {
		if got := prune(c.dry, c.keep...); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
	if n := strings.Count(strings.Join(fakes["a"].Done(), " "), "forget"); n != 1 {
		t.Errorf("the machine of two hosts was asked to forget %d times", n)
	}
	broken := *journals["a"]
	broken.Targets = []rollout.TargetReport{{Name: "a", Steps: []rollout.StepReport{{Name: "install",
		Note: []byte(`{"Plan": 7}`)}}}}
	if _, err := inv.Prune(t.Context(), PruneOptions{Before: time.Now(),
		Keep: []*rollout.Report{&broken}}); err == nil || !strings.Contains(err.Error(), "check the journal") {
		t.Errorf("a damaged journal: %v", err)
	}
}
