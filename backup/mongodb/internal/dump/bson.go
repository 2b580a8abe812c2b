package dump

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// The limits of mongod 7.0: 16 MiB for a user's document, 16 KiB more for its own additions, and
// 200 levels of nesting on the wire.
const (
	maxBSON  = 16<<20 + 16<<10
	maxDepth = 200
)

// ErrBSON means that a document is not well-formed.
var ErrBSON = errors.New("malformed BSON")

// Reader reads consecutive documents, as in a .bson file.
type Reader struct {
	r     *bufio.Reader
	shown int    // bytes of the document that the last Next returned out of r
	buf   []byte // for documents that do not fit into r
	off   int64  // where the next document begins
}

// NewReader returns a Reader of r.
func NewReader(r io.Reader) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, 64<<10)}
}

// Next returns the next document. It checks only the length and the last byte. The document is
// valid until the next call. io.EOF means that the input ended between two documents.
func (b *Reader) Next() ([]byte, error) {
	_, _ = b.r.Discard(b.shown) // it was there for Peek
	b.shown = 0
	head, err := b.r.Peek(4)
	switch {
	case len(head) == 0:
		return nil, err // io.EOF: the regular end
	case err != nil:
		return nil, b.cut(err)
	}
	size := binary.LittleEndian.Uint32(head)
	if size < 5 || size > maxBSON {
		return nil, fmt.Errorf("%w at offset %d: length %d", ErrBSON, b.off, size)
	}
	doc, err := b.body(int(size))
	if err != nil {
		return nil, b.cut(err)
	}
	if doc[size-1] != 0 {
		return nil, fmt.Errorf("%w at offset %d: no zero at the end", ErrBSON, b.off)
	}
	b.off += int64(size)
	return doc, nil
}

func (b *Reader) body(size int) ([]byte, error) {
	if size <= b.r.Size() {
		b.shown = size
		return b.r.Peek(size)
	}
	// It grows in steps, so that a wrong length costs no memory.
	doc := b.buf[:0]
	for have := 0; have < size; have = len(doc) {
		step := min(size-have, max(have, 64<<10))
		doc = slices.Grow(doc, step)[:have+step]
		if _, err := io.ReadFull(b.r, doc[have:]); err != nil {
			return nil, err
		}
	}
	b.buf = doc
	return doc, nil
}

func (b *Reader) cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: the document at offset %d is cut off", ErrBSON, b.off)
	}
	return err
}

// Check checks the lengths, types and terminators of a document and everything in it. It does not
// check the text of strings, because servers accept invalid UTF-8 too.
func Check(doc []byte) error {
	_, err := Inspect(doc)
	return err
}

// Shape has the facts about a document that an insert needs.
type Shape struct {
	HasID bool
	// ZeroTime: a top-level field other than _id is a zero timestamp, which servers replace by
	// the current time by default.
	ZeroTime bool
}

// Inspect does the same as Check and returns the document's shape.
func Inspect(doc []byte) (s Shape, err error) {
	err = walk(doc, 0, &s)
	return s, err
}

func walk(doc []byte, depth int, top *Shape) error {
	if depth > maxDepth {
		return fmt.Errorf("%w: nested deeper than %d levels", ErrBSON, maxDepth)
	}
	if len(doc) < 5 || binary.LittleEndian.Uint32(doc) != uint32(len(doc)) || doc[len(doc)-1] != 0 {
		return fmt.Errorf("%w: length or end of a document", ErrBSON)
	}
	rest := doc[4 : len(doc)-1]
	for len(rest) > 0 {
		kind := rest[0]
		key := bytes.IndexByte(rest[1:], 0)
		if key < 0 {
			return fmt.Errorf("%w: field name without end", ErrBSON)
		}
		name := rest[1 : 1+key]
		rest = rest[2+key:]
		n, err := ValueSize(kind, rest)
		if err != nil {
			return fmt.Errorf("field %q: %w", name, err)
		}
		if top != nil {
			id := string(name) == "_id"
			top.HasID = top.HasID || id
			top.ZeroTime = top.ZeroTime || kind == 0x11 && !id && [8]byte(rest[:8]) == [8]byte{}
		}
		switch kind {
		case 0x03, 0x04:
			err = walk(rest[:n], depth+1, nil)
		case 0x0F:
			code := 8 + int(binary.LittleEndian.Uint32(rest[4:]))
			err = walk(rest[code:n], depth+1, nil)
		}
		if err != nil {
			return fmt.Errorf("field %q: %w", name, err)
		}
		rest = rest[n:]
	}
	return nil
}

// fixedSize is the size plus one of the types with a fixed size.
var fixedSize = [256]byte{
	0x01: 9, 0x06: 1, 0x07: 13, 0x09: 9, 0x0A: 1, 0x10: 5, 0x11: 9, 0x12: 9, 0x13: 17, 0x7F: 1,
	0xFF: 1,
}

func errShort(kind byte) error {
	return fmt.Errorf("%w: value of type %#02x reaches beyond its document", ErrBSON, kind)
}

// ValueSize returns the size of the value at the beginning of b.
func ValueSize(kind byte, b []byte) (n int, err error) {
	if fixed := int(fixedSize[kind]); fixed > 0 {
		if fixed-1 > len(b) {
			return 0, errShort(kind)
		}
		return fixed - 1, nil
	}
	switch kind {
	case 0x08:
		if len(b) < 1 {
			return 0, errShort(kind)
		}
		if b[0] > 1 {
			return 0, fmt.Errorf("%w: boolean %d", ErrBSON, b[0])
		}
		return 1, nil
	case 0x0B: // two C strings
		for range 2 {
			i := bytes.IndexByte(b[n:], 0)
			if i < 0 {
				return 0, errShort(kind)
			}
			n += i + 1
		}
		return n, nil
	}
	if len(b) < 4 {
		return 0, errShort(kind)
	}
	size := int64(binary.LittleEndian.Uint32(b))
	var total int64
	switch kind {
	case 0x02, 0x0D, 0x0E:
		total = 4 + size
	case 0x0C:
		total = 4 + size + 12
	case 0x05:
		total = 5 + size
	case 0x03, 0x04, 0x0F:
		total = size
	default:
		return 0, fmt.Errorf("%w: unknown type %#02x", ErrBSON, kind)
	}
	if total > int64(len(b)) {
		return 0, errShort(kind)
	}
	text := b[4:]
	switch kind {
	case 0x03, 0x04:
		if size < 5 {
			return 0, fmt.Errorf("%w: length %d", ErrBSON, size)
		}
		return int(total), nil
	case 0x05:
		return int(total), nil
	case 0x0F: // total, string, document
		if size < 14 {
			return 0, fmt.Errorf("%w: code with scope of %d bytes", ErrBSON, size)
		}
		size, text = int64(binary.LittleEndian.Uint32(b[4:])), b[8:total]
		if size > total-8-5 {
			return 0, errShort(kind)
		}
	}
	if size < 1 || text[size-1] != 0 {
		return 0, fmt.Errorf("%w: string without its zero", ErrBSON)
	}
	return int(total), nil
}

func putLength(doc []byte) { binary.LittleEndian.PutUint32(doc, uint32(len(doc))) }
