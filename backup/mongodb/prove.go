package mongodb

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/backup/mongodb/internal/dump"
)

// prove compares the chosen collections of a dump with the server. With exact, other collections
// are a difference. It does not read a collection again that this value has just restored and
// compared, as long as its UUID is the same.
func (m *Restore) prove(ctx context.Context, data *source, exact bool) error {
	known := m.verified
	m.verified = nil
	r, err := m.begin(ctx, data)
	if err != nil {
		return err
	}
	defer r.conn.close(ctx)
	if err := r.look(ctx); err != nil {
		return err
	}
	if err := r.describe(ctx, known); err != nil {
		return r.failed(ctx, err)
	}
	var mu sync.Mutex
	var findings []error
	err = largestFirst(ctx, r.parallel(), r.jobs, func(ctx context.Context, j *job) error {
		err := r.compare(ctx, j, known)
		if e := step.Ended(ctx); e != nil {
			return e
		}
		if err != nil && !errors.Is(err, backup.ErrDiffers) {
			return r.conn.fail("compare", j.to(), err)
		}
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			findings = append(findings, step.Fail("compare", j.to(), err))
		}
		return nil
	})
	if err != nil {
		return err
	}
	if exact {
		for _, x := range r.extras {
			findings = append(findings, step.Fail("compare", x.Namespace(),
				fmt.Errorf("%w: the set does not have this %s", backup.ErrDiffers, x.Type)))
		}
	}
	return errors.Join(findings...)
}

// describe reads the indexes of the collections that are not known by their UUIDs.
func (r *restoring) describe(ctx context.Context, known map[string]string) error {
	var live []*dump.Space
	for _, j := range r.jobs {
		if j.live != nil && !r.m.NoIndexes && !j.isOne(known) {
			live = append(live, j.live)
		}
	}
	return r.reader.persist(ctx, "list indexes", func() error { return r.conn.describe(ctx, live) })
}

// isOne reports whether what is there is one of the collections whose UUIDs are given.
func (j *job) isOne(known map[string]string) bool {
	id := known[j.to()]
	return id != "" && j.live != nil && j.live.UUID == id
}

// compare compares type, options and indexes, then the documents.
func (r *restoring) compare(ctx context.Context, j *job, known map[string]string) error {
	if j.live == nil {
		return fmt.Errorf("%w: it does not exist", backup.ErrDiffers)
	}
	if text := j.Difference(j.live, dump.Scope{NoOptions: r.m.NoOptions,
		NoIndexes: r.m.NoIndexes || j.isOne(known)}); text != "" {
		return fmt.Errorf("%w: %s", backup.ErrDiffers, text)
	}
	if j.Type == dump.TypeView || j.isOne(known) {
		return nil
	}
	return r.sameDocuments(ctx, j)
}

// sameDocuments reads a collection and compares it with the dump. If the server removes
// documents by their age, neither side counts what is about to be removed.
func (r *restoring) sameDocuments(ctx context.Context, j *job) error {
	rules := j.Removals()
	before := time.Now().Add(ttlMargin)
	stays := func(doc []byte) bool {
		for _, rule := range rules {
			if rule.Expires(doc, before) {
				return false
			}
		}
		return true
	}
	want := j.Tally
	if len(rules) > 0 {
		want = dump.Tally{}
		if err := r.data.Documents(ctx, j.Collection)(func(doc []byte) error {
			if stays(doc) {
				want.Add(doc)
			}
			return nil
		}); err != nil {
			return err
		}
	} else {
		stays = nil
	}
	have, err := r.tally(ctx, j, j.into(), stays)
	if err != nil || have == want {
		return err
	}
	if have.Count < want.Count {
		superseded, err := r.superseded(ctx, j, stays)
		if err != nil {
			return err
		}
		want.Subtract(superseded)
	}
	if have != want {
		return differs(have, want)
	}
	return nil
}
