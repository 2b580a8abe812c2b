package bundle_test

import (
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/internal/lab"
)

func TestValidateAccepts(t *testing.T) {
	t.Parallel()
	if f := parseFile(t, example).Validate(files("plugin.so",
		"plugin_v5.2.5_linux_amd64.so")); f != nil {
		t.Errorf("the procedure's own example: %+v", f)
	}
	grpc := &bundle.Manifest{}
	grpc.Middleware.Driver = "grpc"
	grpc.Middleware.AuthCheck.Name = "Auth"
	if f := grpc.Validate(files()); f != nil {
		t.Errorf("a gRPC bundle without files: %+v", f)
	}
	dotted := goManifest("plugin.so")
	dotted.Middleware.Post[0].Path = "./plugin.so"
	dotted.Middleware.IDExtractor = bundle.IDExtractor{ExtractFrom: "header", ExtractWith: "value",
		ExtractorConfig: map[string]any{"header_name": "Authorization"}}
	if f := dotted.Validate(files("plugin.so")); f != nil {
		t.Errorf("a path with ./ and an extractor: %+v", f)
	}
	sibling := goManifest("plugin_5.2.5_linux_arm64.so")
	sibling.Middleware.Post[0].Path = "./plugin.so"
	if f := sibling.Validate(files(sibling.FileList...)); f != nil {
		t.Errorf("a versioned sibling: %+v", f)
	}
}

// Every rule, one at a time: the finding is there, in the right place, with the
// right severity and a remedy, and it is the only one.
func TestValidateFinds(t *testing.T) {
	t.Parallel()
	executable := sharedObject("")
	binary.LittleEndian.PutUint16(executable[16:], 2)
	narrow := sharedObject("")
	narrow[4] = 1
	short := sharedObject("")
	binary.LittleEndian.PutUint64(short[40:], 1<<20)

	for name, c := range map[string]struct {
		change   func(m *bundle.Manifest, src fstest.MapFS)
		path     string
		severity bundle.Severity
		problem  string
	}{
		"no hooks": {func(m *bundle.Manifest, _ fstest.MapFS) { m.Middleware.Post = nil },
			"custom_middleware", bundle.Refused, "no hooks"},
		"no driver": {func(m *bundle.Manifest, _ fstest.MapFS) { m.Middleware.Driver = "" },
			"custom_middleware.driver", bundle.Refused, "no driver"},
		"unknown driver": {func(m *bundle.Manifest, _ fstest.MapFS) { m.Middleware.Driver = "ruby" },
			"custom_middleware.driver", bundle.Refused, `"ruby"`},
		"hook path without file": {func(m *bundle.Manifest, _ fstest.MapFS) {
			m.Middleware.Post[0].Path =
				"other.so"
		},
			"custom_middleware.post[0].path", bundle.Refused, "other.so"},
		"hook path without file, disabled": {func(m *bundle.Manifest, _ fstest.MapFS) {
			m.Middleware.Pre = []bundle.Hook{{Disabled: true, Name: "X", Path: "other.so"}}
		}, "custom_middleware.pre[0].path", bundle.Accepted, "other.so"},
		"sibling of another base": {func(m *bundle.Manifest, _ fstest.MapFS) {
			m.Middleware.Response = []bundle.Hook{{Name: "X", Path: "plug.so"}}
		}, "custom_middleware.response[0].path", bundle.Refused, "plug.so"},
		"empty hook path": {func(m *bundle.Manifest, _ fstest.MapFS) { m.Middleware.Post[0].Path = "" },
			"custom_middleware.post[0].path", bundle.Refused, "no path"},
		"hook without function": {func(m *bundle.Manifest, _ fstest.MapFS) {
			m.Middleware.Post[0].Name =
				""
		},
			"custom_middleware.post[0].name", bundle.Accepted, "names no function"},
		"nested directory": {func(m *bundle.Manifest, _ fstest.MapFS) {
			m.FileList = append(m.FileList,
				"sub/x.so")
		},
			"file_list[1]", bundle.Refused, "is in a directory"},
		"backslash": {func(m *bundle.Manifest, _ fstest.MapFS) {
			m.FileList = append(m.FileList,
				`sub\x.so`)
		},
			"file_list[1]", bundle.Refused, "is in a directory"},
		"absolute path": {func(m *bundle.Manifest, _ fstest.MapFS) {
			m.FileList = append(m.FileList,
				"/etc/x.so")
		},
			"file_list[1]", bundle.Refused, "absolute"},
		"dot dot": {func(m *bundle.Manifest, _ fstest.MapFS) {
			m.FileList = append(m.FileList,
				"../x.so")
		},
			"file_list[1]", bundle.Refused, "leaves"},
		"dot": {func(m *bundle.Manifest, _ fstest.MapFS) { m.FileList = append(m.FileList, ".") },
			"file_list[1]", bundle.Refused, "is a directory"},
		"empty name": {func(m *bundle.Manifest, _ fstest.MapFS) { m.FileList = append(m.FileList, "") },
			"file_list[1]", bundle.Refused, "not a file name"},
		"NUL": {func(m *bundle.Manifest, _ fstest.MapFS) { m.FileList = append(m.FileList, "a\x00.so") },
			"file_list[1]", bundle.Refused, "NUL"},
		"duplicate": {func(m *bundle.Manifest, _ fstest.MapFS) {
			m.FileList = append(m.FileList,
				m.FileList[0])
		},
			"file_list[1]", bundle.Accepted, "twice"},
		"manifest.json": {func(m *bundle.Manifest, src fstest.MapFS) {
			m.FileList = append(m.FileList, "manifest.json")
			src["manifest.json"] = &fstest.MapFile{Data: []byte("{}")}
		}, "file_list[1]", bundle.Refused, "overwritten"},
		"missing file": {func(_ *bundle.Manifest, src fstest.MapFS) { delete(src, "plugin.so") },
			"file_list[0]", bundle.Refused, "does not exist"},
		"empty plugin": {func(_ *bundle.Manifest, src fstest.MapFS) { src["plugin.so"].Data = nil },
			"file_list[0]", bundle.Refused, "is empty"},
		"empty text file": {func(m *bundle.Manifest, src fstest.MapFS) {
			m.FileList = append(m.FileList, "a.txt")
			src["a.txt"] = &fstest.MapFile{}
		}, "file_list[1]", bundle.Accepted, "is empty"},
		"directory": {func(_ *bundle.Manifest, src fstest.MapFS) { src["plugin.so"].Mode = fs.ModeDir },
			"file_list[0]", bundle.Refused, "a directory"},
		"pipe": {func(_ *bundle.Manifest, src fstest.MapFS) { src["plugin.so"].Mode = fs.ModeNamedPipe },
			"file_list[0]", bundle.Refused, "pipe"},
		"no ELF file": {func(_ *bundle.Manifest, src fstest.MapFS) {
			src["plugin.so"].Data = []byte(strings.Repeat("#!/bin/sh\n", 10))
		}, "file_list[0]", bundle.Refused, "not an ELF"},
		"a few bytes": {func(_ *bundle.Manifest, src fstest.MapFS) {
			src["plugin.so"].Data = []byte(
				"\x7fELF")
		},
			"file_list[0]", bundle.Refused, "not an ELF"},
		"text next to the plugin": {func(m *bundle.Manifest, src fstest.MapFS) {
			m.FileList = append(m.FileList, "a.txt")
			src["a.txt"] = &fstest.MapFile{Data: []byte("text")}
		}, "file_list[1]", bundle.Accepted, "not an ELF"},
		"executable": {func(_ *bundle.Manifest, src fstest.MapFS) { src["plugin.so"].Data = executable },
			"file_list[0]", bundle.Refused, "no shared object (ET_EXEC)"},
		"32 bit": {func(_ *bundle.Manifest, src fstest.MapFS) { src["plugin.so"].Data = narrow },
			"file_list[0]", bundle.Refused, "64-bit"},
		"cut short": {func(_ *bundle.Manifest, src fstest.MapFS) { src["plugin.so"].Data = short },
			"file_list[0]", bundle.Refused, "cut short"},
		"unknown extractor": {func(m *bundle.Manifest, _ fstest.MapFS) {
			m.Middleware.IDExtractor = bundle.IDExtractor{ExtractFrom: "header", ExtractWith: "jq"}
		}, "custom_middleware.id_extractor.extract_with", bundle.Accepted, `"jq"`},
		"unknown source": {func(m *bundle.Manifest, _ fstest.MapFS) {
			m.Middleware.IDExtractor = bundle.IDExtractor{ExtractFrom: "cookie", ExtractWith: "regex"}
		}, "custom_middleware.id_extractor.extract_from", bundle.Accepted, "400"},
		"source without code": {func(m *bundle.Manifest, _ fstest.MapFS) {
			m.Middleware.IDExtractor = bundle.IDExtractor{ExtractFrom: "querystring", ExtractWith: "value"}
		}, "custom_middleware.id_extractor.extract_from", bundle.Accepted, "one identity"},
		"directory of the name": {func(_ *bundle.Manifest, src fstest.MapFS) {
			src["plugin.so/x"] = &fstest.MapFile{}
			delete(src, "plugin.so")
		},
			"file_list[0]", bundle.Refused, "a directory"},
		"script not in the list": {func(m *bundle.Manifest, _ fstest.MapFS) {
			m.Middleware.Driver, m.Middleware.Post[0].Path = "otto", "x.js"
		}, "custom_middleware.post[0].path", bundle.Accepted, "x.js"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, src := goManifest("plugin.so"), files("plugin.so")
			c.change(m, src)
			got := m.Validate(src)
			if len(got) != 1 || got[0].Path != c.path || got[0].Severity != c.severity ||
				!strings.Contains(got[0].Problem, c.problem) || got[0].Remedy == "" {
				t.Errorf("got %+v, want %s %s …%s…", got, c.path, c.severity, c.problem)
			}
		})
	}
}

// All at once, in the manifest's order.
func TestValidateFindsEverything(t *testing.T) {
	t.Parallel()
	m := &bundle.Manifest{FileList: []string{"a.so", "a.so", "../b.so", "c.so"}}
	m.Middleware.Driver = "goplugin"
	m.Middleware.Pre = []bundle.Hook{{Path: "gone.so"}}
	var got []string
	for _, f := range m.Validate(files("a.so")) {
		got = append(got, f.Path)
	}
	want := "file_list[1] file_list[2] file_list[3] custom_middleware.pre[0].name " +
		"custom_middleware.pre[0].path"
	if strings.Join(got, " ") != want {
		t.Errorf("got %s\nwant %s", strings.Join(got, " "), want)
	}
}

// A shared object of this machine passes, a program does not.
func TestValidateRealFiles(t *testing.T) {
	t.Parallel()
	var library string
	for _, pattern := range []string{"/lib/*/libc.so.6", "/lib64/libc.so.6", "/usr/lib/libc.so.6"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			library = found[0]
		}
	}
	if library == "" {
		lab.Missing(t, "a shared C library")
	}
	m := goManifest("plugin.so")
	for path, want := range map[string]string{library: "", "/proc/self/status": "empty",
		os.Args[0]: "ET_EXEC"} {
		f := m.Validate(linked{os.DirFS("/"), strings.TrimPrefix(path, "/")})
		if (want == "") != (len(f) == 0) || len(f) > 0 && !strings.Contains(f[0].Problem, want) {
			t.Errorf("%s: %+v, want %q", path, f, want)
		}
	}
}

// A pipe is told from its name alone: opening one waits for a writer.
func TestValidateDoesNotOpenPipes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "plugin.so"), 0o600); err != nil {
		t.Fatal(err)
	}
	plan := upgradePlan(t, "4.0.8", "plugin.so", "5.2.5", "plugin_v5.2.5_linux_amd64.so", false)
	for name, src := range map[string]fs.FS{"directory": os.DirFS(dir),
		"plan": plan.FS(os.DirFS(dir))} {
		if f := goManifest("plugin.so").Validate(src); len(f) != 1 || !strings.Contains(f[0].Problem,
			"pipe") {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

// linked serves one file under every name.
type linked struct {
	fs.FS
	file string
}

func (l linked) Open(string) (fs.File, error) { return l.FS.Open(l.file) }
