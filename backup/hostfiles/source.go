package hostfiles

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// Kind is the kind of the components that [Source] writes.
const Kind = "files"

// Source is a [backup.Source] for files of one host: content, mode, owner, modification time and
// symbolic links. It records a link and also includes the file that the link names. Exactly one of
// FS and Runner must be set. As a [backup.Prover] it compares the host with a set.
//
// Without paths it backs up what a Tyk upgrade changes: the configuration of the installed
// components, and everything that the packages overwrite silently. Only gateway and pump have a
// Debian conffile.
//
// A Files is a [Source], and a [Prover] that compares the host with a set.
type Source struct {
	Component string        // name in the set, such as "config/gateway-1"; empty: "config"
	FS        fs.FS         // this host: os.DirFS("/")
	Runner    backup.Runner // another host, which needs GNU find and tar

	// Paths must exist, IfPresent may. Both are absolute and may have the wildcards of
	// path.Match. A directory includes everything below it. Both empty: the default paths.
	Paths, IfPresent []string
}

// Details are the details of a component of kind [Kind].
type Details struct {
	Paths []string `json:"paths"` // the absolute paths that were requested and found
	// directories of the files; sets of older versions have none
	Dirs []Dir `json:"dirs,omitempty"`
}

// Dir is one directory. Its path has no leading slash.
type Dir struct {
	Path   string `json:"path"`
	Mode   string `json:"mode"` // octal
	UID    int    `json:"uid"`
	GID    int    `json:"gid"`
	User   string `json:"user,omitempty"`
	Group  string `json:"group,omitempty"`
	Listed bool   `json:"listed,omitempty"` // a requested path contains it; false: it is above one
}

// tykComponents are the directories of Tyk's packages, with the file that each needs to start and
// the files that an upgrade overwrites silently (packages 4.0 to 5.14).
var tykComponents = []struct {
	dir, config string
	also        []string
}{
	{"/opt/tyk-dashboard", "tyk_analytics.conf", []string{"/opt/tyk-dashboard/email_templates",
		"/opt/tyk-dashboard/portal", "/opt/tyk-dashboard/schemas"}},
	{"/opt/tyk-gateway", "tyk.conf", []string{"/opt/tyk-gateway/policies", "/opt/tyk-gateway/apps",
		"/opt/tyk-gateway/templates", "/opt/tyk-gateway/middleware", "/opt/tyk-gateway/event_handlers"}},
	{"/opt/tyk-pump", "pump.conf", nil},
}

// tykAlways is included if any component is installed.
var tykAlways = []string{"/etc/default/tyk-*", "/lib/systemd/system/tyk-*.service",
	"/etc/systemd/system/tyk-*.service", "/etc/systemd/system/tyk-*.service.d",
	"/usr/lib/systemd/system/tyk-*.service"}

// Name returns the component's name.
func (f *Source) Name() string {
	if f.Component == "" {
		return "config"
	}
	return f.Component
}

// entry is one file, directory or link as a host lists it.
type entry struct {
	path  string // absolute
	typ   byte   // 'f', 'd', 'l', or anything else; 0: it does not exist
	size  int64
	link  string
	links uint64 // hard links
	meta  backup.Meta

	extras []string // ACLs and extended attributes, which are not kept; set by reading
}

// target returns the absolute path that a link names.
func (e entry) target() string {
	if path.IsAbs(e.link) {
		return path.Clean(e.link)
	}
	return path.Join(path.Dir(e.path), e.link)
}

// host reads the files of one machine. No method follows a link in the last
// element of a path.
type host interface {
	// lstat returns the entry of each path. It leaves out paths that do not exist.
	lstat(ctx context.Context, paths []string) ([]entry, error)
	// children lists the entries of the directories, one level deep.
	children(ctx context.Context, dirs []string) ([]entry, error)
	// tree lists the entries below the directories, at any depth.
	tree(ctx context.Context, dirs []string) ([]entry, error)
	// read calls f once for every entry of type 'f', 'l' or 'd', in any order. If something
	// changes meanwhile, it calls reset and starts again. r is nil unless the entry is a file.
	read(ctx context.Context, entries []entry, reset func() error, f func(e entry, m backup.Meta,
		r io.Reader) error) error
}

func (f *Source) host() (host, error) {
	if (f.FS == nil) == (f.Runner == nil) {
		return nil, errors.New("want exactly one of FS and Runner")
	}
	for _, p := range append(slices.Clone(f.Paths), f.IfPresent...) {
		if !path.IsAbs(p) || path.Clean(p) != p || p == "/" {
			return nil, fmt.Errorf("path %q is not absolute and clean", p)
		}
		if _, err := path.Match(p, ""); err != nil {
			return nil, fmt.Errorf("path %q: %w", p, err)
		}
	}
	if f.FS != nil {
		return local(f.FS), nil
	}
	return remoteHost{f.Runner}, nil
}

// Plan finds the files and returns their number and size. It changes nothing.
func (f *Source) Plan(ctx context.Context) (backup.Estimate, error) {
	h, err := f.host()
	if err != nil {
		return backup.Estimate{}, err
	}
	found, err := f.find(ctx, h)
	if err != nil {
		return backup.Estimate{}, err
	}
	e := backup.Estimate{Items: int64(len(found.entries))}
	for _, x := range found.entries {
		e.Bytes += x.size
	}
	return e, nil
}

// Backup copies the files into the set.
func (f *Source) Backup(ctx context.Context, w *backup.Writer) (backup.Component, error) {
	c := backup.Component{Kind: Kind, Topology: "host", Consistency: backup.ConsistencyPerItem,
		Method: "read"}
	h, err := f.host()
	if err != nil {
		return c, err
	}
	if f.Runner != nil {
		c.Method = "tar"
	}
	found, err := f.find(ctx, h)
	if err != nil {
		return c, err
	}
	configs := configPatterns()
	small := map[string][]byte{}
	var extras []string
	reset := func() error { clear(small); extras = nil; return w.Reset() }
	err = h.read(ctx, slices.Concat(found.entries, found.trees), reset, func(e entry, m backup.Meta,
		r io.Reader) error {
		name := strings.TrimPrefix(e.path, "/")
		if s := extraWarning(e); s != "" {
			extras = append(extras, s)
		}
		switch e.typ {
		case 'd':
			return nil
		case 'l':
			return w.Link(name, e.link, m)
		}
		var keep bytes.Buffer
		_, err := w.Create(ctx, name, &m, func(out io.Writer) error {
			keep.Reset()
			if e.size <= maxConfig && strings.Contains(e.path, "tyk") {
				out = io.MultiWriter(out, &keep)
			}
			_, err := step.Copy(out, r)
			return err
		})
		small[e.path] = keep.Bytes()
		return err
	})
	if err != nil {
		return c, err
	}
	slices.Sort(extras)
	c.Warnings = slices.Concat(found.warnings, extras)
	maps.DeleteFunc(small, func(name string, _ []byte) bool {
		target := func(p string) bool {
			hit, _ := path.Match(p, name)
			return hit || follow(found.all,
				p) == name
		}
		return !slices.ContainsFunc(configs, target)
	})
	var unread error
	if c.Needs, unread = databases(resolved(found.all, small)); unread != nil {
		c.Warnings = append(c.Warnings, "the databases of a program are unknown: "+unread.Error())
	}
	c.Items = int64(len(found.entries))
	w.Progress("", 0, c.Items)
	return c, c.SetDetails(Details{Paths: found.paths, Dirs: found.dirs})
}

// finding is everything that a source backs up.
type finding struct {
	all      map[string]entry
	entries  []entry // files and links, by path
	trees    []entry // directories, by path
	dirs     []Dir
	paths    []string // patterns with a match
	warnings []string
}

// find lists files and links by path, follows links, and checks that nothing required is missing.
func (f *Source) find(ctx context.Context, h host) (*finding, error) {
	must, may := f.Paths, f.IfPresent
	var err error
	if len(must)+len(may) == 0 {
		if must, may, err = tykPaths(ctx, h); err != nil {
			return nil, err
		}
	}
	patterns := append(slices.Clone(must), may...)
	all, w, err := walkLinks(ctx, h, patterns)
	if err != nil {
		return nil, err
	}
	out := &finding{all: all, warnings: w.warnings}
	needed := map[string]bool{}
	for _, p := range must {
		needed[p] = true
	}
	for _, p := range patterns {
		if w.reached[p] {
			out.paths = append(out.paths, p)
		} else if needed[p] {
			return nil, &backup.Error{Op: "find", Object: p, Err: fs.ErrNotExist,
				Next: "fix the path, or move it to IfPresent"}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		e := all[name]
		if !utf8.ValidString(e.path) || !utf8.ValidString(e.link) {
			return nil, &backup.Error{Op: "find", Object: fmt.Sprintf("%q", e.path),
				Err:  errors.New("its name or target is not UTF-8, which the manifest cannot hold"),
				Next: "rename it or leave it out"}
		}
		switch e.typ {
		case 'f', 'l':
			out.entries = append(out.entries, e)
		case 'd':
			out.trees = append(out.trees, e)
		}
		if e.typ == 'f' && e.links > 1 {
			out.warnings = append(out.warnings, fmt.Sprintf("%s has %d hard links; it is restored as a "+
				"file of its own", e.path, e.links))
		}
		if e.typ == 'l' {
			if seen, ok := w.known[follow(all, name)]; ok && seen.typ == 0 {
				out.warnings = append(out.warnings, fmt.Sprintf("%s is a link to %s, which does not exist",
					e.path, e.target()))
			}
		}
	}
	if len(out.entries) == 0 {
		return nil, &backup.Error{Op: "find", Object: strings.Join(patterns, ", "), Err: fs.ErrNotExist,
			Next: "name paths of files that exist"}
	}
	out.dirs = dirsOf(w)
	slices.Sort(out.warnings)
	return out, nil
}

// dirsOf returns the directories that a walk found, and those above each entry.
func dirsOf(w *walk) []Dir {
	above := map[string]bool{}
	for name := range w.all {
		for p := path.Dir(name); p != "/" && !above[p]; p = path.Dir(p) {
			above[p] = true
		}
	}
	var out []Dir
	for _, name := range slices.Sorted(maps.Keys(w.known)) {
		e := w.known[name]
		_, listed := w.all[name]
		if e.typ == 'd' && (listed || above[name]) {
			out = append(out, dirOf(e, listed))
		}
	}
	return out
}

func dirOf(e entry, listed bool) Dir {
	return Dir{Path: strings.TrimPrefix(e.path, "/"), Mode: fmt.Sprintf("%04o",
		step.UnixMode(e.meta.Mode)),
		UID: e.meta.UID, GID: e.meta.GID, User: e.meta.User, Group: e.meta.Group, Listed: listed}
}

// tykPaths returns the default paths. A component counts as installed if its directory exists, as a
// directory or a link, or if dpkg has installed its package.
func tykPaths(ctx context.Context, h host) (must, may []string, err error) {
	var dirs, ask []string
	for _, c := range tykComponents {
		dirs = append(dirs, c.dir)
		ask = append(ask, c.dir, dpkgInfo(c.dir))
	}
	listed, err := h.lstat(ctx, ask)
	if err != nil {
		return nil, nil, err
	}
	has := func(p string) bool {
		return slices.ContainsFunc(listed, func(e entry) bool { return e.path == p })
	}
	for _, c := range tykComponents {
		if has(c.dir) || has(dpkgInfo(c.dir)) {
			must = append(must, c.dir+"/"+c.config)
			may = append(may, c.also...)
		}
	}
	if len(must) == 0 {
		return nil, nil, &backup.Error{Op: "find", Object: "Tyk's configuration",
			Err:  fmt.Errorf("none of %v exists: %w", dirs, fs.ErrNotExist),
			Next: "set Paths, or use a host that has Tyk installed"}
	}
	return must, append(may, tykAlways...), nil
}

// dpkgInfo returns a file that dpkg keeps while a package is installed. dpkg removes it with the
// package, even if the configuration stays.
func dpkgInfo(dir string) string { return "/var/lib/dpkg/info/" + path.Base(dir) + ".md5sums" }

// escapePattern returns a pattern that matches only p.
func escapePattern(p string) string { return wildEscaper.Replace(p) }

var wildEscaper = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)

// isPattern reports whether p has wildcards. plain is p without escapes.
func isPattern(p string) (wild bool, plain string) {
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '*', '?', '[':
			wild = true
		case '\\':
			if i++; i == len(p) {
				return wild, b.String()
			}
		}
		b.WriteByte(p[i])
	}
	return wild, b.String()
}

// readTries is how often a file that changes while it is read is read again.
const readTries = 5

// readPause lets a program that is writing finish.
const readPause = 100 * time.Millisecond

func pause(ctx context.Context) error {
	t := time.NewTimer(readPause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return step.Ended(ctx)
	case <-t.C:
		return nil
	}
}

func errVanished(name string) error {
	return &backup.Error{Op: "read", Object: name, Kind: backup.ErrChanged, Err: fs.ErrNotExist,
		Retry: true,
		Next:  "it existed when the files were listed: run the backup again"}
}

func errKeepsChanging(name string) error {
	return &backup.Error{Op: "read", Object: name, Err: fmt.Errorf("%w, %d times in a row",
		backup.ErrChanged, readTries), Retry: true,
		Next: "stop the program that writes it, then run the backup again"}
}

func init() { backup.RegisterKind(Kind, filesStructure) }

// filesStructure is the check of LevelStructure. It compares the number of files.
func filesStructure(_ context.Context, s *backup.Stored) error {
	if int64(len(s.Files)) != s.Items {
		return fmt.Errorf("it has %d files and links, the manifest says %d", len(s.Files), s.Items)
	}
	var d Details
	return s.DecodeDetails(&d)
}

var (
	_ backup.Source = (*Source)(nil)
	_ backup.Prover = (*Source)(nil)
)
