package rdb

import (
	"encoding/binary"
	"errors"
	"strconv"
)

// Limits of strings. A server refuses strings above proto-max-bulk-len, 512 MiB by default, and
// packed values above 1 GiB (Redis 7.0). Strings are streamed, so their limit costs no memory.
// Values that must be in memory have a lower limit.
const (
	maxString = 4 << 30
	maxWhole  = 512 << 20 // keys, function libraries
	maxPacked = 256 << 20 // packed values; servers pack a few kilobytes
)

var errLZF = errors.New("compressed string is damaged")

// stringHead reads how the next string is stored.
type stringHead struct {
	size   uint64 // bytes of the string
	packed uint64 // compressed bytes; 0: it is not compressed
	number []byte // its text if it is stored as a number
}

func (c *cursor) head() stringHead {
	n, encoded := c.lengthOrEncoding()
	switch {
	case c.err != nil:
		return stringHead{}
	case !encoded:
		if n > maxString {
			c.failf("a string of %d bytes", n)
			n = 0
		}
		return stringHead{size: n}
	}
	var number int64
	switch n {
	case 0:
		number = int64(int8(c.byte()))
	case 1:
		number = int64(int16(binary.LittleEndian.Uint16(c.take(2))))
	case 2:
		number = int64(int32(c.uint32le()))
	case 3:
		packed, size := c.length(), c.length()
		// LZF cannot expand more than about 132 times.
		if packed > maxString || size > maxString || size > packed*264 {
			c.failf("a compressed string of %d bytes for %d", packed, size)
		}
		c.expands += int64(size) - int64(packed)
		return stringHead{size: size, packed: packed}
	default:
		c.failf("string encoding %d has no meaning", n)
		return stringHead{}
	}
	text := strconv.AppendInt(nil, number, 10)
	return stringHead{size: uint64(len(text)), number: text}
}

// string reads a string in any encoding, valid until the next call.
func (c *cursor) string() []byte { return c.whole(maxWhole) }

func (c *cursor) whole(limit uint64) []byte {
	h := c.head()
	switch {
	case c.err != nil:
		return nil
	case h.number != nil:
		return h.number
	case h.size > limit:
		if c.err == nil {
			c.err = unknownf("a packed string of %d bytes", h.size)
		}
		return nil
	case h.packed == 0:
		return c.take(int(h.size))
	}
	c.out = c.out[:0]
	c.expand(h, func(p []byte) { c.out = append(c.out, p...) })
	return c.out
}

// stream passes a string's length and then its bytes on, in pieces. It holds no
// more than 64 KiB.
func (c *cursor) stream(size func(uint64), piece func([]byte)) {
	h := c.head()
	if c.err != nil {
		return
	}
	size(h.size)
	switch {
	case h.number != nil:
		piece(h.number)
	case h.packed == 0:
		c.pieces(h.size, piece)
	default:
		c.expand(h, piece)
	}
}

// skipString passes over a string without expanding it.
func (c *cursor) skipString() {
	h := c.head()
	switch {
	case c.err != nil || h.number != nil:
	case h.packed > 0:
		c.skip(h.packed)
	default:
		c.skip(h.size)
	}
}

// LZF refers back 8 KiB at most.
const (
	lzfBack   = 8 << 10
	lzfWindow = 64 << 10
)

// expand expands LZF compression into exactly h.size bytes.
func (c *cursor) expand(h stringHead, piece func([]byte)) {
	size := int(h.size)
	window := make([]byte, 0, min(size, lzfWindow))
	done, sent := 0, 0 // bytes expanded; those of the window that were passed on
	flush := func() {
		piece(window[sent:])
		if back := len(window) - lzfBack; back > 0 {
			window = window[:copy(window, window[back:])]
		}
		sent = len(window)
	}
	start := c.offset()
	end := start + int64(h.packed)
	for c.offset() < end && c.err == nil {
		ctrl := int(c.byte())
		n, from := ctrl+1, -1
		if ctrl >= 32 {
			if n = ctrl >> 5; n == 7 {
				n += int(c.byte())
			}
			from = (ctrl&0x1f)<<8 + int(c.byte()) + 1
			n += 2
		}
		if done+n > size || from > min(done, lzfBack) {
			c.failf("%w", errLZF)
			return
		}
		if len(window)+n > lzfWindow {
			flush()
		}
		if from < 0 {
			window = append(window, c.take(n)...)
		} else {
			// Source and destination may overlap: what is copied can be copied on.
			at := len(window)
			window = window[:at+n]
			for done := 0; done < n; {
				done += copy(window[at+done:], window[at-from:at+done])
			}
		}
		done += n
	}
	if c.err == nil && (done != size || c.offset() != end) {
		c.failf("%w", errLZF)
		return
	}
	piece(window[sent:])
}
