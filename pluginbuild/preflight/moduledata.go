package preflight

import (
	"debug/elf"
	"encoding/binary"
	"io"
	"maps"
	"slices"
	"strings"
)

// moduleData is the part of the runtime's moduledata that plugin.Open reads. The linker writes it.
type moduleData struct {
	path    string // the plugin's path, escaped as in its symbols
	exports uint64 // number of functions and variables that plugin.Open looks up
}

// relative is the relocation of a pointer into the same file, by machine.
var relative = map[elf.Machine]uint32{
	elf.EM_X86_64:    uint32(elf.R_X86_64_RELATIVE),
	elf.EM_AARCH64:   uint32(elf.R_AARCH64_RELATIVE),
	elf.EM_PPC64:     uint32(elf.R_PPC64_RELATIVE),
	elf.EM_RISCV:     uint32(elf.R_RISCV_RELATIVE),
	elf.EM_LOONGARCH: uint32(elf.R_LARCH_RELATIVE),
}

// moduleData finds the record without its symbol, which stripped files lack. These fields follow
// each other in the moduledata of Go 1.16 to 1.27:
//
//	ptab       []ptabEntry  // the plugin's exports
//	pluginpath string
//	pkghashes  []modulehash // one entry for each package
//
// It looks for two relocated pointers 16 bytes apart, with the right number of packages after the
// second. These are pluginpath and pkghashes. ok is false if there is no such record, as in files
// with packed relocations (-z pack-relative-relocs).
func (o *object) moduleData(packages int) (data moduleData, ok bool) {
	want, known := relative[o.Machine]
	if !known || packages == 0 {
		return data, false
	}
	le := binary.LittleEndian
	for _, s := range o.Sections {
		if s.Type != elf.SHT_RELA || s.Entsize != relaSize || s.Offset > uint64(o.size) ||
			s.FileSize > uint64(o.size)-s.Offset {
			continue
		}
		buf := make([]byte, min(chunk/relaSize*relaSize, s.FileSize/relaSize*relaSize))
		var slot, addend uint64 // of the previous entry; linkers sort entries by slot
		for pos := uint64(0); pos+relaSize <= s.FileSize; pos += uint64(len(buf)) {
			p := buf[:min(uint64(len(buf)), (s.FileSize-pos)/relaSize*relaSize)]
			if _, err := o.r.ReadAt(p, int64(s.Offset+pos)); err != nil && err != io.EOF {
				return data, false
			}
			for ; len(p) > 0; p = p[relaSize:] {
				if uint32(le.Uint64(p[8:])) != want {
					continue
				}
				before, to := slot, addend
				slot, addend = le.Uint64(p), le.Uint64(p[16:])
				if slot != before+16 {
					continue
				}
				if data, ok = o.moduleDataAt(before, to, uint64(packages)); ok {
					return data, true
				}
			}
		}
	}
	return data, false
}

const relaSize = 24

// moduleDataAt reads the record whose plugin path is at slot. It reports whether there is one.
func (o *object) moduleDataAt(slot, path, packages uint64) (moduleData, bool) {
	b, err := o.loaded(slot-16, 56)
	if err != nil {
		return moduleData{}, false
	}
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
	exports, length := word(0), word(3)
	if exports != word(1) || exports > maxExports || length == 0 || length > maxName ||
		word(5) != packages || word(6) != packages {
		return moduleData{}, false
	}
	text, err := o.loaded(path, length)
	if err != nil || slices.ContainsFunc(text, func(c byte) bool { return c <= ' ' || c >= 0x7f }) {
		return moduleData{}, false
	}
	return moduleData{path: string(text), exports: exports}, true
}

// pluginPath finds the package with a plugin's functions, and the prefix of their symbols.
func (o *object) pluginPath(b *Binary) (path, prefix string, err error) {
	if data, ok := o.moduleData(len(b.Packages) + len(b.Unreadable)); ok {
		b.declared = data.exports
		path = data.path
		for pkg := range b.Packages {
			if escape(pkg) == data.path {
				path = pkg
			}
		}
		return path, data.path, nil
	}
	mains, err := o.mainPackages(b.Packages)
	if err != nil {
		return "", "", err
	}
	path = guessPath(mains, b)
	return path, escape(path), nil
}

// guessPath finds the plugin's own package without module data. It looks at packages with a
// function main, then at the path that the go command recorded, if it has a hash.
func guessPath(mains []string, b *Binary) string {
	mains = slices.DeleteFunc(slices.Clone(mains), func(p string) bool {
		return p == "main" ||
			p == "runtime"
	})
	unnamed := func(p string) bool { return strings.HasPrefix(p, "plugin/unnamed-") }
	for _, p := range mains {
		switch {
		case p == b.path,
			// Files on the command line get the path plugin/unnamed-HASH.
			b.path == "command-line-arguments" && unnamed(p),
			b.path == "" && len(mains) == 1:
			return p
		}
	}
	if b.Settings["-buildmode"] != "plugin" {
		return ""
	}
	if _, ok := b.Packages[b.path]; ok && b.path != "main" {
		return b.path
	}
	var found []string
	for p := range maps.Keys(b.Packages) {
		if unnamed(p) {
			found = append(found, p)
		}
	}
	if b.path == "command-line-arguments" && len(found) == 1 {
		return found[0]
	}
	return ""
}
