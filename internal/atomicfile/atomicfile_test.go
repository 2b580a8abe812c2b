package atomicfile_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"example.com/tykupgrade/internal/atomicfile"
	"example.com/tykupgrade/internal/lab"
)

func TestWrite(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	sum, err := atomicfile.WriteBytes(t.Context(), path, atomicfile.Options{}, []byte("abc"))
	if err != nil {
		t.Fatal(err)
	}
	const abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	if sum != (atomicfile.Sum{Size: 3, SHA256: abc}) {
		t.Errorf("sum %+v", sum)
	}
	check(t, path, "abc", 0o600)
	// An existing file gets the asked mode, not its old one.
	if _, err := atomicfile.WriteBytes(t.Context(), path, atomicfile.Options{Mode: 0o666},
		nil); err != nil {
		t.Fatal(err)
	}
	check(t, path, "", 0o666)
}

// Every failure leaves the earlier file as it was and nothing next to it.
func TestWriteFails(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		fill func(cancel func(), w io.Writer) error
		want error
	}{
		"fill fails": {func(_ func(), w io.Writer) error { _, _ = w.Write([]byte("new")); return boom },
			boom},
		"cancelled before a write": {func(cancel func(), w io.Writer) error {
			cancel()
			_, err := w.Write([]byte("new"))
			return err
		}, context.Canceled},
		"cancelled, unnoticed by fill": {func(cancel func(), w io.Writer) error {
			_, err := w.Write([]byte("new"))
			cancel()
			return err
		}, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "f")
			old(t, path)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			_, err := atomicfile.Write(ctx, path, atomicfile.Options{},
				func(w io.Writer) error { return c.fill(cancel, w) })
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v", err)
			}
			check(t, path, "old", 0o640)
		})
	}
}

// A panic is the caller's affair; what it leaves on the disk is not.
func TestWritePanics(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	old(t, path)
	inFill := func(io.Writer) error { panic("boom") }
	inCheck := atomicfile.Options{Check: func(*os.File) error { panic("boom") }}
	for name, write := range map[string]func() error{
		"fill": func() error {
			_, err := atomicfile.Write(t.Context(), path, atomicfile.Options{}, inFill)
			return err
		},
		"Check": func() error {
			_, err := atomicfile.WriteBytes(t.Context(), path, inCheck, nil)
			return err
		},
	} {
		func() {
			defer func() {
				if v := recover(); v != "boom" {
					t.Errorf("%s: the panic became %v", name, v)
				}
			}()
			t.Errorf("%s returned %v", name, write())
		}()
		check(t, path, "old", 0o640)
	}
}

// What Check refuses never takes the name; it sees the whole file.
func TestWriteChecked(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	old(t, path)
	bad := errors.New("not good")
	write := func(verdict error) error {
		_, err := atomicfile.WriteBytes(t.Context(), path, atomicfile.Options{Mode: 0o640,
			Check: func(f *os.File) error {
				data, err := io.ReadAll(io.NewSectionReader(f, 0, 100))
				if string(data) != "new" {
					t.Errorf("checked %q, %v", data, err)
				}
				return verdict
			}}, []byte("new"))
		return err
	}
	if err := write(bad); !errors.Is(err, bad) {
		t.Errorf("refused: %v", err)
	}
	check(t, path, "old", 0o640)
	if err := write(nil); err != nil {
		t.Error(err)
	}
	check(t, path, "new", 0o640)
}

func TestWriteContextAlreadyEnded(t *testing.T) {
	t.Parallel()
	cause := errors.New("operator pressed stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	path := filepath.Join(t.TempDir(), "f")
	_, err := atomicfile.WriteBytes(ctx, path, atomicfile.Options{}, []byte("x"))
	if !errors.Is(err, context.Canceled) || !errors.Is(err, cause) {
		t.Errorf("error %v", err)
	}
	only(t, filepath.Dir(path))
}

func TestWriteTargetIsDirectory(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := atomicfile.WriteBytes(t.Context(), path, atomicfile.Options{}, []byte("x"))
	if !errors.Is(err, atomicfile.ErrNotRegular) {
		t.Errorf("error %v", err)
	}
	only(t, filepath.Dir(path), "d")
}

func TestWriteTargetIsSymlink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	other := t.TempDir()
	file, link := filepath.Join(other, "f"), filepath.Join(dir, "link")
	old(t, file)
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if _, err := atomicfile.WriteBytes(t.Context(), link, atomicfile.Options{},
		[]byte("new")); !errors.Is(err, atomicfile.ErrNotRegular) {
		t.Errorf("error %v", err)
	}
	check(t, file, "old", 0o640)
	if _, err := atomicfile.WriteBytes(t.Context(), link, atomicfile.Options{Follow: true},
		[]byte("new")); err != nil {
		t.Fatal(err)
	}
	check(t, file, "new", 0o600)
	if got, err := os.Readlink(link); err != nil || got != file {
		t.Errorf("link is now %q, %v", got, err)
	}
	dangling := filepath.Join(dir, "dangling")
	if err := os.Symlink("nowhere", dangling); err != nil {
		t.Fatal(err)
	}
	if _, err := atomicfile.WriteBytes(t.Context(), dangling, atomicfile.Options{Follow: true},
		nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	only(t, dir, "dangling", "link")
}

func TestWriteNoDirectory(t *testing.T) {
	t.Parallel()
	_, err := atomicfile.WriteBytes(t.Context(), filepath.Join(t.TempDir(), "no", "f"),
		atomicfile.Options{}, nil)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func TestWriteOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root to give a file away")
	}
	path := filepath.Join(t.TempDir(), "f")
	_, err := atomicfile.WriteBytes(t.Context(), path, atomicfile.Options{Mode: 0o640,
		Owner: &atomicfile.Owner{UID: 12, GID: 34}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 12 || st.Gid != 34 {
		t.Errorf("owner %d:%d", st.Uid, st.Gid)
	}
	check(t, path, "", 0o640)
}

func TestWriteFullDisk(t *testing.T) {
	lab.SmallDisk(t, 64<<10, func(dir string) {
		path := filepath.Join(dir, "f")
		old(t, path)
		_, err := atomicfile.Write(t.Context(), path, atomicfile.Options{}, func(w io.Writer) error {
			_, err := io.CopyN(w, zeros{}, 1<<20)
			return err
		})
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("error %v", err)
		}
		check(t, path, "old", 0o640)
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func old(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("old"), 0o640); err != nil {
		t.Fatal(err)
	}
}

// check asserts the content and mode of path, and that it is alone.
func check(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != content || info.Mode() != mode {
		t.Errorf("%s is %q with mode %v, want %q with mode %v", path, got, info.Mode(), content, mode)
	}
	only(t, filepath.Dir(path), filepath.Base(path))
}

func only(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Errorf("%s holds %q, want %q", dir, got, names)
	}
}

func TestLongestName(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), strings.Repeat("n", 255))
	if _, err := atomicfile.WriteBytes(t.Context(), path, atomicfile.Options{},
		[]byte("x")); err != nil {
		t.Error(err)
	}
}
