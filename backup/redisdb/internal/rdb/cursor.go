package rdb

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const bufferSize = 256 << 10

// cursor reads the primitives of a file. After the first error, it keeps that error and returns
// zeros.
type cursor struct {
	ctx      context.Context
	r        io.Reader
	err      error
	buf      []byte
	pos, end int
	summed   int // buf[:summed] is in crc
	hold     int // bytes before pos that must not enter crc
	crc      uint64
	consumed int64 // bytes that left buf
	mark     int   // buf[mark:] stays in the buffer while there is room; -1: nothing does
	elements int64 // of the present value
	big      []byte
	out      []byte // what a compressed string expands into
	expands  int64  // bytes that compressed strings take more once they are not
	valkey   bool
	moduleID uint64 // of the present module value
	visited  bool   // the error is the visitor's
}

func newCursor(ctx context.Context, r io.Reader, size int) *cursor {
	return &cursor{ctx: ctx, r: r, buf: make([]byte, size), mark: -1}
}

func (c *cursor) offset() int64 { return c.consumed + int64(c.pos) }

func (c *cursor) crc64() uint64 {
	if upto := c.pos - c.hold; upto > c.summed {
		c.crc = CRC(c.crc, c.buf[c.summed:upto])
		c.summed = upto
	}
	return c.crc
}

// fill makes n bytes available, n being no more than half of the buffer.
func (c *cursor) fill(n int) bool {
	if c.end-c.pos >= n {
		return true
	}
	if c.err != nil {
		return false
	}
	if c.err = ended(c.ctx); c.err != nil {
		return false
	}
	c.crc64()
	keep := min(c.summed, c.pos) // held-back bytes stay in the buffer
	if c.mark >= 0 {
		if c.pos-c.mark > len(c.buf)/2 {
			c.mark = -1 // the value is too large to be kept whole
		} else {
			keep = min(keep, c.mark)
			c.mark -= keep
		}
	}
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

// take returns the next n bytes, valid until the next call. After an error they
// are zero.
func (c *cursor) take(n int) []byte {
	if n > len(c.buf)/2 {
		return c.takeBig(n)
	}
	if !c.fill(n) {
		return make([]byte, n)
	}
	p := c.buf[c.pos : c.pos+n]
	c.pos += n
	return p
}

// takeBig allocates memory as data arrives, so that a wrong length costs none. It trusts the length
// once half of the data has arrived.
func (c *cursor) takeBig(n int) []byte {
	c.big = c.big[:0]
	for n > len(c.big) && c.err == nil {
		p := c.take(min(n-len(c.big), len(c.buf)/2))
		if len(c.big)+len(p) > cap(c.big) {
			size := min(n, max(2*cap(c.big), len(c.big)+len(p)))
			c.big = append(make([]byte, 0, size), c.big...)
		}
		c.big = append(c.big, p...)
	}
	return c.big
}

// pieces passes the next n bytes on without holding them.
func (c *cursor) pieces(n uint64, f func([]byte)) {
	for n > 0 {
		if c.pos == c.end && !c.fill(1) {
			return
		}
		m := min(n, uint64(c.end-c.pos))
		p := c.buf[c.pos : c.pos+int(m)]
		c.pos += int(m)
		n -= m
		f(p)
	}
}

func (c *cursor) skip(n uint64) {
	if n <= uint64(c.end-c.pos) {
		c.pos += int(n)
		return
	}
	c.pieces(n, func([]byte) {})
}

func (c *cursor) byte() byte {
	if c.pos < c.end || c.fill(1) {
		b := c.buf[c.pos]
		c.pos++
		return b
	}
	return 0
}

func (c *cursor) uint32le() uint32 { return binary.LittleEndian.Uint32(c.take(4)) }
func (c *cursor) uint64le() uint64 { return binary.LittleEndian.Uint64(c.take(8)) }

// lengthOrEncoding reads a length, or the number of a special string encoding.
func (c *cursor) lengthOrEncoding() (n uint64, encoded bool) {
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

func (c *cursor) length() uint64 {
	n, encoded := c.lengthOrEncoding()
	if encoded {
		c.failf("a string encoding instead of a length")
	}
	if c.err != nil {
		return 0
	}
	return n
}

// each reads a count and runs f that many times.
func (c *cursor) each(f func()) {
	for n := c.length(); n > 0 && c.err == nil; n-- {
		f()
	}
}

func (c *cursor) failf(format string, a ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, a...)
	}
}

// ended is nil until ctx ends; then it matches both ctx.Err() and the cause.
func ended(ctx context.Context) error {
	err := ctx.Err()
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && cause != err {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}
