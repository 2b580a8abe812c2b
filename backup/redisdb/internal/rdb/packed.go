package rdb

import (
	"encoding/binary"
	"errors"
	"strconv"
)

var errPacked = errors.New("a packed value is damaged")

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
	out := make([][]byte, 0, min(int(binary.LittleEndian.Uint16(p[4:])), len(p)/2))
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
	number := func(size int, n int64) (int, []byte, bool) {
		return size, strconv.AppendInt(nil, n, 10), true
	}
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

// zipmap splits the packed hash of Redis before 2.6: lengths of one byte, or
// 254 and four, and after a value so many unused bytes as the byte before says.
func zipmap(p []byte) ([][]byte, error) {
	if len(p) < 2 || p[len(p)-1] != 0xff {
		return nil, errPacked
	}
	var out [][]byte
	body := p[1 : len(p)-1]
	for len(body) > 0 {
		n, head := int(body[0]), 1
		if n == 254 {
			if len(body) < 5 {
				return nil, errPacked
			}
			n, head = int(binary.LittleEndian.Uint32(body[1:])), 5
		}
		unused := 0
		if isValue := len(out)%2 == 1; isValue {
			if len(body) <= head {
				return nil, errPacked
			}
			unused = int(body[head])
			head++
		}
		if body[0] == 255 || n > len(body)-head-unused {
			return nil, errPacked
		}
		out = append(out, body[head:head+n])
		body = body[head+n+unused:]
	}
	if len(out)%2 != 0 || (p[0] < 254 && int(p[0]) != len(out)/2) {
		return nil, errPacked
	}
	return out, nil
}
