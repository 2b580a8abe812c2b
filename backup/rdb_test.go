package backup

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"example.com/tykupgrade/backup/internal/step"
)

// The check value of CRC-64/Jones as Redis documents it.
func TestCRC(t *testing.T) {
	t.Parallel()
	if got := crcUpdate(0, []byte("123456789")); got != 0xe9c6d914c4b8d9ca {
		t.Errorf("%x", got)
	}
}

// str is a string as an RDB file has it.
func str(s string) string { return string(appendRDBLength(nil, uint64(len(s)))) + s }

// rdbOf puts a body between header and footer.
func rdbOf(version int, body string) []byte {
	p := fmt.Appendf(nil, "REDIS%04d%s\xff", version, body)
	return binary.LittleEndian.AppendUint64(p, crcUpdate(0, p))
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
		"\x0c" + str(ziplistOf("\x00\x01m", "\x03\x031.5")), "\x11" + str(listpackOf("\x81m\x02", "\x831.5\x04")),
	},
	"hash": {
		"\x04\x01" + str("f") + str("v"), "\x0d" + str(ziplistOf("\x00\x01f", "\x03\x01v")), "\x10" + str(listpackOf("\x81f\x02", "\x81v\x02")),
		"\x18\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00" + str("f") + str("v"),
		"\x19\x00\x00\x00\x00\x00\x00\x00\x00" + str(listpackOf("\x81f\x02", "\x81v\x02", "\x00\x01")),
	},
	"hash with field expiry": {
		"\x18\x64\x00\x00\x00\x00\x00\x00\x00\x01\x06" + str("f") + str("v"), // 100 ms, plus 5
		"\x19\x64\x00\x00\x00\x00\x00\x00\x00" + str(listpackOf("\x81f\x02", "\x81v\x02", "\x69\x01")),
	},
}

func TestRDBEncodings(t *testing.T) {
	t.Parallel()
	for name, rows := range encodings {
		var first digest
		for i, row := range rows {
			file := rdbOf(12, "\xfe\x00"+row[:1]+str("key")+row[1:])
			for _, v := range []rdbVisit{{}, {check: true}, {raw: true}} {
				if info, err := readRDB(t.Context(), bytes.NewReader(file), v); err != nil || info.Keys != 1 {
					t.Fatalf("%s %d %+v: %+v %v", name, i, v, info, err)
				}
			}
			var got digest
			_, err := readRDB(t.Context(), iotest.OneByteReader(bytes.NewReader(file)), rdbVisit{digest: true, raw: true, key: func(k *rdbKey) error {
				got = k.Digest
				if string(k.Key) != "key" || string(k.Value) != row[1:] {
					t.Errorf("%s %d: key %q, value %q", name, i, k.Key, k.Value)
				}
				return nil
			}})
			if i == 0 {
				first = got
			}
			if err != nil || got != first {
				t.Errorf("%s: encoding %d sums up to another value (%v)", name, i, err)
			}
		}
	}
}

func TestRDBFile(t *testing.T) {
	t.Parallel()
	key := "\x00" + str("k") + str("v")
	body := "\xfa" + str("redis-ver") + str("7.0.15") + "\xfa" + str("ctime") + "\xc2\x00\x00\x00\x66" + "\xf5" + str("code") +
		"\xfe\x00\xfb\x02\x01\xf4\x01\x01\x01" + "\xfc\x01\x00\x00\x00\x00\x00\x00\x00" + key + "\xfd\x02\x00\x00\x00\xf8\x05" + key + "\xfe\x09\xf9\x07" + key
	info, err := readRDB(t.Context(), bytes.NewReader(rdbOf(10, body)), rdbVisit{})
	if err != nil || info.Keys != 3 || info.Expiring != 2 || info.Databases[9] != 1 || info.Functions != 1 || info.Server != "7.0.15" ||
		info.Created != time.Unix(0x66000000, 0).UTC() || !info.Checksum || info.Types["string"] != 3 {
		t.Errorf("%+v %v", info, err)
	}
	whole := rdbOf(10, "\xfe\x00"+key)
	off := bytes.Clone(whole)
	copy(off[len(off)-8:], make([]byte, 8))
	if info, err := readRDB(t.Context(), bytes.NewReader(off), rdbVisit{}); err != nil || info.Checksum {
		t.Errorf("checksum switched off: %+v %v", info, err)
	}
	for n := range whole {
		if _, err := readRDB(t.Context(), bytes.NewReader(whole[:n]), rdbVisit{}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", n, err)
		}
		bad := bytes.Clone(whole)
		bad[n] ^= 0x20
		if _, err := readRDB(t.Context(), bytes.NewReader(bad), rdbVisit{}); err == nil {
			t.Errorf("byte %d flipped: no error", n)
		}
	}
	if _, err := readRDB(t.Context(), bytes.NewReader(append(whole, 'x')), rdbVisit{}); err == nil {
		t.Error("a byte after the end was accepted")
	}
	if info, err := readRDB(t.Context(), strings.NewReader("REDIS0003\xfe\x00"+key+"\xff"), rdbVisit{}); err != nil || info.Keys != 1 {
		t.Errorf("a version without checksum: %+v %v", info, err)
	}
}

// What is not known is not walked, but its checksum holds; and who wants every
// key gets an error.
func TestRDBUnknown(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("some bytes ", 60_000)
	for name, file := range map[string][]byte{
		"type": rdbOf(11, "\xfe\x00\x63"+str("k")+long), "version": rdbOf(99, long), "opcode": rdbOf(11, "\xf6"+long), "short": rdbOf(99, ""),
	} {
		info, err := readRDB(t.Context(), bytes.NewReader(file), rdbVisit{})
		if err != nil || info.NotWalked == "" || info.Size != int64(len(file)) || !info.Checksum {
			t.Errorf("%s: %+v %v", name, info, err)
		}
		if _, err := readRDB(t.Context(), bytes.NewReader(file), rdbVisit{key: func(*rdbKey) error { return nil }}); !errors.Is(err, errUnknownRDB) {
			t.Errorf("%s: %v", name, err)
		}
		for _, at := range []int{8, len(file) - 9, len(file) - 1, len(file) / 2} {
			bad := bytes.Clone(file)
			bad[at] ^= 1
			if info, err := readRDB(t.Context(), bytes.NewReader(bad), rdbVisit{}); err == nil && at != 8 {
				t.Errorf("%s, byte %d flipped: %+v", name, at, info)
			}
		}
		if _, err := readRDB(t.Context(), bytes.NewReader(file[:len(file)-1]), rdbVisit{}); err == nil {
			t.Errorf("%s cut: no error", name)
		}
	}
}

func TestMarkedReader(t *testing.T) {
	t.Parallel()
	mark := strings.Repeat("m", 39) + "!"
	for _, content := range []string{"", "x", strings.Repeat("m", 100), strings.Repeat("content", 1000)} {
		for _, r := range []io.Reader{strings.NewReader(content + mark), iotest.OneByteReader(strings.NewReader(content + mark)), iotest.HalfReader(strings.NewReader(content + mark))} {
			got, err := io.ReadAll(bufio.NewReader(&markedReader{r: r, mark: mark}))
			if err != nil || string(got) != content {
				t.Errorf("%d bytes of %d, %v", len(got), len(content), err)
			}
		}
		if _, err := io.ReadAll(bufio.NewReader(&markedReader{r: strings.NewReader(content + mark[:39]), mark: mark})); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut: %v", err)
		}
	}
}

func FuzzRDB(f *testing.F) {
	for _, rows := range encodings {
		for _, row := range rows {
			f.Add(rdbOf(12, "\xfe\x00"+row[:1]+str("key")+row[1:]))
		}
	}
	f.Add(rdbOf(10, "\xfe\x00\x07"+str("k")+"\x01\x02\x05\x05"+str("x")+"\x00"))
	f.Add(rdbOf(11, "\xfe\x00\x15"+str("k")+"\x01"+str("0123456789abcdef")+str(listpackOf())+strings.Repeat("\x00", 10)))
	f.Add(rdbOf(99, "anything"))
	f.Fuzz(func(t *testing.T, data []byte) {
		plain, err1 := readRDB(t.Context(), bytes.NewReader(data), rdbVisit{})
		slow, err2 := readRDB(t.Context(), iotest.HalfReader(bytes.NewReader(data)), rdbVisit{raw: true})
		if (err1 == nil) != (err2 == nil) || plain.Keys != slow.Keys || plain.Size != slow.Size {
			t.Fatalf("%+v %v\n%+v %v", plain, err1, slow, err2)
		}
		if err1 == nil && plain.Size != int64(len(data)) {
			t.Fatalf("%d bytes of %d read", plain.Size, len(data))
		}
		_, _ = readRDB(t.Context(), bytes.NewReader(data), rdbVisit{check: true})
		_, _ = readRDB(t.Context(), bytes.NewReader(data), rdbVisit{digest: true, key: func(*rdbKey) error { return nil }})
	})
}

func FuzzPacked(f *testing.F) {
	f.Add([]byte(listpackOf("\x81a\x02", "\xf1\x2c\x01\x04")))
	f.Add([]byte(ziplistOf("\x00\x01a", "\x03\xfe\xff")))
	f.Add([]byte("\x02\x00\x00\x00\x01\x00\x00\x00\x01\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, split := range []func([]byte) ([][]byte, error){listpack, ziplist, intset} {
			if elements, err := split(data); err != nil && elements != nil {
				t.Fatal("elements and an error")
			}
		}
		_, _ = lzf(data, 100)
	})
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"schema":1,"id":"20261123T000000Z-00000000","components":[{"name":"a"}],"files":[{"path":"a/b","sha256":"` + strings.Repeat("0", 64) + `","mode":"0600"}]}`))
	f.Add([]byte(`{"schema":1,"id":"20261123T000000Z-00000000","components":[{"name":"a"}],"files":[{"path":"a/l","link":"x","mode":"0777"}]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseManifest(data)
		if err != nil {
			return
		}
		for _, file := range m.Files {
			if strings.HasPrefix(file.Path, "/") || slices.Contains(strings.Split(file.Path, "/"), "..") {
				t.Fatalf("path %q", file.Path)
			}
		}
		if lines := bytes.Count(m.checksums(data), []byte("\n")); lines < 1 || lines > 1+len(m.Files) {
			t.Fatalf("%d lines", lines)
		}
	})
}

// FuzzImport feeds the reader of exports with archives that are not packed, as
// the fuzzer could not get through the compression.
func FuzzImport(f *testing.F) {
	archive := func(names map[string]string) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, name := range slices.Sorted(maps.Keys(names)) {
			_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(names[name])), Mode: 0o600})
			_, _ = io.WriteString(w, names[name])
		}
		_ = w.Close()
		return b.Bytes()
	}
	manifest := `{"schema":1,"id":"20261123T000000Z-00000000","components":[],"files":[]}`
	f.Add(archive(map[string]string{"20261123T000000Z-00000000/manifest.json": manifest, "20261123T000000Z-00000000/manifest.sha256": "x"}))
	f.Add(archive(map[string]string{"../manifest.json": manifest}))
	f.Fuzz(func(t *testing.T, data []byte) {
		u := &unpacking{ctx: t.Context(), tr: tar.NewReader(bytes.NewReader(data)), dir: t.TempDir()}
		if m, err := u.manifest(); err == nil && m.ID != u.id {
			t.Fatal("another id")
		}
	})
}

func FuzzReadCommand(f *testing.F) {
	f.Add("*2\r\n$4\r\nPING\r\n$1\r\nx\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		r := bufio.NewReader(strings.NewReader(s))
		for {
			if args, err := readCommand(r); err != nil || len(args) == 0 {
				return
			}
		}
	})
}

// What a file system says is no trouble with the network.
func TestRedisError(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err   error
		retry bool
		next  string
	}{
		{&fs.PathError{Op: "write", Path: "/x", Err: syscall.ENOSPC}, true, "free some space"},
		{&fs.PathError{Op: "open", Path: "/x", Err: syscall.EACCES}, false, ""},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, true, "check that the server runs and can be reached"},
		{fmt.Errorf("key: %w", ErrChanged), true, ""},
		{context.Canceled, false, ""},
	} {
		if e := redisError("read", "redis", c.err).(*Error); e.Retry != c.retry || e.Next != c.next {
			t.Errorf("%v: retry %v, %q", c.err, e.Retry, e.Next)
		}
	}
}

// An error that a client returns in place of the context's is completed.
func TestWithEnd(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	ctx, cancel := context.WithCancelCause(t.Context())
	other := errors.New("broken pipe")
	if err := step.WithEnd(ctx, other); err != other {
		t.Error(err)
	}
	cancel(cause)
	if err := step.WithEnd(ctx, other); !errors.Is(err, cause) || !errors.Is(err, context.Canceled) || !errors.Is(err, other) {
		t.Error(err)
	}
	if step.WithEnd(ctx, nil) != nil {
		t.Error("no error became one")
	}
}
