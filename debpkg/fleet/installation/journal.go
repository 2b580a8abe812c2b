package installation

import (
	"context"
	"errors"
	"strings"

	"example.com/tykupgrade/debpkg/rollout"
)

// History is what the journal holds, with the checks that were skipped among its events. Nil:
// nothing.
func (u *Upgrade) History() (*rollout.Report, error) {
	rep, err := rollout.History(u.Journal)
	return Skipped(rep), err
}

// Changed reports whether a run has begun to change anything that gateways see: a host, or
// the bundle server.
func Changed(rep *rollout.Report) bool {
	return hostsBegun(rep) || rep.Begun(func(t rollout.TargetReport) bool {
		return t.Name == TargetBundle || strings.HasPrefix(t.Name, TargetBundle+" ")
	})
}

// hostsBegun reports whether anything beyond the preparation was begun.
func hostsBegun(rep *rollout.Report) bool {
	return rep.Begun(func(t rollout.TargetReport) bool { return t.Wave != WavePrepare })
}

// Begin reports whether a run in this mode can begin. A run that changed nothing gives way to
// a new one: its journal gets another name. The error is of kind [ErrNotAccepted],
// [ErrUnfinished], [ErrNoRun] or [ErrReverted].
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

// Accept removes what only a revert of the run needs, from the hosts and from the bundle
// server, and gives the journal another name. It may be called again after an error.
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
