package hostfiles

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// Restore is a [backup.Restorer] for the files of one host: content, mode, numeric owner,
// modification time, links, and mode and owner of directories. It leaves alone files that equal the
// set, and files that the set does not have. It does not restore ACLs, extended attributes and hard
// links.
//
// Restore first takes a set of the files that it will replace into Rescue. It writes all files
// under temporary names, syncs them, and renames them. After a failure it restores the previous
// state. [Restore.Undo] undoes a finished or killed restore, also in a later process, as long as
// the set in Rescue exists. The next Restore or Undo removes the temporary files of a killed one.
// Those of a restore on another machine must be a day old.
//
// Restore never follows a path that another user can change. On this host it opens every directory
// without following links, and sets owner, mode and time through the file's descriptor. It follows
// a link on the way only if root or this user owns the link and every directory above it. Through a
// Runner it writes into another user's directory with that user's ID, or refuses and names the
// directory.
type Restore struct {
	Component string // name in the set; empty: "config"
	Root      string // the root directory of this host; empty with a nil Runner: "/"

	// Runner reaches another host. It needs GNU find and tar, xargs and perl-base. To restore
	// into directories of other users, it needs setpriv too.
	Runner backup.Runner

	// Paths are the patterns of files that Restore may write. They are absolute, may have the
	// wildcards of path.Match, and include everything below a directory. Empty: the default
	// paths of [Source]. If a set changes other files, the error matches [backup.ErrUnsafe].
	Paths []string

	Only   []string // patterns, like Paths, of the files to restore; empty: all
	Rescue string   // directory for the set of replaced files; it has no other sets
	SetID  bool     // restore set-user-ID and set-group-ID bits of files; false: drop them

	// DropEdits lets Undo overwrite and remove files that were edited since the restore. Otherwise
	// they stop it, see [ErrEdited].
	DropEdits bool
}

// Name returns the component's name.
func (f *Restore) Name() string {
	if f.Component == "" {
		return "config"
	}
	return f.Component
}

func (f *Restore) host() (host, error) {
	if f.Root != "" && f.Runner != nil {
		return nil, errors.New("both Root and Runner are set; set one of them")
	}
	for _, p := range slices.Concat(f.Only, f.Paths) {
		if _, err := path.Match(p, ""); err != nil || !path.IsAbs(p) {
			return nil, fmt.Errorf("path %q is not absolute or not a pattern", p)
		}
	}
	if f.Runner != nil {
		return remoteHost{f.Runner}, nil
	}
	return rootHost{local(os.DirFS(f.root())), f.root()}, nil
}

func (f *Restore) root() string {
	if f.Root == "" {
		return "/"
	}
	return f.Root
}

// DefaultPaths returns the default patterns of [Source] and [Restore]. The caller may append to the
// result.
func DefaultPaths() []string {
	out := slices.Clone(tykAlways)
	for _, c := range tykComponents {
		out = append(out, c.dir+"/"+c.config)
		out = append(out, c.also...)
	}
	return out
}

// Plan compares every file with the host's.
func (f *Restore) Plan(ctx context.Context, s *backup.Stored) ([]backup.Item, error) {
	c, err := f.plan(ctx, s)
	if err != nil {
		return nil, err
	}
	return c.items("the present file goes into a set in " + f.Rescue), nil
}

func (f *Restore) plan(ctx context.Context, s *backup.Stored) (*comparison, error) {
	c, err := f.compare(ctx, s)
	if err != nil {
		return nil, err
	}
	may := newMatcher(f.Paths)
	if len(f.Paths) == 0 {
		may = newMatcher(DefaultPaths())
	}
	replaces := false
	for _, x := range c.files {
		changes := x.action == backup.ActionCreate || x.action == backup.ActionReplace
		if changes && !may.match("/"+x.Path) {
			return nil, &backup.Error{Op: "restore", Object: "/" + x.Path, Kind: backup.ErrUnsafe,
				Err:  errors.New("the set changes a file outside the paths of this restore"),
				Next: "check who made the set, then name the path in Restore.Paths"}
		}
		replaces = replaces || x.action == backup.ActionReplace
	}
	for _, d := range c.dirs {
		replaces = replaces || d.action == backup.ActionReplace
	}
	if replaces && f.Rescue == "" {
		return nil, errors.New("files would be replaced; set Restore.Rescue, for the set of the " +
			"present files")
	}
	if f.Rescue != "" {
		return c, step.OutsideSets(f.Rescue)
	}
	return c, nil
}

// compare compares the set with the host, without the files that Only leaves out.
func (f *Restore) compare(ctx context.Context, s *backup.Stored) (*comparison, error) {
	h, err := f.host()
	if err != nil {
		return nil, err
	}
	s = f.withoutSetID(s)
	c, err := compare(ctx, h, s)
	if err != nil || len(f.Only) == 0 {
		return c, err
	}
	only := newMatcher(f.Only)
	for i, x := range c.files {
		if !only.match("/" + x.Path) {
			c.files[i].action = backup.ActionSkip
		}
	}
	for i, d := range c.dirs {
		if d.action == backup.ActionReplace && !only.match("/"+d.Path) {
			c.dirs[i].action = backup.ActionSkip
		}
		if d.action == backup.ActionCreate && d.Listed && !only.match("/"+d.Path) {
			c.dirs[i].Listed = false // made only on the way to a file
		}
	}
	if p := only.unused(); p != "" {
		return nil, fmt.Errorf("the set has no file %s", p)
	}
	return c, nil
}

// withoutSetID returns s without the bits that are not restored.
func (f *Restore) withoutSetID(s *backup.Stored) *backup.Stored {
	if f.SetID {
		return s
	}
	out := *s
	out.Files = slices.Clone(s.Files)
	for i, x := range out.Files {
		if mode, err := x.Perm(); err == nil && x.Link == "" {
			out.Files[i].Mode = fmt.Sprintf("%04o", step.UnixMode(mode&^(os.ModeSetuid|os.ModeSetgid)))
		}
	}
	return &out
}

func (c *comparison) items(detail string) []backup.Item {
	var items []backup.Item
	for _, x := range c.files {
		i := backup.Item{Name: "/" + x.Path, Action: x.action, Bytes: x.Size}
		if x.action == backup.ActionReplace {
			i.Detail = detail
		}
		items = append(items, i)
	}
	for _, d := range c.dirs {
		if d.Listed && d.action != backup.ActionSame {
			i := backup.Item{Name: "/" + d.Path + "/", Action: d.action}
			if d.action == backup.ActionReplace {
				i.Detail = "mode and owner of the directory"
			}
			items = append(items, i)
		}
	}
	return items
}

// Restore writes the missing and the different files.
func (f *Restore) Restore(ctx context.Context, s *backup.Stored,
	progress func(backup.Event)) ([]backup.Item, error) {
	c, err := f.plan(ctx, s)
	if err != nil {
		return nil, err
	}
	detail := ""
	rescued, err := f.rescue(ctx, s, c)
	if err != nil {
		return nil, fmt.Errorf("save the files that would be replaced: %w", err)
	}
	if rescued != nil {
		detail = "the previous file is in " + rescued.Dir
	}
	e := backup.Event{Component: f.Name(), Phase: backup.PhaseRestore, TotalBytes: s.Bytes,
		TotalItems: s.Items}
	err = f.apply(ctx, s, c, func(c change) {
		e.Item, e.Bytes, e.Items = "/"+c.Path, e.Bytes+c.Size, e.Items+1
		progress(e)
	})
	if err != nil {
		return c.items(detail), errors.Join(err, f.rollback(ctx, c, rescued))
	}
	e.Done = true
	progress(e)
	return c.items(detail), nil
}

// apply makes the changes of a comparison.
func (f *Restore) apply(ctx context.Context, s *backup.Stored, c *comparison,
	done func(change)) error {
	var todo []change
	for _, x := range c.files {
		if x.action == backup.ActionCreate || x.action == backup.ActionReplace {
			todo = append(todo, x)
		} else {
			done(x)
		}
	}
	if f.Runner != nil {
		if err := f.sweepRemote(ctx, c.dirsOfFiles()); err != nil {
			return err
		}
		if err := f.send(ctx, s, c, todo); err != nil {
			return err
		}
		for _, x := range todo {
			done(x)
		}
		return nil
	}
	j, err := openJail(f.root())
	if err != nil {
		return err
	}
	defer j.close()
	return j.apply(ctx, s, c, todo, done)
}

// Prove reads the files back.
func (f *Restore) Prove(ctx context.Context, s *backup.Stored) error {
	c, err := f.compare(ctx, s)
	if err != nil {
		return err
	}
	return c.differences()
}

// setID returns the ID of the set that contains s.
func setID(s *backup.Stored) string {
	return filepath.Base(strings.TrimSuffix(s.Dir, "/"+filepath.FromSlash(s.Name)))
}

// matcher matches paths with patterns. Literal patterns need only a look-up.
type matcher struct {
	literal map[string]string // original pattern by plain path
	wild    []string
	used    map[string]bool
}

func newMatcher(patterns []string) *matcher {
	m := &matcher{literal: map[string]string{}, used: map[string]bool{}}
	for _, p := range patterns {
		m.used[p] = false
		if wild, plain := isPattern(p); wild {
			m.wild = append(m.wild, p)
		} else {
			m.literal[plain] = p
		}
	}
	return m
}

// match reports whether p is matched by a pattern or lies below a match.
func (m *matcher) match(p string) bool {
	hit := false
	for ; p != "/" && p != "."; p = path.Dir(p) {
		if l, ok := m.literal[p]; ok {
			m.used[l], hit = true, true
		}
		for _, w := range m.wild {
			if ok, _ := path.Match(w, p); ok {
				m.used[w], hit = true, true
			}
		}
	}
	return hit
}

// unused returns a pattern that matched nothing.
func (m *matcher) unused() string {
	var out []string
	for p, ok := range m.used {
		if !ok {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	if len(out) == 0 {
		return ""
	}
	return out[0]
}

var (
	_ backup.Restorer = (*Restore)(nil)
	_ backup.Undoer   = (*Restore)(nil)
)
