package bundle

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// Severity is the consequence of a finding.
type Severity string

const (
	// Refused means that the gateway or tyk bundle build refuses the manifest, or that no gateway
	// can use it. [Write] also refuses it.
	Refused Severity = "refused"
	// Accepted means that the gateway accepts the manifest, but ignores a part of it or reads it in
	// another sense.
	Accepted Severity = "accepted"
)

// Finding is one problem of a manifest or its files.
type Finding struct {
	Path     string   `json:"path"` // JSON path: custom_middleware.post[0].path
	Severity Severity `json:"severity"`
	Problem  string   `json:"problem"`
	Remedy   string   `json:"remedy"`
}

const driverGo = "goplugin"

var drivers = []string{"otto", "python", "lua", "grpc", driverGo}

// Validate returns all problems of m in the order of the manifest, or nil. src holds the files of
// file_list. If src is nil, Validate checks only the manifest.
func (m *Manifest) Validate(src fs.FS) []Finding {
	v := &validation{m: m, src: src}
	v.run()
	return v.findings
}

type validation struct {
	m        *Manifest
	src      fs.FS
	total    int64 // bytes of all regular files
	findings []Finding
}

func (v *validation) add(s Severity, at, problem, remedy string) {
	v.findings = append(v.findings, Finding{at, s, problem, remedy})
}

func (v *validation) run() {
	v.files()
	v.middleware()
	v.extractor()
	for _, at := range slices.Sorted(maps.Keys(v.m.Unknown)) {
		v.add(Accepted, at, "no known gateway reads this field, and it is not written to the bundle",
			"correct the name or remove it")
	}
}

// refused returns the findings of that severity.
func (v *validation) refused() []Finding {
	v.run()
	return slices.DeleteFunc(v.findings, func(f Finding) bool { return f.Severity != Refused })
}

func (v *validation) files() {
	seen := map[string]int64{} // the bytes of each
	for i, name := range v.m.FileList {
		at := fmt.Sprintf("file_list[%d]", i)
		if problem, remedy := nameProblem(name); problem != "" {
			v.add(Refused, at, fmt.Sprintf("%q %s", name, problem), remedy)
			continue
		}
		clean := path.Clean(name)
		if size, twice := seen[clean]; twice {
			v.total += size
			v.add(Accepted, at, fmt.Sprintf("%q is listed twice, and it is in the zip twice", name),
				"list it once")
			continue
		}
		before := v.total
		if v.src != nil {
			v.file(at, name)
		}
		seen[clean] = v.total - before
	}
}

// nameProblem explains why name cannot be a bundle entry. Gateways join the name to the bundle's
// directory, so ./plugin.so means plugin.so.
func nameProblem(name string) (problem, remedy string) {
	const flat = "put the file next to the manifest and list its bare name"
	if !path.IsAbs(name) && !strings.HasSuffix(name, "/") && !slices.Contains(strings.Split(name, "/"),
		"..") && name != "" {
		name = path.Clean(name)
	}
	switch {
	case name == "":
		return "is not a file name", "remove the entry"
	case name == ManifestName:
		return "would be overwritten by the manifest of the bundle, so the checksum could never match",
			"remove it: the manifest is added by itself"
	case path.IsAbs(name):
		return "is an absolute path", flat
	case slices.Contains(strings.Split(name, "/"), ".."):
		return "leaves the bundle's directory", flat
	case strings.ContainsAny(name, `/\`):
		// The gateway creates no parent directories when it unpacks.
		return "is in a directory, and gateways cannot unpack those", flat
	case name == ".":
		return "is a directory", "list the files themselves"
	case strings.ContainsRune(name, 0):
		return "holds a NUL byte", "rename the file"
	}
	return "", ""
}

func (v *validation) file(at, name string) {
	// Check this before opening: an open of a pipe waits for its writer.
	info, err := fs.Stat(v.src, path.Clean(name))
	if err == nil && !info.Mode().IsRegular() {
		v.add(Refused, at, fmt.Sprintf("%q is not a regular file but %s", name, kind(info.Mode())),
			"list regular files only")
		return
	}
	var f fs.File
	if err == nil {
		f, err = v.src.Open(path.Clean(name))
	}
	if err != nil {
		problem, remedy := fmt.Sprintf("%q cannot be read: %v", name, err), "make the file readable"
		if errors.Is(err, fs.ErrNotExist) {
			problem, remedy = fmt.Sprintf("%q does not exist", name),
				"build or copy it there, or remove the entry"
		}
		v.add(Refused, at, problem, remedy)
		return
	}
	defer f.Close()
	v.total += info.Size()
	isPlugin := v.m.Middleware.Driver == driverGo && v.loadable(path.Clean(name))
	severity := Accepted
	if isPlugin {
		severity = Refused
	}
	if info.Size() == 0 {
		v.add(severity, at, fmt.Sprintf("%q is empty", name), "build it again")
		return
	}
	if v.m.Middleware.Driver != driverGo {
		return
	}
	if problem := notSharedObject(f, info.Size()); problem != "" {
		v.add(severity, at, fmt.Sprintf("%q %s, so the goplugin driver cannot load it", name, problem),
			"compile it with Tyk's plugin compiler for the gateway's version")
	}
}

// loadable reports whether a gateway of any version may load name as a plugin.
func (v *validation) loadable(name string) bool {
	return strings.HasSuffix(name, ".so") ||
		slices.ContainsFunc(v.m.hooks(), func(h placed) bool { return satisfies(name, h.Path) })
}

// satisfies reports whether any gateway loads file for a hook path, by the exact name or by a
// versioned name.
func satisfies(file, hook string) bool {
	hook = path.Clean(strings.TrimLeft(hook, "/"))
	if file == hook {
		return true
	}
	match := versioned.FindStringSubmatch(file)
	return match != nil && match[1] == strings.TrimSuffix(hook, ".so")
}

func kind(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m&fs.ModeSymlink != 0:
		return "a symbolic link"
	default:
		return "a device, pipe or socket"
	}
}

// notSharedObject explains why the file at r is not a 64-bit shared object, or returns "". It reads
// only the header, so it works on streams.
func notSharedObject(r io.Reader, size int64) string {
	var h [64]byte
	if n, err := io.ReadFull(r, h[:]); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Sprintf("cannot be read: %v", err)
	} else if n < len(h) || !bytes.HasPrefix(h[:], []byte(elf.ELFMAG)) {
		return "is not an ELF file"
	}
	var order binary.ByteOrder = binary.LittleEndian
	if elf.Data(h[elf.EI_DATA]) == elf.ELFDATA2MSB { // s390x
		order = binary.BigEndian
	}
	if t := elf.Type(order.Uint16(h[16:])); t != elf.ET_DYN {
		return fmt.Sprintf("is an ELF file, but no shared object (%s)", t)
	}
	if elf.Class(h[elf.EI_CLASS]) != elf.ELFCLASS64 {
		return "is not a 64-bit ELF file"
	}
	// The section headers are last, so a truncated copy lacks them.
	end := order.Uint64(h[40:]) + uint64(order.Uint16(h[58:]))*uint64(order.Uint16(h[60:]))
	if end > uint64(size) {
		return fmt.Sprintf("is cut short: its ELF header needs at least %d bytes, it has %d", end, size)
	}
	return ""
}

func (v *validation) middleware() {
	const base = "custom_middleware"
	mw := v.m.Middleware
	hooks := v.m.hooks()
	if !slices.ContainsFunc(hooks, func(h placed) bool {
		return h.at != base+".auth_check" ||
			h.Name != ""
	}) {
		v.add(Refused, base, "no hooks are defined", "name a function under pre, post, post_key_auth, "+
			"auth_check or response")
	}
	switch {
	case mw.Driver == "":
		v.add(Refused, base+".driver", "no driver is specified",
			"set it to goplugin, or to what the plugin is written in")
	case !slices.Contains(drivers, mw.Driver):
		v.add(Refused, base+".driver", fmt.Sprintf("no gateway up to 5.14 has the driver %q", mw.Driver),
			"use one of "+strings.Join(drivers, ", "))
	}
	if mw.TrafficLogs != nil {
		v.add(Accepted, base+".traffic_logs", "gateways before 5.15 do not read it, nor does any from "+
			"a list of bundles", "set analytics_plugin in the API definition for those")
	}
	for _, h := range hooks {
		if h.Name == "" {
			v.add(Accepted, h.at+".name", "the hook names no function, so the gateway skips it",
				"name the exported function")
		}
		v.hookPath(h)
	}
}

func (v *validation) hookPath(h placed) {
	isGo := v.m.Middleware.Driver == driverGo
	switch {
	case h.Path == "" && isGo:
		v.add(Refused, h.at+".path", "the hook has no path, so there is nothing to load",
			"set it to the plugin's file name")
	case h.Path == "" || slices.ContainsFunc(v.m.FileList, func(f string) bool {
		return path.Clean(f) == path.Clean(h.Path) || isGo && satisfies(path.Clean(f), h.Path)
	}):
	case isGo && !h.Disabled:
		v.add(Refused, h.at+".path", fmt.Sprintf("neither %q nor a versioned name of it is in "+
			"file_list, so no gateway can load it", h.Path), "add the file to file_list or correct the path")
	default:
		v.add(Accepted, h.at+".path", fmt.Sprintf("%q is not in file_list", h.Path),
			"add the file to file_list or correct the path")
	}
}

// extractors maps extract_with to the values of extract_from that the gateway implements (the same
// from 4.0.8 to 5.14.0). It does not implement the schema's "querystring", nor "body" for value.
var extractors = map[string][]string{
	"value": {"header", "form"},
	"regex": {"header", "form", "body"},
	"xpath": {"header", "form", "body"},
}

func (v *validation) extractor() {
	const base = "custom_middleware.id_extractor"
	x := v.m.Middleware.IDExtractor
	if x.Disabled || x.ExtractFrom == "" && x.ExtractWith == "" {
		return
	}
	from, known := extractors[x.ExtractWith]
	if !known {
		v.add(Accepted, base+".extract_with",
			fmt.Sprintf("the gateway does not know %q and extracts nothing", x.ExtractWith),
			"use one of "+strings.Join(slices.Sorted(maps.Keys(extractors)), ", "))
		from = extractors["regex"]
	}
	if slices.Contains(from, x.ExtractFrom) {
		return
	}
	effect := "it answers every request with 400"
	switch {
	case !known:
		effect = "it extracts nothing"
	case x.ExtractWith == "value":
		effect = "it gives all requests one identity, and so the session of the first client"
	}
	v.add(Accepted, base+".extract_from", fmt.Sprintf("the gateway cannot extract from %q with %q: %s",
		x.ExtractFrom, x.ExtractWith, effect),
		"use one of "+strings.Join(from, ", "))
}
