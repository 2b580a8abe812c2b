package backup

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/internal/atomicfile"
)

// RestoreOptions changes how a set is restored. The zero value is useful.
type RestoreOptions struct {
	DryRun bool // only verify and plan

	// Keep leaves the replaced data for [Set.Undo]. The caller must then call Undo or
	// [Set.Accept], in this process or a later one. Without Keep, Restore accepts once all
	// components are verified.
	Keep bool

	// RequireSignature has the keys of which one must have signed the set, see
	// [Set.VerifySignature]. Empty: the set needs no signature.
	RequireSignature []crypto.PublicKey

	Log      *slog.Logger // nil: silent
	Progress func(Event)  // called for one event at a time
}

// Report is what a restore did, or would do in a dry run.
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
	Reason string `json:"reason,omitempty"` // why it failed or was undone
}

// State is the state of a component after a restore.
type State string

// The states of a component.
const (
	StateNotRequested State = "not_requested"   // no restorer was given for it
	StatePlanned      State = "planned"         // nothing was changed
	StateFailed       State = "failed"          // Restore or Undo failed; Reason has what is left
	StateRestored     State = "restored"        // restored, but not verified
	StateVerified     State = "verified"        // restored, and the result equals the set
	StateUndone       State = "undone"          // restored, then undone
	StateNothing      State = "nothing_to_undo" // Undo found nothing to put back
)

// Restore restores components of the set. It refuses a set that another user could have made or
// could change ([ErrUnsafe]). Everything in the set and each directory above it must belong to root
// or this user. Nobody else may be able to write there. A sticky directory above the set, such as
// /tmp, is allowed.
//
// Restore first verifies the set up to [LevelStructure] and calls Plan of every restorer. If none
// refuses, it restores one component after the other and compares each result with the set.
//
// After a failure, Restore undoes the restored components whose restorer is an [Undoer], last one
// first, even if ctx has ended. The report has the state and items of every component, whether or
// not there is an error. [Prune] does not remove the set while Restore runs.
func (s *Set) Restore(ctx context.Context, o RestoreOptions, to ...Restorer) (Report, error) {
	report := Report{Set: s.ID, DryRun: o.DryRun}
	asked, err := s.targets(to)
	if err != nil {
		return report, step.Fail("restore", s.Dir, err)
	}
	if err := checkAuthor("restore", s.Dir); err != nil {
		return report, err
	}
	release, err := s.hold()
	if err != nil {
		return report, step.Fail("restore", s.Dir, err)
	}
	defer release()
	if len(o.RequireSignature) > 0 {
		if err := s.VerifySignature(o.RequireSignature...); err != nil {
			return report, err
		}
	}
	r := &setRestore{set: s, asked: asked, progress: step.Serial(o.Progress), log: step.Logger(o.Log)}
	later := map[string]bool{}
	for name, to := range asked {
		v, ok := to.(StructureVerifier)
		later[name] = ok && !o.DryRun && v.VerifiesStructure()
	}
	if err := step.WithEnd(ctx, s.verify(ctx, VerifyOptions{Progress: r.progress},
		later)); err != nil {
		return report, fmt.Errorf("restore %s: the set does not pass verification; nothing was "+
			"changed: %w", s.Dir, err)
	}
	if report.Components, err = r.plan(ctx); err != nil || o.DryRun {
		return report, err
	}
	if err := r.run(ctx, report.Components); err != nil {
		return report, errors.Join(err, r.undo(ctx, report.Components))
	}
	if !o.Keep {
		err = s.Accept(ctx, to...)
	}
	return report, err
}

// targets maps restorers to the components of the set.
func (s *Set) targets(to []Restorer) (map[string]Restorer, error) {
	if len(to) == 0 {
		return nil, fmt.Errorf("no restorer is given; the set has %s", s.names())
	}
	asked := map[string]Restorer{}
	for _, r := range to {
		if _, ok := s.Component(r.Name()); !ok {
			return nil, fmt.Errorf("unknown component %q; the set has %s", r.Name(), s.names())
		}
		if asked[r.Name()] != nil {
			return nil, fmt.Errorf("two restorers for component %q", r.Name())
		}
		asked[r.Name()] = r
	}
	return asked, nil
}

type setRestore struct {
	set      *Set
	asked    map[string]Restorer
	progress func(Event)
	log      *slog.Logger
}

func (r *setRestore) plan(ctx context.Context) ([]ComponentReport, error) {
	var out []ComponentReport
	for _, c := range r.set.Components {
		cr := ComponentReport{Name: c.Name, State: StateNotRequested}
		if to := r.asked[c.Name]; to != nil {
			st, _ := r.set.Component(c.Name)
			r.progress(Event{Component: c.Name, Phase: PhasePlan})
			items, err := to.Plan(ctx, st)
			if err != nil {
				return out, step.WithEnd(ctx, step.Fail("plan the restore of", c.Name, err))
			}
			cr.State, cr.Items = StatePlanned, items
		}
		out = append(out, cr)
	}
	return out, nil
}

func (r *setRestore) run(ctx context.Context, components []ComponentReport) error {
	for i := range components {
		c := &components[i]
		if c.State != StatePlanned {
			continue
		}
		if err := r.one(ctx, c); err != nil {
			err = step.WithEnd(ctx, err)
			c.Reason = err.Error()
			return err
		}
	}
	return nil
}

func (r *setRestore) one(ctx context.Context, c *ComponentReport) error {
	st, _ := r.set.Component(c.Name)
	if err := step.Ended(ctx); err != nil {
		return step.Fail("restore", c.Name, err)
	}
	r.log.Info("restore started", "component", c.Name, "set", r.set.ID)
	items, err := r.asked[c.Name].Restore(ctx, st, r.progress)
	c.Items = items
	if err != nil {
		c.State = StateFailed
		return step.Fail("restore", c.Name, err)
	}
	c.State = StateRestored
	if err := r.set.prove(ctx, r.asked[c.Name], r.progress); err != nil {
		return err
	}
	c.State = StateVerified
	r.log.Info("restore verified", "component", c.Name, "set", r.set.ID)
	return nil
}

// undo undoes what was restored before the failure, last one first.
func (r *setRestore) undo(ctx context.Context, components []ComponentReport) error {
	ctx, cancel := step.Undoing(ctx)
	defer cancel()
	var errs []error
	for _, c := range slices.Backward(components) {
		u, ok := r.asked[c.Name].(Undoer)
		if !ok || (c.State != StateRestored && c.State != StateVerified) {
			continue
		}
		st, _ := r.set.Component(c.Name)
		if _, err := u.Undo(ctx, st); err != nil {
			errs = append(errs, step.Fail("undo the restore of", c.Name, err))
			continue
		}
		r.log.Info("restore undone", "component", c.Name, "set", r.set.ID)
		i := slices.IndexFunc(components, func(x ComponentReport) bool { return x.Name == c.Name })
		components[i].State = StateUndone
		if components[i].Reason == "" {
			components[i].Reason = "another component failed"
		}
	}
	return errors.Join(errs...)
}

// Undo undoes a restore that ran with [RestoreOptions].Keep or was killed. It calls Undo of each
// restorer that is an [Undoer], last component first. The restorers must be built as for the
// restore. Undo continues after an error, returns all errors, and may be called again. It refuses
// unsafe sets as Restore does ([ErrUnsafe]).
//
// The state of each component in the report is [StateUndone], [StateNothing], [StateFailed] or
// [StateNotRequested].
func (s *Set) Undo(ctx context.Context, to ...Restorer) (Report, error) {
	report := Report{Set: s.ID}
	if err := checkAuthor("undo the restore of", s.Dir); err != nil {
		return report, err
	}
	for _, c := range s.Components {
		report.Components = append(report.Components, ComponentReport{Name: c.Name,
			State: StateNotRequested})
	}
	err := s.each("undo the restore of", true, to, func(r Restorer, st *Stored) (err error) {
		i := slices.IndexFunc(report.Components, func(c ComponentReport) bool { return c.Name == st.Name })
		c, undone := &report.Components[i], false
		c.State = StateNothing
		if u, ok := r.(Undoer); ok {
			undone, err = u.Undo(ctx, st)
		}
		switch {
		case err != nil:
			c.State, c.Reason = StateFailed, err.Error()
		case undone:
			c.State = StateUndone
		}
		return err
	})
	return report, err
}

// Accept removes the replaced data, after which the restore cannot be undone. It calls Accept of
// each restorer that is an [Accepter]. It may be called again, also in a later process.
func (s *Set) Accept(ctx context.Context, to ...Restorer) error {
	return s.each("accept the restore of", false, to, func(r Restorer, st *Stored) error {
		if a, ok := r.(Accepter); ok {
			return a.Accept(ctx, st)
		}
		return nil
	})
}

func (s *Set) each(op string, backward bool, to []Restorer, f func(Restorer, *Stored) error) error {
	asked, err := s.targets(to)
	if err != nil {
		return step.Fail(op, s.Dir, err)
	}
	components := slices.Clone(s.Components)
	if backward {
		slices.Reverse(components)
	}
	var errs []error
	for _, c := range components {
		if r := asked[c.Name]; r != nil {
			st, _ := s.Component(c.Name)
			if err := f(r, st); err != nil {
				errs = append(errs, step.Fail(op, c.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// hold keeps Prune from removing the set while it is in use. Several readers may hold it.
func (s *Set) hold() (release func(), err error) {
	f, err := os.Open(filepath.Join(s.Dir, step.ManifestName))
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil &&
		!errors.Is(err, syscall.ENOTSUP) && !errors.Is(err, syscall.ENOLCK) {
		return nil, errors.Join(&Error{Op: "lock", Object: s.Dir, Err: ErrLocked,
			Next: "the set is being removed"}, f.Close())
	}
	return func() { _ = atomicfile.UnlockClose(f) }, nil
}
