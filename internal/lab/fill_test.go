package lab_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"example.com/tykupgrade/internal/lab"
)

// The first build of a key is alone; later ones are not held up.
func TestFill(t *testing.T) {
	t.Setenv("GOCACHE", t.TempDir())
	var mu sync.Mutex
	running, built := 0, 0
	build := func() error {
		mu.Lock()
		running++
		built++
		first := built == 1
		mu.Unlock()
		if first {
			time.Sleep(50 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			if running != 1 {
				t.Error("another build of the key began meanwhile")
			}
			running--
			return errors.New("failed")
		}
		mu.Lock()
		defer mu.Unlock()
		running--
		return nil
	}
	failed := 0
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := lab.Fill("TestFill", build); err != nil {
				mu.Lock()
				failed++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if built != 4 || failed != 1 {
		t.Errorf("%d builds, %d failed", built, failed)
	}
}
