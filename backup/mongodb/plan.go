package mongodb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
	"go.mongodb.org/mongo-driver/mongo/readpref"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/backup/mongodb/internal/dump"
)

// job is the restore of one collection, view or time series.
type job struct {
	*dump.Collection
	live    *dump.Space // the existing one, or nil
	temp    string      // its name until the swap; empty: in place
	kept    string      // the live one's name after the swap
	uuid    string      // of the new collection
	want    dump.Tally  // the documents for the server, without earlier versions of duplicates
	dropped bool        // the live one was dropped
	made    bool        // we have or may have created it
	filled  bool        // all documents and indexes were compared
	placed  bool        // it has its own name
	done    int64       // documents sent
	item    backup.Item
}

func (j *job) to() string { return j.Namespace() }

// into returns the name of the collection for the documents.
func (j *job) into() string {
	s := *j.Space
	s.Name = cmp.Or(j.temp, j.Name)
	return s.DataName()
}

// renamable reports whether the server lets a collection take another name.
func renamable(s *dump.Space) bool {
	return s.Type == dump.TypeCollection && !strings.HasPrefix(s.Name, "system.")
}

// restoring is one restore in progress.
type restoring struct {
	m        *Restore
	conn     *conn
	reader   *reader
	log      *slog.Logger
	data     *source
	jobs     []*job
	extras   []*extra
	notes    []backup.Item   // about what other runs left
	killed   map[string]*run // by database, for a plan: runs that a restore undoes first
	token    string
	leases   []*lease
	runs     map[string]*run // by database
	pool     chan *batch
	progress func(backup.Event)
	checked  map[string]string

	mu                    sync.Mutex // guards the rest, and done of the jobs
	docs, bytes           int64
	totalDocs, totalBytes int64
}

// begin chooses the collections, and connects.
func (m *Restore) begin(ctx context.Context, data *source) (*restoring, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	jobs, err := m.choose(data)
	if err != nil {
		return nil, err
	}
	if m.DropExtra && data.covers == nil {
		return nil, errors.New("the dump does not record what was left out of it, so DropExtra cannot " +
			"find new collections; drop those by hand")
	}
	conn, err := m.Server.connect(ctx)
	if err != nil {
		return nil, err
	}
	r := &restoring{m: m, conn: conn, log: step.Logger(m.Log), data: data, jobs: jobs,
		progress: func(backup.Event) {},
		token:    newToken(), runs: map[string]*run{}, checked: map[string]string{}}
	r.reader = &reader{conn: conn, log: r.log}
	for _, j := range jobs {
		r.totalDocs += j.Count
		r.totalBytes += j.Bytes
	}
	return r, nil
}

func (r *restoring) parallel() int { return atATime(r.m.Parallel, r.totalBytes <= smallData) }

// look finds out what is on the server.
func (r *restoring) look(ctx context.Context) error {
	live := map[string]*dump.Space{}
	for _, db := range r.databases() {
		var all, ours []*dump.Space
		err := r.reader.persist(ctx, "list "+db, func() (err error) {
			all, ours, err = r.conn.spaces(ctx, db)
			return err
		})
		if err != nil {
			if e := step.Ended(ctx); e != nil {
				return step.Fail("list the collections of", db, e)
			}
			return r.conn.fail("list the collections of", db, err)
		}
		for _, s := range all {
			live[s.Namespace()] = s
		}
		if n := r.killed[db]; n != nil {
			rewind(n, live, ours)
			continue
		}
		r.noteOrphans(ours)
	}
	for _, j := range r.jobs {
		j.live = live[j.to()]
	}
	r.findExtras(live)
	return nil
}

func (r *restoring) databases() []string {
	var dbs []string
	for _, j := range r.jobs {
		dbs = append(dbs, j.DB)
	}
	slices.Sort(dbs)
	return slices.Compact(dbs)
}

func (m *Restore) choose(data *source) ([]*job, error) {
	p := patterns{m.Include, m.Exclude}
	unused := slices.Clone(m.Include)
	var jobs []*job
	for _, d := range data.All {
		ns := d.Namespace()
		unused = slices.DeleteFunc(unused, func(one string) bool { return matchPattern(one, ns) })
		if !p.match(ns) {
			continue
		}
		if err := checkDatabase(d.DB); err != nil {
			return nil, fmt.Errorf("%s: %w; exclude %q", ns, err, d.DB+".*")
		}
		if d.Name == "" || strings.HasPrefix(d.Name, "system.") && d.Name != "system.js" ||
			strings.Contains(d.Name, "$") || isOurs(d.Name) {
			return nil, fmt.Errorf("%s: the name is reserved; exclude it", ns)
		}
		jobs = append(jobs, &job{Collection: d, want: d.Tally})
	}
	if len(unused) > 0 {
		return nil, fmt.Errorf("the dump has no collection that matches %s", strings.Join(unused, ", "))
	}
	if len(jobs) == 0 {
		return nil, errors.New("everything in the dump is excluded")
	}
	return jobs, nil
}

// plan returns what a restore would do to each collection, and refuses what it would refuse.
func (m *Restore) plan(ctx context.Context, data *source) ([]backup.Item, error) {
	r, err := m.begin(ctx, data)
	if err != nil {
		return nil, err
	}
	defer r.conn.close(ctx)
	if err := r.peek(ctx); err != nil {
		return nil, r.failed(ctx, err)
	}
	if err := r.look(ctx); err != nil {
		return nil, err
	}
	return r.plan(ctx)
}

func (r *restoring) plan(ctx context.Context) ([]backup.Item, error) {
	refused := make([]error, len(r.jobs))
	err := each(ctx, questions, len(r.jobs), func(ctx context.Context, i int) error {
		j := r.jobs[i]
		j.item = backup.Item{Name: j.to(), Action: backup.ActionCreate, Count: j.Count, Bytes: j.Bytes}
		if j.live == nil {
			return nil
		}
		j.item.Action = backup.ActionReplace
		if err := r.refuse(ctx, j); err != nil {
			refused[i] = step.Fail("restore", j.to(), err)
		}
		return step.Ended(ctx)
	})
	if err != nil {
		return nil, r.failed(ctx, err)
	}
	refused = append(refused, r.planExtras(ctx)...)
	return r.report(), errors.Join(refused...)
}

// refuse returns why a collection that exists blocks the restore.
func (r *restoring) refuse(ctx context.Context, j *job) error {
	switch {
	case r.m.Mode == Drop:
		return nil
	case j.live.Type != j.Type:
		return notEmpty(j, fmt.Sprintf("a %s of this name exists, the dump has a %s", j.live.Type,
			j.Type), "drop it, or restore in the mode drop")
	case j.Type != dump.TypeView && !renamable(j.Space):
		return notEmpty(j, "time series and system collections cannot be renamed, so the live one "+
			"cannot stay until the new one is compared", "drop it, or restore in the mode drop")
	case r.m.Mode == Replace:
		return nil
	case j.Type == dump.TypeView:
		return notEmpty(j, "the view exists", "restore in the mode replace")
	}
	n, err := r.conn.holds(ctx, j.DB, j.Name)
	if err != nil {
		return r.conn.fail("look at", j.to(), err)
	}
	if n > 0 {
		return notEmpty(j, fmt.Sprintf("it has %d documents", n),
			"restore in the mode replace, or after dropping it")
	}
	return nil
}

// holds counts documents. It returns 0 only if there are none. After an unclean shutdown, the
// server's estimate alone may be 0 for a collection that is not empty.
func (c *conn) holds(ctx context.Context, db, name string) (int64, error) {
	coll := c.Database(db).Collection(name, options.Collection().SetReadPreference(readpref.Primary()))
	err := coll.FindOne(ctx, bson.D{}).Err()
	if errors.Is(err, mongo.ErrNoDocuments) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := coll.EstimatedDocumentCount(ctx)
	return max(n, 1), err
}

func notEmpty(j *job, cause, next string) error {
	return &backup.Error{Op: "restore", Object: j.to(), Kind: backup.ErrNotEmpty,
		Err: errors.New(cause), Next: next}
}

func (r *restoring) report() []backup.Item {
	var items []backup.Item
	for _, j := range r.jobs {
		items = append(items, j.item)
	}
	for _, x := range r.extras {
		if x.item.Name != "" {
			items = append(items, x.item)
		}
	}
	for _, db := range r.data.Users {
		items = append(items, backup.Item{Name: "users and roles of " + db, Action: backup.ActionSkip,
			Detail: "in the dump, but not restored: create them by hand or use mongorestore " +
				"--restoreDbUsersAndRoles"})
	}
	return append(items, r.notes...)
}

// largestFirst keeps a few workers busy, so that the longest does not come last.
func largestFirst(ctx context.Context, parallel int, all []*job, do func(context.Context,
	*job) error) error {
	all = slices.SortedStableFunc(slices.Values(all), func(a, b *job) int {
		return cmp.Compare(b.Bytes,
			a.Bytes)
	})
	return each(ctx, parallel, len(all), func(ctx context.Context, i int) error {
		return do(ctx,
			all[i])
	})
}
