package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/tykupgrade/debpkg/rollout"
)

func TestJournalIsPrivateRedactedAndTellsTheSame(t *testing.T) {
	t.Parallel()
	f := newFleet()
	path := filepath.Join(t.TempDir(), "journal")
	f.fail["a upgrade"] = errors.New(`login with hunter2"x failed`)
	var events []rollout.Record
	rep, _ := rollout.Run(t.Context(), []rollout.Wave{f.wave("w", "a")}, rollout.Options{
		Journal: path, Secrets: []string{`hunter2"x`, ""},
		Progress: func(r rollout.Record) { events = append(events, r) }})
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), "hunter2") || !strings.Contains(string(data),
		"login with [redacted] failed") {
		t.Errorf("journal %s", data)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	recs, err := readFile(path)
	if err != nil || len(recs) != len(events) {
		t.Fatalf("%d records, %d events, %v", len(recs), len(events), err)
	}
	for _, r := range []*rollout.Report{rep, rollout.BuildReport(recs)} {
		want(t, "statuses", statuses(r), "a undone")
	}
	var texts []string
	for _, r := range []*rollout.Report{rep, rollout.BuildReport(recs)} {
		var b strings.Builder
		if err := r.WriteText(&b); err != nil {
			t.Fatal(err)
		}
		texts = append(texts, b.String())
	}
	want(t, "text of the journal's report", texts[1], texts[0])
	if _, err := os.Stat(path + ".lock"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the lock is left: %v", err)
	}
}

func TestJournalThatCannotBeWrittenBeginsNothing(t *testing.T) {
	t.Parallel()
	f := newFleet()
	waves := []rollout.Wave{f.wave("w", "a")}
	if _, err := rollout.Run(t.Context(), waves, rollout.Options{Journal: filepath.Join(t.TempDir(),
		"no", "journal")}); err == nil {
		t.Error("no error")
	}
	if _, err := rollout.Run(t.Context(), waves, rollout.Options{Journal: "/dev/full"}); err == nil {
		t.Error("no error")
	}
	want(t, "steps", f.said(), "")
}

func TestDamagedJournal(t *testing.T) {
	t.Parallel()
	f := newFleet()
	path := filepath.Join(t.TempDir(), "journal")
	waves := []rollout.Wave{f.wave("w", "a")}
	if _, err := rollout.Run(t.Context(), waves, rollout.Options{Journal: path}); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(whole), "\n")
	for name, data := range map[string]string{
		"a line is missing": strings.Join(slices.Concat(lines[:2], lines[3:]), ""),
		"not JSON":          strings.Join(lines[:2], "") + "x\n",
		"newer format":      strings.Replace(string(whole), `"v":2`, `"v":3`, 1),
		"not a journal":     "{}\n",
	} {
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := rollout.Resume(t.Context(), waves, rollout.Options{Journal: path})
		var je *rollout.Error
		if !errors.As(err, &je) || !errors.Is(err, rollout.ErrJournal) || je.Line == 0 ||
			!strings.Contains(err.Error(), path) || je.Hint() == "" {
			t.Errorf("%s: %v", name, err)
		}
		if now, _ := os.ReadFile(path); string(now) != data {
			t.Errorf("%s: the damaged file was changed", name)
		}
	}
}

func TestLock(t *testing.T) {
	t.Parallel()
	f := newFleet()
	path := filepath.Join(t.TempDir(), "journal")
	waves := []rollout.Wave{f.wave("w", "a")}
	f.hook = func(_ context.Context, what string) error {
		if what == "a upgrade" {
			_, err := rollout.Resume(t.Context(), waves, rollout.Options{Journal: path})
			var le *rollout.Error
			if !errors.As(err, &le) || le.Owner.PID != os.Getpid() || !strings.Contains(err.Error(),
				fmt.Sprint(os.Getpid())) {
				t.Errorf("error %v", err)
			}
		}
		return nil
	}
	if _, err := rollout.Run(t.Context(), waves, rollout.Options{Journal: path}); err != nil {
		t.Fatal(err)
	}
	host, _ := os.Hostname()
	// A dead process of this machine gives way, aloud; one of another does not.
	dead := fmt.Sprintf(`{"user":"u","host":%q,"pid":%d,"since":"2026-01-01T00:00:00Z","start":"1"}`,
		host, os.Getpid())
	if err := os.WriteFile(path+".lock", []byte(dead), 0o600); err != nil {
		t.Fatal(err)
	}
	rep, err := rollout.Resume(t.Context(), waves, rollout.Options{Journal: path})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(rep.Events, func(n rollout.Note) bool {
		return strings.Contains(n.Text,
			"took over the lock of u@")
	}) {
		t.Errorf("events %v", rep.Events)
	}
	for _, other := range []string{strings.Replace(dead, host, host+"-other", 1), "garbage"} {
		if err := os.WriteFile(path+".lock", []byte(other), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := rollout.Resume(t.Context(), waves, rollout.Options{Journal: path}); err == nil {
			t.Errorf("lock %q was ignored", other)
		}
	}
}
