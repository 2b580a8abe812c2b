package backup

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"

	"example.com/tykupgrade/backup/internal/step"
)

// create makes the collection that documents go to: beside the live one, or in
// place of it.
func (r *restoring) create(ctx context.Context, j *job) error {
	if r.merging(j) {
		return nil
	}
	if j.live != nil && j.temp == "" {
		if err := r.clear(ctx, j); err != nil {
			return err
		}
	}
	command := bson.D{{Key: "create", Value: cmp.Or(j.temp, j.name)}}
	elems, err := createOptions(j.mongoSpace)
	if err != nil {
		return err
	}
	for _, e := range elems {
		command = append(command, bson.E{Key: e.Key(), Value: e.Value()})
	}
	if id := j.idIndex(); id != nil {
		command = append(command, bson.E{Key: "idIndex", Value: without(id, "ns")})
	}
	return r.make(ctx, j, append(command, majority))
}

// make runs create. What undo may drop is ours, even where the answer is lost,
// and not what somebody else created in the meantime.
func (r *restoring) make(ctx context.Context, j *job, create bson.D) error {
	err := r.conn.Database(j.db).RunCommand(ctx, create).Err()
	j.made = mongoCode(err) != codeNamespaceExists
	return err
}

// clear drops the live collection to make place. After an error it looks
// whether that was done, so that the report can be believed.
func (r *restoring) clear(ctx context.Context, j *job) error {
	j.dropped = true
	err := r.drop(ctx, j.db, j.name)
	if err != nil {
		ctx, cancel := aside(ctx)
		defer cancel()
		if now, lookup := r.uuid(ctx, j.db, j.name); lookup == nil && now != "" && now == j.live.UUID {
			j.dropped = false
		}
	}
	return err
}

// createOptions are the options as create takes them today: autoIndexId is
// gone in 8.2 and has meant nothing since 4.0.
func createOptions(s *mongoSpace) ([]bson.RawElement, error) {
	options := without(s.Options, "autoIndexId", "recordIdsReplicated", "uuid")
	if options == nil {
		return nil, nil
	}
	return options.Elements()
}

// idIndex is the index on _id of a regular collection. A clustered collection
// lists one that its option clusteredIndex makes.
func (s *mongoSpace) idIndex() bson.Raw {
	for _, x := range s.Indexes {
		if isID(x) && s.Type == typeCollection && !isClustered(x) {
			return x
		}
	}
	return nil
}

func isClustered(x bson.Raw) bool {
	clustered, _ := x.Lookup("clustered").BooleanOK()
	return clustered
}

func isID(x bson.Raw) bool {
	elems, err := x.Lookup("key").Document().Elements()
	if err != nil || len(elems) != 1 || elems[0].Key() != "_id" {
		return false
	}
	n, ok := asInt64(elems[0].Value())
	return ok && n == 1
}

// buildIndexes creates all but the one on _id with one command. Old index
// documents name their namespace in "ns", which servers refuse since 4.4.
func (r *restoring) buildIndexes(ctx context.Context, j *job) error {
	list := bson.A{}
	for _, x := range j.Indexes {
		if isID(x) || isClustered(x) {
			continue
		}
		drop := []string{"ns"}
		if !r.m.KeepIndexVersion {
			drop = append(drop, "v")
		}
		x = without(x, drop...)
		if _, err := x.LookupErr("collation"); err != nil && !emptyDoc(j.collation()) {
			// Left out it would become the collection's, which the index did not have.
			elems, err := x.Elements()
			if err != nil {
				return err
			}
			simple, err := bson.Marshal(bson.D{{Key: "collation", Value: bson.D{{Key: "locale", Value: "simple"}}}})
			if err != nil {
				return err
			}
			x = join(append(elems, bson.Raw(simple).Index(0)))
		}
		list = append(list, x)
	}
	if len(list) == 0 {
		return nil
	}
	err := r.reader.persist(ctx, "indexes of "+j.to(), func() error {
		return r.conn.Database(j.db).RunCommand(ctx, bson.D{{Key: "createIndexes", Value: cmp.Or(j.temp, j.name)}, {Key: "indexes", Value: list}, majority}).Err()
	})
	var dup mongo.CommandError
	if errors.As(err, &dup) && dup.Code == codeDuplicateKey {
		// The rest of the message is the value, which may be a secret.
		text, _, _ := strings.Cut(dup.Message, " dup key:")
		return &Error{Op: "create the indexes of", Object: j.to(), Err: fmt.Errorf("%w: by a unique index: %s", ErrRejected, text),
			Next: "the dump holds documents that its own unique index forbids: remove them where it was taken and back up again, or restore without the collection"}
	}
	if err != nil {
		return fmt.Errorf("create %d indexes: %w", len(list), err)
	}
	return nil
}

// swap gives a collection its name; the live one goes in the same step.
func (r *restoring) swap(ctx context.Context, j *job) error {
	if j.Type == typeView {
		return nil
	}
	if j.temp == "" {
		j.placed = true
		return nil
	}
	if err := step.Ended(ctx); err != nil {
		return err
	}
	if r.m.Mode == MongoNew && j.live != nil {
		if err := r.refuse(ctx, j); err != nil { // it was empty before, and a gateway may run
			return err
		}
	}
	uuid, err := r.uuid(ctx, j.db, j.temp)
	if err != nil {
		return err
	}
	err = r.reader.persist(ctx, "rename of "+j.to(), func() error {
		_, err := r.conn.admin(ctx, bson.D{{Key: "renameCollection", Value: j.db + "." + j.temp}, {Key: "to", Value: j.to()},
			{Key: "dropTarget", Value: j.live != nil}, majority})
		if err != nil {
			// The answer may be lost while the rename was done, also when ctx ends.
			ctx, cancel := aside(ctx)
			defer cancel()
			if now, lookup := r.uuid(ctx, j.db, j.name); lookup == nil && now != "" && now == uuid {
				return nil
			}
		}
		return err
	})
	j.placed = err == nil
	return err
}

// uuid is a collection's identity, empty where there is no such collection.
func (r *restoring) uuid(ctx context.Context, db, name string) (string, error) {
	list, err := r.conn.Database(db).ListCollectionSpecifications(ctx, bson.D{{Key: "name", Value: name}})
	if err != nil || len(list) == 0 || list[0].UUID == nil {
		return "", err
	}
	return fmt.Sprintf("%x", list[0].UUID.Data), nil
}

func (r *restoring) drop(ctx context.Context, db, name string) error {
	err := r.conn.Database(db).RunCommand(ctx, bson.D{{Key: "drop", Value: name}, majority}).Err()
	if mongoCode(err) == codeNamespaceNotFound {
		return nil
	}
	return err
}

// viewsInOrder lists views so that what a view reads comes before it.
func (r *restoring) viewsInOrder() []*job {
	var views []*job
	for _, j := range r.jobs {
		if j.Type == typeView {
			views = append(views, j)
		}
	}
	depth := func(j *job) int {
		n := 0
		for on := j.viewOn(); n <= len(views); n++ {
			i := slices.IndexFunc(views, func(o *job) bool { return o.DB == j.DB && o.Name == on })
			if i < 0 {
				break
			}
			on = views[i].viewOn()
		}
		return n
	}
	slices.SortStableFunc(views, func(a, b *job) int { return depth(a) - depth(b) })
	return views
}

// view creates a view, in place of the one that is there. Where that fails the
// old one comes back.
func (r *restoring) view(ctx context.Context, j *job) error {
	create, err := r.viewCommand(j)
	if err != nil {
		return err
	}
	switch {
	case j.live == nil:
		err = r.make(ctx, j, create)
	case j.live.Type != typeView: // MongoDrop
		if err = r.clear(ctx, j); err == nil {
			err = r.make(ctx, j, create)
		}
	default:
		return r.replaceView(ctx, j, create)
	}
	j.placed = err == nil
	return err
}

func (r *restoring) replaceView(ctx context.Context, j *job, create bson.D) error {
	want, err := j.comparable()
	if err != nil {
		return err
	}
	if have, err := j.live.comparable(); err == nil && slices.Equal(want, have) {
		j.item.Action, j.placed = ActionSame, true
		return nil
	}
	if r.m.Mode == MongoMerge {
		return fmt.Errorf("%w: the view is defined otherwise", ErrDiffers)
	}
	if err = r.drop(ctx, j.db, j.name); err == nil {
		err = r.conn.Database(j.db).RunCommand(ctx, create).Err()
	}
	if j.placed = err == nil; j.placed {
		return nil
	}
	if again := r.viewBack(ctx, j); again != nil {
		err = errors.Join(err, fmt.Errorf("and the view that was there could not be put back: %w", r.conn.scrub(again)))
	}
	return err
}

// viewBack makes sure of the live view after an error, also where only the
// answer to its drop, or to the new one's create, was lost.
func (r *restoring) viewBack(ctx context.Context, j *job) error {
	ctx, cancel := aside(ctx)
	defer cancel()
	list, err := r.conn.Database(j.db).ListCollectionSpecifications(ctx, bson.D{{Key: "name", Value: j.name}})
	if err == nil && len(list) == 1 && bytes.Equal(list[0].Options, j.live.Options) {
		return nil
	}
	if err := r.drop(ctx, j.db, j.name); err != nil {
		return err
	}
	create, err := viewCommand(j.name, j.live, j.live.viewOn())
	if err != nil {
		return err
	}
	return r.conn.Database(j.db).RunCommand(ctx, create).Err()
}

// viewCommand is the create of a view, reading what its base is called now.
func (r *restoring) viewCommand(j *job) (bson.D, error) {
	to, err := r.m.target(j.DB + "." + j.viewOn())
	if err != nil {
		return nil, err
	}
	db, base, _ := strings.Cut(to, ".")
	if db != j.db {
		return nil, fmt.Errorf("the view reads %s, which is renamed into another database", j.viewOn())
	}
	return viewCommand(j.name, j.mongoSpace, base)
}

func viewCommand(name string, s *mongoSpace, base string) (bson.D, error) {
	elems, err := createOptions(s)
	if err != nil {
		return nil, err
	}
	command := bson.D{{Key: "create", Value: name}}
	for _, e := range elems {
		if e.Key() == "viewOn" {
			command = append(command, bson.E{Key: "viewOn", Value: base})
			continue
		}
		command = append(command, bson.E{Key: e.Key(), Value: e.Value()})
	}
	return append(command, majority), nil
}

// undo drops what was created and is not in place: a failed restore leaves what
// was there before, and with MongoDrop nothing that is there in parts only.
func (r *restoring) undo(ctx context.Context) error {
	ctx, cancel := aside(ctx)
	defer cancel()
	var left []string
	placed, lost := 0, 0
	for _, j := range r.jobs {
		if j.placed || j.filled && j.dropped {
			placed++
			continue
		}
		if name := cmp.Or(j.temp, j.name); j.made {
			if err := r.drop(ctx, j.db, name); err != nil {
				left = append(left, j.db+"."+name)
			}
		}
		j.item.Action, j.item.Detail = ActionSkip, "not restored"
		switch {
		case j.dropped:
			lost++
			j.item.Detail = "dropped and not restored: the dump is the only copy"
		case !j.made && j.done > 0:
			j.item.Detail = fmt.Sprintf("%d documents were sent before the error", j.done)
		}
	}
	for _, x := range r.extras {
		if x.item.Action == ActionDrop && !x.dropped {
			x.item.Action, x.item.Detail = ActionKeep, "not in the set, and not dropped"
		}
	}
	var notes []error
	if len(left) > 0 {
		notes = append(notes, fmt.Errorf("these collections are left over and can be dropped: %s", strings.Join(left, ", ")))
	}
	if placed > 0 {
		notes = append(notes, fmt.Errorf("%d of %d collections were put in place before the error", placed, len(r.jobs)))
	}
	if lost > 0 {
		notes = append(notes, fmt.Errorf("%d collections were dropped before the error, as this mode does: restore again", lost))
	}
	return errors.Join(notes...)
}
