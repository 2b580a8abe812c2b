package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"example.com/tykupgrade/backup/internal/step"
)

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"schema":1,"id":"20261123T000000Z-00000000","components":[{"name":"a"}],"files":[{"path":"a/b","sha256":"` + strings.Repeat("0", 64) + `","mode":"0600"}]}`))
	f.Add([]byte(`{"schema":1,"id":"20261123T000000Z-00000000","components":[{"name":"a"}],"files":[{"path":"a/l","link":"x","mode":"0777"}]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseManifest(data)
		if err != nil {
			return
		}
		for _, file := range m.Files {
			if strings.HasPrefix(file.Path, "/") || slices.Contains(strings.Split(file.Path, "/"), "..") {
				t.Fatalf("path %q", file.Path)
			}
		}
		if lines := bytes.Count(m.checksums(data), []byte("\n")); lines < 1 || lines > 1+len(m.Files) {
			t.Fatalf("%d lines", lines)
		}
	})
}

// FuzzImport feeds the reader of exports with archives that are not packed, as
// the fuzzer could not get through the compression.
func FuzzImport(f *testing.F) {
	archive := func(names map[string]string) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, name := range slices.Sorted(maps.Keys(names)) {
			_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(names[name])),
				Mode: 0o600})
			_, _ = io.WriteString(w, names[name])
		}
		_ = w.Close()
		return b.Bytes()
	}
	manifest := `{"schema":1,"id":"20261123T000000Z-00000000","components":[],"files":[]}`
	f.Add(archive(map[string]string{"20261123T000000Z-00000000/manifest.json": manifest,
		"20261123T000000Z-00000000/manifest.sha256": "x"}))
	f.Add(archive(map[string]string{"../manifest.json": manifest}))
	f.Fuzz(func(t *testing.T, data []byte) {
		u := &unpacking{ctx: t.Context(), tr: tar.NewReader(bytes.NewReader(data)), dir: t.TempDir()}
		if m, err := u.manifest(); err == nil && m.ID != u.id {
			t.Fatal("another id")
		}
	})
}

// An error that a client returns in place of the context's is completed.
func TestWithEnd(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	ctx, cancel := context.WithCancelCause(t.Context())
	other := errors.New("broken pipe")
	if err := step.WithEnd(ctx, other); err != other {
		t.Error(err)
	}
	cancel(cause)
	if err := step.WithEnd(ctx, other); !errors.Is(err, cause) || !errors.Is(err, context.Canceled) ||
		!errors.Is(err, other) {
		t.Error(err)
	}
	if step.WithEnd(ctx, nil) != nil {
		t.Error("no error became one")
	}
}
