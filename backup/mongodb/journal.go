package mongodb

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
	"go.mongodb.org/mongo-driver/mongo/readpref"

	"example.com/tykupgrade/backup"
)

// Names that restores use in a database.
const (
	journalName = "tykupgrade_restore"
	tempPrefix  = "tykupgrade_restore_" // new collections, followed by the run's token
	keptPrefix  = "tykupgrade_kept_"    // replaced collections
)

func isOurs(name string) bool {
	return name == journalName || strings.HasPrefix(name, tempPrefix) || strings.HasPrefix(name,
		keptPrefix)
}

func newToken() string {
	var token [4]byte
	_, _ = rand.Read(token[:]) // never fails since Go 1.24
	return hex.EncodeToString(token[:])
}

// phase is the phase of a run in one database.
type phase string

const (
	building  phase = "building"  // only collections with a name of the run were written
	swapping  phase = "swapping"  // some of them may have their own names
	replaced  phase = "replaced"  // all of them have, and the replaced ones are kept
	undoing   phase = "undoing"   // the replaced ones are being restored
	accepting phase = "accepting" // the replaced ones are being dropped
)

// run is the journal of a restore in one database, so that another process can continue or undo it.
// It is one document, which the server replaces atomically.
type run struct {
	ID      string    `bson:"_id"`
	Token   string    `bson:"token"`
	Source  string    `bson:"source"` // identifies the dump
	Mode    Mode      `bson:"mode"`
	Phase   phase     `bson:"phase"`
	Started time.Time `bson:"started"`
	Jobs    []runJob  `bson:"jobs"`
}

// runJob is one collection of a run.
type runJob struct {
	Name  string   `bson:"name"`
	Type  string   `bson:"type"`
	Live  bool     `bson:"live,omitempty"`  // the name existed before
	Temp  string   `bson:"temp,omitempty"`  // empty: in place
	Kept  string   `bson:"kept,omitempty"`  // the new name of the replaced one
	UUID  string   `bson:"uuid,omitempty"`  // of the new collection
	View  bson.Raw `bson:"view,omitempty"`  // definition of the replaced view
	New   bson.Raw `bson:"new,omitempty"`   // definition of the new view
	Extra bool     `bson:"extra,omitempty"` // not in the set

	made, filled bool // for a collection in place: from its own documents, or from memory
}

const (
	runID   = "run"
	leaseID = "lease"
)

// leaseDoc identifies the running restore. It is the first document of the journal, and its unique
// _id makes it a lock.
type leaseDoc struct {
	ID     string    `bson:"_id"`
	Token  string    `bson:"token"`
	Holder string    `bson:"holder"` // host and process, for messages
	Until  time.Time `bson:"until"`  // by the server's clock
}

// leaseTime is how long a silent run counts as alive. A run renews its lease four times in this
// time.
const leaseTime = time.Minute

// lease is the permission to change a database's journal.
type lease struct {
	conn   *conn
	db     string
	token  string
	length time.Duration

	mu   sync.Mutex // held while the lease is written
	stop func()
	gone bool // the journal was removed, and an update must not create it again (FerretDB 1.24)
}

func (l *lease) doc(until time.Time) leaseDoc {
	host, _ := os.Hostname()
	return leaseDoc{leaseID, l.token, fmt.Sprintf("%s, process %d", host, os.Getpid()), until}
}

// acquire takes the lease of a database, and returns what an earlier run left.
func acquire(ctx context.Context, r *reader, db, token string,
	length time.Duration) (*lease, *run, error) {
	l := &lease{conn: r.conn, db: db, token: token, length: length}
	err := r.persist(ctx, "lock "+db, func() error {
		command := bson.D{{Key: "insert", Value: journalName}, {Key: "documents",
			Value: bson.A{l.doc(l.conn.now().Add(length))}}, majority}
		for {
			err := l.conn.run(ctx, db, command)
			if !mongo.IsDuplicateKeyError(err) {
				return err
			}
			if err := l.takeOver(ctx); !errors.Is(err, errGone) {
				return err
			}
		}
	})
	if err != nil {
		l.stop = func() {}
		l.abandon(ctx)
		return nil, nil, err
	}
	keeping, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go l.keep(keeping, done)
	l.stop = sync.OnceFunc(func() { cancel(); <-done })
	old, _, err := r.journal(ctx, db)
	if err != nil {
		l.abandon(ctx)
		return nil, nil, err
	}
	return l, old, nil
}

// abandon restores the journal from before acquire, even if only the answer was lost.
func (l *lease) abandon(ctx context.Context) {
	l.stop()
	ctx, cancel := aside(ctx)
	defer cancel()
	old, held, err := l.conn.journal(ctx, l.db)
	switch {
	case err != nil || held == nil || held.Token != l.token:
	case old == nil:
		_ = l.conn.drop(ctx, l.db, journalName)
	default:
		l.release(ctx)
	}
}

// journal reads a database's journal, and repeats that after a transient error.
func (r *reader) journal(ctx context.Context, db string) (old *run, held *leaseDoc, err error) {
	err = r.persist(ctx, "journal of "+db, func() (err error) {
		old, held, err = r.conn.journal(ctx, db)
		return err
	})
	return old, held, err
}

// errGone means that the other run has ended meanwhile.
var errGone = errors.New("the lease is gone")

// takeOver replaces a lease that has ended.
func (l *lease) takeOver(ctx context.Context) error {
	_, old, err := l.conn.journal(ctx, l.db)
	if err != nil {
		return err
	}
	switch {
	case old == nil:
		return errGone
	case old.Token == l.token: // the answer to our own insert was lost
		return nil
	}
	if old.Until.After(l.conn.now()) {
		return locked(l.db, old)
	}
	q := bson.D{{Key: "_id", Value: leaseID}, {Key: "token", Value: old.Token}, {Key: "until",
		Value: old.Until}}
	n, err := l.conn.replace(ctx, l.db, q, l.doc(l.conn.now().Add(l.length)), false)
	if err == nil && n == 0 {
		return locked(l.db, old)
	}
	return err
}

func locked(db string, l *leaseDoc) error {
	return &backup.Error{Op: "restore into", Object: db, Kind: backup.ErrLocked, Retry: true,
		Err:  fmt.Errorf("a restore by %s is running, or was killed", l.Holder),
		Next: "wait for it; if it was killed, try again after " + l.Until.Local().Format(time.TimeOnly)}
}

// keep renews the lease until ctx ends.
func (l *lease) keep(ctx context.Context, done chan<- struct{}) {
	defer close(done)
	ticker := time.NewTicker(l.length / 4)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			_ = l.renew(ctx) // the run itself renews before it changes live collections
		}
	}
}

// renew extends the lease and fails if somebody else has it.
func (l *lease) renew(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := bson.D{{Key: "_id", Value: leaseID}, {Key: "token", Value: l.token}}
	n, err := l.conn.replace(ctx, l.db, q, l.doc(l.conn.now().Add(l.length)), false)
	if err == nil && n == 0 {
		return &backup.Error{Op: "restore into", Object: l.db, Kind: backup.ErrLocked,
			Err:  errors.New("another run took over after this one was silent for too long"),
			Next: "check the network, and restore again", Retry: true}
	}
	return l.conn.fail("restore into", l.db, err)
}

// release ends the lease and leaves the journal. After forget it does nothing.
func (l *lease) release(ctx context.Context) {
	l.stop()
	if l.gone {
		return
	}
	ctx, cancel := aside(ctx)
	defer cancel()
	q := bson.D{{Key: "_id", Value: leaseID}, {Key: "token", Value: l.token}}
	// after an error it expires
	_, _ = l.conn.replace(ctx, l.db, q, l.doc(time.Unix(0, 0).UTC()), false)
}

// forget removes the journal.
func (l *lease) forget(ctx context.Context) error {
	l.stop()
	err := l.conn.drop(ctx, l.db, journalName)
	l.gone = err == nil
	return err
}

// replace writes one document of the journal and returns how many it replaced or made.
func (c *conn) replace(ctx context.Context, db string, q bson.D, doc any,
	upsert bool) (int64, error) {
	ctx, cancel := trailing(ctx)
	defer cancel()
	update := bson.D{{Key: "q", Value: q}, {Key: "u", Value: doc}, {Key: "upsert", Value: upsert}}
	reply, err := c.Database(db).RunCommand(ctx, bson.D{{Key: "update", Value: journalName},
		{Key: "updates", Value: bson.A{update}}, majority}).Raw()
	n, _ := asInt64(reply.Lookup("n"))
	return n, err
}

// jobDoc records the progress of a collection in place.
type jobDoc struct {
	ID           int  `bson:"_id"` // index of the job
	Made, Filled bool `bson:",omitempty"`
}

// journal reads a database's journal. A missing document is nil.
func (c *conn) journal(ctx context.Context, db string) (*run, *leaseDoc, error) {
	cursor, err := c.Database(db).Collection(journalName, options.Collection().SetReadPreference(
		readpref.Primary())).Find(ctx, bson.D{})
	if err != nil {
		return nil, nil, err
	}
	defer cursor.Close(context.WithoutCancel(ctx))
	var old *run
	var held *leaseDoc
	marks := map[int]jobDoc{}
	for cursor.Next(ctx) {
		switch id, _ := cursor.Current.Lookup("_id").StringValueOK(); id {
		case runID:
			old = &run{}
			err = cursor.Decode(old)
		case leaseID:
			held = &leaseDoc{}
			err = cursor.Decode(held)
		default:
			var m jobDoc
			err = cursor.Decode(&m)
			marks[m.ID] = m
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read %s.%s: %w", db, journalName, err)
		}
	}
	for i, m := range marks {
		if old != nil && i < len(old.Jobs) {
			old.Jobs[i].made, old.Jobs[i].filled = m.Made, m.Filled
		}
	}
	return old, held, cursor.Err()
}

func (c *conn) drop(ctx context.Context, db, name string) error {
	err := c.run(ctx, db, bson.D{{Key: "drop", Value: name}, majority})
	if code(err) == codeNamespaceNotFound {
		return nil
	}
	return err
}
