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

// backupDir is the directory in the module with the saved state. The next call finds it there,
// and a rename can move the vendor directory into it. The go command and compiler images ignore
// directories with a leading dot.
const backupDir = ".tykupgrade-prepare"

const (
	journalName = "journal.json"
	lockName    = "lock"
	vendorName  = "vendor"
)

// guarded are the files that the go command may write.
var guarded = []string{"go.mod", "go.sum", "go.work", "go.work.sum"}

// transaction guards a module while commands change it. The backup directory first gets copies
// of the guarded files, then the journal, then the vendor directory. So with a journal everything
// can be restored. Without one, nothing had changed or all was done.
type transaction struct {
	dir   string
	lock  *os.File
	aside string   // directory for files that differ from the saved state; "": none
	moved []string // files in it
	journal
}

// journal is the record that makes the backup valid.
type journal struct {
	Format  int       `json:"format"`
	Release string    `json:"release"` // for people who find the directory
	Started time.Time `json:"started"`
	Files   []saved   `json:"files"`
	Vendor  vendor    `json:"vendor"`
}

// saved is the saved state of one guarded file.
type saved struct {
	Name   string `json:"name"`
	Absent bool   `json:"absent,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
}

// vendor is the treatment of the vendor directory.
type vendor string

const (
	vendorKept  vendor = "kept"  // no command touches it
	vendorNone  vendor = "none"  // there was none
	vendorMoved vendor = "moved" // it is in the backup directory
)

// begin locks the module, undoes an interrupted transaction, and saves the files that the
// commands may change. Set moveVendor if they write a vendor directory.
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

// acquire makes the backup directory and takes its lock. The commands inherit the open lock file
// as standard input. So the lock is held while any of them runs, even after this process is
// killed.
func (t *transaction) acquire() error {
	for range 100 {
		if err := os.Mkdir(t.backup(), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if info, err := os.Lstat(t.backup()); err == nil && !info.IsDir() {
			return fmt.Errorf("create directory %s: another file has this name; remove it", t.backup())
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

// release removes the backup directory, unless it has a journal, and gives up the lock.
func (t *transaction) release() {
	if _, err := os.Lstat(t.backup(journalName)); errors.Is(err, fs.ErrNotExist) && t.sweep() == nil {
		_ = os.Remove(t.backup(lockName))
		_ = os.Remove(t.backup())
	}
	t.unlock()
}

// unlock does not rely on closing the file. For a moment a process that starts elsewhere in this
// program has a copy of every open file.
func (t *transaction) unlock() {
	_ = syscall.Flock(int(t.lock.Fd()), syscall.LOCK_UN)
	_ = t.lock.Close()
}

// sweep removes everything but the lock from a backup directory without a journal.
func (t *transaction) sweep() error {
	entries, err := os.ReadDir(t.backup())
	for _, e := range entries {
		if e.Name() != lockName {
			err = errors.Join(err, os.RemoveAll(t.backup(e.Name())))
		}
	}
	return err
}

// save fills the backup directory. The module does not change before the journal is on disk.
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
			return fmt.Errorf("move aside %s: not a directory, but vendoring would replace it; move it "+
				"away", path)
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
			return fmt.Errorf("move aside the vendor directory: %w", err)
		}
	}
	return nil
}

// saveFile copies one guarded file with its mode, owner and time, so that a rename restores it.
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
		return saved{}, fmt.Errorf("%w; it belongs to another user and could not be restored: run this "+
			"as its owner", err)
	} else if err != nil {
		return saved{}, err
	}
	return saved{Name: name, SHA256: sum.SHA256}, os.Chtimes(t.backup(name), time.Time{},
		info.ModTime())
}

// commit makes the module's new state durable, then drops the journal and with it the old state.
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

// recover undoes an interrupted transaction and reports whether there was one.
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
		return false, fmt.Errorf("read %s: invalid journal (%v); restore the saved files next to it by "+
			"hand, then remove the directory", t.backup(journalName), err)
	}
	// A person may have changed the module since then. Such changes look like those of the
	// commands, so all changed files are kept.
	t.aside = filepath.Join(t.dir, asidePrefix+t.Started.UTC().Format("20060102T150405Z"))
	return true, t.rollback()
}

// asidePrefix begins the names of directories in a module with files that a recovery moved aside.
// Compilers and the go command ignore them.
const asidePrefix = ".tykupgrade-aside-"

// clear removes a file or directory of the module to make room for the saved one. A recovery moves
// it aside instead. It may be interrupted and repeated.
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

// recovery runs recover and describes the result.
func (t *transaction) recovery() (Recovery, error) {
	found, err := t.recover()
	r := Recovery{Found: found, Moved: t.moved}
	if len(t.moved) > 0 {
		r.Aside = t.aside
	}
	return r, err
}

// rollback restores the saved state and drops the journal. It may be interrupted and repeated.
func (t *transaction) rollback() error {
	for _, s := range t.Files {
		if err := t.restore(s); err != nil {
			return fmt.Errorf("restore %s: %w; the saved copies are in %s", filepath.Join(t.dir, s.Name),
				err, t.backup())
		}
	}
	if err := t.restoreVendor(); err != nil {
		return fmt.Errorf("restore the vendor directory: %w; it is in %s", err, t.backup())
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
		return nil // unchanged, or already restored
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
			return nil // not moved yet, or already restored
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
