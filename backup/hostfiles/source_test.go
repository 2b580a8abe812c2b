package hostfiles_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/hostfiles"
)

// Files that change while they are read are read again; one that never rests
// is an error.
func TestFilesChanging(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write(t, root, "etc/restless", "0", 0o600)
	changes := 2
	fsys := changingFS{os.DirFS(root), func() {
		if changes--; changes >= 0 {
			write(t, root, "etc/restless", strings.Repeat("x", changes+1), 0o600)
		}
	}}
	src := &hostfiles.Source{FS: fsys, Paths: []string{"/etc/restless"}}
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, src)
	if err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(filepath.Join(set.Dir, "config/etc/restless")); string(data) != "x" {
		t.Errorf("read %q", data)
	}
	changes = 1000
	_, err = backup.Take(t.Context(), t.TempDir(), backup.Options{}, src)
	var e *backup.Error
	if !errors.Is(err, backup.ErrChanged) || !errors.As(err, &e) || !e.Retryable() {
		t.Errorf("got %v", err)
	}
}

// changingFS calls a function whenever a file has been read to its end.
type changingFS struct {
	fs.FS
	change func()
}

func (c changingFS) Lstat(name string) (fs.FileInfo, error)     { return fs.Lstat(c.FS, name) }
func (c changingFS) ReadLink(name string) (string, error)       { return fs.ReadLink(c.FS, name) }
func (c changingFS) Stat(name string) (fs.FileInfo, error)      { return fs.Stat(c.FS, name) }
func (c changingFS) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(c.FS, name) }

func (c changingFS) Open(name string) (fs.File, error) {
	f, err := c.FS.Open(name)
	if info, e := fs.Stat(c.FS, name); err == nil && e == nil && info.Mode().IsRegular() {
		return changingFile{f, c.change}, nil
	}
	return f, err
}

type changingFile struct {
	fs.File
	change func()
}

func (f changingFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	if errors.Is(err, io.EOF) {
		f.change()
	}
	return n, err
}

func TestFilesDefaults(t *testing.T) {
	t.Parallel()
	set := takePlain(t, t.TempDir(), &hostfiles.Source{FS: os.DirFS(tykHost(t))})
	var got []string
	for _, f := range set.Files {
		name := strings.TrimPrefix(f.Path, "config/")
		if f.Link != "" {
			name += " -> " + f.Link
		}
		got = append(got, name)
	}
	want := []string{
		"etc/default/tyk-gateway", "etc/systemd/system/tyk-gateway.service.d/x.conf",
		"lib/systemd/system/tyk-gateway.service",
		"opt/odd/a name with spaces\nand a \\ in it", "opt/tyk-gateway/apps/app_sample.json",
		"opt/tyk-gateway/event_handlers/sample/a.js",
		"opt/tyk-gateway/middleware/sample.js", "opt/tyk-gateway/policies/policies.json",
		"opt/tyk-gateway/templates/error_500.json",
		"opt/tyk-gateway/templates/link -> ../../odd/a name with spaces\nand a \\ in it",
		"opt/tyk-gateway/templates/playground/index",
		"opt/tyk-gateway/tyk.conf", "opt/tyk-pump/pump.conf",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	// A link that leads nowhere is kept, and told.
	root := tykHost(t)
	if err := os.Symlink("nowhere", filepath.Join(root, "opt/tyk-gateway/apps/dangling")); err != nil {
		t.Fatal(err)
	}
	set = takePlain(t, t.TempDir(), &hostfiles.Source{FS: os.DirFS(root)})
	if w := set.Components[0].Warnings; len(w) != 1 || !strings.Contains(w[0], "apps/nowhere") {
		t.Errorf("warnings %q", w)
	}
	// The dashboard is not installed, the pump's file is gone.
	if err := os.Remove(filepath.Join(root, "opt/tyk-pump/pump.conf")); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, &hostfiles.Source{
		FS: os.DirFS(root)}); err == nil || !strings.Contains(err.Error(), "/opt/tyk-pump/pump.conf") {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, &hostfiles.Source{
		FS: fstest.MapFS{}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a host without Tyk: %v", err)
	}
}

// JSON would change such a name silently.
func TestFilesNotUTF8(t *testing.T) {
	t.Parallel()
	for what, make := range map[string]func(root string) error{
		"name": func(root string) error {
			return os.WriteFile(filepath.Join(root, "etc", "a\xff"), nil,
				0o600)
		},
		"link": func(root string) error { return os.Symlink("a\xff", filepath.Join(root, "etc", "l")) },
	} {
		root := t.TempDir()
		write(t, root, "etc/b", "b", 0o600)
		if err := make(root); err != nil {
			t.Skipf("%s: %v", what, err) // a file system that allows only UTF-8
		}
		_, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, &hostfiles.Source{
			FS: os.DirFS(root), Paths: []string{"/etc"}})
		if err == nil || !strings.Contains(err.Error(), "UTF-8") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestFilesRefuses(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]*hostfiles.Source{
		"neither":   {},
		"relative":  {FS: fstest.MapFS{}, Paths: []string{"etc"}},
		"not clean": {FS: fstest.MapFS{}, Paths: []string{"/etc/../etc"}},
		"root":      {FS: fstest.MapFS{}, Paths: []string{"/"}},
		"pattern":   {FS: fstest.MapFS{}, Paths: []string{"/etc/["}},
	} {
		if _, err := f.Plan(t.Context()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Mode, owner, time and links come back; what was there is kept; what is the
// same is left alone.
func TestFilesRestore(t *testing.T) {
	t.Parallel()
	for name, remote := range map[string]bool{"local": false, "remote": true} {
		t.Run(name, func(t *testing.T) { t.Parallel(); filesRestore(t, remote) })
	}
}

// A remote file that changes while tar reads it makes tar end with 1.
func TestFilesRemoteChanging(t *testing.T) {
	t.Parallel()
	needGNU(t)
	root := t.TempDir()
	write(t, root, "a", "content", 0o600)
	runs := 0
	flaky := func(ctx context.Context, argv []string, in io.Reader, out, errOut io.Writer) error {
		err := localRunner(ctx, argv, in, out, errOut)
		if slices.Contains(argv, "tar") {
			if runs++; runs == 1 {
				_, _ = io.WriteString(errOut, "tar: a: file changed as we read it\n")
				return exitError(1)
			}
		}
		return err
	}
	set := takePlain(t, t.TempDir(), &hostfiles.Source{Runner: flaky, Paths: []string{root + "/a"}})
	if runs != 2 || len(set.Files) != 1 {
		t.Errorf("%d runs, %d files", runs, len(set.Files))
	}
	broken := func(ctx context.Context, argv []string, in io.Reader, out, errOut io.Writer) error {
		if slices.Contains(argv, "tar") {
			var whole bytes.Buffer
			err := localRunner(ctx, argv, in, &whole, errOut)
			_, _ = out.Write(whole.Bytes()[:whole.Len()/8])
			return err
		}
		return localRunner(ctx, argv, in, out, errOut)
	}
	if _, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, &hostfiles.Source{
		Runner: broken, Paths: []string{root + "/a"}}); err == nil {
		t.Error("half an archive was accepted")
	}
}

type exitError int

func (e exitError) Error() string { return "exit status" }
func (e exitError) ExitCode() int { return int(e) }
