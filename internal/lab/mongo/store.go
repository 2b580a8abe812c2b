package mongo

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"
	"go.mongodb.org/mongo-driver/x/bsonx/bsoncore"
)

// collection holds every version of its documents, so that a snapshot read can
// look into the past.
type collection struct {
	name, kind string // kind: collection, view, timeseries
	options    bson.D
	idIndex    bson.D
	uuid       []byte
	born       uint32
	gone       bool // dropped or renamed: its cursors die
	docs       []document
	live       int
	bytes      int64
	capped     bool
	indexes    []*index
}

type document struct {
	raw        []byte
	born, died uint32 // logical times; died 0: alive
}

type index struct {
	spec   bson.D
	keys   []string
	unique bool
	seen   map[string]struct{}
}

type cursor struct {
	db      string
	coll    *collection
	at      uint32 // snapshot time; 0: whatever is there
	pos     int
	filter  bson.Raw
	fixed   []bson.Raw // results of list commands and aggregates
	session string
}

// Insert adds documents as they are: no _id is added and no index is asked.
func (s *Server) Insert(db, coll string, docs ...bson.Raw) {
	s.Fill(db, coll, len(docs), func(i int) bson.Raw { return docs[i] })
}

// Fill adds n documents as they are, creating the collection if need be.
func (s *Server) Fill(db, coll string, n int, doc func(int) bson.Raw) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.collection(db, coll)
	if c == nil {
		c = s.create(db, coll, "collection", nil, nil)
	}
	c.docs = slices.Grow(c.docs, n)
	for i := range n {
		_ = c.add(slices.Clone(doc(i)), s.tick(), false)
	}
}

// Documents returns the live documents of a collection in natural order.
func (s *Server) Documents(db, coll string) []bson.Raw {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c := s.collection(db, coll)
	if c == nil {
		return nil
	}
	var out []bson.Raw
	for _, d := range c.docs {
		if d.died == 0 {
			out = append(out, d.raw)
		}
	}
	return out
}

// Collections names what a database holds, system collections included.
func (s *Server) Collections(db string) []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var names []string
	for n := range s.dbs[db] {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func (s *Server) tick() uint32 {
	s.clock++
	return s.clock
}

func (s *Server) collection(db, name string) *collection { return s.dbs[db][name] }

func (s *Server) create(db, name, kind string, options, idIndex bson.D) *collection {
	if s.dbs[db] == nil {
		s.dbs[db] = map[string]*collection{}
	}
	now := s.tick()
	c := &collection{name: name, kind: kind, options: options, uuid: newUUID(now), born: now}
	c.capped, _ = lookup(options, "capped").(bool)
	if kind == "collection" {
		if idIndex == nil {
			idIndex = bson.D{{Key: "v", Value: int32(2)}, {Key: "key", Value: bson.D{{Key: "_id",
				Value: int32(1)}}}, {Key: "name", Value: "_id_"}}
			if l := lookup(options, "collation"); l != nil {
				idIndex = append(idIndex, bson.E{Key: "collation", Value: l})
			}
		}
		c.idIndex = idIndex
		if lookup(options, "clusteredIndex") != nil {
			c.idIndex = append(idIndex[:3:3], bson.E{Key: "unique", Value: true}, bson.E{Key: "clustered",
				Value: true})
			c.indexes = []*index{{spec: c.idIndex, keys: []string{"_id"}, unique: true,
				seen: map[string]struct{}{}}}
		} else {
			c.indexes = []*index{{spec: idIndex, keys: []string{"_id"}, unique: true,
				seen: map[string]struct{}{}}}
		}
	}
	s.dbs[db][name] = c
	return c
}

func (s *Server) remove(db string, c *collection) {
	s.tick()
	c.gone = true
	delete(s.dbs[db], c.name)
	if len(s.dbs[db]) == 0 {
		delete(s.dbs, db)
	}
}

// duplicate is the violated unique index and the offending value.
type duplicate struct {
	index *index
	value string
}

// add stores a document of its own. With check, unique indexes are enforced.
func (c *collection) add(raw []byte, at uint32, check bool) *duplicate {
	var keys [4]string // of the unique indexes; more than four allocate
	made := keys[:0]
	for _, x := range c.indexes {
		if !x.unique {
			continue
		}
		key := x.key(raw)
		if _, dup := x.seen[key]; dup && check {
			return &duplicate{x, x.value(raw)}
		}
		made = append(made, key)
	}
	for _, x := range c.indexes {
		if x.unique {
			x.seen[made[0]] = struct{}{}
			made = made[1:]
		}
	}
	c.docs = append(c.docs, document{raw: raw, born: at})
	c.live++
	c.bytes += int64(len(raw))
	if c.capped {
		c.trim(at)
	}
	return nil
}

// trim drops the oldest documents of a capped collection.
func (c *collection) trim(at uint32) {
	size, most := number(lookup(c.options, "size")), number(lookup(c.options, "max"))
	for i := 0; i < len(c.docs) && (c.bytes > size || most > 0 && int64(c.live) > most); i++ {
		if c.docs[i].died == 0 {
			c.kill(i, at)
		}
	}
}

func (c *collection) kill(i int, at uint32) {
	d := &c.docs[i]
	d.died = at
	c.live--
	c.bytes -= int64(len(d.raw))
	for _, x := range c.indexes {
		if x.unique {
			delete(x.seen, x.key(d.raw))
		}
	}
}

func (x *index) key(raw []byte) string {
	var room [32]byte
	b := room[:0]
	for _, k := range x.keys {
		if !strings.Contains(k, ".") {
			b = appendComparable(b, bson.Raw(raw).Lookup(k))
			continue
		}
		b = appendComparable(b, bson.Raw(raw).Lookup(strings.Split(k, ".")...))
	}
	return string(b)
}

func (x *index) value(raw []byte) string {
	var b strings.Builder
	b.WriteString("{ ")
	for i, k := range x.keys {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s: %v", k, bson.Raw(raw).Lookup(strings.Split(k, ".")...))
	}
	return b.String() + " }"
}

// appendComparable makes equal numbers of different types equal.
func appendComparable(b []byte, v bson.RawValue) []byte {
	switch v.Type {
	case bson.TypeInt32, bson.TypeInt64:
		return binary.LittleEndian.AppendUint64(append(b, 'n'), uint64(v.AsInt64()))
	case bson.TypeDouble:
		if f := v.Double(); f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			return binary.LittleEndian.AppendUint64(append(b, 'n'), uint64(int64(f)))
		}
	}
	b = binary.LittleEndian.AppendUint32(append(b, byte(v.Type)), uint32(len(v.Value)))
	return append(b, v.Value...)
}

// matches knows equality on top-level fields, $exists and $in.
func matches(doc, filter bson.Raw) bool {
	elems, _ := filter.Elements()
	for _, e := range elems {
		got, err := doc.LookupErr(e.Key())
		want := e.Value()
		if sub, isDoc := want.DocumentOK(); isDoc {
			if first, none := sub.IndexErr(0); none == nil && strings.HasPrefix(first.Key(), "$") {
				if !operator(first, got, err == nil) {
					return false
				}
				continue
			}
		}
		if err != nil || !bytes.Equal(appendComparable(nil, got), appendComparable(nil, want)) {
			return false
		}
	}
	return true
}

// nameMatches asks a filter of listCollections about the name alone.
func nameMatches(filter bson.Raw, name string) bool {
	want, err := filter.LookupErr("name")
	if err != nil {
		return true
	}
	raw, err := bson.Marshal(bson.D{{Key: "name", Value: name}})
	if err != nil {
		return true
	}
	only, err := bson.Marshal(bson.D{{Key: "name", Value: want}})
	return err != nil || matches(raw, only)
}

func operator(e bson.RawElement, got bson.RawValue, there bool) bool {
	switch e.Key() {
	case "$exists":
		want, _ := e.Value().BooleanOK()
		return there == want
	case "$in":
		list, _ := e.Value().ArrayOK()
		values, _ := list.Values()
		return slices.ContainsFunc(values, func(v bson.RawValue) bool {
			return there && bytes.Equal(appendComparable(nil, got), appendComparable(nil, v))
		})
	}
	return false
}

// valid knows validators of the form {field: value} and {$jsonSchema: {required: […]}}.
func (c *collection) valid(doc bson.Raw) bool {
	rules, isDoc := lookup(c.options, "validator").(bson.D)
	if !isDoc {
		return true
	}
	raw, err := bson.Marshal(rules)
	if err != nil {
		return false
	}
	if schema, err := bson.Raw(raw).LookupErr("$jsonSchema"); err == nil {
		list, _ := schema.Document().Lookup("required").ArrayOK()
		values, _ := list.Values()
		for _, v := range values {
			if _, err := doc.LookupErr(v.StringValue()); err != nil {
				return false
			}
		}
		return true
	}
	return matches(doc, raw)
}

// next appends the cursor's next batch to an array and reports how many
// documents it took and whether there are more.
func (cu *cursor) next(dst []byte, most, budget int64) (out []byte, taken int64, more bool) {
	start := len(dst)
	put := func(raw []byte) bool {
		if taken > 0 && int64(len(dst)-start+len(raw)) > budget {
			return false
		}
		dst = append(dst, byte(bson.TypeEmbeddedDocument))
		dst = append(strconv.AppendInt(dst, taken, 10), 0)
		dst = append(dst, raw...)
		taken++
		return true
	}
	if cu.coll == nil {
		for cu.pos < len(cu.fixed) && (most <= 0 || taken < most) && put(cu.fixed[cu.pos]) {
			cu.pos++
		}
		return dst, taken, cu.pos < len(cu.fixed)
	}
	docs := cu.coll.docs
	mean := cu.coll.bytes/int64(max(cu.coll.live, 1)) + 10
	expected := int64(len(docs)-cu.pos) * mean
	if most > 0 {
		expected = min(expected, most*mean)
	}
	dst = slices.Grow(dst, int(min(expected, budget)))
	for ; cu.pos < len(docs) && (most <= 0 || taken < most); cu.pos++ {
		d := docs[cu.pos]
		if cu.at == 0 && d.died != 0 || cu.at != 0 && (d.born > cu.at || d.died != 0 && d.died <= cu.at) {
			continue
		}
		if cu.filter != nil && !matches(d.raw, cu.filter) {
			continue
		}
		if !put(d.raw) {
			break
		}
	}
	return dst, taken, cu.pos < len(docs)
}

// stamp gives top-level zero timestamps of a document the server's time, as mongod does on
// insert unless it is told not to.
func stamp(doc []byte, at uint32) {
	_, rest, _ := bsoncore.ReadLength(doc)
	for len(rest) > 1 {
		e, after, ok := bsoncore.ReadElement(rest)
		if !ok {
			return
		}
		if rest = after; e[0] != byte(bson.TypeTimestamp) || e.Key() == "_id" {
			continue
		}
		if v := e.Value(); [8]byte(v.Data) == [8]byte{} {
			binary.LittleEndian.PutUint32(v.Data, at)
			binary.LittleEndian.PutUint32(v.Data[4:], epoch)
		}
	}
}

// own replaces documents by copies in one block, with an _id in front where there is none.
func own(docs []bson.Raw) {
	size := 0
	for _, d := range docs {
		size += len(d)
	}
	block := make([]byte, 0, size)
	for i, d := range docs {
		if _, err := d.LookupErr("_id"); err != nil {
			docs[i] = withID(d)
			continue
		}
		at := len(block)
		block = append(block, d...)
		docs[i] = block[at:len(block):len(block)]
	}
}

// withID copies a document and puts an _id in front.
func withID(raw []byte) []byte {
	at, out := bsoncore.AppendDocumentStart(nil)
	out = bsoncore.AppendObjectIDElement(out, "_id", primitive.NewObjectID())
	out = append(out, raw[4:len(raw)-1]...)
	out, _ = bsoncore.AppendDocumentEnd(out, at)
	return out
}

func lookup(d bson.D, key string) any {
	for _, e := range d {
		if e.Key == key {
			return e.Value
		}
	}
	return nil
}

func number(v any) int64 {
	switch n := v.(type) {
	case int32:
		return int64(n)
	case int64:
		return n
	case float64:
		return int64(n)
	}
	return 0
}
