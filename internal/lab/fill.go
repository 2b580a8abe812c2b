package lab

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

var fills sync.Map // by key

type fill struct {
	mu   sync.Mutex
	done bool
}

// Fill runs a build that compiles Go's library in a mode that no other build of a test
// run uses: key names toolchain and flags. The first one of a key holds a lock, so that
// builds of the same mode that begin meanwhile, also those of other test binaries, find
// the library in the build cache instead of compiling it once more. A context that ends ends the
// wait for the lock.
func Fill(ctx context.Context, key string, build func() error) error {
	v, _ := fills.LoadOrStore(key, &fill{})
	f := v.(*fill)
	f.mu.Lock()
	if f.done {
		f.mu.Unlock()
		return build()
	}
	defer f.mu.Unlock()
	f.done = true
	// Without a cache to write to there is nothing to wait for.
	if values, err := settings(); err == nil {
		name := fmt.Sprintf("tykupgrade-%x.lock", sha256.Sum256([]byte(key)))
		if lock, err := os.OpenFile(filepath.Join(values["GOCACHE"], name), os.O_RDWR|os.O_CREATE,
			0o600); err == nil {
			defer lock.Close()
			for errors.Is(syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB),
				syscall.EWOULDBLOCK) {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(50 * time.Millisecond):
				}
			}
		}
	}
	return build()
}
