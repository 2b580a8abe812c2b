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

// Undo puts back what every server had before Restore, in this process or a
// later one. Without a restore to undo it does nothing. After an error it may be
// called again.
func (r *Offline) Undo(ctx context.Context, s *backup.Stored) error {
	return r.end(s, func(state *stateDir, j *journal) error { return r.back(ctx, state, j) })
}

// Accept removes what was moved aside: there is no Undo any more.
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

// finishAccept removes what was moved aside. There is no way back from the first
// name on, so whoever finds the journal in this phase continues.
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

// back puts back what every server had, last one first. A server whose step
// fails is left as it is: one that cannot be stopped would write over what is
// put back.
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
				Err: fmt.Errorf("rollback failed; what the server had may be in %v: %w", kept, err)})
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
		return errors.New("this server is not among those given")
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
