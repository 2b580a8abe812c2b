package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"example.com/tykupgrade/examples/internal/cli"
)

// adopt makes this process the parent of orphans, such as gpg's agent or a Go command whose parent
// was interrupted. So none of them outlives it unnoticed.
func adopt() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// needed is more than the measured size of a rehearsal's directory, in bytes.
const needed = 300 << 20

// workDir makes the directory that everything happens in. Sockets are made
// below it, whose paths are limited to 107 bytes.
func workDir() (string, error) {
	base := os.TempDir()
	if len(base) > 40 {
		base = "/tmp"
	}
	if err := room(base, needed); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(base, "rehearse-")
	if err != nil {
		return "", fmt.Errorf("make the throwaway directory: %w; TMPDIR names another place for it", err)
	}
	// Everything temporary, also of the commands that are run, is below it.
	tmp := filepath.Join(dir, "tmp")
	if err := errors.Join(os.Mkdir(tmp, 0o700), os.Setenv("TMPDIR", tmp)); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

// room refuses a directory without enough free space, before a compiler fails there.
func room(dir string, least uint64) error {
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil {
		return nil // what is wrong with it shows when it is used
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < least {
		return fmt.Errorf("make the throwaway directory: %s has %s free, and a rehearsal takes up to "+
			"%s; TMPDIR names another place for it", dir, cli.Bytes(int64(free)), cli.Bytes(int64(least)))
	}
	return nil
}

// removeAll removes a tree in which directories may be write-protected.
func removeAll(dir string) error {
	if err := os.RemoveAll(dir); err == nil {
		return nil
	}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// endChildren ends every process that this one started or adopted. It returns the names of those
// that it had to kill.
func endChildren() []string {
	var killed []string
	// A process that was just asked to end may take a moment.
	for limit := time.Now().Add(30 * time.Second); len(children()) > 0 && time.Now().Before(limit); {
		time.Sleep(20 * time.Millisecond)
	}
	for limit := time.Now().Add(5 * time.Second); time.Now().Before(limit); {
		all := children()
		if len(all) == 0 {
			break
		}
		for pid, name := range all {
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				killed = append(killed, fmt.Sprintf("%s (%d)", name, pid))
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return killed
}

// children lists the live descendants of this process, and reaps dead ones.
func children() map[int]string {
	for {
		var status syscall.WaitStatus
		if pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil); pid <= 0 || err != nil {
			break
		}
	}
	type process struct {
		parent int
		name   string
	}
	all := map[int]process{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// "pid (name) state ppid …"; the name may hold anything.
		open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
		if open < 0 || end < 0 {
			continue
		}
		rest := strings.Fields(string(data[end+1:]))
		pid, err := strconv.Atoi(strings.TrimSpace(string(data[:open])))
		if err != nil || len(rest) < 2 || rest[0] == "Z" {
			continue
		}
		parent, _ := strconv.Atoi(rest[1])
		all[pid] = process{parent, string(data[open+1 : end])}
	}
	mine := map[int]string{}
	for pid, p := range all {
		for up := p.parent; up > 1; up = all[up].parent {
			if up == os.Getpid() {
				mine[pid] = p.name
				break
			}
		}
	}
	return mine
}

// cleanUp calls the functions of undo, the last first, removes the directory and counts the
// leftovers.
func (r *rehearsal) cleanUp(s *Step) error {
	var errs []error
	// Also after Ctrl-C, with a time limit.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for i := len(r.undo) - 1; i >= 0; i-- {
		errs = append(errs, r.undo[i](ctx))
	}
	left := &Left{}
	r.report.Left = left
	if names := endChildren(); len(names) > 0 && r.interrupted() {
		s.say("ended: %s", strings.Join(names, ", "))
	} else if len(names) > 0 {
		left.Processes = len(names)
		errs = append(errs, fmt.Errorf("processes were left and had to be killed: %s", strings.Join(names,
			", ")))
	}
	for _, addr := range r.ports {
		if conn, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			_ = conn.Close()
			left.Ports++
			errs = append(errs, fmt.Errorf("something still listens on %s", addr))
		}
	}
	if r.engine != nil {
		errs = append(errs, r.engine.left(ctx, left))
	}
	if r.hosts != "" {
		errs = append(errs, hostsLeft(ctx, r.hosts, left))
	}
	if r.o.keep {
		r.report.Dir = r.dir
	} else if err := removeAll(r.dir); err != nil {
		left.Files = 1
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	where := "directory removed"
	if r.o.keep {
		where = "directory kept: " + r.dir
	}
	s.say("0 processes, 0 containers, 0 ports left; %s", where)
	return nil
}
