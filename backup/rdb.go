package backup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"math/bits"
	"slices"
	"strconv"
	"time"
)

// RDBInfo is what reading an RDB file from end to end tells of it.
type RDBInfo struct {
	Version   int               `json:"version"`              // of the format: 10 is Redis 7.0, 11 is 7.2, 12 is 7.4
	Server    string            `json:"server,omitempty"`     // version of the server that wrote it
	Created   time.Time         `json:"created,omitzero"`     // when the server began to write it
	Size      int64             `json:"size"`                 // bytes
	Keys      int64             `json:"keys"`                 // all databases
	Expiring  int64             `json:"expiring,omitempty"`   // keys that have a time to live
	Databases map[int]int64     `json:"databases,omitempty"`  // keys of each
	Types     map[string]int64  `json:"types,omitempty"`      // keys of each type
	Functions int64             `json:"functions,omitempty"`  // function libraries
	Checksum  bool              `json:"checksum"`             // false: the server has rdbchecksum off, so the file carries none
	NotWalked string            `json:"not_walked,omitempty"` // why keys were not counted; checksums hold all the same
	Aux       map[string]string `json:"-"`                    // what else the server noted
}

// maxWalked is the newest RDB version whose values this package can read (12
// is Redis 7.4 and 8.0). Of newer files only header and checksum are checked.
const maxWalked = 12

// errUnknownRDB is a value whose form is not known: the file may be fine.
var errUnknownRDB = errors.New("unknown to this program")

var crcJones = crc64.MakeTable(bits.Reverse64(0xad93d23594c935a9))

// crcUpdate is the CRC-64 of Redis, which neither starts nor ends inverted.
func crcUpdate(crc uint64, p []byte) uint64 { return ^crc64.Update(^crc, crcJones, p) }

// Opcodes of an RDB file (Redis 7.0 rdb.h; slot info from 7.4).
const (
	opSlotInfo  = 0xF4
	opFunction  = 0xF5
	opModuleAux = 0xF7
	opIdle      = 0xF8
	opFreq      = 0xF9
	opAux       = 0xFA
	opResizeDB  = 0xFB
	opExpireMS  = 0xFC
	opExpireS   = 0xFD
	opSelectDB  = 0xFE
	opEOF       = 0xFF
)

// rdbKey is one key of an RDB file. Its slices are valid until the next one.
type rdbKey struct {
	DB     int
	Key    []byte
	Type   byte
	Expire int64  // Unix time in ms; 0: none
	Value  []byte // as in the file, what DUMP has between its type byte and its footer; with rdbVisit.raw
	Digest digest // of the value; with rdbVisit.digest
}

// rdbVisit says what is wanted of each key.
type rdbVisit struct {
	raw, digest bool
	check       bool                       // look into packed and compressed values as well
	key         func(*rdbKey) error        // nil: only count
	function    func(library []byte) error // nil: only count
}

// readRDB reads one RDB file from r and checks it from the first byte to the
// checksum. It never reads beyond the file's end by more than its buffer.
func readRDB(ctx context.Context, r io.Reader, v rdbVisit) (RDBInfo, error) {
	c := &rdbCursor{ctx: ctx, r: r, buf: make([]byte, 256<<10)}
	info, err := c.file(v)
	if err != nil {
		err = fmt.Errorf("RDB, at byte %d: %w", c.offset(), err)
	}
	return info, err
}

func (c *rdbCursor) file(v rdbVisit) (RDBInfo, error) {
	info := RDBInfo{Databases: map[int]int64{}, Types: map[string]int64{}, Aux: map[string]string{}}
	head := c.take(9)
	if c.err != nil {
		return info, c.err
	}
	version, err := strconv.Atoi(string(head[5:]))
	if string(head[:5]) != "REDIS" || err != nil || version < 1 {
		return info, fmt.Errorf("it begins with %q, not with REDIS and four digits", head)
	}
	info.Version = version
	if version > maxWalked {
		info.NotWalked = fmt.Sprintf("RDB version %d is newer than %d", version, maxWalked)
		if v.key != nil {
			return info, fmt.Errorf("RDB version %d is %w", version, errUnknownRDB)
		}
		return info, c.tail(&info)
	}
	err = c.body(&info, v)
	if errors.Is(err, errUnknownRDB) {
		info.NotWalked = err.Error()
		info.Keys, info.Expiring, info.Databases, info.Types, info.Functions = 0, 0, nil, nil, 0
		// The visitor has not seen everything; that must not look complete.
		if v.key != nil {
			return info, err
		}
		return info, c.tail(&info)
	}
	if err != nil {
		return info, err
	}
	return info, c.footer(&info)
}

// footer checks the checksum and that nothing follows.
func (c *rdbCursor) footer(info *RDBInfo) error {
	if info.Version >= 5 {
		want := c.crc64()
		foot := c.take(8)
		if c.err != nil {
			return c.err
		}
		got := binary.LittleEndian.Uint64(foot)
		info.Checksum = got != 0
		if got != 0 && got != want {
			return fmt.Errorf("its CRC-64 is %016x, the content's is %016x", got, want)
		}
	}
	info.Size = c.offset()
	if c.pos < c.end || c.fill(1) {
		return errors.New("bytes follow the end of the file")
	}
	if c.err != nil && !errors.Is(c.err, io.ErrUnexpectedEOF) {
		return c.err
	}
	return nil
}

// tail reads the rest without understanding it, up to the checksum.
func (c *rdbCursor) tail(info *RDBInfo) error {
	var last []byte // the final nine bytes are the end opcode and the checksum
	for {
		n := c.end - c.pos
		if n == 0 {
			if !c.fill(1) {
				break
			}
			continue
		}
		last = append(last, c.buf[max(c.pos, c.end-9):c.end]...)
		last = last[max(0, len(last)-9):]
		// The checksum itself is not part of the sum: hold back eight bytes.
		c.hold = 8
		c.pos = c.end
	}
	if c.err != nil && !errors.Is(c.err, io.ErrUnexpectedEOF) {
		return c.err
	}
	info.Size = c.offset()
	if info.Version < 5 && len(last) > 0 && last[len(last)-1] == opEOF {
		return nil // no checksum then
	}
	if len(last) < 9 || last[0] != opEOF {
		return fmt.Errorf("it does not end with the end mark: %w", io.ErrUnexpectedEOF)
	}
	got := binary.LittleEndian.Uint64(last[1:])
	info.Checksum = got != 0
	if want := c.crc64(); got != 0 && got != want {
		return fmt.Errorf("its CRC-64 is %016x, the content's is %016x", got, want)
	}
	return nil
}

func (c *rdbCursor) body(info *RDBInfo, v rdbVisit) error {
	k := &rdbKey{}
	var types [256]int64
	var inDB int64
	fold := func() {
		if inDB > 0 {
			info.Databases[k.DB] += inDB
			info.Keys += inDB
		}
		inDB = 0
	}
	defer func() {
		fold()
		for t, n := range types {
			if n > 0 {
				info.Types[rdbTypes[t].name] += n
			}
		}
	}()
	for {
		op := c.byte()
		switch op {
		case opEOF:
			return c.err
		case opSelectDB:
			fold()
			k.DB = int(c.length())
		case opResizeDB:
			c.length()
			c.length()
		case opSlotInfo:
			c.length()
			c.length()
			c.length()
		case opAux:
			name, value := slices.Clone(c.string()), slices.Clone(c.string())
			if c.err == nil && len(info.Aux) < 64 {
				info.addAux(string(name), string(value))
			}
		case opFunction:
			library := c.string()
			info.Functions++
			if c.err == nil && v.function != nil {
				if err := v.function(library); err != nil {
					return err
				}
			}
		case opModuleAux:
			c.length()
			c.module(nil)
		case opIdle:
			c.length()
		case opFreq:
			c.byte()
		case opExpireMS:
			k.Expire = int64(c.uint64le())
		case opExpireS:
			k.Expire = int64(int32(c.uint32le())) * 1000
		default:
			if op >= opSlotInfo {
				return fmt.Errorf("opcode %#x is %w", op, errUnknownRDB)
			}
			k.Type = op
			if err := c.entry(k, v); err != nil {
				return err
			}
			inDB++
			types[k.Type]++
			if k.Expire != 0 {
				info.Expiring++
			}
			k.Expire = 0
		}
		if c.err != nil {
			return c.err
		}
	}
}

func (info *RDBInfo) addAux(name, value string) {
	switch name {
	case "redis-ver", "valkey-ver":
		info.Server = value
	case "ctime":
		if s, err := strconv.ParseInt(value, 10, 64); err == nil {
			info.Created = time.Unix(s, 0).UTC()
		}
	}
	info.Aux[name] = value
}

// entry reads one key and its value.
func (c *rdbCursor) entry(k *rdbKey, v rdbVisit) error {
	form := rdbTypes[k.Type]
	if form.read == nil {
		return fmt.Errorf("value type %d is %w", k.Type, errUnknownRDB)
	}
	k.Key = append(k.Key[:0], c.string()...)
	if c.err != nil {
		return c.err
	}
	c.rec, c.recording = c.rec[:0], v.raw
	var d *digester
	if v.check {
		d = &digester{quiet: true}
	}
	if v.digest {
		d = newDigester(form.class)
	}
	form.read(c, d)
	c.recording = false
	if c.err != nil {
		return fmt.Errorf("value of key %.80q: %w", k.Key, c.err)
	}
	k.Value = c.rec
	if v.digest {
		k.Digest = d.sum()
	}
	if v.key == nil {
		return nil
	}
	return v.key(k)
}

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
	if err := ended(c.ctx); err != nil {
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
