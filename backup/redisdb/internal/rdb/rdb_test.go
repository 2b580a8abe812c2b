package rdb

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc64"
	"math/bits"
	"strings"
	"testing"
	"testing/iotest"
)

// The check value of CRC-64/Jones as Redis documents it.
func TestCRC(t *testing.T) {
	t.Parallel()
	if got := CRC(0, []byte("123456789")); got != 0xe9c6d914c4b8d9ca {
		t.Errorf("%x", got)
	}
	// Of any length, in pieces of any length, as the standard library has it.
	table := crc64.MakeTable(bits.Reverse64(0xad93d23594c935a9))
	p := bytes.Repeat([]byte("0123456789abcdef!"), 9)
	for n := range p {
		want := ^crc64.Update(^uint64(0), table, p[:n])
		if got := CRC(CRC(0, p[:n/3]), p[n/3:n]); got != want {
			t.Errorf("%d bytes: %x instead of %x", n, got, want)
		}
	}
}

// str is a string as a file has it.
func str(s string) string { return string(AppendLength(nil, uint64(len(s)))) + s }

// fileOf puts a body between header and footer.
func fileOf(version int, body string) []byte {
	head := fmt.Sprintf("REDIS%04d", version)
	if version == MaxValkey {
		head = "VALKEY080"
	}
	p := []byte(head + body + "\xff")
	return binary.LittleEndian.AppendUint64(p, CRC(0, p))
}

// keyOf is a file with one value, whose first byte is its type.
func keyOf(version int, value string) []byte {
	return fileOf(version, "\xfe\x00"+value[:1]+str("key")+value[1:])
}

func listpackOf(elements ...string) string {
	body := strings.Join(elements, "")
	p := binary.LittleEndian.AppendUint32(nil, uint32(7+len(body)))
	p = binary.LittleEndian.AppendUint16(p, uint16(len(elements)))
	return string(append(append(p, body...), 0xff))
}

func ziplistOf(elements ...string) string {
	body := strings.Join(elements, "")
	p := binary.LittleEndian.AppendUint32(nil, uint32(11+len(body)))
	p = binary.LittleEndian.AppendUint32(p, 0)
	p = binary.LittleEndian.AppendUint16(p, uint16(len(elements)))
	return string(append(append(p, body...), 0xff))
}

func le64(n int64) string { return string(binary.LittleEndian.AppendUint64(nil, uint64(n))) }

// Each row is one value in several encodings, of old and new servers; they sum
// up to the same.
var encodings = map[string][]string{
	"string":     {"\x00" + str("ab"), "\x00\x02ab"},
	"integer":    {"\x00" + str("-7"), "\x00\xc0\xf9", "\x00\xc1\xf9\xff", "\x00\xc2\xf9\xff\xff\xff"},
	"compressed": {"\x00" + str("aaaaaaaaaa"), "\x00\xc3\x05\x0a\x00a\xe0\x00\x00"},
	"list": {
		"\x01\x03" + str("a") + str("-1") + str("300"),
		"\x0a" + str(ziplistOf("\x00\x01a", "\x03\xfe\xff", "\x03\xc0\x2c\x01")),
		"\x0e\x02" + str(ziplistOf("\x00\x01a")) + str(ziplistOf("\x00\xfe\xff", "\x03\xc0\x2c\x01")),
		"\x12\x01\x02" + str(listpackOf("\x81a\x02", "\xdf\xff\x02", "\xc1\x2c\x02")),
		"\x12\x02\x01\x01a\x02" + str(listpackOf("\xdf\xff\x02", "\xf1\x2c\x01\x04")),
	},
	"set": {
		"\x02\x02" + str("1") + str("2"), "\x02\x02" + str("2") + str("1"),
		"\x0b" + str("\x02\x00\x00\x00\x02\x00\x00\x00\x01\x00\x02\x00"),
		"\x0b" + str("\x08\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00"),
		"\x14" + str(listpackOf("\x01\x01", "\x02\x01")),
	},
	"zset": {
		"\x03\x01" + str("m") + "\x031.5", "\x05\x01" + str("m") + "\x00\x00\x00\x00\x00\x00\xf8\x3f",
		"\x0c" + str(ziplistOf("\x00\x01m", "\x03\x031.5")), "\x11" + str(listpackOf("\x81m\x02",
			"\x831.5\x04")),
	},
	"hash": {
		"\x04\x01" + str("f") + str("v"), "\x0d" + str(ziplistOf("\x00\x01f", "\x03\x01v")), "\x10" +
			str(listpackOf("\x81f\x02", "\x81v\x02")),
		"\x09" + str("\x01\x01f\x01\x00v\xff"), "\x09" + str("\x01\x01f\x01\x02v..\xff"), "\x09" +
			str("\xfe\xfe\x01\x00\x00\x00f\x01\x00v\xff"),
		"\x16\x01\x00" + str("f") + str("v"), "\x17" + str(listpackOf("\x81f\x02", "\x81v\x02",
			"\x00\x01")),
		"\x18" + le64(0) + "\x01\x00" + str("f") + str("v"),
		"\x19" + le64(0) + str(listpackOf("\x81f\x02", "\x81v\x02", "\x00\x01")),
	},
	"hash with field expiry": {
		"\x18" + le64(100) + "\x01\x06" + str("f") + str("v"), // 100 ms, plus 5
		"\x19" + le64(100) + str(listpackOf("\x81f\x02", "\x81v\x02", "\x69\x01")),
		"\x16\x01\x40\x69" + str("f") + str("v"), "\x17" + str(listpackOf("\x81f\x02", "\x81v\x02",
			"\x69\x01")),
	},
	"stream": {
		streamOf(1), streamOf(2), streamOf(3), streamOf(4), streamOf(5),
	},
}

// streamOf is a stream of two entries, one more that was deleted, and a group
// whose consumer has one entry pending, as each generation has it.
func streamOf(generation int) string {
	small := func(n int) string { return string([]byte{byte(n), 1}) }
	node := listpackOf(small(2), small(1), small(1), "\x81f\x02", small(0),
		small(2), small(0), small(0), "\x81v\x02", small(4),
		small(3), small(1), small(0), "\x81x\x02", small(4),
		small(0), small(2), small(7), small(1), "\x81g\x02", "\x81w\x02", small(6))
	id := "\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x01"
	s := map[int]string{1: "\x0f", 2: "\x13", 3: "\x15", 4: "\x1a", 5: "\x1b"}[generation]
	s += "\x01" + str(id) + str(node) + "\x02\x07\x08"
	if generation >= 2 {
		s += "\x05\x01\x06\x01\x03"
	}
	s += "\x01" + str("group") + "\x05\x01"
	if generation >= 2 {
		s += "\x01"
	}
	s += "\x01" + id + le64(1000) + "\x03" + "\x01" + str("consumer") + le64(2000)
	if generation >= 3 {
		s += le64(3000)
	}
	s += "\x01" + id
	if generation >= 5 {
		s += "\x00"
	}
	if generation >= 4 {
		s += "\x0a\x0b\x01" + str("producer") + strings.Repeat("\x00", 16) + "\x01\x00"
	}
	return s
}

func TestEncodings(t *testing.T) {
	t.Parallel()
	for name, rows := range encodings {
		var first Digest
		for i, row := range rows {
			file := keyOf(14, row)
			for _, v := range []Visit{{}, {Check: true}} {
				if info, err := Read(t.Context(), bytes.NewReader(file), v); err != nil || info.Keys != 1 ||
					info.Empty != 0 {
					t.Fatalf("%s %d %+v: %+v %v", name, i, v, info, err)
				}
			}
			var got Digest
			_, err := Read(t.Context(), iotest.OneByteReader(bytes.NewReader(file)), Visit{Digest: true,
				Key: func(k *Key) error {
					got = k.Digest
					if string(k.Name) != "key" || string(k.Raw) != row[1:] ||
						string(file[k.Start:k.End]) != row[1:] {
						t.Errorf("%s %d: key %q, value %q", name, i, k.Name, k.Raw)
					}
					return nil
				}})
			if i == 0 {
				first = got
			}
			if err != nil || got != first {
				t.Errorf("%s: encoding %d sums up to another value (%v)", name, i, err)
			}
			if row[0] == 0x16 {
				continue // Valkey's meaning of this type is the one of DUMP
			}
			payload := AppendFooter([]byte(row), 14, CRC(0, []byte(row)))
			if sum, _, err := DumpDigest(t.Context(), bytes.NewReader(payload), int64(len(payload)),
				0); err != nil || sum != first {
				t.Errorf("%s: DUMP of encoding %d sums up to another value (%v)", name, i, err)
			}
			for at := range payload {
				bad := bytes.Clone(payload)
				bad[at] ^= 0x10
				if _, _, err := DumpDigest(t.Context(), bytes.NewReader(bad), int64(len(bad)), 0); err == nil {
					t.Errorf("%s: byte %d of DUMP flipped, and no error", name, at)
				}
			}
		}
	}
}

// What a user can see of a value changes its sum.
func TestDigestSees(t *testing.T) {
	t.Parallel()
	sum := func(row string) Digest {
		var d Digest
		if _, err := Read(t.Context(), bytes.NewReader(keyOf(14, row)), Visit{Digest: true,
			Key: func(k *Key) error { d = k.Digest; return nil }}); err != nil {
			t.Fatal(err)
		}
		return d
	}
	base := streamOf(3)
	id := "\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x01"
	for name, change := range map[string][2]string{
		"value":         {"\x81w\x02", "\x81W\x02"},
		"field":         {"\x81f\x02", "\x81F\x02"},
		"last id":       {"\x02\x07\x08", "\x02\x07\x09"},
		"group":         {"group", "Group"},
		"delivered":     {"group\x05\x01", "group\x05\x02"},
		"pending id":    {id + le64(1000), strings.Replace(id, "\x05", "\x06", 1) + le64(1000)},
		"pending time":  {le64(1000), le64(1001)},
		"pending count": {le64(1000) + "\x03", le64(1000) + "\x04"},
		"consumer":      {"consumer", "Consumer"},
		"consumer's own": {le64(3000) + "\x01" + id, le64(3000) + "\x01" + strings.Replace(id, "\x05",
			"\x06", 1)},
		"consumer's none": {le64(3000) + "\x01" + id, le64(3000) + "\x00"},
	} {
		changed := strings.Replace(base, change[0], change[1], 1)
		if changed == base {
			t.Fatalf("%s: nothing to change", name)
		}
		if sum(changed) == sum(base) {
			t.Errorf("%s: a change is not seen", name)
		}
	}
	for name, change := range map[string][2]string{
		"seen": {le64(2000), le64(2001)}, "active": {le64(3000), le64(3001)},
	} {
		if sum(strings.Replace(base, change[0], change[1], 1)) != sum(base) {
			t.Errorf("%s: not every generation knows it", name)
		}
	}
}

// Fields that expire soon do not count, and a hash that has no other is gone.
func TestFieldExpiry(t *testing.T) {
	t.Parallel()
	read := func(version int, row string, cutoff int64) (d Digest, gone bool) {
		_, err := Read(t.Context(), bytes.NewReader(keyOf(version, row)), Visit{Digest: true,
			Cutoff: cutoff, Key: func(k *Key) error {
				d, gone = k.Digest, k.Gone
				return nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		return d, gone
	}
	plain, _ := read(14, "\x04\x01"+str("f")+str("v"), 0)
	for name, row := range map[string]string{
		"valkey": "\x16\x02" + str("f") + str("v") + le64(-1) + str("g") + str("w") + le64(500),
		"redis":  "\x18" + le64(500) + "\x02\x00" + str("f") + str("v") + "\x01" + str("g") + str("w"),
		"packed": "\x19" + le64(500) + str(listpackOf("\x81f\x02", "\x81v\x02", "\x00\x01", "\x81g\x02",
			"\x81w\x02", "\xc1\xf4\x02")),
	} {
		version := 12
		if name == "valkey" {
			version = MaxValkey
		}
		if d, gone := read(version, row, 500); d != plain || gone {
			t.Errorf("%s: a field that is about to expire counts", name)
		}
		if d, _ := read(version, row, 499); d == plain {
			t.Errorf("%s: a field that stays does not count", name)
		}
	}
	if _, gone := read(MaxValkey, "\x16\x01"+str("f")+str("v")+le64(5), 5); !gone {
		t.Error("a hash without fields is there")
	}
}

// Collections without elements, as old servers left them, are seen in every
// encoding, however the file is read.
func TestEmptyCollections(t *testing.T) {
	t.Parallel()
	empty := []string{"\x01\x00", "\x02\x00", "\x03\x00", "\x04\x00", "\x05\x00", "\x0a" +
		str(ziplistOf()), "\x0b" + str("\x02\x00\x00\x00\x00\x00\x00\x00"),
		"\x0c" + str(ziplistOf()), "\x0d" + str(ziplistOf()), "\x0e\x00", "\x0e\x01" + str(ziplistOf()),
		"\x10" + str(listpackOf()), "\x11" + str(listpackOf()),
		"\x12\x00", "\x12\x01\x02" + str(listpackOf()), "\x14" + str(listpackOf()), "\x09" +
			str("\x00\xff"), "\x18" + le64(0) + "\x00"}
	for _, row := range empty {
		for _, v := range []Visit{{}, {Check: true}, {Digest: true}} {
			if info, err := Read(t.Context(), bytes.NewReader(keyOf(12, row)), v); err != nil ||
				info.Empty != 1 || info.Keys != 1 {
				t.Errorf("%q %+v: %+v %v", row, v, info, err)
			}
		}
	}
	for _, row := range []string{"\x00\x00", "\x0f\x00\x00\x00\x00\x00"} {
		if info, err := Read(t.Context(), bytes.NewReader(keyOf(12, row)), Visit{}); err != nil ||
			info.Empty != 0 {
			t.Errorf("%q: %+v %v", row, info, err)
		}
	}
}

func TestWriter(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	w := NewWriter(&b, 10, false)
	w.Aux("redis-ver", "7.0.15")
	w.SelectDB(3)
	w.Entry("k", 1000, AppendFooter([]byte("\x00\x01v"), 10, CRC(0, []byte("\x00\x01v"))))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := Read(t.Context(), &b, Visit{Check: true})
	if err != nil || info.Keys != 1 || info.Databases[3] != 1 || info.Expiring != 1 ||
		info.Server != "7.0.15" || !info.Checksum {
		t.Errorf("%+v %v", info, err)
	}
	payload := "\xf5" + str("one") + "\xf5" + str("two")
	var libs []string
	err = Functions(t.Context(), AppendFooter([]byte(payload), 10, CRC(0, []byte(payload))),
		func(p []byte) error { libs = append(libs, string(p)); return nil })
	if err != nil || strings.Join(libs, ",") != "one,two" {
		t.Errorf("%v %v", libs, err)
	}
}

func FuzzRead(f *testing.F) {
	for _, rows := range encodings {
		for _, row := range rows {
			f.Add(keyOf(12, row))
		}
	}
	f.Add(fileOf(10, "\xfe\x00\x07"+str("k")+"\x01\x02\x05\x05"+str("x")+"\x00"))
	f.Add(fileOf(99, "anything"))
	f.Add(fileOf(MaxValkey, "\xfe\x00\x16"+str("k")+"\x01"+str("f")+str("v")+le64(-1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		plain, err1 := Read(t.Context(), bytes.NewReader(data), Visit{})
		slow, err2 := Read(t.Context(), iotest.HalfReader(bytes.NewReader(data)), Visit{})
		if (err1 == nil) != (err2 == nil) || plain.Keys != slow.Keys || plain.Size != slow.Size {
			t.Fatalf("%+v %v\n%+v %v", plain, err1, slow, err2)
		}
		if err1 == nil && plain.Size != int64(len(data)) {
			t.Fatalf("%d bytes of %d read", plain.Size, len(data))
		}
		checked, err := Read(t.Context(), bytes.NewReader(data), Visit{Check: true})
		summed, err3 := Read(t.Context(), bytes.NewReader(data), Visit{Digest: true,
			Key: func(k *Key) error {
				if k.Raw != nil && string(k.Raw) != string(data[k.Start:k.End]) {
					t.Fatalf("value %q is not where it is said to be", k.Raw)
				}
				return nil
			}})
		if err == nil && err3 == nil && checked.Keys != summed.Keys {
			t.Fatalf("%+v\n%+v", checked, summed)
		}
		if len(data) > Footer {
			_, _, _ = DumpDigest(t.Context(), bytes.NewReader(data), int64(len(data)), 0)
		}
	})
}

func FuzzPacked(f *testing.F) {
	f.Add([]byte(listpackOf("\x81a\x02", "\xf1\x2c\x01\x04")))
	f.Add([]byte(ziplistOf("\x00\x01a", "\x03\xfe\xff")))
	f.Add([]byte("\x02\x00\x00\x00\x01\x00\x00\x00\x01\x00"))
	f.Add([]byte("\x01\x01f\x01\x02v..\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, split := range []func([]byte) ([][]byte, error){listpack, ziplist, intset, zipmap} {
			if elements, err := split(data); err != nil && elements != nil {
				t.Fatal("elements and an error")
			}
		}
		c := newCursor(t.Context(), bytes.NewReader(data), 64)
		n := 0
		c.expand(stringHead{size: 100, packed: uint64(len(data))}, func(p []byte) { n += len(p) })
		if n > 100 || (c.err == nil && n != 100) {
			t.Fatalf("%d bytes, %v", n, c.err)
		}
	})
}
