package rollout_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"example.com/tykupgrade/debpkg/rollout"
)

// What the engine and its journal cost for each target of three steps, with
// each record synced to disk, and how much is written.
func BenchmarkRun(b *testing.B) {
	do := func(context.Context) error { return nil }
	var steps []rollout.Step
	for _, name := range []string{"drain", "install", "ready"} {
		steps = append(steps, rollout.Step{Name: name, Do: do})
	}
	w := rollout.Wave{Name: "w", MaxUnavailable: rollout.CountOrPercent{Count: 50}}
	for i := range 1000 {
		w.Targets = append(w.Targets, rollout.Target{Name: fmt.Sprint("host-", i), Steps: steps})
	}
	for name, journal := range map[string]bool{"journal": true, "memory": false} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var o rollout.Options
				if journal {
					o.Journal = filepath.Join(b.TempDir(), "journal")
				}
				if _, err := rollout.Run(b.Context(), []rollout.Wave{w}, o); err != nil {
					b.Fatal(err)
				}
				if journal {
					info, err := os.Stat(o.Journal)
					if err != nil {
						b.Fatal(err)
					}
					b.ReportMetric(float64(info.Size())/1000, "B/target")
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/target")
		})
	}
}
