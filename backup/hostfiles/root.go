package hostfiles

import (
	"context"
	"errors"
	"io"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/internal/atomicfile"
)

// rootHost is a localHost below a root directory. It reads files through the descriptor of their
// directory, which it keeps for the next file, and follows the same links as the jail that writes.
type rootHost struct {
	localHost
	root string
}

func (h rootHost) read(ctx context.Context, entries []entry, reset func() error, f func(entry,
	backup.Meta, io.Reader) error) error {
	j, err := openJail(h.root)
	if err != nil {
		return step.Fail("read", h.root, err)
	}
	defer j.close()
	for _, e := range entries {
		if e.typ != 'f' {
			err = h.localHost.read(ctx, []entry{e}, reset, f)
		} else {
			err = retried(ctx, e.path, func() (bool, error) { return h.readBelow(ctx, j, e, f) })
		}
		if err != nil {
			return step.Fail("read", e.path, err)
		}
	}
	return nil
}

// readBelow reads one file. It reports whether the file was the same from its opening to its end.
func (h rootHost) readBelow(ctx context.Context, j *jail, e entry, f func(entry, backup.Meta,
	io.Reader) error) (same bool, err error) {
	dir, _, err := j.dir(strings.TrimPrefix(path.Dir(e.path), "/"), nil)
	if err != nil {
		return false, err
	}
	src, err := step.OpenRaw(int(dir.Fd()), path.Base(e.path))
	if errors.Is(err, atomicfile.ErrNotRegular) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	r := &steadyReader{Raw: src, ctx: ctx, dir: int(dir.Fd()), name: path.Base(e.path)}
	err = errors.Join(f(e, h.metaOfStat(&src.Stat), r), src.Close())
	if errors.Is(err, errMoved) {
		return false, nil
	}
	return err == nil, err
}

// steadyReader reads a file and checks at its end that the name still belongs to the file, which
// nobody changed meanwhile.
type steadyReader struct {
	*step.Raw
	ctx  context.Context
	dir  int
	name string
	n    int64
}

func (r *steadyReader) Read(p []byte) (int, error) {
	if err := step.Ended(r.ctx); err != nil {
		return 0, err
	}
	n, err := r.Raw.Read(p)
	if r.n += int64(n); r.n > r.Stat.Size {
		return 0, errMoved
	}
	if errors.Is(err, io.EOF) {
		var now unix.Stat_t
		if unix.Fstatat(r.dir, r.name, &now, unix.AT_SYMLINK_NOFOLLOW) != nil ||
			r.n != r.Stat.Size || !sameStat(&r.Stat, &now) {
			return 0, errMoved
		}
	}
	return n, err
}

// sameStat is sameState for what the kernel returned.
func sameStat(a, b *unix.Stat_t) bool {
	return a.Size == b.Size && a.Mode == b.Mode && a.Mtim == b.Mtim && a.Ctim == b.Ctim &&
		a.Ino == b.Ino && a.Dev == b.Dev
}

// metaOfStat is meta for what the kernel returned.
func (h localHost) metaOfStat(st *unix.Stat_t) backup.Meta {
	return backup.Meta{Mode: step.FileMode(st.Mode), ModTime: time.Unix(st.Mtim.Unix()),
		UID: int(st.Uid), GID: int(st.Gid), User: h.users.name(int(st.Uid)),
		Group: h.groups.name(int(st.Gid))}
}
