package mongodb

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup/mongodb/internal/dump"
)

// repeated collects documents whose _id the server had already. Either the dump has two versions,
// or the answer to an insert was lost.
type repeated struct {
	mu  sync.Mutex
	ids map[string]repeat
}

type repeat struct {
	resent bool // may have arrived before
	reason string
}

func (d *repeated) add(doc bson.Raw, resent bool, reason string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ids == nil {
		d.ids = map[string]repeat{}
	}
	id := string(dump.AppendID(nil, doc))
	old, known := d.ids[id]
	d.ids[id] = repeat{resent && (!known || old.resent), reason}
}

// latest makes the server keep the last version in the dump. It reads the dump again only if the
// server reported duplicate documents.
func (r *restoring) latest(ctx context.Context, j *job, again *repeated, rejected *rejects) error {
	if len(again.ids) == 0 {
		return nil
	}
	wanted := func(doc []byte) bool {
		_, ok := again.ids[string(dump.AppendID(nil, doc))]
		return ok
	}
	last, superseded, err := lastVersions(r.data.Documents(ctx, j.Collection), wanted)
	if err != nil {
		return err
	}
	for id, v := range last {
		if v.n > 1 {
			if err := r.overwrite(ctx, j, v.doc); err != nil {
				return err
			}
		} else if !again.ids[id].resent {
			rejected.add(v.doc, again.ids[id].reason)
		}
	}
	j.want = j.Tally
	j.want.Subtract(superseded)
	if superseded.Count > 0 {
		j.item.Count = j.want.Count
		j.item.Detail = fmt.Sprintf("%d documents were in the dump twice, and the later version "+
			"was restored", superseded.Count)
		r.log.Warn("documents were in the dump twice", "collection", j.to(), "documents",
			superseded.Count)
	}
	return nil
}

type version struct {
	doc bson.Raw
	n   int // versions of this document
}

// lastVersions returns the last version of the wanted documents, and the sum of the other versions.
func lastVersions(read dump.Read,
	wanted func(doc []byte) bool) (last map[string]version, superseded dump.Tally, err error) {
	last = map[string]version{}
	err = read(func(doc []byte) error {
		if !wanted(doc) {
			return nil
		}
		id := string(dump.AppendID(nil, doc))
		old, known := last[id]
		if known {
			superseded.Add(old.doc)
		}
		last[id] = version{bytes.Clone(doc), old.n + 1}
		return nil
	})
	return last, superseded, err
}

// superseded returns the sum of earlier versions of documents in a dump. It counts only those that
// keep chooses, unless keep is nil. It reads the dump once, and again if there are any.
func (r *restoring) superseded(ctx context.Context, j *job,
	keep func([]byte) bool) (dump.Tally, error) {
	ids := &dump.IDs{}
	read := func(do func([]byte) error) error {
		return r.data.Documents(ctx, j.Collection)(func(doc []byte) error {
			if keep != nil && !keep(doc) {
				return nil
			}
			return do(doc)
		})
	}
	if err := read(func(doc []byte) error { ids.Add(doc); return nil }); err != nil {
		return dump.Tally{}, err
	}
	if n, _ := ids.Count(); n == 0 {
		return dump.Tally{}, nil
	}
	_, superseded, err := lastVersions(read, ids.Twice())
	return superseded, err
}
