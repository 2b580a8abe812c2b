package backup

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/mongo/readpref"

	"example.com/tykupgrade/backup/internal/step"
)

// KindMongo is the kind of a component that a [Mongo] source wrote.
const KindMongo = "mongo"

// DefaultDatabase is what Tyk's dashboard and pump use.
const DefaultDatabase = "tyk_analytics"

// Mongo is a [Source]: one or more databases of a MongoDB deployment. The files
// are those of mongodump --out, byte for byte, so that mongorestore reads them;
// the manifest says in addition what each collection must hold.
//
// The user needs the role "read" on the databases, for UsersAndRoles "backup".
type Mongo struct {
	Component      string // name within the set; empty: "mongo"
	Server         MongoServer
	Databases      []string           // empty: DefaultDatabase
	Include        []string           // patterns of database.collection with * and ?; empty: everything
	Exclude        []string           // likewise; wins over Include
	ReadPreference *readpref.ReadPref // nil: primary
	Snapshot       SnapshotMode
	Plain          bool         // no gzip
	UsersAndRoles  bool         // the users and roles defined in the databases, too
	Parallel       int          // collections at a time; 0: 4
	Log            *slog.Logger // nil: silent

	refresh time.Duration // of sessions; 0: sessionRefresh
}

// SnapshotMode says whether all collections are read at one cluster time, which
// replica sets and sharded clusters can do from MongoDB 5.0 on, for five minutes
// unless minSnapshotHistoryWindowInSeconds says otherwise.
type SnapshotMode int

// The snapshot modes.
const (
	SnapshotIfPossible SnapshotMode = iota // otherwise each collection as it is while it is read, and the manifest says so
	SnapshotRequired                       // an error where it is not possible
	SnapshotNever
)

// MongoDetails is what the manifest says of a component of kind [KindMongo].
type MongoDetails struct {
	Gzip        bool              `json:"gzip"`
	ClusterTime string            `json:"cluster_time,omitempty"` // seconds.increment that everything was read at
	Databases   []string          `json:"databases"`
	Users       bool              `json:"users_and_roles,omitempty"`
	Include     []string          `json:"include,omitempty"` // what was asked for, "*.*" for everything; empty: older versions did not record it
	Exclude     []string          `json:"exclude,omitempty"`
	Collections []MongoCollection `json:"collections"` // sorted by namespace
}

// MongoCollection is one collection, view or time series of a set. Count,
// bytes and digests are of the documents as the server sends them.
type MongoCollection struct {
	DB       string   `json:"db"`
	Name     string   `json:"name"`
	Type     string   `json:"type"` // collection, view, timeseries
	UUID     string   `json:"uuid,omitempty"`
	Indexes  []string `json:"indexes,omitempty"`
	Count    int64    `json:"count"`            // for a time series: of its buckets
	Bytes    int64    `json:"bytes"`            // uncompressed
	SHA256   string   `json:"sha256,omitempty"` // of the documents in the file's order
	Digest   string   `json:"digest,omitempty"` // the sum of the documents' SHA-256 modulo 2^256: any order
	Metadata string   `json:"metadata,omitempty"`
	Data     string   `json:"data,omitempty"` // files below the component's directory
}

var (
	_ Source = (*Mongo)(nil)
	_ Prover = (*Mongo)(nil)
)

// Name implements [Source].
func (m *Mongo) Name() string { return cmp.Or(m.Component, "mongo") }

func (m *Mongo) databases() []string {
	if len(m.Databases) == 0 {
		return []string{DefaultDatabase}
	}
	return m.Databases
}

func (m *Mongo) check() error {
	if m.Parallel < 0 || m.Parallel > 64 {
		return fmt.Errorf("%d collections at a time; 1 to 64 are possible", m.Parallel)
	}
	seen := map[string]bool{}
	for _, db := range m.databases() {
		if err := checkDatabase(db); err != nil {
			return err
		}
		if seen[db] {
			return fmt.Errorf("database %q is named twice", db)
		}
		seen[db] = true
	}
	return m.patterns().check()
}

func (m *Mongo) patterns() patterns { return patterns{m.Include, m.Exclude} }

func checkDatabase(db string) error {
	switch {
	case db == "" || len(db) > 63 || strings.ContainsAny(db, "/\\. \"$*<>:|?\x00"):
		return fmt.Errorf("database name %q is not one that MongoDB takes", db)
	case db == "admin" || db == "config" || db == "local":
		return fmt.Errorf("database %q belongs to the server; users and roles are taken with the database that they are defined in", db)
	}
	return nil
}

// Plan implements [Source]. A database that does not exist or holds nothing, an
// include pattern that matches nothing and a server that cannot be asked are
// errors; mongodump calls all but the last success.
func (m *Mongo) Plan(ctx context.Context) (Estimate, error) {
	if err := m.check(); err != nil {
		return Estimate{}, err
	}
	d, err := m.open(ctx)
	if err != nil {
		return Estimate{}, err
	}
	defer d.conn.close(ctx)
	var e Estimate
	for _, s := range d.spaces {
		e.Bytes += s.size
		e.Items += s.count
	}
	if !m.Plain {
		e.Bytes /= 2 // JSON-like data shrinks to a quarter; half is on the safe side
	}
	return e, nil
}

// Backup implements [Source].
func (m *Mongo) Backup(ctx context.Context, w *Writer) (Component, error) {
	if err := m.check(); err != nil {
		return Component{}, err
	}
	d, err := m.open(ctx)
	if err != nil {
		return Component{}, err
	}
	defer d.conn.close(ctx)
	d.w = w
	c, err := d.run(ctx)
	if err != nil {
		if e := step.Ended(ctx); e != nil {
			return Component{}, step.Fail("dump", d.conn.at, e)
		}
		return Component{}, d.conn.fail("dump", d.conn.at, err)
	}
	return c, nil
}

// Prove implements [Prover]: it compares the server that a set was taken of with
// the set, as [MongoRestore.Prove] does with DropExtra.
func (m *Mongo) Prove(ctx context.Context, s *Stored) error {
	t, _, err := openStored(ctx, s)
	if err != nil {
		return err
	}
	return (&MongoRestore{Component: m.Component, Server: m.Server, Parallel: m.Parallel, Log: m.Log}).prove(ctx, t, true)
}
