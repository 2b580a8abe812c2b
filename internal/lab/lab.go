// Package lab and the packages below it hold what tests and examples/rehearse
// need of the outside world: the rule for missing components, and stubs
// for what cannot be had. Nothing else imports it.
package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// RequireEnv names the variable under which a missing component fails a test
// instead of skipping it. .ci/run sets it.
const RequireEnv = "TYKUPGRADE_TEST_REQUIRE"

// Missing skips the test because a component is not on this machine, or fails
// it where [RequireEnv] is set. The message is what is missing and how to get
// it: "redis-server is not on PATH (Debian package redis-server)".
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv(RequireEnv) != "" {
		t.Fatalf("missing component, and %s is set: %s", RequireEnv, what)
	}
	t.Skipf("skipped, missing component: %s", what)
}

// Unavailable skips the test because of a component that the package
// registries do not serve, so that even .ci/run cannot demand it: a MongoDB
// server, Tyk's own images.
func Unavailable(t testing.TB, what string) {
	t.Helper()
	t.Skipf("skipped, component not obtainable here: %s", what)
}

// Program returns the path of a program, looking into the sbin directories as
// well, or skips the test. deb is the Debian package that brings it.
func Program(t testing.TB, name, deb string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	Missing(t, name+" is not on PATH (Debian package "+deb+")")
	return ""
}

// Kills is how many times a test kills what it tests: few, or what TYKUPGRADE_TEST_KILLS says.
func Kills(few int) int {
	if n, err := strconv.Atoi(os.Getenv("TYKUPGRADE_TEST_KILLS")); err == nil {
		return n
	}
	return few
}

const smallDiskEnv = "TYKUPGRADE_TEST_SMALL_DISK"

// SmallDisk runs f with a directory on a file system of its own that holds size
// bytes. The test is run again in a child process with private mounts, so f
// must not depend on state of this process, and a subtest must be named by t.
func SmallDisk(t *testing.T, size int64, f func(dir string)) {
	t.Helper()
	if dir := os.Getenv(smallDiskEnv); dir != "" {
		// Without this the mount would be seen by the whole machine.
		if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			t.Fatalf("make mounts private: %v", err)
		}
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+strconv.FormatInt(size,
			10)); err != nil {
			t.Fatalf("mount small disk: %v", err)
		}
		f(dir)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), smallDiskEnv+"="+t.TempDir(), "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: gid, Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		Missing(t, "private mounts for a small disk: "+err.Error()+
			" (run as root or allow user namespaces)")
	}
	if err != nil {
		t.Fatalf("in the child with a small disk: %v\n%s", err, out)
	}
}

// LongEnv names the variable that makes [Long] tests run. make test-long sets it.
const LongEnv = "TYKUPGRADE_TEST_LONG"

// Long skips a test that takes minutes of both cores unless [LongEnv] is set: the
// short run has another test of the same calls, with fewer hosts or kills.
func Long(t testing.TB) {
	t.Helper()
	if !IsLong() {
		t.Skipf("skipped, a long test: set %s, or run make test-long", LongEnv)
	}
}

// IsLong reports whether [LongEnv] is set, for tests that do more of the same then.
func IsLong() bool { return os.Getenv(LongEnv) != "" }
