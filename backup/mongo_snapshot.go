package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"go.mongodb.org/mongo-driver/bson/primitive"
)

// snapshot fixes the cluster time to read at, where the server proves that it
// will: it has to name the time, and the same one again when asked for it.
func (d *dumping) snapshot(ctx context.Context) error {
	if d.m.Snapshot == SnapshotNever {
		return nil
	}
	refuse := func(err error) error {
		if d.m.Snapshot == SnapshotIfPossible && ctx.Err() == nil && !mongoTransient(err) {
			d.log.Info("no snapshot", "reason", d.conn.scrub(err))
			return nil
		}
		return &Error{Op: "read a snapshot of", Object: d.conn.at, Err: d.conn.scrub(err), Next: "back up without a snapshot, or from a replica set of MongoDB 5.0 or newer", Retry: mongoTransient(err)}
	}
	if !d.conn.replica || !d.conn.atLeast(5, 0) {
		return refuse(fmt.Errorf("a %s of version %s has none", d.conn.topology, d.conn.version))
	}
	data := slices.DeleteFunc(slices.Clone(d.spaces), func(s *dumpSpace) bool { return s.Type == typeView })
	// Capped collections cannot be read in snapshots by older servers.
	slices.SortStableFunc(data, func(a, b *dumpSpace) int {
		switch {
		case a.capped() == b.capped():
			return 0
		case b.capped():
			return -1
		}
		return 1
	})
	for _, s := range data {
		err := d.probe(ctx, s)
		if err == nil {
			continue
		}
		if s.capped() && d.reader.at != nil && d.m.Snapshot == SnapshotIfPossible && !mongoTransient(err) && ctx.Err() == nil {
			d.log.Info("not in the snapshot", "collection", s.namespace(), "reason", d.conn.scrub(err))
			s.apart = true
			d.lost.Store(true)
			continue
		}
		d.reader.at = nil
		return refuse(err)
	}
	return nil
}

// probe finds the time of the snapshot, or checks that a collection can be
// read at it.
func (d *dumping) probe(ctx context.Context, s *dumpSpace) error {
	ask := &mongoReader{conn: d.conn, pref: d.m.ReadPreference, at: cmp.Or(d.reader.at, &primitive.Timestamp{})}
	var got *primitive.Timestamp
	err := d.reader.persist(ctx, "snapshot probe", func() (err error) {
		got, err = ask.probe(ctx, s.DB, s.dataName())
		return err
	})
	switch {
	case err != nil:
		return err
	case got == nil:
		return errors.New("the server does not name the cluster time it read at")
	case d.reader.at == nil:
		d.reader.at = got
	case !got.Equal(*d.reader.at):
		return fmt.Errorf("the server read %s at another time than it was asked to", s.namespace())
	}
	return nil
}
