package mongodb_test

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
	"go.mongodb.org/mongo-driver/x/bsonx/bsoncore"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb"
	mongolab "example.com/tykupgrade/internal/lab/mongo"
)

// mongoServer runs the fake server for the test.
func mongoServer(t testing.TB, o mongolab.Options) *mongolab.Server {
	t.Helper()
	s, err := mongolab.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func mongoClient(t testing.TB, s *mongolab.Server) *mongo.Client {
	t.Helper()
	c, err := mongo.Connect(t.Context(), options.Client().ApplyURI(s.URI()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Disconnect(t.Context()) })
	return c
}

func doc(t testing.TB, d any) bson.Raw {
	t.Helper()
	raw, err := bson.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// mongoRun executes a command and fails the test where the server refuses it.
func mongoRun(t testing.TB, c *mongo.Client, db string, command bson.D) bson.Raw {
	t.Helper()
	raw, err := c.Database(db).RunCommand(t.Context(), command).Raw()
	if err != nil {
		t.Fatalf("%v: %v", command, err)
	}
	return raw
}

// everyType is a document with every BSON type and the values that programs
// tend to change on the way.
func everyType() bson.Raw {
	at, b := bsoncore.AppendDocumentStart(nil)
	b = bsoncore.AppendObjectIDElement(b, "_id", primitive.ObjectID{1, 2, 3})
	b = bsoncore.AppendDoubleElement(b, "negative zero", math.Copysign(0, -1))
	b = bsoncore.AppendDoubleElement(b, "nan with payload",
		math.Float64frombits(0x7FF8_DEAD_BEEF_0001))
	b = bsoncore.AppendDoubleElement(b, "signalling nan", math.Float64frombits(0xFFF0_0000_0000_0001))
	b = bsoncore.AppendDoubleElement(b, "infinity", math.Inf(-1))
	b = bsoncore.AppendStringElement(b, "string", "a\x00b ü \u2028")
	b = bsoncore.AppendStringElement(b, "not utf-8", "\xff\xfe")
	b = bsoncore.AppendDocumentElement(b, "document", bsoncore.BuildDocument(nil,
		bsoncore.AppendInt32Element(nil, "a", 1)))
	b = bsoncore.AppendArrayElement(b, "array", bsoncore.BuildArray(nil,
		bsoncore.Value{Type: bson.TypeInt32, Data: []byte{1, 0, 0, 0}}))
	for _, sub := range []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 0x80} {
		b = bsoncore.AppendBinaryElement(b, fmt.Sprintf("binary %d", sub), sub, []byte{sub, 1, 2})
	}
	b = bsoncore.AppendUndefinedElement(b, "undefined")
	b = bsoncore.AppendBooleanElement(b, "true", true)
	b = bsoncore.AppendBooleanElement(b, "false", false)
	b = bsoncore.AppendDateTimeElement(b, "before 1970", -1)
	b = bsoncore.AppendDateTimeElement(b, "far", math.MaxInt64)
	b = bsoncore.AppendNullElement(b, "null")
	b = bsoncore.AppendRegexElement(b, "regex", "^a/b", "imsx")
	b = bsoncore.AppendDBPointerElement(b, "pointer", "db.c", primitive.ObjectID{9})
	b = bsoncore.AppendJavaScriptElement(b, "code", "function() {}")
	b = bsoncore.AppendSymbolElement(b, "symbol", "sym")
	b = bsoncore.AppendCodeWithScopeElement(b, "scope", "f()", bsoncore.BuildDocument(nil,
		bsoncore.AppendInt64Element(nil, "x", 1)))
	b = bsoncore.AppendInt32Element(b, "int32", math.MinInt32)
	b = bsoncore.AppendTimestampElement(b, "timestamp", 1, 2)
	b = bsoncore.AppendTimestampElement(b, "zero timestamp", 0, 0)
	b = bsoncore.AppendInt64Element(b, "int64", math.MaxInt64)
	b = bsoncore.AppendDecimal128Element(b, "decimal", primitive.NewDecimal128(0x3040_0000_0000_0000,
		100))
	b = bsoncore.AppendDecimal128Element(b, "decimal nan",
		primitive.NewDecimal128(0x7C00_0000_0000_0000, 5))
	b = bsoncore.AppendMinKeyElement(b, "min")
	b = bsoncore.AppendMaxKeyElement(b, "max")
	b = bsoncore.AppendInt32Element(b, "twice", 1)
	b = bsoncore.AppendStringElement(b, "twice", "the same name again")
	b = bsoncore.AppendInt32Element(b, "", 1)
	b = bsoncore.AppendInt32Element(b, "$dollar.dot", 1)
	b, _ = bsoncore.AppendDocumentEnd(b, at)
	return bson.Raw(b)
}

func nested(levels int) bson.Raw {
	d := bsoncore.BuildDocument(nil, bsoncore.AppendInt32Element(nil, "end", 1))
	for range levels {
		d = bsoncore.BuildDocument(nil, bsoncore.AppendDocumentElement(nil, "d", d))
	}
	return bson.Raw(bsoncore.BuildDocument(nil, bsoncore.AppendStringElement(nil, "_id", "nested"),
		bsoncore.AppendDocumentElement(nil, "d", d)))
}

// awkward are collection names that need escaping, shortening or luck.
var awkward = []string{"a b", "a/b", "a%b", "a:b", "ü", "a+b", "line\nbreak", "quote\"'",
	"a.metadata.json", "prelude", "CASE", "case", "..x",
	strings.Repeat("long", 58), strings.Repeat("ü", 100)}

// fillMongo gives a server a database with all that a dump has to keep.
func fillMongo(t testing.TB, s *mongolab.Server, db string) {
	t.Helper()
	c := mongoClient(t, s)
	s.Insert(db, "types", everyType(), nested(150))
	for i, n := range awkward {
		s.Insert(db, n, doc(t, bson.D{{Key: "_id", Value: i}}))
	}
	mongoRun(t, c, db, bson.D{{Key: "create", Value: "empty"}})
	mongoRun(t, c, db, bson.D{{Key: "create", Value: "capped"}, {Key: "capped", Value: true},
		{Key: "size", Value: 4096}, {Key: "max", Value: 3}})
	for i := range 5 {
		s.Insert(db, "capped", doc(t, bson.D{{Key: "_id", Value: 9 - i}}))
	}
	collation := bson.D{{Key: "locale", Value: "de"}, {Key: "strength", Value: 2}}
	mongoRun(t, c, db, bson.D{{Key: "create", Value: "collated"}, {Key: "collation",
		Value: collation}})
	mongoRun(t, c, db, bson.D{{Key: "create", Value: "validated"}, {Key: "validator",
		Value: bson.D{{Key: "$jsonSchema", Value: bson.D{{Key: "required", Value: bson.A{"name"}}}}}},
		{Key: "validationLevel", Value: "strict"}, {Key: "validationAction", Value: "error"}})
	s.Insert(db, "validated", doc(t, bson.D{{Key: "_id", Value: 1}, {Key: "name", Value: "x"}}))
	mongoRun(t, c, db, bson.D{{Key: "create", Value: "clustered"}, {Key: "clusteredIndex",
		Value: bson.D{{Key: "key", Value: bson.D{{Key: "_id", Value: 1}}}, {Key: "unique", Value: true}}},
		{Key: "expireAfterSeconds", Value: int64(3600)}})
	mongoRun(t, c, db, bson.D{{Key: "create", Value: "images"}, {Key: "changeStreamPreAndPostImages",
		Value: bson.D{{Key: "enabled", Value: true}}}})
	mongoRun(t, c, db, bson.D{{Key: "create", Value: "z view"}, {Key: "viewOn", Value: "types"},
		{Key: "pipeline", Value: bson.A{bson.D{{Key: "$match", Value: bson.D{{Key: "a",
			Value: bson.D{{Key: "$regex", Value: "^a"}}}}}}}}, {Key: "collation", Value: collation}})
	mongoRun(t, c, db, bson.D{{Key: "create", Value: "a view of a view"}, {Key: "viewOn",
		Value: "z view"}, {Key: "pipeline", Value: bson.A{}}})
	mongoRun(t, c, db, bson.D{{Key: "create", Value: "weather"}, {Key: "timeseries",
		Value: bson.D{{Key: "timeField", Value: "at"}, {Key: "metaField", Value: "where"},
			{Key: "granularity", Value: "hours"}}}})
	s.Insert(db, "system.buckets.weather", doc(t, bson.D{{Key: "_id", Value: primitive.ObjectID{5}},
		{Key: "control", Value: bson.D{{Key: "version", Value: 1}}}, {Key: "meta", Value: "roof"},
		{Key: "data", Value: bson.D{{Key: "at", Value: bson.D{{Key: "0", Value: time.UnixMilli(1)}}}}}}))
	s.Insert(db, "system.js", doc(t, bson.D{{Key: "_id", Value: "f"}, {Key: "value",
		Value: primitive.JavaScript("function() {}")}}))
	s.Insert(db, "system.profile", doc(t, bson.D{{Key: "_id", Value: 1}}))
	for i := range 300 {
		s.Insert(db, "indexed", doc(t, bson.D{{Key: "_id", Value: primitive.ObjectID{7, byte(i),
			byte(i >> 8)}}, {Key: "n", Value: i}, {Key: "expireAt", Value: time.Date(2999, 1, 1, 0, 0, 0, 0,
			time.UTC)}}))
	}
	mongoRun(t, c, db, bson.D{{Key: "createIndexes", Value: "indexed"}, {Key: "indexes", Value: bson.A{
		bson.D{{Key: "key", Value: bson.D{{Key: "z", Value: 1}, {Key: "a", Value: -1}}}, {Key: "name",
			Value: "compound"}, {Key: "hidden", Value: true}},
		bson.D{{Key: "key", Value: bson.D{{Key: "n", Value: 1.0}}}, {Key: "name", Value: "unique"},
			{Key: "unique", Value: true}, {Key: "sparse", Value: true}},
		bson.D{{Key: "key", Value: bson.D{{Key: "expireAt", Value: 1}}}, {Key: "name", Value: "ttl"},
			{Key: "expireAfterSeconds", Value: 0}},
		bson.D{{Key: "key", Value: bson.D{{Key: "p", Value: 1}}}, {Key: "name", Value: "partial"},
			{Key: "partialFilterExpression", Value: bson.D{{Key: "p", Value: bson.D{{Key: "$gt",
				Value: int64(5)}}}}}},
		bson.D{{Key: "key", Value: bson.D{{Key: "t", Value: "text"}}}, {Key: "name", Value: "text"},
			{Key: "weights", Value: bson.D{{Key: "t", Value: 3}}}, {Key: "default_language",
				Value: "german"}, {Key: "textIndexVersion", Value: 3}},
		bson.D{{Key: "key", Value: bson.D{{Key: "g", Value: "2dsphere"}}}, {Key: "name", Value: "geo"}},
		bson.D{{Key: "key", Value: bson.D{{Key: "h", Value: "hashed"}}}, {Key: "name", Value: "hashed"}},
		bson.D{{Key: "key", Value: bson.D{{Key: "$**", Value: 1}}}, {Key: "name", Value: "wildcard"},
			{Key: "wildcardProjection", Value: bson.D{{Key: "a", Value: 1}}}},
		bson.D{{Key: "key", Value: bson.D{{Key: "c", Value: 1}}}, {Key: "name", Value: "collated"},
			{Key: "collation", Value: collation}},
		bson.D{{Key: "key", Value: bson.D{{Key: "old", Value: 1}}}, {Key: "name", Value: "version one"},
			{Key: "v", Value: 1}},
	}}})
	mongoRun(t, c, db, bson.D{{Key: "createIndexes", Value: "collated"}, {Key: "indexes",
		Value: bson.A{
			bson.D{{Key: "key", Value: bson.D{{Key: "i", Value: 1}}}, {Key: "name", Value: "inherits"}},
			bson.D{{Key: "key", Value: bson.D{{Key: "s", Value: 1}}}, {Key: "name", Value: "simple"},
				{Key: "collation", Value: bson.D{{Key: "locale", Value: "simple"}}}},
		}}})
}

func gunzip(t testing.TB, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(z); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Everything that a server holds is in the files byte for byte, and is on
// another server after a restore.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	from := mongoServer(t, mongolab.Options{})
	fillMongo(t, from, "tyk_analytics")
	for _, plain := range []bool{false, true} {
		for _, version := range []string{"7.0.14", "4.4.29"} {
			t.Run(fmt.Sprintf("plain %v to %s", plain, version), func(t *testing.T) {
				t.Parallel()
				src := &mongodb.Source{Server: mongodb.Server{URI: from.URI()}, Plain: plain}
				set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, src)
				if err != nil {
					t.Fatal(err)
				}
				var details mongodb.Details
				if err := set.Components[0].DecodeDetails(&details); err != nil {
					t.Fatal(err)
				}
				for _, c := range details.Collections {
					if c.Type == "view" {
						continue
					}
					name := c.Name
					if c.Type == "timeseries" {
						name = "system.buckets." + c.Name
					}
					var want []byte
					docs := from.Documents(c.DB, name)
					for _, d := range docs {
						want = append(want, d...)
					}
					file := filepath.Join(set.Dir, "mongo", c.Data)
					var got []byte
					if plain {
						if got, err = os.ReadFile(file); err != nil {
							t.Fatal(err)
						}
					} else {
						got = gunzip(t, file)
					}
					if !bytes.Equal(got, want) || c.Count != int64(len(docs)) || c.Bytes != int64(len(want)) {
						t.Errorf("%s: %d bytes, want %d; manifest %+v", c.Name, len(got), len(want), c)
					}
				}
				to := mongoServer(t, mongolab.Options{Version: version})
				target := &mongodb.Restore{Server: mongodb.Server{URI: to.URI()}}
				report, err := set.Restore(t.Context(), backup.RestoreOptions{}, target)
				if err != nil {
					t.Fatalf("%v\n%+v", err, report)
				}
				if report.Components[0].State != backup.StateVerified {
					t.Errorf("report %+v", report)
				}
				sameServers(t, from, to, "tyk_analytics", "tyk_analytics")
				if n := from.Cursors() + to.Cursors(); n != 0 {
					t.Errorf("%d cursors are open", n)
				}
			})
		}
	}
}

// sameServers compares the documents of two servers byte for byte; system
// collections that no dump holds are left out.
func sameServers(t *testing.T, a, b *mongolab.Server, dbA, dbB string) {
	t.Helper()
	names := func(s *mongolab.Server, db string) (out []string) {
		for _, n := range s.Collections(db) {
			if n != "system.profile" {
				out = append(out, n)
			}
		}
		return out
	}
	if x, y := names(a, dbA), names(b, dbB); fmt.Sprint(x) != fmt.Sprint(y) {
		t.Errorf("collections %q and %q", x, y)
	}
	for _, n := range names(a, dbA) {
		if n == "system.views" {
			continue
		}
		x, y := a.Documents(dbA, n), b.Documents(dbB, n)
		count := map[string]int{}
		for _, d := range x {
			count[string(d)]++
		}
		for _, d := range y {
			count[string(d)]--
		}
		for d, c := range count {
			if c != 0 {
				t.Errorf("%s: %+d of %v", n, c, bson.Raw(d))
				break
			}
		}
	}
	ca, cb := mongoClient(t, a), mongoClient(t, b)
	for _, n := range names(a, dbA) {
		x, y := definition(t, ca, dbA, n), definition(t, cb, dbB, n)
		if x != y {
			t.Errorf("%s:\n%s\n%s", n, x, y)
		}
	}
}

// definition is what list commands say of a collection, but its UUID.
func definition(t *testing.T, c *mongo.Client, db, name string) string {
	t.Helper()
	list := mongoRun(t, c, db, bson.D{{Key: "listCollections", Value: 1}, {Key: "filter",
		Value: bson.D{{Key: "name", Value: name}}}})
	info := list.Lookup("cursor", "firstBatch").Array().Index(0).Value().Document()
	text := fmt.Sprint(info.Lookup("type"), info.Lookup("options"))
	if kind := info.Lookup("type").StringValue(); kind == "view" {
		return text
	}
	indexes := mongoRun(t, c, db, bson.D{{Key: "listIndexes", Value: name}})
	return text + strings.ReplaceAll(fmt.Sprint(indexes.Lookup("cursor", "firstBatch")),
		`"v": {"$numberInt":"1"}`, `"v": {"$numberInt":"2"}`)
}
