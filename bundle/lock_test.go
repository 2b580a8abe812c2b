package bundle

import (
	"fmt"
	"os"
	"syscall"
	"testing"
)

// A command that is being started has copies of all descriptors until it runs. They hold no lock
// that was released.
func TestPublicationLockAfterAFork(t *testing.T) {
	t.Parallel()
	p := Publication{Dir: t.TempDir()}
	unlock, err := p.lock("publish")
	if err != nil {
		t.Fatal(err)
	}
	copies := 0
	for n := range 1000 {
		if to, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", n)); err != nil || to != p.Dir {
			continue
		}
		c, err := syscall.Dup(n)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = syscall.Close(c) }()
		copies++
		break
	}
	unlock()
	again, err := p.lock("publish")
	if err != nil || copies == 0 {
		t.Fatalf("%v, with %d copies", err, copies)
	}
	again()
}
