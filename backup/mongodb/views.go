package mongodb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb/internal/dump"
)

// viewsInOrder returns the views, each after the views that it reads.
func (r *restoring) viewsInOrder() []*job {
	var views []*job
	for _, j := range r.jobs {
		if j.Type == dump.TypeView {
			views = append(views, j)
		}
	}
	depth := func(j *job) int {
		n := 0
		for on := j.ViewOn(); n <= len(views); n++ {
			i := slices.IndexFunc(views, func(o *job) bool { return o.DB == j.DB && o.Name == on })
			if i < 0 {
				break
			}
			on = views[i].ViewOn()
		}
		return n
	}
	slices.SortStableFunc(views, func(a, b *job) int { return depth(a) - depth(b) })
	return views
}

// view creates a view in place of an existing one. If that fails, it restores the old one.
func (r *restoring) view(ctx context.Context, j *job) (err error) {
	create := viewCommand(j.Space)
	switch {
	case j.live == nil:
		err = r.make(ctx, j, create)
	case j.live.Type != dump.TypeView: // mode Drop
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
	if j.Difference(j.live, dump.Scope{}) == "" {
		j.item.Action, j.placed = backup.ActionSame, true
		return nil
	}
	err := r.conn.drop(ctx, j.DB, j.Name)
	if err == nil {
		err = r.conn.run(ctx, j.DB, create)
	}
	if j.placed = err == nil; j.placed {
		return nil
	}
	if again := r.conn.viewBack(ctx, j.live); again != nil {
		err = errors.Join(err, fmt.Errorf("and rollback failed: the previous view could not be "+
			"created: %w", r.conn.scrub(again)))
	}
	return err
}

// viewBack restores a view after an error, also if only the answer to a drop or create was lost.
func (c *conn) viewBack(ctx context.Context, old *dump.Space) error {
	ctx, cancel := aside(ctx)
	defer cancel()
	list, err := c.Database(old.DB).ListCollectionSpecifications(ctx,
		bson.D{{Key: "name", Value: old.Name}})
	if err == nil && len(list) == 1 && bytes.Equal(list[0].Options, old.Options) {
		return nil
	}
	if err := c.drop(ctx, old.DB, old.Name); err != nil {
		return err
	}
	return c.run(ctx, old.DB, viewCommand(old))
}

// viewCommand returns the command that creates a view.
func viewCommand(s *dump.Space) bson.D {
	command := bson.D{{Key: "create", Value: s.Name}}
	for _, e := range s.CreateOptions(false) {
		command = append(command, bson.E{Key: e.Key(), Value: e.Value()})
	}
	return append(command, majority)
}
