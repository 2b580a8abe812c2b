package rdb

import (
	"encoding/binary"
	"math/bits"
)

// crcTables advance a CRC by 16 bytes at a time. The standard library would go byte by byte
// for a polynomial that it does not know, or make tables in each call.
var crcTables = func() (t [16][256]uint64) {
	jones := bits.Reverse64(0xad93d23594c935a9)
	for i := range t[0] {
		crc := uint64(i)
		for range 8 {
			crc = crc>>1 ^ -(crc&1)&jones
		}
		t[0][i] = crc
	}
	for k := 1; k < len(t); k++ {
		for i, crc := range t[k-1] {
			t[k][i] = t[0][byte(crc)] ^ crc>>8
		}
	}
	return t
}()

// CRC updates the CRC-64 of Redis, which is not inverted at its start and end. The race detector
// would look at each byte and at sixteen constants; whoever filled p is under its eyes.
//
//go:norace
func CRC(crc uint64, p []byte) uint64 {
	t := &crcTables
	for len(p) >= 16 {
		a, b := crc^binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])
		crc = t[15][byte(a)] ^ t[14][byte(a>>8)] ^ t[13][byte(a>>16)] ^ t[12][byte(a>>24)] ^
			t[11][byte(a>>32)] ^ t[10][byte(a>>40)] ^ t[9][byte(a>>48)] ^ t[8][a>>56] ^
			t[7][byte(b)] ^ t[6][byte(b>>8)] ^ t[5][byte(b>>16)] ^ t[4][byte(b>>24)] ^
			t[3][byte(b>>32)] ^ t[2][byte(b>>40)] ^ t[1][byte(b>>48)] ^ t[0][b>>56]
		p = p[16:]
	}
	for _, v := range p {
		crc = t[0][byte(crc)^v] ^ crc>>8
	}
	return crc
}
