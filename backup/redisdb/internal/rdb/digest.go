package rdb

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
)

// Digest is a SHA-256, or a sum of several that does not depend on their order.
type Digest [4]uint64

// ToDigest makes a Digest of a SHA-256.
func ToDigest(sum []byte) Digest {
	var d Digest
	for i := range d {
		d[i] = binary.BigEndian.Uint64(sum[8*i:])
	}
	return d
}

// Add adds o to the sum.
func (d *Digest) Add(o Digest) {
	for i := range d {
		d[i] += o[i]
	}
}

// Append appends the 32 bytes of d.
func (d Digest) Append(b []byte) []byte {
	for _, x := range d {
		b = binary.BigEndian.AppendUint64(b, x)
	}
	return b
}

// digester sums up a value independently of its encoding on a server. The order matters for lists,
// strings and streams, but not for sets, sorted sets and hashes.
//
// A quiet digester sums up nothing and only checks the form of values.
type digester struct {
	seq    hash.Hash
	one    hash.Hash // the present member
	bag    Digest
	quiet  bool
	cutoff int64 // fields of hashes that expire up to then do not count; Unix time in ms
	lost   bool  // there was such a field
	kept   bool  // there was a field that counts
	buf    [32]byte
}

func newDigester(cutoff int64) *digester {
	return &digester{seq: sha256.New(), one: sha256.New(), cutoff: cutoff}
}

func (d *digester) reset(class byte) {
	d.seq.Reset()
	d.bag, d.lost, d.kept = Digest{}, false, false
	d.buf[0] = class
	d.seq.Write(d.buf[:1])
}

// size writes a number into h, in front of so many bytes or as a value.
func (d *digester) size(h hash.Hash, n uint64) {
	binary.BigEndian.PutUint64(d.buf[:8], n)
	h.Write(d.buf[:8])
}

func (d *digester) ordered(p []byte) {
	if !d.quiet {
		d.size(d.seq, uint64(len(p)))
		d.seq.Write(p)
	}
}

func (d *digester) number(n uint64) {
	if !d.quiet {
		d.size(d.seq, n)
	}
}

// part adds one part of the present member. endMember ends the member.
func (d *digester) part(p []byte) {
	if !d.quiet {
		d.size(d.one, uint64(len(p)))
		d.one.Write(p)
	}
}

func (d *digester) endMember() {
	if !d.quiet {
		d.bag.Add(ToDigest(d.one.Sum(d.buf[:0])))
		d.one.Reset()
	}
}

// dropMember forgets the parts of a hash field that does not count.
func (d *digester) dropMember() {
	d.lost = true
	if !d.quiet {
		d.one.Reset()
	}
}

func (d *digester) member(parts ...[]byte) {
	for _, p := range parts {
		d.part(p)
	}
	d.endMember()
}

func (d *digester) sum() Digest {
	d.seq.Write(d.bag.Append(d.buf[:0]))
	return ToDigest(d.seq.Sum(d.buf[:0]))
}

// orderedString and stringPart read the next string straight into the sum.
func (c *cursor) orderedString(d *digester) {
	c.stream(func(n uint64) { d.number(n) }, func(p []byte) {
		if !d.quiet {
			d.seq.Write(p)
		}
	})
}

func (c *cursor) stringPart(d *digester) {
	c.stream(func(n uint64) {
		if !d.quiet {
			d.size(d.one, n)
		}
	}, func(p []byte) {
		if !d.quiet {
			d.one.Write(p)
		}
	})
}
