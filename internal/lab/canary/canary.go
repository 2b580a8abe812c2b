// Package canary looks for secrets where every user of a machine can read them: in the arguments
// of processes, and in environments, which children inherit.
package canary

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Process is what /proc tells of a process. Its parts are separated by zero bytes.
type Process struct {
	Args []byte
	Env  []byte // empty if it cannot be read
}

// Watch looks at all processes of the machine every ten milliseconds until the test ends. A
// process that leaks fails the test. leaks is called by one goroutine.
func Watch(t testing.TB, leaks func(Process) bool) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	found := make(chan string, 1)
	go func() {
		where := ""
		for ctx.Err() == nil {
			if x := scan(leaks); x != "" {
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

// scan returns the first process that leaks, or an empty string.
func scan(leaks func(Process) bool) string {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue // it has ended
		}
		env, _ := os.ReadFile(filepath.Join(dir, "environ"))
		if leaks(Process{args, env}) {
			return dir + ": " + string(bytes.ReplaceAll(args, []byte{0}, []byte{' '}))
		}
	}
	return ""
}
