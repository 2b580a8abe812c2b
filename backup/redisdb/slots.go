package redisdb

import (
	"bytes"
	"fmt"
	"strings"
)

// slotTable maps each slot of a cluster to its node. nil: there is only one node.
type slotTable []uint16

// slotOwners returns the owners of all slots.
func slotOwners(nodes []*node) slotTable {
	if len(nodes) == 1 && nodes[0].slots == "" {
		return nil
	}
	t := make(slotTable, slotCount)
	for i, n := range nodes {
		for _, r := range strings.Split(n.slots, ",") {
			var from, to int
			if _, err := fmt.Sscanf(r, "%d-%d", &from, &to); err == nil {
				for s := from; s <= to && s < slotCount; s++ {
					t[s] = uint16(i)
				}
			}
		}
	}
	return t
}

func (t slotTable) of(key []byte) int {
	if t == nil {
		return 0
	}
	return int(t[slotOf(key)])
}

// slotOf returns the slot of a key (cluster specification). It is the CRC-16 (XMODEM) of the key,
// or of the text in its first braces if that is not empty.
func slotOf(key []byte) int {
	if i := bytes.IndexByte(key, '{'); i >= 0 {
		if j := bytes.IndexByte(key[i+1:], '}'); j > 0 {
			key = key[i+1 : i+1+j]
		}
	}
	var crc uint16
	for _, b := range key {
		crc = crc<<8 ^ crc16[byte(crc>>8)^b]
	}
	return int(crc) % slotCount
}

var crc16 = func() (t [256]uint16) {
	for i := range t {
		c := uint16(i) << 8
		for range 8 {
			if c&0x8000 != 0 {
				c = c<<1 ^ 0x1021
			} else {
				c <<= 1
			}
		}
		t[i] = c
	}
	return t
}()
