package backup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// checkAuthor refuses a set that somebody else could have made, or could change while it is read.
// It checks each directory above the set and everything in it.
func checkAuthor(op, dir string) error {
	refuse := func(err error) error {
		e := &Error{Op: op, Object: dir, Err: err}
		if errors.Is(err, errOthers) {
			e.Kind = ErrUnsafe
			e.Next = "check who made the set, then copy it into a directory that only you can write"
		}
		return e
	}
	if err := ownAbove(dir); err != nil {
		return refuse(err)
	}
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		var info fs.FileInfo
		if err == nil {
			info, err = d.Info()
		}
		if err == nil && d.Type() != fs.ModeSymlink {
			err = ownAlone(p, info, false)
		}
		if err != nil {
			return refuse(err)
		}
		return nil
	})
}

// ownAbove checks each directory above an absolute path without links.
func ownAbove(path string) error {
	for p := path; p != filepath.Dir(p); {
		p = filepath.Dir(p)
		info, err := os.Lstat(p)
		if err == nil {
			err = ownAlone(p, info, true)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

var errOthers = errors.New("others could change it")

// ownAlone refuses what another user owns or can write to. In a sticky directory others can add
// names, but not change ours. sticky allows such a directory.
func ownAlone(path string, info os.FileInfo, sticky bool) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: unknown owner: %w", path, errOthers)
	}
	uid, me := int(st.Uid), os.Geteuid()
	if uid != 0 && uid != me {
		return fmt.Errorf("%s belongs to user %d: %w", path, uid, errOthers)
	}
	// This user's own group, which Debian makes for each user, is allowed.
	group := st.Gid != 0 && (int(st.Gid) != os.Getegid() || int(st.Gid) != me)
	perm := info.Mode().Perm()
	if (perm&0o020 != 0 && group || perm&0o002 != 0) && !(sticky && info.Mode()&os.ModeSticky != 0) {
		return fmt.Errorf("%s has mode %v: %w", path, perm, errOthers)
	}
	return nil
}
