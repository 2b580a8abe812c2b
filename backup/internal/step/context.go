package step

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// UndoLimit bounds a rollback, which outlives the caller's context.
const UndoLimit = 10 * time.Minute

// Undoing returns a context for a rollback: it outlives ctx and ends after
// [UndoLimit].
func Undoing(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), UndoLimit)
}

// Ended returns nil until ctx ends, then an error that matches both ctx.Err() and the cause.
func Ended(ctx context.Context) error {
	err := ctx.Err()
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && cause != err {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

// WithEnd adds the end of ctx to an error that it caused. Some clients report neither the context's
// error nor its cause.
func WithEnd(ctx context.Context, err error) error {
	e := Ended(ctx)
	if err == nil || e == nil || (errors.Is(err, ctx.Err()) && errors.Is(err, context.Cause(ctx))) {
		return err
	}
	return fmt.Errorf("%w: %w", err, e)
}

// Together runs f for 0…n-1 concurrently. The first error stops the others. Together returns only
// that one, because the others would only repeat it.
func Together(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var first error
	var once sync.Once
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := f(ctx, i); err != nil {
				once.Do(func() { first = err; cancel() })
			}
		})
	}
	wg.Wait()
	return first
}

// Pause waits for d or for the end of ctx.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return Ended(ctx)
	case <-t.C:
		return nil
	}
}
