package preflight

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
)

// InspectAll calls [Inspect] for each path, on all cores of the process. The result has the order
// of paths. After an error or the end of ctx it starts no further file. It returns the error of the
// first failed path in this order.
func InspectAll(ctx context.Context, paths ...string) ([]*Binary, error) {
	found := make([]*Binary, len(paths))
	err := each(ctx, len(paths), func(i int) (err error) {
		found[i], err = Inspect(paths[i])
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// each calls f for 0 to n-1 on all cores and returns the error of the lowest number.
func each(ctx context.Context, n int, f func(i int) error) error {
	errs := make([]error, n)
	var next atomic.Int64
	var failed atomic.Bool
	var wg sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for !failed.Load() && ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if errs[i] = f(i); errs[i] != nil {
					failed.Store(true)
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}
