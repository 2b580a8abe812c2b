package preflight_test

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"example.com/tykupgrade/pluginbuild/preflight"
)

// zipOf writes a zip with these members, each the same plugin.
func zipOf(t *testing.T, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, name := range names {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(forgedPlugin().bytes()); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestInspectPlugins(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, data := range map[string][]byte{
		"a.so": forgedPlugin().bytes(), "z.so": forgedPlugin().bytes(), "text.so": []byte("no plugin"),
		"one.zip": zipOf(t, "b.so", "c.so", "manifest.json"), "two.zip": zipOf(t, "d.so", "e.so"),
		"empty": nil, "cut.zip": zipOf(t, "b.so")[:100],
	} {
		if err := os.WriteFile(at(name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(at("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused := errors.New("refused")
	var asked int64
	members := func(names ...string) func(io.ReaderAt, int64) ([]string, error) {
		return func(r io.ReaderAt, size int64) ([]string, error) {
			asked = size
			if _, err := zip.NewReader(r, size); err != nil {
				return nil, refused
			}
			return names, nil
		}
	}
	for name, c := range map[string]struct {
		paths   string
		members func(io.ReaderAt, int64) ([]string, error)
		want    string // names in order, without their directories
		err     error
	}{
		"files":                {"z.so a.so", nil, "z.so a.so", nil},
		"nothing":              {"", nil, "", nil},
		"all of bundles":       {"z.so one.zip a.so two.zip", nil, "z.so b.so c.so a.so d.so e.so", nil},
		"no member is all":     {"two.zip", members(), "d.so e.so", nil},
		"one of a bundle":      {"one.zip a.so", members("c.so"), "c.so a.so", nil},
		"a member is missing":  {"one.zip", members("x.so"), "", preflight.ErrNoMember},
		"members refuses":      {"a.so cut.zip", members(), "", refused},
		"a damaged bundle":     {"cut.zip", nil, "", preflight.ErrMalformed},
		"text":                 {"a.so text.so", nil, "", preflight.ErrNotELF},
		"an empty file":        {"empty", nil, "", preflight.ErrNotELF},
		"a directory":          {".", nil, "", preflight.ErrNotELF},
		"a pipe":               {"pipe", nil, "", preflight.ErrNotELF},
		"no file":              {"none.so", nil, "", fs.ErrNotExist},
		"the first error wins": {"text.so one.zip none.so", nil, "", preflight.ErrNotELF},
	} {
		var paths []string
		for _, p := range strings.Fields(c.paths) {
			paths = append(paths, at(p))
		}
		found, err := preflight.InspectPlugins(t.Context(), c.members, paths...)
		var got []string
		for _, b := range found {
			got = append(got, filepath.Base(b.Name))
		}
		if !errors.Is(err, c.err) || (err != nil) != (c.err != nil) || strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, %q, want %v, %q", name, err, got, c.err, c.want)
		}
	}
	if asked == 0 {
		t.Error("members got no content")
	}

	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	if _, err := preflight.InspectPlugins(ctx, nil, at("a.so")); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
}

func ExampleTarget_AddSymbol() {
	var t preflight.Target
	// With package bundle: err := manifest.EachSymbol(t.AddSymbol)
	t.AddSymbol("plugin.so", "AddFooBarHeader", false)
	t.AddSymbol("plugin.so", "Mask", true)
	for _, s := range t.Symbols {
		fmt.Println(s.File, s.Name, s.Hook)
	}
	// Output:
	// plugin.so AddFooBarHeader request
	// plugin.so Mask response
}
