package hostfiles

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// localHost reads through a file system whose root is the host's.
type localHost struct {
	fsys          fs.FS
	users, groups *names
}

func local(fsys fs.FS) localHost {
	return localHost{fsys, &names{look: userName}, &names{look: groupName}}
}

// names remembers what numbers are called: a look-up reads the whole file of names.
type names struct {
	look func(id int) string
	of   sync.Map // of int to string
}

func (n *names) name(id int) string {
	if known, ok := n.of.Load(id); ok {
		return known.(string)
	}
	name := n.look(id)
	n.of.Store(id, name)
	return name
}

// meta is metaOf with the names of user and group.
func (h localHost) meta(info fs.FileInfo) backup.Meta {
	m := metaOf(info)
	if _, ok := info.Sys().(*syscall.Stat_t); ok {
		m.User, m.Group = h.users.name(m.UID), h.groups.name(m.GID)
	}
	return m
}

func (h localHost) lstat(ctx context.Context, paths []string) ([]entry, error) {
	var out []entry
	for _, p := range paths {
		if err := step.Ended(ctx); err != nil {
			return nil, err
		}
		info, err := fs.Lstat(h.fsys, strings.TrimPrefix(p, "/"))
		if gone(err) {
			continue
		}
		if err == nil {
			var e entry
			e, err = h.entry(strings.TrimPrefix(p, "/"), info)
			out = append(out, e)
		}
		if err != nil && !gone(err) {
			return nil, step.Fail("list", p, err)
		}
	}
	return out, nil
}

// gone reports whether err means that a path does not exist.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) ||
		errors.Is(err, syscall.ENOTDIR)
}

func (h localHost) children(ctx context.Context, dirs []string) ([]entry, error) {
	return h.below(ctx, dirs, false)
}

func (h localHost) tree(ctx context.Context, dirs []string) ([]entry, error) {
	return h.below(ctx, dirs, true)
}

func (h localHost) below(ctx context.Context, dirs []string, deep bool) ([]entry, error) {
	var out []entry
	for _, dir := range dirs {
		root := strings.TrimPrefix(dir, "/")
		if root == "" {
			root = "."
		}
		err := fs.WalkDir(h.fsys, root, func(name string, d fs.DirEntry, err error) error {
			if e := step.Ended(ctx); e != nil {
				return e
			}
			if gone(err) || (err == nil && name == root) {
				return nil
			}
			if err != nil {
				return err
			}
			info, err := d.Info()
			var e entry
			if err == nil {
				e, err = h.entry(name, info)
			}
			if gone(err) {
				return nil // since the directory was read
			}
			if err != nil {
				return err
			}
			out = append(out, e)
			if d.IsDir() && !deep {
				return fs.SkipDir
			}
			return nil
		})
		if err != nil {
			return nil, step.Fail("list", dir, err)
		}
	}
	return out, nil
}

func (h localHost) entry(name string, info fs.FileInfo) (entry, error) {
	e := entry{path: "/" + name, typ: '?', meta: h.meta(info)}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		e.links = uint64(st.Nlink)
	}
	switch info.Mode().Type() {
	case 0:
		e.typ, e.size = 'f', info.Size()
	case fs.ModeDir:
		e.typ = 'd'
	case fs.ModeSymlink:
		e.typ = 'l'
		var err error
		e.link, err = fs.ReadLink(h.fsys, name)
		return e, err
	}
	return e, nil
}

func (h localHost) read(ctx context.Context, entries []entry, _ func() error, f func(entry,
	backup.Meta, io.Reader) error) error {
	for _, e := range entries {
		if err := h.readOne(ctx, e, f); err != nil {
			return step.Fail("read", e.path, err)
		}
	}
	return nil
}

func (h localHost) readOne(ctx context.Context, e entry, f func(entry, backup.Meta,
	io.Reader) error) error {
	name := strings.TrimPrefix(e.path, "/")
	return retried(ctx, e.path, func() (bool, error) { return h.tryOne(ctx, name, e, f) })
}

// retried reads again while a file changes.
func retried(ctx context.Context, name string, try func() (same bool, err error)) error {
	var err error
	for range readTries {
		var same bool
		if same, err = try(); same || err != nil && !gone(err) {
			return err
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
	if gone(err) {
		return errVanished(name)
	}
	return errKeepsChanging(name)
}

// tryOne reports whether the entry was the same from its look to its end.
func (h localHost) tryOne(ctx context.Context, name string, e entry, f func(entry, backup.Meta,
	io.Reader) error) (same bool, err error) {
	before, err := fs.Lstat(h.fsys, name)
	switch {
	case err != nil:
		return false, err
	case e.typ == 'l':
		return true, f(e, h.meta(before), nil)
	case e.typ == 'd':
		if !before.IsDir() {
			return false, nil
		}
		if d, err := h.fsys.Open(name); err == nil {
			e.extras = extrasOf(d)
			_ = d.Close()
		}
		return true, f(e, h.meta(before), nil)
	}
	return h.readFile(ctx, name, e, before, f)
}

// errMoved ends the copying of a file that was replaced by another one.
var errMoved = errors.New("changed")

func (h localHost) readFile(ctx context.Context, name string, e entry, before fs.FileInfo,
	f func(entry, backup.Meta, io.Reader) error) (same bool, err error) {
	if !before.Mode().IsRegular() {
		return false, nil
	}
	src, err := h.fsys.Open(name)
	if err != nil {
		return false, err
	}
	defer src.Close()
	// fs.FS has no O_NOFOLLOW, so the opened file is compared with the one that was checked.
	opened, err := src.Stat()
	if err != nil || !sameState(before, opened) {
		return false, err
	}
	e.extras = extrasOf(src)
	r := &step.ReadMeter{Ctx: ctx, R: io.LimitReader(src, before.Size()+1)}
	var n int64
	r.Add = func(m int64) { n += m }
	err = f(e, h.meta(before), &checkedReader{r: r, end: func() error {
		after, err := fs.Lstat(h.fsys, name)
		if err != nil || n != before.Size() || !sameState(before, after) {
			return errMoved
		}
		return nil
	}})
	if errors.Is(err, errMoved) {
		return false, nil
	}
	return err == nil, err
}

// checkedReader calls end before it reports the end of the input.
type checkedReader struct {
	r   io.Reader
	end func() error
}

func (c *checkedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if errors.Is(err, io.EOF) {
		if e := c.end(); e != nil {
			return 0, e
		}
	}
	return n, err
}

// sameState compares what a write or a replacement changes. Coarse clocks hide
// a write of the same size within one tick (about 4 ms on Linux), unless the
// status change shows it.
func sameState(a, b fs.FileInfo) bool {
	if a.Size() != b.Size() || a.Mode() != b.Mode() || !a.ModTime().Equal(b.ModTime()) {
		return false
	}
	x, ok1 := a.Sys().(*syscall.Stat_t)
	y, ok2 := b.Sys().(*syscall.Stat_t)
	return !ok1 || !ok2 || (x.Ino == y.Ino && x.Dev == y.Dev && x.Ctim == y.Ctim)
}

// metaOf is what a file system says of a file: no names.
func metaOf(info fs.FileInfo) backup.Meta {
	m := backup.Meta{Mode: info.Mode(), ModTime: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		m.UID, m.GID = int(st.Uid), int(st.Gid)
	}
	return m
}

// userName returns the name of a user, or "" if the host has none for the number.
func userName(id int) string {
	u, err := user.LookupId(strconv.Itoa(id))
	if err != nil {
		return ""
	}
	return u.Username
}

func groupName(id int) string {
	g, err := user.LookupGroupId(strconv.Itoa(id))
	if err != nil {
		return ""
	}
	return g.Name
}
