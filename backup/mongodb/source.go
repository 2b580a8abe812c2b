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

// Kind is the kind of a component that a [Source] wrote.
const Kind = "mongo"

// DefaultDatabase is what Tyk's dashboard and pump use.
const DefaultDatabase = "tyk_analytics"

func init() { backup.RegisterKind(Kind, structure) }

// Source is a [backup.Source]: one or more databases of a MongoDB deployment. The files
// are those of mongodump --out, byte for byte, so that mongorestore reads them. The
// manifest says in addition what each collection must hold.
//
// The user needs the role "read" on the databases.
type Source struct {
	Component string // name within the set; empty: "mongo"
	Server    Server
	Databases []string // empty: DefaultDatabase
	// patterns of database.collection with * and ?; empty: everything
	Include        []string
	Exclude        []string           // likewise; wins over Include
	ReadPreference *readpref.ReadPref // nil: primary
	Snapshot       SnapshotMode
	Plain          bool         // no gzip
	Parallel       int          // collections at a time; 0: 4
	Log            *slog.Logger // nil: silent

	refresh time.Duration // of sessions; 0: sessionRefresh
}

// SnapshotMode says whether all collections are read at one cluster time, which replica
// sets and sharded clusters can do from MongoDB 5.0 on, for five minutes unless
// minSnapshotHistoryWindowInSeconds says otherwise.
//
// Without a snapshot each collection is read as it changes. A document that is deleted
// and inserted again meanwhile can then be read twice. The manifest counts such
// documents, and a restore keeps the version that was read last.
type SnapshotMode int

// The snapshot modes.
const (
	SnapshotIfPossible SnapshotMode = iota // otherwise without, and the manifest says so
	SnapshotRequired                       // an error where it is not possible
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

// Details is what the manifest says of a component of kind [Kind].
type Details struct {
	Gzip bool `json:"gzip"`
	// seconds.increment that everything was read at
	ClusterTime string   `json:"cluster_time,omitempty"`
	Databases   []string `json:"databases"`
	// written by older versions only; a restore skips them
	Users bool `json:"users_and_roles,omitempty"`
	// what was requested, "*.*" for everything; empty: older versions did not record it
	Include     []string     `json:"include,omitempty"`
	Exclude     []string     `json:"exclude,omitempty"`
	Collections []Collection `json:"collections"` // sorted by namespace
}

// Collection is one collection, view or time series of a set. Count, bytes and digest
// are of the documents as the server sends them.
type Collection struct {
	DB      string   `json:"db"`
	Name    string   `json:"name"`
	Type    string   `json:"type"` // collection, view, timeseries
	UUID    string   `json:"uuid,omitempty"`
	Indexes []string `json:"indexes,omitempty"`
	Count   int64    `json:"count"` // for a time series: of its buckets
	Bytes   int64    `json:"bytes"` // uncompressed
	// the sum of the documents' SHA-256 modulo 2^256: any order
	Digest string `json:"digest,omitempty"`
	// documents whose _id an earlier document of the file has
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
		return fmt.Errorf("invalid database name %q: want what MongoDB takes", db)
	case db == "admin" || db == "config" || db == "local":
		return fmt.Errorf("database %q belongs to the server", db)
	}
	return nil
}

// Plan implements [backup.Source]. A database that does not exist or holds nothing, an
// include pattern that matches nothing and a server that does not answer are errors;
// mongodump calls all but the last success.
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
		e.Bytes /= 2 // JSON-like data shrinks to a quarter; half is on the safe side
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

// Prove implements [backup.Prover]: it compares the server that a set was taken of with
// the set, as [Restore.Prove] does with DropExtra.
func (m *Source) Prove(ctx context.Context, s *backup.Stored) error {
	data, err := openStored(ctx, s)
	if err != nil {
		return err
	}
	return (&Restore{Component: m.Component, Server: m.Server, Parallel: m.Parallel, Log: m.Log}).
		prove(ctx, data, true)
}
