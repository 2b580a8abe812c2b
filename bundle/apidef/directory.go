package apidef

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"example.com/tykupgrade/internal/atomicfile"
)

var errNoID = errors.New("it has no api_id")

// Directory is the [Store] in app_path of a gateway without a dashboard. It has *.json files, and
// for an OAS API NAME-oas.json next to NAME.json. A gateway sees a change at its next reload.
//
// Writes replace whole files and keep owner and mode. Links are refused. Root reads and writes in
// one and the same directory, even if the service's user replaces it by a link meanwhile (Linux,
// with /proc). Replace writes the two files of an OAS API one after the other, the OAS form first.
// A kill between them leaves two forms that disagree, which [Apply] and [Revert] repair.
type Directory struct {
	Path string

	// open is Path while Replace has it open: the same directory even if its name changes.
	open string
}

func (d Directory) path() string {
	if d.open != "" {
		return d.open
	}
	return d.Path
}

const maxDefinition = 16 << 20

func (d Directory) fail(op, object string, kind, err error, next string) error {
	if name, ok := strings.CutPrefix(object, d.open+"/"); ok && d.open != "" {
		object = filepath.Join(d.Path, name)
	}
	if at := (*fs.PathError)(nil); errors.As(err, &at) {
		err = at.Err // the object has the path
	}
	return &Error{Op: op, Object: object, Kind: kind, Err: err, Next: next,
		Retry: kind == nil || kind == ErrLocked}
}

// APIs implements [Store]. A file that is not a definition is an error of kind [ErrDefinition].
func (d Directory) APIs(context.Context) ([]API, error) {
	files, err := d.files()
	if err != nil {
		return nil, err
	}
	var all []API
	seen := map[string]string{}
	for _, file := range files {
		a, err := d.load("list APIs", file)
		if err != nil {
			return nil, err
		}
		if other, twice := seen[a.ID]; twice {
			return nil, d.fail("list APIs", file, ErrDefinition,
				fmt.Errorf("duplicate api_id %q, also in %s", a.ID, other), "remove one of them")
		}
		seen[a.ID] = file
		all = append(all, a)
	}
	sortAPIs(all)
	return all, nil
}

func (d Directory) files() ([]string, error) {
	entries, err := os.ReadDir(d.path())
	if err != nil {
		return nil, d.fail("list APIs", d.Path, nil, err, "name the gateway's app_path")
	}
	var files []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".json") && !strings.HasSuffix(e.Name(), "-oas.json") &&
			!strings.HasPrefix(e.Name(), ".") {
			files = append(files, filepath.Join(d.path(), e.Name()))
		}
	}
	return files, nil
}

func (d Directory) load(op, file string) (API, error) {
	const next = "correct the file"
	data, err := readFile(file)
	if err != nil {
		return API{}, d.fail(op, file, nil, err, "")
	}
	a, oas, err := newAPI(data)
	if err != nil {
		return API{}, d.fail(op, file, ErrDefinition, err, next)
	}
	if !oas {
		return a, nil
	}
	twin := oasFile(file)
	if a.OAS, err = readFile(twin); err != nil {
		return API{}, d.fail(op, twin, ErrDefinition, err, "restore the OAS form of "+a.ID)
	}
	if _, err := root(a.OAS); err != nil {
		return API{}, d.fail(op, twin, ErrDefinition, err, next)
	}
	return a, nil
}

func oasFile(file string) string { return strings.TrimSuffix(file, ".json") + "-oas.json" }

func readFile(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, atomicfile.ErrNotRegular
	}
	if info.Size() > maxDefinition {
		return nil, fmt.Errorf("it has more than %d bytes", maxDefinition)
	}
	return os.ReadFile(path)
}

// API implements [Store].
func (d Directory) API(ctx context.Context, id string) (API, error) {
	a, _, err := d.find("read API", id)
	return a, err
}

// find returns an API and its classic file. It skips unreadable files, which belong to other APIs.
func (d Directory) find(op, id string) (API, string, error) {
	files, err := d.files()
	if err != nil {
		return API{}, "", err
	}
	for _, file := range files {
		data, err := readFile(file)
		if err != nil {
			continue
		}
		if a, _, err := newAPI(data); err == nil && a.ID == id {
			a, err := d.load(op, file)
			return a, file, err
		}
	}
	return API{}, "", d.fail(op, id, ErrNotFound, nil, "")
}

// Replace implements [Store]. It waits up to ten seconds for a lock on the directory. The lock
// excludes other callers of Replace, but not editors. A lock that stays taken is [ErrLocked].
func (d Directory) Replace(ctx context.Context, was, next API) error {
	const op = "replace API"
	dir, err := os.Open(d.Path)
	if err != nil {
		return d.fail(op, d.Path, nil, err, "")
	}
	defer func() { _ = atomicfile.UnlockClose(dir) }()
	for try := 0; syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil; try++ {
		if err := ctx.Err(); err != nil || try == 100 {
			return d.fail(op, d.Path, ErrLocked, err, "wait for it; keep journals elsewhere")
		}
		time.Sleep(100 * time.Millisecond)
	}
	d.open = fmt.Sprintf("/proc/self/fd/%d", dir.Fd())
	now, file, err := d.find(op, was.ID)
	if err != nil {
		return err
	}
	// A kill may have left either form of an OAS API written.
	if !oneOf(now.Classic, was.Classic, next.Classic) || !oneOf(now.OAS, was.OAS, next.OAS) ||
		next.ID != was.ID {
		return d.fail(op, was.ID, ErrChanged, nil, "plan again")
	}
	if next.OAS != nil && !bytes.Equal(now.OAS, next.OAS) {
		if err := writeFile(ctx, oasFile(file), next.OAS); err != nil {
			return d.fail(op, oasFile(file), nil, err, "")
		}
	}
	if !bytes.Equal(now.Classic, next.Classic) {
		if err := writeFile(ctx, file, next.Classic); err != nil {
			return d.fail(op, file, nil, err, "")
		}
	}
	return nil
}

func oneOf(now, a, b []byte) bool { return bytes.Equal(now, a) || bytes.Equal(now, b) }

// clean removes the temporary files of killed writers of path.
func clean(path string) error {
	entries, err := os.ReadDir(filepath.Dir(path))
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "."+filepath.Base(path)+".tmp-") {
			err = errors.Join(err, os.Remove(filepath.Join(filepath.Dir(path), e.Name())))
		}
	}
	return err
}

// writeFile replaces a file and keeps its mode and owner.
func writeFile(ctx context.Context, path string, data []byte) error {
	if err := clean(path); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	o := atomicfile.Options{Mode: info.Mode().Perm(), NoDigest: true}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) != os.Geteuid() {
		o.Owner = &atomicfile.Owner{UID: int(stat.Uid), GID: int(stat.Gid)}
	}
	_, err = atomicfile.Write(ctx, path, o, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
	return err
}
