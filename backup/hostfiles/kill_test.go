package hostfiles_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/backuptest"
	"example.com/tykupgrade/backup/hostfiles"
	"example.com/tykupgrade/internal/run"
)

const (
	killRootEnv   = "HOSTFILES_TEST_ROOT"
	killMomentEnv = "HOSTFILES_TEST_MOMENT"
)

// moments is how many kills a test makes; TYKUPGRADE_TEST_KILLS asks for more.
func moments(n int) int {
	if more, err := strconv.Atoi(os.Getenv("TYKUPGRADE_TEST_KILLS")); err == nil {
		return max(more, n)
	}
	return n
}

func killedRestore(root string) *hostfiles.Restore {
	return &hostfiles.Restore{Root: root, Paths: []string{"/opt"}, Rescue: root + ".rescue"}
}

func TestKilledRestoreHelper(t *testing.T) {
	backuptest.RestoreHelper(func() backup.Restorer { return killedRestore(os.Getenv(killRootEnv)) })
}

// killHost lays out a host before and after an upgrade: files that changed, are missing,
// and have another mode.
func killHost(t *testing.T, root string, upgraded bool) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(root), os.RemoveAll(root+".rescue"), os.Mkdir(root,
		0o755)); err != nil {
		t.Fatal(err)
	}
	for i := range 24 {
		name := fmt.Sprintf("opt/app/d%d/f%d", i%4, i)
		switch {
		case !upgraded:
			write(t, root, name, "before the upgrade", 0o640)
		case i%3 > 0:
			write(t, root, name, "after the upgrade", 0o600)
		default: // the upgrade removed it, with its directory if it was the last
		}
	}
}

// A restore of files that is killed leaves each file whole. The next restore or Undo
// leaves nothing of it.
func TestKilledRestore(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "host")
	killHost(t, root, false)
	set := takePlain(t, t.TempDir(), &hostfiles.Source{FS: os.DirFS(root),
		Paths: []string{"/opt/app"}})
	backuptest.KilledRestore{
		Helper: "TestKilledRestoreHelper", Env: []string{killRootEnv + "=" + root}, Set: set,
		Restorer: func() backup.Restorer { return killedRestore(root) },
		Reset:    func(t *testing.T) { killHost(t, root, true) },
		State:    func(t *testing.T) string { return contents(t, root) },
	}.Run(t, moments(4))
}

// contents is what a host holds, temporary files included; without times, which the next
// upgrade changes.
func contents(t *testing.T, root string) string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(backuptest.Tree(t, root)) {
		f := strings.Fields(line)
		if len(f) < 8 {
			lines = append(lines, strings.TrimSpace(line))
			continue
		}
		lines = append(lines, strings.Join(append(f[:3:3], f[7:]...), " "))
	}
	return strings.Join(lines, "\n")
}

// TestKilledRemoteHelper restores through a Runner and kills itself at a moment of its
// command number n/3: before it, when it got half of its input, after it.
func TestKilledRemoteHelper(t *testing.T) {
	moment, err := strconv.Atoi(os.Getenv(killMomentEnv))
	if err != nil {
		t.Skip("runs on behalf of TestKilledRemote")
	}
	calls := 0
	runner := func(ctx context.Context, argv []string, in io.Reader, out, errOut io.Writer) error {
		now := calls == moment/3
		calls++
		if now && moment%3 == 1 && in != nil {
			data, err := io.ReadAll(in)
			if err != nil {
				return err
			}
			in = strings.NewReader(string(data[:len(data)/2]))
		}
		if !now || moment%3 > 0 {
			err := localRunner(ctx, argv, in, out, errOut)
			if !now {
				return err
			}
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	backuptest.RestoreHelper(func() backup.Restorer {
		return remoteRestore(os.Getenv(killRootEnv),
			runner)
	})
}

func remoteRestore(root string, runner backup.Runner) *hostfiles.Restore {
	return &hostfiles.Restore{Runner: runner, Paths: []string{root}, Rescue: root + ".rescue"}
}

// The same through a Runner: at every command, or at some of them by default.
func TestKilledRemote(t *testing.T) {
	t.Parallel()
	needGNU(t)
	root := filepath.Join(t.TempDir(), "host")
	killHost(t, root, false)
	set := takePlain(t, t.TempDir(), &hostfiles.Source{Runner: localRunner, Paths: []string{root +
		"/opt/app"}})
	k := backuptest.KilledRestore{
		Helper: "TestKilledRemoteHelper", Set: set,
		Restorer: func() backup.Restorer { return remoteRestore(root, localRunner) },
		Reset:    func(t *testing.T) { killHost(t, root, true) },
		State:    func(t *testing.T) string { return contents(t, root) },
	}
	k.RunMoments(t, func(i int) []string {
		if moments(10) < 50 {
			i *= 4 // not each of them by default
		}
		moment := 3 * i
		if i > 4 { // the first commands only read: one moment each
			moment = 12 + i - 4
		}
		return []string{killRootEnv + "=" + root, killMomentEnv + "=" + strconv.Itoa(moment)}
	})
}

// The names in the middle of which a connection ends are never acted on.
func TestCutOffRecords(t *testing.T) {
	t.Parallel()
	needGNU(t)
	root := t.TempDir()
	for _, name := range []string{"conf", "conf.d", "conf.d.new"} {
		write(t, root, name, "old", 0o640)
	}
	set := takePlain(t, t.TempDir(), &hostfiles.Source{Runner: localRunner, Paths: []string{root}})
	write(t, root, "conf.d.new", "changed", 0o640)
	st, _ := set.Component("config")
	for _, lost := range []int{1, 4, 6} { // the last zero byte; "new"; "d.new"
		cut := func(ctx context.Context, argv []string, in io.Reader, out, errOut io.Writer) error {
			if in != nil && strings.Contains(argv[len(argv)-1], "STDIN") &&
				!strings.Contains(argv[len(argv)-1], "unlink") {
				data, err := io.ReadAll(in)
				if err != nil {
					return err
				}
				in = strings.NewReader(string(data[:len(data)-lost]))
			}
			return run.Local(run.Options{})(ctx, argv, in, out, errOut)
		}
		if _, err := remoteRestore(root, cut).Restore(t.Context(), st,
			func(backup.Event) {}); err == nil {
			t.Errorf("a list without its last %d bytes was followed", lost)
		}
		for name, want := range map[string]string{"conf": "old", "conf.d": "old",
			"conf.d.new": "changed"} {
			if data, err := os.ReadFile(filepath.Join(root, name)); string(data) != want {
				t.Errorf("%d bytes lost: %s holds %q, %v", lost, name, data, err)
			}
		}
		if _, err := os.Lstat(filepath.Join(root, "conf.d.")); err == nil {
			t.Error("a file with half of the name was made")
		}
	}
}

// Temporary files of a restore at work, of another machine and of other programs stay.
func TestSweepSparesOthers(t *testing.T) {
	t.Parallel()
	needGNU(t)
	for _, remote := range []bool{false, true} {
		root := t.TempDir()
		write(t, root, "opt/a", "old", 0o640)
		names := []string{
			fmt.Sprintf("opt/.a.restore-00000000-%d-abcdefgh", 1<<22), // another machine's
			"opt/.a.restore-notes", "opt/.a.swp",
		}
		for _, name := range names {
			write(t, root, name, "x", 0o600)
		}
		src := &hostfiles.Source{FS: os.DirFS(root), Paths: []string{"/opt/a"}}
		to := &hostfiles.Restore{Root: root, Paths: []string{"/opt"}, Rescue: t.TempDir()}
		if remote {
			src = &hostfiles.Source{Runner: localRunner, Paths: []string{root + "/opt/a"}}
			to = &hostfiles.Restore{Runner: localRunner, Paths: []string{root}, Rescue: t.TempDir()}
		}
		set := takePlain(t, t.TempDir(), src)
		write(t, root, "opt/a", "new", 0o640)
		if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, to); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if _, err := os.Lstat(filepath.Join(root, name)); err != nil {
				t.Errorf("remote %v: %v", remote, err)
			}
		}
	}
}
