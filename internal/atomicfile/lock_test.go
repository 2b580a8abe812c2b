package atomicfile_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"example.com/tykupgrade/internal/atomicfile"
)

// A written file is not locked, also while other goroutines start commands: each of those
// has a copy of every descriptor for a moment.
func TestWrittenFileIsFree(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = exec.Command("true").Run()
				}
			}
		})
	}
	for range 100 {
		if _, err := atomicfile.WriteBytes(t.Context(), path, atomicfile.Options{}, []byte("x")); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
		_ = f.Close()
		if err != nil {
			t.Fatalf("lock what was written: %v", err)
		}
	}
}
