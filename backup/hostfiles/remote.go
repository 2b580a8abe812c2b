package hostfiles

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// remoteHost reads with GNU find, tar and xargs through a Runner.
type remoteHost struct{ run backup.Runner }

func (h remoteHost) lstat(ctx context.Context, paths []string) ([]entry, error) {
	return h.find(ctx, paths, "-maxdepth 0")
}

func (h remoteHost) children(ctx context.Context, dirs []string) ([]entry, error) {
	return h.find(ctx, dirs, "-mindepth 1 -maxdepth 1")
}

func (h remoteHost) tree(ctx context.Context, dirs []string) ([]entry, error) {
	return h.find(ctx, dirs, "-mindepth 1")
}

// findFormat is type, size, mode, owner, hard links, time, path and target.
const findFormat = `%y\t%s\t%m\t%U\t%G\t%u\t%g\t%n\t%T@\t%p\0%l\0`

// find lists all roots in one call. It leaves out roots that do not exist.
func (h remoteHost) find(ctx context.Context, roots []string, depth string) ([]entry, error) {
	var in, out, errOut bytes.Buffer
	for _, r := range roots {
		in.WriteString(r + "\x00")
	}
	script := "exec find -P \"$@\" " + depth + " -printf '" + findFormat + "'"
	err := h.run(ctx, []string{"env", "LC_ALL=C", "xargs", "-0", "-r", "sh", "-c", script, "sh"}, &in,
		&out, &errOut)
	if e := step.Ended(ctx); e != nil {
		return nil, step.Fail("list", "files of the remote host", e)
	}
	// Exit code 1 of find, 123 of xargs, also means that something vanished, which
	// is not an error.
	if err != nil && ((exitCode(err) != 1 && exitCode(err) != 123) || !onlyMissing(errOut.String())) {
		return nil, step.Fail("list", "files of the remote host", err)
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
		if line != "" && !strings.HasSuffix(line, ": No such file or directory") &&
			!strings.HasSuffix(line, ": Not a directory") {
			return false
		}
	}
	return true
}

// parseFind reads what find writes in [findFormat].
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
		e, err := parseEntry(string(fields[i]))
		if err != nil {
			return nil, fmt.Errorf("a listing line that begins with %.40q: %w", fields[i], err)
		}
		e.link = string(fields[i+1])
		out = append(out, e)
	}
	return out, nil
}

func parseEntry(line string) (entry, error) {
	f := strings.SplitN(line, "\t", 10)
	if len(f) != 10 || len(f[0]) != 1 || !path.IsAbs(f[9]) {
		return entry{}, errors.New("it has other fields")
	}
	e := entry{path: path.Clean(f[9]), typ: f[0][0]}
	size, err1 := strconv.ParseInt(f[1], 10, 64)
	mode, err2 := strconv.ParseUint(f[2], 8, 12)
	uid, err3 := strconv.ParseUint(f[3], 10, 32)
	gid, err4 := strconv.ParseUint(f[4], 10, 32)
	links, err5 := strconv.ParseUint(f[7], 10, 64)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil || size < 0 {
		return entry{}, errors.New("invalid number")
	}
	if e.typ == 'f' {
		e.size = size
	}
	e.links = links
	e.meta = backup.Meta{Mode: step.FileMode(uint32(mode)), UID: int(uid), GID: int(gid),
		User: name(f[5]), Group: name(f[6]), ModTime: unixTime(f[8])}
	return e, nil
}

// name returns "" for a number, which find prints instead of a missing name.
func name(s string) string {
	if _, err := strconv.Atoi(s); err == nil {
		return ""
	}
	return s
}

// unixTime reads seconds with a fraction; find 4.8 prints ten digits of it.
func unixTime(s string) time.Time {
	whole, frac, _ := strings.Cut(s, ".")
	sec, _ := strconv.ParseInt(whole, 10, 64)
	nsec, _ := strconv.ParseInt((frac + "000000000")[:9], 10, 64)
	return time.Unix(sec, nsec)
}

func (h remoteHost) read(ctx context.Context, entries []entry, reset func() error, f func(entry,
	backup.Meta, io.Reader) error) error {
	said := ""
	for try := range readTries {
		if try > 0 {
			if err := errors.Join(pause(ctx), reset()); err != nil {
				return err
			}
		}
		var err error
		if said, err = h.readAll(ctx, entries, f); said == "" || err != nil {
			return err
		}
	}
	for _, e := range entries {
		if strings.Contains(said, ": "+strings.TrimPrefix(e.path, "/")+": Cannot ") {
			return errVanished(e.path)
		}
	}
	return errKeepsChanging("files of the remote host")
}

// readAll streams one tar archive of all entries. If a file changes while it is read, GNU tar exits
// with 1, and readAll returns tar's messages.
func (h remoteHost) readAll(ctx context.Context, entries []entry, f func(entry, backup.Meta,
	io.Reader) error) (changed string, err error) {
	var names bytes.Buffer
	for _, e := range entries {
		names.WriteString(strings.TrimPrefix(e.path, "/"))
		names.WriteByte(0)
	}
	argv := []string{"env", "LC_ALL=C", "tar", "--create", "--file=-", "--format=pax", "--directory=/",
		"--no-recursion", "--hard-dereference", "--acls", "--xattrs", "--null", "--files-from=-"}
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
	if parseErr != nil && !errors.Is(parseErr, errLacks) { // otherwise tar's own error is better
		cancel()
	}
	_, _ = io.Copy(io.Discard, pr)
	_ = pr.Close()
	runErr := <-done
	switch code := exitCode(runErr); {
	case parseErr != nil && runErr == nil:
		return "", parseErr
	case parseErr != nil && !errors.Is(parseErr, errTar):
		return "", parseErr
	case runErr == nil:
		return "", nil
	case code == 1 || (code == 2 && onlyVanished(errOut.String())):
		return "changed: " + errOut.String(), nil
	}
	return "", step.Fail("read", "files of the remote host", runErr)
}

// onlyVanished reports whether tar failed only because listed files have vanished.
func onlyVanished(stderr string) bool {
	if stderr == "" {
		return false
	}
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if !strings.HasSuffix(line, "No such file or directory") && !strings.Contains(line,
			"Exiting with failure status") && !strings.Contains(line, "file changed as we read it") {
			return false
		}
	}
	return true
}

var (
	errTar   = errors.New("the archive has unexpected content")
	errLacks = fmt.Errorf("%w: it lacks files", errTar)
)

// readTar passes on the wanted entries of a tar archive, each exactly once.
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
		e, ok := left["/"+strings.TrimSuffix(h.Name, "/")]
		if !ok {
			return fmt.Errorf("%w: %.200q", errTar, h.Name)
		}
		delete(left, e.path)
		switch {
		case h.Typeflag == tar.TypeReg && e.typ == 'f', h.Typeflag == tar.TypeSymlink && e.typ == 'l',
			h.Typeflag == tar.TypeDir && e.typ == 'd':
		default:
			return fmt.Errorf("%w: %.200q is of type %q", errTar, h.Name, h.Typeflag)
		}
		e.link, e.extras = h.Linkname, extrasOfHeader(h)
		m := backup.Meta{Mode: step.FileMode(uint32(h.Mode & 0o7777)), UID: h.Uid, GID: h.Gid,
			User: h.Uname, Group: h.Gname, ModTime: h.ModTime}
		if err := f(e, m, tr); err != nil {
			return err
		}
	}
	if len(left) > 0 {
		missing := make([]string, 0, len(left))
		for name := range left {
			missing = append(missing, name)
		}
		return fmt.Errorf("%w: %d, %s", errLacks, len(left), slices.Min(missing))
	}
	return nil
}
