package hostfiles_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/hostfiles"
)

// What a set does not hold is named in its manifest, here and through a Runner.
func TestExtras(t *testing.T) {
	t.Parallel()
	needGNU(t)
	root := tykHost(t)
	set := func(name, attr string, value []byte) {
		if err := unix.Lsetxattr(filepath.Join(root, name), attr, value, 0); err != nil {
			t.Skipf("%s: this file system has no such attributes: %v", attr, err)
		}
	}
	set("opt/tyk-gateway/tyk.conf", "user.origin", []byte("x"))
	set("opt/tyk-gateway/apps", "user.origin", []byte("x"))
	// An ACL of version 2: owner rw-, user 65534 r--, group r--, mask r--, other ---.
	set("opt/tyk-pump/pump.conf", "system.posix_acl_access", []byte("\x02\x00\x00\x00"+
		"\x01\x00\x06\x00\xff\xff\xff\xff"+"\x02\x00\x04\x00\xfe\xff\x00\x00"+
		"\x04\x00\x04\x00\xff\xff\xff\xff"+
		"\x10\x00\x04\x00\xff\xff\xff\xff"+"\x20\x00\x00\x00\xff\xff\xff\xff"))
	for what, src := range map[string]*hostfiles.Source{
		"local":  {FS: os.DirFS(root)},
		"remote": {Runner: localRunner, Paths: []string{root + "/opt"}},
	} {
		warnings := takePlain(t, t.TempDir(), src).Components[0].Warnings
		for _, want := range []string{`opt/tyk-gateway/tyk.conf has the attribute "user.origin"`,
			`opt/tyk-gateway/apps has the attribute "user.origin"`, "opt/tyk-pump/pump.conf has an ACL"} {
			if !slices.ContainsFunc(warnings, func(w string) bool { return strings.Contains(w, want) }) {
				t.Errorf("%s: no %q in %q", what, want, warnings)
			}
		}
		if len(warnings) != 3 {
			t.Errorf("%s: %d warnings: %q", what, len(warnings), warnings)
		}
	}
}

// vanishing is a file system in which a file goes once it was listed.
type vanishing struct {
	fs.FS
	name string
	n    *int
}

func (v vanishing) Lstat(name string) (fs.FileInfo, error) {
	if name == v.name {
		if *v.n++; *v.n > 2 { // Plan and Backup have listed it
			return nil, &fs.PathError{Op: "lstat", Path: name, Err: fs.ErrNotExist}
		}
	}
	return fs.Lstat(v.FS, name)
}

func (v vanishing) ReadLink(name string) (string, error) { return fs.ReadLink(v.FS, name) }

// A file that goes between the list and its reading is named, with an error that says
// that the next run may succeed.
func TestVanishes(t *testing.T) {
	t.Parallel()
	needGNU(t)
	root := t.TempDir()
	write(t, root, "etc/a", "a", 0o600)
	write(t, root, "etc/b", "b", 0o600)
	n := 0
	remote := func(ctx context.Context, argv []string, in io.Reader, out, errOut io.Writer) error {
		if slices.Contains(argv, "tar") {
			_ = os.Remove(filepath.Join(root, "etc/b"))
		}
		return localRunner(ctx, argv, in, out, errOut)
	}
	for what, src := range map[string]*hostfiles.Source{
		"/etc/a":        {FS: vanishing{os.DirFS(root), "etc/a", &n}, Paths: []string{"/etc/a"}},
		root + "/etc/b": {Runner: remote, Paths: []string{root + "/etc"}},
	} {
		_, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, src)
		var e *backup.Error
		if !errors.As(err, &e) || !errors.Is(err, backup.ErrChanged) || !errors.Is(err, fs.ErrNotExist) ||
			!e.Retryable() || e.Hint() == "" || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
