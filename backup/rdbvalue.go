package backup

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"math"
	"strconv"
)

// digest is a SHA-256, or a sum of several that does not depend on their order.
type digest [4]uint64

func toDigest(sum []byte) digest {
	var d digest
	for i := range d {
		d[i] = binary.BigEndian.Uint64(sum[8*i:])
	}
	return d
}

func (d *digest) add(o digest) {
	for i := range d {
		d[i] += o[i]
	}
}

func (d digest) bytes() []byte {
	b := make([]byte, 0, 32)
	for _, x := range d {
		b = binary.BigEndian.AppendUint64(b, x)
	}
	return b
}

// digester sums up a value by its meaning, so that two servers that store it
// in different encodings agree: elements of a list, a string and a stream in
// order, those of sets, sorted sets and hashes in any.
//
// A quiet one sums up nothing: reading with it only checks the forms.
type digester struct {
	seq   hash.Hash
	bag   digest
	quiet bool
}

func newDigester(class byte) *digester {
	d := &digester{seq: sha256.New()}
	d.seq.Write([]byte{class})
	return d
}

func (d *digester) ordered(p []byte) {
	if d.quiet {
		return
	}
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(p)))
	d.seq.Write(n[:])
	d.seq.Write(p)
}

func (d *digester) number(n uint64) {
	if d.quiet {
		return
	}
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	d.seq.Write(b[:])
}

func (d *digester) member(parts ...[]byte) {
	if d.quiet {
		return
	}
	h := sha256.New()
	var n [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	d.bag.add(toDigest(h.Sum(nil)))
}

func (d *digester) sum() digest {
	d.seq.Write(d.bag.bytes())
	return toDigest(d.seq.Sum(nil))
}

// rdbForm says how a value type is read. A nil digester skips the value as
// cheaply as its form allows.
type rdbForm struct {
	name  string
	class byte // the same for all encodings of one type
	read  func(*rdbCursor, *digester)
}

// rdbTypes are the value types of Redis 2.6 to 8.0. The hash types with field
// expiry (24, 25) come from 7.4.
var rdbTypes = [256]rdbForm{
	0: {"string", 's', (*rdbCursor).plainString},
	1: {"list", 'l', (*rdbCursor).plainList},
	2: {"set", 'S', (*rdbCursor).plainSet},
	3: {"zset", 'z', func(c *rdbCursor, d *digester) { c.plainZSet(d, c.textDouble) }},
	4: {"hash", 'h', (*rdbCursor).plainHash},
	5: {"zset", 'z', func(c *rdbCursor, d *digester) {
		c.plainZSet(d, func() float64 { return math.Float64frombits(c.uint64le()) })
	}},
	7:  {"module", 'm', (*rdbCursor).moduleValue},
	10: {"list", 'l', func(c *rdbCursor, d *digester) { c.packed(d, ziplist, listOf) }},
	11: {"set", 'S', func(c *rdbCursor, d *digester) { c.packed(d, intset, setOf) }},
	12: {"zset", 'z', func(c *rdbCursor, d *digester) { c.packed(d, ziplist, zsetOf) }},
	13: {"hash", 'h', func(c *rdbCursor, d *digester) { c.packed(d, ziplist, hashOf) }},
	14: {"list", 'l', func(c *rdbCursor, d *digester) { c.quicklist(d, false) }},
	15: {"stream", 'x', func(c *rdbCursor, d *digester) { c.stream(d, 1) }},
	16: {"hash", 'h', func(c *rdbCursor, d *digester) { c.packed(d, listpack, hashOf) }},
	17: {"zset", 'z', func(c *rdbCursor, d *digester) { c.packed(d, listpack, zsetOf) }},
	18: {"list", 'l', func(c *rdbCursor, d *digester) { c.quicklist(d, true) }},
	19: {"stream", 'x', func(c *rdbCursor, d *digester) { c.stream(d, 2) }},
	20: {"set", 'S', func(c *rdbCursor, d *digester) { c.packed(d, listpack, setOf) }},
	21: {"stream", 'x', func(c *rdbCursor, d *digester) { c.stream(d, 3) }},
	24: {"hash", 'h', (*rdbCursor).hashWithExpiry},
	25: {"hash", 'h', func(c *rdbCursor, d *digester) { c.uint64le(); c.packed(d, listpack, hashExOf) }},
}

func (c *rdbCursor) plainString(d *digester) {
	if d == nil || (d.quiet && c.uncompressed()) {
		c.skipString()
		return
	}
	d.ordered(c.string())
}

// uncompressed says whether the next string is stored as it is.
func (c *rdbCursor) uncompressed() bool { return c.fill(1) && c.buf[c.pos] != 0xc3 }

func (c *rdbCursor) each(f func()) {
	for n := c.length(); n > 0 && c.err == nil; n-- {
		f()
	}
}

func (c *rdbCursor) plainList(d *digester) { c.each(func() { c.plainString(d) }) }

func (c *rdbCursor) plainSet(d *digester) {
	c.each(func() {
		if d == nil {
			c.skipString()
		} else {
			d.member(c.string())
		}
	})
}

func (c *rdbCursor) plainZSet(d *digester, score func() float64) {
	c.each(func() {
		if d == nil {
			c.skipString()
			score()
			return
		}
		m := append([]byte(nil), c.string()...)
		d.member(m, scoreBytes(score()))
	})
}

func (c *rdbCursor) plainHash(d *digester) {
	c.each(func() {
		if d == nil {
			c.skipString()
			c.skipString()
			return
		}
		f := append([]byte(nil), c.string()...)
		d.member(f, c.string())
	})
}

// hashWithExpiry has the earliest expiry first and each field's as a distance
// to it, plus one, 0 being none.
func (c *rdbCursor) hashWithExpiry(d *digester) {
	first := c.uint64le()
	c.each(func() {
		ttl := c.length()
		f := append([]byte(nil), c.string()...)
		v := c.string()
		if d == nil {
			return
		}
		if ttl == 0 {
			d.member(f, v)
		} else {
			d.member(f, v, strconv.AppendUint(nil, first+ttl-1, 10))
		}
	})
}

// textDouble is the score form of RDB versions before 8.
func (c *rdbCursor) textDouble() float64 {
	switch n := c.byte(); n {
	case 253:
		return math.NaN()
	case 254:
		return math.Inf(1)
	case 255:
		return math.Inf(-1)
	default:
		f, err := strconv.ParseFloat(string(c.take(int(n))), 64)
		if err != nil {
			c.failf("a score that is not a number")
		}
		return f
	}
}

func scoreBytes(f float64) []byte {
	return binary.BigEndian.AppendUint64(nil, math.Float64bits(f))
}

// packed reads a value that is one string holding all elements.
func (c *rdbCursor) packed(d *digester, split func([]byte) ([][]byte, error), use func(*digester, [][]byte) error) {
	if d == nil {
		c.skipString()
		return
	}
	elements, err := split(c.string())
	if err == nil && c.err == nil {
		err = use(d, elements)
	}
	if err != nil {
		c.failf("%w", err)
	}
}

var errPacked = errors.New("a packed value is damaged")

func listOf(d *digester, e [][]byte) error {
	for _, x := range e {
		d.ordered(x)
	}
	return nil
}

func setOf(d *digester, e [][]byte) error {
	for _, x := range e {
		d.member(x)
	}
	return nil
}

func hashOf(d *digester, e [][]byte) error {
	if len(e)%2 != 0 {
		return errPacked
	}
	for i := 0; i < len(e); i += 2 {
		d.member(e[i], e[i+1])
	}
	return nil
}

func hashExOf(d *digester, e [][]byte) error {
	if len(e)%3 != 0 {
		return errPacked
	}
	for i := 0; i < len(e); i += 3 {
		if string(e[i+2]) == "0" {
			d.member(e[i], e[i+1])
		} else {
			d.member(e[i], e[i+1], e[i+2])
		}
	}
	return nil
}

func zsetOf(d *digester, e [][]byte) error {
	if len(e)%2 != 0 {
		return errPacked
	}
	for i := 0; i < len(e); i += 2 {
		score, err := strconv.ParseFloat(string(e[i+1]), 64)
		if err != nil {
			return errPacked
		}
		d.member(e[i], scoreBytes(score))
	}
	return nil
}

// quicklist is a list of packed lists; from RDB version 10 on a node may be a
// single element that was too large to pack.
func (c *rdbCursor) quicklist(d *digester, containers bool) {
	c.each(func() {
		plain := containers && c.length() == 1
		switch {
		case d == nil:
			c.skipString()
		case plain:
			d.ordered(c.string())
		case containers:
			c.packed(d, listpack, listOf)
		default:
			c.packed(d, ziplist, listOf)
		}
	})
}

// stream reads the three generations of streams (Redis 5.0, 7.0, 7.2).
func (c *rdbCursor) stream(d *digester, generation int) {
	str, num, raw := c.skipString, func() { c.length() }, func(n int) { c.take(n) }
	if d != nil {
		str = func() { d.ordered(c.string()) }
		num = func() { d.number(c.length()) }
		raw = func(n int) { d.ordered(c.take(n)) }
	}
	nums := func(n int) {
		for range n {
			num()
		}
	}
	c.each(func() { str(); str() })
	nums(3) // length, last id
	if generation >= 2 {
		nums(5) // first id, greatest deleted id, entries added
	}
	c.each(func() { // consumer groups
		str()
		nums(2)
		if generation >= 2 {
			num()
		}
		c.each(func() { raw(16); raw(8); num() }) // pending entries
		c.each(func() {                           // consumers
			str()
			raw(8)
			if generation >= 3 {
				raw(8)
			}
			c.each(func() { raw(16) })
		})
	})
}

func (c *rdbCursor) moduleValue(d *digester) {
	id := c.length()
	if d != nil {
		d.number(id)
	}
	c.module(d)
}

// module reads what a module wrote: pieces that each carry their kind.
func (c *rdbCursor) module(d *digester) {
	for c.err == nil {
		op := c.length()
		if d != nil {
			d.number(op)
		}
		switch op {
		case 0:
			return
		case 1, 2:
			n := c.length()
			if d != nil {
				d.number(n)
			}
		case 3, 4:
			p := c.take(4 * int(op-2))
			if d != nil {
				d.ordered(p)
			}
		case 5:
			c.plainString(d)
		default:
			c.failf("module value with piece %d", op)
		}
	}
}

// intset splits a packed set of integers.
func intset(p []byte) ([][]byte, error) {
	if len(p) < 8 {
		return nil, errPacked
	}
	width, n := int(binary.LittleEndian.Uint32(p)), int(binary.LittleEndian.Uint32(p[4:]))
	p = p[8:]
	if (width != 2 && width != 4 && width != 8) || len(p) != n*width {
		return nil, errPacked
	}
	out := make([][]byte, 0, n)
	for ; len(p) > 0; p = p[width:] {
		out = append(out, strconv.AppendInt(nil, littleEndian(p[:width]), 10))
	}
	return out, nil
}

// littleEndian reads a signed integer of any width up to eight bytes.
func littleEndian(p []byte) int64 {
	var u uint64
	for i, b := range p {
		u |= uint64(b) << (8 * i)
	}
	shift := 64 - 8*len(p)
	return int64(u<<shift) >> shift
}

// listpack splits the packed list of Redis 7.0 and newer.
func listpack(p []byte) ([][]byte, error) {
	if len(p) < 7 || int(binary.LittleEndian.Uint32(p)) != len(p) || p[len(p)-1] != 0xff {
		return nil, errPacked
	}
	var out [][]byte
	for i := 6; i < len(p)-1; {
		size, element, ok := listpackElement(p[i : len(p)-1])
		if !ok {
			return nil, errPacked
		}
		out = append(out, element)
		back := 1
		for _, limit := range []int{1<<7 - 1, 1<<14 - 1, 1<<21 - 1, 1<<28 - 1} {
			if size > limit {
				back++
			}
		}
		i += size + back
		if i > len(p)-1 {
			return nil, errPacked
		}
	}
	if n := binary.LittleEndian.Uint16(p[4:]); n != 0xffff && int(n) != len(out) {
		return nil, errPacked
	}
	return out, nil
}

func listpackElement(p []byte) (size int, element []byte, ok bool) {
	number := func(size int, n int64) (int, []byte, bool) { return size, strconv.AppendInt(nil, n, 10), true }
	text := func(head, n int) (int, []byte, bool) {
		if n < 0 || head+n > len(p) {
			return 0, nil, false
		}
		return head + n, p[head : head+n], true
	}
	b := p[0]
	wide := 1
	switch {
	case b < 0xc0:
	case b < 0xf0:
		wide = 2
	case b == 0xf0, b == 0xf3:
		wide = 5
	case b == 0xf1:
		wide = 3
	case b == 0xf2:
		wide = 4
	case b == 0xf4:
		wide = 9
	default:
		return 0, nil, false
	}
	if len(p) < wide {
		return 0, nil, false
	}
	switch {
	case b < 0x80:
		return number(1, int64(b))
	case b < 0xc0:
		return text(1, int(b&0x3f))
	case b < 0xe0:
		n := int64(b&0x1f)<<8 | int64(p[1])
		return number(2, n<<51>>51)
	case b < 0xf0:
		return text(2, int(b&0x0f)<<8|int(p[1]))
	case b == 0xf0:
		return text(5, int(binary.LittleEndian.Uint32(p[1:])))
	}
	return number(wide, littleEndian(p[1:wide]))
}

// ziplist splits the packed list of Redis before 7.0.
func ziplist(p []byte) ([][]byte, error) {
	if len(p) < 11 || int(binary.LittleEndian.Uint32(p)) != len(p) || p[len(p)-1] != 0xff {
		return nil, errPacked
	}
	var out [][]byte
	for i := 10; i < len(p)-1; {
		if p[i] == 0xfe {
			i += 5
		} else {
			i++
		}
		if i >= len(p)-1 {
			return nil, errPacked
		}
		size, element, ok := ziplistElement(p[i : len(p)-1])
		if !ok {
			return nil, errPacked
		}
		out = append(out, element)
		i += size
	}
	if n := binary.LittleEndian.Uint16(p[8:]); n != 0xffff && int(n) != len(out) {
		return nil, errPacked
	}
	return out, nil
}

func ziplistElement(p []byte) (size int, element []byte, ok bool) {
	b := p[0]
	head, n := 1, 0
	switch {
	case b < 0x40:
		n = int(b)
	case b < 0x80 && len(p) >= 2:
		head, n = 2, int(b&0x3f)<<8|int(p[1])
	case b == 0x80 && len(p) >= 5:
		head, n = 5, int(binary.BigEndian.Uint32(p[1:]))
	case b >= 0xf1 && b <= 0xfd:
		return 1, strconv.AppendInt(nil, int64(b&0x0f)-1, 10), true
	default:
		width, known := map[byte]int{0xc0: 2, 0xd0: 4, 0xe0: 8, 0xf0: 3, 0xfe: 1}[b]
		if !known || len(p) < 1+width {
			return 0, nil, false
		}
		return 1 + width, strconv.AppendInt(nil, littleEndian(p[1:1+width]), 10), true
	}
	if n < 0 || head+n > len(p) {
		return 0, nil, false
	}
	return head + n, p[head : head+n], true
}
