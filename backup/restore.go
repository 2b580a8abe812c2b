package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
)

// RestoreOptions changes how a set is restored. The zero value is useful.
type RestoreOptions struct {
	DryRun   bool         // verify and plan, change nothing
	Log      *slog.Logger // nil: silent
	Progress func(Event)  // called for one event at a time
}

// Report is what a restore did, or with a dry run would do.
type Report struct {
	Set        string            `json:"set"`
	DryRun     bool              `json:"dry_run,omitempty"`
	Components []ComponentReport `json:"components"`
}

// ComponentReport is what happened to one component.
type ComponentReport struct {
	Name   string `json:"name"`
	State  State  `json:"state"`
	Items  []Item `json:"items,omitempty"`
	Reason string `json:"reason,omitempty"` // why it failed
}

// State is how far a component came.
type State string

// How far a component came.
const (
	StateNotAsked State = "not asked for" // no restorer was given for it
	StatePlanned  State = "planned"
	StateFailed   State = "failed"
	StateRestored State = "restored" // the proof is outstanding
	StateProven   State = "proven"   // restored, and the result equals the set
)

// Restore verifies the set up to [LevelStructure], lets every restorer plan,
// and only when none refuses restores one component after the other and proves
// each result. The report tells of every item, also where an error is returned;
// components after a failed one are left alone. While it runs [Prune] does not
// remove the set.
func (s *Set) Restore(ctx context.Context, o RestoreOptions, to ...Restorer) (Report, error) {
	report := Report{Set: s.ID, DryRun: o.DryRun}
	if len(to) == 0 {
		return report, fail("restore", s.Dir, fmt.Errorf("no target given; the set holds %s", s.names()))
	}
	asked := map[string]Restorer{}
	for _, r := range to {
		if _, ok := s.Component(r.Name()); !ok {
			return report, fail("restore", s.Dir, fmt.Errorf("the set has no component %q; it holds %s", r.Name(), s.names()))
		}
		if asked[r.Name()] != nil {
			return report, fail("restore", s.Dir, fmt.Errorf("two targets for component %q", r.Name()))
		}
		asked[r.Name()] = r
	}
	release, err := s.hold()
	if err != nil {
		return report, fail("restore", s.Dir, err)
	}
	defer release()
	progress, log := serial(o.Progress), logger(o.Log)
	if err := s.Verify(ctx, VerifyOptions{Progress: progress}); err != nil {
		return report, fmt.Errorf("restore %s: the set does not pass verification, nothing was changed: %w", s.Dir, err)
	}
	for _, c := range s.Components {
		cr := ComponentReport{Name: c.Name, State: StateNotAsked}
		if r := asked[c.Name]; r != nil {
			st, _ := s.Component(c.Name)
			progress(Event{Component: c.Name, Phase: PhasePlan})
			items, err := r.Plan(ctx, st)
			if err != nil {
				return report, withEnd(ctx, fail("plan the restore of", c.Name, err))
			}
			cr.State, cr.Items = StatePlanned, items
		}
		report.Components = append(report.Components, cr)
	}
	if o.DryRun {
		return report, nil
	}
	for i := range report.Components {
		c := &report.Components[i]
		if c.State != StatePlanned {
			continue
		}
		if err := s.restore(ctx, asked[c.Name], c, progress, log); err != nil {
			err = withEnd(ctx, err)
			c.Reason = err.Error()
			return report, err
		}
	}
	return report, nil
}

func (s *Set) restore(ctx context.Context, r Restorer, c *ComponentReport, progress func(Event), log *slog.Logger) error {
	st, _ := s.Component(c.Name)
	if err := ended(ctx); err != nil {
		return fail("restore", c.Name, err)
	}
	log.Info("restore started", "component", c.Name, "set", s.ID)
	items, err := r.Restore(ctx, st, progress)
	c.Items = items
	if err != nil {
		c.State = StateFailed
		return fail("restore", c.Name, err)
	}
	c.State = StateRestored
	if err := s.prove(ctx, r, progress); err != nil {
		return err
	}
	c.State = StateProven
	log.Info("restore proven", "component", c.Name, "set", s.ID)
	return nil
}

// outsideSets refuses to write into a set, which would no longer verify.
func outsideSets(dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	for p := abs; ; p = filepath.Dir(p) {
		if exists(filepath.Join(p, manifestName)) && exists(filepath.Join(p, checksumName)) {
			return &Error{Op: "write into", Object: dir, Err: fmt.Errorf("%s is a set, and would be damaged by it", p), Next: "choose a directory outside of it"}
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// hold keeps Prune away while the set is in use. Several readers may hold it.
func (s *Set) hold() (release func(), err error) {
	f, err := os.Open(filepath.Join(s.Dir, manifestName))
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil && !errors.Is(err, syscall.ENOTSUP) && !errors.Is(err, syscall.ENOLCK) {
		return nil, errors.Join(&Error{Op: "lock", Object: s.Dir, Err: ErrLocked, Next: "the set is being removed"}, f.Close())
	}
	return func() { unlockClose(f) }, nil
}
