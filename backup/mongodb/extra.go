package mongodb

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/backup/mongodb/internal/dump"
)

// extra is a collection on the server that the dump would have included, but does not have. A
// collection that the dump left out does not count.
type extra struct {
	*dump.Space
	kept    string
	dropped bool
	item    backup.Item
}

func (r *restoring) findExtras(live map[string]*dump.Space) {
	if r.data.covers == nil {
		return
	}
	chosen := patterns{r.m.Include, r.m.Exclude}
	for _, ns := range slices.Sorted(maps.Keys(live)) {
		restored := slices.ContainsFunc(r.jobs, func(j *job) bool { return j.to() == ns })
		if !restored && r.data.covers.match(ns) && chosen.match(ns) {
			r.extras = append(r.extras, &extra{Space: live[ns]})
		}
	}
}

// planExtras plans the extra collections in modes that replace live collections.
func (r *restoring) planExtras(ctx context.Context) (refused []error) {
	if r.m.Mode == New {
		return nil
	}
	for _, x := range r.extras {
		x.item = backup.Item{Name: x.Namespace(), Action: backup.ActionKeep,
			Detail: "not in the set; it stays as it is"}
		if r.m.DropExtra {
			x.item.Action, x.item.Detail = backup.ActionDrop, "not in the set"
			if r.m.Mode == Replace && x.Type != dump.TypeView && !renamable(x.Space) {
				refused = append(refused, &backup.Error{Op: "drop", Object: x.Namespace(),
					Err: fmt.Errorf("a %s of this name cannot be renamed, so it cannot be kept until the "+
						"restore is accepted", x.Type),
					Next: "drop it by hand, exclude it, or restore in the mode drop"})
			}
		}
		if x.Type == dump.TypeCollection {
			// The count is only for the reader, so an error is ignored.
			x.item.Count, _ = r.conn.Database(x.DB).Collection(x.Name).EstimatedDocumentCount(ctx)
		}
	}
	return refused
}

func (r *restoring) nameExtras() {
	if !r.m.DropExtra || r.m.Mode != Replace {
		return
	}
	for i, x := range r.extras {
		x.kept = fmt.Sprintf("%s%s_x%d", keptPrefix, r.token, i)
	}
}

func (x *extra) record() runJob {
	out := runJob{Name: x.Name, Type: x.Type, Live: true, Kept: x.kept, Extra: true}
	if x.Type == dump.TypeView {
		out.View = x.Options
	}
	return out
}

// removeExtras runs last and removes only the collections in the plan.
func (r *restoring) removeExtras(ctx context.Context) error {
	if !r.m.DropExtra {
		return nil
	}
	for _, x := range r.extras {
		if err := step.Ended(ctx); err != nil {
			return err
		}
		var err error
		if x.kept != "" && x.Type != dump.TypeView {
			err = r.conn.rename(ctx, r.reader, x.DB, x.Name, x.kept, false)
		} else {
			err = r.reader.persist(ctx, "drop "+x.Namespace(), func() error {
				return r.conn.drop(ctx, x.DB,
					x.Name)
			})
		}
		if err != nil && code(err) != codeNamespaceNotFound {
			return r.conn.fail("drop", x.Namespace(), err)
		}
		x.dropped = true
		r.log.Info("removed what the set does not have", "collection", x.Namespace())
	}
	return nil
}
