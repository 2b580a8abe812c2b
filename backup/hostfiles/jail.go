package hostfiles

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// jail writes below a root without following any link that somebody else can change. It opens every
// directory by its parent's descriptor.
type jail struct {
	root *os.File
	last *os.File // the directory of the file before, by name
	name string
	safe bool // nobody else can change last or a directory above it
}

func openJail(root string) (*jail, error) {
	f, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	return &jail{root: f}, nil
}

func (j *jail) close() {
	if j.last != nil {
		_ = j.last.Close()
	}
	_ = j.root.Close()
}

const dirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// dir opens a directory by its path below the root. The result belongs to j, and the next call
// closes it. missing makes a missing directory in its parent. If it is nil, a missing directory is
// an error.
func (j *jail) dir(name string, missing func(parent *os.File, at string,
	safe bool) error) (*os.File, bool, error) {
	if j.last != nil && j.name == name {
		return j.last, j.safe, nil
	}
	if j.last != nil {
		_ = j.last.Close()
		j.last = nil
	}
	f, safe, err := j.walk(name, missing)
	if err != nil {
		return nil, false, err
	}
	j.last, j.name, j.safe = f, name, safe
	return f, safe, nil
}

func (j *jail) walk(name string, missing func(*os.File, string,
	bool) error) (_ *os.File, safe bool, err error) {
	for range maxRounds {
		cur, safe, moved, err := j.try(name, missing)
		if err != nil || moved == "" {
			return cur, safe, err
		}
		name = moved
	}
	return nil, false, &backup.Error{Op: "open", Object: "/" + name, Err: unix.ELOOP}
}

// try opens name, or returns where a trusted link on the way leads.
func (j *jail) try(name string, missing func(*os.File, string,
	bool) error) (_ *os.File, safe bool, moved string, err error) {
	fd, err := unix.Openat(int(j.root.Fd()), ".", dirFlags, 0)
	if err != nil {
		return nil, false, "", err
	}
	cur := os.NewFile(uintptr(fd), "/")
	defer func() {
		if err != nil || moved != "" {
			_ = cur.Close()
		}
	}()
	safe = true
	at := ""
	if name == "." || name == "" {
		return cur, safe, "", nil
	}
	parts := strings.Split(name, "/")
	for i, part := range parts {
		info, err := cur.Stat()
		if err != nil {
			return cur, false, "", err
		}
		safe = safe && safeDir(metaOf(info))
		at = path.Join(at, part)
		fd, err := unix.Openat(int(cur.Fd()), part, dirFlags, 0)
		if errors.Is(err, unix.ENOENT) && missing != nil {
			if err = missing(cur, at, safe); err == nil {
				fd, err = unix.Openat(int(cur.Fd()), part, dirFlags, 0)
			}
		}
		if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
			target, err := linkIn(cur, part, at, safe)
			if err != nil {
				return cur, false, "", err
			}
			if !path.IsAbs(target) {
				target = path.Join("/", path.Dir(at), target)
			}
			return cur, false, strings.TrimPrefix(path.Join(append([]string{path.Clean(target)},
				parts[i+1:]...)...), "/"), nil
		}
		if err != nil {
			return cur, false, "", &os.PathError{Op: "open", Path: "/" + at, Err: err}
		}
		_ = cur.Close()
		cur = os.NewFile(uintptr(fd), "/"+at)
	}
	info, err := cur.Stat()
	if err != nil {
		return cur, false, "", err
	}
	return cur, safe && safeDir(metaOf(info)), "", nil
}

// linkIn reads a link that root or this user owns, in a directory that nobody else can change. It
// refuses any other.
func linkIn(dir *os.File, name, at string, safe bool) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return "", &os.PathError{Op: "open", Path: "/" + at, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", &backup.Error{Op: "open", Object: "/" + at, Err: unix.ENOTDIR,
			Next: "move it out of the way"}
	}
	if !safe || !ownUID(int(st.Uid)) {
		return "", &backup.Error{Op: "open", Object: "/" + at, Kind: backup.ErrUnsafe,
			Err:  fmt.Errorf("it is a symbolic link that user %d controls", st.Uid),
			Next: "replace it with a directory"}
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// written is a file under its temporary name.
type written struct {
	change
	temp string
}

func (j *jail) apply(ctx context.Context, s *backup.Stored, c *comparison, todo []change,
	done func(change)) (err error) {
	dirs := map[string]dirChange{}
	for _, d := range c.dirs {
		dirs[d.Path] = d
	}
	missing := func(parent *os.File, at string, safe bool) error { return makeDir(parent, at, dirs) }
	var temps []written
	defer func() {
		if err != nil {
			for _, w := range temps {
				if d, _, e := j.dir(path.Dir(w.Path), nil); e == nil {
					_ = unix.Unlinkat(int(d.Fd()), w.temp, 0)
				}
			}
		}
	}()
	j.sweep(c.dirsOfFiles())
	for _, x := range todo {
		if err := step.Ended(ctx); err != nil {
			return step.Fail("restore", "/"+x.Path, err)
		}
		d, _, err := j.dir(path.Dir(x.Path), missing)
		if err != nil {
			return step.Fail("restore", "/"+x.Path, err)
		}
		w := written{x, tempName(path.Base(x.Path))}
		temps = append(temps, w)
		if err := writeTemp(ctx, s, d, w); err != nil {
			return step.Fail("restore", "/"+x.Path, err)
		}
	}
	if err := j.sync(temps); err != nil {
		return err
	}
	for i, w := range temps {
		d, _, err := j.dir(path.Dir(w.Path), nil)
		if err == nil {
			err = step.Ended(ctx)
		}
		if err == nil {
			err = unix.Renameat(int(d.Fd()), w.temp, int(d.Fd()), path.Base(w.Path))
		}
		if err != nil {
			temps = temps[i:]
			return step.Fail("restore", "/"+w.Path, err)
		}
		done(w.change)
	}
	temps, todoSync := nil, temps
	if err := j.dirs(c, missing); err != nil {
		return err
	}
	return j.sync(todoSync)
}

// sync makes files durable with one call for each file system.
func (j *jail) sync(temps []written) error {
	synced := map[uint64]bool{}
	last := ""
	for _, w := range temps {
		if name := path.Dir(w.Path); name != last {
			last = name
			d, _, err := j.dir(name, nil)
			if err != nil {
				return err
			}
			var st unix.Stat_t
			if err := unix.Fstat(int(d.Fd()), &st); err != nil {
				return err
			}
			if dev := uint64(st.Dev); !synced[dev] {
				synced[dev] = true
				if err := unix.Syncfs(int(d.Fd())); err != nil {
					return step.Fail("sync", "/"+name, err)
				}
			}
		}
	}
	return nil
}

// makeDir makes one directory of the set. It sets the owner only if the name is still an empty
// directory of this process.
func makeDir(parent *os.File, at string, dirs map[string]dirChange) error {
	d, ok := dirs[at]
	if !ok {
		d.Mode, d.UID, d.GID = "0755", os.Geteuid(), os.Getegid()
	}
	mode, err := backup.File{Mode: d.Mode}.Perm()
	if err != nil {
		return err
	}
	if err := unix.Mkdirat(int(parent.Fd()), path.Base(at), 0o700); err != nil {
		return &os.PathError{Op: "mkdir", Path: "/" + at, Err: err}
	}
	fd, err := unix.Openat(int(parent.Fd()), path.Base(at), dirFlags, 0)
	if err != nil {
		return &os.PathError{Op: "mkdir", Path: "/" + at, Err: err}
	}
	f := os.NewFile(uintptr(fd), at)
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	names, err := f.Readdirnames(1)
	if m := metaOf(info); len(names) > 0 || !errors.Is(err, io.EOF) || m.UID != os.Geteuid() ||
		m.Mode.Perm() != 0o700 {
		return fmt.Errorf("%w: somebody replaced the directory /%s while it was made", backup.ErrUnsafe,
			at)
	}
	return errors.Join(f.Chown(d.UID, d.GID), f.Chmod(mode))
}

// dirs makes empty directories, and sets mode and owner of existing ones.
func (j *jail) dirs(c *comparison, missing func(*os.File, string, bool) error) error {
	for _, d := range c.dirs {
		if d.action != backup.ActionReplace && (d.action != backup.ActionCreate || !d.Listed) {
			continue
		}
		parent, safe, err := j.dir(path.Dir(d.Path), missing)
		if err != nil {
			return step.Fail("restore", "/"+d.Path, err)
		}
		info, err := parent.Stat()
		if err != nil {
			return err
		}
		above := metaOf(info)
		f, _, err := j.walk(d.Path, missing)
		if err != nil {
			return step.Fail("restore", "/"+d.Path, err)
		}
		err = correctDir(f, d, above, safe)
		if err := errors.Join(err, f.Close()); err != nil {
			return step.Fail("restore", "/"+d.Path, err)
		}
	}
	return nil
}

// correctDir sets mode and owner. In a directory that another user controls, it changes only that
// user's own directories, because the user could have moved any other there.
func correctDir(f *os.File, d dirChange, above backup.Meta, safe bool) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	is := entry{meta: metaOf(info)}
	if sameDir(d.Dir, is) {
		return nil
	}
	if !safe && is.meta.UID != above.UID {
		return &backup.Error{Op: "restore", Object: "/" + d.Path, Kind: backup.ErrUnsafe,
			Err:  fmt.Errorf("user %d controls the directory above it", above.UID),
			Next: "set mode and owner of this directory by hand"}
	}
	mode, err := backup.File{Mode: d.Mode}.Perm()
	if err != nil {
		return err
	}
	return errors.Join(f.Chown(d.UID, d.GID), f.Chmod(mode))
}

// remove removes a file, or a directory that is empty. It reports whether it did.
func (j *jail) remove(name string, dir bool) (removed bool, err error) {
	d, _, err := j.dir(path.Dir(name), nil)
	if err == nil {
		flags := 0
		if dir {
			flags = unix.AT_REMOVEDIR
		}
		err = unix.Unlinkat(int(d.Fd()), path.Base(name), flags)
	}
	if gone(err) || (dir && (errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST))) {
		return false, nil
	}
	if err != nil {
		return false, step.Fail("remove", "/"+name, err)
	}
	return true, nil
}
