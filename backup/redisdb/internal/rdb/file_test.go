package rdb

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestFile(t *testing.T) {
	t.Parallel()
	key := "\x00" + str("k") + str("v")
	module := "\x81\x25\x6b\x9c\x8a\xcb\xf9\x28\x00" // an id of nine characters
	body := "\xfa" + str("redis-ver") + str("7.0.15") + "\xfa" + str("ctime") +
		"\xc2\x00\x00\x00\x66" + "\xf5" + str("code") +
		"\xf7" + module + "\x02\x01\x05" + str("x") + "\x00" +
		"\xfe\x00\xfb\x02\x01\xf4\x01\x01\x01" + "\xfc\x01\x00\x00\x00\x00\x00\x00\x00" + key +
		"\xfd\x02\x00\x00\x00\xf8\x05" + key + "\xfe\x09\xf9\x07" + key +
		"\x07" + str("m") + module + "\x01\x05\x03\x01\x02\x03\x04\x00"
	info, err := Read(t.Context(), bytes.NewReader(fileOf(10, body)), Visit{})
	if err != nil || info.Keys != 4 || info.Expiring != 2 || info.Databases[9] != 2 ||
		info.Functions != 1 || info.Server != "7.0.15" ||
		info.Created != time.Unix(0x66000000, 0).UTC() || !info.Checksum || info.Types["string"] != 3 ||
		info.Modules["JWucisv5K"] != 1 || info.ModuleAux["JWucisv5K"] != 1 {
		t.Errorf("%+v %v", info, err)
	}
	whole := fileOf(10, "\xfe\x00"+key)
	off := bytes.Clone(whole)
	copy(off[len(off)-8:], make([]byte, 8))
	if info, err := Read(t.Context(), bytes.NewReader(off), Visit{}); err != nil || info.Checksum {
		t.Errorf("checksum switched off: %+v %v", info, err)
	}
	for n := range whole {
		if _, err := Read(t.Context(), bytes.NewReader(whole[:n]), Visit{}); !errors.Is(err,
			io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", n, err)
		}
		bad := bytes.Clone(whole)
		bad[n] ^= 0x20
		if _, err := Read(t.Context(), bytes.NewReader(bad), Visit{}); err == nil {
			t.Errorf("byte %d flipped: no error", n)
		}
	}
	if info, err := Read(t.Context(), strings.NewReader("REDIS0003\xfe\x00"+key+"\xff"),
		Visit{}); err != nil || info.Keys != 1 {
		t.Errorf("a version without checksum: %+v %v", info, err)
	}
	valkey := fileOf(MaxValkey, "\xfa"+str("valkey-ver")+str("9.0.1")+"\xf3"+str("job")+
		"\x01\x00\x05\xfe\x00"+key)
	if info, err := Read(t.Context(), bytes.NewReader(valkey), Visit{}); err != nil ||
		info.Keys != 1 || !info.Valkey || info.Version != 80 || info.Server != "9.0.1" {
		t.Errorf("valkey: %+v %v", info, err)
	}
}

// The mark of a diskless transfer may follow, and nothing else.
func TestTrailingMark(t *testing.T) {
	t.Parallel()
	whole := fileOf(10, "\xfe\x00\x00"+str("k")+str("v"))
	mark := strings.Repeat("0123456789abcdef", 3)[:40]
	for _, wrap := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r },
		iotest.OneByteReader, iotest.DataErrReader} {
		info, err := Read(t.Context(), wrap(strings.NewReader(string(whole)+mark)), Visit{})
		if err != nil || info.Trailing != 40 || info.Size != int64(len(whole)+40) || info.Keys != 1 {
			t.Errorf("%+v %v", info, err)
		}
		for _, tail := range []string{"x", mark[:39], mark + "0", strings.Repeat("!", 40)} {
			if _, err := Read(t.Context(), wrap(strings.NewReader(string(whole)+tail)),
				Visit{}); err == nil {
				t.Errorf("followed by %q: no error", tail)
			}
		}
	}
}

// What is not known is not walked, but its checksum holds; and who wants every
// key gets an error.
func TestUnknown(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("some bytes ", 60_000)
	for name, file := range map[string][]byte{
		"type": fileOf(11, "\xfe\x00\x63"+str("k")+long), "version": fileOf(99, long),
		"opcode": fileOf(11, "\xf6"+long), "short": fileOf(99, ""),
		"metadata": fileOf(13, "\xfe\x00\xf3\x01"+long), "array": fileOf(15, long),
		"module before 4.0": fileOf(8, "\xfe\x00\x06"+str("k")+long),
	} {
		info, err := Read(t.Context(), bytes.NewReader(file), Visit{})
		if err != nil || info.NotWalked == "" || info.Size != int64(len(file)) || !info.Checksum {
			t.Errorf("%s: %+v %v", name, info, err)
		}
		if _, err := Read(t.Context(), bytes.NewReader(file),
			Visit{Key: func(*Key) error { return nil }}); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", name, err)
		}
		for _, at := range []int{8, len(file) - 9, len(file) - 1, len(file) / 2} {
			bad := bytes.Clone(file)
			bad[at] ^= 1
			if info, err := Read(t.Context(), bytes.NewReader(bad), Visit{}); err == nil && at != 8 {
				t.Errorf("%s, byte %d flipped: %+v", name, at, info)
			}
		}
		if _, err := Read(t.Context(), bytes.NewReader(file[:len(file)-1]), Visit{}); err == nil {
			t.Errorf("%s cut: no error", name)
		}
	}
}

// bomb is a string of n bytes in LZF, which takes a ninetieth of that.
func bomb(n int) (packed string, size int) {
	var b strings.Builder
	b.WriteString("\x00a")
	for size = 1; size < n; size += 264 {
		b.WriteString("\xe0\xff\x00")
	}
	return b.String(), size
}

// A string that expands to far more than the file has costs no memory, and the
// end of ctx is seen while it does.
func TestBomb(t *testing.T) {
	packed, size := bomb(128 << 20)
	value := "\x00\xc3" + string(AppendLength(nil, uint64(len(packed)))) + string(AppendLength(nil,
		uint64(size))) + packed
	file := keyOf(10, value)
	allocated := func(f func()) int64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		return int64(after.TotalAlloc - before.TotalAlloc)
	}
	n := allocated(func() {
		if _, err := Read(t.Context(), bytes.NewReader(file), Visit{Check: true,
			Key: func(*Key) error { return nil }}); err != nil {
			t.Error(err)
		}
	})
	if n > 8<<20 {
		t.Errorf("%d bytes allocated", n)
	}
	// A packed value, which must be in memory, is not read at that size.
	huge := keyOf(10, "\x10\xc3"+string(AppendLength(nil, 4<<20))+string(AppendLength(nil, 300<<20))+
		strings.Repeat("x", 4<<20))
	n = allocated(func() {
		info, err := Read(t.Context(), bytes.NewReader(huge), Visit{Check: true})
		if err != nil || info.NotWalked == "" {
			t.Errorf("%+v %v", info, err)
		}
	})
	if n > 8<<20 {
		t.Errorf("%d bytes allocated for a packed value", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	reads := 0
	_, err := Read(ctx, readFunc(func(p []byte) (int, error) {
		if reads++; reads == 3 {
			cancel()
		}
		n := copy(p[:min(len(p), 64<<10)], file)
		file = file[n:]
		return n, nil
	}), Visit{Check: true})
	if !errors.Is(err, context.Canceled) || reads > 4 {
		t.Errorf("%v after %d reads", err, reads)
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// Values larger than the buffer are not held, and where they lie is told.
func TestLargeValues(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("0123456789", 100_000)
	file := fileOf(10, "\xfe\x00\x00"+str("a")+str("x")+"\x00"+str("b")+str(large)+"\x00"+str("c")+
		str("y"))
	var got []string
	_, err := Read(t.Context(), bytes.NewReader(file), Visit{Key: func(k *Key) error {
		if (k.Raw == nil) != (string(k.Name) == "b") {
			t.Errorf("%s: %d bytes held", k.Name, len(k.Raw))
		}
		got = append(got, string(file[k.Start:k.End]))
		return nil
	}})
	if err != nil || len(got) != 3 || got[0] != str("x") || got[1] != str(large) ||
		got[2] != str("y") {
		t.Errorf("%d values, %v", len(got), err)
	}
}
