package dump

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
)

// Tally is an order-independent sum of documents. Two collections with equal tallies have the same
// documents.
type Tally struct {
	Count, Bytes int64
	Sum          Sum
}

// Add counts one document.
func (t *Tally) Add(doc []byte) {
	t.Count++
	t.Bytes += int64(len(doc))
	t.Sum.Add(sha256.Sum256(doc))
}

// Subtract removes documents that were added.
func (t *Tally) Subtract(o Tally) {
	t.Count -= o.Count
	t.Bytes -= o.Bytes
	var borrow uint64
	for i := range t.Sum {
		t.Sum[i], borrow = bits.Sub64(t.Sum[i], o.Sum[i], borrow)
	}
}

func (t Tally) String() string {
	return fmt.Sprintf("%d documents of %d bytes with digest %s", t.Count, t.Bytes, t.Sum)
}

// Sum is the sum of the SHA-256 of documents modulo 2^256. It does not depend on their order.
// Repetitions and any changed bit change it.
type Sum [4]uint64

// Add adds one digest.
func (s *Sum) Add(h [sha256.Size]byte) {
	var carry uint64
	for i := range s {
		s[i], carry = bits.Add64(s[i], binary.LittleEndian.Uint64(h[8*i:]), carry)
	}
}

func (s Sum) String() string {
	var b [sha256.Size]byte
	for i, w := range s {
		binary.BigEndian.PutUint64(b[8*(3-i):], w)
	}
	return hex.EncodeToString(b[:])
}

// ParseSum parses the text of a Sum.
func ParseSum(text string) (s Sum, err error) {
	b, err := hex.DecodeString(text)
	if err == nil && len(b) != sha256.Size {
		err = fmt.Errorf("%d bytes", len(b))
	}
	if err != nil {
		return s, err
	}
	for i := range s {
		s[i] = binary.BigEndian.Uint64(b[8*(3-i):])
	}
	return s, nil
}
