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

// Record is a file on the operator's machine with the changes of one host, which a revert needs. It
// contains a change before the change begins, so that nothing is lost if the operator's process
// dies. A Record must not be used concurrently.
type Record struct {
	Path    string
	Changes []Change // in the order in which they were made
}

// OpenRecord reads the file at path. The file decides what root does on the host, so the error is
// an [ErrUnsafe] if somebody else could have written it. If there is no file, the error matches
// [fs.ErrNotExist]. [NewRecord] begins one.
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

// NewRecord does the same as [OpenRecord], but begins a record if there is no file at path. The
// directory must exist. The first change writes the file.
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
				" belongs to somebody else, or somebody else can write to it",
				Next: "check the content of the file, then move it to a directory of your own with mode 600"})
		}
	}
	return io.ReadAll(f)
}

// Begun reports whether the record has a change without an outcome, which may have begun.
func (r *Record) Begun() bool {
	return slices.ContainsFunc(r.Changes, func(c Change) bool { return c.Started.IsZero() })
}

// Apply carries out a plan with [Host.Apply], or with [Host.Stage] if stage is true. It writes the
// plan to the file first. A change that fails stays in the file, so that it can be reverted. A
// change that never began is removed.
func (r *Record) Apply(ctx context.Context, h *Host, p Plan, stage bool) (Change, error) {
	r.Changes = append(r.Changes, Change{Plan: p})
	return r.carryOut(ctx, h, len(r.Changes)-1, stage, false)
}

// ApplyAll carries out plans in their order, until one fails. each, if not nil, is called after each
// change. The result has every change that began, also with an error.
func (r *Record) ApplyAll(ctx context.Context, h *Host, plans []Plan, stage bool,
	each func(Change)) (made []Change, err error) {
	for _, p := range plans {
		c, err := r.Apply(ctx, h, p, stage)
		if !c.Started.IsZero() {
			made = append(made, c)
		}
		if err != nil {
			return made, err
		}
		if each != nil {
			each(c)
		}
	}
	return made, nil
}

// Resume repeats the changes that may have begun before an operator's process died. The host has
// their results and does nothing twice. If the host does not answer, the file stays as it is.
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
	// Only the host itself can confirm that an earlier call began nothing.
	case begun && err != nil && !errors.Is(err, ErrChanged) && !errors.Is(err, ErrRefused):
		return c, err
	default:
		r.Changes = slices.Delete(r.Changes, i, i+1)
	}
	return c, errors.Join(err, r.write(context.WithoutCancel(ctx)))
}

// Revert reverts the changes, the last one first. If each is not nil, it is called after every
// change.
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

// Forget removes the saved data of the changes from the host, and then the file. If the host does
// not answer, the file stays.
func (r *Record) Forget(ctx context.Context, h *Host) error {
	for _, c := range r.Changes {
		if err := h.Forget(ctx, c); err != nil {
			return err
		}
	}
	return os.Remove(r.Path)
}

// write replaces the file, or removes it if there are no changes.
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
