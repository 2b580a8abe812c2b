package step

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"golang.org/x/sys/unix"

	"example.com/tykupgrade/internal/atomicfile"
)

// Raw is a regular file that is read or written through its bare descriptor. An os.File asks the
// runtime's poller about each file and keeps a finalizer. For many small files that costs more than
// their bytes do.
type Raw struct {
	Stat unix.Stat_t // when it was opened; zero for a new file
	fd   int
	name string
	read int64
	end  bool
}

// OpenRaw opens a regular file for reading, relative to the directory dir or to unix.AT_FDCWD. Like
// [OpenRegular] it never follows a link in the last element, nor waits for the writer of a pipe.
func OpenRaw(dir int, name string) (*Raw, error) {
	r := &Raw{name: name}
	err := again(func() (err error) {
		r.fd, err = unix.Openat(dir, name,
			unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		return err
	})
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s: a symbolic link %w", name, atomicfile.ErrNotRegular)
	}
	if err != nil {
		return nil, r.fail("open", err)
	}
	if err := unix.Fstat(r.fd, &r.Stat); err != nil {
		return nil, errors.Join(r.fail("stat", err), r.Close())
	}
	if r.Stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, atomicfile.ErrNotRegular), r.Close())
	}
	return r, nil
}

// CreateRaw creates a file of mode 0600 for writing, relative to the directory dir or to
// unix.AT_FDCWD. The name must not exist.
func CreateRaw(dir int, name string) (*Raw, error) {
	r := &Raw{name: name}
	err := again(func() (err error) {
		r.fd, err = unix.Openat(dir, name,
			unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return nil, r.fail("create", err)
	}
	return r, nil
}

// Fd returns the descriptor.
func (r *Raw) Fd() int { return r.fd }

func (r *Raw) Read(p []byte) (n int, err error) {
	if r.end || len(p) == 0 {
		return 0, r.eof()
	}
	err = again(func() (err error) {
		n, err = unix.Read(r.fd, p)
		return err
	})
	if err != nil {
		return 0, r.fail("read", err)
	}
	r.read += int64(n)
	// A short read up to the size is the end, so that most files need one call.
	r.end = n == 0 || n < len(p) && r.read == r.Stat.Size
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (r *Raw) eof() error {
	if r.end {
		return io.EOF
	}
	return nil
}

func (r *Raw) Write(p []byte) (done int, err error) {
	for done < len(p) {
		n := 0
		err := again(func() (err error) {
			n, err = unix.Write(r.fd, p[done:])
			return err
		})
		if err == nil && n <= 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return done, r.fail("write", err)
		}
		done += n
	}
	return done, nil
}

// Close closes the descriptor. It must be called once.
func (r *Raw) Close() error {
	if err := unix.Close(r.fd); err != nil {
		return r.fail("close", err)
	}
	return nil
}

func (r *Raw) fail(op string, err error) error {
	return &fs.PathError{Op: op, Path: r.name, Err: err}
}

// again repeats a call that a signal interrupted.
func again(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

var _ io.ReadWriteCloser = (*Raw)(nil)
