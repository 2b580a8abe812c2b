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

// Space is one collection, view or time series, as a metadata file describes it.
type Space struct {
	DB, Name string
	Type     string
	UUID     string     // 32 hex digits; empty if the server has none
	Options  bson.Raw   // nil: none
	Indexes  []bson.Raw // _id_ included, in the server's order
}

// Namespace returns "database.collection".
func (s *Space) Namespace() string { return s.DB + "." + s.Name }

// DataName returns the name of the collection with the documents. A time series keeps its buckets
// in a collection of their own (up to MongoDB 8.2).
func (s *Space) DataName() string {
	if s.Type == TypeTimeseries {
		return "system.buckets." + s.Name
	}
	return s.Name
}

// IndexNames returns the names of the indexes, for the manifest.
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

// Validated reports whether the server validates documents.
func (s *Space) Validated() bool {
	_, err := s.Options.LookupErr("validator")
	return err == nil
}

// ViewOn returns the collection or view that a view reads.
func (s *Space) ViewOn() string {
	on, _ := s.Options.Lookup("viewOn").StringValueOK()
	return on
}

// TTL is a rule of the server: it removes documents once the date in the field is this many seconds
// old.
type TTL struct {
	field   []string
	seconds int64
}

// Removals returns the rules by which the server removes documents itself: TTL indexes, and the age
// limits of clustered collections and time series.
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

// Expires reports whether the server removes a document before a moment. In an array, the earliest
// date counts.
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

// staleOptions are collection options that servers no longer accept, or that mean nothing since
// MongoDB 4.0. Dumps have them because mongod 3.x listed them.
var staleOptions = []string{"autoIndexId", "recordIdsReplicated", "uuid", "flags", "temp", "create",
	"$nExtents"}

// neededOptions define a view or a time series.
var neededOptions = []string{"viewOn", "pipeline", "timeseries"}

// CreateOptions returns the options in the form for create. With bare, it returns only those that
// define a view or a time series.
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

// Collation returns the collection's default collation, or nil.
func (s *Space) Collation() bson.Raw {
	c, _ := s.Options.Lookup("collation").DocumentOK()
	return c
}

// Scope sets what a comparison of two definitions leaves out.
type Scope struct{ NoOptions, NoIndexes bool }

// Difference returns a difference between have and s, or "". It ignores differences between
// servers: UUID, index versions, the index on _id, and spellings that Clean changes.
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
			return fmt.Sprintf("it has the index %q, the dump does not", name)
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

// sorted joins elements in the order of their names. It does not sort nested documents, because the
// order of index keys matters.
func sorted(elems []bson.RawElement) bson.Raw {
	elems = slices.Clone(elems)
	slices.SortStableFunc(elems, func(a, b bson.RawElement) int {
		return strings.Compare(a.Key(),
			b.Key())
	})
	return join(elems)
}

// Without returns a copy of a document without some of its fields.
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
