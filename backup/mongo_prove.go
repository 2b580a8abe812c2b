package backup

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup/internal/step"
)

// lookupDocs is how many documents are looked up at a time.
const lookupDocs = 1000

// ttlMargin is how far ahead a document's removal may lie for it to be left out
// of a comparison: longer than any comparison takes.
const ttlMargin = 24 * time.Hour

// ttlRule is one TTL index: documents go once the date in the field is this
// many seconds old.
type ttlRule struct {
	field   []string
	seconds int64
}

// expires says whether the server removes a document before a moment. An array
// counts by its earliest date.
func (t ttlRule) expires(doc []byte, before time.Time) bool {
	v := bson.Raw(doc).Lookup(t.field...)
	earliest, found := int64(0), false
	see := func(v bson.RawValue) {
		if ms, ok := v.DateTimeOK(); ok && (!found || ms < earliest) {
			earliest, found = ms, true
		}
	}
	see(v)
	if list, ok := v.ArrayOK(); ok {
		values, _ := list.Values()
		for _, v := range values {
			see(v)
		}
	}
	return found && time.UnixMilli(earliest).Add(time.Duration(t.seconds)*time.Second).Before(before)
}

// prove compares the chosen collections of a dump with the server. With exact
// there may be no others.
func (m *MongoRestore) prove(ctx context.Context, data dumpData, exact bool) error {
	r, err := m.begin(ctx, data)
	if err != nil {
		return err
	}
	defer r.conn.close(ctx)
	var mu sync.Mutex
	var findings []error
	byData := map[*dumped]*job{}
	var alone, beside []*dumped // those compared by digest, and those that need the dump's documents
	for _, j := range r.jobs {
		byData[j.dumped] = j
		switch err := r.sameDefinition(j); {
		case err != nil:
			findings = append(findings, step.Fail("compare", j.to(), err))
		case j.Type == typeView:
		case m.Mode == MongoMerge || len(j.removals()) > 0:
			beside = append(beside, j.dumped)
		default:
			alone = append(alone, j.dumped)
		}
	}
	compare := func(ctx context.Context, d *dumped, read readDocs) (err error) {
		j := byData[d]
		if m.Mode == MongoMerge {
			err = r.contains(ctx, j, read)
		} else {
			err = r.sameDocuments(ctx, j, j.into(), read)
		}
		if e := step.Ended(ctx); e != nil {
			return e
		}
		if err != nil && !errors.Is(err, ErrDiffers) {
			return r.conn.fail("compare", j.to(), err)
		}
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			findings = append(findings, step.Fail("compare", j.to(), err))
		}
		return nil
	}
	parallel := cmp.Or(m.Parallel, 4)
	if err := largestFirst(ctx, parallel, alone, func(ctx context.Context, d *dumped) error { return compare(ctx, d, nil) }); err != nil {
		return err
	}
	if len(beside) > 0 {
		if err := r.data.feed(ctx, parallel, beside, compare); err != nil {
			return err
		}
	}
	if m.UsersAndRoles {
		for _, db := range data.auth() {
			if err := r.sameUsers(ctx, db); err != nil {
				findings = append(findings, step.Fail("compare", "users and roles of "+db, err))
			}
		}
	}
	if exact {
		for _, x := range r.extras {
			findings = append(findings, step.Fail("compare", x.namespace(), fmt.Errorf("%w: the set does not have this %s", ErrDiffers, x.Type)))
		}
	}
	return errors.Join(findings...)
}

// sameDefinition compares type, options and indexes.
func (r *restoring) sameDefinition(j *job) error {
	if j.live == nil {
		return fmt.Errorf("%w: it does not exist", ErrDiffers)
	}
	s := *j.mongoSpace
	if j.Type == typeView && len(r.m.Rename) > 0 {
		to, err := r.m.target(s.DB + "." + s.viewOn())
		if err != nil {
			return err
		}
		_, base, _ := strings.Cut(to, ".")
		s.Options = replaceString(s.Options, "viewOn", base)
	}
	want, err := s.comparable()
	if err != nil {
		return err
	}
	have, err := j.live.comparable()
	if err != nil {
		return err
	}
	if bytes.Equal(want, have) {
		return nil
	}
	return fmt.Errorf("%w: type, options or indexes: it is %s, the dump has %s", ErrDiffers, bson.Raw(have), bson.Raw(want))
}

func replaceString(d bson.Raw, field, value string) bson.Raw {
	elems, err := d.Elements()
	if err != nil {
		return d
	}
	for i, e := range elems {
		if e.Key() == field {
			with, err := bson.Marshal(bson.D{{Key: field, Value: value}})
			if err == nil {
				elems[i] = bson.Raw(with).Index(0)
			}
		}
	}
	return join(elems)
}

// sameDocuments reads a collection and compares it with the dump. Where read is
// given and the server removes documents by their age, both sides are counted
// without what is about to be removed.
func (r *restoring) sameDocuments(ctx context.Context, j *job, coll string, read readDocs) error {
	var rules []ttlRule
	if read != nil {
		rules = j.removals()
	}
	before := time.Now().Add(ttlMargin)
	stays := func(doc []byte) bool {
		for _, rule := range rules {
			if rule.expires(doc, before) {
				return false
			}
		}
		return true
	}
	want := &tally{count: j.count, bytes: j.bytes, sum: j.sum}
	if len(rules) > 0 {
		want = &tally{}
		if err := read(func(doc []byte) error {
			if stays(doc) {
				want.add(doc)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	var have *tally
	err := r.reader.persist(ctx, "read "+j.to(), func() error {
		have = &tally{}
		return r.reader.each(ctx, j.db, coll, nil, j.bytes/max(j.count, 1), func(doc []byte) error {
			if stays(doc) {
				have.add(doc)
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	if have.count != want.count || have.bytes != want.bytes || have.sum != want.sum {
		return fmt.Errorf("%w: %d documents of %d bytes with digest %s, the dump has %d of %d with %s", ErrDiffers,
			have.count, have.bytes, have.sum, want.count, want.bytes, want.sum)
	}
	return nil
}

// contains looks every document of the dump up by its _id.
func (r *restoring) contains(ctx context.Context, j *job, read readDocs) error {
	missing := int64(0)
	ids := bson.A{}
	want := &tally{}
	ask := func() error {
		if len(ids) == 0 {
			return nil
		}
		have := &tally{}
		err := r.reader.each(ctx, j.db, j.into(), bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}}, 0, func(doc []byte) error {
			have.add(doc)
			return nil
		})
		if err == nil && (have.sum != want.sum || have.count != want.count) {
			missing += max(want.count-have.count, 1)
		}
		ids, want = bson.A{}, &tally{}
		return err
	}
	err := read(func(doc []byte) error {
		want.add(doc)
		id := bson.Raw(doc).Lookup("_id")
		id.Value = bytes.Clone(id.Value)
		ids = append(ids, id)
		if len(ids) == lookupDocs {
			return ask()
		}
		return nil
	})
	if err == nil {
		err = ask()
	}
	if err != nil {
		return err
	}
	if missing > 0 {
		return fmt.Errorf("%w: at least %d documents of the dump are missing or different", ErrDiffers, missing)
	}
	return nil
}
