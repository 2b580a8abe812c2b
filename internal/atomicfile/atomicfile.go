// Package atomicfile writes files that are either there in full, on disk, or
// not there at all.
//
// It covers local POSIX file systems. It does not lock: of two writers of one
// path the later rename wins, each file being whole.
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
	"syscall"
)

// ErrNotRegular is matched when the target exists and is not a regular file: a
// directory, a device, or (without [Options.Follow]) a symbolic link.
var ErrNotRegular = errors.New("exists and is not a regular file")

// Options changes how a file is written. The zero value writes a 0600 file.
type Options struct {
	Mode     fs.FileMode // permission bits, whatever the umask; 0: 0600
	Owner    *Owner      // nil: the calling user
	Follow   bool        // a symbolic link stays and the file that it names is replaced
	NoDigest bool        // leave Sum.SHA256 empty
	NoSync   bool        // the caller syncs: until then a power cut may leave less than the whole file

	// Check looks at the whole temporary file before it takes the name; its
	// error is as one of fill.
	Check func(*os.File) error
}

// Owner is a numeric user and group.
type Owner struct{ UID, GID int }

// Sum describes what was written.
type Sum struct {
	Size   int64
	SHA256 string // lower-case hex
}

// Write creates or replaces path with what fill writes. The bytes go to a
// temporary file in the same directory, named ".<name>.tmp-*" (a long name is
// shortened to fit), which is given its mode and owner, synced, renamed over
// path, and the directory synced. When fill fails, the disk is full or ctx ends,
// the temporary file is removed and path is what it was before; so it is when
// fill panics, and the panic goes on. After kill -9 the temporary file stays until
// [Sweep] removes it.
//
// Errors wrap their cause; retrying helps where the cause is a full disk that
// has been cleared.
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
	// From here on path has its new content, so a failing sync must not remove
	// or restore anything.
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

// SyncDir makes renames, creations and removals in dir durable.
func SyncDir(dir string) error {
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

// counter counts and hashes what reaches the file, and stops a fill function
// that does not look at its context.
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
