package preflight

import (
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
)

// Binary describes a plugin or a gateway binary.
type Binary struct {
	Name   string `json:"name"` // as the caller named it
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // lower-case hex

	Class   string `json:"class"`   // "ELF64"; other classes are refused
	Machine string `json:"machine"` // "EM_X86_64"
	Arch    string `json:"arch"`    // Go's name of it, "amd64"; empty if unknown
	Shared  bool   `json:"shared"`  // a shared object, not an executable

	Go     bool `json:"go"`     // compiled by Go
	Plugin bool `json:"plugin"` // a Go plugin (-buildmode=plugin)
	// a process loads one plugin of each path; empty if unknown
	PluginPath string   `json:"pluginPath,omitempty"`
	Exports    []Func   `json:"exports,omitempty"`   // functions that a manifest may name
	Variables  []string `json:"variables,omitempty"` // exported variables

	GoVersion string `json:"goVersion,omitempty"` // "go1.25.4"; empty before Go 1.13
	Main      Module `json:"main,omitzero"`
	// sorted by path; from file names for plugins of Go before 1.20; empty in GOPATH mode
	Modules []Module `json:"modules,omitempty"`
	// "-trimpath": "true"; empty before Go 1.18
	Settings map[string]string `json:"settings,omitempty"`
	// "v1" to "v4"; empty if unknown or another machine
	GOAMD64 string `json:"goamd64,omitempty"`

	Libraries []string `json:"libraries,omitempty"` // required shared libraries
	// properties for the dynamic linker: "executable_stack", "nodlopen", "symbolic"
	Loader []string `json:"loader,omitempty"`
	Needs  []Need   `json:"needs,omitempty"` // glibc versions, the highest for each library
	// undefined symbols of a shared object without a library version
	Undefined []string `json:"undefined,omitempty"`

	// Packages maps each linked package to the hash that plugin.Open compares, in hex.
	// Unreadable has packages whose hash cannot be read.
	Packages   map[string]string `json:"-"`
	Unreadable []string          `json:"unreadable,omitempty"`

	path     string // of the main package, as the Go command recorded it
	real     string // the file's path without symbolic links; empty if unknown
	declared uint64 // functions and variables that plugin.Open looks up; 0: none or unknown
	symbols  bool   // there is a dynamic symbol table, empty or not
}

// Module is a linked Go module.
type Module struct {
	Path string `json:"path"`
	// "(devel)" for the main module and those of a workspace
	Version string  `json:"version,omitempty"`
	Replace *Module `json:"replace,omitempty"` // its replacement
}

// Inspect reads a plugin or a gateway binary without executing it. For a running gateway use
// /proc/PID/exe. A file of 500 MB takes less than a second and 64 MiB. A file that is not a Go
// plugin is not an error; see [Binary].Plugin. Errors are of type [*Error].
func Inspect(path string) (*Binary, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fail("inspect", path, bare(err))
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fail("inspect", path, bare(err))
	}
	if !info.Mode().IsRegular() {
		return nil, fail("inspect", path, fmt.Errorf("%w: it is not a regular file", ErrNotELF))
	}
	b, err := InspectReaderAt(f, info.Size(), path)
	if err == nil {
		b.real = realPath(path)
	}
	return b, err
}

// realPath returns the path by which plugin.Open identifies a file. It returns "" if that is
// unknown, as of /proc/PID/exe in another mount namespace.
func realPath(path string) string {
	path, err := filepath.Abs(path)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return ""
	}
	return path
}

// InspectReaderAt is [Inspect] for a file that is open or in memory. The name is for messages and
// for [Symbol].File.
func InspectReaderAt(r io.ReaderAt, size int64, name string) (b *Binary, err error) {
	// The debug packages of the standard library are not hardened against hostile input.
	defer func() {
		if p := recover(); p != nil {
			b, err = nil, fail("inspect", name, malformed("%v", p))
		}
	}()
	o, err := openELF(r, size)
	if err == nil {
		b, err = o.inspect()
	}
	if err != nil {
		// After the checks, only a file that shrinks ends early.
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = malformed("unexpected end: %v", err)
		}
		return nil, fail("inspect", name, err)
	}
	b.Name, b.Size = name, size
	sum := sha256.New()
	n, err := io.CopyBuffer(sum, struct{ io.Reader }{io.NewSectionReader(r, 0, size)}, make([]byte,
		min(size, chunk)))
	if err == nil && n < size {
		err = malformed("unexpected end after %d of %d bytes", n, size)
	}
	if err != nil {
		return nil, fail("inspect", name, err)
	}
	b.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return b, nil
}

func (o *object) inspect() (*Binary, error) {
	b := &Binary{
		Class:   "ELF64",
		Machine: o.Machine.String(),
		Arch:    arches[o.Machine],
		Shared:  o.shared(),
	}
	b.buildInfo(&limited{o.r, maxHeaders})
	var err error
	if err = o.dynamic(b); err != nil {
		return nil, err
	}
	if tab, _, _ := o.table(elf.SHT_DYNSYM); tab != nil {
		b.symbols = true
	}
	if b.Packages, b.Unreadable, err = o.hashes(); err != nil {
		return nil, err
	}
	b.Go = b.GoVersion != "" || len(b.Packages)+len(b.Unreadable) > 0
	if b.Shared && b.Go {
		err = o.plugin(b)
	}
	return b, err
}

var arches = map[elf.Machine]string{
	elf.EM_X86_64:    "amd64",
	elf.EM_AARCH64:   "arm64",
	elf.EM_PPC64:     "ppc64le",
	elf.EM_RISCV:     "riscv64",
	elf.EM_LOONGARCH: "loong64",
}

// buildInfo reads the record of the go command. Files of Go before 1.13 and of other compilers
// have none.
func (b *Binary) buildInfo(r io.ReaderAt) {
	info, err := buildinfo.Read(r)
	if err != nil {
		return
	}
	b.GoVersion = info.GoVersion
	b.Main = *module(&info.Main)
	for _, m := range info.Deps {
		b.Modules = append(b.Modules, *module(m))
	}
	slices.SortFunc(b.Modules, func(x, y Module) int { return cmp.Compare(x.Path, y.Path) })
	b.Settings = make(map[string]string, len(info.Settings))
	for _, s := range info.Settings {
		b.Settings[s.Key] = s.Value
	}
	b.GOAMD64 = b.Settings["GOAMD64"]
	b.path = info.Path
}

func module(m *debug.Module) *Module {
	out := &Module{Path: m.Path, Version: m.Version}
	if m.Replace != nil {
		out.Replace = module(m.Replace)
	}
	return out
}

// plugin finds out whether a shared object is a Go plugin, and reads its exports.
func (o *object) plugin(b *Binary) error {
	path, prefix, err := o.pluginPath(b)
	if err != nil {
		return err
	}
	b.PluginPath = path
	// Builds of Go before 1.18 do not record their mode. Their c-shared libraries have no plugin
	// path.
	mode, recorded := b.Settings["-buildmode"]
	b.Plugin = mode == "plugin" || (!recorded && path != "")
	if !b.Plugin {
		b.PluginPath, b.declared = "", 0
		return nil
	}
	var funcs []string
	if funcs, b.Variables, b.Undefined, err = o.exports(prefix); err != nil {
		return err
	}
	var compiler string
	b.Exports, compiler = o.signatures(b.PluginPath, funcs)
	b.GoVersion = cmp.Or(b.GoVersion, compiler)
	if b.Settings == nil {
		b.Modules = o.modules()
	}
	return nil
}

// bare removes the path from an error, because the wrapping error names it.
func bare(err error) error {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return e.Err
	}
	return err
}
