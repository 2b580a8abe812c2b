package mongodb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/backup/mongodb/internal/dump"
)

// Leftover describes what a restore left in a database.
type Leftover struct {
	Database string
	State    LeftoverState
	Started  time.Time // of the restore; zero if unknown
	// Collections with names of the run: copies that were never put in place, and replaced
	// collections.
	Collections []string
}

// String returns "a restore into tyk_analytics (interrupted): a, b".
func (l Leftover) String() string {
	return fmt.Sprintf("a restore into %s (%s): %s", l.Database, l.State, strings.Join(l.Collections,
		", "))
}

// LeftoverState is the state of a restore that left something.
type LeftoverState string

// The states of a restore that left something.
const (
	// it is running, or was killed less than a minute ago
	LeftRunning     LeftoverState = "running"
	LeftInterrupted LeftoverState = "interrupted" // it was killed; the next restore undoes it
	LeftUnaccepted  LeftoverState = "unaccepted"  // it finished; call Accept or Undo
	LeftUnknown     LeftoverState = "unknown"     // collections without a journal
)

// Leftovers lists what restores left on a server, and changes nothing. Without databases it reads
// [DefaultDatabase].
func Leftovers(ctx context.Context, s Server, databases ...string) ([]Leftover, error) {
	return leftovers(ctx, s, databases, nil)
}

// Prune removes what restores left on a server, and returns what it removed. It undoes interrupted
// restores, and drops new collections without a journal. It accepts restores that finished longer
// than keep ago, or none if keep is negative. It leaves alone running restores, and replaced
// collections without a journal, because their names are unknown.
func Prune(ctx context.Context, s Server, keep time.Duration,
	databases ...string) ([]Leftover, error) {
	return leftovers(ctx, s, databases, func(c *conn, r *reader, l Leftover, n *run) (bool, error) {
		accept := l.State == LeftUnaccepted && keep >= 0 && c.now().Sub(l.Started) > keep
		switch {
		case l.State == LeftInterrupted || accept:
			to := undoing
			if accept || n.Phase == accepting {
				to = accepting
			}
			_, err := c.endRun(ctx, r, l.Database, leaseTime, to, func(now *run) error {
				if now.Token != n.Token {
					return &backup.Error{Op: "prune", Object: l.Database, Kind: backup.ErrLocked,
						Err: errors.New("another restore has begun"), Retry: true}
				}
				return nil
			})
			return true, err
		case l.State == LeftUnknown:
			removed := false
			for _, name := range l.Collections {
				if strings.HasPrefix(name, tempPrefix) {
					if err := c.drop(ctx, l.Database, name); err != nil {
						return removed, err
					}
					removed = true
				}
			}
			return removed, nil
		}
		return false, nil
	})
}

// leftovers lists what is left. With do, it lists what do has removed.
func leftovers(ctx context.Context, s Server, databases []string, do func(*conn, *reader, Leftover,
	*run) (bool, error)) (all []Leftover, err error) {
	if len(databases) == 0 {
		databases = []string{DefaultDatabase}
	}
	for _, db := range databases {
		if err := checkDatabase(db); err != nil {
			return nil, err
		}
	}
	c, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.close(ctx)
	r := &reader{conn: c, log: step.Logger(nil)}
	for _, db := range databases {
		_, ours, err := c.spaces(ctx, db)
		if err != nil {
			return all, c.fail("list the collections of", db, err)
		}
		n, held, err := r.journal(ctx, db)
		if err != nil {
			return all, c.fail("read the journal of", db, err)
		}
		l := Leftover{Database: db, State: LeftUnknown}
		for _, s := range ours {
			if s.Name != journalName {
				l.Collections = append(l.Collections, s.Name)
			}
		}
		if n != nil {
			l.Started = n.Started
		}
		switch {
		case held != nil && held.Until.After(c.now()):
			l.State = LeftRunning
		case n != nil && n.Phase == replaced:
			l.State = LeftUnaccepted
		case n != nil || held != nil:
			l.State = LeftInterrupted
		case len(ours) == 0:
			continue
		}
		if n == nil {
			n = &run{}
		}
		if do != nil {
			removed, err := do(c, r, l, n)
			if err != nil {
				return all, c.fail("prune", db, err)
			}
			if !removed {
				continue
			}
		}
		all = append(all, l)
	}
	return all, nil
}

// endRun ends the run of a database, if there is one, and removes its journal. It reports whether
// there was one.
func (c *conn) endRun(ctx context.Context, r *reader, db string, length time.Duration, to phase,
	allowed func(*run) error) (found bool, _ error) {
	_, ours, err := c.spaces(ctx, db)
	if err != nil {
		return false, err
	}
	if !slices.ContainsFunc(ours, func(s *dump.Space) bool { return s.Name == journalName }) {
		return false, nil // acquire would make one
	}
	l, n, err := acquire(ctx, r, db, newToken(), length)
	if err != nil {
		return false, err
	}
	if n == nil {
		return false, l.forget(ctx)
	}
	defer l.release(ctx)
	if err := allowed(n); err != nil {
		return true, err
	}
	if n.Phase == replaced || to == undoing && n.Phase == swapping {
		n.Phase = to
		if _, err := c.replace(ctx, db, bson.D{{Key: "_id", Value: runID}}, n, true); err != nil {
			return true, err
		}
	}
	if err := c.finish(ctx, r, db, n); err != nil {
		return true, err
	}
	return true, l.forget(ctx)
}

func unaccepted(db string, n *run) error {
	return &backup.Error{Op: "restore into", Object: db, Kind: ErrUnaccepted,
		Err:  errors.New("it began at " + n.Started.Local().Format(time.DateTime)),
		Next: "call Accept or Undo with the set that it restored, or Prune"}
}

// peek refuses what a restore would refuse, and notes what it would do first.
func (r *restoring) peek(ctx context.Context) error {
	for _, db := range r.databases() {
		n, held, err := r.reader.journal(ctx, db)
		switch {
		case err != nil:
			return r.conn.fail("read the journal of", db, err)
		case held != nil && held.Until.After(r.conn.now()):
			return locked(db, held)
		case n == nil:
		case n.Phase == replaced:
			return unaccepted(db, n)
		default:
			r.notes = append(r.notes, note(db, n, false))
			if r.killed == nil {
				r.killed = map[string]*run{}
			}
			r.killed[db] = n
		}
	}
	return nil
}

// note returns the report's item for a killed run.
func note(db string, n *run, done bool) backup.Item {
	verb := "will be"
	if done {
		verb = "was"
	}
	what := "undone: its new collections are dropped, and the replaced ones get their names back"
	if n.Phase == accepting {
		what = "finished: the collections that it replaced are dropped"
	}
	return backup.Item{Name: db + "." + journalName, Action: backup.ActionDrop,
		Detail: fmt.Sprintf("a restore that began at %s was killed, and %s %s",
			n.Started.Local().Format(time.DateTime), verb, what)}
}

// rewind changes a list of collections to its state after the undo of a killed run.
func rewind(n *run, live map[string]*dump.Space, ours []*dump.Space) {
	if n.Phase == accepting {
		return
	}
	there := map[string]*dump.Space{}
	for _, s := range ours {
		there[s.Name] = s
	}
	for _, j := range n.Jobs {
		for ns, s := range live {
			inPlace := j.Temp == "" && !j.Extra // a restore checks whether it is the run's own
			placed := j.Temp != "" && there[j.Temp] == nil && n.Phase != building
			if s.Name == j.Name && !j.Live && (inPlace || placed) {
				delete(live, ns)
			}
			if old := there[j.Kept]; s.DB == ours[0].DB && old != nil && s.Name == j.Name {
				delete(live, ns)
			}
		}
		if old := there[j.Kept]; old != nil {
			back := *old
			back.Name = j.Name
			live[back.Namespace()] = &back
		}
	}
}

// noteOrphans notes collections of restores without a journal.
func (r *restoring) noteOrphans(ours []*dump.Space) {
	for _, s := range ours {
		if s.Name == journalName || strings.Contains(s.Name, r.token) {
			continue
		}
		r.log.Warn("left by a restore that was killed", "collection", s.Namespace())
		r.notes = append(r.notes, backup.Item{Name: s.Namespace(), Action: backup.ActionKeep,
			Detail: "left by a restore that was killed; Prune removes it"})
	}
}

func deleteIDs(ids []any) bson.D {
	deletes := bson.A{}
	for _, id := range ids {
		deletes = append(deletes, bson.D{{Key: "q", Value: bson.D{{Key: "_id", Value: id}}},
			{Key: "limit", Value: 1}})
	}
	return bson.D{{Key: "delete", Value: journalName}, {Key: "deletes", Value: deletes}, majority}
}
