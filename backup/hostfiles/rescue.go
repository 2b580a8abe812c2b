package hostfiles

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// RescueDetails are the details of a component in a rescue set, in addition to [Details].
type RescueDetails struct {
	Details
	Of string `json:"of"` // ID of the set that was restored
	// files that did not exist before, without the leading slash
	Created     []string `json:"created,omitempty"`
	CreatedDirs []string `json:"created_dirs,omitempty"` // directories that did not exist before
}

// rescue takes a set of the files that will be replaced, with a list of those that will be created.
// Without a rescue directory and with nothing to replace, it takes none.
func (f *Restore) rescue(ctx context.Context, s *backup.Stored,
	c *comparison) (*backup.Set, error) {
	h, err := f.host()
	if err != nil {
		return nil, err
	}
	r := rescuer{name: f.Name(), h: h, d: RescueDetails{Of: setID(s)}}
	for _, x := range c.files {
		switch x.action {
		case backup.ActionReplace:
			r.entries = append(r.entries, c.have["/"+x.Path])
			r.d.Paths = append(r.d.Paths, escapePattern("/"+x.Path))
		case backup.ActionCreate:
			r.d.Created = append(r.d.Created, x.Path)
		}
	}
	for _, d := range c.dirs {
		switch d.action {
		case backup.ActionReplace:
			r.d.Dirs = append(r.d.Dirs, dirOf(c.above["/"+d.Path], true))
		case backup.ActionCreate:
			r.d.CreatedDirs = append(r.d.CreatedDirs, d.Path)
		}
	}
	if f.Rescue == "" || len(r.entries)+len(r.d.Created)+len(r.d.CreatedDirs)+len(r.d.Dirs) == 0 {
		return nil, nil
	}
	return backup.Take(ctx, f.Rescue, backup.Options{Label: "replaced by the restore of " + r.d.Of}, r)
}

// rescuer is a source of a list of files, which may be empty.
type rescuer struct {
	name    string
	h       host
	entries []entry
	d       RescueDetails
}

func (r rescuer) Name() string { return r.name }

func (r rescuer) Plan(context.Context) (backup.Estimate, error) {
	e := backup.Estimate{Items: int64(len(r.entries))}
	for _, x := range r.entries {
		e.Bytes += x.size
	}
	return e, nil
}

func (r rescuer) Backup(ctx context.Context, w *backup.Writer) (backup.Component, error) {
	c := backup.Component{Kind: Kind, Topology: "host", Consistency: backup.ConsistencyPerItem,
		Method: "read", Items: int64(len(r.entries))}
	if len(r.entries) > 0 {
		err := r.h.read(ctx, r.entries, w.Reset, func(e entry, m backup.Meta, in io.Reader) error {
			name := strings.TrimPrefix(e.path, "/")
			if e.typ == 'l' {
				return w.Link(name, e.link, m)
			}
			_, err := w.Create(ctx, name, &m, func(out io.Writer) error {
				_, err := step.Copy(out, in)
				return err
			})
			return err
		})
		if err != nil {
			return c, err
		}
	}
	return c, c.SetDetails(r.d)
}

// rollback restores the previous state after a failure, even after ctx has ended.
func (f *Restore) rollback(ctx context.Context, c *comparison, rescued *backup.Set) error {
	ctx, cancel := step.Undoing(ctx)
	defer cancel()
	d := RescueDetails{}
	for _, x := range c.files {
		if x.action == backup.ActionCreate {
			d.Created = append(d.Created, x.Path)
		}
	}
	for _, x := range c.dirs {
		if x.action == backup.ActionCreate {
			d.CreatedDirs = append(d.CreatedDirs, x.Path)
		}
	}
	if _, err := f.takeBack(ctx, d, rescued); err != nil {
		return fmt.Errorf("rollback failed: %w", err)
	}
	return nil
}

// takeBack removes the created files and restores the replaced ones. It reports whether it changed
// anything.
func (f *Restore) takeBack(ctx context.Context, d RescueDetails, rescued *backup.Set) (changed bool,
	err error) {
	changed, err = f.remove(ctx, d)
	errs := []error{err}
	if rescued != nil {
		old, _ := rescued.Component(f.Name())
		back := &Restore{Component: f.Component, Root: f.Root, Runner: f.Runner, SetID: true}
		undo, err := back.compare(ctx, old)
		if err == nil {
			changed = changed || undo.differences() != nil
			err = back.apply(ctx, old, undo, func(change) {})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("the previous files are in %s: %w", rescued.Dir, err))
		}
	}
	return changed, errors.Join(errs...)
}

// remove removes created files, and created directories that are empty. It reports whether it
// removed any.
func (f *Restore) remove(ctx context.Context, d RescueDetails) (removed bool, err error) {
	slices.Sort(d.CreatedDirs)
	slices.Reverse(d.CreatedDirs)
	if f.Runner != nil {
		return f.removeRemote(ctx, d)
	}
	j, err := openJail(f.root())
	if err != nil {
		return false, err
	}
	defer j.close()
	j.sweep(dirsOfNames(d.Created))
	var errs []error
	for i, name := range slices.Concat(d.Created, d.CreatedDirs) {
		was, err := j.remove(name, i >= len(d.Created))
		removed, errs = removed || was, append(errs, err)
	}
	return removed, errors.Join(errs...)
}
