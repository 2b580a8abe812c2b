package preflight_test

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	"golang.org/x/mod/zip"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/pluginbuild/preflight"
)

// The lab is a gateway and plugins in miniature, laid out as in Tyk's compiler:
// a workspace of the gateway's module and the plugin's, both trimmed, with a
// dependency that comes from a module proxy in two versions.

const (
	dep    = "example.org/dep"
	record = "github.com/TykTechnologies/tyk-pump"
)

var sources = map[string]string{
	"gw/go.mod":           "module example.com/gw\n\ngo 1.16\n\nrequire " + dep + " v1.5.0\n",
	"gw/host/main.go":     hostSource("\n\t\"example.com/gw/shared\"\n\t\""+dep+"\"\n", "shared.Inlined(1) + shared.Called(1) + dep.Version() + dep.Count()"),
	"gw/sealed/main.go":   hostSource("\n\t\"crypto/sha256\"\n", "sha256.Sum256(nil)"),
	"plug/sealed/main.go": "package main\n\nimport \"crypto/sha256\"\n\n// Sum uses cryptography.\nfunc Sum() [32]byte { return sha256.Sum256(nil) }\n\nfunc main() {}\n",
	"gw/noplugin/main.go": "package main\n\nimport \"C\"\nimport \"example.com/gw/shared\"\n\nfunc main() { println(shared.Called(1)) }\n",
	"gw/shared/shared.go": shared("a + 1", "a * 7"),
	"gw/shared/tags.go":   "//go:build extra\n// +build extra\n\npackage shared\n\n// Extra is there under a tag only.\nfunc Extra() int { return 1 }\n",
	"gw/inner/main.go":    pluginSource,
	"plug/go.mod":         "module example.com/plug\n\ngo 1.16\n\nrequire " + dep + " v1.5.0\n",
	"plug/main.go":        pluginSource,
	"plug/my.hooks/h.go":  pluginSource,
	"plug/extra/extra.go": "package extra\n\n// N is inlined.\nfunc N() int { return 1 }\n",
	"plug/a/main.go":      "package main\n\nimport \"example.com/plug/extra\"\n\n// A uses a package that no gateway has.\nfunc A() int { return extra.N() }\n\nfunc main() {}\n",
	"plug/b/main.go":      "package main\n\nimport \"example.com/plug/extra\"\n\n// B uses a package that no gateway has.\nfunc B() int { return extra.N() }\n\nfunc main() {}\n",
	"plug/lib/main.go":    "package main\n\nimport \"C\"\nimport \"example.com/gw/shared\"\n\n//export F\nfunc F() int { return shared.Called(1) }\n\nfunc main() {}\n",
	"plug/libp/main.go":   "package main\n\nimport \"C\"\nimport _ \"plugin\"\nimport \"example.com/gw/shared\"\n\n//export G\nfunc G() int { return shared.Called(1) }\n\nfunc main() {}\n",
	"plug/undef/main.go":  "package main\n\n// extern int nowhere(void);\nimport \"C\"\n\n// U calls what no library has.\nfunc U() int { return int(C.nowhere()) }\n\nfunc main() {}\n",
	"plug/none/main.go":   "package main\n\nfunc main() {}\n",
	"new/go.mod":          "module example.com/plug\n\ngo 1.16\n\nrequire " + dep + " v1.6.0\n",
	"new/main.go":         pluginSource,
	"out/go.mod":          "module example.com/plug\n\ngo 1.16\n\nrequire (\n\texample.com/gw v1.0.0\n\t" + dep + " v1.5.0\n)\n\nreplace example.com/gw => ../gw\n",
	"out/main.go":         pluginSource,
	"hooks/go.mod":        "module example.com/hooks\n\ngo 1.16\n\nrequire " + record + " v1.8.0\n",
	"hooks/main.go":       hooksSource,
	"c/lib.c":             "int answer(void) { return 42; }\n",
	"base.work":           "go 1.18\n\nuse (\n\t./gw\n\t./plug\n)\n",
	"new.work":            "go 1.18\n\nuse (\n\t./gw\n\t./new\n)\n",
	"hooks.work":          "go 1.18\n\nuse ./hooks\n",
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

const depCount = "\n// Count is not.\n//\n//go:noinline\nfunc Count() int { n++; return n }\n\nvar n int\n"

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
	return "package shared\n\n// Inlined is copied into its callers.\nfunc Inlined(a int) int { return " + inlined + " }\n\n" +
		"// Called is not.\n//go:noinline\nfunc Called(a int) int { return " + called + " }\n"
}

// artifact is how one file is built.
type artifact struct {
	pkg     string // relative to the lab, with the module's directory first
	work    string // "base.work" if empty
	mode    string // -buildmode
	flags   []string
	env     []string
	overlay string // instead of gw/shared/shared.go
	gover   string // another toolchain
	plain   bool   // without -trimpath
	after   []string
}

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
	"race":        host(artifact{flags: []string{"-race"}}),
	"cover":       host(artifact{flags: []string{"-cover"}}),
	"s -w":        host(artifact{flags: []string{"-ldflags=-s -w"}}),
	"strip":       host(artifact{after: []string{"strip"}}),
	"pie":         host(artifact{mode: "pie"}),
	"v3":          host(artifact{env: []string{"GOAMD64=v3"}}),
	"experiment":  host(artifact{env: []string{"GOEXPERIMENT=nogreenteagc"}}),
	"sealed":      {pkg: "gw/sealed"},
	"sealed fips": {pkg: "gw/sealed", env: []string{"GOFIPS140=v1.0.0"}},
	"all=-N -l":   host(artifact{flags: []string{"-gcflags=all=-N -l"}}),
	"new dep":     host(artifact{work: "new.work"}),
	"new inlined": host(artifact{overlay: newInlined}),
	"new called":  host(artifact{overlay: newCalled}),
	"no cgo":      host(artifact{env: []string{"CGO_ENABLED=0"}}),
	"1.16":        host(artifact{gover: oldest, work: "off"}),
	"1.19":        host(artifact{gover: "go1.19.13"}),
	"1.25":        host(artifact{gover: "go1.25.4"}),
	"1.26.7":      host(artifact{gover: "go1.26.7"}),
}

var plugins = map[string]artifact{
	"base":         plugin(artifact{}),
	"inner":        plugin(artifact{pkg: "gw/inner"}),
	"dotted":       plugin(artifact{pkg: "plug/my.hooks"}),
	"file":         plugin(artifact{pkg: "plug/main.go"}),
	"plain":        plugin(artifact{plain: true}),
	"tags":         plugin(artifact{flags: []string{"-tags=extra"}}),
	"other tags":   plugin(artifact{flags: []string{"-tags=unused"}}),
	"race":         plugin(artifact{flags: []string{"-race"}}),
	"cover":        plugin(artifact{flags: []string{"-cover"}}),
	"s -w":         plugin(artifact{flags: []string{"-ldflags=-s -w"}}),
	"strip":        plugin(artifact{after: []string{"strip"}}),
	"v3":           plugin(artifact{env: []string{"GOAMD64=v3"}}),
	"experiment":   plugin(artifact{env: []string{"GOEXPERIMENT=nogreenteagc"}}),
	"sealed":       plugin(artifact{pkg: "plug/sealed"}),
	"sealed fips":  plugin(artifact{pkg: "plug/sealed", env: []string{"GOFIPS140=v1.0.0"}}),
	"-N":           plugin(artifact{flags: []string{"-gcflags=-N -l"}}),
	"all=-N -l":    plugin(artifact{flags: []string{"-gcflags=all=-N -l"}}),
	"new dep":      plugin(artifact{pkg: "new", work: "new.work"}),
	"outside":      plugin(artifact{pkg: "out", work: "off"}),
	"new inlined":  plugin(artifact{overlay: newInlined}),
	"new called":   plugin(artifact{overlay: newCalled}),
	"private":      plugin(artifact{pkg: "plug/a"}),
	"no imports":   plugin(artifact{pkg: "plug/none"}),
	"1.16":         plugin(artifact{pkg: "gw/inner", gover: oldest, work: "off"}),
	"1.19":         plugin(artifact{gover: "go1.19.13"}),
	"1.19 new dep": plugin(artifact{pkg: "new", work: "new.work", gover: "go1.19.13"}),
	"1.25":         plugin(artifact{gover: "go1.25.4"}),
	"1.26.7":       plugin(artifact{gover: "go1.26.7"}),
	"c-shared":     {pkg: "plug/lib", mode: "c-shared"},
	"c-shared too": {pkg: "plug/libp", mode: "c-shared"},
	"executable":   host(artifact{}),
	"c":            {pkg: "c/lib.c"},
}

// more are artifacts outside the cross product.
var more = map[string]artifact{
	"pluginpath": plugin(artifact{flags: []string{"-ldflags=-pluginpath=1700000000-x"}}),
	"undefined":  plugin(artifact{pkg: "plug/undef"}),
	"no plugin":  {pkg: "gw/noplugin"},
	"b":          plugin(artifact{pkg: "plug/b"}),
	"b other":    plugin(artifact{pkg: "plug/b", flags: []string{"-gcflags=example.com/plug/extra=-l"}}),
	"hooks":      plugin(artifact{pkg: "hooks", work: "hooks.work"}),
	"hooks s -w": plugin(artifact{pkg: "hooks", work: "hooks.work", flags: []string{"-ldflags=-s -w"}}),
	"hooks 1.19": plugin(artifact{pkg: "hooks", work: "hooks.work", gover: "go1.19.13"}),
	"arm64":      {pkg: "plug/none", env: []string{"GOARCH=arm64", "CGO_ENABLED=0"}},
}

// bench builds artifacts once per test process, two at a time.
var bench = sync.OnceValues(func() (*workbench, error) {
	dir, err := os.MkdirTemp("", "preflight-lab-")
	if err != nil {
		return nil, err
	}
	w := &workbench{dir: dir, slots: make(chan struct{}, 2), built: map[string]func() (string, error){}}
	return w, w.lay()
})

type workbench struct {
	dir   string
	slots chan struct{}

	mu    sync.Mutex
	built map[string]func() (string, error)
}

func TestMain(m *testing.M) {
	if job := os.Getenv(childEnv); job != "" {
		os.Exit(child(job))
	}
	code := m.Run()
	if w, err := bench(); err == nil {
		_ = os.RemoveAll(w.dir)
	}
	os.Exit(code)
}

// lay writes the sources and a module proxy in a directory.
func (w *workbench) lay() error {
	if err := os.Mkdir(filepath.Join(w.dir, "built"), 0o700); err != nil {
		return err
	}
	for name, text := range sources {
		file := filepath.Join(w.dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return err
		}
	}
	var sums strings.Builder
	for _, m := range []struct{ path, version, file, text string }{
		{dep, "v1.5.0", "dep.go", "package dep\n\n// Version is inlined.\nfunc Version() int { return 5 }\n" + depCount},
		{dep, "v1.6.0", "dep.go", "package dep\n\n// Version is inlined.\nfunc Version() int { return 6 }\n" + depCount},
		{record, "v1.8.0", "analytics/analytics.go", "package analytics\n\n// AnalyticsRecord is what a pump stores.\ntype AnalyticsRecord struct{ Path string }\n"},
	} {
		if err := w.publish(&sums, m.path, m.version, m.file, m.text); err != nil {
			return err
		}
	}
	for _, dir := range []string{"gw", "plug", "new", "out", "hooks"} {
		if err := os.WriteFile(filepath.Join(w.dir, dir, "go.sum"), []byte(sums.String()), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (w *workbench) publish(sums io.Writer, path, version, file, text string) error {
	escaped, err := module.EscapePath(path)
	if err != nil {
		return err
	}
	dir := filepath.Join(w.dir, "proxy", escaped, "@v")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	mod := "module " + path + "\n\ngo 1.16\n"
	src := filepath.Join(w.dir, "src", escaped, version)
	for name, data := range map[string]string{file: text, "go.mod": mod} {
		name = filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
			return err
		}
	}
	var z bytes.Buffer
	if err := zip.CreateFromDir(&z, module.Version{Path: path, Version: version}, src); err != nil {
		return err
	}
	for name, data := range map[string][]byte{".zip": z.Bytes(), ".mod": []byte(mod), ".info": fmt.Appendf(nil, `{"Version":%q}`, version)} {
		if err := os.WriteFile(filepath.Join(dir, version+name), data, 0o600); err != nil {
			return err
		}
	}
	sum, err := dirhash.HashZip(filepath.Join(dir, version+".zip"), dirhash.Hash1)
	if err != nil {
		return err
	}
	modSum, err := dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(mod)), nil })
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(sums, "%s %s %s\n%s %s/go.mod %s\n", path, version, sum, path, version, modSum)
	return err
}

var errNoToolchain = errors.New("toolchain is not obtainable")

// build returns the path of an artifact, or skips the test if its toolchain
// cannot be had.
func build(t testing.TB, a artifact) string {
	t.Helper()
	lab.Program(t, "gcc", "gcc")
	w, err := bench()
	if err != nil {
		t.Fatal(err)
	}
	key := fmt.Sprintf("%+v", a)
	w.mu.Lock()
	f := w.built[key]
	if f == nil {
		out := filepath.Join(w.dir, "built", fmt.Sprintf("%d.so", len(w.built)))
		f = sync.OnceValues(func() (string, error) {
			w.slots <- struct{}{}
			defer func() { <-w.slots }()
			return out, w.build(a, out)
		})
		w.built[key] = f
	}
	w.mu.Unlock()
	out, err := f()
	if errors.Is(err, errNoToolchain) {
		lab.Missing(t, err.Error()+" (module golang.org/toolchain, through the module proxy)")
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (w *workbench) build(a artifact, out string) error {
	if strings.HasSuffix(a.pkg, ".c") {
		return w.run(w.dir, nil, "gcc", "-shared", "-fPIC", "-o", out, a.pkg)
	}
	tool := "go"
	if a.gover != "" {
		root, err := toolchain(a.gover)
		if err != nil {
			return err
		}
		tool = filepath.Join(root, "bin", "go")
	}
	work := filepath.Join(w.dir, orElse(a.work, "base.work"))
	if a.work == "off" {
		work = "off"
	}
	args := []string{"build", "-o", out}
	if a.mode != "" {
		args = append(args, "-buildmode="+a.mode)
	}
	if !a.plain {
		args = append(args, "-trimpath")
	}
	if a.overlay != "" {
		overlay, err := w.overlay(a.overlay, out)
		if err != nil {
			return err
		}
		args = append(args, "-overlay", overlay)
	}
	args = append(args, a.flags...)
	top, pkg, _ := strings.Cut(a.pkg, "/")
	if !strings.HasSuffix(pkg, ".go") {
		pkg = "./" + pkg
	}
	cgo := "CGO_ENABLED=1"
	if a.pkg == "plug/undef" {
		cgo = "CGO_LDFLAGS=-Wl,--unresolved-symbols=ignore-all"
	}
	env := append([]string{
		"GOGC=400", // a sixth less work for the compiler
		"GOROOT=", "GOWORK=" + work, "GOFLAGS=-modcacherw", "GO111MODULE=on", "GOMODCACHE=" + filepath.Join(w.dir, "mod"),
		"GOPROXY=file://" + filepath.Join(w.dir, "proxy"), "GONOSUMDB=*", "GOSUMDB=off", "GONOPROXY=none", "GOPRIVATE=", "GOEXPERIMENT=", "GOAMD64=", "GOFIPS140=off", cgo,
	}, a.env...)
	if err := w.run(filepath.Join(w.dir, top), env, tool, append(args, pkg)...); err != nil {
		return err
	}
	if len(a.after) > 0 {
		return w.run(w.dir, nil, a.after[0], append(a.after[1:], out)...)
	}
	return nil
}

func (w *workbench) overlay(text, out string) (string, error) {
	if err := os.WriteFile(out+".go", []byte(text), 0o600); err != nil {
		return "", err
	}
	data, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(w.dir, "gw/shared/shared.go"): out + ".go"}})
	if err != nil {
		return "", err
	}
	return out + ".json", os.WriteFile(out+".json", data, 0o600)
}

func (w *workbench) run(dir string, env []string, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = lab.GoEnv(env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

var toolchains sync.Map

// toolchain returns the GOROOT of another Go release, which the go command
// downloads from the module proxy if need be.
func toolchain(version string) (string, error) {
	f, _ := toolchains.LoadOrStore(version, sync.OnceValues(func() (string, error) {
		if runtime.GOARCH != "amd64" {
			return "", fmt.Errorf("%w: %s for %s", errNoToolchain, version, runtime.GOARCH)
		}
		cmd := exec.Command("go", "env", "GOROOT")
		cmd.Env = lab.GoEnv("GOTOOLCHAIN=" + version)
		out, err := cmd.Output()
		root := strings.TrimSpace(string(out))
		if err != nil || !strings.Contains(root, version) {
			return "", fmt.Errorf("%w: %s: %v", errNoToolchain, version, err)
		}
		return root, nil
	}))
	return f.(func() (string, error))()
}

// open asks the oracle: a child process calls plugin.Open for each plugin in
// turn. A child that crashes has not loaded the rest.
func open(t *testing.T, host string, plugins ...string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, host)
	// With the race detector a process sleeps for a second before it exits.
	cmd.Env = append(os.Environ(), "GOCOVERDIR="+t.TempDir(), "GORACE=atexit_sleep_ms=0")
	for i, p := range plugins {
		cmd.Env = append(cmd.Env, fmt.Sprintf("PREFLIGHT_PLUGIN%d=%s", i, p))
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil {
		t.Fatalf("%s %v: %v", host, plugins, ctx.Err())
	}
	said := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(out) == 0 {
		said = nil
	}
	for len(said) < len(plugins) {
		text, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
		said = append(said, fmt.Sprintf("crash: %v: %s", err, text))
	}
	return said
}

func inspect(t testing.TB, path string) *preflight.Binary {
	t.Helper()
	b, err := preflight.Inspect(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// elfVersions is the peer's list of versions that a file needs.
func elfVersions(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	needs, err := f.DynamicVersionNeeds()
	var versions []string
	for _, n := range needs {
		for _, d := range n.Needs {
			versions = append(versions, d.Dep)
		}
	}
	return versions, err
}
