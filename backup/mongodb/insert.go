package mongodb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/x/bsonx/bsoncore"

	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/backup/mongodb/internal/dump"
)

// Documents are sent unordered, so that one rejected document does not hide others. A collection
// has two senders, because one waits for the disk.
const (
	batchBytes   = 512 << 10
	batchDocs    = 10_000
	senders      = 2
	maxDocument  = 16 << 20 // the limit for inserts by clients
	shownRejects = 5
)

// batch is a bounded number of documents in the form of an insert command, so that they
// are copied once.
type batch struct {
	command []byte
	array   int32 // where the array of documents begins
	starts  []int
	bytes   int64  // of documents
	zero    []bool // documents with zero timestamps
}

func (b *batch) full(next int) bool {
	return len(b.starts) > 0 && (len(b.starts) == batchDocs || len(b.command)+next > batchBytes)
}

// begin starts a command. The options that depend on the documents come after them.
func (b *batch) begin(j *job) {
	if cap(b.command) > 2*batchBytes { // one large document does not justify keeping so much
		b.command = nil
	}
	if b.command == nil {
		b.command = make([]byte, 0, min(batchBytes+1<<16, max(j.Bytes, 1<<10)+1<<16))
	}
	_, c := bsoncore.AppendDocumentStart(b.command[:0])
	c = bsoncore.AppendStringElement(c, "insert", j.into())
	c = bsoncore.AppendBooleanElement(c, "ordered", false)
	b.array, b.command = bsoncore.AppendArrayElementStart(c, "documents")
	b.starts, b.zero, b.bytes = b.starts[:0], b.zero[:0], 0
}

func (b *batch) add(doc []byte, zero bool) {
	b.command = append(b.command, byte(bson.TypeEmbeddedDocument))
	b.command = append(strconv.AppendInt(b.command, int64(len(b.starts)), 10), 0)
	b.starts = append(b.starts, len(b.command))
	b.command = append(b.command, doc...)
	b.zero = append(b.zero, zero)
	b.bytes += int64(len(doc))
}

func (b *batch) doc(i int) bson.Raw {
	size, _, _ := bsoncore.ReadLength(b.command[b.starts[i]:])
	return bson.Raw(b.command[b.starts[i] : b.starts[i]+int(size)])
}

// finish ends the command.
func (b *batch) finish(j *job, keepZero bool) (bson.Raw, error) {
	c, err := bsoncore.AppendArrayEnd(b.command, b.array)
	if err != nil {
		return nil, err
	}
	if j.Validated() {
		c = bsoncore.AppendBooleanElement(c, "bypassDocumentValidation", true)
	}
	if keepZero {
		c = bsoncore.AppendBooleanElement(c, "bypassEmptyTsReplacement", true)
	}
	concern := bsoncore.BuildDocument(nil, bsoncore.AppendStringElement(nil, "w", "majority"))
	c = bsoncore.AppendDocumentElement(c, "writeConcern", concern)
	b.command, err = bsoncore.AppendDocumentEnd(c, 0)
	return bson.Raw(b.command), err
}

// insert sends a collection's documents. It checks each document, and that together they match the
// dump's digest.
func (r *restoring) insert(ctx context.Context, j *job) error {
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	n := senders
	if j.Capped() {
		n = 1 // the order of documents matters
	}
	full := make(chan *batch)
	again := &repeated{}
	var rejected rejects
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for b := range full {
				if inner.Err() == nil {
					if err := r.send(inner, j, b, again, &rejected); err != nil {
						cancel(err)
					}
					r.told(j, int64(len(b.starts)), b.bytes)
				}
				r.pool <- b
			}
		})
	}
	var sum dump.Tally
	b := <-r.pool
	b.begin(j)
	err := r.data.Documents(ctx, j.Collection)(func(doc []byte) error {
		if inner.Err() != nil {
			return context.Cause(inner)
		}
		shape, err := dump.Inspect(doc)
		if err != nil {
			return fmt.Errorf("document %d: %w", sum.Count+1, err)
		}
		sum.Add(doc)
		if reason := unfit(doc, shape); reason != "" {
			rejected.add(doc, reason)
			return nil
		}
		if b.full(len(doc)) {
			full <- b
			b = <-r.pool
			b.begin(j)
		}
		b.add(doc, shape.ZeroTime)
		return nil
	})
	if err == nil && len(b.starts) > 0 {
		full <- b
	} else {
		r.pool <- b
	}
	close(full)
	wg.Wait()
	switch {
	case inner.Err() != nil:
		return context.Cause(inner)
	case errors.Is(err, dump.ErrBSON):
		return step.Damaged(err)
	case err != nil:
		return err
	case sum != j.Tally:
		return fmt.Errorf("%w: the dump has %s now, but had %s", r.data.otherwise(), sum, j.Tally)
	}
	if err := r.latest(ctx, j, again, &rejected); err != nil {
		return err
	}
	return rejected.err()
}

// unfit returns why a document would not arrive unchanged, or "".
func unfit(doc []byte, shape dump.Shape) string {
	if len(doc) > maxDocument {
		return "it is larger than 16 MiB, the limit for inserts"
	}
	if !shape.HasID {
		return "it has no _id, so the server would add one"
	}
	return ""
}

// send inserts one batch. After a lost answer it sends the batch again and accepts documents that
// had arrived. Only an _id can be a duplicate, because the other indexes are built later.
func (r *restoring) send(ctx context.Context, j *job, b *batch, again *repeated,
	rejected *rejects) error {
	keepZero := slices.Contains(b.zero, true)
	if keepZero && !r.conn.keepsZeroTimestamps() {
		return r.sendApart(ctx, j, b, again, rejected)
	}
	command, err := b.finish(j, keepZero)
	if err != nil {
		return err
	}
	return r.sendCommand(ctx, j, b, command, again, rejected)
}

func (r *restoring) sendCommand(ctx context.Context, j *job, b *batch, command bson.Raw,
	again *repeated, rejected *rejects) error {
	attempt := 0
	return r.reader.persist(ctx, "insert into "+j.to(), func() error {
		attempt++
		err := r.conn.run(ctx, j.DB, rawCommand(command))
		var failed mongo.WriteException
		if !errors.As(err, &failed) {
			return err
		}
		if failed.WriteConcernError != nil {
			return fmt.Errorf("the write was not confirmed by a majority: %w", err)
		}
		for _, w := range failed.WriteErrors {
			if w.Code == codeDuplicateKey {
				again.add(b.doc(w.Index), attempt > 1, rejection(w))
				continue
			}
			rejected.add(b.doc(w.Index), rejection(w))
		}
		return nil
	})
}

// sendApart is for servers without bypassEmptyTsReplacement. They keep a zero timestamp in an
// update that replaces the document.
func (r *restoring) sendApart(ctx context.Context, j *job, b *batch, again *repeated,
	rejected *rejects) error {
	others := &batch{}
	others.begin(j)
	for i, zero := range b.zero {
		if !zero {
			others.add(b.doc(i), false)
			continue
		}
		one := &batch{}
		one.begin(j)
		one.add(b.doc(i), false)
		if err := r.sendBatch(ctx, j, one, again, rejected); err != nil {
			return err
		}
		if err := r.overwrite(ctx, j, b.doc(i)); err != nil {
			return err
		}
	}
	if len(others.starts) == 0 {
		return nil
	}
	return r.sendBatch(ctx, j, others, again, rejected)
}

func (r *restoring) sendBatch(ctx context.Context, j *job, b *batch, again *repeated,
	rejected *rejects) error {
	command, err := b.finish(j, false)
	if err != nil {
		return err
	}
	return r.sendCommand(ctx, j, b, command, again, rejected)
}

// overwrite replaces the document with the same _id. A zero timestamp needs a literal, which
// servers accept since 4.2.
func (r *restoring) overwrite(ctx context.Context, j *job, doc bson.Raw) error {
	var with any = doc
	if shape, err := dump.Inspect(doc); err == nil && shape.ZeroTime {
		with = bson.A{bson.D{{Key: "$replaceRoot", Value: bson.D{{Key: "newRoot",
			Value: bson.D{{Key: "$literal", Value: doc}}}}}}}
	}
	update := bson.D{{Key: "q", Value: bson.D{{Key: "_id", Value: doc.Lookup("_id")}}},
		{Key: "u", Value: with}}
	command := bson.D{{Key: "update", Value: j.into()}, {Key: "updates", Value: bson.A{update}},
		majority}
	if j.Validated() {
		command = append(command, bson.E{Key: "bypassDocumentValidation", Value: true})
	}
	return r.reader.persist(ctx, "update "+j.to(), func() error {
		return r.conn.run(ctx, j.DB,
			command)
	})
}

// rawCommand is an encoded command.
type rawCommand bson.Raw

// MarshalBSON implements bson.Marshaler.
func (c rawCommand) MarshalBSON() ([]byte, error) { return c, nil }

// rejection returns the server's reason without the values of fields, which may be secrets.
func rejection(w mongo.WriteError) string {
	text, _, _ := strings.Cut(w.Message, " dup key:")
	if len(text) > 200 {
		text = text[:200] + "…"
	}
	return fmt.Sprintf("%s (code %d)", text, w.Code)
}

// rejects counts rejected documents and keeps the first few errors.
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
