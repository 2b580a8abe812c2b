package preflight_test

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"io"
	"slices"
	"strconv"
	"strings"
)

// forged is a small ELF file with just what Inspect reads, for what no linker
// can be made to write: any number of symbols, other machines, damage.
type forged struct {
	typ       elf.Type    // ET_DYN if 0
	machine   elf.Machine // EM_X86_64 if 0
	interp    bool        // an executable, if ET_DYN
	goVersion string      // recorded with modInfo if not empty
	modInfo   string
	mark      string            // "go:" if empty
	packages  map[string]string // package → hash, its bytes as they are
	funcs     []string          // dynamic symbols
	fill      int               // further dynamic symbols
	needed    []string
	versions  map[string][]string // library → versions
	debug     map[string][]byte
	stack     elf.ProgFlag // of PT_GNU_STACK; readable and writable if 0
	align     uint64       // of the segment; a page if 0
	flags     map[elf.DynTag]uint64
}

const modMark = "\x30\x77\xaf\x0c\x92\x74\x08\x02\x41\xe1\xc1\x07\xe6\xd6\x18\xe6"
const modEnd = "\xf9\x32\x43\x31\x86\x18\x20\x72\x00\x82\x42\x10\x41\x16\xd8\xf2"

// bytes lays the file out as one segment at address 0.
func (f forged) bytes() []byte {
	le := binary.LittleEndian
	var str, sym, hash, dyn, need bytes.Buffer
	// Growing, and binary.Write for each symbol, take most of a test's time with the race detector.
	str.Grow(f.fill*80 + 1<<10)
	sym.Grow((f.fill + 2*len(f.packages) + len(f.funcs) + 1) * elf.Sym64Size)
	str.WriteByte(0)
	add := func(s string) uint32 {
		n := uint32(str.Len())
		str.WriteString(s)
		str.WriteByte(
			0)
		return n
	}
	var record [elf.Sym64Size]byte
	entry := func(name string, kind elf.SymType, section uint16, value, size uint64) {
		le.PutUint32(record[0:], add(name))
		record[4], record[5] = elf.ST_INFO(elf.STB_GLOBAL, kind), 0
		le.PutUint16(record[6:], section)
		le.PutUint64(record[8:], value)
		le.PutUint64(record[16:], size)
		sym.Write(record[:])
	}
	sym.Write(make([]byte, elf.Sym64Size))
	phnum := 2
	if f.interp {
		phnum++
	}
	base := uint64(64 + 56*phnum) // hashes come first
	mark := orElse(f.mark, "go:")
	names := make([]string, 0, len(f.packages))
	for p := range f.packages {
		names = append(names, p)
	}
	slices.Sort(names)
	for i, p := range names {
		// Real tables hold package hashes far apart from each other.
		for range f.fill / max(1, len(names)) {
			entry("github.com/some/longer/module/path.(*Type"+strconv.Itoa(i)+").MethodOfIt"+
				strconv.Itoa(sym.Len()), elf.STT_FUNC, 1, base, 8)
		}
		h := f.packages[p]
		entry(mark+"link.pkghash."+p, elf.STT_OBJECT, 1, base, 16)
		entry(mark+"link.pkghashbytes."+p, elf.STT_OBJECT, 1, base+uint64(hash.Len()), uint64(len(h)))
		hash.WriteString(h)
	}
	for _, name := range f.funcs {
		entry(name, elf.STT_FUNC, 1, base, 8)
	}
	for _, lib := range f.needed {
		_ = binary.Write(&dyn, le, []uint64{uint64(elf.DT_NEEDED), uint64(add(lib))})
	}
	for tag, value := range f.flags {
		_ = binary.Write(&dyn, le, []uint64{uint64(tag), value})
	}
	dyn.Write(make([]byte, 16))
	var libs []string
	for lib := range f.versions {
		libs = append(libs, lib)
	}
	slices.Sort(libs)
	for i, lib := range libs {
		n := len(f.versions[lib])
		next := uint32(16 + 16*n)
		if i == len(libs)-1 {
			next = 0
		}
		_ = binary.Write(&need, le, struct {
			Version, Count  uint16
			File, Aux, Next uint32
		}{1, uint16(n), add(lib), 16, next})
		for j, v := range f.versions[lib] {
			next := uint32(16)
			if j == n-1 {
				next = 0
			}
			weak := uint16(0)
			if name, is := strings.CutPrefix(v, "weak:"); is {
				v, weak = name, 2
			}
			_ = binary.Write(&need, le, struct {
				Hash         uint32
				Flags, Other uint16
				Name, Next   uint32
			}{0, weak, 2, add(v), next})
		}
	}
	var info bytes.Buffer
	if f.goVersion != "" {
		info.WriteString("\xff Go buildinf:\x08\x02")
		info.Write(make([]byte, 16))
		for _, s := range []string{f.goVersion, modMark + f.modInfo + modEnd} {
			info.Write(binary.AppendUvarint(nil, uint64(len(s))))
			info.WriteString(s)
		}
		info.Write(make([]byte, 64))
	}

	type section struct {
		name string
		typ  elf.SectionType
		link uint32
		ent  uint64
		data []byte
	}
	sections := []section{
		{"", elf.SHT_NULL, 0, 0, nil},
		{".rodata", elf.SHT_PROGBITS, 0, 0, hash.Bytes()},
		{".dynsym", elf.SHT_DYNSYM, 3, elf.Sym64Size, sym.Bytes()},
		{".dynstr", elf.SHT_STRTAB, 0, 0, str.Bytes()},
		{".dynamic", elf.SHT_DYNAMIC, 3, 16, dyn.Bytes()},
		{".gnu.version_r", elf.SHT_GNU_VERNEED, 3, 0, need.Bytes()},
		{".go.buildinfo", elf.SHT_PROGBITS, 0, 0, info.Bytes()},
	}
	for name, data := range f.debug {
		sections = append(sections, section{".debug_" + name, elf.SHT_PROGBITS, 0, 0, data})
	}
	var shstr bytes.Buffer
	var heads []elf.Section64
	var body bytes.Buffer
	body.Grow(str.Len() + sym.Len() + 1<<16)
	off := base
	sections = append(sections, section{".shstrtab", elf.SHT_STRTAB, 0, 0, nil})
	for i, s := range sections {
		nameOff := uint32(shstr.Len())
		shstr.WriteString(s.name + "\x00")
		if i == len(sections)-1 {
			s.data = shstr.Bytes()
		}
		if pad := -off & 15; i > 1 && pad > 0 {
			body.Write(make([]byte, pad))
			off += pad
		}
		h := elf.Section64{Name: nameOff, Type: uint32(s.typ), Off: off, Addr: off,
			Size: uint64(len(s.data)), Link: s.link, Entsize: s.ent, Flags: uint64(elf.SHF_ALLOC)}
		if i == 0 {
			h = elf.Section64{}
		}
		heads = append(heads, h)
		body.Write(s.data)
		off += uint64(len(s.data))
	}
	typ, machine := f.typ, f.machine
	if typ == 0 {
		typ = elf.ET_DYN
	}
	if machine == 0 {
		machine = elf.EM_X86_64
	}
	var out bytes.Buffer
	out.Grow(int(off) + 64*len(heads))
	head := elf.Header64{Type: uint16(typ), Machine: uint16(machine), Version: 1, Phoff: 64,
		Shoff: off, Ehsize: 64,
		Phentsize: 56, Phnum: uint16(phnum), Shentsize: 64, Shnum: uint16(len(heads)),
		Shstrndx: uint16(len(heads) - 1)}
	copy(head.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	_ = binary.Write(&out, le, head)
	_ = binary.Write(&out, le, elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: 6, Filesz: off, Memsz: off,
		Align: cmp.Or(f.align, 4096)})
	_ = binary.Write(&out, le, elf.Prog64{Type: uint32(elf.PT_GNU_STACK), Flags: uint32(cmp.Or(f.stack,
		elf.PF_R|elf.PF_W))})
	if f.interp {
		_ = binary.Write(&out, le, elf.Prog64{Type: uint32(elf.PT_INTERP)})
	}
	out.Write(body.Bytes())
	_ = binary.Write(&out, le, heads)
	return out.Bytes()
}

// A gateway and a plugin as of Tyk 5.2.5, reduced to a few packages.
func forgedGateway() forged {
	return forged{
		interp: true, goVersion: "go1.22.1",
		modInfo: "path\tgithub.com/TykTechnologies/tyk\nmod\tgithub.com/TykTechnologies/tyk\t(devel)\t\ndep\tgithub.com/google/uuid\tv1.6.0\t\n" +
			"build\t-trimpath=true\nbuild\tGOAMD64=v1\n",
		packages: map[string]string{"main": "mainmain", "runtime": "runtime1", "net/http": "nethttp1",
			"github.com/google/uuid": "uuid-1.6"},
		needed: []string{"libc.so.6"}, versions: map[string][]string{"libc.so.6": {"GLIBC_2.2.5",
			"GLIBC_2.17"}},
	}
}

func forgedPlugin() forged {
	return forged{
		goVersion: "go1.22.1",
		modInfo: "path\texample.com/hooks\nmod\texample.com/hooks\t(devel)\t\ndep\tgithub.com/google/uuid\tv1.5.0\t\n" +
			"build\t-buildmode=plugin\nbuild\t-trimpath=true\nbuild\tGOAMD64=v1\n",
		packages: map[string]string{"example.com/hooks": "hooks123", "runtime": "runtime1",
			"net/http": "nethttp1", "github.com/google/uuid": "uuid-1.5"},
		funcs: []string{"example.com/hooks.main", "example.com/hooks.AddFooBarHeader",
			"example.com/hooks.(*T).Method", "example.com/hooks.init"},
		needed: []string{"libc.so.6"}, versions: map[string][]string{"libc.so.6": {"GLIBC_2.2.5",
			"GLIBC_2.34"}, "libm.so.6": {"GLIBC_2.29"}},
	}
}

// reader is the file with its size, as InspectReaderAt takes it.
func (f forged) reader() (io.ReaderAt, int64) {
	b := f.bytes()
	return strings.NewReader(string(b)), int64(len(b))
}
