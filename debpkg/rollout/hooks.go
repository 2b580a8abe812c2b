package rollout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Point is a moment of a run at which hooks are called.
type Point string

// The points of a run. At the Before points, the error of a hook is a veto.
const (
	BeforeRun    Point = "before_run"    // with the lock and the journal held
	BeforeWave   Point = "before_wave"   // not when a run is undone
	BeforeTarget Point = "before_target" // not when a target is undone
	AfterTarget  Point = "after_target"  // Status has the outcome
	AfterWave    Point = "after_wave"    // not when a run is undone
	OnFailure    Point = "on_failure"    // a target failed, before AfterTarget
	AfterRun     Point = "after_run"     // see Outcome
)

// DefaultHookTimeout is the timeout of a Hook whose Timeout is 0.
const DefaultHookTimeout = 30 * time.Second

// Hook is called at some points of a run, one call at a time for each target. Each call is
// recorded.
//
// An error at a Before point is a veto: no further target starts, and the run ends with
// [ErrVetoed]. It can be resumed. An error at another point is only recorded.
type Hook struct {
	Name    string
	On      []Point
	Waves   []string // names of waves for points of waves and targets; empty: all
	Call    func(context.Context, HookEvent) error
	Timeout time.Duration // 0: DefaultHookTimeout
}

// HookEvent describes a moment of a run to a hook. [CommandHook] passes it as JSON.
type HookEvent struct {
	Point   Point     `json:"point"`
	Mode    Mode      `json:"mode"`
	Time    time.Time `json:"time"`
	About   string    `json:"about,omitempty"`
	Who     Owner     `json:"who"`
	Wave    string    `json:"wave,omitempty"`
	Target  string    `json:"target,omitempty"`
	Status  Status    `json:"status,omitempty"`
	Outcome Outcome   `json:"outcome,omitempty"`
	Error   string    `json:"error,omitempty"`
	Failed  int       `json:"failed"` // targets that failed so far
}

// CommandHook returns a function for Hook.Call. It runs a command with the event as JSON on stdin.
// If the command fails, the error has the beginning of its output.
func CommandHook(run Runner, argv ...string) func(context.Context, HookEvent) error {
	return func(ctx context.Context, e HookEvent) error {
		data, err := json.Marshal(e)
		if err != nil {
			return err
		}
		var out capped
		err = run(ctx, argv, bytes.NewReader(append(data, '\n')), &out, &out)
		if said := strings.TrimSpace(out.String()); err != nil && said != "" {
			err = fmt.Errorf("%w: %s", err, said)
		}
		return err
	}
}

func (o Options) validateHooks() error {
	var errs []error
	for i, h := range o.Hooks {
		if h.Name == "" || h.Call == nil || len(h.On) == 0 || h.Timeout < 0 {
			errs = append(errs, fmt.Errorf("invalid hook %d %q: want a name, a Call, points and no "+
				"negative timeout", i+1, h.Name))
		}
	}
	return errors.Join(errs...)
}

// hook calls the hooks of a point and returns the first veto. Only hooks of Before points see the
// end of ctx: the others report what has happened already.
func (r *runner) hook(ctx context.Context, e HookEvent) error {
	if len(r.o.Hooks) == 0 {
		return nil
	}
	before := slices.Contains([]Point{BeforeRun, BeforeWave, BeforeTarget}, e.Point)
	if !before {
		ctx = context.WithoutCancel(ctx)
	}
	r.mu.Lock()
	e.Failed = len(r.failures)
	r.mu.Unlock()
	e.Mode, e.Time, e.About, e.Who = r.mode, time.Now().UTC(), r.o.About, r.who
	e.Error = r.j.redact(e.Error)
	for _, h := range r.o.Hooks {
		if !slices.Contains(h.On, e.Point) || e.Wave != "" && len(h.Waves) > 0 &&
			!slices.Contains(h.Waves, e.Wave) {
			continue
		}
		start := time.Now()
		err := r.callHook(ctx, h, e)
		rec := Record{
			Kind: KindHook, Wave: e.Wave, Target: e.Target, OK: err == nil, Took: time.Since(start),
			Text: h.Name + " " + string(e.Point),
		}
		if err != nil {
			rec.Error = err.Error()
		}
		jerr := r.j.add(rec)
		if before && (err != nil || jerr != nil) {
			if err != nil {
				err = fmt.Errorf("%w: %s %s: %w", ErrVetoed, h.Name, strings.TrimSpace(e.Wave+" "+e.Target),
					err)
			}
			return errors.Join(err, jerr)
		}
	}
	return nil
}

func (r *runner) callHook(ctx context.Context, h Hook, e HookEvent) error {
	timeout := h.Timeout
	if timeout == 0 {
		timeout = DefaultHookTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, ErrDeadline)
	defer cancel()
	err := guard(func() error { return h.Call(ctx, e) })
	if err != nil && context.Cause(ctx) == ErrDeadline {
		err = fmt.Errorf("%w (no answer in %v)", err, timeout)
	}
	return err
}
