package mongodb

import (
	"context"
	"errors"
)

// hold takes the lease of every database, and ends killed runs there.
func (r *restoring) hold(ctx context.Context) error {
	for _, db := range r.databases() {
		l, old, err := acquire(ctx, r.reader, db, r.token, r.m.leaseLength())
		if err != nil {
			return err
		}
		if old != nil {
			if err := r.clean(ctx, db, old); err != nil {
				l.release(ctx) // with its journal
				return err
			}
		}
		r.leases = append(r.leases, l)
	}
	return nil
}

// clean finishes or undoes an earlier run.
func (r *restoring) clean(ctx context.Context, db string, old *run) error {
	if old.Phase == replaced {
		return unaccepted(db, old)
	}
	r.log.Warn("a restore was killed", "database", db, "began", old.Started, "phase", old.Phase)
	r.notes = append(r.notes, note(db, old, true))
	if err := r.conn.finish(ctx, r.reader, db, old); err != nil {
		return err
	}
	return r.conn.forgetRun(ctx, db, old)
}

// forget removes the journals of a run that changed nothing.
func (r *restoring) forget(ctx context.Context) error {
	ctx, cancel := aside(ctx)
	defer cancel()
	var failed []error
	for _, l := range r.leases {
		if err := l.forget(ctx); err != nil {
			failed = append(failed, r.conn.fail("remove the journal of", l.db, err))
		}
	}
	r.leases = nil
	return errors.Join(failed...)
}

// letGo releases the remaining leases.
func (r *restoring) letGo(ctx context.Context) {
	for _, l := range r.leases {
		l.release(ctx)
	}
}
