package main

import (
	"bufio"
	"os"
	"testing"
	"time"

	"example.com/tykupgrade/internal/lab"
)

// BenchmarkRehearse is a whole rehearsal: cold with an empty cache of Go's, as the first one on a
// machine, and warm. first-line-ms is how long a user looks at nothing.
func BenchmarkRehearse(b *testing.B) {
	cache := b.TempDir()
	rehearse := func(b *testing.B, cache string) (first time.Duration) {
		cmd := newCommand(b)
		cmd.Env = append(cmd.Env, "GOCACHE="+cache)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if first == 0 {
				first = time.Since(began)
			}
		}
		if err := cmd.Wait(); err != nil {
			b.Fatal(err)
		}
		return first
	}
	run := func(name string, cache func(b *testing.B) string) {
		b.Run(name, func(b *testing.B) {
			var first, used time.Duration
			for b.Loop() {
				dir, before := cache(b), lab.CPU(b)
				first += rehearse(b, dir)
				used += lab.CPU(b) - before
			}
			lab.ReportCPU(b, used)
			b.ReportMetric(float64(first.Milliseconds())/float64(b.N), "first-line-ms")
		})
	}
	run("cold", func(b *testing.B) string { return b.TempDir() })
	rehearse(b, cache)
	run("warm", func(*testing.B) string { return cache })
}
