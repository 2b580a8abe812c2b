package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// Restore is a [backup.Restorer] for the databases of a component.
//
// Restore builds each database as NAME_tykupgrade_new_ID next to the live one and compares it with
// the archive, object by object and row by row. Then all of them take the live names in one
// transaction. The replaced databases stay as NAME_tykupgrade_old_ID until Accept removes them. So
// a failure, a cancel or a kill -9 leaves either all live databases or all restored ones. Plan
// reports new databases that a killed run left, and the next Restore of the same set removes them.
//
// The user needs CREATEDB, must own the live databases, and must be a member of the roles that own
// objects. A superuser has all of that.
type Restore struct {
	Server    Server
	Component string   // name in the set; empty: "postgres"
	Databases []string // databases to restore; empty: all of the component
	Replace   bool     // replace existing databases that have tables
	// end the sessions of other clients right before the swap; false: such sessions are an
	// ErrInUse
	EndClients bool
	// restore without owners and privileges, for a server without the roles
	NoOwner bool
	// parallel jobs of pg_restore if the tools run on this machine; 0: 2, or 1 for an archive
	// below 256 KiB
	Jobs int
	Log  *slog.Logger // nil: silent

	mu       sync.Mutex
	compared map[string]uint32 // oids of databases that equalled the set
}

// Name returns the component's name.
func (r *Restore) Name() string { return name(r.Component) }

// work has the data of one restore.
type work struct {
	c     *client
	s     *backup.Stored
	d     *Details
	dbs   []Database
	facts serverFacts
	dump  int // major version of pg_dump where the tools run; 0: not asked yet
}

func (r *Restore) open(ctx context.Context, s *backup.Stored) (*work, *session, error) {
	d, err := details(s)
	if err != nil {
		return nil, nil, err
	}
	w := &work{s: s, d: d}
	for _, db := range d.Databases {
		if len(r.Databases) == 0 || slices.Contains(r.Databases, db.Name) {
			w.dbs = append(w.dbs, db)
		}
	}
	for _, n := range r.Databases {
		if !slices.ContainsFunc(w.dbs, func(db Database) bool { return db.Name == n }) {
			return nil, nil, &backup.Error{Op: "restore", Object: "database " + n, Kind: ErrNoDatabase,
				Err: errors.New("the set does not have it")}
		}
	}
	if w.c, err = r.Server.client(); err != nil {
		return nil, nil, err
	}
	q, err := w.c.connect(ctx, w.c.maintenance())
	if err != nil {
		return nil, nil, err
	}
	if w.facts, err = q.server(); err != nil {
		q.close()
		return nil, nil, err
	}
	return w, q, nil
}

// Plan checks on the server everything that a restore needs. It changes nothing.
func (r *Restore) Plan(ctx context.Context, s *backup.Stored) ([]backup.Item, error) {
	w, q, err := r.open(ctx, s)
	if err != nil {
		return nil, err
	}
	defer q.close()
	if w.c.plaintext() {
		step.Logger(r.Log).Warn("the connection may be unencrypted: set sslmode=verify-full", "server",
			w.c.String())
	}
	if err := r.checkServer(ctx, w, q); err != nil {
		return nil, err
	}
	var items []backup.Item
	for _, db := range w.dbs {
		more, err := r.planOne(w, q, db)
		if err != nil {
			return items, step.Fail("restore", "database "+db.Name, err)
		}
		items = append(items, more...)
	}
	return items, nil
}

func (r *Restore) planOne(w *work, q *session, db Database) ([]backup.Item, error) {
	if err := r.checkNeeds(w, q, db); err != nil {
		return nil, err
	}
	var rows int64
	for _, t := range db.Tables {
		rows += t.Rows
	}
	item := backup.Item{Name: db.Name, Action: backup.ActionCreate, Count: rows, Bytes: db.Size}
	live, err := q.look(db.Name)
	if err != nil {
		return nil, err
	}
	if old, err := q.look(w.oldName(db)); err != nil || old != nil {
		if err == nil {
			err = &backup.Error{Op: "restore", Object: w.oldName(db), Kind: backup.ErrNotEmpty,
				Err:  errors.New("an earlier restore of this set was neither accepted nor undone"),
				Next: "call Set.Accept or Set.Undo first"}
		}
		return nil, err
	}
	if live != nil {
		item.Action = backup.ActionReplace
		item.Detail = fmt.Sprintf("the replaced database stays as %s until the restore is accepted",
			w.oldName(db))
		if err := r.checkLive(w, db, *live); err != nil {
			return nil, err
		}
	}
	items := []backup.Item{item}
	if left, err := q.look(w.newName(db)); err != nil {
		return nil, err
	} else if left != nil {
		items = append(items, backup.Item{Name: w.newName(db), Action: backup.ActionDrop,
			Detail: "a killed restore of this set left it"})
	}
	return items, nil
}

// Restore builds the databases, compares them with the set, and swaps them with the live ones.
func (r *Restore) Restore(ctx context.Context, s *backup.Stored,
	progress func(backup.Event)) (items []backup.Item, err error) {
	w, q, err := r.open(ctx, s)
	if err != nil {
		return nil, err
	}
	defer func() { q.close() }()
	defer func() {
		if err == nil {
			return
		}
		undo, cancel := step.Undoing(ctx)
		defer cancel()
		err = errors.Join(step.WithEnd(ctx, err), r.dropNew(undo, w))
	}()
	oids := map[string]uint32{}
	for _, db := range w.dbs {
		report := func(item string) {
			if progress != nil {
				progress(backup.Event{Component: s.Name, Phase: backup.PhaseRestore, Item: item})
			}
		}
		if oids[db.Name], err = r.build(ctx, w, q, db, w.newName(db), report); err != nil {
			return nil, step.Fail("restore", "database "+db.Name, err)
		}
	}
	replaced, err := r.swap(ctx, w, q)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.compared = oids
	r.mu.Unlock()
	for _, db := range w.dbs {
		item := backup.Item{Name: db.Name, Action: backup.ActionCreate, Bytes: db.Size}
		if replaced[db.Name] {
			item.Action, item.Detail = backup.ActionReplace, "kept as "+w.oldName(db)
		}
		for _, t := range db.Tables {
			item.Count += t.Rows
		}
		items = append(items, item)
	}
	return items, nil
}

// Prove compares the live databases with the set. It does not read a database again that this
// Restore compared before the swap, if it is still the same one (by oid), because clients may have
// written to it.
func (r *Restore) Prove(ctx context.Context, s *backup.Stored) error {
	w, q, err := r.open(ctx, s)
	if err != nil {
		return err
	}
	defer q.close()
	for _, db := range w.dbs {
		live, err := q.look(db.Name)
		if err != nil {
			return err
		}
		if live == nil {
			return &backup.Error{Op: "compare", Object: "database " + db.Name, Kind: backup.ErrDiffers,
				Err: errors.New("it does not exist")}
		}
		r.mu.Lock()
		known := r.compared[db.Name]
		r.mu.Unlock()
		if known == live.OID {
			continue
		}
		if err := w.compare(ctx, db, db.Name, r.NoOwner); err != nil {
			return err
		}
	}
	return nil
}

// Undo renames the replaced databases back and drops the restored ones. It also drops databases
// that the restore created without replacing any. undone is false if no restore of this set waits
// for Accept or Undo.
func (r *Restore) Undo(ctx context.Context, s *backup.Stored) (undone bool, err error) {
	w, q, err := r.open(ctx, s)
	if err != nil {
		return false, err
	}
	defer func() { q.close() }()
	var sql []string
	for _, db := range w.dbs {
		old, err := q.look(w.oldName(db))
		if err != nil {
			return false, err
		}
		live, err := q.look(db.Name)
		if err != nil {
			return false, err
		}
		switch {
		case old != nil && live != nil:
			sql = append(sql, rename(db.Name, w.newName(db)), rename(w.oldName(db), db.Name))
		case old != nil:
			sql = append(sql, rename(w.oldName(db), db.Name))
		case live != nil && live.Comment == w.mark():
			sql = append(sql, rename(db.Name, w.newName(db)))
		}
	}
	if err := r.renameAll(ctx, w, q, sql, true); err != nil {
		return false, err
	}
	return len(sql) > 0, r.dropNew(ctx, w)
}

// Accept drops the replaced databases.
func (r *Restore) Accept(ctx context.Context, s *backup.Stored) error {
	w, q, err := r.open(ctx, s)
	if err != nil {
		return err
	}
	defer q.close()
	for _, db := range w.dbs {
		live, err := q.look(db.Name)
		if err != nil {
			return err
		}
		if live != nil && live.Comment == w.mark() {
			if _, err := q.query("COMMENT ON DATABASE " + quoteIdent(db.Name) + " IS " +
				comment(db.Comment)); err != nil {
				return err
			}
		}
		if old, err := q.look(w.oldName(db)); err != nil {
			return err
		} else if old != nil && live != nil {
			if _, err := q.query(w.drop(w.oldName(db))); err != nil {
				return step.Fail("drop", "database "+w.oldName(db), err)
			}
		}
	}
	return nil
}

func comment(s string) string {
	if s == "" {
		return "NULL"
	}
	return quoteLiteral(s)
}

func rename(from, to string) string {
	return "ALTER DATABASE " + quoteIdent(from) + " RENAME TO " + quoteIdent(to)
}

// drop ends leftover sessions if the server can (since 13).
func (w *work) drop(name string) string {
	sql := "DROP DATABASE IF EXISTS " + quoteIdent(name)
	if w.facts.major() >= 13 {
		sql += " WITH (FORCE)"
	}
	return sql
}

func (r *Restore) dropNew(ctx context.Context, w *work) error {
	q, err := w.c.connect(ctx, w.c.maintenance())
	if err != nil {
		return err
	}
	defer q.close()
	for _, db := range w.dbs {
		if _, err := q.query(w.drop(w.newName(db))); err != nil {
			return step.Fail("drop", "database "+w.newName(db), err)
		}
	}
	return nil
}

// The names of a run depend on the archive, so that a later process finds them.
func (w *work) id() string {
	for _, f := range w.s.Files {
		if len(f.SHA256) >= 8 && strings.HasSuffix(f.Path, ".dump") {
			return f.SHA256[:8]
		}
	}
	return "00000000"
}

func (w *work) mark() string {
	return "tykupgrade: made by restore " + w.id() +
		", not accepted yet"
}
func (w *work) newName(db Database) string { return runName(db.Name, "new", w.id()) }
func (w *work) oldName(db Database) string { return runName(db.Name, "old", w.id()) }

// runName returns a name within the server's limit of 63 bytes.
func runName(db, what, id string) string {
	suffix := "_tykupgrade_" + what + "_" + id
	for len(db) > 63-len(suffix) {
		r := []rune(db)
		db = string(r[:len(r)-1])
	}
	return db + suffix
}
