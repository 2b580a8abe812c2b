package mongodb

import (
	"context"
	"encoding/binary"
	"log/slog"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
	"go.mongodb.org/mongo-driver/mongo/readpref"
)

// One goroutine waits for the server and passes chunks to another, which digests, compresses and
// writes them.
const (
	readChunk      = 512 << 10
	readBatch      = 1 << 20 // wanted size of a server's reply, if the mean document size is known
	sessionRefresh = 5 * time.Minute
	readAttempts   = 4
)

// reader reads all documents of collections.
type reader struct {
	conn    *conn
	pref    *readpref.ReadPref
	at      *primitive.Timestamp // cluster time of a snapshot; nil: none
	refresh time.Duration
	log     *slog.Logger
}

// each passes the documents of a collection to do, in natural order. A document is valid only
// during the call. each returns after the server's cursor is closed, also if ctx ends. mean is the
// expected size of a document, or 0 if unknown.
func (r *reader) each(ctx context.Context, db, coll string, mean int64,
	do func(doc []byte) error) error {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	chunks, free := make(chan []byte, 1), make(chan []byte, 3)
	for range cap(free) {
		free <- nil
	}
	var failed error
	go func() {
		defer close(chunks)
		failed = r.fetch(inner, db, coll, mean, chunks, free)
	}()
	var err error
	for chunk := range chunks {
		for rest := chunk; err == nil && len(rest) > 0; {
			n := binary.LittleEndian.Uint32(rest)
			if err = do(rest[:n]); err != nil {
				cancel()
			}
			rest = rest[n:]
		}
		free <- chunk
	}
	if err == nil {
		err = failed
	}
	return err
}

func (r *reader) fetch(ctx context.Context, db, coll string, mean int64, chunks chan<- []byte,
	free <-chan []byte) (err error) {
	session, err := r.conn.StartSession(options.Session().SetCausalConsistency(false))
	if err != nil {
		return err
	}
	stop := r.keepAlive(ctx, session)
	var cursor *mongo.Cursor
	defer func() {
		stop()
		ctx, cancel := aside(ctx)
		defer cancel()
		if cursor != nil {
			_ = cursor.Close(ctx)
		}
		if err != nil {
			// The reply with the cursor's number may be lost.
			kill := bson.D{{Key: "killSessions", Value: bson.A{session.ID()}}}
			_ = r.conn.Database("admin").RunCommand(ctx, kill,
				options.RunCmd().SetReadPreference(r.preference())).Err()
		}
		session.EndSession(ctx)
	}()
	within := mongo.NewSessionContext(ctx, session)
	if cursor, err = r.find(within, db, coll, true); err != nil {
		return err
	}
	wish := func(mean int64) { cursor.SetBatchSize(int32(min(max(readBatch/mean, 1), 100_000))) }
	if mean > 0 {
		wish(mean)
	}
	chunk := (<-free)[:0]
	docs, bytes := int64(0), int64(0)
	for {
		if mean <= 0 && bytes > 0 && cursor.RemainingBatchLength() == 0 { // the first batch tells
			mean = max(bytes/docs, 1)
			wish(mean)
		}
		if !cursor.Next(within) {
			break
		}
		doc := cursor.Current
		docs, bytes = docs+1, bytes+int64(len(doc))
		if len(chunk) > 0 && len(chunk)+len(doc) > readChunk {
			chunks <- chunk
			chunk = (<-free)[:0]
		}
		chunk = append(chunk, doc...)
	}
	if err := cursor.Err(); err != nil {
		return err
	}
	chunks <- chunk
	return nil
}

// find opens the cursor. It requests a cursor without time-out, for slow disks, unless the server
// forbids that (shared Atlas tiers).
func (r *reader) find(ctx context.Context, db, coll string, keep bool) (*mongo.Cursor, error) {
	// The hint shows that the scan is intended: SERVER-127688.
	command := bson.D{{Key: "find", Value: coll}, {Key: "hint", Value: bson.D{{Key: "$natural",
		Value: 1}}}}
	if keep {
		command = append(command, bson.E{Key: "noCursorTimeout", Value: true})
	}
	if r.at != nil {
		command = append(command, r.concern())
	}
	cursor, err := r.conn.Database(db).RunCommandCursor(ctx, command,
		options.RunCmd().SetReadPreference(r.preference()))
	if err != nil && keep && code(err) != 0 && strings.Contains(strings.ToLower(err.Error()),
		"timeout") && !mongo.IsTimeout(err) {
		return r.find(ctx, db, coll, false)
	}
	return cursor, err
}

func (r *reader) concern() bson.E {
	d := bson.D{{Key: "level", Value: "snapshot"}}
	if r.at != nil && !r.at.IsZero() {
		d = append(d, bson.E{Key: "atClusterTime", Value: *r.at})
	}
	return bson.E{Key: "readConcern", Value: d}
}

func (r *reader) preference() *readpref.ReadPref {
	if r.pref == nil {
		return readpref.Primary()
	}
	return r.pref
}

// probe reads one document in a snapshot and returns the cluster time in the server's answer.
// Without a time, the server does not support snapshots: FerretDB 1.24 ignores the request
// silently.
func (r *reader) probe(ctx context.Context, db, coll string) (*primitive.Timestamp, error) {
	command := bson.D{{Key: "find", Value: coll}, {Key: "limit", Value: 1}, {Key: "singleBatch",
		Value: true}, r.concern()}
	reply, err := r.conn.Database(db).RunCommand(ctx, command,
		options.RunCmd().SetReadPreference(r.preference())).Raw()
	if err != nil {
		return nil, err
	}
	t, i, ok := reply.Lookup("cursor", "atClusterTime").TimestampOK()
	if !ok {
		return nil, nil
	}
	return &primitive.Timestamp{T: t, I: i}, nil
}

// keepAlive refreshes a session until stop is called. The server otherwise ends it and its cursors
// after 30 minutes.
func (r *reader) keepAlive(ctx context.Context, session mongo.Session) (stop func()) {
	every := r.refresh
	if every == 0 {
		every = sessionRefresh
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				if _, err := r.conn.admin(ctx, bson.D{{Key: "refreshSessions",
					Value: bson.A{session.ID()}}}); err != nil && ctx.Err() == nil {
					r.log.Warn("refresh of the MongoDB session failed", "error", r.conn.scrub(err))
				}
			}
		}
	}()
	return func() { cancel(); <-done }
}

// persist repeats a step after a transient error: a primary that stepped down, a broken connection,
// a lost cursor.
func (r *reader) persist(ctx context.Context, what string, do func() error) error {
	for attempt := 1; ; attempt++ {
		err := do()
		if err == nil || attempt == readAttempts || !transient(err) || ctx.Err() != nil {
			return err
		}
		r.log.Warn("trying again", "step", what, "attempt", attempt, "error", r.conn.scrub(err))
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Duration(attempt*attempt) * 250 * time.Millisecond):
		}
	}
}
