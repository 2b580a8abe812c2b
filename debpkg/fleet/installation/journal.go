package installation

import (
	"context"
	"errors"
	"strings"

	"example.com/tykupgrade/debpkg/rollout"
)

// History returns the report of the run in the journal, or nil. Its events include skipped checks.
func (u *Upgrade) History() (*rollout.Report, error) {
	rep, err := rollout.History(u.Journal)
	return Skipped(rep), err
}

// Changed reports whether a run has begun to change a host or the bundle server.
func Changed(rep *rollout.Report) bool {
	return hostsBegun(rep) || rep.Begun(func(t rollout.TargetReport) bool {
		return t.Name == TargetBundle || strings.HasPrefix(t.Name, TargetBundle+" ")
	})
}

// hostsBegun reports whether the run got past the preparation.
func hostsBegun(rep *rollout.Report) bool {
	return rep.Begun(func(t rollout.TargetReport) bool { return t.Wave != WavePrepare })
}

// Begin returns an error if a run in this mode cannot begin: [ErrNotAccepted], [ErrUnfinished],
// [ErrNoRun] or [ErrReverted]. For a new run, it renames the journal of an old run that changed
// nothing or was reverted.
func (u *Upgrade) Begin(mode rollout.Mode) error {
	refuse := func(kind error) error { return &Error{Op: string(mode), Object: u.Journal, Kind: kind} }
	rep, err := u.History()
	switch {
	case err != nil:
		return err
	case mode == rollout.ModeRun && rep == nil:
		return nil
	case mode == rollout.ModeRun && Changed(rep) && rep.Outcome == rollout.OutcomeDone:
		return refuse(ErrNotAccepted)
	case mode == rollout.ModeRun && Changed(rep) && rep.Outcome != rollout.OutcomeUndone:
		return refuse(ErrUnfinished)
	case mode == rollout.ModeRun:
		gone, err := rollout.Archive(u.Journal, rep)
		u.begun = u.begun && !gone // a locked one stays, and the run finds that out
		return err
	case rep == nil:
		return refuse(ErrNoRun)
	case mode == rollout.ModeResume && rep.Outcome == rollout.OutcomeUndone:
		return refuse(ErrReverted) // its backup may be old
	}
	return nil
}

// Accept removes from the hosts and the bundle server what only a revert of the run needs. Then it
// renames the journal. After an error or a kill, call Accept again.
func (u *Upgrade) Accept(ctx context.Context) error {
	rep, err := u.History()
	switch {
	case err != nil:
		return err
	case rep == nil:
		return &Error{Op: "accept", Object: u.Journal, Kind: ErrNoRun}
	case rep.Outcome != rollout.OutcomeDone:
		return &Error{Op: "accept", Object: u.Journal, Kind: ErrUnfinished}
	}
	errs := []error{u.Forget(ctx, rep)}
	for _, b := range u.bundles() {
		errs = append(errs, u.acceptBundle(ctx, b))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	_, err = rollout.Archive(u.Journal, rep)
	return err
}
