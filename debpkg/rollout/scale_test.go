package rollout_test

import (
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
)

// peak is a writer that notes how large the heap was.
type peak struct {
	base, most uint64
	n          int
}

func (p *peak) look() {
	if p.n++; p.n%1000 == 0 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		p.most = max(p.most, m.HeapAlloc)
	}
}

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

// A fleet of 2,000 hosts is resumed in bounded memory, and its page is one that a browser
// opens.
func TestLargeFleet(t *testing.T) {
	const targets = 2000
	ok := func(context.Context) error { return nil }
	var steps []rollout.Step
	for _, name := range []string{"drain", "install", "healthy", "ready"} {
		steps = append(steps, rollout.Step{Name: name, Do: ok})
	}
	w := rollout.Wave{Name: "w", MaxUnavailable: rollout.CountOrPercent{Count: 200}}
	for i := range targets {
		s := steps
		if i == targets-1 {
			s = []rollout.Step{{Name: "install", Do: func(context.Context) error {
				return errors.New("disk is full")
			}}}
		}
		w.Targets = append(w.Targets, rollout.Target{Name: fmt.Sprint("host-", i), Steps: s})
	}
	o := rollout.Options{Journal: filepath.Join(onMemory(t), "journal")}
	if rep, _ := rollout.Run(t.Context(), []rollout.Wave{w},
		o); rep.Count(rollout.StatusDone) != targets-1 {
		t.Fatal(rep.Outcome)
	}
	w.Targets[targets-1].Steps = []rollout.Step{{Name: "install", Do: ok}}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	p := &peak{base: m.HeapAlloc}
	o.Progress = func(rollout.Record) { p.look() }
	f, err := os.Open(o.Journal)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	rep, err := rollout.Resume(t.Context(), []rollout.Wave{w}, o)
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&m)
	runtime.KeepAlive(rep)
	kept := (m.HeapAlloc - p.base) / targets
	t.Logf("the report keeps %d bytes a target; at most %d MiB during the resume", kept, p.most>>20)
	if kept > 1500 { // 100,000 targets: 150 MB
		t.Errorf("the report keeps %d bytes a target", kept)
	}
	if p.most > p.base+100<<20 {
		t.Errorf("up to %d MiB during the resume", p.most>>20)
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
