package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// tempPrefix begins the names of a target's temporary files. File systems accept names of 255
// bytes, and CreateTemp adds up to ten.
func tempPrefix(target string) string {
	base := filepath.Base(target)
	return "." + base[:min(len(base), 238)] + ".tmp-"
}

// createTemp makes a temporary file and locks it. The kernel releases the lock when the process
// dies, so [Sweep] recognizes the files of killed writers.
func createTemp(target string) (*os.File, error) {
	for {
		f, err := os.CreateTemp(filepath.Dir(target), tempPrefix(target)+"*")
		if err != nil {
			return nil, err
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil && linked(f) || err != nil && !errors.Is(err, syscall.EWOULDBLOCK) {
			return f, nil // without locks on this file system Sweep leaves it alone
		}
		// A sweep came between creation and lock.
		_ = f.Close()
		_ = os.Remove(f.Name())
	}
}

// UnlockClose closes a file and releases its lock explicitly. Close alone does not while a command
// that is being started has a copy of the descriptor.
func UnlockClose(f *os.File) error {
	unlock(f)
	return f.Close()
}

func unlock(f *os.File) { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }

// linked reports whether the file still has a name.
func linked(f *os.File) bool {
	info, err := f.Stat()
	if err != nil {
		return true
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return !ok || st.Nlink > 0
}

// Sweep removes the temporary files that killed writers of path left next to it. It keeps those of
// active writers and files that this user may not open.
func Sweep(path string) error {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	prefix := tempPrefix(path)
	var errs []error
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), prefix)
		if !ok || number == "" || strings.Trim(number, "0123456789") != "" || !e.Type().IsRegular() {
			continue
		}
		errs = append(errs, sweepOne(filepath.Join(filepath.Dir(path), e.Name())))
	}
	return errors.Join(errs...)
}

func sweepOne(name string) error {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil // it is gone, or somebody else's
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return nil
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
