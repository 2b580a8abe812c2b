// Package atomicfile writes files that are either complete and on disk, or not present at all.
//
// It supports local POSIX file systems. It does not lock the path: if two writers write one path,
// the later rename wins, and each file is whole.
package atomicfile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
)

// ErrNotRegular is the error if the target exists and is not a regular file. It may be a directory,
// a device, or without [Options.Follow] a symbolic link.
var ErrNotRegular = errors.New("exists and is not a regular file")

// Options changes how a file is written. The zero value writes a 0600 file.
type Options struct {
	Mode     fs.FileMode // permission bits, whatever the umask; 0: 0600
	Owner    *Owner      // nil: the calling user
	Follow   bool        // keep a symbolic link and replace the file that it names
	NoDigest bool        // leave Sum.SHA256 empty
	NoSync   bool        // the caller syncs; before that a power failure may leave a part of the file

	// Check reads the whole temporary file before the rename. Its error counts as an error of fill.
	Check func(*os.File) error
}

// Owner is a numeric user and group.
type Owner struct{ UID, GID int }

// Sum describes a written file.
type Sum struct {
	Size   int64
	SHA256 string // lower-case hex
}

// Write creates or replaces path with the bytes that fill writes. They go to a temporary file
// ".<name>.tmp-*" in the same directory, with a shortened name if it is long. Write sets mode and
// owner, syncs the file, renames it to path and syncs the directory.
//
// If fill fails or panics, the disk is full or ctx ends, Write removes the temporary file, and path
// is unchanged. Only a sync of the directory can fail after the rename. After kill -9 the temporary
// file stays until [Sweep] removes it. Errors wrap their cause.
func Write(ctx context.Context, path string, o Options, fill func(io.Writer) error) (Sum, error) {
	sum, err := write(ctx, path, o, fill)
	if err != nil {
		return Sum{}, fmt.Errorf("write %s: %w", path, err)
	}
	return sum, nil
}

func write(ctx context.Context, path string, o Options, fill func(io.Writer) error) (Sum, error) {
	if err := ended(ctx); err != nil {
		return Sum{}, err
	}
	target, err := resolve(path, o.Follow)
	if err != nil {
		return Sum{}, err
	}
	mode := o.Mode.Perm()
	if mode == 0 {
		mode = 0o600
	}
	f, err := createTemp(target)
	if err != nil {
		return Sum{}, err
	}
	renamed := false
	defer func() { // also when fill or Check panics
		if !renamed {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	w := &counter{ctx: ctx, w: f}
	if !o.NoDigest {
		w.hash = sha256.New()
	}
	if err := fill(w); err != nil {
		return Sum{}, err
	}
	if o.Check != nil {
		if err := o.Check(f); err != nil {
			return Sum{}, err
		}
	}
	// Owner first: chown clears set-id bits, and 0600 is safe until then.
	if o.Owner != nil {
		if err := f.Chown(o.Owner.UID, o.Owner.GID); err != nil {
			return Sum{}, err
		}
	}
	if err := f.Chmod(mode); err != nil {
		return Sum{}, err
	}
	if !o.NoSync {
		if err := f.Sync(); err != nil {
			return Sum{}, err
		}
	}
	unlock(f)
	if err := f.Close(); err != nil {
		return Sum{}, err
	}
	if err := ended(ctx); err != nil {
		return Sum{}, err
	}
	if err := os.Rename(f.Name(), target); err != nil {
		return Sum{}, err
	}
	renamed = true
	sum := Sum{Size: w.n}
	if w.hash != nil {
		sum.SHA256 = hex.EncodeToString(w.hash.Sum(nil))
	}
	// From here on path has its new content, so a failed sync must not remove or restore anything.
	if o.NoSync {
		return sum, nil
	}
	if err := SyncDir(filepath.Dir(target)); err != nil {
		return Sum{}, fmt.Errorf("the file is in place but may not survive a power cut: %w", err)
	}
	return sum, nil
}

// WriteBytes is [Write] for content that is already in memory.
func WriteBytes(ctx context.Context, path string, o Options, data []byte) (Sum, error) {
	return Write(ctx, path, o, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// SyncDir makes renames, creations and removals in dir durable. It does nothing on file systems
// that cannot sync directories.
func SyncDir(dir string) error {
	if f := onSyncDir.Load(); f != nil {
		(*f)(dir)
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	// Some file systems cannot sync directories; they order renames themselves.
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		err = nil
	}
	return errors.Join(err, d.Close())
}

// onSyncDir is what OnSyncDir set.
var onSyncDir atomic.Pointer[func(dir string)]

// OnSyncDir makes SyncDir call f first, until stop. It is for a test that counts syncs: a process
// has one such function, and f gets the directories of all goroutines.
func OnSyncDir(f func(dir string)) (stop func()) {
	onSyncDir.Store(&f)
	return func() { onSyncDir.Store(nil) }
}

func resolve(path string, follow bool) (string, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return path, nil
	case err != nil:
		return "", err
	case info.Mode().IsRegular():
		return path, nil
	case info.Mode().Type() == fs.ModeSymlink && follow:
		target, err := filepath.EvalSymlinks(path)
		if err != nil {
			return "", err
		}
		return resolve(target, false)
	case info.Mode().Type() == fs.ModeSymlink:
		return "", fmt.Errorf("a symbolic link %w; name the file that it points to", ErrNotRegular)
	case info.IsDir():
		return "", fmt.Errorf("a directory %w; name a file inside it", ErrNotRegular)
	default:
		return "", fmt.Errorf("a device, pipe or socket %w", ErrNotRegular)
	}
}

// counter counts and hashes the bytes of the file. It also stops a fill function that ignores its
// context.
type counter struct {
	ctx  context.Context
	w    io.Writer
	hash hash.Hash
	n    int64
}

func (c *counter) Write(p []byte) (int, error) {
	if err := ended(c.ctx); err != nil {
		return 0, err
	}
	n, err := c.w.Write(p)
	c.n += int64(n)
	if c.hash != nil {
		_, _ = c.hash.Write(p[:n])
	}
	return n, err
}

func ended(ctx context.Context) error {
	err := ctx.Err()
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && cause != err {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}
