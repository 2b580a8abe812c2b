package mongodb

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/mongo/readpref"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// Kind is the kind of the components that a [Source] writes.
const Kind = "mongo"

// DefaultDatabase is the database of Tyk's dashboard and pump.
const DefaultDatabase = "tyk_analytics"

func init() { backup.RegisterKind(Kind, structure) }

// Source is a [backup.Source] for databases of a MongoDB deployment. The files are those of
// mongodump --out, byte for byte, so that mongorestore can read them. The manifest adds counts and
// digests of each collection.
//
// The user needs the role "read" on the databases.
type Source struct {
	Component string // name within the set; empty: "mongo"
	Server    Server
	Databases []string // empty: DefaultDatabase
	// patterns of database.collection with * and ?; empty: everything
	Include        []string
	Exclude        []string           // patterns of what to leave out; wins over Include
	ReadPreference *readpref.ReadPref // nil: primary
	Snapshot       SnapshotMode
	Plain          bool         // no gzip
	Parallel       int          // collections at a time; 0: 4, or 16 if all are small
	Log            *slog.Logger // nil: silent

	refresh time.Duration // of sessions; 0: sessionRefresh
}

// SnapshotMode sets whether all collections are read at one cluster time. Replica sets and sharded
// clusters support that since MongoDB 5.0. A snapshot lasts five minutes, or
// minSnapshotHistoryWindowInSeconds.
//
// Without a snapshot, collections may change while they are read. A document that is deleted and
// inserted again meanwhile can then be read twice. The manifest counts such documents, and a
// restore keeps the version that was read last.
type SnapshotMode int

// The snapshot modes.
const (
	SnapshotIfPossible SnapshotMode = iota // if not possible, the manifest has a warning
	SnapshotRequired                       // if not possible, Backup fails
	SnapshotNever
)

func (m SnapshotMode) String() string {
	switch m {
	case SnapshotIfPossible:
		return "if-possible"
	case SnapshotRequired:
		return "required"
	case SnapshotNever:
		return "never"
	}
	return fmt.Sprintf("SnapshotMode(%d)", int(m))
}

// Details are the details of a component of kind [Kind].
type Details struct {
	Gzip bool `json:"gzip"`
	// the time of the snapshot as seconds.increment
	ClusterTime string   `json:"cluster_time,omitempty"`
	Databases   []string `json:"databases"`
	// written only by older versions; a restore skips them
	Users bool `json:"users_and_roles,omitempty"`
	// the requested patterns, "*.*" for everything; empty in sets of older versions
	Include     []string     `json:"include,omitempty"`
	Exclude     []string     `json:"exclude,omitempty"`
	Collections []Collection `json:"collections"` // sorted by namespace
}

// Collection is one collection, view or time series of a set. Count, Bytes and Digest are those of
// the documents as the server sends them.
type Collection struct {
	DB      string   `json:"db"`
	Name    string   `json:"name"`
	Type    string   `json:"type"` // collection, view, timeseries
	UUID    string   `json:"uuid,omitempty"`
	Indexes []string `json:"indexes,omitempty"`
	Count   int64    `json:"count"` // for a time series: of its buckets
	Bytes   int64    `json:"bytes"` // uncompressed
	// the sum of the documents' SHA-256 modulo 2^256, independent of their order
	Digest string `json:"digest,omitempty"`
	// documents with the _id of an earlier document in the file
	Duplicates int64  `json:"duplicates,omitempty"`
	Metadata   string `json:"metadata,omitempty"`
	Data       string `json:"data,omitempty"` // files below the component's directory
}

var (
	_ backup.Source = (*Source)(nil)
	_ backup.Prover = (*Source)(nil)
)

// Name implements [backup.Source].
func (m *Source) Name() string { return cmp.Or(m.Component, "mongo") }

func (m *Source) databases() []string {
	if len(m.Databases) == 0 {
		return []string{DefaultDatabase}
	}
	return m.Databases
}

func (m *Source) check() error {
	if err := checkParallel(m.Parallel); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, db := range m.databases() {
		if err := checkDatabase(db); err != nil {
			return err
		}
		if seen[db] {
			return fmt.Errorf("duplicate database %q", db)
		}
		seen[db] = true
	}
	return m.patterns().check()
}

func (m *Source) patterns() patterns { return patterns{m.Include, m.Exclude} }

func checkDatabase(db string) error {
	switch {
	case db == "" || len(db) > 63 || strings.ContainsAny(db, "/\\. \"$*<>:|?\x00"):
		return fmt.Errorf("invalid database name %q: want a name that MongoDB accepts", db)
	case db == "admin" || db == "config" || db == "local":
		return fmt.Errorf("database %q belongs to the server", db)
	}
	return nil
}

// Plan implements [backup.Source]. It returns an error for a missing or empty database, for an
// include pattern without a match, and if the server does not answer. For mongodump, all but the
// last are a success.
func (m *Source) Plan(ctx context.Context) (backup.Estimate, error) {
	if err := m.check(); err != nil {
		return backup.Estimate{}, err
	}
	d, err := m.open(ctx)
	if err != nil {
		return backup.Estimate{}, err
	}
	defer d.conn.close(ctx)
	e, err := d.estimate(ctx)
	if !m.Plain {
		e.Bytes /= 2 // JSON-like data shrinks to a quarter, so half is a safe estimate
	}
	return e, err
}

// Backup implements [backup.Source].
func (m *Source) Backup(ctx context.Context, w *backup.Writer) (backup.Component, error) {
	if err := m.check(); err != nil {
		return backup.Component{}, err
	}
	d, err := m.open(ctx)
	if err != nil {
		return backup.Component{}, err
	}
	defer d.conn.close(ctx)
	d.w = w
	c, err := d.run(ctx)
	if err != nil {
		if e := step.Ended(ctx); e != nil {
			return backup.Component{}, step.Fail("dump", d.conn.at, e)
		}
		return backup.Component{}, d.conn.fail("dump", d.conn.at, err)
	}
	return c, nil
}

// Prove implements [backup.Prover]. It compares the live server with the set, as [Restore.Prove]
// does with DropExtra.
func (m *Source) Prove(ctx context.Context, s *backup.Stored) error {
	data, err := openStored(ctx, s)
	if err != nil {
		return err
	}
	return (&Restore{Component: m.Component, Server: m.Server, Parallel: m.Parallel, Log: m.Log}).
		prove(ctx, data, true)
}
