package mongodb

import (
	"context"

	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/backup/mongodb/internal/dump"
)

// swapAll gives every collection its name, then makes the views, then removes extra collections.
func (r *restoring) swapAll(ctx context.Context) error {
	err := each(ctx, r.parallel(), len(r.jobs), func(ctx context.Context, i int) error {
		j := r.jobs[i]
		return r.conn.fail("put in place", j.to(), r.swap(ctx, j))
	})
	if err != nil {
		return err
	}
	for _, j := range r.viewsInOrder() {
		if err := r.view(ctx, j); err != nil {
			return r.conn.fail("create", j.to(), err)
		}
	}
	return r.removeExtras(ctx)
}

// swap gives a collection its name. The live one gets a name of the run first.
func (r *restoring) swap(ctx context.Context, j *job) error {
	if j.Type == dump.TypeView {
		return nil
	}
	if j.temp == "" {
		j.placed = true
		return nil
	}
	if err := step.Ended(ctx); err != nil {
		return err
	}
	moved := false
	if j.live != nil {
		err := r.conn.rename(ctx, r.reader, j.DB, j.Name, j.kept, false)
		if err != nil && code(err) != codeNamespaceNotFound { // somebody dropped it meanwhile
			return err
		}
		moved = err == nil
	}
	if moved && r.m.Mode == New {
		// It was empty before, but a gateway may have written to it. Now nobody writes to
		// it any more.
		n, err := r.conn.holds(ctx, j.DB, j.kept)
		if err != nil {
			return err
		}
		if n > 0 {
			return notEmpty(j, "documents were written to it meanwhile",
				"restore in the mode replace, while nothing writes")
		}
	}
	err := r.conn.rename(ctx, r.reader, j.DB, j.temp, j.Name, moved && r.m.Mode == Replace)
	j.placed = err == nil
	return err
}

// rename gives a collection another name within its database. With dropTarget it replaces
// one that has the name.
func (c *conn) rename(ctx context.Context, r *reader, db, from, to string, dropTarget bool) error {
	return r.persist(ctx, "rename of "+db+"."+from, func() error {
		err := c.run(ctx, "admin", bson.D{{Key: "renameCollection", Value: db + "." + from},
			{Key: "to", Value: db + "." + to},
			{Key: "dropTarget", Value: dropTarget}, majority})
		if dropTarget && code(err) == codeNotImplemented { // by FerretDB 1.24: two steps
			dropTarget = false
			if err = c.drop(ctx, db, to); err == nil {
				err = c.run(ctx, "admin", bson.D{{Key: "renameCollection", Value: db + "." + from},
					{Key: "to", Value: db + "." + to}, {Key: "dropTarget", Value: false}, majority})
			}
		}
		if err == nil {
			return nil
		}
		// The rename may be done although its answer was lost, also if ctx ends.
		ctx, cancel := aside(ctx)
		defer cancel()
		there, lookup := c.Database(db).ListCollectionNames(ctx,
			bson.D{{Key: "name", Value: bson.D{{Key: "$in", Value: bson.A{from, to}}}}})
		if lookup == nil && len(there) == 1 && there[0] == to && code(err) != codeNamespaceNotFound {
			return nil
		}
		return err
	})
}
