package rollout_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"example.com/tykupgrade/debpkg/rollout"
)

// wide is a wave of targets with steps that do nothing, so that the engine is what is measured.
func wide(targets int, steps ...string) []rollout.Wave {
	w := rollout.Wave{Name: "w", MaxUnavailable: rollout.CountOrPercent{Count: 50}}
	var all []rollout.Step
	for _, name := range steps {
		all = append(all, rollout.Step{Name: name, Do: func(context.Context) error { return nil }})
	}
	for i := range targets {
		w.Targets = append(w.Targets, rollout.Target{Name: fmt.Sprint("host-", i), Steps: all})
	}
	return []rollout.Wave{w}
}

// The journal on a disk, 50 targets at a time: one sync serves all records that wait for it.
func BenchmarkJournal(b *testing.B) {
	for _, n := range []int{100, 1000, 3000} {
		b.Run(fmt.Sprint("n=", n), func(b *testing.B) {
			b.ReportAllocs()
			waves := wide(n, "drain", "install", "ready")
			for b.Loop() {
				o := rollout.Options{Journal: filepath.Join(b.TempDir(), "journal")}
				if _, err := rollout.Run(b.Context(), waves, o); err != nil {
					b.Fatal(err)
				}
				info, err := os.Stat(o.Journal)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(info.Size())/float64(n), "B/target")
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(n), "us/target")
		})
	}
}

// A finished run is read again and its page is written, as resume and report do. MiB is the live
// heap with the report, and page-KiB the size of the page.
func BenchmarkResume(b *testing.B) {
	for _, n := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprint("n=", n), func(b *testing.B) {
			waves := wide(n, "drain", "install", "healthy", "ready")
			o := rollout.Options{Journal: filepath.Join(onMemory(b), "journal")}
			if _, err := rollout.Run(b.Context(), waves, o); err != nil {
				b.Fatal(err)
			}
			before := heap()
			b.ReportAllocs()
			for b.Loop() {
				rep, err := rollout.Resume(b.Context(), waves, o)
				if err != nil {
					b.Fatal(err)
				}
				after := heap()
				b.ReportMetric(float64(after-min(before, after))/(1<<20), "MiB")
				var page counter
				if err := rep.WriteHTML(&page); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(page)/1024, "page-KiB")
			}
		})
	}
}

// heap is what is alive.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// counter counts what is written.
type counter int

var _ io.Writer = (*counter)(nil)

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
