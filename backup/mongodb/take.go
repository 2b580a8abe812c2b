package mongodb

import (
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

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/backup/mongodb/internal/dump"
)

// dumping is one backup in progress.
type dumping struct {
	m      *Source
	conn   *conn
	reader *reader
	log    *slog.Logger
	w      *backup.Writer
	spaces []*dumpSpace
	few    bool // bytes, in all collections together

	lost     atomic.Bool // the snapshot does not cover all collections
	leftover []string    // collections of restores
}

type dumpSpace struct {
	*dump.Space
	size, count int64 // estimates
	apart       bool  // not readable at the snapshot's time
	unchecked   bool  // too large for a search for duplicates
	out         Collection
}

// open connects and lists the collections to dump.
func (m *Source) open(ctx context.Context) (*dumping, error) {
	conn, err := m.Server.connect(ctx)
	if err != nil {
		return nil, err
	}
	d := &dumping{m: m, conn: conn, log: step.Logger(m.Log)}
	d.reader = &reader{conn: conn, pref: m.ReadPreference, refresh: m.refresh, log: d.log}
	spaces, err := d.list(ctx)
	if err != nil {
		conn.close(ctx)
		if e := step.Ended(ctx); e != nil {
			err = e
		}
		return nil, conn.fail("list the collections of", conn.at, err)
	}
	for _, s := range spaces {
		d.spaces = append(d.spaces, &dumpSpace{Space: s})
	}
	return d, nil
}

// list returns the chosen collections without their indexes.
func (d *dumping) list(ctx context.Context) ([]*dump.Space, error) {
	var chosen []*dump.Space
	var leftover []string
	p := d.m.patterns()
	unused := slices.Clone(p.include)
	for _, db := range d.m.databases() {
		var all, ours []*dump.Space
		err := d.reader.persist(ctx, "list "+db, func() (err error) {
			all, ours, err = d.conn.spaces(ctx, db)
			return err
		})
		if err != nil {
			return nil, err
		}
		if len(all) == 0 {
			return nil, &backup.Error{Op: "dump", Object: db,
				Err:  errors.New("the database does not exist or has no collections"),
				Next: "check the name and the server " + d.conn.at}
		}
		for _, s := range ours {
			if s.Name != journalName {
				leftover = append(leftover, s.Namespace())
			}
		}
		for _, s := range all {
			if p.match(s.Namespace()) {
				chosen = append(chosen, s)
			}
			unused = slices.DeleteFunc(unused, func(one string) bool {
				return matchPattern(one,
					s.Namespace())
			})
		}
	}
	if len(unused) > 0 {
		return nil, &backup.Error{Op: "dump", Object: strings.Join(unused, ", "),
			Err: errors.New("no collection has such a name"), Next: "check the names and the server " +
				d.conn.at}
	}
	if len(chosen) == 0 {
		return nil, &backup.Error{Op: "dump", Object: strings.Join(d.m.databases(), ", "),
			Err: errors.New("every collection is excluded"), Next: "fix the patterns"}
	}
	d.leftover = leftover
	return chosen, nil
}

// estimate reads sizes, with one question for a database that is dumped as a whole.
func (d *dumping) estimate(ctx context.Context) (e backup.Estimate, err error) {
	if d.m.patterns().everything() {
		if e = d.stats(ctx); e.Bytes > 0 {
			return e, nil
		}
	}
	err = d.measure(ctx, true, false)
	for _, s := range d.spaces {
		e.Bytes += s.size
		e.Items += s.count
	}
	return e, err
}

// stats is the size of whole databases, 0 if a server does not give one.
func (d *dumping) stats(ctx context.Context) (e backup.Estimate) {
	for _, db := range d.m.databases() {
		stats, err := d.conn.Database(db).RunCommand(ctx, bson.D{{Key: "dbStats", Value: 1}}).Raw()
		if err != nil {
			return backup.Estimate{}
		}
		size, _ := asInt64(stats.Lookup("dataSize"))
		count, _ := asInt64(stats.Lookup("objects"))
		e.Bytes, e.Items = e.Bytes+size, e.Items+count
	}
	return e
}

// measure asks for sizes and for indexes if wanted, several collections at a time. A
// server that gives no size costs the progress bar its total and nothing else.
func (d *dumping) measure(ctx context.Context, sizes, indexes bool) error {
	err := each(ctx, questions, len(d.spaces), func(ctx context.Context, i int) error {
		s := d.spaces[i]
		if s.Type == dump.TypeView {
			return nil
		}
		if sizes {
			stats, err := d.conn.Database(s.DB).RunCommand(ctx, bson.D{{Key: "collStats",
				Value: s.DataName()}}).Raw()
			if err == nil {
				s.size, _ = asInt64(stats.Lookup("size"))
				s.count, _ = asInt64(stats.Lookup("count"))
			}
		}
		if !indexes {
			return ctx.Err()
		}
		return d.reader.persist(ctx, "indexes of "+s.Namespace(), func() (err error) {
			s.Indexes, err = d.conn.indexes(ctx, s.Space)
			return err
		})
	})
	slices.SortStableFunc(d.spaces, func(a, b *dumpSpace) int { return cmp.Compare(b.size, a.size) })
	return err
}

func asInt64(v bson.RawValue) (int64, bool) {
	if f, ok := v.DoubleOK(); ok {
		return int64(f), true
	}
	return v.AsInt64OK()
}

func (d *dumping) run(ctx context.Context) (backup.Component, error) {
	c := backup.Component{Kind: Kind, Origin: d.conn.at, Server: "MongoDB " + d.conn.version,
		Topology: d.conn.topology, Method: "find", Consistency: backup.ConsistencyNone}
	// Which collection comes first does not matter for few bytes.
	all := d.stats(ctx)
	d.few = all.Bytes > 0 && all.Bytes <= smallData
	if err := d.measure(ctx, !d.few, true); err != nil {
		return c, err
	}
	if err := d.snapshot(ctx); err != nil {
		return c, err
	}
	if err := d.dumpAll(ctx); err != nil {
		return c, err
	}
	details := Details{Gzip: !d.m.Plain, Databases: d.m.databases(), Include: d.m.Include,
		Exclude: d.m.Exclude}
	if len(details.Include) == 0 {
		details.Include = []string{"*.*"}
	}
	if err := d.compare(ctx); err != nil {
		return c, err
	}
	if err := d.prelude(ctx, details.Databases); err != nil {
		return c, err
	}
	if at := d.reader.at; at != nil && !d.lost.Load() {
		c.Consistency = backup.ConsistencySnapshot
		details.ClusterTime = fmt.Sprintf("%d.%d", at.T, at.I)
	}
	c.Warnings = d.warnings()
	for _, s := range d.spaces {
		details.Collections = append(details.Collections, s.out)
		c.Items += s.out.Count
	}
	slices.SortFunc(details.Collections, func(a, b Collection) int {
		return cmp.Or(strings.Compare(a.DB, b.DB), strings.Compare(a.Name, b.Name))
	})
	return c, c.SetDetails(details)
}

// warnings returns the warnings for the manifest.
func (d *dumping) warnings() (all []string) {
	if d.conn.exposed != "" {
		all = append(all, d.conn.exposed)
	}
	switch {
	case d.lost.Load():
		all = append(all, "not every collection could be read in the snapshot (it was too old for "+
			"minSnapshotHistoryWindowInSeconds, or the collection is capped and the server old), so they are "+
			"from different moments")
	case d.reader.at == nil && d.m.Snapshot != SnapshotNever:
		all = append(all, "the server does not support snapshots, so the collections are from "+
			"different moments")
	}
	for _, s := range d.spaces {
		if s.out.Duplicates > 0 {
			all = append(all, fmt.Sprintf("%s: %d documents were deleted and inserted again while the "+
				"collection was read; both versions are in the set, and a restore keeps the later one",
				s.Namespace(), s.out.Duplicates))
		}
		if s.unchecked {
			all = append(all, fmt.Sprintf("%s: more than %d documents, so duplicates were not searched for; "+
				"a restore finds them", s.Namespace(), mostIDs))
		}
	}
	for _, name := range d.leftover {
		all = append(all, name+" belongs to a restore and is not in the set")
	}
	return all
}

// dumpAll reads the collections, the largest first, a few at a time.
func (d *dumping) dumpAll(ctx context.Context) error {
	queue := make(chan *dumpSpace, len(d.spaces))
	for _, s := range d.spaces {
		queue <- s
	}
	close(queue)
	return step.Together(ctx, min(atATime(d.m.Parallel, d.few), len(d.spaces)), func(ctx context.Context,
		_ int) error {
		var packer *gzip.Writer
		if !d.m.Plain {
			packer, _ = gzip.NewWriterLevel(nil, gzip.BestSpeed)
		}
		for s := range queue {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := d.dump(ctx, s, packer); err != nil {
				return d.conn.fail("dump", s.Namespace(), err)
			}
		}
		return nil
	})
}

func (d *dumping) dump(ctx context.Context, s *dumpSpace, packer *gzip.Writer) error {
	s.out = Collection{DB: s.DB, Name: s.Name, Type: s.Type, UUID: s.UUID, Indexes: s.IndexNames()}
	text, err := s.Space.Metadata()
	if err != nil {
		return err
	}
	s.out.Metadata = path.Join(s.DB, dump.FileName(s.Name)+dump.MetadataSuffix)
	if packer != nil {
		s.out.Metadata += dump.GzipSuffix
	}
	if _, err := d.w.Create(ctx, s.out.Metadata, nil, func(w io.Writer) error {
		return pack(w, packer,
			text)
	}); err != nil {
		return err
	}
	if s.Type == dump.TypeView {
		return nil
	}
	return d.dumpDocuments(ctx, s, packer)
}

// pack writes data, compressed if there is a packer.
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

// prelude writes prelude.json, which mongodump 100.x writes last. It is next to the databases. With
// a single database it is in the database's directory, as after mongodump --db.
func (d *dumping) prelude(ctx context.Context, databases []string) error {
	data, err := json.Marshal(struct{ ServerVersion, ToolVersion string }{d.conn.version,
		step.Module()})
	if err != nil {
		return err
	}
	name := dump.PreludeName
	if len(databases) == 1 {
		name = path.Join(databases[0], name)
	}
	var packer *gzip.Writer
	if !d.m.Plain {
		packer, name = gzip.NewWriter(nil), name+dump.GzipSuffix
	}
	_, err = d.w.Create(ctx, name, nil, func(w io.Writer) error { return pack(w, packer, data) })
	return err
}
