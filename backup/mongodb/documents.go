package mongodb

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/backup/mongodb/internal/dump"
)

// mostIDs bounds the memory that finds duplicates to 32 MB per collection.
const mostIDs = 4 << 20

// dumpDocuments writes the .bson file of a collection. If reading must begin again, it starts the
// file from scratch.
func (d *dumping) dumpDocuments(ctx context.Context, s *dumpSpace, packer *gzip.Writer) error {
	reader := *d.reader
	if s.apart {
		reader.at = nil
	}
	read := func() error { return d.readInto(ctx, &reader, s, packer) }
	err := d.reader.persist(ctx, s.Namespace(), read)
	if c := code(err); reader.at != nil && d.m.Snapshot == SnapshotIfPossible &&
		(c == codeSnapshotTooOld || c == codeSnapshotUnavailable) {
		d.log.Warn("the snapshot has expired, reading without it", "collection", s.Namespace(), "error",
			d.conn.scrub(err))
		d.lost.Store(true)
		reader.at = nil
		err = d.reader.persist(ctx, s.Namespace(), read)
	}
	if c := code(err); c == codeQueryPlanKilled || c == codeNamespaceNotFound {
		return &backup.Error{Op: "dump", Object: s.Namespace(), Kind: backup.ErrChanged,
			Err: d.conn.scrub(err), Next: "back up again while no collection is dropped or renamed",
			Retry: true}
	}
	return err
}

// readInto reads a collection once into its file.
func (d *dumping) readInto(ctx context.Context, r *reader, s *dumpSpace,
	packer *gzip.Writer) error {
	name := path.Join(s.DB, dump.FileName(s.DataName())+dump.BSONSuffix)
	if packer != nil {
		name += dump.GzipSuffix
	}
	label := s.Namespace()
	var t dump.Tally
	var told, written int64
	ids := &dump.IDs{Most: mostIDs}
	f, err := d.w.Create(ctx, name, nil, func(w io.Writer) error {
		out := bufio.NewWriterSize(&step.Meter{W: w, Add: func(n int64) { written += n }}, 64<<10)
		w = out
		if packer != nil {
			packer.Reset(out)
			w = packer
		}
		err := r.each(ctx, s.DB, s.DataName(), s.size/max(s.count, 1), func(doc []byte) error {
			t.Add(doc)
			if r.at == nil {
				ids.Add(doc)
			}
			if t.Count-told == 4096 {
				d.w.ItemProgress(label, 0, 4096, t.Count, s.count)
				told = t.Count
			}
			_, err := w.Write(doc)
			return err
		})
		if err == nil && packer != nil {
			err = packer.Close()
		}
		if err == nil {
			err = out.Flush()
		}
		return err
	})
	d.w.ItemProgress(label, 0, t.Count-told, t.Count, t.Count)
	if err != nil {
		d.w.Progress(label, -written, -t.Count)
		return err
	}
	s.out.Data = strings.TrimPrefix(f.Path, d.w.Component()+"/")
	s.out.Count, s.out.Bytes, s.out.Digest = t.Count, t.Bytes, t.Sum.String()
	twice, all := ids.Count()
	s.out.Duplicates, s.unchecked = twice, !all
	return nil
}

// compare lists the collections again and refuses changes. The dump would have only parts of a
// collection that was created, dropped, renamed or altered meanwhile.
func (d *dumping) compare(ctx context.Context) error {
	changed := func(err error) error {
		return &backup.Error{Op: "dump", Object: d.conn.at, Kind: backup.ErrChanged, Err: err,
			Next: "back up again while no collection or index is created or dropped", Retry: true}
	}
	again, err := d.list(ctx)
	if err == nil {
		err = d.reader.persist(ctx, "list indexes", func() error { return d.conn.describe(ctx, again) })
	}
	var none *backup.Error // all chosen collections are gone
	if errors.As(err, &none) {
		return changed(none.Err)
	}
	if code(err) == codeNamespaceNotFound {
		return changed(d.conn.scrub(err))
	}
	if err != nil {
		return err
	}
	after := map[string]*dump.Space{}
	for _, s := range again {
		after[s.Namespace()] = s
	}
	var changes []string
	for _, s := range d.spaces {
		now := after[s.Namespace()]
		delete(after, s.Namespace())
		switch {
		case now == nil:
			changes = append(changes, s.Namespace()+" is gone")
		case now.UUID != s.UUID || now.Type != s.Type:
			changes = append(changes, s.Namespace()+" is another collection now")
		case !bytes.Equal(now.Options, s.Options):
			changes = append(changes, s.Namespace()+" has other options")
		case !slices.EqualFunc(now.Indexes, s.Indexes, func(a, b bson.Raw) bool {
			return bytes.Equal(a,
				b)
		}):
			changes = append(changes, s.Namespace()+" has other indexes")
		}
	}
	for ns := range after {
		changes = append(changes, ns+" is new")
	}
	if len(changes) == 0 {
		return nil
	}
	slices.Sort(changes)
	return changed(fmt.Errorf("%s", strings.Join(changes, ", ")))
}
