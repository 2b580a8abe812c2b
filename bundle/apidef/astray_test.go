package apidef_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"example.com/tykupgrade/bundle/apidef"
)

// While Replace waits for another process, the service's user exchanges app_path for a link to
// somebody else's directory. Nothing is written there.
func TestReplaceStaysInDirectory(t *testing.T) {
	t.Parallel()
	b := directory(t)
	dir := b.store.(apidef.Directory).Path
	p, err := apidef.NewPlan(t.Context(), b.store, change("c1"))
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := os.CopyFS(other, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(held.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	replaced := make(chan error, 1)
	go func() { replaced <- b.store.Replace(t.Context(), p.Edits[0].Was, p.Edits[0].Next) }()
	for open := 0; open < 2; time.Sleep(time.Millisecond) {
		open = 0
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			if at, _ := os.Readlink("/proc/self/fd/" + fd.Name()); at == dir {
				open++
			}
		}
	}
	moved := dir + ".moved"
	if err := errors.Join(os.Rename(dir, moved), os.Symlink(other, dir), held.Close()); err != nil {
		t.Fatal(err)
	}
	if err := <-replaced; err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{other: string(p.Edits[0].Was.Classic),
		moved: string(p.Edits[0].Next.Classic)} {
		if data, err := os.ReadFile(filepath.Join(path, "c1.json")); string(data) != want {
			t.Errorf("%s: %s, %v", path, data, err)
		}
	}
}
