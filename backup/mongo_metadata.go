package backup

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/bson"
)

// Types of collections, as listCollections names them.
const (
	typeCollection = "collection"
	typeView       = "view"
	typeTimeseries = "timeseries"
)

// mongoSpace is one collection, view or time series: what mongodump writes into
// its metadata file.
type mongoSpace struct {
	DB, Name string
	Type     string
	UUID     string     // 32 hex digits; empty where the server has none
	Options  bson.Raw   // nil: none
	Indexes  []bson.Raw // _id_ included, in the server's order
}

func (s *mongoSpace) namespace() string { return s.DB + "." + s.Name }

// dataName is the collection that holds the documents: those of a time series
// are buckets in a collection of their own (up to MongoDB 8.2).
func (s *mongoSpace) dataName() string {
	if s.Type == typeTimeseries {
		return "system.buckets." + s.Name
	}
	return s.Name
}

// Metadata files by suffix; gzip adds its own.
const (
	bsonSuffix     = ".bson"
	metadataSuffix = ".metadata.json"
	preludeName    = "prelude.json"
	gzipSuffix     = ".gz"
)

// mongoFile is the name, without suffix, that mongodump gives a collection:
// escaped, and shortened where the escaped name would exceed a file system's
// 255 bytes (mongo-tools 100.18).
func mongoFile(collection string) string {
	escaped := url.QueryEscape(collection)
	if len(escaped) <= 238 {
		return escaped
	}
	sum := sha1.Sum([]byte(collection))
	return escaped[:208] + "%24" + base64.RawURLEncoding.EncodeToString(sum[:])
}

// metadata renders the metadata file: one line of canonical Extended
// JSON, fields in mongodump's order.
func (s *mongoSpace) metadata() ([]byte, error) {
	d := bson.D{}
	if !emptyDoc(s.Options) {
		d = append(d, bson.E{Key: "options", Value: s.Options})
	}
	indexes := bson.A{}
	for _, x := range s.Indexes {
		indexes = append(indexes, x)
	}
	d = append(d, bson.E{Key: "indexes", Value: indexes})
	if s.UUID != "" {
		d = append(d, bson.E{Key: "uuid", Value: s.UUID})
	}
	d = append(d, bson.E{Key: "collectionName", Value: s.Name})
	if s.Type != "" {
		d = append(d, bson.E{Key: "type", Value: s.Type})
	}
	raw, err := bson.Marshal(d)
	if err != nil {
		return nil, err
	}
	text, err := bson.MarshalExtJSON(bson.Raw(raw), true, false)
	if err != nil {
		return nil, err
	}
	var again bson.Raw
	if err := bson.UnmarshalExtJSON(text, true, &again); err != nil || !bytes.Equal(raw, again) {
		// {"$date": …} as a key, for example: mongodump 100.18 stops here too.
		return nil, errors.New("its options or indexes hold names that Extended JSON takes for types, so the metadata could not be read back")
	}
	return text, nil
}

// parseMetadata reads a metadata file of mongodump's, or our own.
func parseMetadata(db string, text []byte) (*mongoSpace, error) {
	var raw bson.Raw
	if err := bson.UnmarshalExtJSON(text, true, &raw); err != nil {
		return nil, fmt.Errorf("not canonical Extended JSON: %w", err)
	}
	if err := checkBSON(raw); err != nil {
		return nil, err
	}
	s := &mongoSpace{DB: db, Type: typeCollection}
	elems, err := raw.Elements()
	if err != nil {
		return nil, err
	}
	for _, e := range elems {
		v, ok := e.Value(), true
		switch e.Key() {
		case "options":
			s.Options, ok = v.DocumentOK()
		case "uuid":
			s.UUID, ok = v.StringValueOK()
		case "collectionName":
			s.Name, ok = v.StringValueOK()
		case "type":
			s.Type, ok = v.StringValueOK()
		case "indexes":
			s.Indexes, ok = documents(v)
		}
		if !ok {
			return nil, fmt.Errorf("field %q has type %s", e.Key(), v.Type)
		}
	}
	if _, err := raw.LookupErr("indexes"); err != nil {
		return nil, errors.New("no field \"indexes\"")
	}
	if id, err := hex.DecodeString(s.UUID); err != nil || len(id) != 0 && len(id) != 16 {
		return nil, fmt.Errorf("uuid %q", s.UUID)
	}
	// Older dumps leave the type out; their views are told by an option.
	if _, err := s.Options.LookupErr("viewOn"); err == nil {
		s.Type = typeView
	}
	if _, err := s.Options.LookupErr("timeseries"); err == nil {
		s.Type = typeTimeseries
	}
	if s.Type == "" {
		s.Type = typeCollection
	}
	if !slices.Contains([]string{typeCollection, typeView, typeTimeseries}, s.Type) {
		return nil, fmt.Errorf("type %q", s.Type)
	}
	for _, x := range s.Indexes {
		if name, ok := x.Lookup("name").StringValueOK(); !ok || name == "" {
			return nil, errors.New("an index without a name")
		}
		if _, ok := x.Lookup("key").DocumentOK(); !ok {
			return nil, fmt.Errorf("index %q without a key", x.Lookup("name").StringValue())
		}
	}
	return s, nil
}

func documents(v bson.RawValue) ([]bson.Raw, bool) {
	array, ok := v.ArrayOK()
	if !ok {
		return nil, false
	}
	values, err := array.Values()
	if err != nil {
		return nil, false
	}
	out := []bson.Raw{}
	for _, v := range values {
		d, ok := v.DocumentOK()
		if !ok {
			return nil, false
		}
		out = append(out, d)
	}
	return out, true
}

func emptyDoc(d bson.Raw) bool { return len(d) <= 5 }

// indexNames lists the indexes for the manifest.
func (s *mongoSpace) indexNames() []string {
	var names []string
	for _, x := range s.Indexes {
		name, _ := x.Lookup("name").StringValueOK()
		names = append(names, name)
	}
	return names
}

func (s *mongoSpace) capped() bool {
	capped, _ := s.Options.Lookup("capped").BooleanOK()
	return capped
}

// viewOn is the collection or view that a view reads.
func (s *mongoSpace) viewOn() string {
	on, _ := s.Options.Lookup("viewOn").StringValueOK()
	return on
}

// removals are the rules by which the server removes documents on its own: TTL
// indexes, and the age limit of clustered collections and time series.
func (s *mongoSpace) removals() []ttlRule {
	var rules []ttlRule
	if t, ok := asInt64(s.Options.Lookup("expireAfterSeconds")); ok {
		field := []string{"_id"}
		if s.Type == typeTimeseries {
			at, _ := s.Options.Lookup("timeseries", "timeField").StringValueOK()
			field = []string{"control", "max", at}
		}
		rules = append(rules, ttlRule{field, t})
	}
	for _, x := range s.Indexes {
		t, ok := asInt64(x.Lookup("expireAfterSeconds"))
		first, err := x.Lookup("key").Document().IndexErr(0)
		if ok && err == nil && s.Type == typeCollection {
			rules = append(rules, ttlRule{strings.Split(first.Key(), "."), t})
		}
	}
	return rules
}

// comparable is the space without what differs between two servers that hold
// the same: UUID, index versions and the namespace in old index documents.
func (s *mongoSpace) comparable() ([]byte, error) {
	d := bson.D{{Key: "type", Value: s.Type}}
	if options := without(s.Options, "uuid", "autoIndexId", "recordIdsReplicated"); !emptyDoc(options) {
		d = append(d, bson.E{Key: "options", Value: sorted(options)})
	}
	collated := !emptyDoc(s.collation())
	indexes := map[string]bson.Raw{}
	for _, x := range s.Indexes {
		drop := []string{"ns", "v", "background"}
		if locale, _ := x.Lookup("collation", "locale").StringValueOK(); locale == "simple" {
			drop = append(drop, "collation") // listIndexes leaves it out up to MongoDB 8
		}
		name, _ := x.Lookup("name").StringValueOK()
		indexes[name] = sorted(without(x, drop...))
	}
	names := s.indexNames()
	slices.Sort(names)
	for _, n := range names {
		d = append(d, bson.E{Key: "index " + n, Value: indexes[n]})
	}
	d = append(d, bson.E{Key: "collated", Value: collated})
	return bson.Marshal(d)
}

func (s *mongoSpace) collation() bson.Raw {
	c, _ := s.Options.Lookup("collation").DocumentOK()
	return c
}

// without copies a document leaving out some of its fields.
func without(d bson.Raw, fields ...string) bson.Raw {
	elems, err := d.Elements()
	if err != nil || len(d) == 0 {
		return nil
	}
	elems = slices.DeleteFunc(elems, func(e bson.RawElement) bool { return slices.Contains(fields, e.Key()) })
	return join(elems)
}

// sorted copies a document with its top-level fields in order of name; what is
// nested stays as it is, for there the order means something (index keys).
func sorted(d bson.Raw) bson.Raw {
	elems, err := d.Elements()
	if err != nil {
		return d
	}
	slices.SortStableFunc(elems, func(a, b bson.RawElement) int { return strings.Compare(a.Key(), b.Key()) })
	return join(elems)
}

func join(elems []bson.RawElement) bson.Raw {
	size := 5
	for _, e := range elems {
		size += len(e)
	}
	out := make([]byte, 4, size)
	for _, e := range elems {
		out = append(out, e...)
	}
	out = append(out, 0)
	putLength(out)
	return out
}

// unescapeCollection is the reverse of mongoFile for names that were not
// shortened.
func unescapeCollection(stem string) (string, error) {
	if len(stem) > 208 && strings.Contains(stem[208:], "%24") {
		return "", errors.New("the name is shortened and the metadata does not tell the full one")
	}
	return url.QueryUnescape(stem)
}
