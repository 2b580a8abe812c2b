package backup

import (
	"bytes"
	"context"
	"errors"
	"hash/crc64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/x/bsonx/bsoncore"
)

func rawElements(elems []bsoncore.Element) []bson.RawElement {
	var out []bson.RawElement
	for _, e := range elems {
		out = append(out, bson.RawElement(e))
	}
	return out
}

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
		if got := mongoFile(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	// The whole of such a name is compared with mongodump's own in the
	// interoperability tests.
	if got := mongoFile(strings.Repeat("x", 239)); len(got) != 238 || !strings.HasPrefix(got, strings.Repeat("x", 208)+"%24") {
		t.Errorf("%q", got)
	}
}

func TestMetadata(t *testing.T) {
	t.Parallel()
	s := &mongoSpace{DB: "db", Name: "c", Type: typeCollection, UUID: strings.Repeat("0a", 16),
		Options: raw(t, bson.D{{Key: "capped", Value: true}, {Key: "size", Value: int64(5)}, {Key: "a", Value: "<&>"}}),
		Indexes: []bson.Raw{raw(t, bson.D{{Key: "v", Value: int32(2)}, {Key: "key", Value: bson.D{{Key: "_id", Value: int32(1)}}}, {Key: "name", Value: "_id_"}})}}
	text, err := s.metadata()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"options":{"capped":true,"size":{"$numberLong":"5"},"a":"<&>"},"indexes":[{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"}],"uuid":"` +
		s.UUID + `","collectionName":"c","type":"collection"}`
	if string(text) != want {
		t.Errorf("%s\nwant %s", text, want)
	}
	back, err := parseMetadata("db", text)
	if err != nil || !bytes.Equal(back.Options, s.Options) || !bytes.Equal(back.Indexes[0], s.Indexes[0]) {
		t.Errorf("%+v %v", back, err)
	}
	// Names that Extended JSON takes for types cannot be written; mongodump stops as well.
	s.Options = raw(t, bson.D{{Key: "validator", Value: bson.D{{Key: "a", Value: bson.D{{Key: "$date", Value: "x"}}}}}})
	if _, err := s.metadata(); err == nil {
		t.Error("metadata that cannot be read back was written")
	}
	for _, bad := range []string{
		``, `{`, `[]`, `{"indexes":5}`, `{"indexes":[5]}`, `{}`, `{"indexes":[],"uuid":"xy"}`, `{"indexes":[],"uuid":"00"}`, `{"indexes":[],"type":"other"}`,
		`{"indexes":[{}]}`, `{"indexes":[{"name":"a"}]}`, `{"indexes":[],"options":5}`, `{"indexes":[],"collectionName":5}`,
	} {
		if _, err := parseMetadata("db", []byte(bad)); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func FuzzMetadata(f *testing.F) {
	f.Add([]byte(`{"options":{"capped":true,"size":{"$numberLong":"5"}},"indexes":[{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"}],"uuid":"","collectionName":"c","type":"collection"}`))
	f.Add([]byte(`{"indexes":[],"options":{"viewOn":"a","pipeline":[]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseMetadata("db", data)
		if err != nil {
			return
		}
		_, _ = s.comparable()
		_ = s.removals()
		text, err := s.metadata()
		if err != nil {
			return
		}
		again, err := parseMetadata("db", text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if !bytes.Equal(again.Options, s.Options) && !emptyDoc(s.Options) || len(again.Indexes) != len(s.Indexes) || again.Name != s.Name || again.Type != s.Type {
			t.Errorf("%+v became %+v", s, again)
		}
	})
}

// buildArchive writes what mongodump --archive writes, in two interleaved
// blocks for the first collection.
func buildArchive(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	b.Write(archiveMagic)
	end := []byte{0xff, 0xff, 0xff, 0xff}
	b.Write(raw(t, bson.D{{Key: "concurrent_collections", Value: int32(4)}, {Key: "version", Value: "0.1"}, {Key: "server_version", Value: "7.0.14"}, {Key: "tool_version", Value: "x"}}))
	for _, name := range []string{"a", "b"} {
		s := &mongoSpace{DB: "db", Name: name, Type: typeCollection}
		text, err := s.metadata()
		if err != nil {
			t.Fatal(err)
		}
		b.Write(raw(t, bson.D{{Key: "db", Value: "db"}, {Key: "collection", Value: name}, {Key: "metadata", Value: string(text)}, {Key: "size", Value: int64(0)}, {Key: "type", Value: "collection"}}))
	}
	b.Write(end)
	crc := map[string]uint64{}
	block := func(name string, eof bool, docs ...bson.Raw) {
		head := bson.D{{Key: "db", Value: "db"}, {Key: "collection", Value: name}, {Key: "EOF", Value: eof}, {Key: "CRC", Value: int64(0)}}
		if eof {
			head[3].Value = int64(crc[name])
		}
		b.Write(raw(t, head))
		for _, d := range docs {
			crc[name] = crc64.Update(crc[name], archiveTable, d)
			b.Write(d)
		}
		b.Write(end)
	}
	block("a", false, raw(t, bson.D{{Key: "_id", Value: 1}, {Key: "s", Value: "text"}}))
	block("b", false, raw(t, bson.D{{Key: "_id", Value: 2}}))
	block("a", false, raw(t, bson.D{{Key: "_id", Value: 3}}))
	block("a", true)
	block("b", true)
	return b.Bytes()
}

func openBytes(t testing.TB, data []byte) (*archive, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return openArchive(t.Context(), path)
}

// Every cut and every changed byte of the documents is found before anything
// is written; mongorestore finds them when all is inserted.
func TestArchiveDamage(t *testing.T) {
	t.Parallel()
	data := buildArchive(t)
	a, err := openBytes(t, data)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.all) != 2 || a.all[0].count != 2 || a.all[1].count != 1 || a.version != "7.0.14" {
		t.Errorf("%+v %+v", a.all[0], a.all[1])
	}
	for n := range len(data) {
		if _, err := openBytes(t, data[:n]); err == nil {
			t.Errorf("the first %d of %d bytes are accepted", n, len(data))
		}
	}
	// The prelude has no checksum, so that damage there may go unseen.
	blocks := bytes.Index(data, []byte{0xff, 0xff, 0xff, 0xff}) + 4
	for n := blocks; n < len(data); n++ {
		bad := bytes.Clone(data)
		bad[n] ^= 1
		if _, err := openBytes(t, bad); err == nil && !bytes.Contains(data[n-20:min(n+20, len(data))], []byte("EOF")) {
			t.Errorf("byte %d changed: accepted", n)
		}
	}
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write(data)
	_ = w.Close()
	if _, err := openBytes(t, z.Bytes()); err != nil {
		t.Error(err)
	}
	for n := range z.Len() {
		if _, err := openBytes(t, z.Bytes()[:n]); err == nil {
			t.Errorf("the first %d compressed bytes are accepted", n)
		}
	}
}

// A collection whose restore stops early does not hold up the others.
func TestArchiveFeed(t *testing.T) {
	t.Parallel()
	a, err := openBytes(t, buildArchive(t))
	if err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	err = a.feed(t.Context(), 1, a.all, func(ctx context.Context, d *dumped, read readDocs) error {
		if d.Name == "a" {
			return stop
		}
		return read(func([]byte) error { return nil })
	})
	if !errors.Is(err, stop) {
		t.Errorf("error %v", err)
	}
	n := 0
	err = a.feed(t.Context(), 1, a.all[1:], func(ctx context.Context, d *dumped, read readDocs) error {
		return read(func(doc []byte) error {
			n++
			return checkBSON(doc)
		})
	})
	if err != nil || n != 1 {
		t.Errorf("%d documents, %v", n, err)
	}
}

func FuzzArchive(f *testing.F) {
	data := buildArchive(f)
	f.Add(data)
	f.Add(data[:40])
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &archiveReader{docs: newBSONReader(bytes.NewReader(data)), state: map[string]archiveState{}, crc: map[string]uint64{}}
		a := &archive{byData: map[string]*dumped{}, users: map[string]int64{}}
		if a.takePrelude(r) != nil {
			return
		}
		_ = r.blocks(func(ns string, doc []byte) error { return nil }, nil)
	})
}
