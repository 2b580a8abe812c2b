package preflight_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"example.com/tykupgrade/pluginbuild/preflight"
)

func inspectBytes(data []byte) (*preflight.Binary, error) {
	return preflight.InspectReaderAt(bytes.NewReader(data), int64(len(data)), "p.so")
}

// Offsets in the header and in a section header.
const (
	shoff, phnum, shnum         = 40, 56, 60
	secOffset, secSize, secLink = 24, 32, 40
	secHeader, dynsym, dynstr   = 64, 2, 3
	dynamic, verneed            = 4, 5
)

func TestHostile(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	section := func(b []byte, i, field int) []byte {
		return b[int(le.Uint64(b[shoff:]))+i*secHeader+
			field:]
	}
	for name, c := range map[string]struct {
		damage func(b []byte) []byte
		want   error
	}{
		"empty":    {func([]byte) []byte { return nil }, preflight.ErrNotELF},
		"one byte": {func(b []byte) []byte { return b[:1] }, preflight.ErrNotELF},
		"text": {func([]byte) []byte { return []byte("#!/bin/sh\nexec tyk\n") },
			preflight.ErrNotELF},
		"magic only":     {func(b []byte) []byte { return b[:4] }, preflight.ErrMalformed},
		"header cut":     {func(b []byte) []byte { return b[:63] }, preflight.ErrMalformed},
		"half":           {func(b []byte) []byte { return b[:len(b)/2] }, preflight.ErrMalformed},
		"last byte gone": {func(b []byte) []byte { return b[:len(b)-1] }, preflight.ErrMalformed},
		"32-bit": {func(b []byte) []byte { b[elf.EI_CLASS] = 1; return b },
			preflight.ErrUnsupported},
		"big-endian": {func(b []byte) []byte { b[elf.EI_DATA] = 2; return b },
			preflight.ErrUnsupported},
		"class 7": {func(b []byte) []byte { b[elf.EI_CLASS] = 7; return b },
			preflight.ErrMalformed},
		"object file": {func(b []byte) []byte { b[16] = byte(elf.ET_REL); return b },
			preflight.ErrUnsupported},
		"core dump": {func(b []byte) []byte { b[16] = byte(elf.ET_CORE); return b },
			preflight.ErrUnsupported},
		"65535 segments": {func(b []byte) []byte { le.PutUint16(b[phnum:], 0xffff); return b },
			preflight.ErrMalformed},
		"65535 sections": {func(b []byte) []byte { le.PutUint16(b[shnum:], 0xffff); return b },
			preflight.ErrMalformed},
		"extended sections": {func(b []byte) []byte { le.PutUint16(b[shnum:], 0); return b },
			preflight.ErrMalformed},
		"sections beyond end": {func(b []byte) []byte { le.PutUint64(b[shoff:], 1<<62); return b },
			preflight.ErrMalformed},
		"sections at -1": {func(b []byte) []byte { le.PutUint64(b[shoff:], 1<<64-1); return b },
			preflight.ErrMalformed},
		"huge dynsym": {func(b []byte) []byte {
			le.PutUint64(section(b, dynsym, secSize),
				24<<40)
			return b
		}, preflight.ErrMalformed},
		"overflowing dynsym": {func(b []byte) []byte {
			le.PutUint64(section(b, dynsym, secSize),
				1<<64-24)
			return b
		}, preflight.ErrMalformed},
		"odd dynsym": {func(b []byte) []byte {
			le.PutUint64(section(b, dynsym, secSize),
				25)
			return b
		}, preflight.ErrMalformed},
		"dynsym elsewhere": {func(b []byte) []byte {
			le.PutUint64(section(b, dynsym, secOffset),
				1<<63-1)
			return b
		}, preflight.ErrMalformed},
		"no string table": {func(b []byte) []byte {
			le.PutUint32(section(b, dynsym, secLink),
				1)
			return b
		}, preflight.ErrMalformed},
		"string table 9999": {func(b []byte) []byte {
			le.PutUint32(section(b, dynsym, secLink),
				9999)
			return b
		}, preflight.ErrMalformed},
		"huge string table": {func(b []byte) []byte {
			le.PutUint64(section(b, dynstr, secSize),
				1<<40)
			return b
		}, preflight.ErrMalformed},
		"huge dynamic section": {func(b []byte) []byte {
			le.PutUint64(section(b, dynamic, secSize),
				1<<40)
			return b
		}, preflight.ErrMalformed},
		"huge version needs": {func(b []byte) []byte {
			le.PutUint64(section(b, verneed, secSize),
				1<<40)
			return b
		}, preflight.ErrMalformed},
		"endless version needs": {func(b []byte) []byte {
			loop(b[le.Uint64(section(b, verneed, secOffset)):])
			return b
		}, preflight.ErrMalformed},
		"version needs in each other": {func(b []byte) []byte {
			table := b[le.Uint64(section(b, verneed, secOffset)):][:le.Uint64(section(b, verneed, secSize))]
			// each a library and a version, and followed by the next
			for ; len(table) > 0; table = table[16:] {
				copy(table, []byte{1, 0, 0xff, 0xff, 0, 0, 0, 0, 16, 0, 0, 0, 16, 0, 0, 0})
			}
			return b
		}, preflight.ErrMalformed},
		"name beyond table": {func(b []byte) []byte {
			for i := range uint64(8) {
				le.PutUint32(b[le.Uint64(section(b, dynsym, secOffset))+24*i:], 1<<31)
			}
			return b
		}, preflight.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := inspectBytes(c.damage(forgedPlugin().bytes()))
			if !errors.Is(err, c.want) {
				t.Fatalf("%+v, error %v, not %v", b, err, c.want)
			}
			if err != nil && (!strings.HasPrefix(err.Error(), "inspect p.so: ") || b != nil) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// loop makes the first version need and its first entry follow themselves.
func loop(b []byte) {
	binary.LittleEndian.PutUint16(b[2:], 0xffff)
	binary.LittleEndian.PutUint32(b[8:], 0)
	binary.LittleEndian.PutUint32(b[12:], 1)
}

// Hashes that are not in the file, or are named twice, decide nothing.
func TestHostileHashes(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	gateway, err := inspectBytes(forgedGateway().bytes())
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func(sym []byte){
		"address outside":  func(s []byte) { le.PutUint64(s[8:], 1<<40) },
		"address overflow": func(s []byte) { le.PutUint64(s[8:], 1<<64-4) },
		"no size":          func(s []byte) { le.PutUint64(s[16:], 0) },
		"huge size":        func(s []byte) { le.PutUint64(s[16:], 1<<50) },
		"undefined":        func(s []byte) { le.PutUint16(s[6:], 0) },
		"named twice":      func(s []byte) { copy(s[:4], s[2*24:]) }, // as the next package
	} {
		f := forgedPlugin()
		f.packages["github.com/google/uuid"] = "uuid-1.6"
		good := f.bytes()
		if b, err := inspectBytes(good); err != nil || preflight.Compare(b,
			gateway).Verdict != preflight.Loads {
			t.Fatalf("%v, %v", b, err)
		}
		start := le.Uint64(good[le.Uint64(good[shoff:])+dynsym*secHeader+secOffset:])
		// Pairs of symbols for each package, by name: hooks, uuid, net/http, runtime.
		for i := range uint64(3) {
			data := bytes.Clone(good)
			damage(data[start+24*(4+2*i):])
			b, err := inspectBytes(data)
			if err != nil {
				t.Fatal(err)
			}
			r := preflight.Compare(b, gateway)
			if r.Verdict != preflight.Unknown || (len(b.Unreadable) != 1 && name != "undefined" &&
				!(name == "named twice" && i == 2)) {
				t.Errorf("%s %d: %s %v", name, i, r.Verdict, r.Findings)
			}
		}
	}
}

// Any prefix of a file is an error, and never a panic.
func TestTruncated(t *testing.T) {
	t.Parallel()
	data := forgedPlugin().bytes()
	for n := range data {
		if b, err := inspectBytes(data[:n]); err == nil {
			t.Fatalf("%d of %d bytes were read as %+v", n, len(data), b)
		}
	}
}

// A file that shrinks or fails while it is read is an error that says so.
func TestReadFails(t *testing.T) {
	t.Parallel()
	data := forgedPlugin().bytes()
	broken := errors.New("bad sector")
	for n := range int64(len(data)) {
		if _, err := preflight.InspectReaderAt(failing{data, n, broken}, int64(len(data)),
			"p.so"); err == nil {
			t.Fatalf("byte %d cannot be read, and was not missed", n)
		}
	}
	if _, err := preflight.InspectReaderAt(bytes.NewReader(data), int64(len(data))+1<<20,
		"p.so"); !errors.Is(err, preflight.ErrMalformed) {
		t.Errorf("error %v", err)
	}
}

type failing struct {
	data []byte
	bad  int64
	err  error
}

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if f.bad >= off && f.bad < off+int64(len(p)) {
		return 0, f.err
	}
	return bytes.NewReader(f.data).ReadAt(p, off)
}

// The old spelling and long hashes, as of the linker before Go 1.20, and names
// at every offset of a read chunk.
func TestForgedHashes(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 8, 20, 40, 128} {
		hash := strings.Repeat("h", size)
		b, err := inspectBytes(forged{mark: "go.", packages: map[string]string{"runtime": hash}}.bytes())
		if err != nil || b.Packages["runtime"] != fmt.Sprintf("%x", hash) {
			t.Errorf("%d bytes: %v, %v", size, b, err)
		}
	}
	f := forged{packages: map[string]string{}, fill: 40000}
	for i := range 500 {
		f.packages[fmt.Sprintf("example.com/p%d", i)] = fmt.Sprintf("%08d", i)
	}
	data := f.bytes()
	b, err := inspectBytes(data)
	if err != nil || len(b.Packages) != 500 {
		t.Fatalf("%d packages of 500, %v", len(b.Packages), err)
	}
	for i := range 500 {
		if p := fmt.Sprintf("example.com/p%d", i); b.Packages[p] != fmt.Sprintf("%x", fmt.Sprintf("%08d",
			i)) {
			t.Errorf("%s: %s", p, b.Packages[p])
		}
	}
}

// largest records the longest single read.
type largest struct {
	r io.ReaderAt
	n int
}

func (l *largest) ReadAt(p []byte, off int64) (int, error) {
	l.n = max(l.n, len(p))
	return l.r.ReadAt(p, off)
}

// A gateway is read in chunks, whatever its size.
func TestStreams(t *testing.T) {
	f := forged{interp: true, packages: map[string]string{}, fill: 100_000}
	for i := range 1000 {
		f.packages[fmt.Sprintf("example.com/p%d", i)] = "hash-of-8"
	}
	data := f.bytes()
	r := &largest{r: bytes.NewReader(data)}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	b, err := preflight.InspectReaderAt(r, int64(len(data)), "tyk")
	runtime.ReadMemStats(&after)
	if err != nil || len(b.Packages) != 1000 {
		t.Fatal(len(b.Packages), err)
	}
	if r.n > 2<<20 {
		t.Errorf("one read of %d bytes from a file of %d", r.n, len(data))
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 8<<20 {
		t.Errorf("allocated %d bytes for a file of %d", used, len(data))
	}
}

func FuzzInspect(f *testing.F) {
	gateway, err := inspectBytes(forgedGateway().bytes())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(forgedPlugin().bytes())
	f.Add(forgedGateway().bytes())
	f.Add(forged{mark: "go.", packages: map[string]string{"runtime": "x"}, debug: map[string][]byte{
		"info": make([]byte, 64), "abbrev": {0}}}.bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := inspectBytes(data)
		var e *preflight.Error
		if err != nil && !errors.As(err, &e) {
			t.Fatalf("%T %v", err, err)
		}
		if err != nil {
			return
		}
		r, err := preflight.CompareAll([]*preflight.Binary{b, b}, gateway, preflight.Target{
			Distro: "debian/11", GOAMD64: "v1"})
		if err != nil || (r.Verdict == preflight.Loads && (len(r.Plugins[0].Mismatched) > 0 ||
			r.Plugins[0].Common == 0)) {
			t.Errorf("%s %v %v", r.Verdict, r.Plugins, err)
		}
	})
}

// debugOf is the smallest debug information with one function of a package:
// Request(w http.ResponseWriter, r *http.Request).
func debugOf(pkg string) map[string][]byte {
	abbrev := []byte{
		1, 0x11, 1, 0x25, 0x08, 0x03, 0x08, 0, 0, // compile unit: producer, name
		2, 0x2e, 1, 0x03, 0x08, 0, 0, // subprogram: name
		3, 0x05, 0, 0x49, 0x10, 0x4b, 0x0c, 0, 0, // parameter: type, variable
		4, 0x16, 0, 0x03, 0x08, 0, 0, // typedef: name
		0,
	}
	var unit bytes.Buffer
	unit.Write([]byte{4, 0, 0, 0, 0, 0, 8}) // version 4, abbreviations at 0, 8-byte addresses
	var refs [2]uint32
	unit.WriteString("\x01Go cmd/compile go1.19.13; -shared\x00" + pkg + "\x00")
	for i, name := range []string{"net/http.ResponseWriter", "*net/http.Request"} {
		refs[i] = uint32(4 + unit.Len())
		unit.WriteString("\x04" + name + "\x00")
	}
	unit.WriteString("\x02" + pkg + ".Request\x00")
	for _, ref := range refs {
		unit.Write(binary.LittleEndian.AppendUint32([]byte{3}, ref))
		unit.WriteByte(0)
	}
	unit.Write([]byte{0, 0})
	return map[string][]byte{"abbrev": abbrev, "info": append(binary.LittleEndian.AppendUint32(nil,
		uint32(unit.Len())), unit.Bytes()...)}
}

func TestForgedDebug(t *testing.T) {
	t.Parallel()
	const pkg = "example.com/hooks"
	f := forged{packages: map[string]string{pkg: "1", "runtime": "2"}, funcs: []string{pkg + ".main",
		pkg + ".Request"}, debug: debugOf(pkg)}
	b, err := inspectBytes(f.bytes())
	want := preflight.Func{Name: "Request", Hook: preflight.HookRequest,
		Signature: "func(net/http.ResponseWriter, *net/http.Request)"}
	if err != nil || b.GoVersion != "go1.19.13" || len(b.Exports) != 1 || b.Exports[0] != want {
		t.Errorf("%+v, %v", b, err)
	}
	// Two million units would cost hundreds of MiB to index.
	f.debug["info"] = bytes.Repeat([]byte{7, 0, 0, 0, 4, 0, 0, 0, 0, 0, 8}, 1<<17)
	if b, err := inspectBytes(f.bytes()); err != nil || b.Exports[0].Hook != preflight.HookUnknown {
		t.Errorf("%+v, %v", b, err)
	}
}

func FuzzDebug(f *testing.F) {
	const pkg = "p"
	good := debugOf(pkg)
	f.Add(good["abbrev"], good["info"], []byte{0})
	f.Fuzz(func(t *testing.T, abbrev, info, str []byte) {
		file := forged{packages: map[string]string{pkg: "1", "runtime": "2"}, funcs: []string{"p.main",
			"p.Request"}}
		file.debug = map[string][]byte{"abbrev": abbrev, "info": info, "str": str}
		b, err := inspectBytes(file.bytes())
		if err == nil && len(b.Exports) != 1 {
			t.Errorf("%+v", b)
		}
	})
}
