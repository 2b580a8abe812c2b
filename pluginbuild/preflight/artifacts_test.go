package preflight_test

import (
	"slices"
	"strings"
)

// The lab is a gateway and plugins in miniature, laid out as in Tyk's compiler:
// a workspace of the gateway's module and the plugin's, both trimmed, with a
// dependency that comes from a module proxy in two versions.

const (
	dep    = "example.org/dep"
	record = "github.com/TykTechnologies/tyk-pump"
)

var sources = map[string]string{
	"gw/go.mod": "module example.com/gw\n\ngo 1.16\n\nrequire " + dep + " v1.5.0\n",
	"gw/host/main.go": hostSource("\n\t\"example.com/gw/shared\"\n\t\""+dep+"\"\n",
		"shared.Inlined(1) + shared.Called(1) + dep.Version() + dep.Count()"),
	"gw/sealed/main.go": hostSource("\n\t\"crypto/sha256\"\n", "sha256.Sum256(nil)"),
	"plug/sealed/main.go": "package main\n\nimport \"crypto/sha256\"\n\n// Sum uses " +
		"cryptography.\nfunc Sum() [32]byte { return sha256.Sum256(nil) }\n\nfunc main() {}\n",
	"gw/noplugin/main.go": "package main\n\nimport \"C\"\nimport \"example.com/gw/shared\"\n\nfunc " +
		"main() { println(shared.Called(1)) }\n",
	"gw/shared/shared.go": shared("a + 1", "a * 7"),
	"gw/shared/tags.go": "//go:build extra\n// +build extra\n\npackage shared\n\n// Extra is " +
		"there under a tag only.\nfunc Extra() int { return 1 }\n",
	"gw/inner/main.go":    pluginSource,
	"plug/go.mod":         "module example.com/plug\n\ngo 1.16\n\nrequire " + dep + " v1.5.0\n",
	"plug/main.go":        pluginSource,
	"plug/my.hooks/h.go":  pluginSource,
	"plug/extra/extra.go": "package extra\n\n// N is inlined.\nfunc N() int { return 1 }\n",
	"plug/a/main.go": "package main\n\nimport \"example.com/plug/extra\"\n\n// A uses a " +
		"package that no gateway has.\nfunc A() int { return extra.N() }\n\nfunc main() {}\n",
	"plug/b/main.go": "package main\n\nimport \"example.com/plug/extra\"\n\n// B uses a " +
		"package that no gateway has.\nfunc B() int { return extra.N() }\n\nfunc main() {}\n",
	"plug/lib/main.go": "package main\n\nimport \"C\"\nimport " +
		"\"example.com/gw/shared\"\n\n//export F\nfunc F() int { return shared.Called(1) }\n\nfunc " +
		"main() {}\n",
	"plug/libp/main.go": "package main\n\nimport \"C\"\nimport _ \"plugin\"\nimport " +
		"\"example.com/gw/shared\"\n\n//export G\nfunc G() int { return shared.Called(1) }\n\nfunc " +
		"main() {}\n",
	"plug/undef/main.go": "package main\n\n// #cgo LDFLAGS: " +
		"-Wl,--unresolved-symbols=ignore-all\n// extern int nowhere(void);\nimport \"C\"\n\n// U " +
		"calls what no library has.\nfunc U() int { return int(C.nowhere()) }\n\nfunc main() {}\n",
	"plug/none/main.go": "package main\n\nfunc main() {}\n",
	"new/go.mod":        "module example.com/plug\n\ngo 1.16\n\nrequire " + dep + " v1.6.0\n",
	"new/main.go":       pluginSource,
	"out/go.mod": "module example.com/plug\n\ngo 1.16\n\nrequire " +
		"(\n\texample.com/gw v1.0.0\n\t" + dep + " v1.5.0\n)\n\nreplace example.com/gw => ../gw\n",
	"out/main.go":       pluginSource,
	"hooks/go.mod":      "module example.com/hooks\n\ngo 1.16\n\nrequire " + record + " v1.8.0\n",
	"hooks/main.go":     hooksSource,
	"plug/bare/bare.go": strings.Replace(pluginSource, "\nfunc main() {}\n", "", 1),
	"gw/bare/bare.go":   strings.Replace(pluginSource, "\nfunc main() {}\n", "", 1),
	"plug/asm/asm.go": "package main\n\n// extern int asm_answer;\nimport \"C\"\n\n// A is what " +
		"an assembly file without a GNU-stack note says.\nfunc A() int { return int(C.asm_answer) }\n",
	"plug/asm/answer.S": "\t.data\n\t.globl asm_answer\nasm_answer:\n\t.long 42\n",
	"plug/tls/tls.go": "package main\n\n// static __thread char big[1 << 20] " +
		"__attribute__((tls_model(\"initial-exec\")));\n// static int first(void) { return big[0]; " +
		"}\nimport \"C\"\n\n// A uses thread-local storage.\nfunc A() int { return int(C.first()) }\n",
	"c/lib.c":    "int answer(void) { return 42; }\n",
	"base.work":  "go 1.18\n\nuse (\n\t./gw\n\t./plug\n)\n",
	"new.work":   "go 1.18\n\nuse (\n\t./gw\n\t./new\n)\n",
	"hooks.work": "go 1.18\n\nuse ./hooks\n",
}

// hostSource loads $PREFLIGHT_PLUGIN0, …1, …2 and tells what plugin.Open said. It
// imports little, as Go's library is compiled again for most hosts.
func hostSource(imports, use string) string {
	return `package main

import (
	"plugin"
	"syscall"
` + imports + `)

func main() {
	for i := rune('0'); ; i++ {
		name, ok := syscall.Getenv("PREFLIGHT_PLUGIN" + string(i))
		if !ok {
			break
		}
		said := "loads"
		if _, err := plugin.Open(name); err != nil {
			said = err.Error()
		}
		_, _ = syscall.Write(1, []byte(said+"\n"))
	}
	_ = ` + use + `
}
`
}

const depCount = "\n// Count is not.\n//\n//go:noinline\nfunc Count() int { n++; return n " +
	"}\n\nvar n int\n"

const pluginSource = `package main

import (
	"example.com/gw/shared"
	"` + dep + `"
)

// Hook uses both kinds of function.
func Hook() int { return shared.Inlined(1) + shared.Called(1) + dep.Version() + dep.Count() }

func main() {}
`

const hooksSource = `package main

import (
	"net/http"

	"` + record + `/analytics"
)

func Request(w http.ResponseWriter, r *http.Request)                      {}
func Response(w http.ResponseWriter, res *http.Response, r *http.Request) {}
func Analytics(r *analytics.AnalyticsRecord)                              {}
func Returns(w http.ResponseWriter, r *http.Request) (int, error)         { return 0, nil }
func Nothing()                                                            {}
func unexported(w http.ResponseWriter, r *http.Request)                   {}

type Type struct{}

func (Type) Method(w http.ResponseWriter, r *http.Request) {}

var Variable = Request

func main() { unexported(nil, nil) }
`

func shared(inlined, called string) string {
	return "package shared\n\n// Inlined is copied into its callers.\nfunc Inlined(a int) " +
		"int { return " + inlined + " }\n\n" +
		"// Called is not.\n//go:noinline\nfunc Called(a int) int { return " + called + " }\n"
}

// artifact is how one file is built.
type artifact struct {
	pkg     string // relative to the lab, with the module's directory first
	work    string // "base.work" if empty
	mode    string // -buildmode
	flags   []string
	env     []string
	overlay string   // instead of gw/shared/shared.go
	gover   string   // another toolchain
	plain   bool     // without -trimpath
	debug   bool     // with debug information
	linker  string   // flag for gcc
	library string   // a library that is there for the linker alone
	after   []string // a program that changes the file

	stubHTTP bool // net/http has only what a hook's signature needs
	// Go's library is compiled for this one alone, or another one shows the same with another
	// toolchain or library: the short run leaves it out
	costly bool
}

// libraryMode tells the ways apart in which Go's library is compiled.
func (a artifact) libraryMode() string {
	key := "exe"
	switch a.mode {
	case "plugin":
		key = "plugin"
	case "pie", "c-shared":
		key = "-shared"
	}
	for _, f := range append(slices.Clone(a.flags), a.env...) {
		if strings.Contains(f, "all=") || strings.HasPrefix(f, "-race") ||
			strings.HasPrefix(f, "-cover") || strings.HasPrefix(f, "GO") {
			key += " " + f
		}
	}
	if !a.plain {
		key += " -trimpath"
	}
	if strings.HasPrefix(a.pkg, "hooks") && !a.stubHTTP {
		key += " net/http"
	}
	return strings.TrimSpace(a.gover + " " + key)
}

const stubHTTP = `package http

type Header map[string][]string

type ResponseWriter interface {
	Header() Header
	Write([]byte) (int, error)
	WriteHeader(int)
}

type Request struct{ Header Header }

type Response struct{ Header Header }
`

func host(a artifact) artifact   { a.pkg = "gw/host"; return a }
func plugin(a artifact) artifact { a.mode = "plugin"; a.pkg = orElse(a.pkg, "plug"); return a }

func orElse(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

var (
	newInlined = shared("a + 2", "a * 7")
	newCalled  = shared("a + 1", "a * 8")
	oldest     = "go1.16.15" // the compiler of 4.3 and 5.0; 5.1 and 5.2 had 1.19
)

var hosts = map[string]artifact{
	"base":        host(artifact{}),
	"plain":       host(artifact{plain: true}),
	"tags":        host(artifact{flags: []string{"-tags=extra"}}),
	"race":        host(artifact{costly: true, flags: []string{"-race"}}),
	"cover":       host(artifact{costly: true, flags: []string{"-cover"}}),
	"s -w":        host(artifact{flags: []string{"-ldflags=-s -w"}}),
	"strip":       host(artifact{after: []string{"strip"}}),
	"pie":         host(artifact{costly: true, mode: "pie"}),
	"v3":          host(artifact{costly: true, env: []string{"GOAMD64=v3"}}),
	"experiment":  host(artifact{costly: true, env: []string{"GOEXPERIMENT=nogreenteagc"}}),
	"sealed":      {costly: true, pkg: "gw/sealed"},
	"sealed fips": {costly: true, pkg: "gw/sealed", env: []string{"GOFIPS140=v1.0.0"}},
	"all=-N -l":   host(artifact{costly: true, flags: []string{"-gcflags=all=-N -l"}}),
	"new dep":     host(artifact{work: "new.work"}),
	"new inlined": host(artifact{overlay: newInlined}),
	"new called":  host(artifact{overlay: newCalled}),
	"no cgo":      host(artifact{env: []string{"CGO_ENABLED=0"}}),
	"1.16":        host(artifact{gover: oldest, work: "off"}),
	"1.19":        host(artifact{gover: "go1.19.13"}),
	"1.25":        host(artifact{costly: true, gover: "go1.25.4"}),
	"1.26.7":      host(artifact{costly: true, gover: "go1.26.7"}),
}

var plugins = map[string]artifact{
	"base":         plugin(artifact{}),
	"inner":        plugin(artifact{pkg: "gw/inner"}),
	"dotted":       plugin(artifact{pkg: "plug/my.hooks"}),
	"file":         plugin(artifact{pkg: "plug/main.go"}),
	"plain":        plugin(artifact{plain: true}),
	"tags":         plugin(artifact{flags: []string{"-tags=extra"}}),
	"other tags":   plugin(artifact{flags: []string{"-tags=unused"}}),
	"race":         plugin(artifact{costly: true, flags: []string{"-race"}}),
	"cover":        plugin(artifact{costly: true, flags: []string{"-cover"}}),
	"s -w":         plugin(artifact{flags: []string{"-ldflags=-s -w"}}),
	"strip":        plugin(artifact{after: []string{"strip"}}),
	"v3":           plugin(artifact{costly: true, env: []string{"GOAMD64=v3"}}),
	"experiment":   plugin(artifact{costly: true, env: []string{"GOEXPERIMENT=nogreenteagc"}}),
	"sealed":       plugin(artifact{costly: true, pkg: "plug/sealed"}),
	"sealed fips":  plugin(artifact{costly: true, pkg: "plug/sealed", env: []string{"GOFIPS140=v1.0.0"}}),
	"-N":           plugin(artifact{flags: []string{"-gcflags=-N -l"}}),
	"all=-N -l":    plugin(artifact{costly: true, flags: []string{"-gcflags=all=-N -l"}}),
	"new dep":      plugin(artifact{pkg: "new", work: "new.work"}),
	"outside":      plugin(artifact{pkg: "out", work: "off"}),
	"new inlined":  plugin(artifact{overlay: newInlined}),
	"new called":   plugin(artifact{overlay: newCalled}),
	"private":      plugin(artifact{pkg: "plug/a"}),
	"no imports":   plugin(artifact{pkg: "plug/none"}),
	"1.16":         plugin(artifact{pkg: "gw/inner", gover: oldest, work: "off", debug: true}),
	"1.19":         plugin(artifact{gover: "go1.19.13", debug: true}),
	"1.19 new dep": plugin(artifact{pkg: "new", work: "new.work", gover: "go1.19.13", debug: true}),
	"1.25":         plugin(artifact{costly: true, gover: "go1.25.4"}),
	"1.26.7":       plugin(artifact{costly: true, gover: "go1.26.7"}),
	"c-shared":     {costly: true, pkg: "plug/lib", mode: "c-shared"},
	"c-shared too": {costly: true, pkg: "plug/libp", mode: "c-shared"},
	"executable":   host(artifact{}),
	"c":            {pkg: "c/lib.c"},
}

// kinds are plugins whose verdict does not come from hashes: they meet a few hosts.
var kinds = map[string]artifact{
	"no main":           plugin(artifact{pkg: "plug/bare"}),
	"no main, file":     plugin(artifact{pkg: "plug/bare/bare.go"}),
	"no main, stripped": plugin(artifact{pkg: "plug/bare/bare.go", after: []string{"strip"}}),
	"no main, 1.19": plugin(artifact{costly: true, pkg: "plug/bare", gover: "go1.19.13",
		after: []string{"strip"}}),
	"no main, 1.16": plugin(artifact{pkg: "gw/bare", gover: oldest, work: "off"}),
	"no main, 1.16, file": plugin(artifact{costly: true, pkg: "gw/bare/bare.go", gover: oldest,
		work: "off", after: []string{"strip"}}),
	"pluginpath": plugin(artifact{flags: []string{"-ldflags=-w -pluginpath=1700000000-x"}}),
	"pluginpath, 1.16": plugin(artifact{costly: true, pkg: "gw/inner", gover: oldest, work: "off",
		flags: []string{"-ldflags=-w -pluginpath=1700000000-x"}}),
	"symbolic":           plugin(artifact{linker: "-Wl,-Bsymbolic"}),
	"symbolic functions": plugin(artifact{linker: "-Wl,-Bsymbolic-functions"}),
	"nodlopen":           plugin(artifact{linker: "-Wl,-z,nodlopen"}),
	"executable stack":   plugin(artifact{pkg: "plug/asm"}),
	"static TLS":         plugin(artifact{pkg: "plug/tls"}),
	"musl":               plugin(artifact{pkg: "plug/asm", library: "libc.musl-x86_64.so.1"}),
	"uClibc":             plugin(artifact{costly: true, pkg: "plug/asm", library: "libc.so.0"}),
	"old OpenSSL":        plugin(artifact{costly: true, pkg: "plug/asm", library: "libcrypto.so.1.0.0"}),
}

// kindHosts are the hosts that kinds meet.
var kindHosts = []string{"base", "s -w", "1.16", "1.19", "1.25"}

// more are artifacts outside the cross product.
var more = map[string]artifact{
	"library":   plugin(artifact{pkg: "plug/asm", library: "libnowhere.so.9"}),
	"undefined": plugin(artifact{pkg: "plug/undef"}),
	"no plugin": {pkg: "gw/noplugin"},
	"b":         plugin(artifact{pkg: "plug/b"}),
	"b other": plugin(artifact{pkg: "plug/b",
		flags: []string{"-gcflags=example.com/plug/extra=-l"}}),
	"hooks": plugin(artifact{pkg: "hooks", work: "hooks.work", debug: true}),
	"hooks s -w": plugin(artifact{pkg: "hooks", work: "hooks.work",
		flags: []string{"-ldflags=-s -w"}}),
	"hooks 1.19": plugin(artifact{pkg: "hooks", work: "hooks.work", gover: "go1.19.13", debug: true,
		stubHTTP: true}),
	"arm64": {costly: true, pkg: "plug/none", env: []string{"GOARCH=arm64", "CGO_ENABLED=0"}},
}
