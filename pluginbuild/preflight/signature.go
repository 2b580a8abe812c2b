package preflight

import (
	"bytes"
	"compress/zlib"
	"debug/dwarf"
	"debug/elf"
	"encoding/binary"
	"io"
	"slices"
	"strings"
)

// Hook is the kind of hook that a function fits.
type Hook string

// The kinds of hooks. The gateway refuses a function with another type when it loads it.
const (
	// pre, auth_check, post_key_auth, post: func(http.ResponseWriter, *http.Request)
	HookRequest Hook = "request"
	// response: func(http.ResponseWriter, *http.Response, *http.Request)
	HookResponse  Hook = "response"
	HookAnalytics Hook = "analytics" // func(*analytics.AnalyticsRecord)
	HookNone      Hook = "none"      // another signature
	HookUnknown   Hook = "unknown"   // not readable, as in a stripped file
)

// Func is an exported function of a plugin.
type Func struct {
	Name string `json:"name"`
	Hook Hook   `json:"hook"`
	// "func(net/http.ResponseWriter, *net/http.Request)"; empty if unknown
	Signature string `json:"signature,omitempty"`
}

const (
	maxDebug = 256 << 20 // bytes of all debug sections, uncompressed
	maxUnits = 1 << 16   // debug/dwarf keeps a record of each
)

// signatures reads the signatures of a package's functions from the debug information. Without it
// hooks are unknown, which does not change the verdict. The second result is the compiler's
// version. Plugins of Go 1.19 and older have no other record of it.
func (o *object) signatures(pkg string, names []string) (funcs []Func, goVersion string) {
	funcs = make([]Func, len(names))
	at := make(map[string]*Func, len(names))
	for i, n := range names {
		funcs[i] = Func{Name: n, Hook: HookUnknown}
		at[escape(pkg)+"."+n] = &funcs[i]
		at[pkg+"."+n] = &funcs[i]
	}
	d := o.dwarf()
	if d == nil {
		return funcs, ""
	}
	r := d.Reader()
	for {
		e, err := r.Next()
		if err != nil || e == nil {
			return funcs, goVersion
		}
		if e.Tag == dwarf.TagCompileUnit {
			// Skip the units of other packages without decoding them.
			if n, _ := e.Val(dwarf.AttrName).(string); n != pkg && n != escape(pkg) {
				r.SkipChildren()
			}
			// "Go cmd/compile go1.19.13; -shared -dynlink regabi"
			producer, _ := e.Val(dwarf.AttrProducer).(string)
			if v, ok := strings.CutPrefix(producer, "Go cmd/compile "); ok {
				goVersion, _, _ = strings.Cut(v, ";")
			}
			continue
		}
		name, _ := e.Val(dwarf.AttrName).(string)
		f := at[name]
		if e.Tag != dwarf.TagSubprogram || f == nil {
			r.SkipChildren()
			continue
		}
		if sig, ok := signature(d, r, e.Children); ok {
			f.Signature, f.Hook = sig, hookOf(sig)
		}
	}
}

// signature reads the parameters that follow a function's entry.
func signature(d *dwarf.Data, r *dwarf.Reader, children bool) (string, bool) {
	var in, out []string
	for children {
		e, err := r.Next()
		if err != nil || e == nil {
			return "", false
		}
		if e.Tag == 0 {
			break
		}
		if e.Tag == dwarf.TagFormalParameter {
			ref, ok := e.Val(dwarf.AttrType).(dwarf.Offset)
			if !ok {
				return "", false
			}
			types := d.Reader()
			types.Seek(ref)
			t, err := types.Next()
			if err != nil || t == nil {
				return "", false
			}
			name, _ := t.Val(dwarf.AttrName).(string)
			// Go marks results as variable parameters.
			if result, _ := e.Val(dwarf.AttrVarParam).(bool); result {
				out = append(out, name)
			} else {
				in = append(in, name)
			}
		}
		r.SkipChildren()
	}
	sig := "func(" + strings.Join(in, ", ") + ")"
	switch len(out) {
	case 0:
	case 1:
		sig += " " + out[0]
	default:
		sig += " (" + strings.Join(out, ", ") + ")"
	}
	return sig, true
}

func hookOf(sig string) Hook {
	switch sig {
	case "func(net/http.ResponseWriter, *net/http.Request)":
		return HookRequest
	case "func(net/http.ResponseWriter, *net/http.Response, *net/http.Request)":
		return HookResponse
	}
	// A vendored package, as in gateways before 5.1, has a longer path.
	const record = "github.com/TykTechnologies/tyk-pump/analytics.AnalyticsRecord)"
	if p, ok := strings.CutPrefix(sig, "func(*"); ok && (p == record || strings.HasSuffix(p,
		"/vendor/"+record)) {
		return HookAnalytics
	}
	return HookNone
}

// dwarf loads the debug sections for types and names, or returns nil.
func (o *object) dwarf() *dwarf.Data {
	left := uint64(maxDebug)
	o.budget.left = maxDebug
	load := func(name string) []byte {
		i := slices.IndexFunc(o.Sections, func(s *elf.Section) bool {
			return s.Name == ".debug_"+name ||
				s.Name == ".zdebug_"+name
		})
		if i < 0 {
			return nil
		}
		s := o.Sections[i]
		if s.Size > left || s.FileSize > left {
			return nil
		}
		left -= s.Size
		b, err := s.Data()
		if err != nil {
			return nil
		}
		// Go before 1.19 compressed with another header: "ZLIB" and the size.
		if strings.HasPrefix(s.Name, ".z") && len(b) > 12 && string(b[:4]) == "ZLIB" {
			size := binary.BigEndian.Uint64(b[4:])
			if size > left {
				return nil
			}
			left -= size
			return inflate(b[12:], int64(size))
		}
		return b
	}
	abbrev, info := load("abbrev"), load("info")
	if abbrev == nil || info == nil || units(info) > maxUnits {
		return nil
	}
	d, err := dwarf.New(abbrev, nil, nil, info, nil, nil, nil, load("str"))
	if err != nil {
		return nil
	}
	for _, name := range []string{"line_str", "str_offsets", "addr"} {
		if b := load(name); b != nil && d.AddSection(".debug_"+name, b) != nil {
			return nil
		}
	}
	return d
}

// units counts the compile units by their length fields.
func units(info []byte) int {
	n := 0
	for len(info) > 4 && n <= maxUnits {
		size, head := uint64(binary.LittleEndian.Uint32(info)), uint64(4)
		if size == 0xffffffff && len(info) > 12 {
			size, head = binary.LittleEndian.Uint64(info[4:]), 12
		}
		n++
		if size > uint64(len(info))-head {
			break
		}
		info = info[head+size:]
	}
	return n
}

func inflate(b []byte, size int64) []byte {
	z, err := zlib.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil
	}
	out, err := io.ReadAll(io.LimitReader(z, size))
	if err != nil {
		return nil
	}
	return out
}
