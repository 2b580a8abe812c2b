package preflight

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
)

// Values of [Binary].Loader. All but the last two make dlopen fail with glibc 2.36
// (elf/dl-load.c, elf/dl-tls.c).
const (
	loaderNoOpen = "nodlopen"         // DF_1_NOOPEN
	loaderPIE    = "pie"              // DF_1_PIE
	loaderAlign  = "unaligned"        // a segment that is not aligned to pages of 4 KiB
	loaderRelr   = "unversioned_relr" // DT_RELR without its glibc version
	// more static thread-local storage than a process reserves
	loaderStaticTLS = "static_tls"
	loaderSymbolic  = "symbolic"         // DT_SYMBOLIC, DF_SYMBOLIC: its own symbols come first
	loaderStack     = "executable_stack" // PT_GNU_STACK is executable or missing
)

// staticTLS is how many bytes of static thread-local storage glibc 2.36 reserves for files that
// are opened later.
const staticTLS = 1664

const pageSize = 4096

// Tags that debug/elf does not name.
const (
	dtRelr   = 36
	dtFilter = 0x7fffffff
	df1PIE   = 0x08000000
)

// dynamic reads the dynamic section and segments, as the dynamic linker does.
func (o *object) dynamic(b *Binary) error {
	tab, names, err := o.table(elf.SHT_DYNAMIC)
	if err != nil {
		return err
	}
	add := func(is bool, what string) {
		if is && !slices.Contains(b.Loader, what) {
			b.Loader = append(b.Loader, what)
		}
	}
	stack, tls := true, uint64(0)
	for _, p := range o.Progs {
		switch p.Type {
		case elf.PT_GNU_STACK:
			stack = p.Flags&elf.PF_X != 0
		case elf.PT_TLS:
			tls = p.Memsz
		case elf.PT_LOAD:
			add(p.Align%pageSize != 0, loaderAlign)
		}
	}
	add(stack, loaderStack)
	if tab == nil {
		return nil
	}
	p, err := o.read(tab)
	if err != nil {
		return err
	}
	str, le, relr := &strtab{r: o.r, sec: names}, binary.LittleEndian, false
entries:
	for ; len(p) >= 16; p = p[16:] {
		value := le.Uint64(p[8:])
		switch tag := elf.DynTag(le.Uint64(p)); tag {
		case elf.DT_NULL:
			break entries
		case elf.DT_NEEDED, dtFilter: // the dynamic linker loads a filter too
			lib, err := str.at(value)
			if err != nil {
				return err
			}
			b.Libraries = append(b.Libraries, lib)
		case elf.DT_SYMBOLIC:
			add(true, loaderSymbolic)
		case elf.DT_FLAGS:
			add(elf.DynFlag(value)&elf.DF_SYMBOLIC != 0, loaderSymbolic)
			add(elf.DynFlag(value)&elf.DF_STATIC_TLS != 0 && tls > staticTLS, loaderStaticTLS)
		case elf.DT_FLAGS_1:
			add(elf.DynFlag1(value)&elf.DF_1_NOOPEN != 0, loaderNoOpen)
			add(value&df1PIE != 0, loaderPIE)
		case dtRelr:
			relr = true
		}
	}
	if b.Needs, err = o.needs(); err != nil {
		return err
	}
	add(relr && !o.relrVersion, loaderRelr)
	return nil
}

// loader checks whether the dynamic linker accepts a plugin. It returns false if dlopen refuses
// the file and so maps no part of it.
func (r *Result) loader(p *Binary) (mapped bool) {
	mapped = true
	for _, what := range p.Loader {
		f := Finding{Verdict: Fails, Kind: KindLoader, Subject: name(p)}
		refused := true
		switch what {
		case loaderNoOpen:
			f.Detail, f.Remedy = "the dynamic linker refuses it: it is marked with -z nodlopen",
				"compile it without -Wl,-z,nodlopen"
		case loaderPIE:
			f.Detail, f.Remedy = "the dynamic linker refuses it: a position-independent executable",
				"compile it with -buildmode=plugin"
		case loaderAlign:
			f.Detail, f.Remedy = "the dynamic linker refuses it: a segment is not aligned to pages",
				"compile it without -Wl,-z,max-page-size"
		case loaderRelr:
			f.Detail, f.Remedy = "the dynamic linker refuses it: packed relocations without their glibc "+
				"version",
				"link it with the linker of the compiler image, or without -z pack-relative-relocs"
		case loaderStaticTLS:
			f.Detail = fmt.Sprintf("it needs more static thread-local storage than the %d bytes that "+
				"glibc reserves", staticTLS)
			f.Remedy = "compile its C code without -ftls-model=initial-exec"
		case loaderSymbolic:
			f.Detail, f.Remedy = "linked with -Bsymbolic: it would use a second Go runtime and crash the "+
				"gateway", "compile it without -Wl,-Bsymbolic"
			refused = false
		default:
			continue
		}
		r.add(f)
		mapped = mapped && !refused
	}
	return mapped
}

// execStackGlibc is the first glibc whose dlopen refuses a file that needs an executable stack,
// unless the process has one (NEWS of 2.41).
const execStackGlibc = "2.41"

// stack checks an executable stack against the target's glibc.
func (r *Result) stack(g *Binary, distro string) {
	p := r.Plugin
	if !slices.Contains(p.Loader, loaderStack) || slices.Contains(g.Loader, loaderStack) || !p.Plugin {
		return
	}
	f := Finding{Verdict: Loads, Kind: KindLoader, Subject: "executable stack",
		Detail: "needed by the plugin, but not by the gateway: the gateway's stacks become " +
			"executable, and glibc " + execStackGlibc + " or newer (Debian 13) refuses the plugin",
		Remedy: `compile it with CGO_LDFLAGS=-Wl,-z,noexecstack, or end its assembly files with .section .note.GNU-stack,"",@progbits`}
	if has := glibcs[distro]; has != "" && compareDotted(has, execStackGlibc) >= 0 {
		f.Verdict, f.Detail = Fails, fmt.Sprintf("needed by the plugin, but not by the gateway: glibc "+
			"%s of %s refuses it", has, distro)
	}
	r.add(f)
}
