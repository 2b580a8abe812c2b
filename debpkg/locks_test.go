package debpkg_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab"
)

// holdLock takes a lock of apt's as another package manager does, in a process
// of its own, until the returned function is called.
func (f *fixture) holdLock(path string) (pid int, release func()) {
	f.Helper()
	path = filepath.Join(f.root.Dir, path)
	if err := os.WriteFile(path, nil, 0o640); err != nil {
		f.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestLockHelper$")
	cmd.Env = append(os.Environ(), "DEBPKG_LOCK="+path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		f.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		f.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		f.Fatal(err)
	}
	buf := make([]byte, 1)
	if _, err := stdout.Read(buf); err != nil {
		f.Fatal(err)
	}
	release = func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	}
	f.Cleanup(release)
	return cmd.Process.Pid, release
}

func TestLockHelper(t *testing.T) {
	path := os.Getenv("DEBPKG_LOCK")
	if path == "" {
		t.Skip("runs as a helper process only")
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.FcntlFlock(file.Fd(), syscall.F_SETLK, &syscall.Flock_t{
		Type: syscall.F_WRLCK}); err != nil {
		t.Fatal(err)
	}
	_, _ = os.Stdout.WriteString("x")
	_, _ = os.Stdin.Read(make([]byte, 1))
	_ = file.Close()
}

// Each of the four locks is seen with its holder. For one of dpkg's and one of apt's own, the
// holder is named at the deadline, and when it goes in time the work gets done.
func TestLocks(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/locks"); err != nil {
		lab.Missing(t, "/proc/locks (Linux)")
	}
	f := upgradable(t)
	quick := f.host(func(o *debpkg.Options) { o.LockWait = time.Millisecond })
	// A plan tells of a lock, and holds when the lock is gone. On this system it tells of nothing else.
	f.write("/etc/os-release", "ID=debian\nVERSION_ID=\"11\"\n")
	pid, release := f.holdLock("/var/lib/dpkg/lock-frontend")
	p := f.plan(quick, f.request("tyk-gateway", "5.2.5"))
	if len(p.Problems) != 1 || !strings.Contains(p.Problems[0].Text, strconv.Itoa(pid)) {
		t.Errorf("the plan does not tell of process %d alone: %+v", pid, p.Problems)
	}
	release()
	for _, path := range []string{"/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock",
		"/var/lib/apt/lists/lock", "/var/cache/apt/archives/lock"} {
		pid, release := f.holdLock(path)
		locks, err := quick.Locks(t.Context())
		if err != nil || len(locks) != 1 || locks[0].PID != pid || !strings.HasSuffix(locks[0].Path,
			path) || locks[0].Command == "" {
			t.Errorf("%s: locks %+v, %v; the holder is %d", path, locks, err, pid)
		}
		if path == "/var/lib/dpkg/lock" || path == "/var/lib/apt/lists/lock" {
			release()
			continue
		}
		_, err = quick.Apply(t.Context(), p)
		wantError(t, err, debpkg.ErrLocked, path, "never delete the lock file")
		wantError(t, quick.Update(t.Context()), debpkg.ErrLocked, path)
		f.want("tyk-gateway", "4.0.8", "install installed")
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("enough")
		waiting := f.host(func(o *debpkg.Options) {
			o.Events = func(e debpkg.Event) {
				if e.Kind == debpkg.EventWait {
					cancel(cause)
				}
			}
		})
		if _, err := waiting.Apply(ctx, p); !errors.Is(err, context.Canceled) || !errors.Is(err, cause) {
			t.Errorf("%s: cancelled while waiting: %v", path, err)
		}
		release()
	}
	_, release = f.holdLock("/var/cache/apt/archives/lock")
	patient := f.host(func(o *debpkg.Options) {
		o.Events = func(e debpkg.Event) {
			if e.Kind == debpkg.EventWait {
				go release()
			}
		}
	})
	if _, err := patient.Apply(t.Context(), p); err != nil {
		t.Error(err)
	}
	f.want("tyk-gateway", "5.2.5", "install installed")
	// apt's own words for a lock, should somebody come between.
	f.holdLock("/var/lib/dpkg/lock-frontend")
	out, err := f.try("apt-get", "-y", "install", "tyk-gateway=4.0.8", "--allow-downgrades")
	if e := debpkg.Classify("x", "", out, err); !errors.Is(e, debpkg.ErrLocked) || !e.Retryable() {
		t.Errorf("%v", e)
	}
}
