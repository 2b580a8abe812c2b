package hostfiles_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/hostfiles"
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
	for _, n := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			root := b.TempDir()
			manyFiles(b, root, n, "before")
			for b.Loop() {
				if _, err := backup.Take(b.Context(), b.TempDir(), backup.Options{}, &hostfiles.Source{
					FS: os.DirFS(root), Paths: benchPaths}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Every file has changed, and goes into a rescue set first.
func BenchmarkRestore(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			root := b.TempDir()
			manyFiles(b, root, n, "before")
			set, err := backup.Take(b.Context(), b.TempDir(), backup.Options{}, &hostfiles.Source{
				FS: os.DirFS(root), Paths: benchPaths})
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				b.StopTimer()
				manyFiles(b, root, n, "after")
				b.StartTimer()
				if _, err := set.Restore(b.Context(), backup.RestoreOptions{}, &hostfiles.Restore{Root: root,
					Paths: benchPaths, Rescue: b.TempDir()}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
