package rollout

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"example.com/tykupgrade/internal/atomicfile"
)

// open opens or creates the journal, drops a record that a crash left half-written, and reads the
// others.
func (j *journal) open(shared bool) error {
	fail := func(err error) error {
		if e := (*Error)(nil); errors.As(err, &e) && e.Kind == ErrJournal {
			e.Object = "journal " + j.path
			return e
		}
		return &Error{Op: "open", Object: "journal " + j.path, Err: err, Next: nextForPermission(err)}
	}
	mode := os.FileMode(0o600)
	if shared {
		mode = 0o660
	}
	// Not a pipe: opening one without a reader would hang.
	f, err := os.OpenFile(j.path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, mode)
	if err != nil {
		return fail(err)
	}
	info, err := f.Stat()
	if err == nil {
		err = trusted(info, shared)
	}
	if err == nil && info.Size() == 0 {
		err = f.Chmod(mode) // whatever the umask
	}
	var end scanned
	if err == nil {
		end, err = scanJournal(f, j.rep.apply)
	}
	if err == nil {
		err = f.Truncate(end.size)
	}
	if err == nil {
		_, err = f.Seek(end.size, io.SeekStart)
	}
	if err == nil && end.size == 0 {
		err = atomicfile.SyncDir(filepath.Dir(j.path))
	}
	if err != nil {
		return errors.Join(fail(err), f.Close())
	}
	j.f, j.seq, j.size, j.head, j.done = f, end.seq, end.size, end.head, end.seq
	return nil
}

// trusted refuses a journal that somebody else could have written: it decides what this program
// does on every host.
func trusted(info fs.FileInfo, shared bool) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.Mode().IsRegular() || !ok {
		return errors.New("it is not a regular file")
	}
	perm := info.Mode().Perm()
	mine := int(st.Uid) == os.Geteuid() || st.Uid == 0
	if shared && !mine {
		groups, _ := os.Getgroups()
		mine = int(st.Gid) == os.Getegid() || slices.Contains(groups, int(st.Gid))
	}
	switch {
	case !mine:
		return fmt.Errorf("it belongs to user %d: %w", st.Uid, errNotTrusted)
	case perm&0o002 != 0:
		return fmt.Errorf("every user can write it (mode %04o): %w", perm, errNotTrusted)
	case perm&0o020 != 0 && !shared:
		return fmt.Errorf("its group can write it (mode %04o) and Options.Shared is not set: %w", perm,
			errNotTrusted)
	}
	return nil
}

var errNotTrusted = errors.New("somebody else could have written it")

// trustedDir refuses a directory in which other users can replace files, and such a parent.
func trustedDir(dir string, shared bool) error {
	dir, err := filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return err
	}
	for first := true; ; first = false {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		perm := info.Mode()
		st, ok := info.Sys().(*syscall.Stat_t)
		sticky := perm&os.ModeSticky != 0
		private := ok && int(st.Gid) == os.Getegid() // the group of one user, as Debian gives
		switch {
		case !ok:
			return fmt.Errorf("directory %s: unknown owner", dir)
		case int(st.Uid) != os.Geteuid() && st.Uid != 0 && !(shared && first):
			return fmt.Errorf("directory %s belongs to user %d: %w", dir, st.Uid, errNotTrusted)
		case perm&0o002 != 0 && !sticky:
			return fmt.Errorf("every user can write to directory %s: %w", dir, errNotTrusted)
		case perm&0o020 != 0 && !sticky && !shared && !private && st.Gid != 0:
			return fmt.Errorf("group %d can write in directory %s: %w", st.Gid, dir, errNotTrusted)
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return nil
		}
		dir = parent
	}
}

func nextForPermission(err error) string {
	switch {
	case errors.Is(err, errNotTrusted):
		return "make it yours and writable by nobody else, or name a journal elsewhere"
	case errors.Is(err, fs.ErrPermission):
		return "run as the user that owns it, or let that user share it with its group (Options.Shared)"
	case errors.Is(err, syscall.ENOSPC):
		return "free some space"
	}
	return ""
}

// aside renames the journal of a finished run and returns its new name.
func (j *journal) aside() (string, error) {
	base := j.path + "." + j.rep.Started.UTC().Format("20060102T150405Z")
	to := base
	for i := 2; ; i++ {
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil {
			return "", err
		}
		to = fmt.Sprintf("%s.%d", base, i)
	}
	err := errors.Join(j.f.Close(), os.Rename(j.path, to))
	j.f, j.seq, j.size, j.head, j.done, j.rep = nil, 0, 0, "", 0, &Report{}
	return to, err
}

// exists reports whether a journal with records is at path.
func exists(path string) (bool, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.Size() > 0, err
}
