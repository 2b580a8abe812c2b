package hostfiles_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/hostfiles"
)

// Nothing is written into a set: it would not verify any more.
func TestSetsAreLeftAlone(t *testing.T) {
	t.Parallel()
	root, dir := tykHost(t), t.TempDir()
	set := takePlain(t, dir, &hostfiles.Source{FS: os.DirFS(root)})
	write(t, root, "opt/tyk-gateway/tyk.conf", "replaced", 0o600)
	before := [2]map[string]string{tree(t, root), tree(t, dir)}
	for _, rescue := range []string{set.Dir, filepath.Join(set.Dir, "config/new")} {
		for _, dry := range []bool{true, false} {
			_, err := set.Restore(t.Context(), backup.RestoreOptions{DryRun: dry}, &hostfiles.Restore{
				Root: root, Rescue: rescue})
			var e interface{ Hint() string }
			if !errors.As(err, &e) || !strings.Contains(e.Hint(), "directory") {
				t.Errorf("%s: %v", rescue, err)
			}
		}
	}
	inside := filepath.Join(set.Dir, "config", "more")
	if _, err := backup.Take(t.Context(), inside, backup.Options{}, text("a", "")); err == nil {
		t.Error("took a set inside of another")
	}
	if err := set.Export(t.Context(), filepath.Join(set.Dir, "x.tar.zst"),
		backup.ExportOptions{}); err == nil {
		t.Error("exported into the set")
	}
	if _, err := backup.Import(t.Context(), inside, strings.NewReader(""),
		backup.ImportOptions{}); err == nil || !strings.Contains(err.Error(), "inside the set") {
		t.Errorf("import: %v", err)
	}
	for i, d := range []string{root, dir} {
		if after := tree(t, d); !maps.Equal(after, before[i]) {
			t.Errorf("something changed: %v", after)
		}
	}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, &hostfiles.Restore{Root: root,
		Rescue: filepath.Join(dir, "rescued")}); err != nil {
		t.Error(err)
	}
	if sets, err := backup.List(dir); err != nil || len(sets) != 1 {
		t.Errorf("%d sets, %v", len(sets), err)
	}
}

func filesRestore(t *testing.T, remote bool) {
	root := tykHost(t)
	if os.Geteuid() == 0 {
		if err := os.Chown(filepath.Join(root, "opt/tyk-pump/pump.conf"), 12345, 54321); err != nil {
			t.Fatal(err)
		}
	}
	src := &hostfiles.Source{FS: os.DirFS(root)}
	r := &hostfiles.Restore{Root: root, Rescue: t.TempDir(), Paths: append(hostfiles.DefaultPaths(),
		"/opt/odd")}
	inSet := func(p string) string { return p }
	if remote {
		needGNU(t)
		src = &hostfiles.Source{Runner: localRunner, Paths: []string{root + "/opt", root + "/etc"}}
		r = &hostfiles.Restore{Runner: localRunner, Rescue: t.TempDir(), Paths: []string{root}}
		inSet = func(p string) string { return root + p }
	}
	set := takePlain(t, t.TempDir(), src)
	before := tree(t, root)

	write(t, root, "opt/tyk-gateway/tyk.conf", "{}", 0o600)
	write(t, root, "opt/tyk-gateway/apps/new.json", "stays", 0o600)
	pump := filepath.Join(root, "opt/tyk-pump/pump.conf")
	link := filepath.Join(root, "opt/tyk-gateway/templates/link")
	if err := errors.Join(os.Remove(pump), os.Remove(link), os.Chmod(filepath.Join(root,
		"etc/default/tyk-gateway"), 0o600)); err != nil {
		t.Fatal(err)
	}
	write(t, root, "opt/tyk-gateway/templates/link", "a file where the link was", 0o600)

	noRescue := *r
	noRescue.Rescue = ""
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, &noRescue); err == nil {
		t.Error("files were replaced without a rescue directory")
	}
	report, err := set.Restore(t.Context(), backup.RestoreOptions{}, r)
	if err != nil {
		t.Fatal(err)
	}
	actions := map[string]backup.Action{}
	for _, i := range report.Components[0].Items {
		actions[i.Name] = i.Action
	}
	for name, want := range map[string]backup.Action{
		"/opt/tyk-gateway/tyk.conf": backup.ActionReplace, "/opt/tyk-pump/pump.conf": backup.ActionCreate,
		"/opt/tyk-gateway/templates/link":       backup.ActionReplace,
		"/etc/default/tyk-gateway":              backup.ActionReplace,
		"/opt/tyk-gateway/middleware/sample.js": backup.ActionSame,
	} {
		if actions[inSet(name)] != want {
			t.Errorf("%s: %q, want %q", name, actions[inSet(name)], want)
		}
	}
	after := tree(t, root)
	if after["opt/tyk-gateway/apps/new.json"] == "" {
		t.Error("a file that the set does not have is gone")
	}
	delete(after, "opt/tyk-gateway/apps/new.json")
	for name, want := range before {
		if after[name] != want {
			t.Errorf("%s:\n got %s\nwant %s", name, after[name], want)
		}
	}
	for name := range after {
		if before[name] == "" {
			t.Errorf("left over: %s", name)
		}
	}
	kept, err := backup.List(r.Rescue)
	if err != nil || len(kept) != 1 || kept[0].Components[0].Items != 3 {
		t.Fatalf("rescued: %v %v", kept, err)
	}
	// The rescue set is the way back.
	if _, err := kept[0].Restore(t.Context(), backup.RestoreOptions{}, r); err != nil {
		t.Error(err)
	}
	if data, _ := os.ReadFile(filepath.Join(root, "opt/tyk-gateway/tyk.conf")); string(data) != "{}" {
		t.Errorf("tyk.conf is %q", data)
	}
	one := &hostfiles.Restore{Paths: r.Paths, Root: r.Root, Runner: r.Runner, Rescue: r.Rescue,
		Only: []string{inSet("/opt/*/tyk.conf")}}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, one); err != nil {
		t.Error(err)
	}
	if data, _ := os.ReadFile(link); string(data) != "a file where the link was" {
		t.Error("Only did not leave the others alone")
	}
	one.Only = []string{"/no/such"}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, one); err == nil {
		t.Error("Only that hits nothing was accepted")
	}
}

// A failure half way brings back what was replaced and removes what was made.
func TestFilesRestoreRollback(t *testing.T) {
	t.Parallel()
	needGNU(t)
	for _, remote := range []bool{false, true} {
		root := t.TempDir()
		write(t, root, "a", "old a", 0o600)
		write(t, root, "b", "old b", 0o600)
		src := &hostfiles.Source{Runner: localRunner, Paths: []string{root + "/a", root + "/b"}}
		set := takePlain(t, t.TempDir(), src)
		if err := os.Remove(filepath.Join(root, "b")); err != nil {
			t.Fatal(err)
		}
		write(t, root, "a", "new a", 0o600)
		r := &hostfiles.Restore{Rescue: t.TempDir(), Paths: []string{root}}
		ctx, cancel := context.WithCancel(t.Context())
		if remote {
			moves := 0
			r.Runner = func(ctx context.Context, argv []string, in io.Reader, out, errOut io.Writer) error {
				if strings.Contains(argv[len(argv)-1], "rename(") {
					if moves++; moves == 1 {
						defer cancel()
						err := localRunner(ctx, argv, in, out, errOut)
						return errors.Join(err, errors.New("connection lost"))
					}
				}
				return localRunner(ctx, argv, in, out, errOut)
			}
		}
		progress := func(e backup.Event) {
			if e.Phase == backup.PhaseRestore && e.Items == 1 && !remote {
				cancel()
			}
		}
		_, err := set.Restore(ctx, backup.RestoreOptions{Progress: progress}, r)
		cancel()
		if err == nil {
			t.Fatal("no error")
		}
		if data, _ := os.ReadFile(filepath.Join(root, "a")); string(data) != "new a" {
			t.Errorf("remote %v: a is %q after %v", remote, data, err)
		}
		if left := tree(t, root); len(left) != 1 {
			t.Errorf("remote %v: left %v", remote, left)
		}
	}
}
