package mongodb

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/backup/mongodb/internal/dump"
)

// undo restores the previous state after an error. With Drop, it removes incomplete collections.
func (r *restoring) undo(ctx context.Context) error {
	ctx, cancel := step.Undoing(ctx)
	defer cancel()
	var notes []error
	for _, db := range r.databases() {
		n := cmp.Or(r.runs[db], &run{Phase: building})
		for _, j := range r.jobs {
			if i := n.index(j.Name); j.DB == db && i >= 0 {
				n.Jobs[i].made, n.Jobs[i].filled = j.made, j.filled
			}
		}
		if err := r.conn.takeBack(ctx, r.reader, db, n, true); err != nil {
			notes = append(notes, err)
			continue // the next run finds the journal
		}
		if i := slices.IndexFunc(r.leases, func(l *lease) bool { return l.db == db }); i >= 0 {
			notes = append(notes, r.conn.fail("remove the journal of", db, r.leases[i].forget(ctx)))
			r.leases = slices.Delete(r.leases, i, i+1)
		}
	}
	r.tell(&notes)
	return errors.Join(notes...)
}

// tell reports what a failed run did to each collection.
func (r *restoring) tell(notes *[]error) {
	lost, stayed := 0, 0
	for _, j := range r.jobs {
		if r.m.Mode == Drop && j.dropped && (j.filled || j.placed) {
			stayed++
			continue
		}
		j.item.Action, j.item.Detail = backup.ActionSkip, "not restored"
		if j.dropped {
			lost++
			j.item.Detail = "dropped and not restored: the dump is the only copy"
		}
	}
	for _, x := range r.extras {
		if x.item.Action == backup.ActionDrop && !(x.dropped && r.m.Mode == Drop) {
			x.item.Action, x.item.Detail = backup.ActionKeep, "not in the set, and not dropped"
		}
	}
	if stayed > 0 {
		*notes = append(*notes, fmt.Errorf("%d of %d collections were put in place before the error",
			stayed, len(r.jobs)))
	}
	if lost > 0 {
		*notes = append(*notes, fmt.Errorf("%d collections were dropped before the error, as this mode "+
			"does: restore again", lost))
	}
}

// takeBack restores the previous state of a database from a run's journal. It can be called again,
// and does only what is left to do. With sure, the run is our own, so that its collections are
// known for certain.
func (c *conn) takeBack(ctx context.Context, r *reader, db string, n *run, sure bool) error {
	var all, ours []*dump.Space
	err := r.persist(ctx, "list "+db, func() (err error) {
		all, ours, err = c.spaces(ctx, db)
		return err
	})
	if err != nil {
		return c.fail("list the collections of", db, err)
	}
	there := map[string]*dump.Space{}
	for _, s := range slices.Concat(all, ours) {
		there[s.Name] = s
	}
	var left []string
	var failed []error
	for _, j := range n.Jobs {
		if err := c.takeJobBack(ctx, r, db, n, j, there, sure); err != nil {
			left = append(left, db+"."+cmp.Or(j.Temp, j.Name))
			failed = append(failed, c.fail("restore the previous state of", db+"."+j.Name, err))
		}
	}
	if len(left) == 0 {
		return nil
	}
	return errors.Join(fmt.Errorf("rollback failed, and these collections are left: %s; restore "+
		"again, or call Prune", strings.Join(left, ", ")), errors.Join(failed...))
}

func (c *conn) takeJobBack(ctx context.Context, r *reader, db string, n *run, j runJob,
	there map[string]*dump.Space, sure bool) error {
	drop := func(name string) error {
		return r.persist(ctx, "drop "+db+"."+name, func() error { return c.drop(ctx, db, name) })
	}
	now := there[j.Name]
	if j.Type == dump.TypeView || j.View != nil {
		return c.takeViewBack(ctx, db, n, j, now, sure)
	}
	if j.Temp == "" && !j.Extra {
		ours := j.made
		if now != nil && !ours && !sure && !j.Live { // killed between create and its record
			docs, err := c.holds(ctx, db, (&dump.Space{Name: j.Name, Type: j.Type}).DataName())
			if err != nil {
				return err
			}
			ours = docs == 0
		}
		if ours && now != nil && (n.Mode != Drop || !j.filled) {
			return drop(j.Name)
		}
		return nil
	}
	ready := there[j.Temp] != nil // and not placed
	if ready {
		if err := drop(j.Temp); err != nil {
			return err
		}
	}
	placed := !ready && n.Phase != building && now != nil && (j.UUID == "" || now.UUID == "" ||
		now.UUID == j.UUID)
	switch {
	case j.Kept != "" && there[j.Kept] != nil && j.Extra && now != nil:
		return fmt.Errorf("a new collection has the name; the previous one is %s.%s", db, j.Kept)
	case j.Kept != "" && there[j.Kept] != nil:
		// The collection with the name is the new one, or was created during the swap.
		return c.rename(ctx, r, db, j.Kept, j.Name, now != nil)
	case placed && !j.Live && !j.Extra:
		return drop(j.Name)
	}
	return nil
}

func (c *conn) takeViewBack(ctx context.Context, db string, n *run, j runJob, now *dump.Space,
	sure bool) error {
	switch {
	case n.Phase == building:
		return nil
	case j.View != nil:
		return c.viewBack(ctx, &dump.Space{DB: db, Name: j.Name, Type: dump.TypeView, Options: j.View})
	case j.Live || sure && !j.made || now == nil:
		return nil
	}
	if now.Type == dump.TypeView && bytes.Equal(now.Options, j.New) {
		return c.drop(ctx, db, j.Name)
	}
	return nil
}

// finish ends a killed run: forward if its result was accepted, otherwise back.
func (c *conn) finish(ctx context.Context, r *reader, db string, n *run) error {
	if n.Phase == accepting {
		return c.dropKept(ctx, r, db, n)
	}
	return c.takeBack(ctx, r, db, n, false)
}

// forgetRun removes all but the lease from a journal.
func (c *conn) forgetRun(ctx context.Context, db string, n *run) error {
	ids := []any{runID}
	for i := range n.Jobs {
		ids = append(ids, i)
	}
	return c.run(ctx, db, deleteIDs(ids))
}

// dropKept drops the collections that a run replaced.
func (c *conn) dropKept(ctx context.Context, r *reader, db string, n *run) error {
	return each(ctx, questions, len(n.Jobs), func(ctx context.Context, i int) error {
		name := n.Jobs[i].Kept
		if name == "" {
			return nil
		}
		return c.fail("drop", db+"."+name, r.persist(ctx, "drop "+name, func() error {
			return c.drop(ctx,
				db, name)
		}))
	})
}

// Undo implements [backup.Undoer]. It gives the replaced collections their names back and drops the
// new ones, with everything that was written to them since. It works in a later process too. After
// a restore in the mode [Drop] it returns an error. undone is false if no database has a restore to
// undo.
func (m *Restore) Undo(ctx context.Context, s *backup.Stored) (undone bool, err error) {
	data, err := openStored(ctx, s)
	if err != nil {
		return false, err
	}
	return m.end(ctx, data, undoing)
}

// Accept implements [backup.Accepter]. It drops the collections that Restore replaced. It works in
// a later process too.
func (m *Restore) Accept(ctx context.Context, s *backup.Stored) error {
	data, err := openStored(ctx, s)
	if err != nil {
		return err
	}
	_, err = m.end(ctx, data, accepting)
	return err
}

// end undoes or accepts the run of a dump in every database that has one. It reports whether one
// had.
func (m *Restore) end(ctx context.Context, data *source, to phase) (found bool, _ error) {
	m.verified = nil
	r, err := m.begin(ctx, data)
	if err != nil {
		return false, err
	}
	defer r.conn.close(ctx)
	var failed []error
	for _, db := range r.databases() {
		had, err := r.conn.endRun(ctx, r.reader, db, m.leaseLength(), to, func(n *run) error {
			switch {
			case n.Source != data.digest:
				return unaccepted(db, n)
			case to == undoing && n.Phase == accepting:
				return &backup.Error{Op: "undo the restore of", Object: db,
					Err: errors.New("it was accepted, so the replaced collections are gone"), Next: "restore an older set"}
			case to == undoing && n.Mode == Drop:
				return &backup.Error{Op: "undo the restore of", Object: db,
					Err: errors.New("the mode drop does not keep the replaced collections"), Next: "restore an older set"}
			case to == accepting && n.Phase != replaced && n.Phase != accepting:
				return &backup.Error{Op: "accept the restore of", Object: db,
					Err: fmt.Errorf("it did not finish (%s)", n.Phase), Next: "call Undo, or restore again"}
			}
			return nil
		})
		if err != nil {
			failed = append(failed, r.failed(ctx, err))
		}
		found = found || had && err == nil
	}
	return found, errors.Join(failed...)
}

func (m *Restore) leaseLength() time.Duration { return cmp.Or(m.lease, leaseTime) }
