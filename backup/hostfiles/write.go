package hostfiles

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// writeTemp writes one file or link with its owner, mode and time.
func writeTemp(ctx context.Context, s *backup.Stored, dir *os.File, w written) error {
	if w.Link != "" {
		return writeLink(dir, w)
	}
	mode, err := w.Perm()
	if err != nil {
		return err
	}
	src, err := step.OpenRaw(unix.AT_FDCWD, filepath.Join(s.Dir, filepath.FromSlash(w.File.Path)))
	if err != nil {
		return err
	}
	f, err := step.CreateRaw(int(dir.Fd()), w.temp)
	if err != nil {
		return errors.Join(err, src.Close())
	}
	sum := sha256.New()
	_, err = step.Copy(io.MultiWriter(f, sum), &step.ReadMeter{Ctx: ctx, R: src})
	if err == nil && hex.EncodeToString(sum.Sum(nil)) != w.SHA256 {
		err = fmt.Errorf("%w: the set changed since it was verified", backup.ErrDamaged)
	}
	if err == nil {
		err = setMeta(f.Fd(), w.UID, w.GID, mode, w.MTime)
	}
	return errors.Join(err, f.Close(), src.Close())
}

// setMeta sets owner, mode and modification time of a new file through its descriptor. The owner is
// first: it clears set-id bits, and mode 0600 is safe until then.
func setMeta(fd, uid, gid int, mode fs.FileMode, t time.Time) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: "the new file", Err: err}
	}
	if int(st.Uid) != uid || int(st.Gid) != gid {
		if err := unix.Fchown(fd, uid, gid); err != nil {
			return &os.PathError{Op: "chown", Path: "the new file", Err: err}
		}
	}
	if want := step.UnixMode(mode); st.Mode&0o7777 != want {
		if err := unix.Fchmod(fd, want); err != nil {
			return &os.PathError{Op: "chmod", Path: "the new file", Err: err}
		}
	}
	return setTime(fd, t)
}

// setTime sets the modification time, and leaves the time of the last access alone.
func setTime(fd int, t time.Time) error {
	mtime, err := unix.TimeToTimespec(t)
	if err != nil {
		return err
	}
	times := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}
	// futimens, for which package unix has no function: the path is null.
	if _, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0,
		uintptr(unsafe.Pointer(&times)), 0, 0, 0); errno != 0 {
		return &os.PathError{Op: "set the time of", Path: "the new file", Err: errno}
	}
	return nil
}

// writeLink makes a link and gives it its owner. It changes the owner only if the
// name is still that link.
func writeLink(dir *os.File, w written) error {
	if err := unix.Symlinkat(w.Link, int(dir.Fd()), w.temp); err != nil {
		return err
	}
	fd, err := unix.Openat(int(dir.Fd()), w.temp, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK || int(st.Uid) != os.Geteuid() || st.Nlink != 1 {
		return fmt.Errorf("%w: somebody replaced the temporary link", backup.ErrUnsafe)
	}
	return unix.Fchownat(fd, "", w.UID, w.GID, unix.AT_EMPTY_PATH)
}
