package rollouttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"example.com/tykupgrade/debpkg/rollout"
)

// ErrCrashed is the error of [CrashAfter] if it cut the run short.
var ErrCrashed = errors.New("crashed")

// Call is one of [rollout.Run], [rollout.Resume] and [rollout.Undo].
type Call = func(context.Context, []rollout.Wave, rollout.Options) (*rollout.Report, error)

// CrashAfter makes the call and ends it as if its process had been killed after n more records in
// o.Journal. From then on no function of a step is called, and the journal ends there. CrashAfter
// then returns [ErrCrashed], or nil if the call ended before. Functions that are running at that
// moment still finish, as a command on a host may after its caller was killed.
func CrashAfter(ctx context.Context, n int, call Call, waves []rollout.Wave,
	o rollout.Options) error {
	if o.Journal == "" || n < 0 {
		return fmt.Errorf("crash after %d records of journal %q: want a journal and 0 records or more", n,
			o.Journal)
	}
	before, err := lines(o.Journal)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &crash{left: int64(n), end: cancel}
	progress := o.Progress
	o.Progress = func(r rollout.Record) {
		if c.count() && progress != nil {
			progress(r)
		}
	}
	if n == 0 {
		c.dead.Store(true)
		cancel()
	}
	_, err = call(ctx, c.wrap(waves), o)
	if !c.dead.Load() {
		return err
	}
	return errors.Join(ErrCrashed, cut(o.Journal, before+n))
}

type crash struct {
	left int64
	dead atomic.Bool
	end  context.CancelFunc
}

// count reports whether the record still belongs to the run. Records come one at a time.
func (c *crash) count() bool {
	if c.dead.Load() {
		return false
	}
	if c.left--; c.left == 0 {
		c.dead.Store(true)
		c.end()
	}
	return true
}

func (c *crash) wrap(waves []rollout.Wave) []rollout.Wave {
	wrapped := make([]rollout.Wave, len(waves))
	for i, w := range waves {
		targets := make([]rollout.Target, len(w.Targets))
		for j, t := range w.Targets {
			steps := make([]rollout.Step, len(t.Steps))
			for k, s := range t.Steps {
				s.Do, s.Undo, s.Check, s.Ask = c.alive(s.Do), c.alive(s.Undo), c.alive(s.Check), c.alive(s.Ask)
				if done := s.Done; done != nil {
					s.Done = func(ctx context.Context) (bool, error) {
						if c.dead.Load() {
							return false, ErrCrashed
						}
						return done(ctx)
					}
				}
				s.Retry = rollout.Retry{Attempts: s.Retry.Attempts}
				steps[k] = s
			}
			targets[j] = rollout.Target{Name: t.Name, Steps: steps}
		}
		w.Targets = targets
		w.Canary.Watch = c.alive(w.Canary.Watch)
		wrapped[i] = w
	}
	return wrapped
}

func (c *crash) alive(f func(context.Context) error) func(context.Context) error {
	if f == nil {
		return nil
	}
	return func(ctx context.Context) error {
		if c.dead.Load() {
			return ErrCrashed
		}
		return f(ctx)
	}
}

func lines(path string) (int, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return bytes.Count(data, []byte("\n")), err
}

// cut leaves the first n lines of a file.
func cut(path string, n int) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	size := 0
	for range n {
		i := bytes.IndexByte(data[size:], '\n')
		if i < 0 {
			return nil
		}
		size += i + 1
	}
	return os.Truncate(path, int64(size))
}
