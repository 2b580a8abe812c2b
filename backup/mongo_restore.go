package backup

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"go.mongodb.org/mongo-driver/bson"
)

// MongoRestore is the [Restorer] of a [Mongo] component and of a [MongoDump].
//
// Documents go into a new collection beside the live one; its count, digest and
// indexes are compared with the dump, and only when all collections are proven
// do they take the names of the live ones, each in one step. Until then nothing
// that was there has changed. [MongoDrop] and [MongoMerge] work in place.
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
	BypassValidation bool         // the collections' validators are not asked
	KeepIndexVersion bool         // "v" of indexes as in the dump instead of the server's own
	UsersAndRoles    bool         // those in the dump, too; existing ones of other names stay
	Parallel         int          // collections at a time; 0: 4
	Log              *slog.Logger // nil: silent
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
// within a day, are left out on both sides.
func (m *MongoRestore) Prove(ctx context.Context, s *Stored) error {
	t, _, err := openStored(ctx, s)
	if err != nil {
		return err
	}
	return m.prove(ctx, t)
}

func (m *MongoRestore) check() error {
	if m.Parallel < 0 || m.Parallel > 64 {
		return fmt.Errorf("%d collections at a time; Parallel may be 1 to 64", m.Parallel)
	}
	if m.Mode < MongoNew || m.Mode > MongoMerge {
		return fmt.Errorf("there is no mode %d", m.Mode)
	}
	for from, to := range m.Rename {
		if strings.Count(from, "*") > 1 || strings.Count(from, "*") != strings.Count(to, "*") || !strings.Contains(from, ".") || !strings.Contains(to, ".") {
			return fmt.Errorf("rename %q to %q: write both as database.collection, with one * in each or none", from, to)
		}
	}
	if m.UsersAndRoles && len(m.Rename) > 0 {
		return errors.New("users and roles belong to databases by name; restore them without renaming")
	}
	return patterns{m.Include, m.Exclude}.check()
}

// target is where a namespace goes.
func (m *MongoRestore) target(ns string) (string, error) {
	found := ""
	for from, to := range m.Rename {
		before, after, star := strings.Cut(from, "*")
		middle := ns
		if star {
			if len(ns) < len(before)+len(after) || !strings.HasPrefix(ns, before) || !strings.HasSuffix(ns, after) {
				continue
			}
			middle = ns[len(before) : len(ns)-len(after)]
		} else if ns != from {
			continue
		}
		if found != "" {
			return "", fmt.Errorf("two renames concern %s", ns)
		}
		found = strings.Replace(to, "*", middle, 1)
	}
	return cmp.Or(found, ns), nil
}

// job is one collection, view or time series on its way back.
type job struct {
	*dumped
	db, name string      // where it goes
	live     *mongoSpace // what is there; nil: nothing
	temp     string      // where it is until the swap; empty: in place
	made     bool        // created by us, in place or beside
	done     int64       // documents sent
	item     Item
}

func (j *job) to() string { return j.db + "." + j.name }

// into is the collection that documents are written to.
func (j *job) into() string {
	s := *j.mongoSpace
	s.Name = cmp.Or(j.temp, j.name)
	return s.dataName()
}

// renamable says whether the server lets the collection take another name.
func (j *job) renamable() bool {
	return j.Type == typeCollection && !strings.HasPrefix(j.name, "system.")
}

// restoring is one restore in progress.
type restoring struct {
	m        *MongoRestore
	conn     *mongoConn
	reader   *mongoReader
	log      *slog.Logger
	data     dumpData
	jobs     []*job
	progress func(Event)

	mu                    sync.Mutex // guards the rest, and done of the jobs
	docs, bytes           int64
	totalDocs, totalBytes int64
}

// begin connects and works out what goes where.
func (m *MongoRestore) begin(ctx context.Context, data dumpData) (*restoring, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	jobs, err := m.choose(data)
	if err != nil {
		return nil, err
	}
	conn, err := m.Server.connect(ctx)
	if err != nil {
		return nil, err
	}
	r := &restoring{m: m, conn: conn, log: logger(m.Log), data: data, jobs: jobs, progress: func(Event) {}}
	r.reader = &mongoReader{conn: conn, log: r.log}
	live := map[string]*mongoSpace{}
	for _, db := range r.databases() {
		var all []*mongoSpace
		err := r.reader.persist(ctx, "list "+db, func() (err error) {
			all, err = conn.spaces(ctx, db)
			return err
		})
		if err != nil {
			conn.close(ctx)
			if e := ended(ctx); e != nil {
				return nil, fail("list the collections of", db, e)
			}
			return nil, conn.fail("list the collections of", db, err)
		}
		for _, s := range all {
			live[s.namespace()] = s
			if strings.HasPrefix(s.Name, tempPrefix) {
				r.log.Warn("left by an interrupted restore, or in use by another one", "collection", s.namespace())
			}
		}
	}
	for _, j := range jobs {
		j.live = live[j.to()]
		r.totalDocs += j.count
		r.totalBytes += j.bytes
	}
	return r, nil
}

func (r *restoring) databases() []string {
	var dbs []string
	for _, j := range r.jobs {
		dbs = append(dbs, j.db)
	}
	slices.Sort(dbs)
	return slices.Compact(dbs)
}

func (m *MongoRestore) choose(data dumpData) ([]*job, error) {
	p := patterns{m.Include, m.Exclude}
	unused := slices.Clone(m.Include)
	used := map[string]string{}
	var jobs []*job
	for _, d := range data.spaces() {
		ns := d.namespace()
		unused = slices.DeleteFunc(unused, func(one string) bool { return matchPattern(one, ns) })
		if !p.match(ns) {
			continue
		}
		to, err := m.target(ns)
		if err != nil {
			return nil, err
		}
		if from := used[to]; from != "" {
			return nil, fmt.Errorf("%s and %s would both become %s", from, ns, to)
		}
		used[to] = ns
		j := &job{dumped: d}
		j.db, j.name, _ = strings.Cut(to, ".")
		if err := checkDatabase(j.db); err != nil {
			return nil, fmt.Errorf("%s: %w; leave it out with Exclude %q", ns, err, d.DB+".*")
		}
		if j.name == "" || strings.HasPrefix(j.name, "system.") && j.name != "system.js" || strings.Contains(j.name, "$") {
			return nil, fmt.Errorf("%s: %q is a name that only the server may use; leave it out with Exclude", ns, j.name)
		}
		jobs = append(jobs, j)
	}
	if len(unused) > 0 {
		return nil, fmt.Errorf("the dump holds nothing that matches %s", strings.Join(unused, ", "))
	}
	if len(jobs) == 0 {
		return nil, errors.New("everything in the dump is excluded")
	}
	if m.UsersAndRoles && len(data.auth()) == 0 {
		return nil, errors.New("the dump holds no users and roles")
	}
	return jobs, nil
}

// plan says what a restore would do to each collection, and refuses what it
// would refuse.
func (m *MongoRestore) plan(ctx context.Context, data dumpData) ([]Item, error) {
	r, err := m.begin(ctx, data)
	if err != nil {
		return nil, err
	}
	defer r.conn.close(ctx)
	return r.plan(ctx)
}

func (r *restoring) plan(ctx context.Context) ([]Item, error) {
	var refused []error
	for _, j := range r.jobs {
		j.item = Item{Name: j.to(), Action: ActionCreate, Count: j.count, Bytes: j.bytes}
		if j.namespace() != j.to() {
			j.item.Detail = "was " + j.namespace()
		}
		if j.live == nil {
			continue
		}
		j.item.Action = ActionReplace
		if err := r.refuse(ctx, j); err != nil {
			refused = append(refused, fail("restore", j.to(), err))
		}
	}
	return r.report(), errors.Join(refused...)
}

// refuse says why a collection that exists stands in the way.
func (r *restoring) refuse(ctx context.Context, j *job) error {
	switch kind := j.live.Type; {
	case r.m.Mode == MongoDrop:
		return nil
	case kind != j.Type:
		return fmt.Errorf("%w: there is a %s of this name, the dump has a %s; drop it, or restore with MongoDrop", ErrNotEmpty, kind, j.Type)
	case r.m.Mode == MongoMerge && j.Type == typeView:
		return nil
	case r.m.Mode == MongoMerge:
		j.item.Detail = strings.TrimPrefix(j.item.Detail+", documents are added", ", ")
		want, err := j.comparable()
		if err != nil {
			return err
		}
		have, err := j.live.comparable()
		if err != nil {
			return err
		}
		if !bytes.Equal(want, have) {
			return fmt.Errorf("%w: options or indexes; merging needs the same on both sides", ErrDiffers)
		}
		return nil
	case j.Type != typeView && !j.renamable():
		return fmt.Errorf("%w: time series and system collections cannot be renamed, so the live one cannot stay until the new one is proven; drop it, or restore with MongoDrop", ErrNotEmpty)
	case r.m.Mode == MongoReplace:
		return nil
	}
	if j.Type == typeView {
		return fmt.Errorf("%w: the view exists; restore with MongoReplace", ErrNotEmpty)
	}
	n, err := r.conn.Database(j.db).Collection(j.name).EstimatedDocumentCount(ctx)
	if err != nil {
		return r.conn.scrub(err)
	}
	if n > 0 {
		return fmt.Errorf("%w: it holds %d documents; restore with MongoReplace, under another name, or after dropping it", ErrNotEmpty, n)
	}
	return nil
}

func (r *restoring) report() []Item {
	var items []Item
	for _, j := range r.jobs {
		items = append(items, j.item)
	}
	return items
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
		if e := ended(ctx); e != nil {
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
		if j.renamable() && (r.m.Mode == MongoNew || r.m.Mode == MongoReplace) {
			j.temp = fmt.Sprintf("%s%s_%d", tempPrefix, hex.EncodeToString(token[:]), i)
		}
	}
}

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
	return nil
}

// fill writes a collection's documents, proves them and builds its indexes.
// The proof comes first because a TTL index begins to remove documents at once.
func (r *restoring) fill(ctx context.Context, j *job, read readDocs) error {
	if err := r.insert(ctx, j, read); err != nil {
		return err
	}
	if r.m.Mode != MongoMerge {
		if err := r.sameDocuments(ctx, j, j.into(), nil); err != nil {
			return err
		}
	}
	if j.live != nil && r.m.Mode == MongoMerge {
		return nil
	}
	return r.buildIndexes(ctx, j)
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
