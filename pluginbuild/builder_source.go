package pluginbuild

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
	"time"

	"github.com/moby/patternmatcher"
)

// sourceDir is where every compiler image expects the plugin.
const sourceDir = "plugin-source"

// workFile in the plugin's root hides the workspace that compilers from 5.1.0
// on make around the plugin and the gateway; those before do not read it.
const workFile = "go.work"

// checkSource refuses directories that no compiler could make a plugin of.
func checkSource(object string, q *Request) error {
	if q.Bind && len(q.Exclude) > 0 {
		return refuse(object, "Exclude has no effect on a mounted directory; leave Bind or Exclude out")
	}
	if _, err := patternmatcher.New(q.Exclude); err != nil {
		return refuse(object, "exclude: %w", err)
	}
	entries, err := os.ReadDir(q.Dir)
	if err != nil {
		return refuse(object, "plugin directory: %w", err)
	}
	var source, module bool
	for _, e := range entries {
		switch name := e.Name(); {
		case name == "go.mod":
			module = true
		case strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go"):
			source = true
		case q.Bind && strings.HasSuffix(name, ".so") && (q.OutputDir != q.Dir || name != q.output()):
			return refuse(object, "%s is in the way: the compiler's script would move it and give it to root; move it away, or leave Bind out", filepath.Join(q.Dir, name))
		case q.Bind && name == workFile && q.Release.Compiler.Mode == Workspace:
			return refuse(object, "%s is in the way: it would hide the compiler's own workspace; move it to a directory above, or leave Bind out", filepath.Join(q.Dir, name))
		}
	}
	switch c := q.Release.Compiler; {
	case !source:
		return refuse(object, "there is no Go source in %s", q.Dir)
	case !module && c.Mode == Workspace && !c.RenamesModule:
		return refuse(object, "%s has no go.mod, which this release's compiler needs; run go mod init there", q.Dir)
	}
	return nil
}

// writeSource writes the module in fsys as a tar for the container, owned by
// root and in a fixed order, and returns the paths left out, but for those
// that exclude names.
func writeSource(w io.Writer, fsys fs.FS, exclude []string) (left []string, err error) {
	patterns, err := patternmatcher.New(exclude)
	if err != nil {
		return nil, err
	}
	t := tar.NewWriter(w)
	err = fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name == "." {
			return t.WriteHeader(header(sourceDir+"/", tar.TypeDir, 0o755))
		}
		matched, err := patterns.MatchesOrParentMatches(filepath.FromSlash(name))
		if err != nil {
			return fmt.Errorf("exclude: %w", err)
		}
		top := !strings.Contains(name, "/")
		switch {
		case matched && d.IsDir() && !patterns.Exclusions():
			return fs.SkipDir
		case matched && !d.IsDir():
			return nil
		case top && strings.HasPrefix(name, "."), d.Name() == ".git", top && strings.HasSuffix(name, ".so"),
			name == workFile, name == workFile+".sum":
			left = append(left, name)
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		return writeEntry(t, fsys, name, d, &left)
	})
	if err != nil {
		return nil, err
	}
	return left, t.Close()
}

func writeEntry(t *tar.Writer, fsys fs.FS, name string, d fs.DirEntry, left *[]string) error {
	to := sourceDir + "/" + name
	switch d.Type() {
	case fs.ModeDir:
		return t.WriteHeader(header(to+"/", tar.TypeDir, 0o755))
	case fs.ModeSymlink:
		target, err := fs.ReadLink(fsys, name)
		if err != nil {
			return err
		}
		if inside := path.Join(path.Dir(name), filepath.ToSlash(target)); path.IsAbs(target) || inside == ".." || strings.HasPrefix(inside, "../") {
			return fmt.Errorf("%s is a symbolic link out of the module, to %s, which the container would not have; exclude it or replace it by what it names", name, target)
		}
		h := header(to, tar.TypeSymlink, 0o777)
		h.Linkname = target
		return t.WriteHeader(h)
	case 0:
	default: // sockets, pipes, devices
		*left = append(*left, name)
		return nil
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
		return fmt.Errorf("%s changed while it was read", name)
	}
	return err
}

func header(name string, kind byte, mode int64) *tar.Header {
	return &tar.Header{Name: name, Typeflag: kind, Mode: mode, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
}

// counter counts what is read.
type counter struct {
	r      io.Reader
	n      int64
	report func(n int64)
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.report != nil {
		c.report(c.n)
	}
	return n, err
}
