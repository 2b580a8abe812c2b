package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"example.com/tykupgrade/backup/internal/step"
)

// filled is what Create wrote.
type filled struct {
	size   int64
	sha256 string
}

// fill writes one file under its own name. Nobody sees the set before it is complete, so a file
// needs no temporary name.
func (w *Writer) fill(ctx context.Context, target, name string,
	fill func(io.Writer) error) (filled, error) {
	if err := w.mkdir(filepath.Dir(target)); err != nil {
		return filled{}, err
	}
	f, err := step.CreateRaw(unix.AT_FDCWD, target)
	if err != nil {
		return filled{}, err
	}
	whole := false
	defer func() { // also when fill panics
		if !whole {
			_ = f.Close()
			_ = os.Remove(target)
		}
	}()
	sink := &sink{ctx: ctx, f: f, sum: sha256.New(), add: func(n int64) { w.Progress(name, n, 0) }}
	if err := fill(sink); err != nil {
		return filled{}, err
	}
	if err := step.Ended(ctx); err != nil {
		return filled{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(f.Fd(), &st); err != nil {
		return filled{}, err
	}
	if st.Mode&0o777 != 0o600 { // an unusual umask
		if err := unix.Fchmod(f.Fd(), 0o600); err != nil {
			return filled{}, err
		}
	}
	whole = true
	if err := f.Close(); err != nil {
		_ = os.Remove(target)
		return filled{}, err
	}
	return filled{sink.n, hex.EncodeToString(sink.sum.Sum(nil))}, nil
}

// mkdir makes the directories of a file that are not known to exist.
func (w *Writer) mkdir(dir string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.made[dir] {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if w.made == nil {
		w.made = map[string]bool{}
	}
	w.made[dir] = true
	return nil
}

// sink writes, counts and hashes. It also stops a fill function that ignores its context.
type sink struct {
	ctx context.Context
	f   *step.Raw
	sum hash.Hash
	n   int64
	add func(int64)
}

func (s *sink) Write(p []byte) (int, error) {
	if err := step.Ended(s.ctx); err != nil {
		return 0, err
	}
	n, err := s.f.Write(p)
	s.n += int64(n)
	_, _ = s.sum.Write(p[:n])
	s.add(int64(n))
	return n, err
}
