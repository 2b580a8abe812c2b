package hostfiles

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"example.com/tykupgrade/backup"
)

// A restore reads files of any size whole. It reads again a file that is replaced, that grows or
// that becomes a link meanwhile.
func TestReadBelowRoot(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	name := filepath.Join(root, "dir/file")
	if err := os.Mkdir(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(data []byte) {
		t.Helper()
		if err := errors.Join(os.RemoveAll(name), os.WriteFile(name, data, 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	h := rootHost{local(os.DirFS(root)), root}
	read := func(meanwhile func()) (got []byte, tries int, err error) {
		err = h.read(t.Context(), []entry{{path: "/dir/file", typ: 'f'}}, nil,
			func(_ entry, m backup.Meta, r io.Reader) error {
				if tries++; tries == 1 {
					meanwhile()
				}
				if m.Mode != 0o640 || m.UID != os.Geteuid() {
					t.Errorf("%+v", m)
				}
				got, err = io.ReadAll(r)
				return err
			})
		return got, tries, err
	}
	for _, n := range []int{0, 1, 512, 64 << 10, 64<<10 + 1, 200_000} {
		want := bytes.Repeat([]byte("x"), n)
		put(want)
		if got, tries, err := read(func() {}); err != nil || tries != 1 || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %d in %d tries, %v", n, len(got), tries, err)
		}
	}
	for what, change := range map[string]func() error{
		"replaced": func() error {
			return errors.Join(os.WriteFile(name+".new", []byte("new"), 0o640), os.Rename(name+".new", name))
		},
		"grown": func() error { return os.WriteFile(name, []byte("new"), 0o640) },
	} {
		put([]byte("ol"))
		got, tries, err := read(func() {
			if err := change(); err != nil {
				t.Error(err)
			}
		})
		if err != nil || tries < 2 || string(got) != "new" {
			t.Errorf("%s: %q in %d tries, %v", what, got, tries, err)
		}
	}
	put([]byte("old"))
	_, tries, err := read(func() {
		if err := errors.Join(os.Remove(name), os.Symlink("/etc/passwd", name)); err != nil {
			t.Error(err)
		}
	})
	if !errors.Is(err, backup.ErrChanged) || tries != 1 {
		t.Errorf("a link in its place: %d tries, %v", tries, err)
	}
}
