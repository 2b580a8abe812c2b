package compiler

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

func TestCompilerMessage(t *testing.T) {
	t.Parallel()
	for want, output := range map[string]string{
		"./bad.go:3:13: undefined: nope": "+ go build -buildmode=plugin\n# " +
			"example.org/tiny\n./bad.go:3:13: undefined: nope\n",
		"go: updates to go.mod needed": "PLUGIN_BUILD_PATH: /go/src\ngo: downloading x v1\ngo: " +
			"updates to go.mod needed\n",
		"./a.go:1:2: bad": "go: no dependencies to vendor\n./a.go:1:2: bad\n",
		// What continues on the next line, such as the cause.
		"go: a@v1 requires\n\tb@v2: reading https://p/b: dial tcp: timeout": "go: downloading a " +
			"v1\ngo: a@v1 requires\n\tb@v2: reading https://p/b: dial tcp: timeout\n",
		"./a.go:6:11: wrong type\n\t\thave X\n\t\twant Y": "# x\n./a.go:6:11: wrong " +
			"type\n\t\thave X\n\t\twant Y\n",
		"go: x imports\n\ty: cannot find module providing package y": "go: finding module for " +
			"package y\ngo: x imports\n\ty: cannot find module providing package y\n",
		// Nothing but what scripts always say.
		"./a.go:1:2: a\nnote: module requires Go 1.99": "./a.go:1:2: a\nnote: module requires Go 1.99\n",
		"a\nb": "+ set\n\na\nb\r\n",
		"": "PLUGIN_BUILD_PATH: /go/src\nPLUGIN_SOURCE_PATH: " +
			"/plugin-source\nINFO: Creating go.mod\ngo: to add module requirements and " +
			"sums:\n\tgo mod tidy\n",
		"2\n3\n4": "1\n2\n3\n4\n",
		"/usr/bin/ld: cannot find -lfoo": "# x\n/usr/bin/ld: cannot find -lfoo\nfor your " +
			"information\n",
		"a.go:1: x\nb.go:2: y\nand 0 more lines": "", // replaced below
		"plugin.go:5:2: package foo is not in std (/usr/local/go/src)": "plugin.go:5:2: package foo is " +
			"not in std (/usr/local/go/src)\n",
	} {
		if strings.Contains(want, "more lines") {
			output = strings.Repeat("a.go:1: x\n", 12)
			want = strings.Repeat("a.go:1: x\n", 10) + "and 2 more lines"
		}
		if got := compilerMessage(output); got != want {
			t.Errorf("%q gives %q, want %q", output, got, want)
		}
	}
}

func TestLoadReason(t *testing.T) {
	t.Parallel()
	for output, want := range map[string]string{
		"time=1 level=info\nunexpected error: plugin: symbol X not found in plugin p\n": "plugin: symbol X not found in plugin p",
		"fatal error: runtime: no plugin module data\n\ngoroutine 1\n": "fatal error: " +
			"runtime: no plugin module data",
		"panic: boom\n":  "panic: boom",
		"\n Usage\nmore": "Usage",
		"":               "",
	} {
		if got := loadReason(output); got != want {
			t.Errorf("%q gives %q, want %q", output, got, want)
		}
	}
}

// resized is a file system whose files are of another size when they are read.
type resized struct {
	fs.FS
	by int64
}

func (r resized) Open(name string) (fs.File, error) {
	f, err := r.FS.Open(name)
	if info, statErr := fs.Stat(r.FS, name); err != nil || statErr != nil || info.IsDir() {
		return f, err
	}
	return resizedFile{f, r.by}, nil
}

type resizedFile struct {
	fs.File
	by int64
}

func (f resizedFile) Stat() (fs.FileInfo, error) {
	info, err := f.File.Stat()
	return resizedInfo{info, f.by}, err
}

type resizedInfo struct {
	fs.FileInfo
	by int64
}

func (i resizedInfo) Size() int64 { return i.FileInfo.Size() + i.by }

// Files that change meanwhile, links and what is not a file.
func TestWriteSource(t *testing.T) {
	t.Parallel()
	src := fstest.MapFS{"go.mod": {Data: []byte("module x\n")}, "pipe": {Mode: fs.ModeNamedPipe},
		"socket": {Mode: fs.ModeSocket}}
	if left, err := writeSource(io.Discard, src, exclusion{dotfiles: true}); err != nil ||
		strings.Join(left, " ") != "pipe socket" {
		t.Errorf("%v, %v", left, err)
	}
	for _, by := range []int64{1, -1} {
		if _, err := writeSource(io.Discard, resized{src, by}, exclusion{}); err == nil ||
			!strings.Contains(err.Error(), "read go.mod: the file changed") {
			t.Errorf("%d bytes: %v", by, err)
		}
	}
	for target, out := range map[string]bool{"/etc": true, "..": true, "../x": true, "a/../../x": true,
		"go.mod": false, "./go.mod": false, "..x": false} {
		if _, err := writeSource(io.Discard, fstest.MapFS{"link": {Mode: fs.ModeSymlink,
			Data: []byte(target)}}, exclusion{}); (err != nil) != out {
			t.Errorf("link to %s: %v", target, err)
		}
	}
}

func FuzzCompilerMessage(f *testing.F) {
	f.Add("+ go build\n# x\n./a.go:1:2: undefined: y\n")
	f.Add("go: downloading x v1\n")
	f.Add(strings.Repeat("a.go:1: x\n", 12))
	f.Fuzz(func(t *testing.T, output string) {
		got := compilerMessage(output)
		if n := strings.Count(got, "\n"); n > 10 {
			t.Errorf("%d lines of %q", n, output)
		}
		for line := range strings.Lines(got) {
			line = strings.TrimRight(line, "\n")
			if !strings.Contains(output, line) && !strings.HasSuffix(line, " more lines") {
				t.Errorf("%q is not in %q", line, output)
			}
		}
		_ = loadReason(output)
	})
}

// The stream of a pull comes from outside: whatever it holds, it ends in an
// error or in sane progress.
func FuzzPullStream(f *testing.F) {
	f.Add([]byte(`{"status":"Downloading","id":"a","progressDetail":{"current":1,"total":2}}` + "\n"))
	f.Add([]byte(`{"error":"x","errorDetail":{"message":"y"}}`))
	f.Add([]byte(`{"stream":"Loaded image: x\n"}`))
	f.Add([]byte(`{"progressDetail":{"current":-5,"total":-1}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = follow(io.NopCloser(bytes.NewReader(data)), func(e Event) {
			if e.Current < 0 || e.Total < 0 || e.Kind != Progress {
				t.Errorf("%+v", e)
			}
		})
	})
}

// Files that are no plugin are refused, whatever they hold, and never crash.
func FuzzInspect(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	if exe, err := os.Executable(); err == nil {
		if data, err := os.ReadFile(exe); err == nil {
			f.Add(data[:4096])
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		a := Artifact{GOARCH: "amd64"}
		if err := inspect(bytes.NewReader(data), &a, true); err == nil && a.GoVersion == "" {
			t.Errorf("accepted %q", data)
		}
	})
}
