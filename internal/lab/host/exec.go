package host

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Command is the command line that runs argv as root in the host, not through SSH. It enters the
// container's namespaces: a call through the engine starts five more programs. Without root, or
// with an engine elsewhere, the engine runs it. It is valid until [Host.Close].
func (h *Host) Command(argv ...string) []string {
	if len(h.ns) == 0 {
		return append([]string{"docker", "exec", "-i", h.ID}, argv...)
	}
	words := []string{"nsenter"}
	for i, kind := range kinds {
		words = append(words, fmt.Sprintf("%s=/proc/%d/fd/%d", kind.option, os.Getpid(), h.ns[i].Fd()))
	}
	return append(append(words, "--"), argv...)
}

// Exec runs the Command of argv with the environment that the engine gives, and returns its
// standard output.
func (h *Host) Exec(ctx context.Context, stdin io.Reader, argv ...string) (string, error) {
	words := h.Command(argv...)
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	if len(h.ns) > 0 {
		cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"HOME=/root", "HOSTNAME=" + h.Name}
	}
	return finish(cmd, stdin, argv)
}

// kinds are the namespaces that a container has of its own, with nsenter's options.
var kinds = []struct{ name, option string }{{"mnt", "--mount"}, {"uts", "--uts"}, {"ipc", "--ipc"},
	{"net", "--net"}, {"pid", "--pid"}}

// namespaces opens those of a container's first process. Held open, they stay the
// container's when it ends and its process number is used again.
func namespaces(id, pid string) []*os.File {
	// On another machine the number is somebody else's.
	groups, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if _, missing := exec.LookPath("nsenter"); err != nil || missing != nil ||
		!strings.Contains(string(groups), id) {
		return nil
	}
	var files []*os.File
	for _, kind := range kinds {
		f, err := os.Open("/proc/" + pid + "/ns/" + kind.name)
		if err != nil {
			closeAll(files)
			return nil
		}
		files = append(files, f)
	}
	return files
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

func output(ctx context.Context, argv ...string) (string, error) { return run(ctx, nil, argv...) }

func run(ctx context.Context, stdin io.Reader, argv ...string) (string, error) {
	return finish(exec.CommandContext(ctx, argv[0], argv[1:]...), stdin, argv)
}

// finish runs cmd, which errors call argv.
func finish(cmd *exec.Cmd, stdin io.Reader, argv []string) (string, error) {
	cmd.Stdin = stdin
	cmd.WaitDelay = 5 * time.Second
	// An interrupt at the terminal is for the caller, who ends it in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		lines = lines[max(0, len(lines)-15):]
		return stdout.String(), fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err,
			strings.Join(lines, "\n"))
	}
	return stdout.String(), nil
}
