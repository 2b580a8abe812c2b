package pluginbuild

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"example.com/tykupgrade/internal/atomicfile"
)

// backupDir is where a Prepare keeps what it may have to put back: inside the
// module, so that the next call finds it and the vendor directory can be moved
// there by a rename. Neither the go command nor a compiler image looks into
// directories with a leading dot.
const backupDir = ".tykupgrade-prepare"

const (
	journalName = "journal.json"
	lockName    = "lock"
	vendorName  = "vendor"
)

// guarded are the files that the go command may write.
var guarded = []string{"go.mod", "go.sum", "go.work", "go.work.sum"}

// transaction guards a module while commands change it. From begin to commit or
// rollback the backup directory holds, in this order of coming to disk: copies
// of the guarded files, the journal, the vendor directory. So where there is a
// journal everything can be put back, and where there is none nothing had
// changed, or all was done.
type transaction struct {
	dir   string
	lock  *os.File
	aside string   // where recover puts what differs from the saved state; "": nowhere
	moved []string // what it put there
	journal
}

// journal is the record that makes the backup count.
type journal struct {
	Format  int       `json:"format"`
	Release string    `json:"release"` // for people who find the directory
	Started time.Time `json:"started"`
	Files   []saved   `json:"files"`
	Vendor  vendor    `json:"vendor"`
}

// saved is one guarded file as it was.
type saved struct {
	Name   string `json:"name"`
	Absent bool   `json:"absent,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
}

// vendor is what happens to the vendor directory.
type vendor string

const (
	vendorKept  vendor = "kept"  // no command touches it
	vendorNone  vendor = "none"  // there was none
	vendorMoved vendor = "moved" // it is moved into the backup directory
)

// begin locks the module, puts back what an interrupted transaction left, and
// saves what the commands may change. moveVendor says that they write a vendor
// directory.
func begin(dir string, release string,
	moveVendor bool) (_ *transaction, recovered Recovery, err error) {
	t := &transaction{dir: dir}
	if err := t.acquire(); err != nil {
		return nil, recovered, err
	}
	defer func() {
		if err != nil {
			t.release()
		}
	}()
	if recovered, err = t.recovery(); err != nil {
		return nil, recovered, err
	}
	t.aside, t.moved = "", nil
	if err := t.sweep(); err != nil {
		return nil, recovered, err
	}
	if err := t.save(release, moveVendor); err != nil {
		return nil, recovered, errors.Join(err, t.rollback())
	}
	return t, recovered, nil
}

func (t *transaction) backup(name ...string) string {
	return filepath.Join(append([]string{t.dir, backupDir}, name...)...)
}

// acquire makes the backup directory and takes its lock. The lock lives in an
// open file, which the commands inherit as their standard input: it stays
// taken while any of them runs, even when this process was killed.
func (t *transaction) acquire() error {
	for range 100 {
		if err := os.Mkdir(t.backup(), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if info, err := os.Lstat(t.backup()); err == nil && !info.IsDir() {
			return fmt.Errorf("%s is in the way: not a directory; remove it", t.backup())
		}
		f, err := os.OpenFile(t.backup(lockName), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			continue // its last holder has just removed the directory
		} else if err != nil {
			return err
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			_ = f.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return ErrBusy
			}
			return fmt.Errorf("lock %s: %w", t.backup(lockName), err)
		}
		held, err1 := f.Stat()
		there, err2 := os.Lstat(t.backup(lockName))
		if err1 == nil && err2 == nil && os.SameFile(held, there) {
			t.lock = f
			return nil
		}
		_ = f.Close() // removed between open and lock
	}
	return ErrBusy
}

// release gives the lock up and removes the backup directory, unless it is
// still needed: that is, unless there is a journal.
func (t *transaction) release() {
	if _, err := os.Lstat(t.backup(journalName)); errors.Is(err, fs.ErrNotExist) && t.sweep() == nil {
		_ = os.Remove(t.backup(lockName))
		_ = os.Remove(t.backup())
	}
	t.unlock()
}

// unlock does not rely on closing: a process that is just being started
// elsewhere in this program holds a copy of every open file for a moment.
func (t *transaction) unlock() {
	_ = syscall.Flock(int(t.lock.Fd()), syscall.LOCK_UN)
	_ = t.lock.Close()
}

// sweep removes what is in the backup directory without a journal that makes it
// count.
func (t *transaction) sweep() error {
	entries, err := os.ReadDir(t.backup())
	for _, e := range entries {
		if e.Name() != lockName {
			err = errors.Join(err, os.RemoveAll(t.backup(e.Name())))
		}
	}
	return err
}

// save fills the backup directory. Nothing of the module changes until the
// journal is on disk.
func (t *transaction) save(release string, moveVendor bool) error {
	t.journal = journal{Format: 1, Release: release, Started: time.Now().UTC().Truncate(time.Second),
		Vendor: vendorKept}
	for _, name := range guarded {
		s, err := t.saveFile(name)
		if err != nil {
			return fmt.Errorf("save %s: %w", filepath.Join(t.dir, name), err)
		}
		t.Files = append(t.Files, s)
	}
	if moveVendor {
		path := filepath.Join(t.dir, vendorName)
		switch info, err := os.Lstat(path); {
		case errors.Is(err, fs.ErrNotExist):
			t.Vendor = vendorNone
		case err != nil:
			return err
		case !info.IsDir():
			return fmt.Errorf("%s is not a directory, and vendoring would replace it; move it away", path)
		default:
			t.Vendor = vendorMoved
		}
	}
	data, err := json.MarshalIndent(t.journal, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.SyncDir(t.backup()); err != nil {
		return err
	}
	if _, err := atomicfile.WriteBytes(context.Background(), t.backup(journalName),
		atomicfile.Options{}, data); err != nil {
		return err
	}
	// The directory itself must be on disk before anything in the module moves.
	if err := atomicfile.SyncDir(t.dir); err != nil {
		return err
	}
	if t.Vendor == vendorMoved {
		if err := os.Rename(filepath.Join(t.dir, vendorName), t.backup(vendorName)); err != nil {
			return fmt.Errorf("move the vendor directory aside: %w", err)
		}
	}
	return nil
}

// saveFile copies one guarded file with its mode, owner and time, so that a
// rename puts it back as it was.
func (t *transaction) saveFile(name string) (saved, error) {
	path := filepath.Join(t.dir, name)
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return saved{Name: name, Absent: true}, nil
	case err != nil:
		return saved{}, err
	case !info.Mode().IsRegular():
		return saved{}, fmt.Errorf("%w; put a regular file there", atomicfile.ErrNotRegular)
	}
	src, err := os.Open(path)
	if err != nil {
		return saved{}, err
	}
	defer func() { _ = src.Close() }()
	st := info.Sys().(*syscall.Stat_t)
	o := atomicfile.Options{Mode: info.Mode()}
	if int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid() {
		o.Owner = &atomicfile.Owner{UID: int(st.Uid), GID: int(st.Gid)}
	}
	sum, err := atomicfile.Write(context.Background(), t.backup(name), o, func(w io.Writer) error {
		_, err := io.Copy(w, src)
		return err
	})
	if errors.Is(err, fs.ErrPermission) && o.Owner != nil {
		return saved{}, fmt.Errorf("it belongs to another user, so it could not be put back as it was; "+
			"run this as its owner: %w", err)
	} else if err != nil {
		return saved{}, err
	}
	return saved{Name: name, SHA256: sum.SHA256}, os.Chtimes(t.backup(name), time.Time{},
		info.ModTime())
}

// commit makes the module's new state durable and then drops the journal, from
// which moment on the old state is gone.
func (t *transaction) commit() error {
	d, err := os.Open(t.dir)
	if err != nil {
		return err
	}
	// A vendor tree has thousands of files; one call syncs them all.
	err = errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
	if err != nil {
		return fmt.Errorf("sync %s: %w", t.dir, err)
	}
	return t.drop()
}

// drop removes the journal.
func (t *transaction) drop() error {
	if err := os.Remove(t.backup(journalName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return atomicfile.SyncDir(t.backup())
}

// recover puts back what an interrupted transaction left behind, if anything.
func (t *transaction) recover() (bool, error) {
	data, err := os.ReadFile(t.backup(journalName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&t.journal); err != nil || t.Format != 1 {
		return false, fmt.Errorf("%s is not readable (%v); the files next to it are what an interrupted "+
			"Prepare saved: put them back by hand, then remove the directory", t.backup(journalName), err)
	}
	// Since then a person may have worked on the module. Nobody can tell that from
	// what the commands did, so nothing is lost.
	t.aside = filepath.Join(t.dir, asidePrefix+t.Started.UTC().Format("20060102T150405Z"))
	return true, t.rollback()
}

// asidePrefix begins the names of directories in a module that hold what a recovery
// found there. Compilers and the go command do not look into them.
const asidePrefix = ".tykupgrade-aside-"

// clear makes way for what was saved: it removes a file or directory of the module,
// or in a recovery moves it aside. It may be interrupted and repeated.
func (t *transaction) clear(name string) error {
	path := filepath.Join(t.dir, name)
	if t.aside == "" {
		return os.RemoveAll(path)
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if err := os.Mkdir(t.aside, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	to := name
	for n := 2; ; n++ {
		if _, err := os.Lstat(filepath.Join(t.aside, to)); errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil {
			return err
		}
		to = fmt.Sprintf("%s.%d", name, n) // an earlier recovery was interrupted
	}
	if err := os.Rename(path, filepath.Join(t.aside, to)); err != nil {
		return err
	}
	t.moved = append(t.moved, name)
	return atomicfile.SyncDir(t.aside)
}

// recovery is what recover did.
func (t *transaction) recovery() (Recovery, error) {
	found, err := t.recover()
	r := Recovery{Found: found, Moved: t.moved}
	if len(t.moved) > 0 {
		r.Aside = t.aside
	}
	return r, err
}

// rollback puts everything back and drops the journal. It may be interrupted
// and repeated.
func (t *transaction) rollback() error {
	for _, s := range t.Files {
		if err := t.restore(s); err != nil {
			return fmt.Errorf("put %s back: %w; the saved copies are in %s", filepath.Join(t.dir, s.Name),
				err, t.backup())
		}
	}
	if err := t.restoreVendor(); err != nil {
		return fmt.Errorf("put the vendor directory back: %w; it is in %s", err, t.backup())
	}
	if err := atomicfile.SyncDir(t.dir); err != nil {
		return err
	}
	return t.drop()
}

func (t *transaction) restore(s saved) error {
	if !slices.Contains(guarded, s.Name) {
		return errors.New("the journal names a file that Prepare never saves")
	}
	path, copied := filepath.Join(t.dir, s.Name), t.backup(s.Name)
	now, err := digest(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if s.Absent {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return t.clear(s.Name)
	}
	if now == s.SHA256 {
		return nil // unchanged, or put back before
	}
	if sum, err := digest(copied); err != nil {
		return err
	} else if sum != s.SHA256 {
		return fmt.Errorf("the copy %s is damaged", copied)
	}
	if t.aside != "" {
		if err := t.clear(s.Name); err != nil {
			return err
		}
	}
	return os.Rename(copied, path)
}

func (t *transaction) restoreVendor() error {
	path := filepath.Join(t.dir, vendorName)
	switch t.Vendor {
	case vendorNone:
		return t.clear(vendorName)
	case vendorMoved:
		if _, err := os.Lstat(t.backup(vendorName)); errors.Is(err, fs.ErrNotExist) {
			return nil // not moved yet, or put back before
		} else if err != nil {
			return err
		}
		if err := t.clear(vendorName); err != nil {
			return err
		}
		return os.Rename(t.backup(vendorName), path)
	}
	return nil
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
