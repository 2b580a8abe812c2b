package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// ReadOwn reads a file that decides what is done as root: it and its directory must
// belong to this user or to root, and nobody else may write to them.
func ReadOwn(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, Advice(fmt.Errorf("read %s: it is a symbolic link", path), "name the file itself")
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	for _, x := range []os.FileInfo{info, dir} {
		st, ok := x.Sys().(*syscall.Stat_t)
		foreign := ok && st.Uid != 0 && int(st.Uid) != os.Geteuid()
		if foreign || x.Mode().Perm()&0o022 != 0 && x.Mode()&os.ModeSticky == 0 {
			return nil, Exit(Refused, Advice(fmt.Errorf("read %s: %s belongs to, or can be written to by, "+
				"somebody else", path, x.Name()),
				"look at what the file says, then move it to a directory of your own with mode 600"))
		}
	}
	return io.ReadAll(f)
}

// WriteFile replaces a file that only its owner may read. The file is there in full or not
// at all, also after a crash.
func WriteFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
