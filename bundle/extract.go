package bundle

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"example.com/tykupgrade/internal/atomicfile"
)

// Extract verifies the bundle at r like [Verify] and unpacks it into dir. The parent of dir must
// exist. Extract creates dir; an existing one must not hold any of the bundle's names. Names and
// links in the bundle never lead outside dir. Files have mode 0644 and are on disk when Extract
// returns.
//
// After an error or the end of ctx, Extract removes everything that it created. A kill may leave
// files that were not verified, so use them only after Extract has returned.
func Extract(ctx context.Context, r io.ReaderAt, size int64, dir string,
	o VerifyOptions) (*Manifest, error) {
	const op = "extract bundle"
	a, err := open(op, r, size, o)
	if err != nil {
		return nil, err
	}
	if err := o.expected(op, a, r, size); err != nil {
		return nil, err
	}
	t := target{dir: dir}
	if err := t.open(); err != nil {
		return nil, &Error{Op: op, Object: dir, Err: err, Next: "name a directory whose parent exists",
			Retry: true}
	}
	err = a.stream(ctx, op, t.create)
	if err == nil {
		err = t.finish(a.raw)
	}
	if err != nil {
		return nil, errors.Join(failure(op, dir, err), t.undo())
	}
	_ = t.root.Close()
	return a.manifest, nil
}

// target is the directory that is filled, with the list of what to remove after a failure.
type target struct {
	dir     string
	root    *os.Root
	made    bool // dir itself
	created []string
}

func (t *target) open() (err error) {
	err = os.Mkdir(t.dir, 0o755)
	t.made = err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if t.root, err = os.OpenRoot(t.dir); err != nil && t.made {
		err = errors.Join(err, os.Remove(t.dir))
	}
	return err
}

func (t *target) create(name string) (io.WriteCloser, error) {
	// With O_EXCL neither a file nor a link that is there is written to.
	f, err := t.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	t.created = append(t.created, name)
	if err := f.Chmod(0o644); err != nil { // whatever the umask
		_ = f.Close()
		return nil, err
	}
	return synced{f}, nil
}

// synced is a file that is on disk once it is closed.
type synced struct{ *os.File }

func (f synced) Close() error { return errors.Join(f.Sync(), f.File.Close()) }

// finish adds the manifest, last as a set's manifest should be.
func (t *target) finish(manifest []byte) error {
	f, err := t.create(ManifestName)
	if err != nil {
		return err
	}
	if _, err := f.Write(manifest); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := atomicfile.SyncDir(t.dir); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(t.dir))
}

// undo returns what it could not remove.
func (t *target) undo() error {
	var failed []error
	for _, name := range t.created {
		failed = append(failed, t.root.Remove(name))
	}
	failed = append(failed, t.root.Close())
	if t.made {
		failed = append(failed, os.Remove(t.dir))
	}
	return errors.Join(failed...)
}
