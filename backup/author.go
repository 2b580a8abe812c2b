package backup

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// checkAuthor refuses a set that somebody else could have made or changed.
func checkAuthor(dir string) error {
	for p := dir; ; p = filepath.Dir(p) {
		info, err := os.Lstat(p)
		if err != nil {
			return &Error{Op: "restore", Object: dir, Err: err}
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if err := ownAlone(info, st); err != nil {
			return &Error{Op: "restore", Object: dir, Kind: ErrUnsafe, Err: fmt.Errorf("%s %w", p, err),
				Next: "check who made the set, then copy it into a directory that only you can write"}
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}

func ownAlone(info os.FileInfo, st *syscall.Stat_t) error {
	if uid := int(st.Uid); uid != 0 && uid != os.Geteuid() {
		return fmt.Errorf("belongs to user %d", uid)
	}
	// A group of this user's own, as Debian makes one for each user, is no other.
	group := info.Mode().Perm()&0o020 != 0 && st.Gid != 0 && int(st.Gid) != os.Getegid()
	if (group || info.Mode().Perm()&0o002 != 0) && info.Mode()&os.ModeSticky == 0 {
		return fmt.Errorf("is writable by other users (mode %v)", info.Mode().Perm())
	}
	return nil
}
