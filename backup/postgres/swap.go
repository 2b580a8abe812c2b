package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// swap gives all restored databases their live names in one transaction.
// It uses q, or a session of its own if the server or a firewall has ended q meanwhile.
func (r *Restore) swap(ctx context.Context, w *work, q *session) (replaced map[string]bool,
	err error) {
	if !q.alive() {
		if q, err = w.c.connect(ctx, w.c.maintenance()); err != nil {
			return nil, err
		}
		defer q.close()
	}
	replaced = map[string]bool{}
	var sql []string
	for _, db := range w.dbs {
		live, err := q.look(db.Name)
		if err != nil {
			return nil, err
		}
		if live != nil {
			if err := r.checkLive(w, db, *live); err != nil { // again: hours may have passed
				return nil, err
			}
			replaced[db.Name] = true
			sql = append(sql, rename(db.Name, w.oldName(db)))
		}
		sql = append(sql, rename(w.newName(db), db.Name))
		words := comment(db.Comment)
		if live == nil {
			words = quoteLiteral(w.mark()) // tells Undo that no database was replaced
		}
		sql = append(sql, "COMMENT ON DATABASE "+quoteIdent(db.Name)+" IS "+words)
	}
	return replaced, r.renameAll(ctx, w, q, sql, r.EndClients)
}

// renameAll runs renames in one transaction, so that a kill changes all names or none. A database
// with sessions cannot be renamed. With end set, they are ended repeatedly, because clients
// reconnect. q cannot be used after a failure.
func (r *Restore) renameAll(ctx context.Context, w *work, q *session, sql []string,
	end bool) error {
	if len(sql) == 0 {
		return nil
	}
	for try := 0; ; try++ {
		err := w.tryRename(q, sql, end)
		if err == nil || !errors.Is(err, ErrInUse) || try == 40 || !end && try == 3 {
			return err
		}
		if err := step.Pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
		if q, err = w.c.connect(ctx, w.c.maintenance()); err != nil { // psql ended with the error
			return err
		}
		defer q.close()
	}
}

func (w *work) tryRename(q *session, sql []string, end bool) error {
	var names []string
	for _, db := range w.dbs {
		names = append(names, quoteLiteral(db.Name))
		for _, own := range []string{w.newName(db), w.oldName(db)} {
			names = append(names, quoteLiteral(own))
		}
	}
	if end {
		if _, err := q.query("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid " +
			"<> pg_backend_pid() AND datname IN (" + strings.Join(names, ", ") + ")"); err != nil {
			return err
		}
	}
	if _, err := q.query("BEGIN; " + strings.Join(sql, "; ") + "; COMMIT"); err != nil {
		return &backup.Error{Op: "rename databases on", Object: w.c.String(),
			Err: fmt.Errorf("nothing was renamed: %w", err), Retry: step.Retryable(err)}
	}
	return nil
}
