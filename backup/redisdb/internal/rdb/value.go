package rdb

import (
	"encoding/binary"
	"math"
	"strconv"
)

// form reads a value type. A nil digester skips the value as cheaply as its form allows.
type form struct {
	name  string
	class byte // the same for all encodings of one type
	read  func(*cursor, *digester)
}

// forms are the value types of Redis 2.6 to 8.8 and of Valkey. Type 6, module
// values of 4.0's release candidates, can be read by their module alone; 28 and
// following come from Redis 8.10.
var forms = [256]form{
	0: {"string", 's', (*cursor).plainString},
	1: {"list", 'l', (*cursor).plainList},
	2: {"set", 'S', (*cursor).plainSet},
	3: {"zset", 'z', func(c *cursor, d *digester) { c.plainZSet(d, c.textDouble) }},
	4: {"hash", 'h', (*cursor).plainHash},
	5: {"zset", 'z', func(c *cursor, d *digester) {
		c.plainZSet(d, func() float64 { return math.Float64frombits(c.uint64le()) })
	}},
	7:  {"module", 'm', (*cursor).moduleValue},
	9:  {"hash", 'h', func(c *cursor, d *digester) { c.packed(d, zipmap, hashOf) }},
	10: {"list", 'l', func(c *cursor, d *digester) { c.packed(d, ziplist, listOf) }},
	11: {"set", 'S', func(c *cursor, d *digester) { c.packed(d, intset, setOf) }},
	12: {"zset", 'z', func(c *cursor, d *digester) { c.packed(d, ziplist, zsetOf) }},
	13: {"hash", 'h', func(c *cursor, d *digester) { c.packed(d, ziplist, hashOf) }},
	14: {"list", 'l', func(c *cursor, d *digester) { c.quicklist(d, false) }},
	15: {"stream", 'x', func(c *cursor, d *digester) { c.streamValue(d, 1) }},
	16: {"hash", 'h', func(c *cursor, d *digester) { c.packed(d, listpack, hashOf) }},
	17: {"zset", 'z', func(c *cursor, d *digester) { c.packed(d, listpack, zsetOf) }},
	18: {"list", 'l', func(c *cursor, d *digester) { c.quicklist(d, true) }},
	19: {"stream", 'x', func(c *cursor, d *digester) { c.streamValue(d, 2) }},
	20: {"set", 'S', func(c *cursor, d *digester) { c.packed(d, listpack, setOf) }},
	21: {"stream", 'x', func(c *cursor, d *digester) { c.streamValue(d, 3) }},
	22: {"hash", 'h', func(c *cursor, d *digester) {
		if c.valkey {
			c.hashValkey(d)
		} else {
			c.hashExpiring(d, 1) // 7.4 release candidates: the time itself
		}
	}},
	23: {"hash", 'h', func(c *cursor, d *digester) { c.packed(d, listpack, hashExOf) }},
	24: {"hash", 'h', func(c *cursor, d *digester) { c.hashExpiring(d, c.uint64le()) }},
	25: {"hash", 'h', func(c *cursor, d *digester) { c.uint64le(); c.packed(d, listpack, hashExOf) }},
	26: {"stream", 'x', func(c *cursor, d *digester) { c.streamValue(d, 4) }},
	27: {"stream", 'x', func(c *cursor, d *digester) { c.streamValue(d, 5) }},
}

func (c *cursor) plainString(d *digester) {
	if d == nil || (d.quiet && c.uncompressed()) {
		c.skipString()
		return
	}
	c.orderedString(d)
}

// uncompressed reports whether the next string is not compressed.
func (c *cursor) uncompressed() bool { return c.fill(1) && c.buf[c.pos] != 0xc3 }

// eachElement does the same as each and notes empty collections, which servers do not load.
func (c *cursor) eachElement(f func()) {
	n := c.length()
	c.elements += int64(n)
	for ; n > 0 && c.err == nil; n-- {
		f()
	}
}

func (c *cursor) plainList(d *digester) { c.eachElement(func() { c.plainString(d) }) }

func (c *cursor) plainSet(d *digester) {
	c.eachElement(func() {
		if d == nil {
			c.skipString()
			return
		}
		c.stringPart(d)
		d.endMember()
	})
}

func (c *cursor) plainZSet(d *digester, score func() float64) {
	c.eachElement(func() {
		if d == nil {
			c.skipString()
			score()
			return
		}
		c.stringPart(d)
		d.part(scoreBytes(score()))
		d.endMember()
	})
}

func (c *cursor) plainHash(d *digester) {
	c.eachElement(func() {
		if d == nil {
			c.skipString()
			c.skipString()
			return
		}
		c.stringPart(d)
		c.stringPart(d)
		d.field(0)
	})
}

// field ends a field of a hash that expires at the given Unix time in ms.
func (d *digester) field(expire int64) {
	switch {
	case expire == 0:
		d.kept = true
	case expire <= d.cutoff:
		d.dropMember()
		return
	default:
		d.kept = true
		d.part(strconv.AppendInt(nil, expire, 10))
	}
	d.endMember()
}

// hashExpiring has the earliest expiry first and each field's as a distance to
// it, plus one, 0 being none.
func (c *cursor) hashExpiring(d *digester, first uint64) {
	c.eachElement(func() {
		ttl := c.length()
		if d == nil {
			c.skipString()
			c.skipString()
			return
		}
		c.stringPart(d)
		c.stringPart(d)
		if ttl > 0 {
			ttl += first - 1
		}
		d.field(int64(ttl))
	})
}

// hashValkey has each field's expiry after its value, negative being none.
func (c *cursor) hashValkey(d *digester) {
	c.eachElement(func() {
		if d == nil {
			c.skipString()
			c.skipString()
			c.take(8)
			return
		}
		c.stringPart(d)
		c.stringPart(d)
		d.field(max(0, int64(c.uint64le())))
	})
}

// textDouble is the score form of RDB versions before 8.
func (c *cursor) textDouble() float64 {
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
func (c *cursor) packed(d *digester, split func([]byte) ([][]byte, error), use func(*digester,
	[][]byte) error) {
	if d == nil {
		c.emptyPacked()
		return
	}
	elements, err := split(c.whole(maxPacked))
	c.elements += int64(len(elements))
	if err == nil && c.err == nil {
		err = use(d, elements)
	}
	if err != nil {
		c.failf("%w", err)
	}
}

// emptyPacked skips a packed value. One of more than 16 bytes has an element.
func (c *cursor) emptyPacked() {
	if !c.fill(1) {
		return
	}
	if c.buf[c.pos] > 16 {
		c.elements++
		c.skipString()
		return
	}
	p := c.string()
	for _, split := range []func([]byte) ([][]byte, error){listpack, ziplist, intset, zipmap} {
		if e, err := split(p); err == nil && len(e) == 0 {
			return
		}
	}
	c.elements++
}

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
		d.part(e[i])
		d.part(e[i+1])
		d.field(0)
	}
	return nil
}

func hashExOf(d *digester, e [][]byte) error {
	if len(e)%3 != 0 {
		return errPacked
	}
	for i := 0; i < len(e); i += 3 {
		expire, err := strconv.ParseInt(string(e[i+2]), 10, 64)
		if err != nil {
			return errPacked
		}
		d.part(e[i])
		d.part(e[i+1])
		d.field(expire)
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
func (c *cursor) quicklist(d *digester, containers bool) {
	c.each(func() {
		plain := containers && c.length() == 1
		switch {
		case d == nil && plain:
			c.elements++
			c.skipString()
		case d == nil:
			c.emptyPacked()
		case plain:
			c.elements++
			c.orderedString(d)
		case containers:
			c.packed(d, listpack, listOf)
		default:
			c.packed(d, ziplist, listOf)
		}
	})
}

func (c *cursor) moduleValue(d *digester) {
	id := c.length()
	c.moduleID = id
	if d != nil {
		d.number(id)
	}
	c.elements++
	c.module(d)
}

// module reads what a module wrote: pieces that each carry their kind.
func (c *cursor) module(d *digester) {
	for c.err == nil {
		op := c.length()
		if d != nil {
			d.number(op)
		}
		switch op {
		case 0:
			return
		case 1, 2:
			c.numbers(d, 1)
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

// moduleName is the name of nine characters in a module type's id.
func moduleName(id uint64) string {
	const chars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	name := make([]byte, 9)
	for i := range name {
		name[i] = chars[id>>(58-6*i)&63]
	}
	return string(name)
}
