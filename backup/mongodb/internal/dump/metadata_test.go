package dump

import (
	"bytes"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/bson"
)

func raw(t testing.TB, d bson.D) bson.Raw {
	t.Helper()
	b, err := bson.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMongoFileNames(t *testing.T) {
	t.Parallel()
	// Seen with mongodump 100.18.
	for name, want := range map[string]string{
		"plain": "plain", "a b": "a+b", "a/b": "a%2Fb", "a%b": "a%25b", "a:b": "a%3Ab", "ü": "%C3%BC",
		strings.Repeat("x", 238): strings.Repeat("x", 238),
	} {
		if got := FileName(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	// The whole of such a name is compared with mongodump's own in the
	// interoperability tests.
	if got := FileName(strings.Repeat("x", 239)); len(got) != 238 || !strings.HasPrefix(got,
		strings.Repeat("x", 208)+"%24") {
		t.Errorf("%q", got)
	}
}

func TestMetadata(t *testing.T) {
	t.Parallel()
	s := &Space{DB: "db", Name: "c", Type: TypeCollection, UUID: strings.Repeat("0a", 16),
		Options: raw(t, bson.D{{Key: "capped", Value: true}, {Key: "size", Value: int64(5)},
			{Key: "a", Value: "<&>"}}),
		Indexes: []bson.Raw{raw(t, bson.D{{Key: "v", Value: int32(2)}, {Key: "key",
			Value: bson.D{{Key: "_id", Value: int32(1)}}}, {Key: "name", Value: "_id_"}})}}
	text, err := s.Metadata()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"options":{"capped":true,"size":{"$numberLong":"5"},"a":"<&>"},"indexes":[{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"}],"uuid":"` +
		s.UUID + `","collectionName":"c","type":"collection"}`
	if string(text) != want {
		t.Errorf("%s\nwant %s", text, want)
	}
	back, err := ParseMetadata("db", text)
	if err != nil || !bytes.Equal(back.Options, s.Options) || !bytes.Equal(back.Indexes[0],
		s.Indexes[0]) {
		t.Errorf("%+v %v", back, err)
	}
	// Names that Extended JSON takes for types cannot be written; mongodump stops as well.
	s.Options = raw(t, bson.D{{Key: "validator", Value: bson.D{{Key: "a", Value: bson.D{{Key: "$date",
		Value: "x"}}}}}})
	if _, err := s.Metadata(); err == nil {
		t.Error("metadata that cannot be read back was written")
	}
	for _, bad := range []string{
		``, `{`, `[]`, `{"indexes":5}`, `{"indexes":[5]}`, `{}`, `{"indexes":[],"uuid":"xy"}`,
		`{"indexes":[],"uuid":"00"}`, `{"indexes":[],"type":"other"}`,
		`{"indexes":[{}]}`, `{"indexes":[{"name":"a"}]}`, `{"indexes":[],"options":5}`,
		`{"indexes":[],"collectionName":5}`,
	} {
		if _, err := ParseMetadata("db", []byte(bad)); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func FuzzMetadata(f *testing.F) {
	f.Add([]byte(`{"options":{"capped":true,"size":{"$numberLong":"5"}},"indexes":[{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"}],"uuid":"","collectionName":"c","type":"collection"}`))
	f.Add([]byte(`{"indexes":[],"options":{"viewOn":"a","pipeline":[]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseMetadata("db", data)
		if err != nil {
			return
		}
		if text := s.Difference(s, Scope{}); text != "" {
			t.Errorf("%s differs from itself: %s", data, text)
		}
		_ = s.Removals()
		text, err := s.Metadata()
		if err != nil {
			return
		}
		again, err := ParseMetadata("db", text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if !bytes.Equal(again.Options, s.Options) && !emptyDoc(s.Options) ||
			len(again.Indexes) != len(s.Indexes) || again.Name != s.Name || again.Type != s.Type {
			t.Errorf("%+v became %+v", s, again)
		}
	})
}
