package dump

import (
	"encoding/binary"
	"hash/maphash"
	"math"
	"slices"

	"go.mongodb.org/mongo-driver/bson"
)

// IDs finds documents of a collection with the same _id. It keeps eight bytes per document.
type IDs struct {
	Most   int // the largest number of documents; 0: any
	seed   maphash.Seed
	hashes []uint64
	gaveUp bool
}

// Add adds one document.
func (i *IDs) Add(doc []byte) {
	if i.gaveUp {
		return
	}
	if i.Most > 0 && len(i.hashes) == i.Most {
		i.gaveUp, i.hashes = true, nil
		return
	}
	if _, err := bson.Raw(doc).LookupErr("_id"); err != nil {
		return
	}
	i.hashes = append(i.hashes, i.hash(doc))
}

func (i *IDs) hash(doc []byte) uint64 {
	if i.seed == (maphash.Seed{}) {
		i.seed = maphash.MakeSeed()
	}
	var buf [64]byte
	return maphash.Bytes(i.seed, AppendID(buf[:0], doc))
}

// Count returns how many documents have the _id of an earlier one. ok is false after more than Most
// documents. Count sorts, and no Add may follow.
func (i *IDs) Count() (n int64, ok bool) {
	slices.Sort(i.hashes)
	for k := 1; k < len(i.hashes); k++ {
		if i.hashes[k] == i.hashes[k-1] {
			n++
		}
	}
	return n, !i.gaveUp
}

// Twice returns a function that reports whether the _id of a document occurred more than once.
func (i *IDs) Twice() func(doc []byte) bool {
	slices.Sort(i.hashes)
	twice := map[uint64]bool{}
	for k := 1; k < len(i.hashes); k++ {
		if i.hashes[k] == i.hashes[k-1] {
			twice[i.hashes[k]] = true
		}
	}
	return func(doc []byte) bool { return twice[i.hash(doc)] }
}

// AppendID appends the _id of a document in a form that is equal for IDs that are equal for a
// server. Numbers of different types can be equal.
func AppendID(b, doc []byte) []byte {
	v := bson.Raw(doc).Lookup("_id")
	switch v.Type {
	case bson.TypeInt32, bson.TypeInt64:
		return binary.LittleEndian.AppendUint64(append(b, 'n'), uint64(v.AsInt64()))
	case bson.TypeDouble:
		if f := v.Double(); f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			return binary.LittleEndian.AppendUint64(append(b, 'n'), uint64(int64(f)))
		}
	}
	return append(append(b, byte(v.Type)), v.Value...)
}
