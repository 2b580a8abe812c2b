package hostfiles_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/hostfiles"
)

// linkedHost is tykHost with the gateway's directory on another file system.
func linkedHost(t *testing.T) string {
	root := tykHost(t)
	from, to := filepath.Join(root, "opt/tyk-gateway"), filepath.Join(root, "data/tyk-gateway")
	err := errors.Join(os.Mkdir(filepath.Dir(to), 0o750), os.Rename(from, to),
		os.Symlink("/data/tyk-gateway", from))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func paths(set *backup.Set) (out []string) {
	for _, f := range set.Files {
		name := strings.TrimPrefix(f.Path, "config")
		if f.Link != "" {
			name += " -> " + f.Link
		}
		out = append(out, name)
	}
	return out
}

// A component behind a link is taken with the link, and both come back on a
// fresh host, with the directories as they were.
func TestLinkedComponent(t *testing.T) {
	t.Parallel()
	root := linkedHost(t)
	if err := os.MkdirAll(filepath.Join(root, "data/tyk-gateway/apps/empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	set := takePlain(t, t.TempDir(), &hostfiles.Source{FS: os.DirFS(root)})
	got := paths(set)
	for _, want := range []string{"/opt/tyk-gateway -> /data/tyk-gateway",
		"/data/tyk-gateway/tyk.conf", "/data/tyk-gateway/apps/app_sample.json"} {
		if !slices.Contains(got, want) {
			t.Errorf("the set lacks %s: %q", want, got)
		}
	}
	fresh := t.TempDir()
	r := &hostfiles.Restore{Root: fresh, Paths: append(hostfiles.DefaultPaths(), "/opt/odd",
		"/opt/tyk-gateway", "/data/tyk-gateway")}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, r); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"data": 0o750, "data/tyk-gateway/apps/empty": 0o700,
		"data/tyk-gateway": 0o755} {
		if info, err := os.Stat(filepath.Join(fresh, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	// A mode that changed is found, and put right with the old one in the rescue set.
	empty := filepath.Join(fresh, "data/tyk-gateway/apps/empty")
	if err := os.Chmod(empty, 0o777); err != nil {
		t.Fatal(err)
	}
	st, _ := set.Component("config")
	if err := r.Prove(t.Context(), st); !errors.Is(err, backup.ErrDiffers) ||
		!strings.Contains(err.Error(), "apps/empty") {
		t.Errorf("a directory with another mode: %v", err)
	}
	r.Rescue = t.TempDir()
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, r); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(empty); info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v", info.Mode())
	}
	for _, want := range []backup.State{backup.StateUndone, backup.StateNothing} {
		report, err := set.Undo(t.Context(), r)
		if err != nil || report.Components[0].State != want {
			t.Fatalf("%+v %v, want %s", report, err, want)
		}
	}
	if info, _ := os.Stat(empty); info.Mode().Perm() != 0o777 {
		t.Errorf("after Undo: mode %v", info.Mode())
	}
}

// A wildcard below a linked directory is expanded behind the link, here and on
// another host.
func TestLinkedWildcard(t *testing.T) {
	t.Parallel()
	needGNU(t)
	root := t.TempDir()
	write(t, root, "data/gw/policies/a.json", "{}", 0o600)
	if err := errors.Join(os.Mkdir(filepath.Join(root, "opt"), 0o755), os.Symlink("../data/gw",
		filepath.Join(root, "opt/gw"))); err != nil {
		t.Fatal(err)
	}
	for name, src := range map[string]*hostfiles.Source{
		"local":  {FS: os.DirFS(root), Paths: []string{"/opt/*/policies/*.json"}},
		"remote": {Runner: localRunner, Paths: []string{root + "/opt/*/policies/*.json"}},
	} {
		got := strings.Join(paths(takePlain(t, t.TempDir(), src)), "\n")
		if !strings.Contains(got, "/opt/gw -> ../data/gw") || !strings.Contains(got,
			"/data/gw/policies/a.json") {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// An installed package without its files is not a host without the component.
func TestInstalledWithoutFiles(t *testing.T) {
	t.Parallel()
	root := tykHost(t)
	write(t, root, "var/lib/dpkg/info/tyk-dashboard.md5sums", "", 0o644)
	_, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, &hostfiles.Source{
		FS: os.DirFS(root)})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(),
		"/opt/tyk-dashboard/tyk_analytics.conf") {
		t.Errorf("got %v", err)
	}
}

// Links to / and to devices are kept as links.
func TestOddLinks(t *testing.T) {
	t.Parallel()
	root := tykHost(t)
	err := errors.Join(os.Symlink("/", filepath.Join(root, "opt/tyk-gateway/apps/all")),
		os.Symlink("/dev/null", filepath.Join(root, "etc/systemd/system/tyk-pump.service")))
	if err != nil {
		t.Fatal(err)
	}
	for _, src := range []*hostfiles.Source{{FS: os.DirFS(root)}, {Runner: localRunner,
		Paths: []string{root + "/opt/tyk-gateway", root + "/etc"}}} {
		set := takePlain(t, t.TempDir(), src)
		got := strings.Join(paths(set), "\n")
		if !strings.Contains(got, "apps/all -> /\n") || !strings.Contains(got,
			"tyk-pump.service -> /dev/null") || len(set.Files) > 20 {
			t.Errorf("%d files: %s", len(set.Files), got)
		}
		if w := strings.Join(set.Components[0].Warnings, "\n"); !strings.Contains(w, "link to /") ||
			strings.Contains(w, "null") {
			t.Errorf("warnings %q", w)
		}
	}
}

// A file where the set has a directory is found by the dry run.
func TestParentIsAFile(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	set := takePlain(t, t.TempDir(), &hostfiles.Source{FS: os.DirFS(tykHost(t))})
	write(t, root, "opt/tyk-gateway", "a file", 0o644)
	r := &hostfiles.Restore{Root: root, Paths: []string{"/opt", "/etc", "/lib"}}
	_, err := set.Restore(t.Context(), backup.RestoreOptions{DryRun: true}, r)
	var e *backup.Error
	if !errors.As(err, &e) || !strings.Contains(err.Error(), "/opt/tyk-gateway") ||
		!strings.Contains(err.Error(), "move it") {
		t.Errorf("got %v", err)
	}
}
