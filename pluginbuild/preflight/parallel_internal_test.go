package preflight

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
)

// All cores work: as many calls as there are wait for each other.
func TestEachOnAllCores(t *testing.T) {
	n := runtime.GOMAXPROCS(0)
	synctest.Test(t, func(t *testing.T) {
		arrived, all := make(chan bool, n), make(chan bool)
		go func() {
			for range n {
				<-arrived
			}
			close(all)
		}()
		if err := each(t.Context(), n, func(int) error {
			arrived <- true
			<-all
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}

// The first error counts, and nothing is begun after one or after the end of the context.
func TestEachEnds(t *testing.T) {
	t.Parallel()
	calls := make(chan int, 1000)
	err := each(t.Context(), 1000, func(i int) error {
		calls <- i
		if i >= 3 {
			return fmt.Errorf("file %d", i)
		}
		return nil
	})
	if err == nil || len(calls) > 4+runtime.GOMAXPROCS(0) {
		t.Errorf("%v after %d calls", err, len(calls))
	}
	why := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	begun := 0
	err = each(ctx, 1, func(int) error { begun++; cancel(why); return nil })
	if !errors.Is(err, why) || begun != 1 {
		t.Errorf("%v after %d calls", err, begun)
	}
	if err := each(ctx, 5, func(int) error { begun++; return nil }); !errors.Is(err, why) ||
		begun != 1 {
		t.Errorf("%v after %d calls", err, begun)
	}
	if err := each(t.Context(), 0, nil); err != nil {
		t.Error(err)
	}
}
