package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
	"go.mongodb.org/mongo-driver/mongo/writeconcern"
)

// ErrRejected is matched when the server did not take documents: an _id that
// exists, a validator, a unique index. None is skipped silently.
var ErrRejected = errors.New("documents were rejected")

// How documents are sent: unordered, so that one rejected document does not
// hide the others; two senders for a collection, as one waits for the disk.
const (
	batchBytes   = 4 << 20
	batchDocs    = 10_000
	senders      = 2
	maxDocument  = 16 << 20 // what a client may insert
	shownRejects = 5
)

// batch is a bounded number of documents.
type batch struct {
	bytes []byte
	ends  []int
	zero  []bool // documents with zero timestamps
}

func (b *batch) full(next int) bool {
	return len(b.ends) > 0 && (len(b.ends) == batchDocs || len(b.bytes)+next > batchBytes)
}

func (b *batch) add(doc []byte, zero bool) {
	b.bytes = append(b.bytes, doc...)
	b.ends = append(b.ends, len(b.bytes))
	b.zero = append(b.zero, zero)
}

func (b *batch) doc(i int) bson.Raw {
	start := 0
	if i > 0 {
		start = b.ends[i-1]
	}
	return bson.Raw(b.bytes[start:b.ends[i]:b.ends[i]])
}

func (b *batch) reset() { b.bytes, b.ends, b.zero = b.bytes[:0], b.ends[:0], b.zero[:0] }

// insert sends a collection's documents and checks that they are the ones the
// dump was found to hold.
func (r *restoring) insert(ctx context.Context, j *job, read readDocs) error {
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	n := senders
	if j.capped() {
		n = 1 // the order is part of what it holds
	}
	full, free := make(chan *batch), make(chan *batch, n+1)
	for range n + 1 {
		free <- &batch{}
	}
	var rejected rejects
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for b := range full {
				if inner.Err() == nil {
					if err := r.send(inner, j, b, &rejected); err != nil {
						cancel(err)
					}
					r.told(j, int64(len(b.ends)), int64(len(b.bytes)))
				}
				b.reset()
				free <- b
			}
		})
	}
	sum := &tally{}
	b := <-free
	err := read(func(doc []byte) error {
		if inner.Err() != nil {
			return context.Cause(inner)
		}
		if reason := unfit(doc); reason != "" {
			sum.add(doc)
			rejected.add(doc, reason)
			return nil
		}
		sum.add(doc)
		if b.full(len(doc)) {
			full <- b
			b = <-free
		}
		b.add(doc, zeroTimestamp(doc))
		return nil
	})
	if err == nil && len(b.ends) > 0 {
		full <- b
	}
	close(full)
	wg.Wait()
	if err == nil && inner.Err() != nil {
		err = context.Cause(inner)
	}
	if err != nil {
		return err
	}
	if sum.count != j.count || sum.bytes != j.bytes || sum.sum != j.sum {
		return fmt.Errorf("the dump %w: it holds %d documents with digest %s now, and held %d with %s", ErrChanged, sum.count, sum.sum, j.count, j.sum)
	}
	return rejected.err()
}

// unfit says why a document would not arrive as it is.
func unfit(doc []byte) string {
	if len(doc) > maxDocument {
		return "larger than the 16 MiB that a client may insert"
	}
	if _, err := bson.Raw(doc).LookupErr("_id"); err != nil {
		return "it has no _id, and the server would invent one"
	}
	return ""
}

// zeroTimestamp says whether a top-level field other than _id is a timestamp of
// zero, which servers replace by the time of day unless told not to.
func zeroTimestamp(doc []byte) bool {
	rest := doc[4 : len(doc)-1]
	for len(rest) > 0 {
		kind := rest[0]
		key := bytes.IndexByte(rest[1:], 0)
		if key < 0 {
			return false
		}
		value := rest[2+key:]
		n, err := bsonValueSize(kind, value)
		if err != nil {
			return false
		}
		if kind == 0x11 && string(rest[1:1+key]) != "_id" && !slices.ContainsFunc(value[:8], func(b byte) bool { return b != 0 }) {
			return true
		}
		rest = value[n:]
	}
	return false
}

// send inserts one batch. In a collection of our own it may be sent again after
// a lost answer: documents that had arrived are then no news, and the digest
// tells in the end.
func (r *restoring) send(ctx context.Context, j *job, b *batch, rejected *rejects) error {
	coll := r.conn.Database(j.db).Collection(j.into(), options.Collection().SetWriteConcern(writeconcern.Majority()))
	var docs []any
	bypass := false
	for i := range b.ends {
		if b.zero[i] && !r.conn.keepsZeroTimestamps() {
			if err := r.sendZero(ctx, coll, b.doc(i), rejected); err != nil {
				return err
			}
			continue
		}
		bypass = bypass || b.zero[i]
		docs = append(docs, b.doc(i))
	}
	if len(docs) == 0 {
		return nil
	}
	o := options.InsertMany().SetOrdered(false)
	if r.m.BypassValidation {
		o.SetBypassDocumentValidation(true)
	}
	if bypass {
		//lint:ignore SA1019 there is no other way to restore a timestamp of zero
		o.BypassEmptyTsReplacement = &bypass
	}
	attempt := 0
	step := func() error {
		attempt++
		_, err := coll.InsertMany(ctx, docs, o)
		var bulk mongo.BulkWriteException
		if !errors.As(err, &bulk) {
			return err
		}
		if bulk.WriteConcernError != nil {
			return fmt.Errorf("the write was not confirmed by a majority: %w", err)
		}
		for _, w := range bulk.WriteErrors {
			if attempt > 1 && w.Code == codeDuplicateKey && strings.Contains(w.Message, "index: _id_") {
				continue
			}
			rejected.add(docs[w.Index].(bson.Raw), rejection(w.WriteError))
		}
		return nil
	}
	if r.merging(j) {
		return step()
	}
	return r.reader.persist(ctx, "insert into "+j.to(), step)
}

// sendZero is for servers that do not know bypassEmptyTsReplacement: they take a
// literal in an update.
func (r *restoring) sendZero(ctx context.Context, coll *mongo.Collection, doc bson.Raw, rejected *rejects) error {
	_, err := coll.InsertOne(ctx, doc, options.InsertOne().SetBypassDocumentValidation(r.m.BypassValidation))
	var write mongo.WriteException
	if errors.As(err, &write) && len(write.WriteErrors) > 0 {
		rejected.add(doc, rejection(write.WriteErrors[0]))
		return nil
	}
	if err != nil {
		return err
	}
	_, err = coll.UpdateOne(ctx, bson.D{{Key: "_id", Value: doc.Lookup("_id")}},
		bson.A{bson.D{{Key: "$replaceRoot", Value: bson.D{{Key: "newRoot", Value: bson.D{{Key: "$literal", Value: doc}}}}}}},
		options.Update().SetBypassDocumentValidation(r.m.BypassValidation))
	return err
}

// rejection is the server's reason without the values of fields, which may be
// secrets.
func rejection(w mongo.WriteError) string {
	text, _, _ := strings.Cut(w.Message, " dup key:")
	if len(text) > 200 {
		text = text[:200] + "…"
	}
	return fmt.Sprintf("%s (code %d)", text, w.Code)
}

// rejects counts documents that were not taken and keeps the first few.
type rejects struct {
	mu    sync.Mutex
	n     int64
	first []string
}

func (r *rejects) add(doc bson.Raw, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	if len(r.first) < shownRejects {
		id := "a document"
		if oid, ok := doc.Lookup("_id").ObjectIDOK(); ok {
			id = "_id " + oid.Hex()
		}
		r.first = append(r.first, id+": "+reason)
	}
}

func (r *rejects) err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n == 0 {
		return nil
	}
	text := strings.Join(r.first, "; ")
	if more := r.n - int64(len(r.first)); more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return fmt.Errorf("%w: %d: %s", ErrRejected, r.n, text)
}
