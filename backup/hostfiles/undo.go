package hostfiles

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"example.com/tykupgrade/backup"
)

// ErrEdited means that files were edited after the restore, and that Undo would lose the edits.
// Callers match it with errors.Is.
var ErrEdited = errors.New("edited since the restore")

// Undo undoes the last restore of this set with the set in Rescue. It restores replaced files and
// removes created ones. It also works after a killed restore. undone is false if the files were
// already as before.
//
// If a file is neither as the restore wrote it nor as it was before, Undo changes nothing and
// returns an error that names such files and matches [ErrEdited], unless DropEdits is set. The same
// holds for mode and owner of files and directories. A file that was removed since is no edit.
func (f *Restore) Undo(ctx context.Context, s *backup.Stored) (undone bool, err error) {
	if f.Rescue == "" {
		return false, &backup.Error{Op: "undo the restore of", Object: f.Name(),
			Err: errors.New("no Rescue is set, so created files stay"), Next: "set Restore.Rescue"}
	}
	sets, err := backup.List(f.Rescue)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	for _, set := range sets {
		st, ok := set.Component(f.Name())
		var d RescueDetails
		if !ok || st.DecodeDetails(&d) != nil || d.Of != setID(s) {
			continue
		}
		if err := set.Verify(ctx, backup.VerifyOptions{}); err != nil {
			return false, fmt.Errorf("the rescue set %s: %w", filepath.Base(set.Dir), err)
		}
		if !f.DropEdits {
			if err := f.unedited(ctx, s, st, d); err != nil {
				return false, err
			}
		}
		return f.takeBack(ctx, d, set)
	}
	return false, err
}

// shownEdits is how many edited files an error names.
const shownEdits = 10

// unedited refuses to lose edits. old is the component of the rescue set with the details d.
func (f *Restore) unedited(ctx context.Context, s, old *backup.Stored, d RescueDetails) error {
	h, err := f.host()
	if err != nil {
		return err
	}
	touched := map[string]bool{}
	for _, x := range old.Files {
		touched[x.Path] = true
	}
	for _, p := range d.Created {
		touched[p] = true
	}
	for _, x := range d.Dirs {
		touched[x.Path] = true
	}
	wrote, err := part(f.withoutSetID(s), touched)
	if err != nil {
		return err
	}
	is, err := compare(ctx, h, wrote)
	if err != nil {
		return err
	}
	var edited []string
	for _, x := range is.files {
		if x.action == backup.ActionReplace {
			edited = append(edited, "/"+x.Path)
		}
	}
	dirs := map[string]dirChange{} // as the restore wrote them
	for _, x := range is.dirs {
		if x.action == backup.ActionReplace {
			edited = append(edited, "/"+x.Path+"/")
			dirs[x.Path] = x
		}
	}
	if len(edited) == 0 {
		return nil
	}
	was, err := compare(ctx, h, old)
	if err != nil {
		return err
	}
	before := map[string]bool{}
	for _, x := range was.files {
		before["/"+x.Path] = x.action == backup.ActionSame
	}
	for _, x := range was.dirs {
		wrote, changed := dirs[x.Path]
		before["/"+x.Path+"/"] = x.action == backup.ActionSame ||
			changed && between(was.above["/"+x.Path], x.Dir, wrote.Dir)
	}
	edited = slices.DeleteFunc(edited, func(name string) bool { return before[name] })
	if len(edited) == 0 {
		return nil
	}
	text := strings.Join(edited[:min(len(edited), shownEdits)], ", ")
	if more := len(edited) - shownEdits; more > 0 {
		text += fmt.Sprintf(", and %d more", more)
	}
	return &backup.Error{Op: "undo the restore of", Object: f.Name(), Kind: ErrEdited,
		Err: errors.New(text), Next: "keep a copy of the edits, then set Restore.DropEdits"}
}

// between reports whether owner and mode of a directory are each as before or as the restore wrote
// them: a restore changes one after the other, and may have been killed between the two.
func between(is entry, before, wrote Dir) bool {
	now := dirOf(is, true)
	return (now.UID == before.UID || now.UID == wrote.UID) &&
		(now.GID == before.GID || now.GID == wrote.GID) &&
		(now.Mode == before.Mode || now.Mode == wrote.Mode)
}

// part returns s with only the files and directories whose paths are in touched.
func part(s *backup.Stored, touched map[string]bool) (*backup.Stored, error) {
	var d Details
	if err := s.DecodeDetails(&d); err != nil {
		return nil, err
	}
	out := *s
	out.Files = slices.DeleteFunc(slices.Clone(s.Files), func(x backup.File) bool {
		return !touched[x.Path]
	})
	d.Dirs = slices.DeleteFunc(d.Dirs, func(x Dir) bool { return !touched[x.Path] })
	return &out, out.SetDetails(d)
}
