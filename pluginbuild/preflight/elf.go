package preflight

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Limits against forged files, which could cost memory or time. They are far above the output of
// Go's and the GNU linkers: 46 sections, 10 segments, 15 version entries in a plugin.
const (
	maxSections = 4096
	maxSegments = 512
	maxTable    = 1 << 20  // dynamic section, version needs
	maxHeaders  = 16 << 20 // all that debug/elf and debug/buildinfo may read
	maxName     = 4096     // one symbol name
)

// object is an open 64-bit little-endian ELF executable or shared object. It uses debug/elf only
// for headers, whose symbol functions load whole tables: 223 MiB for a gateway of 545 MB.
type object struct {
	*elf.File
	r      io.ReaderAt
	size   int64
	budget *limited // what File may still read

	relrVersion bool // the needs have the version for packed relocations
}

func malformed(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, a...)...)
}

func openELF(r io.ReaderAt, size int64) (*object, error) {
	r = io.NewSectionReader(r, 0, size)
	head := make([]byte, 64)
	if n, err := r.ReadAt(head, 0); n < 4 || string(head[:4]) != elf.ELFMAG {
		if err != nil && err != io.EOF {
			return nil, err
		}
		if size == 0 {
			return nil, fmt.Errorf("%w: empty file", ErrNotELF)
		}
		return nil, ErrNotELF
	} else if n < len(head) {
		return nil, malformed("the ELF header ends after %d bytes", size)
	}
	switch {
	case elf.Class(head[elf.EI_CLASS]) == elf.ELFCLASS32:
		return nil, fmt.Errorf("%w: 32-bit; Tyk gateways are 64-bit", ErrUnsupported)
	case elf.Data(head[elf.EI_DATA]) == elf.ELFDATA2MSB:
		return nil, fmt.Errorf("%w: big-endian, as on s390x; only little-endian files are supported",
			ErrUnsupported)
	case elf.Class(head[elf.EI_CLASS]) != elf.ELFCLASS64,
		elf.Data(head[elf.EI_DATA]) != elf.ELFDATA2LSB:
		return nil, malformed("impossible ELF class or byte order")
	}
	le := binary.LittleEndian
	if t := elf.Type(le.Uint16(head[16:])); t != elf.ET_EXEC && t != elf.ET_DYN {
		return nil, fmt.Errorf("%w: %v, neither an executable nor a shared object", ErrUnsupported, t)
	}
	// Check before debug/elf allocates. A count of 0 with a table means more than 65,279 sections,
	// which no Go program has.
	phnum, shoff, shnum := le.Uint16(head[56:]), le.Uint64(head[40:]), le.Uint16(head[60:])
	if phnum > maxSegments || shnum > maxSections || (shnum == 0 && shoff != 0) {
		return nil, malformed("%d segments and %d sections", phnum, shnum)
	}
	budget := &limited{r, maxHeaders}
	f, err := elf.NewFile(budget)
	if err != nil {
		return nil, malformed("%v", err)
	}
	return &object{File: f, r: r, size: size, budget: budget}, nil
}

// limited fails once more than left bytes have been read from r.
type limited struct {
	r    io.ReaderAt
	left int64
}

func (l *limited) ReadAt(p []byte, off int64) (int, error) {
	if l.left -= int64(len(p)); l.left < 0 {
		return 0, malformed("headers or debug sections larger than any Go program's")
	}
	return l.r.ReadAt(p, off)
}

// shared reports whether the file is a shared object. An executable may be ET_DYN too.
func (o *object) shared() bool {
	return o.Type == elf.ET_DYN && !slices.ContainsFunc(o.Progs,
		func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}

// table returns the first section of a type and its string table, or nil. It checks that both are
// within the file.
func (o *object) table(t elf.SectionType) (tab, names *elf.Section, err error) {
	i := slices.IndexFunc(o.Sections, func(s *elf.Section) bool { return s.Type == t })
	if i < 0 {
		return nil, nil, nil
	}
	tab = o.Sections[i]
	if int(tab.Link) >= len(o.Sections) || o.Sections[tab.Link].Type != elf.SHT_STRTAB {
		return nil, nil, malformed("section %s has no string table", tab.Name)
	}
	names = o.Sections[tab.Link]
	for _, s := range []*elf.Section{tab, names} {
		if s.Flags&elf.SHF_COMPRESSED != 0 || s.Offset > uint64(o.size) ||
			s.FileSize > uint64(o.size)-s.Offset {
			return nil, nil, malformed("section %s is outside the file, at %d with %d bytes", s.Name,
				s.Offset, s.FileSize)
		}
	}
	if names.FileSize > 1<<32 {
		return nil, nil, malformed("string table of %d bytes", names.FileSize)
	}
	return tab, names, nil
}

func (o *object) read(s *elf.Section) ([]byte, error) {
	if s.FileSize > maxTable {
		return nil, malformed("section %s of %d bytes", s.Name, s.FileSize)
	}
	p := make([]byte, s.FileSize)
	_, err := o.r.ReadAt(p, int64(s.Offset))
	return p, err
}

// loaded reads the bytes that the dynamic linker maps at a virtual address.
func (o *object) loaded(addr, n uint64) ([]byte, error) {
	for _, p := range o.Progs {
		if p.Type == elf.PT_LOAD && addr >= p.Vaddr && addr-p.Vaddr <= p.Filesz &&
			n <= p.Filesz-(addr-p.Vaddr) {
			b := make([]byte, n)
			off := p.Off + (addr - p.Vaddr)
			if off > uint64(o.size) || n > uint64(o.size)-off {
				break
			}
			_, err := o.r.ReadAt(b, int64(off))
			return b, err
		}
	}
	return nil, malformed("address %#x is not in the file", addr)
}

// Need is the highest glibc version that a file needs of one library.
type Need struct {
	Library string `json:"library"` // "libc.so.6"
	Glibc   string `json:"glibc"`   // "2.34"
}

// weakVersion marks a version that is optional for the dynamic linker.
const weakVersion = 0x2

func (o *object) needs() ([]Need, error) {
	tab, names, err := o.table(elf.SHT_GNU_VERNEED)
	if tab == nil || err != nil {
		return nil, err
	}
	p, err := o.read(tab)
	if err != nil {
		return nil, err
	}
	var needs []Need
	le, str := binary.LittleEndian, &strtab{r: o.r, sec: names}
	// Offsets only lead forward and each entry has 16 bytes, so both walks end after at most as many
	// steps as entries fit in the table.
	steps := len(p) / 16
	for off := uint64(0); off+16 <= uint64(len(p)); {
		lib, err := str.at(uint64(le.Uint32(p[off+4:])))
		if err != nil {
			return nil, err
		}
		need := Need{Library: lib}
		for aux, left := off+uint64(le.Uint32(p[off+8:])), le.Uint16(p[off+2:]); left > 0 &&
			aux+16 <= uint64(len(p)); left-- {
			if steps--; steps < 0 {
				return nil, malformed("section %s has more entries than fit in it", tab.Name)
			}
			version, err := str.at(uint64(le.Uint32(p[aux+8:])))
			if err != nil {
				return nil, err
			}
			o.relrVersion = o.relrVersion || version == relrVersion
			if g := glibc(version); g != "" && le.Uint16(p[aux+4:])&weakVersion == 0 &&
				compareDotted(g, need.Glibc) > 0 {
				need.Glibc = g
			}
			next := uint64(le.Uint32(p[aux+12:]))
			if next == 0 {
				break
			}
			aux += next
		}
		if need.Glibc != "" {
			needs = append(needs, need)
		}
		next := uint64(le.Uint32(p[off+12:]))
		if next == 0 {
			break
		}
		off += next
	}
	slices.SortFunc(needs, func(a, b Need) int { return strings.Compare(a.Library, b.Library) })
	return needs, nil
}

// relrVersion is the version that ld -z pack-relative-relocs writes. glibc 2.36 introduced it.
const relrVersion = "GLIBC_ABI_DT_RELR"

// glibc returns the release that introduced a version name, or "".
func glibc(version string) string {
	if version == relrVersion {
		return "2.36"
	}
	v, ok := strings.CutPrefix(version, "GLIBC_")
	if !ok || v == "" || strings.Trim(v, "0123456789.") != "" {
		return ""
	}
	return v
}

// compareDotted orders versions made of numbers and dots; "" is the lowest.
func compareDotted(a, b string) int {
	for a != "" || b != "" {
		var x, y string
		x, a, _ = strings.Cut(a, ".")
		y, b, _ = strings.Cut(b, ".")
		x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		if c := len(x) - len(y); c != 0 {
			return c
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
	}
	return 0
}

// strtab reads single names of a string table through a bounded cache.
type strtab struct {
	r      io.ReaderAt
	sec    *elf.Section
	blocks map[uint64][]byte
}

const (
	blockSize = 64 << 10
	maxBlocks = 256 // 16 MiB
)

// at returns the name at an offset of the table.
func (t *strtab) at(off uint64) (string, error) {
	var name []byte
	for off < t.sec.FileSize {
		b, err := t.block(off / blockSize)
		if err != nil {
			return "", err
		}
		b = b[off%blockSize:]
		if end := bytes.IndexByte(b, 0); end >= 0 {
			return string(append(name, b[:end]...)), nil
		}
		if name = append(name, b...); len(name) > 2*blockSize {
			break
		}
		off += uint64(len(b))
	}
	return "", malformed("no name at %d of section %s", off, t.sec.Name)
}

func (t *strtab) block(i uint64) ([]byte, error) {
	if b, ok := t.blocks[i]; ok {
		return b, nil
	}
	if t.blocks == nil || len(t.blocks) == maxBlocks {
		t.blocks = map[uint64][]byte{}
	}
	b := make([]byte, min(blockSize, t.sec.FileSize-i*blockSize))
	if _, err := t.r.ReadAt(b, int64(t.sec.Offset+i*blockSize)); err != nil {
		return nil, err
	}
	t.blocks[i] = b
	return b, nil
}
