package mongodb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb/internal/dump"
)

// fill makes a collection, writes its documents, reads them back and builds its indexes.
// The comparison comes before the indexes because a TTL index begins to remove documents
// at once.
func (r *restoring) fill(ctx context.Context, j *job) error {
	if err := r.create(ctx, j); err != nil {
		return err
	}
	if err := r.insert(ctx, j); err != nil {
		return err
	}
	if err := r.readBack(ctx, j); err != nil {
		return err
	}
	if err := r.buildIndexes(ctx, j); err != nil {
		return err
	}
	if err := r.sameIndexes(ctx, j); err != nil {
		return err
	}
	j.filled = true
	return r.mark(ctx, j)
}

// create makes the collection for the documents, next to the live one or in its place.
func (r *restoring) create(ctx context.Context, j *job) error {
	if j.live != nil && j.temp == "" {
		if err := r.clear(ctx, j); err != nil {
			return r.conn.fail("drop", j.to(), err)
		}
	}
	command := bson.D{{Key: "create", Value: cmp.Or(j.temp, j.Name)}}
	var names []string
	for _, e := range j.CreateOptions(r.m.NoOptions) {
		command = append(command, bson.E{Key: e.Key(), Value: e.Value()})
		names = append(names, e.Key())
	}
	if j.temp != "" && len(names) == 0 && j.Count > 0 { // the first document makes it
		j.made = true
		return nil
	}
	err := r.make(ctx, j, append(command, majority))
	var refused mongo.CommandError
	if errors.As(err, &refused) && len(names) > 0 && refused.Code != codeUnauthorized &&
		refused.Code != codeNamespaceExists && !transient(err) {
		return &backup.Error{Op: "create", Object: j.to(),
			Err: fmt.Errorf("the server refuses it with the options %s: %w", strings.Join(names, ", "),
				r.conn.scrub(err)),
			Next: "exclude the collection, or restore without options (NoOptions) and set them by hand"}
	}
	if err != nil {
		return r.conn.fail("create", j.to(), err)
	}
	return r.mark(ctx, j)
}

// make runs create. Undo may drop a collection that this run created, also after a lost answer, but
// not one of somebody else. A name of the run is always ours.
func (r *restoring) make(ctx context.Context, j *job, create bson.D) error {
	if j.temp == "" {
		err := r.conn.run(ctx, j.DB, create)
		j.made = code(err) != codeNamespaceExists
		return err
	}
	j.made = true
	again := false
	return r.reader.persist(ctx, "create "+j.to(), func() error {
		err := r.conn.run(ctx, j.DB, create)
		if again && code(err) == codeNamespaceExists {
			return nil
		}
		again = true
		return err
	})
}

// mark records the progress of a collection in place.
func (r *restoring) mark(ctx context.Context, j *job) error {
	if j.temp != "" {
		return nil
	}
	id := r.runs[j.DB].index(j.Name)
	_, err := r.conn.replace(ctx, j.DB, bson.D{{Key: "_id", Value: id}}, jobDoc{id, j.made, j.filled},
		true)
	return err
}

// clear drops the live collection. After an error it checks whether the collection is gone, so that
// the report is correct.
func (r *restoring) clear(ctx context.Context, j *job) error {
	j.dropped = true
	err := r.conn.drop(ctx, j.DB, j.Name)
	if err != nil {
		ctx, cancel := aside(ctx)
		defer cancel()
		if now, lookup := r.find(ctx, j.DB, j.Name); lookup == nil && now != nil &&
			now.UUID == j.live.UUID {
			j.dropped = false
		}
	}
	return err
}

// find returns one collection, or nil if it does not exist.
func (r *restoring) find(ctx context.Context, db, name string) (*dump.Space, error) {
	cursor, err := r.conn.Database(db).ListCollections(ctx, bson.D{{Key: "name", Value: name}})
	if err != nil {
		return nil, err
	}
	defer cursor.Close(context.WithoutCancel(ctx))
	if !cursor.Next(ctx) {
		return nil, cursor.Err()
	}
	return parseSpace(db, slices.Clone(cursor.Current))
}

// readBack compares the collection on the server with the dump.
func (r *restoring) readBack(ctx context.Context, j *job) error {
	have, err := r.tally(ctx, j, j.into(), nil)
	if err != nil {
		return err
	}
	if have != j.want {
		return differs(have, j.want)
	}
	return nil
}

func differs(have, want dump.Tally) error {
	return fmt.Errorf("%w: it has %s, the dump %s", backup.ErrDiffers, have, want)
}

// tally reads a collection and sums up the documents that keep chooses. If keep is nil, it sums up
// all.
func (r *restoring) tally(ctx context.Context, j *job, coll string,
	keep func([]byte) bool) (have dump.Tally, err error) {
	err = r.reader.persist(ctx, "read "+j.to(), func() error {
		have = dump.Tally{}
		return r.reader.each(ctx, j.DB, coll, j.Bytes/max(j.Count, 1), func(doc []byte) error {
			if keep == nil || keep(doc) {
				have.Add(doc)
			}
			return nil
		})
	})
	return have, err
}

// buildIndexes creates all indexes but the one on _id with one command.
func (r *restoring) buildIndexes(ctx context.Context, j *job) error {
	if r.m.NoIndexes {
		return nil
	}
	list := bson.A{}
	for _, x := range j.Indexes {
		if !dump.IsID(x) {
			list = append(list, dump.Clean(x, !r.m.NoOptions && len(j.Collation()) > 0))
		}
	}
	if len(list) == 0 {
		return nil
	}
	err := r.reader.persist(ctx, "indexes of "+j.to(), func() error {
		return r.createIndexes(ctx, j,
			list)
	})
	var refused mongo.CommandError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused) && refused.Code == codeDuplicateKey:
		// The rest of the message is the value, which may be a secret.
		text, _, _ := strings.Cut(refused.Message, " dup key:")
		return &backup.Error{Op: "create the indexes of", Object: j.to(), Kind: ErrRejected,
			Err: errors.New("a unique index: " + text),
			Next: "the dump has documents that its own unique index forbids: remove them where it was " +
				"taken and back up again, or restore without indexes (NoIndexes)"}
	case !errors.As(err, &refused) || transient(err) || refused.Code == codeUnauthorized:
		return fmt.Errorf("create %d indexes: %w", len(list), err)
	}
	name := "one of them"
	for _, x := range list {
		if one := r.createIndexes(ctx, j, bson.A{x}); one != nil && !transient(one) {
			name, err = fmt.Sprintf("%q", dump.IndexName(x.(bson.Raw))), one
			break
		}
	}
	return &backup.Error{Op: "create the indexes of", Object: j.to(),
		Err:  fmt.Errorf("the server refuses the index %s: %w", name, r.conn.scrub(err)),
		Next: "restore without indexes (NoIndexes), and create them by hand"}
}

// sameIndexes compares the indexes with the dump. Servers leave out or change what they do
// not know. A new collection has no other than the one on _id.
func (r *restoring) sameIndexes(ctx context.Context, j *job) error {
	if r.m.NoIndexes || !slices.ContainsFunc(j.Indexes, func(x bson.Raw) bool { return !dump.IsID(x) }) {
		return nil
	}
	made := *j.Space
	made.Name = cmp.Or(j.temp, j.Name)
	err := r.reader.persist(ctx, "indexes of "+j.to(), func() (err error) {
		made.Indexes, err = r.conn.indexes(ctx, &made)
		return err
	})
	if err != nil {
		return err
	}
	if text := j.Difference(&made, dump.Scope{NoOptions: r.m.NoOptions}); text != "" {
		return fmt.Errorf("%w: %s", backup.ErrDiffers, text)
	}
	return nil
}

func (r *restoring) createIndexes(ctx context.Context, j *job, list bson.A) error {
	return r.conn.run(ctx, j.DB, bson.D{{Key: "createIndexes", Value: cmp.Or(j.temp, j.Name)},
		{Key: "indexes", Value: list}, majority})
}

// identities notes the new collections before they get their names.
func (r *restoring) identities(ctx context.Context) error {
	uuids := map[string]string{}
	for _, db := range r.databases() {
		err := r.reader.persist(ctx, "list "+db, func() error {
			all, ours, err := r.conn.spaces(ctx, db)
			for _, s := range slices.Concat(all, ours) {
				uuids[s.Namespace()] = s.UUID
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	for _, j := range r.jobs {
		j.uuid = uuids[j.DB+"."+cmp.Or(j.temp, j.Name)]
		if j.Type != dump.TypeView {
			r.checked[j.to()] = j.uuid
		}
	}
	return nil
}

// save writes the run's document to every database.
func (r *restoring) save(ctx context.Context, at phase) error {
	for _, db := range r.databases() {
		old := r.runs[db]
		started := r.conn.now()
		if old != nil {
			started = old.Started
		}
		next := &run{ID: runID, Token: r.token, Source: r.data.digest, Mode: r.m.Mode, Phase: at,
			Started: started}
		for _, j := range r.jobs {
			if j.DB == db {
				next.Jobs = append(next.Jobs, j.record())
			}
		}
		for _, x := range r.extras {
			if x.DB == db && x.kept != "" {
				next.Jobs = append(next.Jobs, x.record())
			}
		}
		r.runs[db] = next
		err := r.reader.persist(ctx, "journal of "+db, func() error {
			_, err := r.conn.replace(ctx, db, bson.D{{Key: "_id", Value: runID}}, next, true)
			return err
		})
		if err != nil {
			return r.conn.fail("write the journal of", db, err)
		}
	}
	return nil
}

func (j *job) record() runJob {
	out := runJob{Name: j.Name, Type: j.Type, Live: j.live != nil, Temp: j.temp, Kept: j.kept,
		UUID: j.uuid, made: j.made, filled: j.filled}
	if j.Type == dump.TypeView {
		out.New = j.Options
		if j.live != nil && j.live.Type == dump.TypeView {
			out.View = j.live.Options
		}
	}
	return out
}

func (n *run) index(name string) int {
	return slices.IndexFunc(n.Jobs, func(j runJob) bool { return j.Name == name })
}

// name decides which collections are built next to the live ones, and the new names of the live
// ones.
func (r *restoring) name() {
	parallel := min(r.parallel(), len(r.jobs))
	r.pool = make(chan *batch, parallel+senders)
	for range cap(r.pool) {
		r.pool <- &batch{}
	}
	for i, j := range r.jobs {
		if !renamable(j.Space) || r.m.Mode == Drop {
			continue
		}
		j.temp = fmt.Sprintf("%s%s_%d", tempPrefix, r.token, i)
		if j.live != nil {
			j.kept = fmt.Sprintf("%s%s_%d", keptPrefix, r.token, i)
		}
	}
	r.nameExtras()
}

// ttlMargin is how long before its removal a document is left out of comparisons. It is longer than
// any comparison.
const ttlMargin = 24 * time.Hour
