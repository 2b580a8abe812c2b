package hostfiles

import (
	"archive/tar"
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/backup"
)

func FuzzReadTar(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "a", Size: 1, Mode: 0o4755,
		Format: tar.FormatPAX, ModTime: time.Unix(1, 5)})
	_, _ = w.Write([]byte("x"))
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "a"})
	_ = w.Close()
	f.Add(b.Bytes())
	want := []entry{{path: "/a", typ: 'f'}, {path: "/l", typ: 'l'}}
	f.Fuzz(func(t *testing.T, data []byte) {
		seen := 0
		err := readTar(bytes.NewReader(data), want, func(e entry, _ backup.Meta, r io.Reader) error {
			seen++
			_, err := io.Copy(io.Discard, r)
			return err
		})
		if err == nil && seen != len(want) {
			t.Fatalf("%d of %d entries and no error", seen, len(want))
		}
	})
}

func FuzzParseFind(f *testing.F) {
	f.Add([]byte("f\t12\t644\t0\t0\troot\troot\t1\t1700000000.1234567890\t/etc/a\x00\x00l\t3\t777\t0\t0\troot\troot\t1\t1.5\t/etc/l\x00../x\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, _ := parseFind(data)
		for _, e := range entries {
			if !strings.HasPrefix(e.path, "/") || e.size < 0 {
				t.Fatalf("%+v", e)
			}
		}
	})
}

func TestEscapePattern(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"/a", `/a*b?[c]\d`, "/ü/ "} {
		if wild, plain := isPattern(escapePattern(p)); wild || plain != p {
			t.Errorf("%q became %q, %v", p, plain, wild)
		}
	}
	if wild, _ := isPattern("/etc/tyk-*"); !wild {
		t.Error("a wildcard was not seen")
	}
}
