package mongodb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// Restore is a [backup.Restorer] for the component of a [Source]. It also restores a [Dump].
//
// Restore writes documents into new collections next to the live ones. It reads each back once and
// compares count, digest and indexes with the dump. If all are equal, it renames the live
// collections to names of the run, and then the new ones to theirs, see [Mode]. Until then the live
// collections are unchanged. The replaced ones stay on the server, and need their space, until
// [Restore.Accept] drops them or [Restore.Undo] restores them.
//
// Prove of the same value finds the collections by their UUIDs and compares their options. It does
// not read them again, because clients may have written to them since the swap. Any other Prove
// reads all documents.
//
// A run keeps a journal in the collection tykupgrade_restore of each database. While it is alive, a
// second run in the same database is refused with [backup.ErrLocked]. After kill -9 the next
// Restore undoes the killed one and begins from scratch. It may have to wait up to a minute.
// [Leftovers] shows what a killed run left, and [Prune] removes it.
//
// The user needs the roles "readWrite" and "dbAdmin" on the databases (or "restore" and
// "readWrite"). Validators are bypassed (bypassDocumentValidation, part of dbAdmin), because the
// dumped server had accepted the documents.
type Restore struct {
	Component string // name in the set; empty: "mongo"
	Server    Server
	Mode      Mode
	Include   []string // patterns of database.collection as in the dump; empty: everything
	Exclude   []string // patterns of what to leave out; wins over Include
	// NoIndexes restores and compares only documents and options. Use it if the server refuses
	// an index, and create the indexes by hand.
	NoIndexes bool
	// NoOptions creates collections without options such as capped, collation and validator,
	// and does not compare them. Views and time series keep the options that define them.
	NoOptions bool
	// DropExtra drops collections that the set would have included, but does not have, such as
	// those of a newer version after an aborted upgrade. Otherwise they stay, and the report
	// names them. mongorestore --drop keeps them silently. With Replace they are renamed first,
	// like replaced collections.
	DropExtra bool
	Parallel  int          // collections at a time; 0: 4, or 16 if all are small
	Log       *slog.Logger // nil: silent

	lease    time.Duration     // how long a silent run counts as alive; 0: leaseTime
	verified map[string]string // UUIDs of what the last Restore compared, for one Prove
}

// Mode is what a restore does with existing collections.
type Mode int

// The modes.
const (
	// New refuses to change a collection that exists and is not empty.
	New Mode = iota
	// Replace restores next to the live collections and swaps at the end. A swap is two
	// renames, between which the collection's name is missing for a moment. A document that is
	// written during the swap is replaced too. Time series and system.js cannot be renamed, so
	// existing ones are refused.
	Replace
	// Drop drops each live collection and restores in its place, for servers without space for
	// both. After a failure the dump is the only copy, and Undo returns an error.
	Drop
)

func (m Mode) String() string {
	switch m {
	case New:
		return "new"
	case Replace:
		return "replace"
	case Drop:
		return "drop"
	}
	return fmt.Sprintf("Mode(%d)", int(m))
}

var (
	_ backup.Restorer = (*Restore)(nil)
	_ backup.Undoer   = (*Restore)(nil)
	_ backup.Accepter = (*Restore)(nil)
)

// Name implements [backup.Restorer].
func (m *Restore) Name() string { return cmp.Or(m.Component, "mongo") }

// Plan implements [backup.Restorer].
func (m *Restore) Plan(ctx context.Context, s *backup.Stored) ([]backup.Item, error) {
	data, err := openStored(ctx, s)
	if err != nil {
		return nil, err
	}
	return m.plan(ctx, data)
}

// Restore implements [backup.Restorer].
func (m *Restore) Restore(ctx context.Context, s *backup.Stored,
	progress func(backup.Event)) ([]backup.Item, error) {
	data, err := openStored(ctx, s)
	if err != nil {
		return nil, err
	}
	return m.restore(ctx, data, progress)
}

// Prove implements [backup.Restorer]. It compares options, indexes, count and digest of every
// collection. On both sides it leaves out documents that a TTL index has removed since, or may
// remove within a day. With DropExtra, a collection that the set does not have is a difference too.
func (m *Restore) Prove(ctx context.Context, s *backup.Stored) error {
	data, err := openStored(ctx, s)
	if err != nil {
		return err
	}
	return m.prove(ctx, data, m.DropExtra)
}

// VerifiesStructure implements [backup.StructureVerifier]. It returns true if every document is
// checked on its way into a new collection. With patterns it returns false, and in the mode Drop, in
// which live collections are dropped first.
func (m *Restore) VerifiesStructure() bool {
	return m.Mode != Drop && patterns{m.Include, m.Exclude}.everything()
}

func (m *Restore) check() error {
	if err := checkParallel(m.Parallel); err != nil {
		return err
	}
	if m.Mode < New || m.Mode > Drop {
		return fmt.Errorf("unknown mode %d (want New, Replace or Drop)", m.Mode)
	}
	if m.DropExtra && m.Mode == New {
		return errors.New("DropExtra needs the mode Replace or Drop")
	}
	return patterns{m.Include, m.Exclude}.check()
}

// restore restores the dump. The report has the state of every collection.
func (m *Restore) restore(ctx context.Context, data *source,
	progress func(backup.Event)) (items []backup.Item, err error) {
	m.verified = nil
	r, err := m.begin(ctx, data)
	if err != nil {
		return nil, err
	}
	defer r.conn.close(ctx)
	if progress != nil {
		r.progress = progress
	}
	if r.conn.exposed != "" {
		r.log.Warn(r.conn.exposed)
	}
	if err := r.hold(ctx); err != nil {
		return nil, errors.Join(r.failed(ctx, err), r.forget(ctx))
	}
	defer r.letGo(ctx)
	if err := r.look(ctx); err != nil {
		return nil, errors.Join(r.failed(ctx, err), r.forget(ctx))
	}
	if items, err := r.plan(ctx); err != nil {
		return items, errors.Join(err, r.forget(ctx))
	}
	r.name()
	if err = r.run(ctx); err != nil {
		err = r.failed(ctx, err)
		if undo := r.undo(ctx); undo != nil {
			err = errors.Join(err, undo)
		}
		return r.report(), err
	}
	m.verified = r.checked
	return r.report(), nil
}

func (r *restoring) failed(ctx context.Context, err error) error {
	if e := step.Ended(ctx); e != nil {
		err = e
	}
	return r.conn.fail("restore", r.conn.at, err)
}

func (r *restoring) run(ctx context.Context) error {
	if err := r.save(ctx, building); err != nil {
		return err
	}
	var data []*job
	for _, j := range r.jobs {
		if j.Data != "" {
			data = append(data, j)
		}
	}
	err := largestFirst(ctx, r.parallel(), data, func(ctx context.Context, j *job) error {
		return r.conn.fail("restore", j.to(), r.fill(ctx, j))
	})
	if err != nil {
		return err
	}
	if err := r.identities(ctx); err != nil {
		return err
	}
	for _, l := range r.leases {
		if err := l.renew(ctx); err != nil {
			return err
		}
	}
	if err := r.save(ctx, swapping); err != nil {
		return err
	}
	if err := r.swapAll(ctx); err != nil {
		return err
	}
	return r.save(ctx, replaced)
}

// told adds documents to the progress.
func (r *restoring) told(j *job, docs, bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.docs += docs
	r.bytes += bytes
	j.done += docs
	r.progress(backup.Event{Component: r.m.Name(), Phase: backup.PhaseRestore, Item: j.to(),
		Items: r.docs, TotalItems: r.totalDocs, Bytes: r.bytes, TotalBytes: r.totalBytes,
		ItemDone: j.done, ItemTotal: j.Count})
}
