package redisdb

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// Undo restores the files that every server had before Restore. It also works in a later process.
// undone is false if there is no restore to undo, or a killed one had changed nothing. After an
// error, call it again.
func (r *Offline) Undo(ctx context.Context, s *backup.Stored) (undone bool, err error) {
	err = r.end(s, func(state *stateDir, j *journal) error {
		changed := j.Phase != phaseSaving
		err := r.back(ctx, state, j)
		undone = changed && err == nil
		return err
	})
	return undone, err
}

// Accept removes the replaced files, after which the restore cannot be undone.
func (r *Offline) Accept(ctx context.Context, s *backup.Stored) error {
	return r.end(s, func(state *stateDir, j *journal) error {
		if j.Phase != phaseRestored {
			return j.unfinished("it cannot be accepted", "finish it with Restore, or go back with Undo")
		}
		if err := state.next(ctx, j, phaseAccepted); err != nil {
			return err
		}
		return finishAccept(state, j)
	})
}

// finishAccept removes the replaced files. After the first removal there is no way back, so a
// process that finds the journal in this phase continues.
func finishAccept(state *stateDir, j *journal) error {
	for _, p := range j.Servers {
		err := p.check()
		if err == nil {
			err = p.clean(true)
		}
		if err != nil {
			return step.Fail("accept the restore of", "redis "+p.Addr, err)
		}
	}
	return state.remove()
}

func (r *Offline) end(s *backup.Stored, f func(*stateDir, *journal) error) error {
	if err := r.check(); err != nil {
		return err
	}
	state, err := openState(r.StateDir, r.Name(), true)
	if err != nil {
		return err
	}
	defer state.close()
	j, err := state.load()
	if err != nil || j == nil {
		return err
	}
	if err := j.fits("offline", r.target(), nil, s); err != nil {
		return err
	}
	if j.Phase == phaseAccepted {
		return finishAccept(state, j)
	}
	return f(state, j)
}

// back restores the files of every server, last one first. It leaves a server alone if its step
// fails, because a server that does not stop would overwrite restored files.
func (r *Offline) back(ctx context.Context, state *stateDir, j *journal) error {
	var errs []error
	if j.Phase != phaseSaving {
		errs = append(errs, state.next(ctx, j, phaseUndoing))
	}
	for _, p := range slices.Backward(j.Servers) {
		if err := r.backOne(ctx, p); err != nil {
			var kept []string
			for _, name := range p.Existed {
				kept = append(kept, filepath.Join(p.Dir, p.aside(name)))
			}
			errs = append(errs, &backup.Error{Op: "undo the restore of", Object: "redis " + p.Addr,
				Retry: true, Next: "fix the cause and call Undo",
				Err: fmt.Errorf("rollback failed; the server's previous files may be in %v: %w", kept, err)})
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return state.remove()
}

func (r *Offline) backOne(ctx context.Context, p *placed) error {
	if err := p.check(); err != nil {
		return err
	}
	if p.Step == "" {
		return p.clean(false)
	}
	i := slices.IndexFunc(r.Servers, func(s Server) bool { return s.Client.Options().Addr == p.Addr })
	if i < 0 {
		return errors.New("this server is not in Servers")
	}
	server := &r.Servers[i]
	n := server.node()
	if p.Step != stepStopping { // otherwise nothing is moved yet
		if err := n.down(ctx, server.Stop); err != nil {
			return err
		}
	}
	if err := p.putBack(); err != nil {
		return err
	}
	return n.up(ctx, server.Start)
}
