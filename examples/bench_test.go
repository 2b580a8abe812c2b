package examples_test

import (
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// BenchmarkStartup starts each command for its version and its help. A start has to stay below
// 50 ms; cpu-ms is the time of all its threads.
func BenchmarkStartup(b *testing.B) {
	bin := b.TempDir()
	if out, err := exec.Command("go", "build", "-o", bin+"/", "./...").CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, out)
	}
	for _, name := range slices.Sorted(maps.Keys(calls)) {
		for _, flag := range []string{"-version", "-h"} {
			b.Run(name+"/"+flag[1:], func(b *testing.B) {
				var cpu time.Duration
				for b.Loop() {
					cmd := exec.CommandContext(b.Context(), filepath.Join(bin, name), flag)
					if err := cmd.Run(); err != nil {
						b.Fatal(err)
					}
					cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
				}
				b.ReportMetric(float64(cpu.Microseconds())/1000/float64(b.N), "cpu-ms/op")
			})
		}
	}
}
