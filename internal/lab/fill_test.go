package lab_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/tykupgrade/internal/lab"
)

// The first build of a key is alone; later ones are not held up.
func TestFill(t *testing.T) {
	key := rand.Text()
	lockFile(t, key)
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
			if err := lab.Fill(t.Context(), key, build); err != nil {
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

// lockFile returns the lock of a key, in the build cache, and removes it in the end.
func lockFile(t *testing.T, key string) string {
	t.Helper()
	for _, v := range lab.GoEnv() {
		if dir, ok := strings.CutPrefix(v, "GOCACHE="); ok {
			path := filepath.Join(dir, fmt.Sprintf("tykupgrade-%x.lock", sha256.Sum256([]byte(key))))
			t.Cleanup(func() { _ = os.Remove(path) })
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	t.Fatal("no build cache")
	return ""
}

// Nobody waits for the lock of another process longer than its context allows.
func TestFillInterrupted(t *testing.T) {
	key := rand.Text()
	held, err := os.Create(lockFile(t, key))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Close() }()
	if err := syscall.Flock(int(held.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := lab.Fill(ctx, key, func() error {
		t.Error("it builds without the lock")
		return nil
	}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
