package dump

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/big"
	"math/rand/v2"
	"testing"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"
	"go.mongodb.org/mongo-driver/x/bsonx/bsoncore"
)

func rawElements(elems []bsoncore.Element) []bson.RawElement {
	var out []bson.RawElement
	for _, e := range elems {
		out = append(out, bson.RawElement(e))
	}
	return out
}

// sample has a value of every shape that the walk knows.
func sample() []byte {
	inner := bsoncore.BuildDocument(nil, bsoncore.AppendInt32Element(nil, "a", 1))
	return bsoncore.BuildDocument(nil,
		bsoncore.AppendDoubleElement(nil, "double", 1), bsoncore.AppendStringElement(nil, "string",
			"text"),
		bsoncore.AppendDocumentElement(nil, "document", inner), bsoncore.AppendArrayElement(nil, "array",
			inner),
		bsoncore.AppendBinaryElement(nil, "binary", 2, []byte{1, 2}), bsoncore.AppendUndefinedElement(nil,
			"undefined"),
		bsoncore.AppendObjectIDElement(nil, "id", primitive.ObjectID{1}),
		bsoncore.AppendBooleanElement(nil, "boolean", true),
		bsoncore.AppendDateTimeElement(nil, "date", 1), bsoncore.AppendNullElement(nil, "null"),
		bsoncore.AppendRegexElement(nil, "regex", "a", "i"),
		bsoncore.AppendDBPointerElement(nil, "pointer", "a.b", primitive.ObjectID{1}),
		bsoncore.AppendJavaScriptElement(nil, "code", "f()"),
		bsoncore.AppendSymbolElement(nil, "symbol", "s"), bsoncore.AppendCodeWithScopeElement(nil,
			"scope", "f()", inner),
		bsoncore.AppendInt32Element(nil, "int32", 1), bsoncore.AppendTimestampElement(nil, "timestamp", 1,
			1),
		bsoncore.AppendInt64Element(nil, "int64", 1), bsoncore.AppendDecimal128Element(nil, "decimal",
			primitive.NewDecimal128(1, 1)),
		bsoncore.AppendMinKeyElement(nil, "min"), bsoncore.AppendMaxKeyElement(nil, "max"))
}

func TestCheckBSON(t *testing.T) {
	t.Parallel()
	deep := func(levels int) []byte {
		d := bsoncore.BuildDocument(nil)
		for range levels {
			d = bsoncore.BuildDocument(nil, bsoncore.AppendDocumentElement(nil, "d", d))
		}
		return d
	}
	for _, good := range [][]byte{sample(), bsoncore.BuildDocument(nil), deep(maxDepth)} {
		if err := Check(good); err != nil {
			t.Error(err)
		}
	}
	raw := func(elems ...byte) []byte {
		d := append([]byte{byte(len(elems) + 5), 0, 0, 0}, elems...)
		return append(d, 0)
	}
	for name, bad := range map[string][]byte{
		"empty":                   {},
		"length too short":        {4, 0, 0, 0, 0},
		"length too long":         {6, 0, 0, 0, 0},
		"no end":                  {5, 0, 0, 0, 1},
		"name without end":        raw(0x0A, 'a'),
		"unknown type":            raw(0x14, 'a', 0),
		"boolean of two":          raw(0x08, 'a', 0, 2),
		"double too short":        raw(0x01, 'a', 0, 1, 2),
		"string too long":         raw(0x02, 'a', 0, 9, 0, 0, 0, 'x', 0),
		"string of negative size": raw(0x02, 'a', 0, 0xff, 0xff, 0xff, 0xff, 'x', 0),
		"string of size zero":     raw(0x02, 'a', 0, 0, 0, 0, 0),
		"string without its zero": raw(0x02, 'a', 0, 1, 0, 0, 0, 'x'),
		"binary too long":         raw(0x05, 'a', 0, 9, 0, 0, 0, 0, 1),
		"regex with one string":   raw(0x0B, 'a', 0, 'x', 0, 'y'),
		"document of size four":   raw(0x03, 'a', 0, 4, 0, 0, 0),
		"document with bad inner": raw(0x03, 'a', 0, 6, 0, 0, 0, 1, 0),
		"scope too short":         raw(0x0F, 'a', 0, 13, 0, 0, 0, 1, 0, 0, 0, 0, 5, 0, 0, 0, 0),
		"too deep":                deep(maxDepth + 1),
	} {
		if err := Check(bad); !errors.Is(err, ErrBSON) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzCheckBSON(f *testing.F) {
	f.Add(sample())
	f.Add([]byte{5, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		if Check(data) != nil {
			return
		}
		// What we call whole, the driver can walk as well.
		elems, err := bsoncore.Document(data).Elements()
		if err != nil {
			t.Fatalf("the driver: %v", err)
		}
		if got := join(rawElements(elems)); !bytes.Equal(got, data) {
			t.Errorf("%x became %x", data, got)
		}
	})
}

func FuzzBSONReader(f *testing.F) {
	f.Add(append(sample(), sample()...))
	f.Add([]byte{5, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReader(bytes.NewReader(data))
		var back []byte
		for {
			doc, err := r.Next()
			if err != nil {
				if err == io.EOF && !bytes.Equal(back, data) {
					t.Errorf("read %x of %x", back, data)
				}
				return
			}
			back = append(back, doc...)
		}
	})
}

// Documents that fit into the buffer and others are read one after the other.
func TestBSONReaderSizes(t *testing.T) {
	t.Parallel()
	large := bsoncore.BuildDocument(nil, bsoncore.AppendBinaryElement(nil, "b", 0, make([]byte, 300<<10)))
	docs := [][]byte{sample(), large, sample(), large, large, sample()}
	r := NewReader(bytes.NewReader(bytes.Join(docs, nil)))
	for i, want := range docs {
		if got, err := r.Next(); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("document %d: %d bytes, %v", i, len(got), err)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("after the last one: %v", err)
	}
}

func TestBSONReaderFindsCuts(t *testing.T) {
	t.Parallel()
	one := sample()
	data := append(bytes.Clone(one), one...)
	for n := range len(data) {
		r := NewReader(bytes.NewReader(data[:n]))
		var err error
		for err == nil {
			_, err = r.Next()
		}
		if boundary := n%len(one) == 0; boundary != (err == io.EOF) || !boundary &&
			!errors.Is(err, ErrBSON) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// The digest is the sum of the documents' SHA-256 modulo 2^256, little-endian.
func TestDocSum(t *testing.T) {
	t.Parallel()
	sum := new(big.Int)
	var s Sum
	var docs [][]byte
	for range 1000 {
		d := make([]byte, rand.IntN(40))
		for i := range d {
			d[i] = byte(rand.Uint32())
		}
		docs = append(docs, d)
	}
	for _, d := range docs {
		h := sha256.Sum256(d)
		s.Add(h)
		for i, j := 0, len(h)-1; i < j; i, j = i+1, j-1 {
			h[i], h[j] = h[j], h[i]
		}
		sum.Add(sum, new(big.Int).SetBytes(h[:]))
	}
	sum.Mod(sum, new(big.Int).Lsh(big.NewInt(1), 256))
	if want := hex.EncodeToString(sum.FillBytes(make([]byte, 32))); s.String() != want {
		t.Errorf("%s, want %s", s, want)
	}
	if back, err := ParseSum(s.String()); err != nil || back != s {
		t.Errorf("%s became %s (%v)", s, back, err)
	}
	rand.Shuffle(len(docs), func(i, j int) { docs[i], docs[j] = docs[j], docs[i] })
	var again Sum
	for _, d := range docs {
		again.Add(sha256.Sum256(d))
	}
	if again != s {
		t.Error("the order matters")
	}
	again.Add(sha256.Sum256(docs[0]))
	if again == s {
		t.Error("a repetition does not matter")
	}
}
