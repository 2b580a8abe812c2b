package backup_test

import (
	"context"
	"fmt"
	"io"
	"testing"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/internal/lab"
)

// many is a source of n files of 100 bytes.
func many(n int) backup.Source {
	return plain{name: "many", backup: func(ctx context.Context, w *backup.Writer) error {
		for i := range n {
			_, err := w.Create(ctx, fmt.Sprintf("%02x/%d", i%256, i), nil, func(out io.Writer) error {
				_, err := fmt.Fprintf(out, "%100d", i)
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	}}
}

// BenchmarkTake takes a set of many small files: what each file costs apart from its content.
func BenchmarkTake(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			before := lab.CPU(b)
			for b.Loop() {
				if _, err := backup.Take(b.Context(), b.TempDir(), backup.Options{}, many(n)); err != nil {
					b.Fatal(err)
				}
			}
			lab.ReportCPU(b, lab.CPU(b)-before)
		})
	}
}

// BenchmarkPrune removes all but one of n sets.
func BenchmarkPrune(b *testing.B) {
	for _, n := range []int{10, 30, 100} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				dir := b.TempDir()
				for range n {
					if _, err := backup.Take(b.Context(), dir, backup.Options{}, text("a", "x")); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
				out, err := backup.Prune(b.Context(), dir, backup.Policy{Keep: 1})
				if err != nil || len(out.Removed) != n-1 {
					b.Fatalf("%+v %v", out, err)
				}
			}
		})
	}
}
