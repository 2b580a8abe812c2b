package hostfiles

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/internal/atomicfile"
)

// change is one file of the set and its action on the host.
type change struct {
	backup.File
	action backup.Action
}

// dirChange is one directory of the set and its action on the host.
type dirChange struct {
	Dir
	action backup.Action
	was    backup.Meta // of an existing directory
}

// comparison compares a set with the same paths on a host.
type comparison struct {
	files []change
	dirs  []dirChange
	above map[string]entry // directories of the host on the way to the files
	have  map[string]entry // files and links of the host
}

// compare compares everything in the component with the host. It needs two calls of a Runner for
// any number of files.
func compare(ctx context.Context, h host, s *backup.Stored) (*comparison, error) {
	var d Details
	if err := s.DecodeDetails(&d); err != nil {
		return nil, err
	}
	ask := map[string]bool{}
	isDir := map[string]bool{}
	add := func(name string) {
		ask["/"+name] = true
		for p := path.Dir("/" + name); p != "/" && !isDir[p]; p = path.Dir(p) {
			ask[p], isDir[p] = true, true
		}
	}
	for _, f := range s.Files {
		add(f.Path)
	}
	for _, x := range d.Dirs {
		if x.Path == "" || path.Clean(x.Path) != x.Path || path.IsAbs(x.Path) || strings.HasPrefix(x.Path,
			"..") {
			return nil, fmt.Errorf("%w: directory %q", backup.ErrDamaged, x.Path)
		}
		add(x.Path)
		isDir["/"+x.Path] = true
	}
	listed, err := h.lstat(ctx, slices.Sorted(maps.Keys(ask)))
	if err != nil {
		return nil, err
	}
	out := &comparison{above: map[string]entry{}, have: map[string]entry{}}
	wanted := map[string]bool{}
	for _, f := range s.Files {
		wanted["/"+f.Path] = true
	}
	for _, e := range listed {
		switch {
		case isDir[e.path]:
			out.above[e.path] = e
		case e.typ == 'f' || e.typ == 'l':
			out.have[e.path] = e
		case wanted[e.path]:
			return nil, &backup.Error{Op: "look at", Object: e.path, Err: atomicfile.ErrNotRegular,
				Next: "move it out of the way"}
		}
	}
	if err := out.checkAbove(); err != nil {
		return nil, err
	}
	unsure := map[string]entry{} // only their content can tell
	for _, want := range s.Files {
		if e, ok := out.have["/"+want.Path]; ok && sameLook(want, e) {
			unsure[e.path] = e
		}
	}
	have, err := readAll(ctx, h, unsure)
	if err != nil {
		return nil, err
	}
	for _, want := range s.Files {
		c := change{File: want, action: backup.ActionCreate}
		if _, ok := out.have["/"+want.Path]; ok {
			c.action = backup.ActionReplace
		}
		if is, ok := have[want.Path]; ok && sameFile(want, is) {
			c.action = backup.ActionSame
		}
		out.files = append(out.files, c)
	}
	for _, want := range d.Dirs {
		c := dirChange{Dir: want, action: backup.ActionCreate}
		if is, ok := out.above["/"+want.Path]; ok {
			c.was, c.action = is.meta, backup.ActionSame
			if is.typ == 'd' && want.Listed && !sameDir(want, is) {
				c.action = backup.ActionReplace
			}
		}
		out.dirs = append(out.dirs, c)
	}
	return out, nil
}

// checkAbove refuses anything else in the place of a directory of the set.
func (c *comparison) checkAbove() error {
	for _, p := range slices.Sorted(maps.Keys(c.above)) {
		switch e := c.above[p]; e.typ {
		case 'd':
		case 'l':
			if !c.trusted(p) {
				return &backup.Error{Op: "look at", Object: p, Kind: backup.ErrUnsafe,
					Err:  fmt.Errorf("user %d controls this link on the way to files of the set", e.meta.UID),
					Next: "replace it with a directory, or let root own it and the directories above it"}
			}
		default:
			return &backup.Error{Op: "look at", Object: p,
				Err:  errors.New("the set has a directory here, the host has a file"),
				Next: "move it out of the way"}
		}
	}
	return nil
}

// trusted reports whether only root and this user can change the link at p.
func (c *comparison) trusted(p string) bool {
	return ownUID(c.above[p].meta.UID) && c.unsafe(p) == ""
}

// unsafe returns the first directory above p that somebody else can change.
func (c *comparison) unsafe(p string) string {
	for d := path.Dir(p); d != "/"; d = path.Dir(d) {
		if e, ok := c.above[d]; ok && e.typ == 'd' && !safeDir(e.meta) {
			return d
		}
	}
	return ""
}

// readAll reads entries and returns them by their path in the set.
func readAll(ctx context.Context, h host,
	entries map[string]entry) (map[string]backup.File, error) {
	have := map[string]backup.File{}
	if len(entries) == 0 {
		return have, nil
	}
	var list []entry
	for _, p := range slices.Sorted(maps.Keys(entries)) {
		list = append(list, entries[p])
	}
	err := h.read(ctx, list, func() error { clear(have); return nil }, func(e entry, m backup.Meta,
		r io.Reader) error {
		f := backup.File{Path: strings.TrimPrefix(e.path, "/"), Link: e.link}
		f.SetMeta(m)
		if e.typ == 'f' {
			sum := sha256.New()
			n, err := step.Copy(sum, r)
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

// sameLook reports whether all but the content of a file is as in the set.
func sameLook(want backup.File, e entry) bool {
	is := backup.File{Size: e.size, SHA256: want.SHA256, Link: e.link}
	is.SetMeta(e.meta)
	return sameFile(want, is)
}

// sameFile leaves the modification time out: touching a file changes nothing.
func sameFile(a, b backup.File) bool {
	return a.Size == b.Size && a.SHA256 == b.SHA256 && a.Link == b.Link && a.UID == b.UID &&
		a.GID == b.GID && (a.Link != "" || a.Mode == b.Mode)
}

func sameDir(want Dir, is entry) bool {
	have := dirOf(is, want.Listed)
	return have.Mode == want.Mode && have.UID == want.UID && have.GID == want.GID
}

// differences lists the differences from the set.
func (c *comparison) differences() error {
	var bad []error
	for _, f := range c.files {
		switch f.action {
		case backup.ActionCreate:
			bad = append(bad, fmt.Errorf("%w: /%s is missing", backup.ErrDiffers, f.Path))
		case backup.ActionReplace:
			bad = append(bad, fmt.Errorf("%w: /%s", backup.ErrDiffers, f.Path))
		}
	}
	for _, d := range c.dirs {
		switch {
		case !d.Listed:
		case d.action == backup.ActionCreate:
			bad = append(bad, fmt.Errorf("%w: directory /%s is missing", backup.ErrDiffers, d.Path))
		case d.action == backup.ActionReplace:
			bad = append(bad, fmt.Errorf("%w: mode or owner of directory /%s", backup.ErrDiffers, d.Path))
		}
	}
	return errors.Join(bad...)
}

// Prove compares the host with the set: content, mode and owner of files, links, and mode and owner
// of directories.
func (f *Source) Prove(ctx context.Context, s *backup.Stored) error {
	h, err := f.host()
	if err != nil {
		return err
	}
	c, err := compare(ctx, h, s)
	if err != nil {
		return err
	}
	return c.differences()
}
