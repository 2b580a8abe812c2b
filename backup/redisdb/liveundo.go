package redisdb

import (
	"context"
	"errors"
	"fmt"

	"example.com/tykupgrade/backup"
)

// Undo restores the data that Restore replaced, or removes the keys that it wrote into an empty
// target. It also works in a later process. It checks the saved set before it removes anything.
// undone is false if there is no restore to undo, or a killed one had changed nothing. After an
// error, call it again.
func (r *Live) Undo(ctx context.Context, s *backup.Stored) (undone bool, err error) {
	state, err := openState(r.StateDir, r.Name(), true)
	if err != nil {
		return false, err
	}
	defer state.close()
	j, err := state.load()
	if err != nil || j == nil {
		return false, err
	}
	topo, err := topologyOf(ctx, r.Client, r.Commands)
	if err != nil {
		return false, err
	}
	if err := j.fits("live", topo.origin(), topo.ids, s); err != nil {
		return false, err
	}
	changed := j.Phase != phaseSaving
	err = r.back(ctx, state, j, s)
	return changed && err == nil, err
}

// back restores the previous data.
func (r *Live) back(ctx context.Context, state *stateDir, j *journal, s *backup.Stored) error {
	err := r.goBack(ctx, state, j, s)
	if err == nil {
		return state.remove()
	}
	where := "the server may have keys of the set"
	if j.Rescue != "" {
		where = "the server's previous data is in the set " + j.Rescue
	}
	return &backup.Error{Op: "undo the restore of", Object: j.Target,
		Err: fmt.Errorf("rollback failed, %s: %w", where, err), Next: "fix the cause and call Undo",
		Retry: true}
}

func (r *Live) goBack(ctx context.Context, state *stateDir, j *journal, s *backup.Stored) error {
	if j.Phase == phaseSaving {
		return nil
	}
	topo, err := topologyOf(ctx, r.Client, r.Commands)
	if err != nil {
		return err
	}
	w := newWriter(ctx, topo.nodes, func(int) {})
	defer w.close()
	if j.Rescue == "" {
		d, err := detailsOf(s)
		if err == nil {
			err = state.next(ctx, j, phaseUndoing)
		}
		if err == nil {
			err = (&remover{w: w, acked: j.Acked, sent: j.Sent}).run(s, d)
		}
		for _, n := range d.Nodes {
			if err == nil && n.RDB.Functions > 0 {
				err = topo.flushFunctions(ctx)
			}
		}
		return err
	}
	old, d, err := openRescue(ctx, j)
	if err == nil {
		err = state.next(ctx, j, phaseUndoing)
	}
	if err == nil {
		err = topo.flush(ctx, true)
	}
	if err == nil {
		w.replace = true
		err = w.write(old, d)
	}
	return err
}

// Accept removes the journal, after which the restore cannot be undone. The set of the replaced
// data stays in StateDir.
func (r *Live) Accept(ctx context.Context, s *backup.Stored) error {
	state, err := openState(r.StateDir, r.Name(), true)
	if err != nil {
		return err
	}
	defer state.close()
	j, err := state.load()
	if err != nil || j == nil {
		return err
	}
	if j.Set != identity(s) {
		return j.fits(j.Kind, j.Target, nil, s)
	}
	if j.Phase != phaseRestored {
		return j.unfinished("it cannot be accepted", "call Restore to finish it, or Undo to go back")
	}
	return state.remove()
}

// errKept means that the servers still have all their data.
var errKept = errors.New("nothing was removed")

// flush empties every node. The error matches errKept if the first one refused.
func (t *topology) flush(ctx context.Context, functions bool) error {
	for i, n := range t.nodes {
		c, err := n.open(ctx, 0)
		if err != nil {
			return err
		}
		c.idle = slowLimit
		_, err = c.command("FLUSHALL")
		c.close()
		if err != nil && i == 0 && isReply(err) {
			err = fmt.Errorf("%w (%w)", err, errKept)
		}
		if err != nil {
			return serverError("empty", n.object(), ctxFirst(ctx, err))
		}
	}
	if functions {
		return t.flushFunctions(ctx)
	}
	return nil
}

// flushFunctions removes the function libraries, if the servers support them.
func (t *topology) flushFunctions(ctx context.Context) error {
	for _, n := range t.nodes {
		if err := n.do(ctx, "FUNCTION", "FLUSH").Err(); err != nil && !unknownCommand(err) {
			if held, e := n.holdsFunctions(ctx); e == nil && !held {
				continue
			}
			return serverError("remove the functions of", n.object(), err)
		}
	}
	return nil
}
