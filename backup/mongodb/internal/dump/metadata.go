package dump

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

// Metadata files by suffix; gzip adds its own.
const (
	BSONSuffix     = ".bson"
	MetadataSuffix = ".metadata.json"
	PreludeName    = "prelude.json"
	GzipSuffix     = ".gz"
)

// FileName returns mongodump's file name of a collection, without a suffix. It is escaped, and
// shortened if it would exceed 255 bytes (mongo-tools 100.18).
func FileName(collection string) string {
	escaped := url.QueryEscape(collection)
	if len(escaped) <= 238 {
		return escaped
	}
	sum := sha1.Sum([]byte(collection))
	return escaped[:208] + "%24" + base64.RawURLEncoding.EncodeToString(sum[:])
}

// Metadata returns the metadata file: one line of canonical Extended JSON, with the fields in
// mongodump's order.
func (s *Space) Metadata() ([]byte, error) {
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
		// An example is {"$date": …} as a key. mongodump 100.18 stops here too.
		return nil, errors.New("its options or indexes have names that are types in Extended JSON, " +
			"so the metadata could not be read back")
	}
	return text, nil
}

// ParseMetadata parses a metadata file of mongodump or of this package.
func ParseMetadata(db string, text []byte) (*Space, error) {
	var raw bson.Raw
	if err := bson.UnmarshalExtJSON(text, true, &raw); err != nil {
		return nil, fmt.Errorf("not canonical Extended JSON: %w", err)
	}
	if err := Check(raw); err != nil {
		return nil, err
	}
	s := &Space{DB: db, Type: TypeCollection}
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
	// Older dumps leave the type out, so an option identifies their views.
	if _, err := s.Options.LookupErr("viewOn"); err == nil {
		s.Type = TypeView
	}
	if _, err := s.Options.LookupErr("timeseries"); err == nil {
		s.Type = TypeTimeseries
	}
	if s.Type == "" {
		s.Type = TypeCollection
	}
	if !slices.Contains([]string{TypeCollection, TypeView, TypeTimeseries}, s.Type) {
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

// unescapeCollection reverses FileName for names that were not shortened.
func unescapeCollection(stem string) (string, error) {
	if len(stem) > 208 && strings.Contains(stem[208:], "%24") {
		return "", errors.New("the name is shortened and the metadata does not have the full one")
	}
	return url.QueryUnescape(stem)
}
