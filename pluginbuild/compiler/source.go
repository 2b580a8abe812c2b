package compiler

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"example.com/tykupgrade/pluginbuild"
)

// sourceDir is the directory of the plugin in all compiler images.
const sourceDir = "plugin-source"

// workFile in the plugin's root hides the workspace of plugin and gateway that compilers from 5.1.0
// on make. Earlier compilers do not read it.
const workFile = "go.work"

// checkSource refuses directories that cannot become a plugin.
func checkSource(object string, q *Request) error {
	if q.Bind && len(q.Exclude) > 0 {
		return refuse(object, "exclude patterns have no effect on a mounted directory; remove them, or "+
			"upload the source")
	}
	entries, err := os.ReadDir(q.Dir)
	if err != nil {
		return refuse(object, "plugin directory: %w", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	// First without the tree: a wrong directory may be too large to walk.
	if err := q.checkFiles(object, names); err != nil || q.Bind {
		return err
	}
	root, err := os.OpenRoot(q.Dir)
	if err != nil {
		return refuse(object, "plugin directory: %w", err)
	}
	defer root.Close()
	names = nil
	_, err = walkSource(root.FS(), q.exclusions(), func(name string, _ fs.DirEntry) error {
		names = append(names, name)
		return nil
	})
	if err != nil {
		return refuse(object, "plugin directory: %w", err)
	}
	return q.checkFiles(object, names)
}

// exclusion describes the files that are not uploaded.
type exclusion struct {
	patterns []string // as in .dockerignore
	dotfiles bool     // names in the root that begin with a dot: the script does not copy them
}

func (q *Request) exclusions() exclusion {
	return exclusion{q.Exclude, q.Release.Compiler.Variant != pluginbuild.NextGen}
}

// checkFiles checks the names of the files for the compiler.
func (q *Request) checkFiles(object string, names []string) error {
	var source, module bool
	for _, name := range names {
		switch {
		case strings.Contains(name, "/"):
		case name == "go.mod":
			module = true
		case strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go"):
			source = true
		case q.Bind && strings.HasSuffix(name, ".so") && (q.OutputDir != q.Dir || name != q.output()):
			return refuse(object, "the compiler's script would move %s and give it to root; move it away, "+
				"or upload the source", filepath.Join(q.Dir, name))
		case q.Bind && name == workFile && q.Release.Compiler.Mode == pluginbuild.Workspace:
			return refuse(object, "%s would hide the compiler's own workspace; move it to a directory "+
				"above, or upload the source", filepath.Join(q.Dir, name))
		}
	}
	switch c := q.Release.Compiler; {
	case !source:
		return refuse(object, "no Go source in %s, or all of it is excluded", q.Dir)
	case !module && c.Mode == pluginbuild.Workspace && !c.CreatesModule():
		return refuse(object, "%s has no go.mod, or it is excluded, but this release's compiler needs "+
			"it; run go mod init", q.Dir)
	}
	return nil
}

// writeSource writes the module in fsys as a tar for the container, owned by root and in a fixed
// order. It returns the omitted paths, except for those that match a pattern of exclude.
func writeSource(w io.Writer, fsys fs.FS, exclude exclusion) (left []string, err error) {
	t := tar.NewWriter(w)
	if err := t.WriteHeader(header(sourceDir+"/", tar.TypeDir, 0o755)); err != nil {
		return nil, err
	}
	left, err = walkSource(fsys, exclude, func(name string, d fs.DirEntry) error {
		return writeEntry(t,
			fsys, name, d)
	})
	if err != nil {
		return nil, err
	}
	return left, t.Close()
}

// walkSource calls f for every directory, regular file and symbolic link to upload. It refuses
// names and links that cannot work in the container.
func walkSource(fsys fs.FS, exclude exclusion, f func(name string,
	d fs.DirEntry) error) (left []string, err error) {
	lines, err := ignorefile.ReadAll(strings.NewReader(strings.Join(exclude.patterns, "\n")))
	if err != nil {
		return nil, fmt.Errorf("read exclude patterns: %w", err)
	}
	patterns, err := patternmatcher.New(lines)
	if err != nil {
		return nil, fmt.Errorf("read exclude patterns: %w", err)
	}
	err = fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if name == "." {
			return err
		}
		matched, matchErr := patterns.MatchesOrParentMatches(filepath.FromSlash(name))
		if matchErr != nil {
			return fmt.Errorf("match exclude patterns: %w", matchErr)
		}
		top := !strings.Contains(name, "/")
		switch {
		case matched && d.IsDir() && !patterns.Exclusions():
			return fs.SkipDir
		case matched && !d.IsDir():
			return nil
		case top && strings.HasPrefix(name, ".") && exclude.dotfiles, strings.HasPrefix(name,
			".tykupgrade-"), d.Name() == ".git", top && strings.HasSuffix(name, ".so"),
			name == workFile, name == workFile+".sum":
			left = append(left, name)
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case !utf8.ValidString(name):
			return fmt.Errorf("invalid file name %q: want UTF-8; exclude or rename the file", name)
		case err != nil:
			return err
		case d.Type() == fs.ModeSymlink:
			if err := staysInside(fsys, name); err != nil {
				return err
			}
		case !d.IsDir() && !d.Type().IsRegular(): // sockets, pipes, devices
			left = append(left, name)
			return nil
		}
		return f(name, d)
	})
	return left, err
}

func staysInside(fsys fs.FS, link string) error {
	target, err := fs.ReadLink(fsys, link)
	if err != nil {
		return err
	}
	if inside := path.Join(path.Dir(link), target); path.IsAbs(target) || inside == ".." ||
		strings.HasPrefix(inside, "../") {
		return fmt.Errorf("%s is a symbolic link out of the module, to %s, which the container does not "+
			"have; exclude the link or replace it by its target", link, target)
	}
	return nil
}

func writeEntry(t *tar.Writer, fsys fs.FS, name string, d fs.DirEntry) error {
	to := sourceDir + "/" + name
	switch d.Type() {
	case fs.ModeDir:
		return t.WriteHeader(header(to+"/", tar.TypeDir, 0o755))
	case fs.ModeSymlink:
		target, err := fs.ReadLink(fsys, name)
		if err != nil {
			return err
		}
		h := header(to, tar.TypeSymlink, 0o777)
		h.Linkname = target
		return t.WriteHeader(h)
	}
	f, err := fsys.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h := header(to, tar.TypeReg, 0o644)
	if info.Mode().Perm()&0o111 != 0 {
		h.Mode = 0o755
	}
	h.Size = info.Size()
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(t, f)
	if errors.Is(err, tar.ErrWriteTooLong) || err == nil && n < h.Size {
		return fmt.Errorf("read %s: the file changed meanwhile", name)
	}
	return err
}

func header(name string, kind byte, mode int64) *tar.Header {
	return &tar.Header{Name: name, Typeflag: kind, Mode: mode, ModTime: time.Unix(0, 0),
		Format: tar.FormatPAX}
}

// counter counts the bytes read, and reports them until over is set: an HTTP client may read on for
// a moment after it gave up.
type counter struct {
	r      io.Reader
	n      int64
	report func(n int64)
	over   atomic.Bool
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if !c.over.Load() {
		c.report(c.n)
	}
	return n, err
}
