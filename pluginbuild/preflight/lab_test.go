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
	"example.com/tykupgrade/internal/run"
	"example.com/tykupgrade/pluginbuild/preflight"
)

// bench builds artifacts once per test process, two at a time.
var bench = sync.OnceValues(func() (*workbench, error) {
	dir, err := os.MkdirTemp("", "preflight-lab-")
	if err != nil {
		return nil, err
	}
	w := &workbench{dir: dir, slots: make(chan struct{}, 2), built: map[string]func() (string,
		error){}}
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
	if err := run.WriteProgram(filepath.Join(w.dir, "cc"), []byte(hostLinker), 0o755); err != nil {
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
		{dep, "v1.5.0", "dep.go", "package dep\n\n// Version is inlined.\nfunc Version() int { " +
			"return 5 }\n" + depCount},
		{dep, "v1.6.0", "dep.go", "package dep\n\n// Version is inlined.\nfunc Version() int { " +
			"return 6 }\n" + depCount},
		{record, "v1.8.0", "analytics/analytics.go", "package analytics\n\n// AnalyticsRecord is what " +
			"a pump stores.\ntype AnalyticsRecord struct{ Path string }\n"},
	} {
		if err := w.publish(&sums, m.path, m.version, m.file, m.text); err != nil {
			return err
		}
	}
	for _, dir := range []string{"gw", "plug", "new", "out", "hooks"} {
		if err := os.WriteFile(filepath.Join(w.dir, dir, "go.sum"), []byte(sums.String()),
			0o600); err != nil {
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
	for name, data := range map[string][]byte{".zip": z.Bytes(), ".mod": []byte(mod),
		".info": fmt.Appendf(nil, `{"Version":%q}`, version)} {
		if err := os.WriteFile(filepath.Join(dir, version+name), data, 0o600); err != nil {
			return err
		}
	}
	sum, err := dirhash.HashZip(filepath.Join(dir, version+".zip"), dirhash.Hash1)
	if err != nil {
		return err
	}
	modSum, err := dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser,
		error) {
		return io.NopCloser(strings.NewReader(mod)), nil
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(sums, "%s %s %s\n%s %s/go.mod %s\n", path, version, sum, path, version,
		modSum)
	return err
}

var errNoToolchain = errors.New("toolchain is not obtainable")

// build returns the path of an artifact, or skips the test if its toolchain
// cannot be had.
func build(t testing.TB, a artifact) string {
	t.Helper()
	if a.costly {
		lab.Long(t)
	}
	lab.Program(t, "gcc", "gcc")
	w, err := bench()
	if err != nil {
		t.Fatal(err)
	}
	out, err := w.once(a)
	if errors.Is(err, errNoToolchain) {
		lab.Missing(t, err.Error()+" (module golang.org/toolchain, through the module proxy)")
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// once builds an artifact unless that was done before.
func (w *workbench) once(a artifact) (string, error) {
	key := fmt.Sprintf("%+v", a)
	w.mu.Lock()
	f := w.built[key]
	if f == nil {
		out := filepath.Join(w.dir, "built", fmt.Sprintf("%d.so", len(w.built)))
		f = sync.OnceValues(func() (string, error) { return out, w.make(a, out) })
		w.built[key] = f
	}
	w.mu.Unlock()
	return f()
}

func (w *workbench) make(a artifact, out string) error {
	if len(a.after) == 0 {
		w.slots <- struct{}{}
		defer func() { <-w.slots }()
		return w.build(a, out)
	}
	whole := a
	whole.after = nil
	from, err := w.once(whole)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := run.WriteProgram(out, data, 0o755); err != nil {
		return err
	}
	return w.run(w.dir, nil, a.after[0], append(a.after[1:], out)...)
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
	// Half of a link is debug information. Before it the linker runs gcc for each flag that it may
	// not know, here for that of compressed sections and for that of a build ID.
	ldflags := "-ldflags="
	if !a.debug {
		ldflags += "-w -compressdwarf=false"
	}
	if a.gover == "" { // older linkers ask for other flags
		ldflags += " -extld=" + filepath.Join(w.dir, "cc")
	}
	if !a.debug && a.gover == "" {
		ldflags += " -B none"
	}
	// Not CGO_LDFLAGS, with which runtime/cgo is compiled again.
	gcc := a.linker
	if a.library != "" {
		stub, err := w.stub(a.library)
		if err != nil {
			return err
		}
		gcc = "-Wl,--no-as-needed " + stub
	}
	if gcc != "" {
		ldflags += " '-extldflags=" + gcc + "'"
	}
	args = append(append(args, ldflags), a.flags...)
	top, pkg, _ := strings.Cut(a.pkg, "/")
	if !strings.HasSuffix(pkg, ".go") {
		pkg = "./" + pkg
	}
	if a.stubHTTP {
		overlay, err := w.stubHTTP(tool, out)
		if err != nil {
			return err
		}
		args = append(args, "-overlay", overlay)
	}
	env := append([]string{
		"GOGC=400", // a sixth less work for the compiler
		"GOROOT=", "GOWORK=" + work, "GOFLAGS=-modcacherw", "GO111MODULE=on", "GOMODCACHE=" +
			filepath.Join(w.dir, "mod"),
		"GOPROXY=file://" + filepath.Join(w.dir, "proxy"), "GONOSUMDB=*", "GOSUMDB=off", "GONOPROXY=none",
		"GOPRIVATE=", "GOEXPERIMENT=", "GOAMD64=", "GOFIPS140=off", "CGO_ENABLED=1",
		"CGO_LDFLAGS_ALLOW=-Wl,--unresolved-symbols=.*",
	}, a.env...)
	return lab.Fill(context.Background(), a.libraryMode(), func() error {
		return w.run(filepath.Join(w.dir, top), env, tool, append(args, pkg)...)
	})
}

// hostLinker is gcc for the Go linker. It knows the answer when the linker asks with a trivial
// program whether gcc takes a flag: all but the one of clang.
const hostLinker = `#!/bin/sh
case " $* " in
*" -Qunused-arguments "*) exit 1 ;;
*/trivial.c" ") exit 0 ;;
esac
exec gcc "$@"
`

// stub makes a library of a name that this machine does not have.
func (w *workbench) stub(name string) (string, error) {
	out := filepath.Join(w.dir, "stubs", name)
	if err := os.MkdirAll(filepath.Dir(out), 0o700); err != nil {
		return "", err
	}
	return out, w.run(w.dir, nil, "gcc", "-shared", "-nostdlib", "-Wl,-soname,"+name, "-o", out, "-x",
		"c", "/dev/null")
}

// stubHTTP replaces net/http, so that it and its many dependencies need not be compiled.
func (w *workbench) stubHTTP(tool, out string) (string, error) {
	dir := filepath.Join(filepath.Dir(filepath.Dir(tool)), "src", "net", "http")
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		return "", fmt.Errorf("no package net/http in %s: %w", dir, err)
	}
	replace := map[string]string{}
	for _, f := range files {
		replace[f] = ""
	}
	replace[filepath.Join(dir, "http.go")] = out + ".http.go"
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	return out + ".http.json", errors.Join(os.WriteFile(out+".http.go", []byte(stubHTTP), 0o600),
		os.WriteFile(out+".http.json", data, 0o600))
}

func (w *workbench) overlay(text, out string) (string, error) {
	if err := os.WriteFile(out+".go", []byte(text), 0o600); err != nil {
		return "", err
	}
	data, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(w.dir,
		"gw/shared/shared.go"): out + ".go"}})
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

var inspected sync.Map // artifacts do not change

func inspect(t testing.TB, path string) *preflight.Binary {
	t.Helper()
	f, _ := inspected.LoadOrStore(path, sync.OnceValues(func() (*preflight.Binary,
		error) {
		return preflight.Inspect(path)
	}))
	b, err := f.(func() (*preflight.Binary, error))()
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
