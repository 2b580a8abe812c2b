package fleet

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/debpkgtest"
	"example.com/tykupgrade/debpkg/rollout"
)

// A program that is killed between saving the plan and apt's start leaves a plan that was
// never begun. Undoing it installs nothing.
func TestUndoNeverApplies(t *testing.T) {
	t.Parallel()
	fake := debpkgtest.New("gw1")
	fake.Offer(debpkgtest.Tyk("tyk-gateway", "5.2.5"), debpkgtest.Tyk("tyk-gateway", "4.0.8"))
	fake.Install(debpkgtest.Tyk("tyk-gateway", "4.0.8"))
	host := debpkg.New(fake.Run, debpkg.Options{Settle: time.Millisecond})
	to, err := debpkg.ParseVersion("5.2.5")
	if err != nil {
		t.Fatal(err)
	}
	step := Package(host, debpkg.Request{Package: "tyk-gateway", Version: to}, PackageOptions{})
	p := &pkg{host: host, want: debpkg.Request{Package: "tyk-gateway", Version: to}}
	install := step.Do
	killed := step
	killed.Retry = rollout.Retry{}
	killed.Undo = nil // the killed program undoes nothing
	killed.Do = func(ctx context.Context) error {
		return errors.Join(p.plan(ctx, &record{}), errors.New("killed"))
	}
	o := rollout.Options{Journal: filepath.Join(t.TempDir(), "journal")}
	waves := func(s rollout.Step) []rollout.Wave {
		return []rollout.Wave{{Name: "w", Targets: []rollout.Target{{Name: "gw1", Steps: []rollout.Step{
			s}}}}}
	}
	if _, err := rollout.Run(t.Context(), waves(killed), o); err == nil ||
		!strings.Contains(err.Error(), "killed") {
		t.Fatal(err)
	}
	reverted := false
	resumed := step
	resumed.Done = nil
	resumed.Do = func(ctx context.Context) error {
		var r record
		if ok, err := rollout.Saved(ctx, &r); !ok || err != nil || r.Plan == nil || r.Change != nil {
			return errors.Join(err, errors.New("the plan is not saved alone"))
		}
		reverted = true
		return step.Undo(ctx)
	}
	if _, err := rollout.Resume(t.Context(), waves(resumed), o); err != nil || !reverted {
		t.Fatal(err, reverted)
	}
	if done := strings.Join(fake.Done(), "\n"); strings.Contains(done, "5.2.5") ||
		!strings.HasPrefix(fake.State("tyk-gateway"), "4.0.8") {
		t.Errorf("state %s after\n%s", fake.State("tyk-gateway"), done)
	}
	// The same step installs and reverts.
	step.Do = install
	if _, err := rollout.Run(t.Context(), waves(step), rollout.Options{}); err != nil ||
		!strings.HasPrefix(fake.State("tyk-gateway"), "5.2.5") {
		t.Errorf("%v, state %s", err, fake.State("tyk-gateway"))
	}
}
