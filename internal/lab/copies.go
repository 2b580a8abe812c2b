package lab

import (
	"fmt"
	"os"
	"syscall"
	"testing"
)

// Copies duplicates the descriptors of a file, as a command that is being started does until it
// runs, and returns how many there were.
func Copies(t testing.TB, path string) (n int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		var number int
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err != nil || to != path {
			continue
		}
		if _, err := fmt.Sscan(fd.Name(), &number); err != nil {
			t.Fatal(err)
		}
		c, err := syscall.Dup(number)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Close(c) })
		n++
	}
	return n
}
