package backup

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup/internal/step"
)

// dumping is one backup in progress.
type dumping struct {
	m      *Mongo
	conn   *mongoConn
	reader *mongoReader
	log    *slog.Logger
	w      *Writer
	spaces []*dumpSpace

	lost     atomic.Bool // a snapshot was begun and does not hold for all collections
	leftover []string    // collections of interrupted restores
}

type dumpSpace struct {
	*mongoSpace
	size, count int64 // estimates
	apart       bool  // not readable at the snapshot's time
	out         MongoCollection
}

// open connects and lists what is to be dumped.
func (m *Mongo) open(ctx context.Context) (*dumping, error) {
	conn, err := m.Server.connect(ctx)
	if err != nil {
		return nil, err
	}
	d := &dumping{m: m, conn: conn, log: step.Logger(m.Log)}
	d.reader = &mongoReader{conn: conn, pref: m.ReadPreference, refresh: m.refresh, log: d.log}
	spaces, err := d.list(ctx)
	if err == nil {
		for _, s := range spaces {
			d.spaces = append(d.spaces, d.measure(ctx, s))
		}
		err = ctx.Err()
	}
	if err != nil {
		conn.close(ctx)
		if e := step.Ended(ctx); e != nil {
			err = e
		}
		return nil, conn.fail("list the collections of", conn.at, err)
	}
	slices.SortStableFunc(d.spaces, func(a, b *dumpSpace) int { return cmp.Compare(b.size, a.size) })
	return d, nil
}

func (d *dumping) list(ctx context.Context) ([]*mongoSpace, error) {
	var chosen []*mongoSpace
	var leftover []string
	p := d.m.patterns()
	unused := slices.Clone(p.include)
	for _, db := range d.m.databases() {
		var all []*mongoSpace
		err := d.reader.persist(ctx, "list "+db, func() (err error) {
			all, err = d.conn.spaces(ctx, db)
			return err
		})
		if err != nil {
			return nil, err
		}
		if len(all) == 0 {
			return nil, &Error{Op: "dump", Object: db, Err: errors.New("the database does not exist or has no collections"), Next: "check the name and the server: " + d.conn.at}
		}
		for _, s := range all {
			switch {
			case strings.HasPrefix(s.Name, tempPrefix):
				leftover = append(leftover, s.namespace())
			case p.match(s.namespace()):
				chosen = append(chosen, s)
			}
			unused = slices.DeleteFunc(unused, func(one string) bool { return matchPattern(one, s.namespace()) })
		}
	}
	if len(unused) > 0 {
		return nil, &Error{Op: "dump", Object: strings.Join(unused, ", "), Err: errors.New("no collection has such a name"), Next: "check the names and the server: " + d.conn.at}
	}
	if len(chosen) == 0 {
		return nil, &Error{Op: "dump", Object: strings.Join(d.m.databases(), ", "), Err: errors.New("every collection is excluded"), Next: "correct the patterns"}
	}
	d.leftover = leftover
	return chosen, nil
}

// measure asks for estimates; a server that gives none costs the progress bar
// its total and nothing else.
func (d *dumping) measure(ctx context.Context, s *mongoSpace) *dumpSpace {
	ds := &dumpSpace{mongoSpace: s}
	if s.Type == typeView {
		return ds
	}
	stats, err := d.conn.Database(s.DB).RunCommand(ctx, bson.D{{Key: "collStats", Value: s.dataName()}}).Raw()
	if err == nil {
		ds.size, _ = asInt64(stats.Lookup("size"))
		ds.count, _ = asInt64(stats.Lookup("count"))
	}
	return ds
}

func asInt64(v bson.RawValue) (int64, bool) {
	if f, ok := v.DoubleOK(); ok {
		return int64(f), true
	}
	return v.AsInt64OK()
}

func (d *dumping) run(ctx context.Context) (Component, error) {
	c := Component{Kind: KindMongo, Origin: d.conn.at, Server: "MongoDB " + d.conn.version, Topology: d.conn.topology, Method: "find", Consistency: ConsistencyNone}
	if err := d.snapshot(ctx); err != nil {
		return c, err
	}
	if err := d.dumpAll(ctx); err != nil {
		return c, err
	}
	details := MongoDetails{Gzip: !d.m.Plain, Databases: d.m.databases(), Users: d.m.UsersAndRoles, Include: d.m.Include, Exclude: d.m.Exclude}
	if len(details.Include) == 0 {
		details.Include = []string{"*.*"}
	}
	if d.m.UsersAndRoles {
		for _, db := range details.Databases {
			if err := d.dumpUsers(ctx, db); err != nil {
				return c, err
			}
		}
	}
	if err := d.compare(ctx); err != nil {
		return c, err
	}
	if err := d.prelude(ctx, details.Databases); err != nil {
		return c, err
	}
	switch at := d.reader.at; {
	case d.lost.Load():
		c.Warnings = append(c.Warnings, "not every collection could be read in the snapshot (it was too old for minSnapshotHistoryWindowInSeconds, or the collection is capped and the server old); they are of different moments")
	case at != nil:
		c.Consistency = ConsistencySnapshot
		details.ClusterTime = fmt.Sprintf("%d.%d", at.T, at.I)
	case d.m.Snapshot != SnapshotNever:
		c.Warnings = append(c.Warnings, "the server did not prove that it reads snapshots; the collections are of different moments")
	}
	for _, name := range d.leftover {
		c.Warnings = append(c.Warnings, name+" was left by an interrupted restore and is not in the set")
	}
	for _, s := range d.spaces {
		details.Collections = append(details.Collections, s.out)
		c.Items += s.out.Count
	}
	slices.SortFunc(details.Collections, func(a, b MongoCollection) int {
		return cmp.Or(strings.Compare(a.DB, b.DB), strings.Compare(a.Name, b.Name))
	})
	return c, c.SetDetails(details)
}

// dumpAll reads the collections, the largest first, a few at a time.
func (d *dumping) dumpAll(ctx context.Context) error {
	queue := make(chan *dumpSpace, len(d.spaces))
	for _, s := range d.spaces {
		queue <- s
	}
	close(queue)
	return step.Together(ctx, min(cmp.Or(d.m.Parallel, 4), len(d.spaces)), func(ctx context.Context, _ int) error {
		var packer *gzip.Writer
		if !d.m.Plain {
			packer, _ = gzip.NewWriterLevel(nil, gzip.BestSpeed)
		}
		for s := range queue {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := d.dump(ctx, s, packer); err != nil {
				return d.conn.fail("dump", s.namespace(), err)
			}
		}
		return nil
	})
}

func (d *dumping) dump(ctx context.Context, s *dumpSpace, packer *gzip.Writer) error {
	s.out = MongoCollection{DB: s.DB, Name: s.Name, Type: s.Type, UUID: s.UUID, Indexes: s.indexNames()}
	text, err := s.metadata()
	if err != nil {
		return err
	}
	s.out.Metadata = path.Join(s.DB, mongoFile(s.Name)+metadataSuffix)
	if packer != nil {
		s.out.Metadata += gzipSuffix
	}
	if _, err := d.w.Create(ctx, s.out.Metadata, nil, func(w io.Writer) error { return pack(w, packer, text) }); err != nil {
		return err
	}
	if s.Type == typeView {
		return nil
	}
	part := documentsOf{label: s.namespace(), db: s.DB, coll: s.dataName(), file: path.Join(s.DB, mongoFile(s.dataName())), size: s.size, count: s.count, apart: s.apart}
	t, f, err := d.dumpDocuments(ctx, part, packer)
	if err != nil {
		return err
	}
	s.out.Data, s.out.SHA256 = strings.TrimPrefix(f.Path, d.w.Component()+"/"), f.SHA256
	if packer != nil {
		s.out.SHA256 = t.sha256()
	}
	s.out.Count, s.out.Bytes, s.out.Digest = t.count, t.bytes, t.sum.String()
	return nil
}

// documentsOf is what goes into one .bson file. Size and count are estimates.
type documentsOf struct {
	label, db, coll string
	file            string // without suffix
	filter          bson.D
	size, count     int64
	apart           bool
}

// dumpDocuments writes one .bson file, beginning anew when reading has to.
func (d *dumping) dumpDocuments(ctx context.Context, p documentsOf, packer *gzip.Writer) (*tally, File, error) {
	p.file += bsonSuffix
	if packer != nil {
		p.file += gzipSuffix
	}
	reader := *d.reader
	if p.apart {
		reader.at = nil
	}
	var t *tally
	var f File
	read := func() (err error) {
		t = newTally(packer != nil)
		var told, written int64
		f, err = d.w.Create(ctx, p.file, nil, func(w io.Writer) error {
			out := bufio.NewWriterSize(&step.Meter{W: w, Add: func(n int64) { written += n }}, 256<<10)
			w = out
			if packer != nil {
				packer.Reset(out)
				w = packer
			}
			err := reader.each(ctx, p.db, p.coll, p.filter, p.size/max(p.count, 1), func(doc []byte) error {
				t.add(doc)
				if t.count-told == 4096 {
					d.w.ItemProgress(p.label, 0, 4096, t.count, p.count)
					told = t.count
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
		d.w.ItemProgress(p.label, 0, t.count-told, t.count, t.count)
		if err != nil {
			d.w.Progress(p.label, -written, -t.count)
		}
		return err
	}
	err := d.reader.persist(ctx, p.label, read)
	if code := mongoCode(err); reader.at != nil && d.m.Snapshot == SnapshotIfPossible && (code == codeSnapshotTooOld || code == codeSnapshotUnavailable) {
		d.log.Warn("the snapshot is gone, reading without", "collection", p.label, "error", d.conn.scrub(err))
		d.lost.Store(true)
		reader.at = nil
		err = d.reader.persist(ctx, p.label, read)
	}
	if code := mongoCode(err); code == codeQueryPlanKilled || code == codeNamespaceNotFound {
		return nil, File{}, &Error{Op: "dump", Object: p.label, Err: fmt.Errorf("%w: %w", ErrChanged, d.conn.scrub(err)), Next: "back up again while no collection is dropped or renamed", Retry: true}
	}
	return t, f, err
}

// pack writes data, compressed where a packer is given.
func pack(w io.Writer, packer *gzip.Writer, data []byte) error {
	if packer == nil {
		_, err := w.Write(data)
		return err
	}
	packer.Reset(w)
	if _, err := packer.Write(data); err != nil {
		return err
	}
	return packer.Close()
}

// compare lists the collections again: what was created, dropped, renamed or
// given other options or indexes meanwhile would be in the dump in parts only.
func (d *dumping) compare(ctx context.Context) error {
	changed := func(err error) error {
		return &Error{Op: "dump", Object: d.conn.at, Err: fmt.Errorf("%w: %w", ErrChanged, err),
			Next: "back up again while no collection or index is created or dropped", Retry: true}
	}
	again, err := d.list(ctx)
	var none *Error // nothing of what was asked for is there any more
	if errors.As(err, &none) {
		return changed(none.Err)
	}
	if err != nil {
		return err
	}
	after := map[string]*mongoSpace{}
	for _, s := range again {
		after[s.namespace()] = s
	}
	var changes []string
	for _, s := range d.spaces {
		now := after[s.namespace()]
		delete(after, s.namespace())
		switch {
		case now == nil:
			changes = append(changes, s.namespace()+" is gone")
		case now.UUID != s.UUID || now.Type != s.Type:
			changes = append(changes, s.namespace()+" is another collection now")
		case !bytes.Equal(now.Options, s.Options):
			changes = append(changes, s.namespace()+" has other options")
		case !slices.EqualFunc(now.Indexes, s.Indexes, func(a, b bson.Raw) bool { return bytes.Equal(a, b) }):
			changes = append(changes, s.namespace()+" has other indexes")
		}
	}
	for ns := range after {
		changes = append(changes, ns+" is new")
	}
	if len(changes) == 0 {
		return nil
	}
	slices.Sort(changes)
	return changed(errors.New(strings.Join(changes, ", ")))
}

// prelude is what mongodump 100.x writes last. It stands beside the databases,
// or with a single one in its directory, as after mongodump --db.
func (d *dumping) prelude(ctx context.Context, databases []string) error {
	data, err := json.Marshal(struct{ ServerVersion, ToolVersion string }{d.conn.version, step.Module()})
	if err != nil {
		return err
	}
	name := preludeName
	if len(databases) == 1 {
		name = path.Join(databases[0], name)
	}
	var packer *gzip.Writer
	if !d.m.Plain {
		packer, name = gzip.NewWriter(nil), name+gzipSuffix
	}
	_, err = d.w.Create(ctx, name, nil, func(w io.Writer) error { return pack(w, packer, data) })
	return err
}
