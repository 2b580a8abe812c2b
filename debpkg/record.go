package debpkg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"example.com/tykupgrade/internal/atomicfile"
)

// Record is a file of the changes on one host, on the operator's machine: what a revert
// needs. It tells of a change before it begins, so that it survives the death of the
// operator's process. It is for one goroutine.
type Record struct {
	Path    string
	Changes []Change // in the order in which they were made
}

// OpenRecord reads the file at path, which decides what root does on the host: an
// [ErrUnsafe] says that somebody else could have written it. If there is none, the error
// matches [fs.ErrNotExist]. [NewRecord] begins one.
func OpenRecord(path string) (*Record, error) {
	op := task{"read", path}
	data, err := readOwn(op, path)
	if err != nil {
		return nil, err
	}
	r := &Record{Path: path}
	if err := json.Unmarshal(data, &r.Changes); err != nil {
		return nil, op.fail(Error{Err: err, Next: "name a file of changes"})
	}
	return r, nil
}

// NewRecord is [OpenRecord], but begins a record if there is no file at path. Its directory
// must exist. The first change of the record writes the file.
func NewRecord(path string) (*Record, error) {
	r, err := OpenRecord(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err = os.Stat(filepath.Dir(path)); err == nil {
			r = &Record{Path: path}
		}
	}
	return r, err
}

// readOwn reads a file if it and its directory are this user's or root's alone.
func readOwn(op task, path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, op.fail(Error{Detail: "it is a symbolic link", Err: err, Next: "name the file itself"})
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	for _, x := range []os.FileInfo{info, dir} {
		st, ok := x.Sys().(*syscall.Stat_t)
		foreign := ok && st.Uid != 0 && int(st.Uid) != os.Geteuid()
		if foreign || x.Mode().Perm()&0o022 != 0 && x.Mode()&os.ModeSticky == 0 {
			return nil, op.fail(Error{Kind: ErrUnsafe, Detail: x.Name() +
				" belongs to, or can be written to by, somebody else",
				Next: "look at what the file says, then move it to a directory of your own with mode 600"})
		}
	}
	return io.ReadAll(f)
}

// Begun reports whether a change may have begun whose outcome the file does not tell.
func (r *Record) Begun() bool {
	return slices.ContainsFunc(r.Changes, func(c Change) bool { return c.Started.IsZero() })
}

// Apply carries out a plan. The file tells of it before it begins. A change that fails
// stays in the file, as it has to be reverted; one that never began does not.
func (r *Record) Apply(ctx context.Context, h *Host, p Plan, stage bool) (Change, error) {
	r.Changes = append(r.Changes, Change{Plan: p})
	return r.carryOut(ctx, h, len(r.Changes)-1, stage, false)
}

// Resume carries out again what may have begun when an operator's process died. The host
// knows what became of it, and does nothing twice. If it cannot be asked, the file keeps
// what it has.
func (r *Record) Resume(ctx context.Context, h *Host, stage bool) ([]Change, error) {
	var made []Change
	for i := 0; i < len(r.Changes); i++ {
		if !r.Changes[i].Started.IsZero() {
			continue
		}
		n := len(r.Changes)
		c, err := r.carryOut(ctx, h, i, stage, true)
		if !c.Started.IsZero() {
			made = append(made, c)
		}
		if err != nil {
			return made, err
		}
		i -= n - len(r.Changes)
	}
	return made, nil
}

func (r *Record) carryOut(ctx context.Context, h *Host, i int, stage, begun bool) (Change, error) {
	if err := r.write(ctx); err != nil {
		if !begun {
			r.Changes = slices.Delete(r.Changes, i, i+1)
		}
		return Change{}, err
	}
	do := h.Apply
	if stage {
		do = h.Stage
	}
	c, err := do(ctx, r.Changes[i].Plan)
	switch {
	case !c.Started.IsZero():
		r.Changes[i] = c
	// Only the host's own word settles that what an earlier call began is not there.
	case begun && err != nil && !errors.Is(err, ErrChanged) && !errors.Is(err, ErrRefused):
		return c, err
	default:
		r.Changes = slices.Delete(r.Changes, i, i+1)
	}
	return c, errors.Join(err, r.write(context.WithoutCancel(ctx)))
}

// Revert brings back the state before the changes, the last one first. each, if not nil, is
// called after each of them.
func (r *Record) Revert(ctx context.Context, h *Host, o RevertOptions, each func(Change)) error {
	for _, c := range slices.Backward(r.Changes) {
		if err := h.Revert(ctx, c, o); err != nil {
			return err
		}
		if each != nil {
			each(c)
		}
	}
	return nil
}

// Forget removes what the host keeps of the changes, and then the file. As long as the host
// cannot be asked, the file stays.
func (r *Record) Forget(ctx context.Context, h *Host) error {
	for _, c := range r.Changes {
		if err := h.Forget(ctx, c); err != nil {
			return err
		}
	}
	return os.Remove(r.Path)
}

// write replaces the file, and removes it when there is nothing to tell.
func (r *Record) write(ctx context.Context) error {
	op := task{"write", r.Path + ", which a revert needs"}
	if len(r.Changes) == 0 {
		if err := os.Remove(r.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return op.wrap(err)
		}
		return nil
	}
	data, err := json.MarshalIndent(r.Changes, "", "  ")
	if err != nil {
		return op.wrap(fmt.Errorf("encode the changes: %w", err))
	}
	_, err = atomicfile.WriteBytes(ctx, r.Path, atomicfile.Options{Mode: 0o600}, append(data, '\n'))
	return op.wrap(err)
}
