package backup

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup/internal/step"
)

// MongoRestore is the [Restorer] of a [Mongo] component and of a [MongoDump].
//
// Documents go into a new collection beside the live one; its count, digest and
// indexes are compared with the dump, and only when all collections are proven
// do they take the names of the live ones, each in one step. Until then nothing
// that was there has changed. [MongoDrop] works in place, and so does [MongoMerge]
// where the collection exists.
//
// The user needs the roles "readWrite" and "dbAdmin" on the databases (or
// "restore" and "readWrite"), for UsersAndRoles "restore".
type MongoRestore struct {
	Component string // name within the set; empty: "mongo"
	Server    MongoServer
	Mode      MongoMode
	Include   []string // patterns of database.collection as in the dump; empty: everything
	Exclude   []string // likewise; wins over Include
	// Rename gives namespaces other names: "tyk_analytics.*" to "scratch.*",
	// or one collection to another; "*" stands for the same text on both sides.
	Rename           map[string]string
	BypassValidation bool // the collections' validators are not asked
	KeepIndexVersion bool // "v" of indexes as in the dump instead of the server's own
	UsersAndRoles    bool // those in the dump, too; existing ones of other names stay
	// DropExtra drops, last of all, the collections that a set does not have and
	// would have, had they been there: those of a newer version, after an aborted
	// upgrade. Without it they stay and are reported; mongorestore --drop keeps
	// them silently. With MongoReplace and MongoDrop only, and not with Rename.
	DropExtra bool
	Parallel  int          // collections at a time; 0: 4
	Log       *slog.Logger // nil: silent
}

// MongoMode says what happens to collections that exist.
type MongoMode int

// The modes.
const (
	// MongoNew refuses to touch a collection that exists and is not empty.
	MongoNew MongoMode = iota
	// MongoReplace restores beside the live collections and swaps at the end.
	// Time series and system.js, which cannot be renamed, are refused where
	// they exist.
	MongoReplace
	// MongoDrop drops each live collection and restores in its place: for where
	// there is no space for both. After a failure the dump is the only copy.
	MongoDrop
	// MongoMerge adds documents to what exists. Every document whose _id is
	// there already is reported; what was added before an error stays.
	MongoMerge
)

var _ Restorer = (*MongoRestore)(nil)

// Name implements [Restorer].
func (m *MongoRestore) Name() string { return cmp.Or(m.Component, "mongo") }

// Plan implements [Restorer].
func (m *MongoRestore) Plan(ctx context.Context, s *Stored) ([]Item, error) {
	t, _, err := openStored(ctx, s)
	if err != nil {
		return nil, err
	}
	return m.plan(ctx, t)
}

// Restore implements [Restorer].
func (m *MongoRestore) Restore(ctx context.Context, s *Stored, progress func(Event)) ([]Item, error) {
	t, _, err := openStored(ctx, s)
	if err != nil {
		return nil, err
	}
	return m.restore(ctx, t, progress)
}

// Prove implements [Restorer]: options, indexes, count and digest of every
// collection. Documents that a TTL index has removed since, or may remove
// within a day, are left out on both sides. With DropExtra collections that the
// set does not have are a difference, too.
func (m *MongoRestore) Prove(ctx context.Context, s *Stored) error {
	t, _, err := openStored(ctx, s)
	if err != nil {
		return err
	}
	return m.prove(ctx, t, m.DropExtra)
}

func (m *MongoRestore) check() error {
	if m.Parallel < 0 || m.Parallel > 64 {
		return fmt.Errorf("%d collections at a time; 1 to 64 are possible", m.Parallel)
	}
	if m.Mode < MongoNew || m.Mode > MongoMerge {
		return fmt.Errorf("there is no mode %d", m.Mode)
	}
	for from, to := range m.Rename {
		if strings.Count(from, "*") > 1 || strings.Count(from, "*") != strings.Count(to, "*") || !strings.Contains(from, ".") || !strings.Contains(to, ".") {
			return fmt.Errorf("rename %q to %q: write both as database.collection, with one * in each or none", from, to)
		}
	}
	if m.DropExtra && m.Mode != MongoReplace && m.Mode != MongoDrop {
		return errors.New("dropping what the set does not have goes with the modes replace and drop only")
	}
	if m.DropExtra && len(m.Rename) > 0 {
		return errors.New("what the set does not have cannot be told, and dropped, where collections are renamed")
	}
	if m.UsersAndRoles && len(m.Rename) > 0 {
		return errors.New("users and roles belong to databases by name; restore them without renaming")
	}
	return patterns{m.Include, m.Exclude}.check()
}

const tempPrefix = "tykupgrade_restore_"

// restore does it. The report says of every collection how far it came.
func (m *MongoRestore) restore(ctx context.Context, data dumpData, progress func(Event)) ([]Item, error) {
	r, err := m.begin(ctx, data)
	if err != nil {
		return nil, err
	}
	defer r.conn.close(ctx)
	if progress != nil {
		r.progress = progress
	}
	if items, err := r.plan(ctx); err != nil {
		return items, err
	}
	r.name()
	err = r.run(ctx)
	if err != nil {
		if e := step.Ended(ctx); e != nil {
			err = e
		}
		err = r.conn.fail("restore", r.conn.at, err)
		if undo := r.undo(ctx); undo != nil {
			err = errors.Join(err, undo)
		}
	}
	return r.report(), err
}

// name decides which collections are built beside the live ones.
func (r *restoring) name() {
	var token [4]byte
	_, _ = rand.Read(token[:]) // never fails since Go 1.24
	for i, j := range r.jobs {
		if j.renamable() && r.m.Mode != MongoDrop && !r.merging(j) {
			j.temp = fmt.Sprintf("%s%s_%d", tempPrefix, hex.EncodeToString(token[:]), i)
		}
	}
}

// merging says whether documents go into a collection that is somebody else's.
func (r *restoring) merging(j *job) bool { return r.m.Mode == MongoMerge && j.live != nil }

func (r *restoring) run(ctx context.Context) error {
	var filled []*dumped
	byData := map[*dumped]*job{}
	for _, j := range r.jobs {
		if j.Type == typeView {
			continue
		}
		if err := r.create(ctx, j); err != nil {
			return r.conn.fail("create", j.to(), err)
		}
		filled = append(filled, j.dumped)
		byData[j.dumped] = j
	}
	err := r.data.feed(ctx, cmp.Or(r.m.Parallel, 4), filled, func(ctx context.Context, d *dumped, read readDocs) error {
		j := byData[d]
		return r.conn.fail("restore", j.to(), r.fill(ctx, j, read))
	})
	if err != nil {
		return err
	}
	for _, j := range r.jobs {
		if err := r.swap(ctx, j); err != nil {
			return r.conn.fail("put in place", j.to(), err)
		}
	}
	for _, j := range r.viewsInOrder() {
		if err := r.view(ctx, j); err != nil {
			return r.conn.fail("create", j.to(), err)
		}
	}
	if r.m.UsersAndRoles {
		for _, db := range r.data.auth() {
			if err := r.users(ctx, db); err != nil {
				return r.conn.fail("restore", "users and roles of "+db, err)
			}
		}
	}
	if r.m.DropExtra {
		return r.dropExtras(ctx)
	}
	return nil
}

// fill writes a collection's documents, proves them and builds its indexes.
// The proof comes first because a TTL index begins to remove documents at once.
func (r *restoring) fill(ctx context.Context, j *job, read readDocs) error {
	if err := r.insert(ctx, j, read); err != nil {
		return err
	}
	if !r.merging(j) {
		if err := r.sameDocuments(ctx, j, j.into(), nil); err != nil {
			return err
		}
		if err := r.buildIndexes(ctx, j); err != nil {
			return err
		}
	}
	j.filled = true
	return nil
}

// told adds documents to the progress.
func (r *restoring) told(j *job, docs, bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.docs += docs
	r.bytes += bytes
	j.done += docs
	r.progress(Event{Component: r.m.Name(), Phase: PhaseRestore, Item: j.to(), Items: r.docs, TotalItems: r.totalDocs, Bytes: r.bytes, TotalBytes: r.totalBytes,
		ItemDone: j.done, ItemTotal: j.count})
}

// majority is what every write waits for: a restore that a failover can undo is
// none.
var majority = bson.E{Key: "writeConcern", Value: bson.D{{Key: "w", Value: "majority"}}}
