package postgres

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"strings"

	"example.com/tykupgrade/internal/lazyregexp"
)

// largeObjects turns the entries of large objects into two for each object: its definition and its
// content. pg_dump up to 16 writes an entry for each definition and one for all contents. pg_dump
// 17 groups both by owner and privileges.
type largeObjects struct {
	out     objects
	reading func(line []byte) // reads the current entry; nil: it is not of large objects
	open    *object           // the object whose content is being read
	content hash.Hash
}

// begin reads the heading of an entry and reports whether it is of large objects.
func (l *largeObjects) begin(kind, name string) bool {
	l.reading = nil
	switch {
	case kind == "BLOB" || kind == "BLOB METADATA" ||
		kind == "ACL" && strings.HasPrefix(name, "LARGE OBJECT"):
		l.reading = l.definition
	case kind == "BLOBS":
		l.reading = l.data
	}
	return l.reading != nil
}

var largeObject = lazyregexp.New(`(?:lo_create\('|lo_open\('|LARGE OBJECT )([0-9]+)`)

// definition adds a statement to the sum of the object that it names, in any order.
func (l *largeObjects) definition(line []byte) {
	if noise(line) {
		return
	}
	oid := ""
	if m := largeObject.FindSubmatch(line); m != nil {
		oid = string(m[1])
	}
	sum := sha256.Sum256(line)
	l.get("BLOB", oid).mix(sum[:])
}

var (
	lowrite  = []byte(`SELECT pg_catalog.lowrite(0, '\x`)
	writeEnd = []byte(`');`)
)

// data reads the statements that fill objects. The sizes of their parts do not matter.
func (l *largeObjects) data(line []byte) {
	switch {
	case noise(line), bytes.Equal(line, []byte("BEGIN;")), bytes.Equal(line, []byte("COMMIT;")):
	case bytes.HasPrefix(line, []byte("SELECT pg_catalog.lo_open(")) && largeObject.Match(line):
		l.open = l.get("BLOB DATA", string(largeObject.FindSubmatch(line)[1]))
		l.content = sha256.New()
	case l.open != nil && bytes.HasPrefix(line, lowrite) && bytes.HasSuffix(line, writeEnd):
		l.content.Write(line[len(lowrite) : len(line)-len(writeEnd)])
	case l.open != nil && bytes.HasPrefix(line, []byte("SELECT pg_catalog.lo_close(")):
		l.open.mix(l.content.Sum(nil))
		l.open = nil
	case l.open != nil:
		l.content.Write(line)
	default:
		l.definition(line)
	}
}

func (l *largeObjects) get(kind, oid string) *object {
	o := &object{Type: kind, Schema: "-", Name: oid}
	if known := l.out[o.key()]; known != nil {
		return known
	}
	l.out[o.key()] = o
	return o
}

// mix adds to the sum, which does not depend on the order.
func (o *object) mix(sum []byte) {
	o.sum[0] += binary.BigEndian.Uint64(sum)
	o.sum[1] += binary.BigEndian.Uint64(sum[8:])
}
