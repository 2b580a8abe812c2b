package hostfiles_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/hostfiles"
	"example.com/tykupgrade/internal/lab"
)

// manyFiles makes n files of 200 bytes, 100 in a directory.
func manyFiles(b *testing.B, root string, n int, text string) {
	b.Helper()
	for i := range n {
		dir := filepath.Join(root, "opt/tyk-gateway/apps", fmt.Sprint("d", i/100))
		if i%100 == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				b.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("f", i, ".json")), fmt.Appendf(nil, "%200s",
			text), 0o640); err != nil {
			b.Fatal(err)
		}
	}
}

var benchPaths = []string{"/opt/tyk-gateway/apps"}

func BenchmarkTake(b *testing.B) {
	for _, n := range []int{1000, 3000, 10_000} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			root := b.TempDir()
			manyFiles(b, root, n, "before")
			before := lab.CPU(b)
			for b.Loop() {
				if _, err := backup.Take(b.Context(), b.TempDir(), backup.Options{}, &hostfiles.Source{
					FS: os.DirFS(root), Paths: benchPaths}); err != nil {
					b.Fatal(err)
				}
			}
			lab.ReportCPU(b, lab.CPU(b)-before)
		})
	}
}

// Every file has changed, and goes into a rescue set first. Nothing is removed until the end: ext4
// does not reuse inodes that were freed in the last minutes, and looks at each of them, so a
// measurement after many deletions measures those.
func BenchmarkRestore(b *testing.B) {
	top := b.TempDir()
	temp := func(b *testing.B) string {
		dir, err := os.MkdirTemp(top, "")
		if err != nil {
			b.Fatal(err)
		}
		return dir
	}
	for _, n := range []int{1000, 3000, 10_000} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			root := temp(b)
			manyFiles(b, root, n, "before")
			set, err := backup.Take(b.Context(), temp(b), backup.Options{}, &hostfiles.Source{
				FS: os.DirFS(root), Paths: benchPaths})
			if err != nil {
				b.Fatal(err)
			}
			var used time.Duration
			for b.Loop() {
				b.StopTimer()
				manyFiles(b, root, n, "after")
				before := lab.CPU(b)
				b.StartTimer()
				if _, err := set.Restore(b.Context(), backup.RestoreOptions{}, &hostfiles.Restore{Root: root,
					Paths: benchPaths, Rescue: temp(b)}); err != nil {
					b.Fatal(err)
				}
				used += lab.CPU(b) - before
			}
			lab.ReportCPU(b, used)
		})
	}
}

// The same through a Runner, where each command costs a round trip: calls/op is how many
// there are to compare and to restore.
func BenchmarkRunner(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			root := b.TempDir()
			manyFiles(b, root, n, "before")
			var calls atomic.Int32
			runner := func(ctx context.Context, argv []string, in io.Reader, out, errs io.Writer) error {
				calls.Add(1)
				return localRunner(ctx, argv, in, out, errs)
			}
			set, err := backup.Take(b.Context(), b.TempDir(), backup.Options{}, &hostfiles.Source{
				Runner: runner, Paths: []string{root}})
			if err != nil {
				b.Fatal(err)
			}
			to := &hostfiles.Restore{Runner: runner, Paths: []string{root}, Rescue: b.TempDir()}
			st, _ := set.Component(to.Name())
			measure := func(f func() error) func(b *testing.B) {
				return func(b *testing.B) {
					calls.Store(0)
					for b.Loop() {
						b.StopTimer()
						manyFiles(b, root, n, "after")
						before := calls.Load()
						b.StartTimer()
						if err := f(); err != nil {
							b.Fatal(err)
						}
						b.StopTimer()
						b.ReportMetric(float64(calls.Load()-before), "calls/op")
						b.StartTimer()
					}
				}
			}
			b.Run("restore", measure(func() error {
				_, err := to.Restore(b.Context(), st, func(backup.Event) {})
				return err
			}))
			b.Run("compare", measure(func() error {
				if err := to.Prove(b.Context(), st); !errors.Is(err, backup.ErrDiffers) {
					return fmt.Errorf("changed files were not found: %w", err)
				}
				return nil
			}))
		})
	}
}
