package backup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"

	"example.com/tykupgrade/backup/internal/step"
)

// rdbCursor reads the primitives of an RDB file. Its error sticks, and after
// one everything read is zero.
type rdbCursor struct {
	ctx      context.Context
	r        io.Reader
	err      error
	buf      []byte
	pos, end int
	summed   int // buf[:summed] is in crc
	hold     int // bytes before pos that must not enter crc
	crc      uint64
	consumed int64 // bytes that left buf
	big      []byte

	recording bool
	rec       []byte
}

func (c *rdbCursor) offset() int64 { return c.consumed + int64(c.pos) }

func (c *rdbCursor) crc64() uint64 {
	if upto := c.pos - c.hold; upto > c.summed {
		c.crc = crcUpdate(c.crc, c.buf[c.summed:upto])
		c.summed = upto
	}
	return c.crc
}

// fill makes n bytes available, n being no more than the buffer holds.
func (c *rdbCursor) fill(n int) bool {
	if c.end-c.pos >= n {
		return true
	}
	if c.err != nil {
		return false
	}
	if err := step.Ended(c.ctx); err != nil {
		c.err = err
		return false
	}
	c.crc64()
	keep := min(c.summed, c.pos) // held-back bytes stay in the buffer
	copy(c.buf, c.buf[keep:c.end])
	c.consumed += int64(keep)
	c.summed -= keep
	c.pos -= keep
	c.end -= keep
	for c.end-c.pos < n {
		m, err := c.r.Read(c.buf[c.end:])
		c.end += m
		if c.end-c.pos >= n {
			return true
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			c.err = err
			return false
		}
	}
	return true
}

// take returns the next n bytes, valid until the next call.
func (c *rdbCursor) take(n int) []byte {
	if n > len(c.buf)/2 {
		return c.takeBig(n)
	}
	if !c.fill(n) {
		return make([]byte, n)
	}
	p := c.buf[c.pos : c.pos+n]
	c.pos += n
	if c.recording {
		c.rec = append(c.rec, p...)
	}
	return p
}

// takeBig grows with what is there, so that a wrong length cannot claim memory.
func (c *rdbCursor) takeBig(n int) []byte {
	c.big = c.big[:0]
	for n > len(c.big) && c.err == nil {
		c.big = append(c.big, c.take(min(n-len(c.big), len(c.buf)/2))...)
	}
	return c.big
}

func (c *rdbCursor) skip(n uint64) {
	if c.recording {
		for n > 0 && c.err == nil {
			m := min(n, uint64(len(c.buf)/2))
			c.take(int(m))
			n -= m
		}
		return
	}
	for n > 0 {
		if c.pos == c.end && !c.fill(1) {
			return
		}
		m := min(n, uint64(c.end-c.pos))
		c.pos += int(m)
		n -= m
	}
}

func (c *rdbCursor) byte() byte {
	if c.pos < c.end && !c.recording {
		b := c.buf[c.pos]
		c.pos++
		return b
	}
	return c.take(1)[0]
}

func (c *rdbCursor) uint32le() uint32 { return binary.LittleEndian.Uint32(c.take(4)) }
func (c *rdbCursor) uint64le() uint64 { return binary.LittleEndian.Uint64(c.take(8)) }

// lengthOrEncoding reads a length, or the number of a special string encoding.
func (c *rdbCursor) lengthOrEncoding() (n uint64, encoded bool) {
	b := c.byte()
	switch b >> 6 {
	case 0:
		return uint64(b & 0x3f), false
	case 1:
		return uint64(b&0x3f)<<8 | uint64(c.byte()), false
	case 3:
		return uint64(b & 0x3f), true
	}
	switch b {
	case 0x80:
		return uint64(binary.BigEndian.Uint32(c.take(4))), false
	case 0x81:
		return binary.BigEndian.Uint64(c.take(8)), false
	}
	c.failf("length byte %#x has no meaning", b)
	return 0, false
}

func (c *rdbCursor) length() uint64 {
	n, encoded := c.lengthOrEncoding()
	if encoded {
		c.failf("a string encoding where a length was expected")
	}
	if c.err != nil {
		return 0
	}
	return n
}

func (c *rdbCursor) failf(format string, a ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, a...)
	}
}

// maxString is the longest string that a server accepts by default.
const maxString = 4 << 30

// string reads a string in any encoding, valid until the next call.
func (c *rdbCursor) string() []byte {
	n, encoded := c.lengthOrEncoding()
	if c.err != nil {
		return nil
	}
	if !encoded {
		if n > maxString {
			c.failf("a string of %d bytes", n)
			return nil
		}
		return c.take(int(n))
	}
	switch n {
	case 0:
		return strconv.AppendInt(nil, int64(int8(c.byte())), 10)
	case 1:
		return strconv.AppendInt(nil, int64(int16(binary.LittleEndian.Uint16(c.take(2)))), 10)
	case 2:
		return strconv.AppendInt(nil, int64(int32(c.uint32le())), 10)
	case 3:
		packed, size := c.length(), c.length()
		// LZF cannot expand more than about 132 times.
		if packed > maxString || size > maxString || size > packed*264 {
			c.failf("a compressed string of %d bytes for %d", packed, size)
			return nil
		}
		in := c.take(int(packed))
		if c.err != nil {
			return nil
		}
		out, err := lzf(in, int(size))
		if err != nil {
			c.failf("%w", err)
		}
		return out
	}
	c.failf("string encoding %d has no meaning", n)
	return nil
}

// skipString passes over a string without expanding it.
func (c *rdbCursor) skipString() {
	n, encoded := c.lengthOrEncoding()
	switch {
	case c.err != nil:
	case !encoded:
		c.skip(n)
	case n <= 2:
		c.skip(1 << n)
	case n == 3:
		packed := c.length()
		c.length()
		c.skip(packed)
	default:
		c.failf("string encoding %d has no meaning", n)
	}
}

// lzf expands LZF compression into exactly size bytes.
func lzf(in []byte, size int) ([]byte, error) {
	errLZF := errors.New("compressed string is damaged")
	out := make([]byte, 0, size)
	for i := 0; i < len(in); {
		ctrl := int(in[i])
		i++
		if ctrl < 32 {
			n := ctrl + 1
			if i+n > len(in) || len(out)+n > size {
				return nil, errLZF
			}
			out = append(out, in[i:i+n]...)
			i += n
			continue
		}
		n := ctrl >> 5
		if n == 7 {
			if i >= len(in) {
				return nil, errLZF
			}
			n += int(in[i])
			i++
		}
		if i >= len(in) {
			return nil, errLZF
		}
		from := len(out) - (ctrl&0x1f)<<8 - int(in[i]) - 1
		i++
		n += 2
		if from < 0 || len(out)+n > size {
			return nil, errLZF
		}
		// Source and destination may overlap: byte by byte.
		for j := range n {
			out = append(out, out[from+j])
		}
	}
	if len(out) != size {
		return nil, errLZF
	}
	return out, nil
}
