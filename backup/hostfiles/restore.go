package hostfiles

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/internal/atomicfile"
)

// Restore is a [Restorer] for the files of one host: content, mode,
// numeric owner, modification time and links. A file that is as in the set is
// left alone; each other one is replaced in one step. Files that the host has
// and the set has not stay. Before anything is replaced a set of the present
// files is taken into Rescue, and where anything fails they come back.
type Restore struct {
	Component string        // name in the set; empty: "config"
	Root      string        // this host: where its root is; empty with a nil Runner: "/"
	Runner    backup.Runner // another host: needs GNU find, tar, coreutils and xargs there
	Only      []string      // absolute paths with path.Match's wildcards; empty: all files
	Rescue    string        // directory for the set of what is replaced: one of its own, where it is not taken for the latest backup
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
		return nil, errors.New("at most one of Root and backup.Runner may be given")
	}
	for _, p := range f.Only {
		if _, err := path.Match(p, ""); err != nil || !path.IsAbs(p) {
			return nil, fmt.Errorf("path %q is not absolute or not a pattern", p)
		}
	}
	if f.Runner != nil {
		return remoteHost{f.Runner}, nil
	}
	return localHost{os.DirFS(f.root())}, nil
}

func (f *Restore) root() string {
	if f.Root == "" {
		return "/"
	}
	return f.Root
}

// change is one file of the set and what becomes of it on the host.
type change struct {
	backup.File
	action backup.Action
}

func (f *Restore) changes(ctx context.Context, s *backup.Stored) ([]change, error) {
	h, err := f.host()
	if err != nil {
		return nil, err
	}
	have, err := present(ctx, h, s.Files)
	if err != nil {
		return nil, err
	}
	hits := map[string]bool{}
	var out []change
	for _, want := range s.Files {
		c := change{File: want, action: backup.ActionCreate}
		selected := len(f.Only) == 0
		for _, p := range f.Only {
			if hit, _ := path.Match(p, "/"+want.Path); hit {
				hits[p], selected = true, true
			}
		}
		if is, ok := have[want.Path]; ok {
			c.action = backup.ActionReplace
			if sameFile(want, is) {
				c.action = backup.ActionSame
			}
		}
		if !selected {
			c.action = backup.ActionSkip
		}
		out = append(out, c)
	}
	for _, p := range f.Only {
		if !hits[p] {
			return nil, fmt.Errorf("the set has no file %s", p)
		}
	}
	return out, nil
}

// present reads what a host has at the given paths.
func present(ctx context.Context, h host, files []backup.File) (map[string]backup.File, error) {
	wanted := map[string]bool{}
	var patterns []string
	for _, f := range files {
		wanted["/"+f.Path] = true
		patterns = append(patterns, escapePattern("/"+f.Path))
	}
	listed, err := h.list(ctx, patterns)
	if err != nil {
		return nil, err
	}
	var entries []entry
	for _, e := range listed {
		if !wanted[e.path] {
			continue
		}
		if e.typ != 'f' && e.typ != 'l' {
			return nil, &backup.Error{Op: "look at", Object: e.path, Err: atomicfile.ErrNotRegular, Next: "move it out of the way"}
		}
		entries = append(entries, e)
	}
	have := map[string]backup.File{}
	if len(entries) == 0 {
		return have, nil
	}
	err = h.read(ctx, entries, func() error { clear(have); return nil }, func(e entry, m backup.Meta, r io.Reader) error {
		f := backup.File{Path: strings.TrimPrefix(e.path, "/"), Link: e.link}
		f.SetMeta(m)
		if e.typ == 'f' {
			sum := sha256.New()
			n, err := io.Copy(sum, r)
			if err != nil {
				return err
			}
			f.Size, f.SHA256 = n, hex.EncodeToString(sum.Sum(nil))
		}
		have[f.Path] = f
		return nil
	})
	return have, err
}

// sameFile leaves the modification time out: touching a file changes nothing.
func sameFile(a, b backup.File) bool {
	return a.Size == b.Size && a.SHA256 == b.SHA256 && a.Link == b.Link && a.UID == b.UID && a.GID == b.GID && (a.Link != "" || a.Mode == b.Mode)
}

func toItems(changes []change, detail string) []backup.Item {
	var items []backup.Item
	for _, c := range changes {
		i := backup.Item{Name: "/" + c.Path, Action: c.action, Bytes: c.Size}
		if c.action == backup.ActionReplace {
			i.Detail = detail
		}
		items = append(items, i)
	}
	return items
}

// Plan compares every file with the host's.
func (f *Restore) Plan(ctx context.Context, s *backup.Stored) ([]backup.Item, error) {
	changes, err := f.plan(ctx, s)
	if err != nil {
		return nil, err
	}
	return toItems(changes, "what is there goes into a set in "+f.Rescue), nil
}

func (f *Restore) plan(ctx context.Context, s *backup.Stored) ([]change, error) {
	changes, err := f.changes(ctx, s)
	if err == nil && f.Rescue == "" && slices.ContainsFunc(changes, func(c change) bool { return c.action == backup.ActionReplace }) {
		err = errors.New("files would be replaced: give a rescue directory, for the set of what is there now")
	}
	if err == nil && f.Rescue != "" {
		err = step.OutsideSets(f.Rescue)
	}
	return changes, err
}

// Restore writes the files that are missing or different.
func (f *Restore) Restore(ctx context.Context, s *backup.Stored, progress func(backup.Event)) ([]backup.Item, error) {
	changes, err := f.plan(ctx, s)
	if err != nil {
		return nil, err
	}
	rescued, detail, err := f.rescue(ctx, changes)
	if err != nil {
		return nil, fmt.Errorf("save what would be replaced: %w", err)
	}
	e := backup.Event{Component: f.Name(), Phase: backup.PhaseRestore, TotalBytes: s.Bytes, TotalItems: s.Items}
	err = f.apply(ctx, s, changes, func(c change) {
		e.Item, e.Bytes, e.Items = "/"+c.Path, e.Bytes+c.Size, e.Items+1
		progress(e)
	})
	if err != nil {
		return toItems(changes, detail), errors.Join(err, f.rollback(ctx, changes, rescued))
	}
	e.Done = true
	progress(e)
	return toItems(changes, detail), nil
}

// rescue takes a set of what will be replaced.
func (f *Restore) rescue(ctx context.Context, changes []change) (set *backup.Set, detail string, err error) {
	src := &Source{Component: f.Name(), Runner: f.Runner}
	if f.Runner == nil {
		src.FS = os.DirFS(f.root())
	}
	for _, c := range changes {
		if c.action == backup.ActionReplace {
			src.Paths = append(src.Paths, "/"+c.Path)
		}
	}
	if len(src.Paths) == 0 {
		return nil, "", nil
	}
	for i, p := range src.Paths {
		src.Paths[i] = escapePattern(p)
	}
	set, err = backup.Take(ctx, f.Rescue, backup.Options{Label: "replaced by the restore of another set"}, src)
	if err != nil {
		return nil, "", err
	}
	return set, "what was there is in " + set.Dir, nil
}

func (f *Restore) apply(ctx context.Context, s *backup.Stored, changes []change, done func(change)) error {
	var todo []change
	for _, c := range changes {
		if c.action == backup.ActionCreate || c.action == backup.ActionReplace {
			todo = append(todo, c)
		} else {
			done(c)
		}
	}
	if len(todo) == 0 {
		return nil
	}
	if f.Runner != nil {
		if err := f.send(ctx, s, todo); err != nil {
			return err
		}
		for _, c := range todo {
			done(c)
		}
		return nil
	}
	for _, c := range todo {
		if err := f.put(ctx, s, c); err != nil {
			return step.Fail("restore", "/"+c.Path, err)
		}
		done(c)
	}
	return nil
}

// put writes one file of this host.
func (f *Restore) put(ctx context.Context, s *backup.Stored, c change) error {
	target := filepath.Join(f.root(), filepath.FromSlash(c.Path))
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	temp := filepath.Join(filepath.Dir(target), "."+filepath.Base(target)+".restore-"+tempSuffix())
	if c.Link != "" {
		if err := os.Symlink(c.Link, temp); err != nil {
			return err
		}
		return renameOrRemove(temp, target, func() error { return os.Lchown(temp, c.UID, c.GID) })
	}
	mode, err := c.Perm()
	if err != nil {
		return err
	}
	src, err := s.Open(c.Path)
	if err != nil {
		return err
	}
	defer src.Close()
	// Under a name of its own first: a link that is in the way is replaced in
	// one step as well.
	owner := &atomicfile.Owner{UID: c.UID, GID: c.GID}
	sum, err := atomicfile.Write(ctx, temp, atomicfile.Options{Mode: mode.Perm(), Owner: owner}, func(w io.Writer) error {
		_, err := io.Copy(w, src)
		return err
	})
	if err != nil {
		return err
	}
	return renameOrRemove(temp, target, func() error {
		if sum.SHA256 != c.SHA256 {
			return fmt.Errorf("%w: the set changed since it was verified", backup.ErrDamaged)
		}
		return errors.Join(os.Chmod(temp, mode), os.Chtimes(temp, time.Time{}, c.MTime))
	})
}

func renameOrRemove(temp, target string, prepare func() error) error {
	err := prepare()
	if err == nil {
		err = os.Rename(temp, target)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return atomicfile.SyncDir(filepath.Dir(target))
}

func tempSuffix() string { return strings.ToLower(rand.Text()[:8]) }

// send writes files of another host: all of them under temporary names first,
// then each gets its own.
func (f *Restore) send(ctx context.Context, s *backup.Stored, todo []change) (err error) {
	suffix := ".restore-" + tempSuffix()
	temp := func(c change) string { return path.Join(path.Dir(c.Path), "."+path.Base(c.Path)+suffix) }
	var all, contents, pairs bytes.Buffer
	for _, c := range todo {
		fmt.Fprintf(&all, "/%s\x00", temp(c))
		fmt.Fprintf(&pairs, "/%s\x00/%s\x00", temp(c), c.Path)
		if c.Link == "" {
			fmt.Fprintf(&contents, "/%s\x00", temp(c))
		}
	}
	defer func() {
		if err != nil {
			cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			err = errors.Join(err, f.command(cleanup, &all, "xargs", "-0", "rm", "-f", "--"))
		}
	}()
	pr, pw := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := packTemp(pw, s, todo, temp)
		_ = pw.CloseWithError(err)
		packed <- err
	}()
	err = f.command(ctx, pr, "tar", "--extract", "--file=-", "--directory=/", "--preserve-permissions", "--same-owner", "--numeric-owner", "--keep-old-files")
	_ = pr.Close()
	if packErr := <-packed; packErr != nil && !errors.Is(packErr, io.ErrClosedPipe) {
		return packErr
	}
	if err != nil {
		return err
	}
	if contents.Len() > 0 {
		if err := f.command(ctx, &contents, "xargs", "-0", "sync", "--"); err != nil {
			return err
		}
	}
	return f.command(ctx, &pairs, "xargs", "-0", "-n", "2", "mv", "-f", "-T", "--")
}

func (f *Restore) command(ctx context.Context, stdin io.Reader, argv ...string) error {
	if err := f.Runner(ctx, append([]string{"env", "LC_ALL=C"}, argv...), stdin, nil, nil); err != nil {
		return step.Fail("restore", "files of the remote host", err)
	}
	return nil
}

func packTemp(w io.Writer, s *backup.Stored, todo []change, temp func(change) string) error {
	tw := tar.NewWriter(w)
	for _, c := range todo {
		mode, err := c.Perm()
		if err != nil {
			return err
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: temp(c), Size: c.Size, Mode: int64(step.UnixMode(mode)), Uid: c.UID, Gid: c.GID, ModTime: c.MTime, Format: tar.FormatPAX}
		if c.Link != "" {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, c.Link, 0
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if c.Link != "" {
			continue
		}
		src, err := s.Open(c.Path)
		if err != nil {
			return err
		}
		_, err = io.Copy(tw, src)
		if err = errors.Join(err, src.Close()); err != nil {
			return err
		}
	}
	return tw.Close()
}

// rollback brings back what was replaced and removes what was created, even
// after ctx has ended.
func (f *Restore) rollback(ctx context.Context, changes []change, rescued *backup.Set) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), step.UndoLimit)
	defer cancel()
	var errs []error
	var created bytes.Buffer
	for _, c := range changes {
		if c.action != backup.ActionCreate {
			continue
		}
		if f.Runner != nil {
			fmt.Fprintf(&created, "/%s\x00", c.Path)
			continue
		}
		if err := os.Remove(filepath.Join(f.root(), filepath.FromSlash(c.Path))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if created.Len() > 0 {
		errs = append(errs, f.command(ctx, &created, "xargs", "-0", "rm", "-f", "--"))
	}
	if rescued != nil {
		old, _ := rescued.Component(f.Name())
		back := &Restore{Component: f.Component, Root: f.Root, Runner: f.Runner}
		undo, err := back.changes(ctx, old)
		if err == nil {
			err = back.apply(ctx, old, undo, func(change) {})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("what was there is in %s: %w", rescued.Dir, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("and bringing back what was there failed: %w", err)
	}
	return nil
}

// Prove reads the files back.
func (f *Restore) Prove(ctx context.Context, s *backup.Stored) error {
	changes, err := f.changes(ctx, s)
	if err != nil {
		return err
	}
	return differences(changes)
}

// Prove compares the host's files with the set: content, mode, owner, links.
func (f *Source) Prove(ctx context.Context, s *backup.Stored) error {
	h, err := f.host()
	if err != nil {
		return err
	}
	have, err := present(ctx, h, s.Files)
	if err != nil {
		return err
	}
	var changes []change
	for _, want := range s.Files {
		c := change{File: want, action: backup.ActionCreate}
		if is, ok := have[want.Path]; ok {
			if c.action = backup.ActionReplace; sameFile(want, is) {
				c.action = backup.ActionSame
			}
		}
		changes = append(changes, c)
	}
	return differences(changes)
}

func differences(changes []change) error {
	var bad []error
	for _, c := range changes {
		switch c.action {
		case backup.ActionCreate:
			bad = append(bad, fmt.Errorf("%w: /%s is missing", backup.ErrDiffers, c.Path))
		case backup.ActionReplace:
			bad = append(bad, fmt.Errorf("%w: /%s", backup.ErrDiffers, c.Path))
		}
	}
	return errors.Join(bad...)
}

var _ backup.Restorer = (*Restore)(nil)
