package rollout_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
)

// cutAfter leaves of a journal what a crash leaves that comes right after the
// first record holding all of the texts.
func cutAfter(t *testing.T, path string, texts ...string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	size := 0
lines:
	for line := range strings.Lines(string(data)) {
		size += len(line)
		for _, text := range texts {
			if !strings.Contains(line, text) {
				continue lines
			}
		}
		if err := os.Truncate(path, int64(size)); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("no record holds %q:\n%s", texts, data)
}

// A crash while the canary soaks does not make it proved; one after does.
func TestCanarySoaksAgainAfterACrash(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		crash []string
		soaks int
	}{
		{[]string{`"kind":"soak"`}, 1},
		{[]string{`"kind":"soak"`, `"ok":true`}, 0},
		{[]string{`"kind":"target"`, `"target":"b"`}, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet()
			path := filepath.Join(t.TempDir(), "journal")
			soaks := 0
			w := f.wave("w", "a", "b")
			w.Canary = rollout.Canary{Count: 1, Soak: time.Hour, Watch: func(context.Context) error {
				soaks++
				return nil
			}}
			if _, err := rollout.Run(t.Context(), []rollout.Wave{w},
				rollout.Options{Journal: path}); err != nil {
				t.Fatal(err)
			}
			cutAfter(t, path, c.crash...)
			soaks = 0
			if _, err := rollout.Resume(t.Context(), []rollout.Wave{w},
				rollout.Options{Journal: path}); err != nil {
				t.Fatal(err)
			}
			if soaks != c.soaks {
				t.Errorf("after a crash at %q: soaked %d times, want %d", c.crash, soaks, c.soaks)
			}
		})
	}
	// A canary that has to be done again soaks again.
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		path := filepath.Join(t.TempDir(), "journal")
		soaks := 0
		w := f.wave("w", "a", "b")
		// more than there are
		w.Canary = rollout.Canary{Count: 5, Soak: time.Hour, Watch: func(context.Context) error {
			soaks++
			return nil
		}}
		if _, err := rollout.Run(t.Context(), []rollout.Wave{w},
			rollout.Options{Journal: path}); err != nil {
			t.Fatal(err)
		}
		f.at["a"] = "old"
		if _, err := rollout.Resume(t.Context(), []rollout.Wave{w},
			rollout.Options{Journal: path}); err != nil || soaks != 2 {
			t.Errorf("soaked %d times, error %v", soaks, err)
		}
	})
}

// plain is a host whose steps have no Done: only the journal knows.
func (f *fleet) plain(name string) rollout.Target {
	t := f.host(name)
	for i := range t.Steps {
		t.Steps[i].Done = nil
	}
	return t
}

// A crash in the middle of an undo leaves a target that is not done.
func TestCrashDuringUndo(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"resume", "undo"} {
		f := newFleet()
		path := filepath.Join(t.TempDir(), "journal")
		waves := []rollout.Wave{{Name: "w", Targets: []rollout.Target{f.plain("a"), f.plain("b")}}}
		o := rollout.Options{Journal: path}
		if _, err := rollout.Run(t.Context(), waves, o); err != nil {
			t.Fatal(err)
		}
		if _, err := rollout.Undo(t.Context(), waves, o); err != nil {
			t.Fatal(err)
		}
		cutAfter(t, path, `"kind":"step"`, `"target":"b"`, `"step":"ready"`, `"undo":true`)
		f.log = nil
		if verb == "undo" {
			if _, err := rollout.Undo(t.Context(), waves, o); err != nil {
				t.Fatal(err)
			}
			want(t, verb, f.said(), "b undo upgrade, b undo drain, a undo ready, a undo upgrade, "+
				"a undo drain")
			continue
		}
		if _, err := rollout.Resume(t.Context(), waves, o); err != nil {
			t.Fatal(err)
		}
		want(t, verb, f.said(), "b drain, b upgrade, b ready")
	}
}

// What a crash left under way may be out of service, so it is brought to an end
// before another target is begun, on the way there and back.
func TestUnderWayComesFirst(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"resume", "undo"} {
		f := newFleet()
		path := filepath.Join(t.TempDir(), "journal")
		waves := []rollout.Wave{f.wave("w", "a", "b", "c")}
		o := rollout.Options{Journal: path}
		f.fail["b drain"] = errors.New("boom")
		o.Budget = rollout.CountOrPercent{Count: 1}
		if _, err := rollout.Run(t.Context(), waves, o); err == nil {
			t.Fatal("no error")
		}
		delete(f.fail, "b drain")
		if _, err := rollout.Resume(t.Context(), waves, o); err != nil {
			t.Fatal(err)
		}
		cutAfter(t, path, `"kind":"start"`, `"target":"b"`, `"step":"ready"`)
		f.log = nil
		if verb == "undo" {
			if _, err := rollout.Undo(t.Context(), waves, o); err != nil {
				t.Fatal(err)
			}
			want(t, verb, f.said(), "b undo ready, b undo upgrade, b undo drain, c undo ready, c undo "+
				"upgrade, c undo drain, a undo ready, a undo upgrade, a undo drain")
			continue
		}
		f.at["a"] = "old" // somebody put it back
		if _, err := rollout.Resume(t.Context(), waves, o); err != nil {
			t.Fatal(err)
		}
		want(t, verb, f.said(), "b drain, b ready, a drain, a upgrade, a ready")
	}
}

// The Check of a done target is asked again.
func TestResumeAsksChecks(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal")
	did, sick := 0, false
	waves := one(rollout.Step{Name: "healthy", Do: func(context.Context) error {
		did++
		sick = false
		return nil
	}, Check: func(context.Context) error {
		if sick {
			return errors.New("sick")
		}
		return nil
	}})
	for i, verb := range []func(context.Context, []rollout.Wave, rollout.Options) (*rollout.Report,
		error){rollout.Run, rollout.Resume, rollout.Resume} {
		sick = i == 2
		if _, err := verb(t.Context(), waves, rollout.Options{Journal: path}); err != nil {
			t.Fatal(err)
		}
		if want := []int{1, 1, 2}[i]; did != want {
			t.Errorf("call %d: Do ran %d times, want %d", i, did, want)
		}
	}
}

func TestStopDuringUndo(t *testing.T) {
	t.Parallel()
	f := newFleet()
	path := filepath.Join(t.TempDir(), "journal")
	waves := []rollout.Wave{f.wave("w", "a", "b", "c")}
	if _, err := rollout.Run(t.Context(), waves, rollout.Options{Journal: path}); err != nil {
		t.Fatal(err)
	}
	var c rollout.Control
	f.hook = func(_ context.Context, what string) error {
		if what == "c undo upgrade" {
			c.Stop()
		}
		return nil
	}
	rep, err := rollout.Undo(t.Context(), waves, rollout.Options{Journal: path, Control: &c})
	if !errors.Is(err, rollout.ErrStopped) || rep.Outcome != rollout.OutcomeStopped {
		t.Errorf("outcome %q, error %v", rep.Outcome, err)
	}
	want(t, "statuses", statuses(rep), "a done, b done, c undone")
	ctx, cancel := context.WithCancelCause(t.Context())
	f.hook = func(ctx context.Context, what string) error {
		if what == "b undo upgrade" {
			cancel(errors.New("enough"))
		}
		return ctx.Err() // an undo that has begun goes on
	}
	rep, err = rollout.Undo(ctx, waves, rollout.Options{Journal: path})
	if !errors.Is(err, context.Canceled) || !strings.Contains(rep.Halt, "enough") {
		t.Errorf("halt %q, error %v", rep.Halt, err)
	}
	want(t, "statuses", statuses(rep), "a done, b undone, c undone")
}

// A run that undoes itself does so though its context has ended, but Stop ends it.
func TestUndoRunAfterTheContextEnded(t *testing.T) {
	t.Parallel()
	for _, stop := range []bool{false, true} {
		f := newFleet()
		ctx, cancel := context.WithCancel(t.Context())
		var c rollout.Control
		f.fail["c upgrade"] = errors.New("boom")
		f.hook = func(_ context.Context, what string) error {
			if what == "b undo upgrade" {
				cancel()
				if stop {
					c.Stop()
				}
			}
			return nil
		}
		rep, err := rollout.Run(ctx, []rollout.Wave{f.wave("w", "a", "b", "c")},
			rollout.Options{OnBudgetExceeded: rollout.Rollback, Control: &c})
		if err == nil {
			t.Fatal("no error")
		}
		want(t, "statuses", statuses(rep), map[bool]string{false: "a undone, b undone, c undone",
			true: "a done, b undone, c undone"}[stop])
		cancel()
	}
}

// A soak ends at once when the run is stopped, and is not taken as proof.
func TestStopDuringSoak(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		var c rollout.Control
		w := f.wave("w", "a", "b")
		w.Canary = rollout.Canary{Count: 1, Soak: time.Hour, Watch: func(ctx context.Context) error {
			time.AfterFunc(time.Minute, c.Stop)
			<-ctx.Done()
			return ctx.Err()
		}}
		start := time.Now()
		rep, err := rollout.Run(t.Context(), []rollout.Wave{w}, rollout.Options{Control: &c})
		if !errors.Is(err, rollout.ErrStopped) || time.Since(start) != time.Minute {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		want(t, "statuses", statuses(rep), "a done, b pending")
	})
}

// Of several canaries the one that cannot be undone keeps the others in service.
func TestSoakStopsAtACanaryThatIsStuck(t *testing.T) {
	t.Parallel()
	f := newFleet()
	f.fail["a undo upgrade"] = errors.New("no such version")
	w := f.wave("w", "a", "b", "c")
	w.Canary = rollout.Canary{Count: 2, Watch: func(context.Context) error {
		return errors.New(
			"went bad")
	}}
	rep, err := rollout.Run(t.Context(), []rollout.Wave{w}, rollout.Options{})
	if err == nil || rep.Outcome != rollout.OutcomeNotRestored {
		t.Errorf("outcome %q, error %v", rep.Outcome, err)
	}
	want(t, "statuses", statuses(rep), "a not_restored, b done, c pending")
}

func TestAboutBelongsToThePlan(t *testing.T) {
	t.Parallel()
	f := newFleet()
	path := filepath.Join(t.TempDir(), "journal")
	waves := []rollout.Wave{f.wave("w", "a")}
	if _, err := rollout.Run(t.Context(), waves, rollout.Options{Journal: path,
		About: "5.2.5"}); err != nil {
		t.Fatal(err)
	}
	if _, err := rollout.Resume(t.Context(), waves, rollout.Options{Journal: path,
		About: "5.3.0"}); !errors.Is(err, rollout.ErrPlanChanged) {
		t.Errorf("error %v", err)
	}
	if _, err := rollout.Resume(t.Context(), waves, rollout.Options{Journal: path,
		About: "5.2.5"}); err != nil {
		t.Error(err)
	}
}

// A note that is too large is refused before the change, and is only that
// target's failure; a text that is too long is cut.
func TestLargeRecords(t *testing.T) {
	t.Parallel()
	f := newFleet()
	path := filepath.Join(t.TempDir(), "journal")
	changed := false
	large := rollout.Target{Name: "large", Steps: []rollout.Step{{Name: "s",
		Do: func(ctx context.Context) error {
			if err := rollout.Save(ctx, strings.Repeat("x", 2<<20)); err != nil {
				return err
			}
			changed = true
			return nil
		}}}}
	talks := rollout.Target{Name: "talks", Steps: []rollout.Step{{Name: "s",
		Do: func(context.Context) error {
			return errors.New("begin " + strings.Repeat("x", 30<<20) + " end")
		}}}}
	waves := []rollout.Wave{{Name: "w", Targets: []rollout.Target{large, talks, f.host("a")}}}
	rep, err := rollout.Run(t.Context(), waves, rollout.Options{Journal: path,
		Budget: rollout.CountOrPercent{Count: 2}})
	var e *rollout.Error
	if !errors.As(err, &e) || !strings.Contains(e.Targets["large"], "over the limit") || changed {
		t.Errorf("changed %t, error %.300v", changed, err)
	}
	want(t, "statuses", statuses(rep), "large undone, talks undone, a done")
	recs, err := readFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := rollout.BuildReport(recs).Targets[1].Error
	if len(text) > 70<<10 || !strings.Contains(text, "begin") || !strings.HasSuffix(text, "end") {
		t.Errorf("%d bytes", len(text))
	}
	if _, err := rollout.Run(t.Context(), []rollout.Wave{f.wave("w", strings.Repeat("n", 1000))},
		rollout.Options{}); err == nil {
		t.Error("a name of 1000 bytes was accepted")
	}
}

// Redaction of what a step saves keeps it JSON, numbers included.
func TestRedactedNotes(t *testing.T) {
	t.Parallel()
	type note struct {
		Port int
		Deep map[string][]string
	}
	path := filepath.Join(t.TempDir(), "journal")
	step := rollout.Step{Name: "s", Do: func(ctx context.Context) error {
		if err := rollout.Save(ctx, note{5432, map[string][]string{"k": {"pw=5432",
			`p@ss"w/rd`}}}); err != nil {
			return err
		}
		var n note
		if ok, err := rollout.Saved(ctx, &n); !ok || err != nil || n.Port != 5432 ||
			n.Deep["k"][0] != "pw=[redacted]" || n.Deep["k"][1] != "[redacted]" {
			t.Errorf("%+v, %v", n, err)
		}
		return errors.New(`dial redis://:p%40ss%22w%2Frd@h: "p@ss\"w/rd"`)
	}}
	rep, err := rollout.Run(t.Context(), one(step), rollout.Options{Journal: path, Secrets: []string{
		"5432", `p@ss"w/rd`}})
	if err == nil {
		t.Fatal("no error")
	}
	data, _ := os.ReadFile(path)
	all, _ := json.Marshal(rep)
	for _, text := range []string{string(data), string(all), err.Error()} {
		if strings.Contains(text, "p@ss") || strings.Contains(text, "p%40ss") {
			t.Errorf("a secret is in %s", text)
		}
	}
}

// A journal that fails in the middle begins nothing more, and takes back what
// was under way; the journal that is left resumes.
func TestJournalFailsInTheMiddle(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err) // no such device outside Linux
	}
	defer func() { _ = full.Close() }()
	f := newFleet()
	path := filepath.Join(t.TempDir(), "journal")
	waves := []rollout.Wave{f.wave("w", "a", "b", "c")}
	f.hook = func(_ context.Context, what string) error {
		if what == "b drain" {
			return redirect(path, full)
		}
		return nil
	}
	rep, err := rollout.Run(t.Context(), waves, rollout.Options{Journal: path,
		Budget: rollout.CountOrPercent{Count: 3}})
	if !errors.Is(err, syscall.ENOSPC) || rep.Outcome != rollout.OutcomeStopped {
		t.Errorf("outcome %q, error %v", rep.Outcome, err)
	}
	want(t, "steps", f.said(), "a drain, a upgrade, a ready, b drain, b undo drain")
	want(t, "statuses", statuses(rep), "a done, b undone, c pending")
	f.hook, f.log = nil, nil
	rep, err = rollout.Resume(t.Context(), waves, rollout.Options{Journal: path})
	if err != nil {
		t.Fatal(err)
	}
	want(t, "statuses", statuses(rep), "a done, b done, c done")
	want(t, "steps", f.said(), "b drain, b upgrade, b ready, c drain, c upgrade, c ready")
}

// redirect puts another file behind this process's descriptor of path.
func redirect(path string, to *os.File) error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if at, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && at == path {
			var fd int
			if _, err := fmt.Sscan(e.Name(), &fd); err != nil {
				return err
			}
			return syscall.Dup3(int(to.Fd()), fd, syscall.O_CLOEXEC)
		}
	}
	return fmt.Errorf("%s is not open", path)
}

// A lock that a living process holds is not taken over, whatever its process
// number says: containers may share a host name but not their processes.
func TestLockOfALivingProcessElsewhere(t *testing.T) {
	t.Parallel()
	f := newFleet()
	path := filepath.Join(t.TempDir(), "journal")
	host, _ := os.Hostname()
	file, err := os.Create(path + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(file,
		`{"user":"u","host":%q,"pid":%d,"since":"2026-01-01T00:00:00Z","start":"1"}`, host,
		os.Getpid()); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	waves := []rollout.Wave{f.wave("w", "a")}
	var le *rollout.Error
	if _, err := rollout.Run(t.Context(), waves, rollout.Options{Journal: path}); !errors.As(err,
		&le) || f.said() != "" {
		t.Errorf("error %v, did %s", err, f.said())
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := rollout.Run(t.Context(), waves, rollout.Options{Journal: path}); err != nil {
		t.Error(err)
	}
}

// hung is a load balancer that does not answer.
type hung struct{ *lb }

func (hung) State(ctx context.Context, _ string) (rollout.State, error) {
	<-ctx.Done()
	return rollout.State{}, ctx.Err()
}

func TestWaitEndsThoughAReadingHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		err := rollout.WaitUp(t.Context(), hung{}, "s", rollout.UpOptions{Deadline: time.Minute})
		if be := (*rollout.Error)(nil); !errors.As(err, &be) || be.Err == nil ||
			time.Since(start) != 65*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}
