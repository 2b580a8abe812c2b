package dump

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/bson"
)

// Types of collections, as listCollections names them.
const (
	TypeCollection = "collection"
	TypeView       = "view"
	TypeTimeseries = "timeseries"
)

// Space is one collection, view or time series: what a metadata file holds.
type Space struct {
	DB, Name string
	Type     string
	UUID     string     // 32 hex digits; empty where the server has none
	Options  bson.Raw   // nil: none
	Indexes  []bson.Raw // _id_ included, in the server's order
}

// Namespace is "database.collection".
func (s *Space) Namespace() string { return s.DB + "." + s.Name }

// DataName is the collection that holds the documents: those of a time series are
// buckets in a collection of their own (up to MongoDB 8.2).
func (s *Space) DataName() string {
	if s.Type == TypeTimeseries {
		return "system.buckets." + s.Name
	}
	return s.Name
}

// IndexNames lists the indexes for the manifest.
func (s *Space) IndexNames() []string {
	var names []string
	for _, x := range s.Indexes {
		names = append(names, indexName(x))
	}
	return names
}

// Capped reports whether the collection has a fixed size.
func (s *Space) Capped() bool {
	capped, _ := s.Options.Lookup("capped").BooleanOK()
	return capped
}

// Validated reports whether the server checks documents before it takes them.
func (s *Space) Validated() bool {
	_, err := s.Options.LookupErr("validator")
	return err == nil
}

// ViewOn is the collection or view that a view reads.
func (s *Space) ViewOn() string {
	on, _ := s.Options.Lookup("viewOn").StringValueOK()
	return on
}

// TTL is a rule by which the server removes documents: once the date in the field is
// this many seconds old.
type TTL struct {
	field   []string
	seconds int64
}

// Removals are the rules by which the server removes documents on its own: TTL
// indexes, and the age limit of clustered collections and time series.
func (s *Space) Removals() []TTL {
	var rules []TTL
	if t, ok := asInt64(s.Options.Lookup("expireAfterSeconds")); ok {
		field := []string{"_id"}
		if s.Type == TypeTimeseries {
			at, _ := s.Options.Lookup("timeseries", "timeField").StringValueOK()
			field = []string{"control", "max", at}
		}
		rules = append(rules, TTL{field, t})
	}
	for _, x := range s.Indexes {
		t, ok := asInt64(x.Lookup("expireAfterSeconds"))
		first, err := x.Lookup("key").Document().IndexErr(0)
		if ok && err == nil && s.Type == TypeCollection {
			rules = append(rules, TTL{strings.Split(first.Key(), "."), t})
		}
	}
	return rules
}

// Expires reports whether the server removes a document before a moment. An array
// counts by its earliest date.
func (t TTL) Expires(doc []byte, before time.Time) bool {
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

// staleOptions are options of collections that servers no longer take, or that mean
// nothing since MongoDB 4.0: mongod 3.x listed them, and so dumps hold them.
var staleOptions = []string{"autoIndexId", "recordIdsReplicated", "uuid", "flags", "temp", "create",
	"$nExtents"}

// neededOptions make a view or a time series what it is.
var neededOptions = []string{"viewOn", "pipeline", "timeseries"}

// CreateOptions are the options in the form that create takes today. With bare the
// result holds only what makes a view or a time series.
func (s *Space) CreateOptions(bare bool) []bson.RawElement {
	elems, err := s.Options.Elements()
	if err != nil || len(s.Options) == 0 {
		return nil
	}
	return slices.DeleteFunc(elems, func(e bson.RawElement) bool {
		return slices.Contains(staleOptions, e.Key()) || e.Value().Type == bson.TypeNull ||
			bare && !slices.Contains(neededOptions, e.Key())
	})
}

// Collation is the collection's default collation, nil without one.
func (s *Space) Collation() bson.Raw {
	c, _ := s.Options.Lookup("collation").DocumentOK()
	return c
}

// Scope is what a comparison of two definitions leaves out.
type Scope struct{ NoOptions, NoIndexes bool }

// Difference says in what have is not as s, empty if it is. It leaves out what differs
// between two servers that hold the same: UUID, index versions, the index on _id, and
// spellings that Clean changes.
func (s *Space) Difference(have *Space, scope Scope) string {
	if s.Type != have.Type {
		return fmt.Sprintf("it is a %s, the dump has a %s", have.Type, s.Type)
	}
	if want, got := sorted(s.CreateOptions(scope.NoOptions)),
		sorted(have.CreateOptions(scope.NoOptions)); !bytes.Equal(want, got) {
		return fmt.Sprintf("its options are %s, the dump has %s", bson.Raw(got), bson.Raw(want))
	}
	if scope.NoIndexes || s.Type == TypeView {
		return ""
	}
	wants, gots := s.comparableIndexes(), have.comparableIndexes()
	for _, name := range slices.Sorted(mapsKeys(wants, gots)) {
		want, got := wants[name], gots[name]
		switch {
		case got == nil:
			return fmt.Sprintf("it lacks the index %q", name)
		case want == nil:
			return fmt.Sprintf("it has the index %q, the dump has not", name)
		}
		if _, err := want.LookupErr("textIndexVersion"); err != nil { // version 1 cannot be created today
			got = Without(got, "textIndexVersion")
		}
		if !bytes.Equal(want, got) {
			return fmt.Sprintf("its index %q is %s, the dump has %s", name, got, want)
		}
	}
	return ""
}

func mapsKeys(maps ...map[string]bson.Raw) func(func(string) bool) {
	all := map[string]bool{}
	for _, m := range maps {
		for k := range m {
			all[k] = true
		}
	}
	return func(yield func(string) bool) {
		for k := range all {
			if !yield(k) {
				return
			}
		}
	}
}

// sorted joins elements in order of name. What is nested stays as it is, because there
// the order means something (index keys).
func sorted(elems []bson.RawElement) bson.Raw {
	elems = slices.Clone(elems)
	slices.SortStableFunc(elems, func(a, b bson.RawElement) int {
		return strings.Compare(a.Key(),
			b.Key())
	})
	return join(elems)
}

// Without copies a document leaving out some of its fields.
func Without(d bson.Raw, fields ...string) bson.Raw {
	elems, err := d.Elements()
	if err != nil || len(d) == 0 {
		return nil
	}
	return join(slices.DeleteFunc(elems, func(e bson.RawElement) bool {
		return slices.Contains(fields,
			e.Key())
	}))
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

func emptyDoc(d bson.Raw) bool { return len(d) <= 5 }

func asInt64(v bson.RawValue) (int64, bool) {
	if f, ok := v.DoubleOK(); ok {
		return int64(f), true
	}
	return v.AsInt64OK()
}
