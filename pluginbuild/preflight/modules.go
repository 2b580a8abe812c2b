package preflight

import (
	"bytes"
	"debug/elf"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/Masterminds/semver/v3"
)

const maxModules = 1 << 14

// modules reads module versions from names of source files, such as
// "github.com/google/uuid@v1.6.0/uuid.go". Plugins of Go before 1.20 have no other record of them.
// Builds in GOPATH mode have none at all.
func (o *object) modules() []Module {
	found := map[string]Module{}
	for _, s := range o.Sections {
		// Plugins of Go 1.16 and 1.19 have their tables in .data.rel.ro.
		if (!strings.HasSuffix(s.Name, ".gopclntab") && s.Name != ".data.rel.ro") ||
			s.Type != elf.SHT_PROGBITS || s.Flags&elf.SHF_COMPRESSED != 0 ||
			s.Offset > uint64(o.size) || s.FileSize > uint64(o.size)-s.Offset {
			continue
		}
		const overlap = 2 * maxName
		buf := make([]byte, min(s.FileSize, chunk+overlap))
		for pos := uint64(0); pos < s.FileSize; pos += chunk {
			p := buf[:min(uint64(len(buf)), s.FileSize-pos)]
			if _, err := o.r.ReadAt(p, int64(s.Offset+pos)); err != nil {
				break
			}
			for i := 0; len(found) < maxModules; i++ {
				j := bytes.Index(p[i:], []byte("@v"))
				if j < 0 {
					break
				}
				i += j
				if m, ok := fileModule(p, i); ok {
					found[m.Path] = m
				}
			}
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b Module) int {
		return strings.Compare(a.Path,
			b.Path)
	})
}

// fileModule reads the module around the @ at p[i] in a file name between NULs.
func fileModule(p []byte, i int) (Module, bool) {
	start := bytes.LastIndexByte(p[max(0, i-maxName):i], 0)
	end := bytes.IndexByte(p[i:min(len(p), i+maxName)], '/')
	if start < 0 || end < 0 {
		return Module{}, false
	}
	path, version := string(p[max(0, i-maxName)+start+1:i]), string(p[i+1:i+end])
	// Without -trimpath the path begins with the module cache, which writes capitals as "!c".
	if _, after, ok := strings.Cut(path, "/pkg/mod/"); ok {
		path = unbang(after)
	}
	if _, err := semver.StrictNewVersion(strings.TrimPrefix(version, "v")); err != nil || path == "" ||
		strings.HasPrefix(path, "/") || strings.ContainsFunc(path, func(r rune) bool {
		return r <= ' ' ||
			r > unicode.MaxASCII
	}) {
		return Module{}, false
	}
	return Module{Path: path, Version: version}, true
}

func unbang(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '!' && i+1 < len(s) {
			i++
			b.WriteRune(unicode.ToUpper(rune(s[i])))
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}
