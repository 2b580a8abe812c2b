package redisdb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// Live is a [backup.Restorer] that writes the set key by key with RESTORE into running servers. The
// target is one server, the master that Sentinel names, or a cluster of any size. It needs Redis
// 5.0 or newer.
//
// A target with keys or functions is refused unless Replace is set. With Replace, Restore first
// takes a set of the target's data into StateDir and reads it back. Then it empties the target. If
// the target was empty, a failure leaves it empty.
//
// Plan refuses what would fail later: a newer data format, too few databases, missing modules, too
// little maxmemory, or a value over the server's limit. It also refuses missing permissions, and a
// target whose data could not be restored. It checks permissions with some keys of the set, not
// with all.
//
// StateDir has a journal. After kill -9, Restore with the same set and StateDir goes forward, and
// Undo goes back. With another set, Plan and Restore return [ErrUnfinished] with the state of the
// servers. If Replace was set, Undo loses the writes of clients since Restore.
//
// If a server is restarted, or replaced by a failover, while Restore writes, Restore fails with
// [ErrRestarted] and restores the previous data. A failover in the last seconds can still lose
// keys, because Redis replicates after it has answered.
//
// The report has a warning if a connection leaves this machine without TLS.
//
// Accept removes the journal. The set of the replaced data stays in StateDir, where [backup.Prune]
// can remove it.
type Live struct {
	Client    redis.UniversalClient
	StateDir  string // directory for the journal and the set of the replaced data
	Component string // name in the set; empty: "redis"
	Replace   bool   // replace all data of the target
	Sample    int    // Prove compares this many random keys; 0: all

	// Rescue is the method that reads the target before it is emptied: PSYNC or DUMP. Empty:
	// the method of the set. Plan refuses a method that the user may not run.
	Rescue Method

	Commands map[string]string // as in [Source]
}

// Name returns the component's name.
func (r *Live) Name() string { return named(r.Component) }

// Plan refuses a set that cannot be loaded, and returns an item for each file. It changes nothing.
func (r *Live) Plan(ctx context.Context, s *backup.Stored) ([]backup.Item, error) {
	state, err := openState(r.StateDir, r.Name(), false)
	if err != nil {
		return nil, err
	}
	t, err := r.look(ctx, s, state)
	if err != nil {
		return nil, err
	}
	return t.items(r.StateDir), nil
}

func (t *target) items(dir string) []backup.Item {
	var items []backup.Item
	for _, n := range t.details.Nodes {
		i := backup.Item{Name: n.File, Action: backup.ActionCreate, Count: n.RDB.Keys, Bytes: n.RDB.Size,
			Detail: "key by key into " + t.topo.origin()}
		if t.holds || t.resume != nil && t.resume.Rescue != "" {
			i.Action = backup.ActionReplace
		}
		switch {
		case t.resume != nil && t.resume.Phase == phaseRestored:
			i.Action, i.Detail = backup.ActionSame, "restored at "+t.resume.Started.Format(time.RFC3339)+
				", and compared just now"
		case t.resume != nil:
			i.Detail += "; continues the restore of " + t.resume.Started.Format(time.RFC3339) + ": " +
				t.resume.state()
		case t.holds:
			i.Detail += "; its present data goes into a set in " + dir + " first"
		}
		if n.RDB.Empty > 0 {
			i.Detail += fmt.Sprintf("; %d collections without elements are left out", n.RDB.Empty)
		}
		if len(items) == 0 {
			i.Detail += t.plaintext()
		}
		items = append(items, i)
	}
	return items
}

// plaintext returns a warning about the first connection that is not encrypted.
func (t *target) plaintext() string {
	for _, n := range t.topo.nodes {
		if warning := n.plaintext(); warning != "" {
			return "; " + warning
		}
	}
	return ""
}

// Restore writes the set. After a failure it restores the previous data, even if ctx has ended. If
// that fails too, call Undo.
func (r *Live) Restore(ctx context.Context, s *backup.Stored,
	progress func(backup.Event)) ([]backup.Item, error) {
	state, err := openState(r.StateDir, r.Name(), true)
	if err != nil {
		return nil, err
	}
	defer state.close()
	t, err := r.look(ctx, s, state)
	if err != nil {
		return nil, err
	}
	items := t.items(r.StateDir)
	j := t.resume
	if j != nil && j.Phase == phaseRestored {
		return items, nil
	}
	if j == nil {
		j = newJournal("live", r.Name(), t.topo.origin(), s)
		j.TargetIDs = t.topo.ids
		if err := r.save(ctx, state, j, t); err != nil {
			return nil, errors.Join(err, state.remove())
		}
	}
	if j.Rescue != "" {
		for i := range items {
			items[i].Detail = "key by key into " + t.topo.origin() + "; its previous data is in the set " +
				j.Rescue
		}
		items[0].Detail += t.plaintext()
	}
	e := backup.Event{Component: r.Name(), Phase: backup.PhaseRestore, TotalBytes: s.Bytes,
		TotalItems: s.Items}
	err = r.write(ctx, state, j, t, s, func(keys int) {
		if e.Items += int64(keys); s.Items > 0 {
			// More is sent than the file contains, because each key has its own footer.
			e.Bytes = s.Bytes * e.Items / s.Items
		}
		progress(e)
	})
	if err != nil {
		ctx, cancel := step.Undoing(ctx)
		defer cancel()
		return items, errors.Join(serverError("write to", t.topo.origin(), err), r.back(ctx, state, j, s))
	}
	e.Done, e.Items, e.Bytes = true, s.Items, s.Bytes
	progress(e)
	return items, nil
}

// save takes a set of the target's data and reads it back.
func (r *Live) save(ctx context.Context, state *stateDir, j *journal, t *target) error {
	if err := state.save(ctx, j); err != nil || !t.holds {
		return err
	}
	set, err := backup.Take(ctx, state.dir, backup.Options{Label: "replaced by the restore of " +
		j.SetDir},
		&Source{Client: r.Client, Component: r.Name(), Method: t.rescue, Commands: r.Commands})
	if err != nil {
		return fmt.Errorf("save the target's data: %w", err)
	}
	j.Rescue = set.Dir
	if _, _, err = openRescue(ctx, j); err != nil {
		err = errors.Join(err, os.RemoveAll(set.Dir))
	}
	return err
}

// openRescue opens and checks the set of the previous data.
func openRescue(ctx context.Context, j *journal) (*backup.Stored, Details, error) {
	var d Details
	set, err := backup.Open(j.Rescue)
	if err == nil {
		err = set.Verify(ctx, backup.VerifyOptions{})
	}
	if err != nil {
		return nil, d, err
	}
	old, ok := set.Component(j.Component)
	if !ok {
		return nil, d, fmt.Errorf("the set %s has no component %q", j.Rescue, j.Component)
	}
	if d, err = detailsOf(old); err != nil {
		return nil, d, err
	}
	for _, n := range d.Nodes {
		if err := returns(j.Target, n.RDB); err != nil {
			return nil, d, err
		}
	}
	return old, d, nil
}

// write empties the target if necessary, and writes the set.
func (r *Live) write(ctx context.Context, state *stateDir, j *journal, t *target, s *backup.Stored,
	count func(int)) error {
	if fresh := j.Phase == phaseSaving; j.Phase == phaseEmptying || fresh && t.holds {
		if err := state.next(ctx, j, phaseEmptying); err != nil {
			return err
		}
		if err := t.topo.flush(ctx, true); err != nil {
			if fresh && errors.Is(err, errKept) { // there is nothing to restore
				err = errors.Join(err, state.next(ctx, j, phaseSaving))
			}
			return err
		}
	}
	if err := state.next(ctx, j, phaseWriting); err != nil {
		return err
	}
	w := newWriter(ctx, t.topo.nodes, count)
	w.skip = j.Acked
	var saved chan error // not nil while the journal is being written
	last := time.Now()
	w.saved = func(acked int64) (err error) {
		select {
		case err = <-saved:
			saved = nil
		default:
		}
		if err != nil || saved != nil || time.Since(last) < journalEvery || acked <= j.Acked {
			return err
		}
		last, j.Acked = time.Now(), acked
		now, done := *j, make(chan error, 1)
		saved = done
		go func() { done <- state.save(ctx, &now) }() // the server need not wait for our disk
		return nil
	}
	err := w.write(s, t.details)
	w.close()
	if saved != nil {
		if e := <-saved; err == nil {
			err = e
		}
	}
	if j.Acked = max(j.Acked, w.acked()); err != nil {
		j.Sent = max(1, w.next)
		return err
	}
	if err := errors.Join(t.evicted(ctx), t.topo.stillMaster(ctx, r.Client)); err != nil {
		return err
	}
	return state.next(ctx, j, phaseRestored)
}

// journalEvery is how often the journal gets the number of written keys.
const journalEvery = time.Second

// Prove compares the target with the set, as [Source.Prove] does. It changes
// nothing.
func (r *Live) Prove(ctx context.Context, s *backup.Stored) error {
	return (&Source{Client: r.Client, Commands: r.Commands, Sample: r.Sample}).Prove(ctx, s)
}

var (
	_ backup.Restorer = (*Live)(nil)
	_ backup.Undoer   = (*Live)(nil)
	_ backup.Accepter = (*Live)(nil)
)
