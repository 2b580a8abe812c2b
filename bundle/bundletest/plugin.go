// Package bundletest makes plugins and bundles for unit tests. The plugins are shared objects of a
// few kilobytes and need no C compiler, no Tyk and no Docker.
//
// A [Plugin] has the data that tools read from a compiled Go plugin: build info, plugin path,
// package hashes and exported symbols. The dynamic linker loads it. It has no code, so no gateway
// can run it.
package bundletest

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"path"
	"strings"
)

// GatewaySetting is the build setting that names the gateway release of a [Plugin]. Real plugins
// have no such setting: only their package hashes show the release.
const GatewaySetting = "bundletest.gateway"

// Plugin describes a shared object. The zero value is a plugin with the path
// example.org/plugin and the function AddFooBarHeader for linux/amd64.
type Plugin struct {
	Path    string   // plugin path; two files with one path cannot be open in one process
	Symbols []string // exported functions
	Gateway string   // release that it is built for: "5.2.5"; empty: any
	Go      string   // "go1.19.13"; empty: go1.25.0
	Machine elf.Machine
	Content string // makes otherwise equal files differ
}

func (p Plugin) fill() Plugin {
	if p.Path == "" {
		p.Path = "example.org/plugin"
	}
	if p.Symbols == nil {
		p.Symbols = []string{"AddFooBarHeader"}
	}
	if p.Go == "" {
		p.Go = "go1.25.0"
	}
	if p.Machine == elf.EM_NONE {
		p.Machine = elf.EM_X86_64
	}
	return p
}

// modStart and modEnd enclose the module information in a binary.
const (
	modStart = "\x30\x77\xaf\x0c\x92\x74\x08\x02\x41\xe1\xc1\x07\xe6\xd6\x18\xe6"
	modEnd   = "\xf9\x32\x43\x31\x86\x18\x20\x72\x00\x82\x42\x10\x41\x16\xd8\xf2"
)

func (p Plugin) buildInfo() []byte {
	arch := map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64"}[p.Machine]
	mod := fmt.Sprintf("path\t%s\nmod\t%s\t(devel)\t\nbuild\t-buildmode=plugin\nbuild\tGOOS=linux\nbuild\tGOARCH=%s\n", p.Path, p.Path, arch)
	if p.Gateway != "" {
		mod += "build\t" + GatewaySetting + "=" + p.Gateway + "\n"
	}
	b := append([]byte("\xff Go buildinf:\x08\x02"), make([]byte, 16)...)
	for _, s := range []string{p.Go, modStart + mod + modEnd} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return append(b, make([]byte, 16)...)
}

// symbolPath escapes a plugin path like the Go linker in symbol names.
func symbolPath(p string) string {
	dir, last := path.Split(p)
	return dir + strings.ReplaceAll(last, ".", "%2e")
}

const (
	align  = 16
	phSize = 56
	shSize = 64
)

// section is one section of the file, at its address.
type section struct {
	name  string
	typ   elf.SectionType
	flags elf.SectionFlag
	link  uint32
	info  uint32
	size  uint64 // of an entry
	data  []byte
}

// Bytes returns the file. It has one readable and writable segment at address 0 with a dynamic
// section, so the dynamic linker loads it.
func (p Plugin) Bytes() []byte {
	p = p.fill()
	le := binary.LittleEndian
	str := []byte{0}
	add := func(s string) uint32 {
		at := uint32(len(str))
		str = append(append(str, s...),
			0)
		return at
	}
	const segments = 3
	base := uint64(64 + segments*phSize)
	data := []byte("hash of " + p.Path)
	hash := uint64(len(data))
	data = append(data, p.Content...)

	syms := make([]byte, elf.Sym64Size)
	count := uint32(1)
	symbol := func(name string, kind elf.SymType, value, size uint64) {
		syms, _ = binary.Append(syms, le, elf.Sym64{Name: add(name), Info: elf.ST_INFO(elf.STB_GLOBAL,
			kind), Shndx: 1, Value: value, Size: size})
		count++
	}
	symbol("go:link.pkghashbytes."+p.Path, elf.STT_OBJECT, base, hash)
	for _, name := range append([]string{"main"}, p.Symbols...) {
		symbol(symbolPath(p.Path)+"."+name, elf.STT_FUNC, base, 8)
	}
	// One bucket with every symbol in a chain.
	table, _ := binary.Append(nil, le, []uint32{1, count, 1})
	for i := range count {
		next := i + 1
		if i == 0 || next == count {
			next = 0
		}
		table, _ = binary.Append(table, le, next)
	}
	soname := add("plugin.so")
	sections := []section{
		{name: ""},
		{name: ".rodata", typ: elf.SHT_PROGBITS, data: data},
		{name: ".dynsym", typ: elf.SHT_DYNSYM, link: 3, info: 1, size: elf.Sym64Size, data: syms},
		{name: ".dynstr", typ: elf.SHT_STRTAB, data: str},
		{name: ".hash", typ: elf.SHT_HASH, link: 2, size: 4, data: table},
		{name: ".dynamic", typ: elf.SHT_DYNAMIC, flags: elf.SHF_WRITE, link: 3, size: 16,
			data: make([]byte, 16*7)},
		{name: ".go.buildinfo", typ: elf.SHT_PROGBITS, flags: elf.SHF_WRITE, data: p.buildInfo()},
		{name: ".shstrtab", typ: elf.SHT_STRTAB},
	}
	var names []byte
	nameAt := make([]uint32, len(sections))
	for i, s := range sections {
		nameAt[i] = uint32(len(names))
		names = append(append(names, s.name...), 0)
	}
	sections[len(sections)-1].data = names

	at := make([]uint64, len(sections))
	end := base
	for i := 1; i < len(sections); i++ {
		at[i] = end
		end = (end + uint64(len(sections[i].data)) + align - 1) / align * align
	}
	dynamic, _ := binary.Append(nil, le, []uint64{
		uint64(elf.DT_SONAME), uint64(soname), uint64(elf.DT_HASH), at[4], uint64(elf.DT_STRTAB), at[3],
		uint64(elf.DT_SYMTAB), at[2],
		uint64(elf.DT_STRSZ), uint64(len(str)), uint64(elf.DT_SYMENT), elf.Sym64Size, uint64(elf.DT_NULL),
		0})
	sections[5].data = dynamic

	head := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(p.Machine), Version: 1, Phoff: 64,
		Shoff: end, Ehsize: 64,
		Phentsize: phSize, Phnum: segments, Shentsize: shSize, Shnum: uint16(len(sections)),
		Shstrndx: uint16(len(sections) - 1)}
	copy(head.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	out, _ := binary.Append(nil, le, head)
	for _, segment := range []elf.Prog64{
		{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W), Filesz: end, Memsz: end,
			Align: 0x1000},
		{Type: uint32(elf.PT_DYNAMIC), Flags: uint32(elf.PF_R | elf.PF_W), Off: at[5], Vaddr: at[5],
			Paddr:  at[5],
			Filesz: uint64(len(dynamic)), Memsz: uint64(len(dynamic)), Align: 8},
		{Type: uint32(elf.PT_GNU_STACK), Flags: uint32(elf.PF_R | elf.PF_W), Align: 16},
	} {
		out, _ = binary.Append(out, le, segment)
	}
	for i := 1; i < len(sections); i++ {
		out = append(out, make([]byte, at[i]-uint64(len(out)))...)
		out = append(out, sections[i].data...)
	}
	out = append(out, make([]byte, end-uint64(len(out)))...)
	for i, s := range sections {
		header := elf.Section64{Name: nameAt[i], Type: uint32(s.typ), Link: s.link, Info: s.info,
			Entsize: s.size}
		if i > 0 {
			header.Flags, header.Addralign = uint64(s.flags|elf.SHF_ALLOC), align
			header.Addr, header.Off, header.Size = at[i], at[i], uint64(len(s.data))
		}
		out, _ = binary.Append(out, le, header)
	}
	return out
}
