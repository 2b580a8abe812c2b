// Package canary looks for secrets where every user of a machine can read them: in the arguments
// of processes, and in environments, which children inherit.
package canary

import (
	"bytes"
	"context"
	"os"
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

// scanner finds the processes that leak.
type scanner struct {
	old map[string]bool // those of the first scan that still run
}

// scan returns the first process that leaks, or an empty string.
func (s *scanner) scan(leaks func(Process) bool) string {
	proc, err := os.Open("/proc")
	if err != nil {
		return ""
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1)
	first, running, leak := s.old == nil, map[string]bool{}, ""
	for _, name := range names {
		if name[0] < '0' || name[0] > '9' {
			continue
		}
		if first || s.old[name] {
			running[name] = true
		}
		if s.old[name] || leak != "" {
			continue
		}
		dir := "/proc/" + name
		args, err := os.ReadFile(dir + "/cmdline")
		if err != nil {
			continue // it has ended
		}
		env, _ := os.ReadFile(dir + "/environ")
		if leaks(Process{args, env}) {
			leak = dir + ": " + string(bytes.ReplaceAll(args, []byte{0}, []byte{' '}))
		}
	}
	s.old = running
	return leak
}
