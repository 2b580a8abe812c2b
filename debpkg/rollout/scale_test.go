package rollout_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/internal/lab"
)

// onMemory is a directory without a disk where that can be had: for tests that write many journals.
func onMemory(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "rollout")
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// A fleet of 2,000 hosts is resumed in bounded memory for each host and record, and its page is
// one that a browser opens. [TestResumeOfManyTargets] measures the whole.
func TestLargeFleet(t *testing.T) {
	const targets = 2000
	waves := wide(targets, "drain", "install", "healthy", "ready")
	last := &waves[0].Targets[targets-1]
	steps := last.Steps
	last.Steps = []rollout.Step{{Name: "install", Do: func(context.Context) error {
		return errors.New("disk is full")
	}}}
	o := rollout.Options{Journal: filepath.Join(onMemory(t), "journal")}
	if rep, _ := rollout.Run(t.Context(), waves, o); rep.Count(rollout.StatusDone) != targets-1 {
		t.Fatal(rep.Outcome)
	}
	last.Steps = steps[1:2]
	journal, err := os.ReadFile(o.Journal)
	if err != nil {
		t.Fatal(err)
	}
	before := inUse()
	read, err := rollout.ReadReport(bytes.NewReader(journal))
	if err != nil {
		t.Fatal(err)
	}
	after := inUse()
	runtime.KeepAlive(read)
	kept := int64(after.HeapAlloc-before.HeapAlloc) / targets
	made := int64(after.TotalAlloc-before.TotalAlloc) / int64(bytes.Count(journal, []byte("\n")))
	t.Logf("the report keeps %d bytes a target; reading makes %d bytes a record", kept, made)
	if kept > 750 { // 100,000 targets: 75 MB
		t.Errorf("the report keeps %d bytes a target", kept)
	}
	if made > 1100 {
		t.Errorf("reading makes %d bytes of garbage and report for each record", made)
	}
	rep, err := rollout.Resume(t.Context(), waves, o)
	if err != nil {
		t.Fatal(err)
	}
	var page strings.Builder
	if err := rep.WriteHTML(&page); err != nil || page.Len() > 2<<20 ||
		!strings.Contains(page.String(), "1500 more done") {
		t.Errorf("the page has %d bytes, %v", page.Len(), err)
	}
	if err := rep.WriteText(io.Discard); err != nil {
		t.Error(err)
	}
}

// inUse is the memory of the test, after what is not in use was collected.
func inUse() runtime.MemStats {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m
}

// A process that reads the journal of 100,000 targets and resumes their run, as the commands do,
// never has 200 MiB. The race detector's own memory does not count.
func TestResumeOfManyTargets(t *testing.T) {
	if journal := os.Getenv("ROLLOUT_TEST_RESUME"); journal != "" {
		waves, o := wide(100_000, "drain", "install", "healthy", "ready"), rollout.Options{Journal: journal}
		if rep, err := rollout.History(journal); err != nil || !rep.Repeats(waves, o, true) {
			t.Fatal(err)
		}
		rep, err := rollout.Resume(t.Context(), waves, o)
		if err != nil || rep.Count(rollout.StatusDone) != 100_000 {
			t.Fatal(err)
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		runtime.KeepAlive(waves)
		fmt.Println("MIB", m.Sys>>20, "HEAP", m.HeapSys>>20)
		return
	}
	lab.Long(t) // TestLargeFleet bounds what a target and a record cost
	o := rollout.Options{Journal: filepath.Join(onMemory(t), "journal")}
	if _, err := rollout.Run(t.Context(), wide(100_000, "drain", "install", "healthy", "ready"),
		o); err != nil {
		t.Fatal(err)
	}
	cmd := again(t, "TestResumeOfManyTargets", "ROLLOUT_TEST_RESUME="+o.Journal)
	out, err := cmd.CombinedOutput()
	_, text, _ := strings.Cut(string(out), "MIB ")
	var mib int
	if _, serr := fmt.Sscan(text, &mib); err != nil || serr != nil || mib >= 200 {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("at most %d MiB", mib)
}
