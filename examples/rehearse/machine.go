package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"example.com/tykupgrade/debpkg"
	runner "example.com/tykupgrade/internal/run"
)

// machineName is the name under which this program runs as the first process of the machine that
// the user's packages are installed on.
const machineName = "rehearse-machine"

// machine is a root directory that shows this machine's /usr, /etc and package database, and keeps
// all writes to them private. Programs in it see no process, no network and no systemd of this
// machine. It ends with its first process.
type machine struct {
	root string
	cmd  *exec.Cmd
	end  io.Closer
}

// newMachine starts a machine in dir. Files of debs are in its /debs.
func newMachine(dir, debs string) (*machine, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("maintainer scripts create users and change owners, which needs root")
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	m := &machine{root: filepath.Join(dir, "root"),
		cmd: &exec.Cmd{Path: exe, Args: []string{machineName}, Dir: dir, Env: []string{},
			SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL,
				Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET}}}
	in, err := m.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := m.cmd.Start(); err != nil {
		return nil, fmt.Errorf("make namespaces: %w", err)
	}
	m.end = in
	_, err = fmt.Fprintf(in, "%s\n", debs)
	line, rerr := bufio.NewReader(out).ReadString('\n')
	switch line = strings.TrimSuffix(line, "\n"); {
	case err != nil, rerr != nil:
		err = errors.Join(err, rerr)
	case line != "ready":
		err = errors.New(line)
	}
	if err != nil {
		return nil, errors.Join(err, m.close())
	}
	return m, nil
}

// run starts a program on the machine. It is a debpkg.Runner.
func (m *machine) run(ctx context.Context, argv []string, stdin io.Reader, stdout,
	stderr io.Writer) error {
	enter := []string{"nsenter", "--target", strconv.Itoa(m.cmd.Process.Pid), "--mount", "--pid",
		"--net", "--root", "--wd", "--"}
	env := runner.Options{Env: []string{"HOME=/root", "TMPDIR=/tmp", "APT_CONFIG=",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}}
	return runner.Local(env)(ctx, append(enter, argv...), stdin, stdout, stderr)
}

var _ debpkg.Runner = (&machine{}).run

// close ends every process of the machine, and with them its mounts.
func (m *machine) close() error {
	_ = m.end.Close()
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
	return nil
}

// firstProcess sets the machine up and stays until its input ends.
func firstProcess() {
	in := bufio.NewReader(os.Stdin)
	debs, err := in.ReadString('\n')
	if err == nil {
		err = setUp(strings.TrimSuffix(debs, "\n"))
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	go reap()
	fmt.Println("ready")
	_, _ = in.ReadString('\n')
}

// reap collects what processes leave to the first one.
func reap() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	for range ended {
		for {
			var status syscall.WaitStatus
			if pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}

// shown lists the directories of this machine that are shown with private writes.
var shown = []string{"/usr", "/etc", "/var/lib/dpkg"}

// setUp makes the root below the working directory, and changes to it.
func setUp(debs string) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	root := filepath.Join(dir, "root")
	// Nothing that is mounted here is seen elsewhere.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, d := range []string{"opt", "root", "home", "srv", "mnt", "proc", "dev", "sys", "run/lock",
		"debs", "var/log/apt", "var/tmp", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial",
		"var/cache/debconf", "var/lib/systemd"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	if err := errors.Join(os.Mkdir(filepath.Join(root, "tmp"), 0o777),
		os.Chmod(filepath.Join(root, "tmp"), 0o777|os.ModeSticky),
		os.Symlink("/run", filepath.Join(root, "var/run"))); err != nil {
		return err
	}
	all := shown
	for _, d := range []string{"/bin", "/sbin", "/lib", "/lib64", "/lib32", "/libx32"} {
		switch to, err := os.Readlink(d); {
		case err == nil: // into /usr
			if err := os.Symlink(to, filepath.Join(root, d)); err != nil {
				return err
			}
		case !errors.Is(err, os.ErrNotExist):
			all = append(all[:len(all):len(all)], d)
		}
	}
	// An overlay cannot write to another one, which the root of a container is.
	written := filepath.Join(dir, "written")
	if err := errors.Join(os.Mkdir(written, 0o755), unix.Mount("tmpfs", written, "tmpfs", 0,
		"mode=755")); err != nil {
		return fmt.Errorf("mount %s: %w", written, err)
	}
	for i, d := range all {
		if err := overlay(d, filepath.Join(root, d), filepath.Join(written, strconv.Itoa(i))); err != nil {
			return err
		}
	}
	if err := bind(debs, filepath.Join(root, "debs")); err != nil {
		return err
	}
	if err := unix.Mount("proc", filepath.Join(root, "proc"), "proc",
		unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for _, d := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		to := filepath.Join(root, "dev", d)
		if err := errors.Join(os.WriteFile(to, nil, 0o600), unix.Mount("/dev/"+d, to, "", unix.MS_BIND,
			"")); err != nil {
			return fmt.Errorf("show /dev/%s: %w", d, err)
		}
	}
	if err := errors.Join(unix.Chroot(root), os.Chdir("/")); err != nil {
		return fmt.Errorf("change to %s: %w", root, err)
	}
	return errors.Join(ownSources(), forgetTyk())
}

// overlay shows a directory of this machine at to, and keeps what is written in dir.
func overlay(from, to, dir string) error {
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	for _, d := range []string{to, upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("overlay", to, "overlay", 0, "lowerdir="+from+",upperdir="+upper+",workdir="+
		work); err != nil {
		return fmt.Errorf("show %s as an overlay: %w", from, err)
	}
	return nil
}

// bind shows a directory read-only at to.
func bind(from, to string) error {
	err := unix.Mount(from, to, "", unix.MS_BIND, "")
	if err == nil {
		err = unix.Mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	if err != nil {
		return fmt.Errorf("show %s: %w", from, err)
	}
	return nil
}

// ownSources removes apt's sources and hooks.
func ownSources() error {
	err := os.Remove("/etc/apt/sources.list")
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	for _, d := range []string{"sources.list.d", "preferences.d", "apt.conf.d"} {
		d = filepath.Join("/etc/apt", d)
		err = errors.Join(err, os.RemoveAll(d), os.MkdirAll(d, 0o755))
	}
	return err
}

// forgetTyk takes Tyk's packages out of the package database: /opt is empty here.
func forgetTyk() error {
	const status = "/var/lib/dpkg/status"
	data, err := os.ReadFile(status)
	if err != nil {
		return err
	}
	var keep []string
	for p := range strings.SplitSeq(string(data), "\n\n") {
		if !strings.HasPrefix(p, "Package: tyk-") {
			keep = append(keep, p)
		}
	}
	files, err := filepath.Glob("/var/lib/dpkg/info/tyk-*")
	for _, f := range files {
		err = errors.Join(err, os.Remove(f))
	}
	return errors.Join(err, os.WriteFile(status, []byte(strings.Join(keep, "\n\n")), 0o644))
}
