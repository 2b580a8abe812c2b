package mongodb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"go.mongodb.org/mongo-driver/bson/primitive"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb/internal/dump"
)

// snapshot fixes the cluster time for all reads, if the server supports that. The server must
// return a time, and the same one again on request.
func (d *dumping) snapshot(ctx context.Context) error {
	if d.m.Snapshot == SnapshotNever {
		return nil
	}
	refuse := func(err error) error {
		if d.m.Snapshot == SnapshotIfPossible && ctx.Err() == nil && !transient(err) {
			d.log.Info("no snapshot", "reason", d.conn.scrub(err))
			return nil
		}
		return &backup.Error{Op: "read a snapshot of", Object: d.conn.at, Err: d.conn.scrub(err),
			Next:  "back up without a snapshot, or from a replica set of MongoDB 5.0 or newer",
			Retry: transient(err)}
	}
	if !d.conn.replica || !d.conn.atLeast(5, 0) {
		return refuse(fmt.Errorf("a %s of version %s has none", d.conn.topology, d.conn.version))
	}
	data := slices.DeleteFunc(slices.Clone(d.spaces),
		func(s *dumpSpace) bool { return s.Type == dump.TypeView })
	// Capped collections cannot be read in snapshots by older servers.
	slices.SortStableFunc(data, func(a, b *dumpSpace) int {
		switch {
		case a.Capped() == b.Capped():
			return 0
		case b.Capped():
			return -1
		}
		return 1
	})
	if len(data) == 0 {
		return nil
	}
	if err := d.probe(ctx, data[0]); err != nil {
		d.reader.at = nil
		return refuse(err)
	}
	// A second question shows that the server reads at the time it is told. Of the others, only
	// capped collections can lack a snapshot; one that is too old shows when it is read.
	ask := append(data[:1:1], slices.DeleteFunc(data[1:],
		func(s *dumpSpace) bool { return !s.Capped() })...)
	err := each(ctx, questions, len(ask), func(ctx context.Context, i int) error {
		s := ask[i]
		err := d.probe(ctx, s)
		if err != nil && s.Capped() && d.m.Snapshot == SnapshotIfPossible && !transient(err) &&
			ctx.Err() == nil {
			d.log.Info("not in the snapshot", "collection", s.Namespace(), "reason", d.conn.scrub(err))
			s.apart = true
			d.lost.Store(true)
			return nil
		}
		return err
	})
	if err != nil {
		d.reader.at = nil
		return refuse(err)
	}
	return nil
}

// probe finds the time of the snapshot, or checks that a collection can be read at that time.
func (d *dumping) probe(ctx context.Context, s *dumpSpace) error {
	ask := &reader{conn: d.conn, pref: d.m.ReadPreference, at: cmp.Or(d.reader.at,
		&primitive.Timestamp{})}
	var got *primitive.Timestamp
	err := d.reader.persist(ctx, "snapshot probe", func() (err error) {
		got, err = ask.probe(ctx, s.DB, s.DataName())
		return err
	})
	switch {
	case err != nil:
		return err
	case got == nil:
		return errors.New("the server does not return the cluster time of its read")
	case d.reader.at == nil:
		d.reader.at = got
	case !got.Equal(*d.reader.at):
		return fmt.Errorf("the server read %s at another time than requested", s.Namespace())
	}
	return nil
}
