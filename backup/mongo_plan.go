package backup

import (
	"bytes"
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

	"example.com/tykupgrade/backup/internal/step"
)

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
	dropped  bool        // the live one, to make place
	made     bool        // created by us, in place or beside, or perhaps so
	filled   bool        // all documents and indexes are there, and proven
	placed   bool        // under its own name for good
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
	extras   []*extra
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
	if m.DropExtra && data.covers() == nil {
		return nil, errors.New("the dump does not say what was left out of it, so what it does not have cannot be told from what is new; drop that by hand")
	}
	conn, err := m.Server.connect(ctx)
	if err != nil {
		return nil, err
	}
	r := &restoring{m: m, conn: conn, log: step.Logger(m.Log), data: data, jobs: jobs, progress: func(Event) {}}
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
			if e := step.Ended(ctx); e != nil {
				return nil, step.Fail("list the collections of", db, e)
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
	r.findExtras(live)
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
			return nil, fmt.Errorf("%s: %w; exclude %q", ns, err, d.DB+".*")
		}
		if j.name == "" || strings.HasPrefix(j.name, "system.") && j.name != "system.js" || strings.Contains(j.name, "$") {
			return nil, fmt.Errorf("%s: %q is a name that only the server may use; exclude it", ns, j.name)
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
		if j.Type == typeView {
			if _, err := r.viewCommand(j); err != nil {
				refused = append(refused, step.Fail("restore", j.to(), err))
			}
		}
		if j.live == nil {
			continue
		}
		j.item.Action = ActionReplace
		if err := r.refuse(ctx, j); err != nil {
			refused = append(refused, step.Fail("restore", j.to(), err))
		}
	}
	r.planExtras(ctx)
	return r.report(), errors.Join(refused...)
}

// refuse says why a collection that exists stands in the way.
func (r *restoring) refuse(ctx context.Context, j *job) error {
	switch kind := j.live.Type; {
	case r.m.Mode == MongoDrop:
		return nil
	case kind != j.Type:
		return r.notEmpty(j, fmt.Sprintf("there is a %s of this name, the dump has a %s", kind, j.Type), "drop it, or restore in the mode drop")
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
		return r.notEmpty(j, "time series and system collections cannot be renamed, so the live one cannot stay until the new one is proven", "drop it, or restore in the mode drop")
	case r.m.Mode == MongoReplace:
		return nil
	}
	if j.Type == typeView {
		return r.notEmpty(j, "the view exists", "restore in the mode replace")
	}
	coll := r.conn.Database(j.db).Collection(j.name, options.Collection().SetReadPreference(readpref.Primary()))
	// The estimate alone may say 0 of what is not empty after an unclean shutdown.
	err := coll.FindOne(ctx, bson.D{}).Err()
	if errors.Is(err, mongo.ErrNoDocuments) {
		return nil
	}
	n, failed := coll.EstimatedDocumentCount(ctx)
	if err = cmp.Or(err, failed); err != nil {
		return r.conn.fail("look at", j.to(), err)
	}
	return r.notEmpty(j, fmt.Sprintf("it holds %d documents", max(n, 1)), "restore in the mode replace, under another name, or after dropping it")
}

func (r *restoring) notEmpty(j *job, cause, next string) error {
	return &Error{Op: "restore", Object: j.to(), Err: fmt.Errorf("%w: %s", ErrNotEmpty, cause), Next: next}
}

func (r *restoring) report() []Item {
	var items []Item
	for _, j := range r.jobs {
		items = append(items, j.item)
	}
	for _, x := range r.extras {
		if x.item.Name != "" {
			items = append(items, x.item)
		}
	}
	return items
}
