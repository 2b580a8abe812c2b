package rdb

import (
	"encoding/binary"
	"strconv"
)

// streamValue reads the five generations of streams (Redis 5.0, 7.0, 7.2, 8.6 and 8.8). Its sum has
// what every generation has and a user can see: entries with their IDs, the last ID, groups,
// consumers and pending entries. It leaves out newer counters, times of consumers, and the
// identifiers of idempotent producers.
func (c *cursor) streamValue(d *digester, generation int) {
	entries := uint64(0)
	c.each(func() {
		if d == nil {
			c.skipString()
			c.skipString()
			return
		}
		id := append([]byte(nil), c.string()...)
		if len(id) != 16 {
			c.failf("%w", errPacked)
			return
		}
		n, err := streamNode(d, id, c.whole(maxPacked))
		if err != nil {
			c.failf("%w", err)
		}
		entries += n
	})
	if n := c.length(); d != nil && c.err == nil && n != entries {
		c.failf("a stream has %d entries, its header says %d", entries, n)
	}
	c.numbers(d, 2) // last id
	if generation >= 2 {
		c.numbers(nil, 5) // first id, greatest deleted id, entries added
	}
	c.each(func() { c.streamGroup(d, generation) })
	if generation >= 4 {
		c.numbers(nil, 2) // how long and how many identifiers are remembered
		c.each(func() {
			c.skipString()
			c.take(16)
		})
		c.numbers(nil, 2) // identifiers added, duplicates
	}
}

// numbers reads n lengths.
func (c *cursor) numbers(d *digester, n int) {
	for range n {
		x := c.length()
		if d != nil {
			d.number(x)
		}
	}
}

func (c *cursor) streamGroup(d *digester, generation int) {
	raw := func(n int) {
		p := c.take(n)
		if d != nil {
			d.ordered(p)
		}
	}
	c.plainString(d)
	c.numbers(d, 2) // last id delivered
	if generation >= 2 {
		c.length() // entries read
	}
	count := func(f func()) {
		n := c.length()
		if d != nil {
			d.number(n)
		}
		for ; n > 0 && c.err == nil; n-- {
			f()
		}
	}
	count(func() { // pending: id, time and number of deliveries
		raw(16)
		raw(8)
		c.numbers(d, 1)
	})
	count(func() { // consumers
		c.plainString(d)
		c.take(8) // seen
		if generation >= 3 {
			c.take(8) // active
		}
		count(func() { raw(16) }) // pending
	})
	if generation >= 5 {
		c.each(func() { c.take(16) }) // pending entries that no consumer has
	}
}

const (
	streamDeleted    = 1
	streamSameFields = 2
)

// streamNode reads the entries of one node: a packed list that begins with the
// numbers of entries and deleted ones and the fields that most entries have.
func streamNode(d *digester, id, packed []byte) (entries uint64, err error) {
	e, err := listpack(packed)
	if err != nil {
		return 0, err
	}
	number := func() int64 {
		if len(e) == 0 {
			err = errPacked
			return 0
		}
		n, bad := strconv.ParseInt(string(e[0]), 10, 64)
		if bad != nil {
			err = errPacked
		}
		e = e[1:]
		return n
	}
	take := func(n int64) [][]byte {
		if n < 0 || n > int64(len(e)) {
			err = errPacked
			return nil
		}
		p := e[:n]
		e = e[n:]
		return p
	}
	live := number()
	number()
	fields := take(number())
	number() // a zero ends the head
	ms, seq := binary.BigEndian.Uint64(id), binary.BigEndian.Uint64(id[8:])
	for len(e) > 0 && err == nil {
		flags := number()
		entryMS, entrySeq := ms+uint64(number()), seq+uint64(number())
		names, values := fields, [][]byte(nil)
		if flags&streamSameFields != 0 {
			values = take(int64(len(fields)))
		} else {
			pairs := take(2 * number())
			names = nil
			for i := 0; i+1 < len(pairs); i += 2 {
				names, values = append(names, pairs[i]), append(values, pairs[i+1])
			}
		}
		number() // how many elements this entry has
		if err != nil {
			break
		}
		if flags&streamDeleted != 0 {
			continue
		}
		entries++
		d.number(entryMS)
		d.number(entrySeq)
		d.number(uint64(len(names)))
		for i := range names {
			d.ordered(names[i])
			d.ordered(values[i])
		}
	}
	if err == nil && entries != uint64(live) {
		err = errPacked
	}
	return entries, err
}
