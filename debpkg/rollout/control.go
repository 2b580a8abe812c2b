package rollout

import (
	"context"
	"sync"
)

// Control pauses, continues and stops a run between targets: targets that have
// begun are finished. The zero value is ready; its methods may be called from
// any goroutine, before and during a run.
type Control struct {
	mu      sync.Mutex
	paused  chan struct{} // closed when the pause ends; nil: not paused
	stopped bool
	onStop  func() // nil: nothing to end at once
}

// Pause keeps further targets from beginning until Continue or Stop.
func (c *Control) Pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.paused == nil && !c.stopped {
		c.paused = make(chan struct{})
	}
}

func (c *Control) isPaused() bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.paused != nil
}

// Continue ends a pause.
func (c *Control) Continue() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.release()
}

// Stop ends the run, or an undo, before the next target; a canary's soak ends at
// once, and begins again from scratch on resume. The run can be resumed later.
func (c *Control) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	c.release()
	if c.onStop != nil {
		c.onStop()
	}
}

// during returns a context that also ends, with ErrStopped as its cause, when
// the run is stopped.
func (c *Control) during(ctx context.Context) (context.Context, context.CancelFunc) {
	if c == nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onStop = func() { cancel(ErrStopped) }
	if c.stopped {
		c.onStop()
	}
	return ctx, func() {
		c.mu.Lock()
		c.onStop = nil
		c.mu.Unlock()
		cancel(nil)
	}
}

func (c *Control) release() {
	if c.paused != nil {
		close(c.paused)
		c.paused = nil
	}
}

// wait returns once a target may begin, or why none may.
func (c *Control) wait(ctx context.Context, onPause func(bool)) error {
	if c == nil {
		return ctx.Err()
	}
	for said := false; ; {
		c.mu.Lock()
		paused, stopped := c.paused, c.stopped
		c.mu.Unlock()
		switch {
		case stopped:
			return ErrStopped
		case ctx.Err() != nil:
			return ctx.Err()
		case paused == nil:
			if said {
				onPause(false)
			}
			return nil
		}
		if !said {
			onPause(true)
			said = true
		}
		select {
		case <-paused:
		case <-ctx.Done():
		}
	}
}
