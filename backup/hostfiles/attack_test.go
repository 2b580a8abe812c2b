package hostfiles_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/backuptest"
	"example.com/tykupgrade/backup/hostfiles"
	"example.com/tykupgrade/internal/lab"
)

// nobody is the unprivileged user of these tests.
const nobody = 65534

func needRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("root is needed to act as another user")
	}
}

// usersHost is a host on which nobody owns the gateway's directory.
func usersHost(t *testing.T) (root string, set *backup.Set) {
	root = t.TempDir()
	write(t, root, "opt/tyk-gateway/tyk.conf", `{"a":1}`, 0o640)
	write(t, root, "opt/tyk-gateway/apps/a.json", `{"a":1}`, 0o640)
	write(t, root, "etc/profile.d/x", "", 0o644)
	for _, p := range []string{"opt/tyk-gateway", "opt/tyk-gateway/apps",
		"opt/tyk-gateway/apps/a.json", "opt/tyk-gateway/tyk.conf"} {
		if err := os.Lchown(filepath.Join(root, p), nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	return root, takePlain(t, t.TempDir(), &hostfiles.Source{FS: os.DirFS(root)})
}

// A user's link on the way is never followed, here or through a Runner.
func TestUsersLink(t *testing.T) {
	t.Parallel()
	needRoot(t)
	root, set := usersHost(t)
	apps := filepath.Join(root, "opt/tyk-gateway/apps")
	err := errors.Join(os.RemoveAll(apps), os.Symlink(filepath.Join(root, "etc/profile.d"), apps),
		os.Lchown(apps, nobody, nobody))
	if err != nil {
		t.Fatal(err)
	}
	r := &hostfiles.Restore{Root: root, Rescue: t.TempDir()}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, r); !errors.Is(err,
		backup.ErrUnsafe) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(filepath.Join(root, "etc/profile.d/a.json")); err == nil {
		t.Error("root wrote through the link")
	}
}

// A link to a file that its owner may not read is not archived as configuration.
func TestUsersLinkIsNotRead(t *testing.T) {
	t.Parallel()
	needRoot(t)
	root, _ := usersHost(t)
	write(t, root, "etc/shadow", "root:secret", 0o600)
	conf := filepath.Join(root, "opt/tyk-gateway/tyk.conf")
	if err := errors.Join(os.Remove(conf), os.Symlink("/etc/shadow", conf), os.Lchown(conf, nobody,
		nobody)); err != nil {
		t.Fatal(err)
	}
	set := takePlain(t, t.TempDir(), &hostfiles.Source{FS: os.DirFS(root)})
	if got := strings.Join(paths(set), "\n"); strings.Contains(got, "/etc/shadow\n") ||
		strings.HasSuffix(got, "/etc/shadow") && !strings.HasSuffix(got, "-> /etc/shadow") {
		t.Errorf("took %s", got)
	}
	if w := strings.Join(set.Components[0].Warnings, "\n"); !strings.Contains(w,
		"user 65534 controls") {
		t.Errorf("warnings %q", w)
	}
}

// asNobody runs a perl script in dir, below root, as the unprivileged user until the test
// ends.
func asNobody(t *testing.T, root, dir, script string) {
	t.Helper()
	if err := os.Chmod(filepath.Dir(root), 0o755); err != nil { // closed to others before
		t.Fatal(err)
	}
	cmd := exec.Command(lab.Program(t, "perl", "perl-base"), "-e", script)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody},
		Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatalf("the attacker did not begin: %v", err)
	}
}

const rounds = 200 // of each race

// A process of the user swaps the directory for a link while root restores.
func TestUsersRace(t *testing.T) {
	t.Parallel()
	needRoot(t)
	root, set := usersHost(t)
	apps := filepath.Join(root, "opt/tyk-gateway/apps")
	away, link := apps+".away", apps+".link"
	if err := errors.Join(os.Symlink(filepath.Join(root, "etc/profile.d"), link), os.Lchown(link,
		nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	asNobody(t, root, filepath.Dir(apps),
		`$|=1; print "x"; while(1){rename("apps","apps.away");rename("apps.link","apps");rename("apps","apps.link");rename("apps.away","apps");select(undef,undef,undef,1e-5)}`)
	st, _ := set.Component("config")
	restored := 0
	for range rounds {
		_ = os.Remove(filepath.Join(away, "a.json"))
		_ = os.Remove(filepath.Join(apps, "a.json"))
		r := &hostfiles.Restore{Root: root}
		if _, err := r.Restore(t.Context(), st, func(backup.Event) {}); err == nil {
			restored++
		}
		if entries, _ := os.ReadDir(filepath.Join(root, "etc/profile.d")); len(entries) != 1 {
			t.Fatalf("root wrote into another directory: %v", entries)
		}
	}
	t.Logf("%d of %d restores were not disturbed", restored, rounds)
}

// A process of the user swaps root's temporary file for a link to a file of root: neither
// owner nor mode, time or content of that changes.
func TestUsersTempRace(t *testing.T) {
	t.Parallel()
	needRoot(t)
	root, _ := usersHost(t)
	write(t, root, "opt/tyk-gateway/apps/a.json", `{"a":1}`, 0o755)
	// a mode worth having for root's file
	set := takePlain(t, t.TempDir(), &hostfiles.Source{FS: os.DirFS(root)})
	write(t, root, "etc/shadow", "root:secret", 0o600)
	victim := filepath.Join(root, "etc/shadow")
	before := backuptest.Tree(t, filepath.Dir(victim))
	dir := filepath.Join(root, "opt/tyk-gateway/apps")
	asNobody(t, root, dir,
		`$|=1; print "x"; $n=0; while(1){opendir(D,".");for(readdir D){next if !/restore-/||-l;$n++;rename($_,"stolen$n");symlink("`+victim+`",$_)}closedir D;select(undef,undef,undef,1e-5)}`)
	st, _ := set.Component("config")
	for range rounds {
		_ = os.Remove(filepath.Join(dir, "a.json"))
		r := &hostfiles.Restore{Root: root}
		_, _ = r.Restore(t.Context(), st, func(backup.Event) {})
	}
	if after := backuptest.Tree(t, filepath.Dir(victim)); after != before {
		t.Errorf("root's file changed:\n%s\n%s", before, after)
	}
	stolen, err := filepath.Glob(filepath.Join(dir, "stolen*"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d temporary files were swapped", len(stolen))
	if len(stolen) == 0 {
		t.Error("no temporary file was swapped: the test shows nothing")
	}
	for _, name := range stolen {
		if info, err := os.Lstat(name); err == nil && info.Mode()&os.ModeSetuid != 0 {
			t.Errorf("the user has a set-user-ID file: %v", info.Mode())
		}
	}
}

// A set does not say itself where it may write, and set-id bits stay away.
func TestForgedSet(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	forged := t.TempDir()
	write(t, forged, "etc/cron.d/evil", "* * * * * root sh", 0o644)
	set := takePlain(t, t.TempDir(), &hostfiles.Source{FS: os.DirFS(forged),
		Paths: []string{"/etc/cron.d/evil"}})
	_, err := set.Restore(t.Context(), backup.RestoreOptions{}, &hostfiles.Restore{Root: root})
	if !errors.Is(err, backup.ErrUnsafe) || !strings.Contains(err.Error(), "/etc/cron.d/evil") {
		t.Errorf("got %v", err)
	}
	write(t, forged, "opt/tyk-gateway/tyk.conf", "x", 0o755)
	if err := os.Chmod(filepath.Join(forged, "opt/tyk-gateway/tyk.conf"),
		0o755|os.ModeSetuid|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	set = takePlain(t, t.TempDir(), &hostfiles.Source{FS: os.DirFS(forged)})
	for _, keep := range []bool{false, true} {
		root := t.TempDir()
		if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, &hostfiles.Restore{Root: root,
			SetID: keep}); err != nil {
			t.Fatal(err)
		}
		checkSetID(t, filepath.Join(root, "opt/tyk-gateway/tyk.conf"), keep)
	}
}

// checkSetID looks for both set-id bits.
func checkSetID(t *testing.T, name string, want bool) {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, bit := range []os.FileMode{os.ModeSetuid, os.ModeSetgid} {
		if (info.Mode()&bit != 0) != want {
			t.Errorf("%v, want %v: %t", info.Mode(), bit, want)
		}
	}
}

// The same through a Runner.
func TestSetIDThroughRunner(t *testing.T) {
	t.Parallel()
	needGNU(t)
	root := t.TempDir()
	write(t, root, "app/file", "x", 0o755)
	name := filepath.Join(root, "app/file")
	if err := os.Chmod(name, 0o755|os.ModeSetuid|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	set := takePlain(t, t.TempDir(), &hostfiles.Source{Runner: localRunner, Paths: []string{root}})
	for _, keep := range []bool{false, true} {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, &hostfiles.Restore{
			Runner: localRunner, Paths: []string{root}, SetID: keep}); err != nil {
			t.Fatal(err)
		}
		checkSetID(t, name, keep)
	}
}

// Through a Runner the number of calls does not depend on that of the files.
func TestRemoteCalls(t *testing.T) {
	t.Parallel()
	needGNU(t)
	root := t.TempDir()
	for i := range 300 {
		write(t, root, fmt.Sprintf("d%d/f%d", i%3, i), "old", 0o640)
	}
	set := takePlain(t, t.TempDir(), &hostfiles.Source{Runner: localRunner, Paths: []string{root}})
	for i := range 300 {
		write(t, root, fmt.Sprintf("d%d/f%d", i%3, i), "changed", 0o640)
	}
	calls := 0
	counting := func(ctx context.Context, argv []string, in io.Reader, out, errOut io.Writer) error {
		calls++
		return localRunner(ctx, argv, in, out, errOut)
	}
	st, _ := set.Component("config")
	r := &hostfiles.Restore{Runner: counting, Paths: []string{root}, Rescue: t.TempDir()}
	if _, err := r.Restore(t.Context(), st, func(backup.Event) {}); err != nil || calls > 10 {
		t.Errorf("%d calls to restore 300 files, %v", calls, err)
	}
	calls = 0
	if err := r.Prove(t.Context(), st); err != nil || calls > 3 {
		t.Errorf("%d calls to compare 300 files, %v", calls, err)
	}
}
