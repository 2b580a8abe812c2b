package postgres

import (
	"context"
	"errors"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// Prove compares the live databases with a set, object by object and row by row.
func (s *Source) Prove(ctx context.Context, st *backup.Stored) error {
	r := &Restore{Server: s.Server, Component: s.Component, Databases: s.Databases,
		NoOwner: s.NoOwner}
	return r.Prove(ctx, st)
}

// Scratch is a [backup.Prover] that restores each database under a temporary name, compares it with
// the set and drops it. It changes no other database. The server needs space for one database at a
// time.
type Scratch struct {
	Server    Server
	Component string // name in the set; empty: "postgres"
	NoOwner   bool   // see Restore.NoOwner
}

// Name returns the component's name.
func (s *Scratch) Name() string { return name(s.Component) }

// Prove restores each database, compares it with the set and drops it.
func (s *Scratch) Prove(ctx context.Context, st *backup.Stored) error {
	r := &Restore{Server: s.Server, Component: s.Component, NoOwner: s.NoOwner}
	w, q, err := r.open(ctx, st)
	if err != nil {
		return err
	}
	defer func() { q.close() }()
	if err := r.checkServer(ctx, w, q); err != nil {
		return err
	}
	for _, db := range w.dbs {
		if err := r.checkNeeds(w, q, db); err != nil {
			return err
		}
		name := runName(db.Name, "try", w.id())
		_, err := r.build(ctx, w, q, db, name, func(string) {})
		if err := errors.Join(step.WithEnd(ctx, err), w.dropOne(ctx, name)); err != nil {
			return step.Fail("compare", "database "+db.Name, err)
		}
	}
	return nil
}

func (w *work) dropOne(ctx context.Context, name string) error {
	ctx, cancel := step.Undoing(ctx)
	defer cancel()
	q, err := w.c.connect(ctx, w.c.maintenance())
	if err != nil {
		return err
	}
	defer q.close()
	_, err = q.query(w.drop(name))
	return err
}
