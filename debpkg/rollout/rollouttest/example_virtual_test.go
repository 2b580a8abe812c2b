package rollouttest_test

import (
	"testing"
	"testing/synctest"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/debpkg/rollout/rollouttest"
)

// A drain that takes 20 s is tested in some milliseconds: in a bubble of synctest
// time passes as soon as everybody waits.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lb := rollouttest.NewBalancer("gw1", "gw2")
		name, end, err := lb.Open("")
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(20*time.Second, end) // a slow request
		start := time.Now()
		err = rollout.TakeOut(t.Context(), lb, name, rollout.DrainOptions{Deadline: 30 * time.Second})
		if took := time.Since(start); err != nil || took < 20*time.Second {
			t.Errorf("took %v: %v", took, err)
		}
	})
}

// A drain waits up to 30 s for the last session: in virtual time that takes no time at all.
func Example_virtualTime() {
	// go test runs TestDrain above.
}
