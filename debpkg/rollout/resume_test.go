package rollout_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/debpkg/rollout"
)

func TestResume(t *testing.T) {
	t.Parallel()
	f := newFleet()
	path := filepath.Join(t.TempDir(), "journal")
	waves := []rollout.Wave{f.wave("w", "a", "b", "c", "d")}
	f.fail["c ready"] = errors.New("boom")
	if _, err := rollout.Run(t.Context(), waves, rollout.Options{Journal: path}); err == nil {
		t.Fatal("no error")
	}
	if _, err := rollout.Run(t.Context(), waves, rollout.Options{Journal: path}); !errors.Is(err,
		rollout.ErrUnfinished) {
		t.Errorf("a second run on the journal: %v", err)
	}
	if _, err := rollout.Resume(t.Context(), waves[:1:1], rollout.Options{}); !errors.Is(err,
		rollout.ErrNoRun) {
		t.Errorf("resume without a journal: %v", err)
	}
	other := []rollout.Wave{f.wave("w", "a", "b", "c")}
	if _, err := rollout.Resume(t.Context(), other, rollout.Options{Journal: path}); !errors.Is(err,
		rollout.ErrPlanChanged) {
		t.Errorf("resume of other waves: %v", err)
	}
	// Somebody put b back meanwhile: the journal alone is not believed.
	f.at["b"], f.log = "old", nil
	delete(f.fail, "c ready")
	rep, err := rollout.Resume(t.Context(), waves, rollout.Options{Journal: path})
	if err != nil {
		t.Fatal(err)
	}
	want(t, "steps", f.said(), "b drain, b upgrade, b ready, c drain, c upgrade, c ready, d drain, "+
		"d upgrade, d ready")
	want(t, "statuses", statuses(rep), "a done, b done, c done, d done")
	f.log = nil
	if rep, err = rollout.Undo(t.Context(), waves, rollout.Options{Journal: path}); err != nil {
		t.Fatal(err)
	}
	if rep.Outcome != rollout.OutcomeUndone || len(rep.Who) != 3 {
		t.Errorf("outcome %q by %v", rep.Outcome, rep.Who)
	}
	want(t, "steps", f.said(), "d undo ready, d undo upgrade, d undo drain, c undo ready, c undo "+
		"upgrade, c undo drain, b undo ready, b undo upgrade, b undo drain, a undo ready, a undo "+
		"upgrade, a undo drain")
	for host, version := range f.at {
		if version != "old" {
			t.Errorf("%s is at %s", host, version)
		}
	}
	// Nothing is left to undo.
	f.log = nil
	if _, err := rollout.Undo(t.Context(), waves, rollout.Options{Journal: path}); err != nil ||
		f.said() != "" {
		t.Errorf("second undo: %v, %s", err, f.said())
	}
}

func TestUndoStopsAtATargetThatIsStuck(t *testing.T) {
	t.Parallel()
	f := newFleet()
	path := filepath.Join(t.TempDir(), "journal")
	waves := []rollout.Wave{f.wave("w", "a", "b", "c")}
	if _, err := rollout.Run(t.Context(), waves, rollout.Options{Journal: path}); err != nil {
		t.Fatal(err)
	}
	f.fail["b undo upgrade"] = errors.New("no such version")
	rep, err := rollout.Undo(t.Context(), waves, rollout.Options{Journal: path})
	var e *rollout.Error
	if !errors.As(err, &e) || e.Outcome != rollout.OutcomeNotRestored {
		t.Fatalf("error %v", err)
	}
	want(t, "statuses", statuses(rep), "a done, b not_restored, c undone")
	delete(f.fail, "b undo upgrade")
	if rep, err = rollout.Undo(t.Context(), waves, rollout.Options{Journal: path}); err != nil {
		t.Fatal(err)
	}
	want(t, "statuses", statuses(rep), "a undone, b undone, c undone")
}

// Cut after every byte, a journal still resumes to a finished run in which
// every change is known.
func TestResumeFromEveryPrefix(t *testing.T) {
	t.Parallel()
	f := newFleet()
	dir := t.TempDir()
	path := filepath.Join(dir, "journal")
	waves := []rollout.Wave{f.wave("w", "a", "b")}
	if _, err := rollout.Run(t.Context(), waves, rollout.Options{Journal: path}); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := 1; cut < len(whole); cut += 37 {
		cutPath := filepath.Join(dir, "cut")
		if err := os.WriteFile(cutPath, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		rep, err := rollout.Resume(t.Context(), waves, rollout.Options{Journal: cutPath})
		if errors.Is(err, rollout.ErrNoRun) && !strings.Contains(string(whole[:cut]), "\n") {
			continue
		}
		if err != nil || rep.Count(rollout.StatusDone) != 2 {
			t.Fatalf("cut at %d of %d: %v", cut, len(whole), err)
		}
		recs, err := readFile(cutPath)
		if err != nil || len(recs) == 0 {
			t.Fatalf("cut at %d: the resumed journal cannot be read: %v", cut, err)
		}
	}
}

func readFile(path string) ([]rollout.Record, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return rollout.ReadJournal(file)
}
