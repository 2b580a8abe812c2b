package hostfiles

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/user"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// localHost reads through a file system whose root is the host's.
type localHost struct{ fsys fs.FS }

func (h localHost) list(ctx context.Context, patterns []string) ([]entry, error) {
	var out []entry
	for _, p := range patterns {
		names := []string{}
		if wild, plain := isPattern(p); wild {
			var err error
			if names, err = fs.Glob(h.fsys, strings.TrimPrefix(p, "/")); err != nil {
				return nil, step.Fail("list", p, err)
			}
		} else {
			names = append(names, strings.TrimPrefix(plain, "/"))
		}
		for _, name := range names {
			err := h.walk(ctx, name, func(e entry) { out = append(out, e) })
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
				continue
			}
			if err != nil {
				return nil, step.Fail("list", p, err)
			}
		}
	}
	return out, nil
}

func (h localHost) walk(ctx context.Context, root string, f func(entry)) error {
	// WalkDir would follow a link that is the root itself.
	info, err := fs.Lstat(h.fsys, root)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		e, err := h.entry(root, info)
		if err == nil {
			f(e)
		}
		return err
	}
	return fs.WalkDir(h.fsys, root, func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = step.Ended(ctx)
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) && name != root {
			return nil // gone since the directory was read
		}
		if err != nil {
			return err
		}
		e, err := h.entry(name, info)
		if err == nil {
			f(e)
		}
		return err
	})
}

func (h localHost) entry(name string, info fs.FileInfo) (entry, error) {
	e := entry{path: "/" + name, typ: '?'}
	switch info.Mode().Type() {
	case 0:
		e.typ, e.size = 'f', info.Size()
	case fs.ModeDir:
		e.typ = 'd'
	case fs.ModeSymlink:
		e.typ = 'l'
		var err error
		e.link, err = fs.ReadLink(h.fsys, name)
		return e, err
	}
	return e, nil
}

func (h localHost) read(ctx context.Context, entries []entry, _ func() error, f func(entry, backup.Meta, io.Reader) error) error {
	for _, e := range entries {
		if err := h.readOne(ctx, e, f); err != nil {
			return step.Fail("read", e.path, err)
		}
	}
	return nil
}

func (h localHost) readOne(ctx context.Context, e entry, f func(entry, backup.Meta, io.Reader) error) error {
	name := strings.TrimPrefix(e.path, "/")
	for try := 0; ; try++ {
		before, err := fs.Lstat(h.fsys, name)
		if err != nil {
			return err
		}
		if e.typ == 'l' {
			return f(e, metaOf(before), nil)
		}
		same, err := h.readFile(ctx, name, e, before, f)
		if same || err != nil {
			return err
		}
		if try == readTries-1 {
			return errKeepsChanging(e.path)
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// errMoved ends the copying of a file that turned out to be another one.
var errMoved = errors.New("changed")

func (h localHost) readFile(ctx context.Context, name string, e entry, before fs.FileInfo, f func(entry, backup.Meta, io.Reader) error) (same bool, err error) {
	if !before.Mode().IsRegular() {
		return false, nil
	}
	src, err := h.fsys.Open(name)
	if err != nil {
		return false, err
	}
	defer src.Close()
	// fs.FS has no O_NOFOLLOW: what was opened must be what was looked at.
	opened, err := src.Stat()
	if err != nil || !sameState(before, opened) {
		return false, err
	}
	r := &step.ReadMeter{Ctx: ctx, R: io.LimitReader(src, before.Size()+1)}
	var n int64
	r.Add = func(m int64) { n += m }
	err = f(e, metaOf(before), &checkedReader{r: r, end: func() error {
		after, err := fs.Lstat(h.fsys, name)
		if err != nil || n != before.Size() || !sameState(before, after) {
			return errMoved
		}
		return nil
	}})
	if errors.Is(err, errMoved) {
		return false, nil
	}
	return err == nil, err
}

// checkedReader asks end before it says that everything has been read.
type checkedReader struct {
	r   io.Reader
	end func() error
}

func (c *checkedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if errors.Is(err, io.EOF) {
		if e := c.end(); e != nil {
			return 0, e
		}
	}
	return n, err
}

// sameState compares what a write or a replacement changes. Coarse clocks hide
// a write of the same size within one tick (about 4 ms on Linux), unless the
// status change shows it.
func sameState(a, b fs.FileInfo) bool {
	if a.Size() != b.Size() || a.Mode() != b.Mode() || !a.ModTime().Equal(b.ModTime()) {
		return false
	}
	x, ok1 := a.Sys().(*syscall.Stat_t)
	y, ok2 := b.Sys().(*syscall.Stat_t)
	return !ok1 || !ok2 || (x.Ino == y.Ino && x.Dev == y.Dev && x.Ctim == y.Ctim)
}

func metaOf(info fs.FileInfo) backup.Meta {
	m := backup.Meta{Mode: info.Mode(), ModTime: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		m.UID, m.GID = int(st.Uid), int(st.Gid)
		m.User, m.Group = userName(m.UID), groupName(m.GID)
	}
	return m
}

// userName and groupName are empty where the host has no name for the number.
func userName(id int) string {
	u, err := user.LookupId(strconv.Itoa(id))
	if err != nil {
		return ""
	}
	return u.Username
}

func groupName(id int) string {
	g, err := user.LookupGroupId(strconv.Itoa(id))
	if err != nil {
		return ""
	}
	return g.Name
}

// remoteHost reads with GNU find and tar through a Runner.
type remoteHost struct{ run backup.Runner }

func (h remoteHost) list(ctx context.Context, patterns []string) ([]entry, error) {
	var out []entry
	for _, p := range patterns {
		wild, plain := isPattern(p)
		if !wild {
			entries, err := h.find(ctx, plain)
			if err != nil {
				return nil, err
			}
			out = append(out, entries...)
			continue
		}
		// No shell expands the pattern: list from where it begins and match here.
		base := p
		for {
			if w, plain := isPattern(base); !w {
				base = plain
				break
			}
			base = path.Dir(base)
		}
		depth := strings.Count(p, "/") - strings.Count(strings.TrimSuffix(base, "/"), "/")
		entries, err := h.find(ctx, base, "-mindepth", strconv.Itoa(depth), "-maxdepth", strconv.Itoa(depth))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			switch hit, _ := path.Match(p, e.path); {
			case !hit:
			case e.typ == 'd':
				inside, err := h.find(ctx, e.path)
				if err != nil {
					return nil, err
				}
				out = append(out, inside...)
			default:
				out = append(out, e)
			}
		}
	}
	return out, nil
}

// find lists root and what is in it. A root that does not exist is empty.
func (h remoteHost) find(ctx context.Context, root string, args ...string) ([]entry, error) {
	argv := append([]string{"env", "LC_ALL=C", "find", "-P", root}, args...)
	argv = append(argv, "-printf", `%y\t%s\t%p\0%l\0`)
	var out, errOut bytes.Buffer
	err := h.run(ctx, argv, nil, &out, &errOut)
	if e := step.Ended(ctx); e != nil {
		return nil, step.Fail("list", root, e)
	}
	// Exit code 1 also means that something vanished, which is no error.
	if err != nil && (exitCode(err) != 1 || !onlyMissing(errOut.String())) {
		return nil, step.Fail("list", root, err)
	}
	return parseFind(out.Bytes())
}

func exitCode(err error) int {
	var code interface{ ExitCode() int }
	if errors.As(err, &code) {
		return code.ExitCode()
	}
	return -1
}

func onlyMissing(stderr string) bool {
	if stderr == "" {
		return false
	}
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasSuffix(line, ": No such file or directory") && !strings.HasSuffix(line, ": Not a directory") {
			return false
		}
	}
	return true
}

// parseFind reads what find -printf '%y\t%s\t%p\0%l\0' writes.
func parseFind(data []byte) ([]entry, error) {
	if len(data) == 0 {
		return nil, nil
	}
	fields := bytes.Split(data, []byte{0})
	if len(fields)%2 != 1 || len(fields[len(fields)-1]) != 0 {
		return nil, errors.New("the listing is cut off")
	}
	var out []entry
	for i := 0; i+1 < len(fields); i += 2 {
		f := strings.SplitN(string(fields[i]), "\t", 3)
		if len(f) != 3 || len(f[0]) != 1 || !path.IsAbs(f[2]) {
			return nil, fmt.Errorf("a listing line that begins with %.40q", fields[i])
		}
		size, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil || size < 0 {
			return nil, fmt.Errorf("a listing line that begins with %.40q", fields[i])
		}
		e := entry{path: path.Clean(f[2]), typ: f[0][0], link: string(fields[i+1])}
		if e.typ == 'f' {
			e.size = size
		}
		out = append(out, e)
	}
	return out, nil
}

func (h remoteHost) read(ctx context.Context, entries []entry, reset func() error, f func(entry, backup.Meta, io.Reader) error) error {
	for try := range readTries {
		if try > 0 {
			if err := errors.Join(pause(ctx), reset()); err != nil {
				return err
			}
		}
		changed, err := h.readAll(ctx, entries, f)
		if err != nil {
			return err
		}
		if !changed {
			return nil
		}
	}
	return errKeepsChanging("files of the remote host")
}

// readAll streams one tar archive of all entries. GNU tar ends with 1 when a
// file changed while it read it.
func (h remoteHost) readAll(ctx context.Context, entries []entry, f func(entry, backup.Meta, io.Reader) error) (changed bool, err error) {
	var names bytes.Buffer
	for _, e := range entries {
		names.WriteString(strings.TrimPrefix(e.path, "/"))
		names.WriteByte(0)
	}
	argv := []string{"env", "LC_ALL=C", "tar", "--create", "--file=-", "--format=pax", "--directory=/", "--no-recursion", "--hard-dereference", "--null", "--files-from=-"}
	pr, pw := io.Pipe()
	var errOut bytes.Buffer
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		err := h.run(ctx, argv, &names, pw, &errOut)
		_ = pw.Close()
		done <- err
	}()
	parseErr := readTar(pr, entries, f)
	if parseErr != nil {
		cancel()
	}
	_, _ = io.Copy(io.Discard, pr)
	_ = pr.Close()
	runErr := <-done
	switch code := exitCode(runErr); {
	case parseErr != nil && runErr == nil:
		return false, parseErr
	case parseErr != nil && !errors.Is(parseErr, errTar):
		return false, parseErr
	case runErr == nil:
		return false, nil
	case code == 1 || (code == 2 && onlyVanished(errOut.String())):
		return true, nil
	}
	return false, step.Fail("read", "files of the remote host", runErr)
}

// onlyVanished says whether tar failed only for files that were listed and are
// gone now; listing again would not show them.
func onlyVanished(stderr string) bool {
	if stderr == "" {
		return false
	}
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if !strings.HasSuffix(line, "No such file or directory") && !strings.Contains(line, "Exiting with failure status") && !strings.Contains(line, "file changed as we read it") {
			return false
		}
	}
	return true
}

var errTar = errors.New("the archive is not what was asked for")

// readTar hands out the wanted entries of a tar archive, each exactly once.
func readTar(r io.Reader, want []entry, f func(entry, backup.Meta, io.Reader) error) error {
	left := map[string]entry{}
	for _, e := range want {
		left[e.path] = e
	}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errTar, err)
		}
		e, ok := left["/"+h.Name]
		if !ok {
			return fmt.Errorf("%w: it holds %.200q", errTar, h.Name)
		}
		delete(left, e.path)
		switch {
		case h.Typeflag == tar.TypeReg && e.typ == 'f', h.Typeflag == tar.TypeSymlink && e.typ == 'l':
		default:
			return fmt.Errorf("%w: %.200q is of type %q", errTar, h.Name, h.Typeflag)
		}
		e.link = h.Linkname
		m := backup.Meta{Mode: step.FileMode(uint32(h.Mode & 0o7777)), UID: h.Uid, GID: h.Gid, User: h.Uname, Group: h.Gname, ModTime: h.ModTime}
		if err := f(e, m, tr); err != nil {
			return err
		}
	}
	if len(left) > 0 {
		missing := make([]string, 0, len(left))
		for name := range left {
			missing = append(missing, name)
		}
		return fmt.Errorf("%w: it lacks %d files, %s", errTar, len(left), slices.Min(missing))
	}
	return nil
}
