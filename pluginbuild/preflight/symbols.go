package preflight

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	chunk       = 1 << 20
	symSize     = 24
	maxPackages = 1 << 17
	maxNames    = 16 << 20 // bytes of all package names together
	maxHash     = 128
	maxExports  = 1 << 16
)

// hashMark follows "go:" (Go 1.20 and newer) or "go." (up to 1.19) in the names of the symbols that
// plugin.Open compares.
var hashMark = []byte("link.pkghashbytes.")

// hashes returns the package hashes in the dynamic symbol table, in hex, and the packages whose
// hash cannot be read. One pass over the string table finds the names, such as 3,816 of 857,032,
// without keeping the rest. One pass over the symbols finds the values.
func (o *object) hashes() (hash map[string]string, unreadable []string, err error) {
	tab, names, err := o.table(elf.SHT_DYNSYM)
	if tab == nil || err != nil {
		return nil, nil, err
	}
	at := map[uint32]string{}
	total := 0
	err = scan(io.NewSectionReader(o.r, int64(names.Offset), int64(names.FileSize)), func(off uint32,
		pkg string) error {
		if total += len(pkg); len(at) == maxPackages || total > maxNames {
			return malformed("more package names than any Go program has")
		}
		at[off] = pkg
		return nil
	})
	if err != nil || len(at) == 0 {
		return nil, nil, err
	}
	hash = make(map[string]string, len(at))
	err = o.symbols(tab, func(_ int, s symbol) error {
		pkg, ok := at[s.name]
		if !ok || s.undefined() {
			return nil
		}
		// Linkers do not write a second definition, so neither is valid.
		_, twice := hash[pkg]
		var b []byte
		if !twice && s.size > 0 && s.size <= maxHash {
			b, _ = o.loaded(s.value, s.size)
		}
		if len(b) > 0 {
			hash[pkg] = hex.EncodeToString(b)
			return nil
		}
		if unreadable = append(unreadable, pkg); len(unreadable) > maxPackages {
			return malformed("more package hashes than any Go program has")
		}
		return nil
	})
	for _, pkg := range unreadable {
		delete(hash, pkg)
	}
	slices.Sort(unreadable)
	return hash, slices.Compact(unreadable), err
}

// scan calls found for every name of a package hash in a string table. A linker may store a name as
// the end of another one, so a match need not follow a NUL.
func scan(r *io.SectionReader, found func(off uint32, pkg string) error) error {
	const lead = len("go:")
	buf := make([]byte, min(r.Size(), int64(chunk+lead+len(hashMark)+maxName)))
	for pos := int64(0); pos < r.Size(); pos += chunk {
		n, err := r.ReadAt(buf[:min(int64(len(buf)), r.Size()-pos)], pos)
		if err != nil && err != io.EOF {
			return err
		}
		for i := lead; i < n; {
			j := bytes.Index(buf[i:n], hashMark)
			if j < 0 {
				break
			}
			start := i + j - lead
			if start >= chunk {
				break // the next round sees it in full
			}
			i += j + len(hashMark)
			if p := string(buf[start : start+lead]); p != "go:" && p != "go." {
				continue
			}
			end := bytes.IndexByte(buf[i:min(n, i+maxName)], 0)
			if end < 0 {
				return malformed("a package name of more than %d bytes, or cut off", maxName)
			}
			if err := found(uint32(pos)+uint32(start), string(buf[i:i+end])); err != nil {
				return err
			}
			i += end
		}
	}
	return nil
}

// symbol is one entry of a symbol table. Its name is an offset.
type symbol struct {
	name        uint32
	info        byte
	section     uint16
	value, size uint64
}

func (s symbol) undefined() bool   { return elf.SectionIndex(s.section) == elf.SHN_UNDEF }
func (s symbol) kind() elf.SymType { return elf.ST_TYPE(s.info) }

// symbols calls each for every symbol of a table, reading it in chunks.
func (o *object) symbols(tab *elf.Section, each func(i int, s symbol) error) error {
	if tab.Entsize != symSize || tab.FileSize%symSize != 0 {
		return malformed("section %s has entries of %d bytes", tab.Name, tab.Entsize)
	}
	le := binary.LittleEndian
	buf := make([]byte, min(chunk/symSize*symSize, tab.FileSize))
	i := 0
	for pos := uint64(0); pos < tab.FileSize; pos += uint64(len(buf)) {
		p := buf[:min(uint64(len(buf)), tab.FileSize-pos)]
		if _, err := o.r.ReadAt(p, int64(tab.Offset+pos)); err != nil {
			return fmt.Errorf("read symbols: %w", err)
		}
		for ; len(p) > 0; p = p[symSize:] {
			s := symbol{name: le.Uint32(p), info: p[4], section: le.Uint16(p[6:]), value: le.Uint64(p[8:]),
				size: le.Uint64(p[16:])}
			if err := each(i, s); err != nil {
				return err
			}
			i++
		}
	}
	return nil
}

// mainPackages returns the packages with a function main. The plugin's own is one of them, mostly
// the only one.
func (o *object) mainPackages(packages map[string]string) ([]string, error) {
	symbolOf := make(map[string]string, len(packages))
	for pkg := range packages {
		symbolOf[escape(pkg)+".main"] = pkg
	}
	var mains []string
	err := o.names(func(name string, s symbol, _ bool) error {
		if pkg, ok := symbolOf[name]; ok && !s.undefined() && s.kind() == elf.STT_FUNC &&
			len(mains) < maxPackages {
			mains = append(mains, pkg)
		}
		return nil
	})
	return mains, err
}

// exports returns the exported functions and variables of the package whose symbols begin with
// path, and the undefined symbols without a library version.
func (o *object) exports(path string) (funcs, vars, undefined []string, err error) {
	prefix := path + "."
	err = o.names(func(name string, s symbol, versioned bool) error {
		if len(funcs)+len(vars)+len(undefined) >= maxExports {
			return malformed("more exported symbols than any plugin has")
		}
		if s.undefined() {
			if elf.ST_BIND(s.info) == elf.STB_GLOBAL && !versioned && name != "" {
				undefined = append(undefined, name)
			}
			return nil
		}
		ident, ok := strings.CutPrefix(name, prefix)
		if !ok || path == "" || !exported(ident) {
			return nil
		}
		if s.kind() == elf.STT_FUNC {
			funcs = append(funcs, ident)
		} else {
			vars = append(vars, ident)
		}
		return nil
	})
	slices.Sort(funcs)
	slices.Sort(vars)
	slices.Sort(undefined)
	return funcs, vars, undefined, err
}

// names calls each for every dynamic symbol with its name. versioned is true for an undefined
// symbol that is bound to a version of a library.
func (o *object) names(each func(name string, s symbol, versioned bool) error) error {
	tab, names, err := o.table(elf.SHT_DYNSYM)
	if tab == nil || err != nil {
		return err
	}
	str := &strtab{r: o.r, sec: names}
	var versions *elf.Section
	if i := slices.IndexFunc(o.Sections,
		func(s *elf.Section) bool { return s.Type == elf.SHT_GNU_VERSYM }); i >= 0 {
		versions = o.Sections[i]
	}
	return o.symbols(tab, func(i int, s symbol) error {
		name, err := str.at(uint64(s.name))
		if err != nil {
			return err
		}
		return each(name, s, s.undefined() && o.versioned(versions, i))
	})
}

// versioned reports whether symbol i is bound to a version. 0 and 1 mean local and any.
func (o *object) versioned(versions *elf.Section, i int) bool {
	if versions == nil || uint64(i) >= versions.FileSize/2 {
		return false
	}
	var v [2]byte
	_, err := o.r.ReadAt(v[:], int64(versions.Offset)+2*int64(i))
	return err == nil && binary.LittleEndian.Uint16(v[:])&0x7fff > 1
}

func exported(ident string) bool {
	first, _ := utf8.DecodeRuneInString(ident)
	return unicode.IsUpper(first) && !strings.ContainsFunc(ident, func(r rune) bool {
		return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
}

// escape returns an import path as the linker writes it in symbol names. Hex replaces dots of the
// last element, quotes, percent signs and all but printable ASCII.
func escape(path string) string {
	var b strings.Builder
	last := strings.LastIndexByte(path, '/')
	for i := range len(path) {
		if c := path[i]; c <= ' ' || c == '%' || c == '"' || c >= 0x7f || (c == '.' && i > last) {
			fmt.Fprintf(&b, "%%%02x", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
