// Package canary looks for secrets where every user of a machine can read them: in the arguments
// of processes, and in environments, which children inherit.
package canary

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Process is what /proc tells of a process. Its parts are separated by zero bytes.
type Process struct {
	Args []byte
	Env  []byte // empty if it cannot be read
}

// Watch looks every ten milliseconds until the test ends at the processes that have begun since,
// and once at all others. A process that leaks fails the test. leaks is called by one goroutine.
func Watch(t testing.TB, leaks func(Process) bool) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	found := make(chan string, 1)
	go func() {
		var s scanner
		where := ""
		for more := true; more; {
			more = ctx.Err() == nil // the last scan follows the end of the test
			if x := s.scan(leaks); x != "" {
				where = x
			}
			time.Sleep(10 * time.Millisecond)
		}
		found <- where
	}()
	t.Cleanup(func() {
		stop()
		if where := <-found; where != "" {
			t.Errorf("a secret is in the arguments or the environment of %s", where)
		}
	})
}

// scanner finds the processes that leak. It asks the kernel for the newest process number, so that
// a scan costs little while no process begins.
type scanner struct {
	scans  int
	newest int
	young  map[int]look // processes that began after the first scan
}

// look is when a process is looked at again: less often the older it is. A process can become
// another program at any time.
type look struct{ next, wait int }

const longest = 16 // scans between two looks at a process

// scan returns the first process that leaks, or an empty string.
func (s *scanner) scan(leaks func(Process) bool) (leak string) {
	newest, first := newestProcess(), s.young == nil
	if first {
		s.young = map[int]look{}
	}
	switch {
	case first, newest < s.newest: // the numbers start again
		for _, pid := range processes() {
			if !first && (pid > s.newest || pid <= newest) {
				s.young[pid] = look{}
			} else if leak == "" {
				leak = leakOf(pid, leaks)
			}
		}
	default:
		for pid := s.newest + 1; pid <= newest; pid++ {
			if isProcess(pid) {
				s.young[pid] = look{}
			}
		}
	}
	s.newest = newest
	s.scans++
	for pid, l := range s.young {
		if l.next > s.scans {
			continue
		}
		l.wait = min(max(1, 2*l.wait), longest)
		l.next = s.scans + l.wait
		s.young[pid] = l
		if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err != nil {
			delete(s.young, pid)
		} else if leak == "" {
			leak = leakOf(pid, leaks)
		}
	}
	return leak
}

// leakOf describes a process if it leaks.
func leakOf(pid int, leaks func(Process) bool) string {
	dir := "/proc/" + strconv.Itoa(pid)
	args, err := os.ReadFile(dir + "/cmdline")
	if err != nil {
		return "" // it has ended
	}
	env, _ := os.ReadFile(dir + "/environ")
	if !leaks(Process{args, env}) {
		return ""
	}
	return dir + ": " + string(bytes.ReplaceAll(args, []byte{0}, []byte{' '}))
}

// newestProcess returns the number that the kernel gave last, to a process or a thread.
func newestProcess() int {
	data, _ := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(data))
	if len(fields) == 0 {
		return 0
	}
	pid, _ := strconv.Atoi(fields[len(fields)-1])
	return pid
}

// isProcess tells processes from threads.
func isProcess(pid int) bool {
	data, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	return bytes.Contains(data, fmt.Appendf(nil, "\nTgid:\t%d\n", pid))
}

func processes() (all []int) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1)
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			all = append(all, pid)
		}
	}
	return all
}
