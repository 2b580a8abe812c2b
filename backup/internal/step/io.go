package step

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"

	"example.com/tykupgrade/internal/atomicfile"
)

// Names of the two files that make a directory a set.
const (
	ManifestName = "manifest.json"
	ChecksumName = "manifest.sha256"
)

// Meter counts what is written.
type Meter struct {
	W   io.Writer
	Add func(int64)
}

func (m *Meter) Write(p []byte) (int, error) {
	n, err := m.W.Write(p)
	m.Add(int64(n))
	return n, err
}

// ReadMeter counts what is read and stops when Ctx ends. Add may be nil.
type ReadMeter struct {
	Ctx context.Context
	R   io.Reader
	Add func(int64)
}

func (m *ReadMeter) Read(p []byte) (int, error) {
	if err := Ended(m.Ctx); err != nil {
		return 0, err
	}
	n, err := m.R.Read(p)
	if m.Add != nil && n > 0 {
		m.Add(int64(n))
	}
	return n, err
}

// buffers are for [Copy]: one of its own for each of many small files costs more than they do.
var buffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// Copy is io.Copy with a buffer that is used again.
func Copy(w io.Writer, r io.Reader) (int64, error) {
	buf := buffers.Get().(*[64 << 10]byte)
	defer buffers.Put(buf)
	// Without the methods that would take another buffer.
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, buf[:])
}

// OpenRegular opens a regular file for reading. It never follows a link in the
// last element, nor waits for the writer of a pipe.
func OpenRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%s: a symbolic link %w", path, atomicfile.ErrNotRegular)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %s %w", path, info.Mode().Type(), atomicfile.ErrNotRegular)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// CheckSpace returns an error if the file system of dir has less than need bytes free.
func CheckSpace(dir string, need int64) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return Fail("measure free space of", dir, err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < need {
		return &Error{Op: "check free space of", Object: dir, Kind: ErrNoSpace, Retry: true,
			Next: FreeSpaceHint,
			Err:  fmt.Errorf("%d bytes free, %d needed", free, need)}
	}
	return nil
}

// OutsideSets returns an error if dir is inside a set, because a new file there would damage the
// set.
func OutsideSets(dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	for p := abs; ; p = filepath.Dir(p) {
		if exists(filepath.Join(p, ManifestName)) && exists(filepath.Join(p, ChecksumName)) {
			return &Error{Op: "write into", Object: dir,
				Err:  fmt.Errorf("it is inside the set %s and would damage it", p),
				Next: "use a directory outside of the set"}
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// Module returns the name and, if known, the version of this module.
func Module() string {
	const path = "example.com/tykupgrade"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return path
	}
	for _, m := range append([]*debug.Module{&info.Main}, info.Deps...) {
		if m.Path == path && m.Version != "" {
			return path + " " + m.Version
		}
	}
	return path
}

// Logger returns l, or a logger that discards everything if l is nil.
func Logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}

// Serial returns f with a lock, so that it may be called concurrently.
func Serial[E any](f func(E)) func(E) {
	if f == nil {
		return func(E) {}
	}
	var mu sync.Mutex
	return func(e E) {
		mu.Lock()
		defer mu.Unlock()
		f(e)
	}
}
