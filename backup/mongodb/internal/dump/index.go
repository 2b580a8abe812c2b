package dump

import (
	"math"
	"slices"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/x/bsonx/bsoncore"
)

func indexName(x bson.Raw) string {
	name, _ := x.Lookup("name").StringValueOK()
	return name
}

// IndexName returns the name of an index.
func IndexName(x bson.Raw) string { return indexName(x) }

// IsID reports whether an index is the one on _id, or that of the option clusteredIndex. The server
// creates both itself, with the collation of the collection.
func IsID(x bson.Raw) bool {
	if clustered, _ := x.Lookup("clustered").BooleanOK(); clustered {
		return true
	}
	elems, err := x.Lookup("key").Document().Elements()
	if err != nil || len(elems) != 1 || elems[0].Key() != "_id" {
		return false
	}
	n, ok := asInt64(elems[0].Value())
	return ok && n == 1
}

// legacyFields are fields of index documents without a meaning for present servers. Drivers up to
// 2.x stored write options there, and servers before 3.4 accepted any field. createIndexes refuses
// them, and "ns", since 4.4. "v" is the server's own choice.
var legacyFields = []string{"ns", "v", "safe", "w", "wtimeout", "j", "fsync", "dropDups",
	"drop_dups", "dropdups", "_id", "cache", "unsafe"}

// Clean returns an index document in the form for createIndexes, as mongorestore 100.18 does. It
// removes legacy fields and null options, and replaces values in the key that only servers before
// 3.4 accepted by numbers. An unversioned 2dsphere index gets version 1. In a collated collection,
// an index without a collation gets the simple one, because the server would use the collection's.
func Clean(x bson.Raw, collated bool) bson.Raw {
	elems, err := x.Elements()
	if err != nil {
		return x
	}
	elems = slices.DeleteFunc(elems, func(e bson.RawElement) bool {
		return slices.Contains(legacyFields, e.Key()) || e.Value().Type == bson.TypeNull
	})
	sphere := false
	for i, e := range elems {
		if e.Key() == "key" {
			key := cleanKey(e.Value().Document())
			elems[i] = bsoncore.AppendDocumentElement(nil, "key", bsoncore.Document(key))
			sphere = hasKind(key, "2dsphere")
		}
	}
	if _, err := x.LookupErr("2dsphereIndexVersion"); err != nil && sphere {
		elems = append(elems, bsoncore.AppendInt32Element(nil, "2dsphereIndexVersion", 1))
	}
	if c, err := x.LookupErr("collation"); (err != nil || c.Type == bson.TypeNull) && collated {
		simple := bsoncore.BuildDocument(nil, bsoncore.AppendStringElement(nil, "locale", "simple"))
		elems = append(elems, bsoncore.AppendDocumentElement(nil, "collation", simple))
	}
	return join(elems)
}

func hasKind(key bson.Raw, kind string) bool {
	values, _ := key.Values()
	return slices.ContainsFunc(values, func(v bson.RawValue) bool {
		s, _ := v.StringValueOK()
		return s == kind
	})
}

// cleanKey replaces the directions in old keys by their meaning for the server.
func cleanKey(key bson.Raw) bson.Raw {
	elems, err := key.Elements()
	if err != nil {
		return key
	}
	for i, e := range elems {
		v := e.Value()
		direction := int32(1)
		switch v.Type {
		case bson.TypeString:
			if v.StringValue() != "" {
				continue
			}
		case bson.TypeInt32, bson.TypeInt64:
			if n, _ := v.AsInt64OK(); n != 0 {
				continue
			}
		case bson.TypeDouble:
			if math.Abs(v.Double()) >= 1e-9 {
				continue
			}
			if v.Double() < 0 {
				direction = -1
			}
		case bson.TypeDecimal128:
			if n, _, err := v.Decimal128().BigInt(); err != nil || n.Sign() != 0 {
				continue
			}
		}
		elems[i] = bsoncore.AppendInt32Element(nil, e.Key(), direction)
	}
	return join(elems)
}

// comparableIndexes returns the indexes by name, in a form that is equal on every server with the
// same index.
func (s *Space) comparableIndexes() map[string]bson.Raw {
	collated := !emptyDoc(s.Collation())
	out := map[string]bson.Raw{}
	for _, x := range s.Indexes {
		if IsID(x) {
			continue
		}
		x = Clean(x, collated)
		drop := []string{"background"}
		if locale, _ := x.Lookup("collation", "locale").StringValueOK(); locale == "simple" {
			drop = append(drop, "collation") // listIndexes leaves it out up to MongoDB 8
		}
		elems, err := Without(x, drop...).Elements()
		if err != nil {
			continue
		}
		elems = slices.DeleteFunc(elems, func(e bson.RawElement) bool { return isFalse(e.Value()) })
		for i, e := range elems {
			elems[i] = plainNumber(e)
		}
		out[indexName(x)] = sorted(elems)
	}
	return out
}

// isFalse reports whether an option means the same as its absence.
func isFalse(v bson.RawValue) bool {
	b, ok := v.BooleanOK()
	return ok && !b
}

// plainNumber gives numbers one type, because some servers store 1 for 1.0, and true for 1.
func plainNumber(e bson.RawElement) bson.RawElement {
	v := e.Value()
	switch {
	case e.Key() == "unique" || e.Key() == "sparse" || e.Key() == "hidden":
		if n, ok := asInt64(v); ok {
			return bsoncore.AppendBooleanElement(nil, e.Key(), n != 0)
		}
	case e.Key() == "key":
		elems, err := v.Document().Elements()
		if err != nil {
			return e
		}
		for i, k := range elems {
			elems[i] = plainNumber(k)
		}
		return bsoncore.AppendDocumentElement(nil, "key", bsoncore.Document(join(elems)))
	case v.Type == bson.TypeInt32 || v.Type == bson.TypeInt64:
		return bsoncore.AppendDoubleElement(nil, e.Key(), float64(v.AsInt64()))
	}
	return e
}
