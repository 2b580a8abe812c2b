package backup

import (
	"context"
	"maps"
	"slices"
	"strings"

	"example.com/tykupgrade/backup/internal/step"
)

// extra is a collection that is on the server and not in the dump, which would
// hold it, had it been there. What a dump left out is none, nor is what another
// restore has beside the live collections.
type extra struct {
	*mongoSpace
	dropped bool
	item    Item
}

func (r *restoring) findExtras(live map[string]*mongoSpace) {
	covered := r.data.covers()
	if covered == nil || len(r.m.Rename) > 0 {
		return
	}
	chosen := patterns{r.m.Include, r.m.Exclude}
	for _, ns := range slices.Sorted(maps.Keys(live)) {
		restored := slices.ContainsFunc(r.jobs, func(j *job) bool { return j.to() == ns })
		if !restored && covered.match(ns) && chosen.match(ns) && !strings.HasPrefix(live[ns].Name, tempPrefix) {
			r.extras = append(r.extras, &extra{mongoSpace: live[ns]})
		}
	}
}

// planExtras says what becomes of them where live collections are replaced.
func (r *restoring) planExtras(ctx context.Context) {
	if r.m.Mode != MongoReplace && r.m.Mode != MongoDrop {
		return
	}
	for _, x := range r.extras {
		x.item = Item{Name: x.namespace(), Action: ActionKeep, Detail: "not in the set; it stays as it is"}
		if r.m.DropExtra {
			x.item.Action, x.item.Detail = ActionDrop, "not in the set"
		}
		if x.Type == typeCollection {
			// For the reader alone: a server that does not tell costs nothing else.
			x.item.Count, _ = r.conn.Database(x.DB).Collection(x.Name).EstimatedDocumentCount(ctx)
		}
	}
}

// dropExtras comes when all else is done, and drops only what the plan named.
func (r *restoring) dropExtras(ctx context.Context) error {
	for _, x := range r.extras {
		if err := step.Ended(ctx); err != nil {
			return err
		}
		err := r.reader.persist(ctx, "drop "+x.namespace(), func() error { return r.drop(ctx, x.DB, x.Name) })
		if err != nil {
			return r.conn.fail("drop", x.namespace(), err)
		}
		x.dropped = true
		r.log.Info("dropped what the set does not have", "collection", x.namespace())
	}
	return nil
}
