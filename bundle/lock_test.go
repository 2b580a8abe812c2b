package bundle

import (
	"testing"

	"example.com/tykupgrade/internal/lab"
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
	copies := lab.Copies(t, p.Dir)
	unlock()
	again, err := p.lock("publish")
	if err != nil || copies == 0 {
		t.Fatalf("%v, with %d copies", err, copies)
	}
	again()
}
