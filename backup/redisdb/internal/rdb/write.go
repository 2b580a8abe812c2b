package rdb

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Footer is the number of bytes that DUMP adds after a value: RDB version and CRC-64.
const Footer = 10

// DumpVersion returns the RDB version in a result of DUMP.
func DumpVersion(payload []byte) int {
	return int(binary.LittleEndian.Uint16(payload[len(payload)-Footer:]))
}

// CheckDump checks the length and the checksum of a result of DUMP.
func CheckDump(payload []byte) error {
	if len(payload) < Footer {
		return errors.New("the reply to DUMP is too short")
	}
	end := len(payload) - 8
	if got := binary.LittleEndian.Uint64(payload[end:]); got != 0 && got != CRC(0, payload[:end]) {
		return errors.New("the checksum of the reply to DUMP is wrong")
	}
	return nil
}

// AppendFooter appends version and checksum to a value whose checksum so far is
// crc.
func AppendFooter(p []byte, version int, crc uint64) []byte {
	var v [2]byte
	binary.LittleEndian.PutUint16(v[:], uint16(version))
	p = append(p, v[:]...)
	return binary.LittleEndian.AppendUint64(p, CRC(crc, v[:]))
}

// DumpDigest sums up a result of DUMP, as [Visit] does with the value of a key. It reads size bytes
// from r and checks the checksum. gone is [Key.Gone].
func DumpDigest(ctx context.Context, r io.Reader, size,
	cutoff int64) (sum Digest, gone bool, err error) {
	if size < Footer+1 {
		return sum, false, errors.New("the reply to DUMP is too short")
	}
	c := newCursor(ctx, io.LimitReader(r, size), int(min(max(64, 2*size), bufferSize)))
	t := c.byte()
	if forms[t].read == nil {
		return sum, false, unknownf("value type %d", t)
	}
	d := newDigester(cutoff)
	d.reset(forms[t].class)
	c.valkey = t == 22 // Redis 7.4 release candidates are not dumped from
	forms[t].read(c, d)
	c.take(2)
	want := c.crc64()
	got := c.uint64le()
	switch {
	case c.err != nil:
		return sum, false, c.err
	case c.offset() != size:
		return sum, false, errors.New("the reply to DUMP is longer than its value")
	case got != 0 && got != want:
		return sum, false, errors.New("the checksum of the reply to DUMP is wrong")
	}
	return d.sum(), d.lost && !d.kept, nil
}

// Functions passes every library in a result of FUNCTION DUMP to f.
func Functions(ctx context.Context, payload []byte, f func(library []byte) error) error {
	if err := CheckDump(payload); err != nil {
		return err
	}
	c := newCursor(ctx, bytes.NewReader(payload[:len(payload)-Footer]), max(64, 2*len(payload)))
	for c.fill(1) {
		if op := c.byte(); op != OpFunction {
			return fmt.Errorf("the reply to FUNCTION DUMP has a record %#x", op)
		}
		library := c.string()
		if c.err != nil {
			return c.err
		}
		if err := f(library); err != nil {
			return err
		}
	}
	return nil
}

// Writer writes a file. After the first error it writes nothing more.
type Writer struct {
	w   *bufio.Writer
	crc uint64
	err error
}

// NewWriter begins a file.
func NewWriter(w io.Writer, version int, valkey bool) *Writer {
	e := &Writer{w: bufio.NewWriterSize(w, bufferSize)}
	if valkey && version > MaxRedis {
		e.Raw(fmt.Appendf(nil, "VALKEY%03d", version))
	} else {
		e.Raw(fmt.Appendf(nil, "REDIS%04d", version))
	}
	return e
}

// Raw writes bytes unchanged.
func (e *Writer) Raw(p []byte) {
	if e.err == nil {
		e.crc = CRC(e.crc, p)
		_, e.err = e.w.Write(p)
	}
}

// Write implements io.Writer with Raw.
func (e *Writer) Write(p []byte) (int, error) {
	e.Raw(p)
	return len(p), e.err
}

func (e *Writer) string(s string) {
	e.Raw(AppendLength(nil, uint64(len(s))))
	e.Raw([]byte(s))
}

// AppendLength appends a length.
func AppendLength(p []byte, n uint64) []byte {
	switch {
	case n < 1<<6:
		return append(p, byte(n))
	case n < 1<<14:
		return append(p, 0x40|byte(n>>8), byte(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(p, 0x80), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(p, 0x81), n)
}

// Aux writes a note of the server.
func (e *Writer) Aux(name, value string) {
	if value != "" {
		e.Raw([]byte{opAux})
		e.string(name)
		e.string(value)
	}
}

// SelectDB begins a database.
func (e *Writer) SelectDB(db int) { e.Raw(AppendLength([]byte{opSelectDB}, uint64(db))) }

// Entry writes one key with its result of DUMP.
func (e *Writer) Entry(key string, expire int64, payload []byte) {
	if expire > 0 {
		e.Raw(binary.LittleEndian.AppendUint64([]byte{opExpireMS}, uint64(expire)))
	}
	e.Raw(payload[:1])
	e.string(key)
	e.Raw(payload[1 : len(payload)-Footer])
}

// Err returns the first error.
func (e *Writer) Err() error { return e.err }

// Close ends the file. It does not close the underlying writer.
func (e *Writer) Close() error {
	e.Raw([]byte{opEOF})
	if e.err == nil {
		_, e.err = e.w.Write(binary.LittleEndian.AppendUint64(nil, e.crc))
	}
	return errors.Join(e.err, e.w.Flush())
}
