package pluginbuild_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"example.com/tykupgrade/internal/run"
	"example.com/tykupgrade/pluginbuild"
)

// Killed at any event, the next call finds the leftovers and the module is as
// it was; so is it when the recovery itself is killed.
func TestPrepareKilled(t *testing.T) {
	t.Parallel()
	env := offline(t, "4.0.3", "4.1.0")
	dir := before(t, env)
	was := treeOf(t, dir)
	killed := 0
	quick := append(slices.Clone(env), "PATH="+quickGo(t)+":"+os.Getenv("PATH"))
	for event := 1; ; event++ {
		if !prepareInChild(t, dir, quick, fmt.Sprint(event)) {
			break // there were fewer events
		}
		killed++
		found, err := pluginbuild.Recover(dir)
		if err != nil || !found.Found || (found.Aside == "") != (len(found.Moved) == 0) {
			t.Fatalf("recover after event %d: %+v, %v", event, found, err)
		}
		if found.Aside != "" {
			if err := os.RemoveAll(found.Aside); err != nil {
				t.Fatal(err)
			}
		}
		same(t, was, treeOf(t, dir))
	}
	if killed < 8 {
		t.Errorf("only %d kills, there are at least 8 events", killed)
	}
	// The last child finished; a killed one after it is undone by Prepare itself.
	was = treeOf(t, dir)
	if !prepareInChild(t, dir, quick, "7") {
		t.Fatal("the child was not killed")
	}
	_, err := pluginbuild.Prepare(t.Context(), dir, lookup(t, "4.1.0"), pluginbuild.PrepareOptions{
		Env: env, Go: wrapper(t, "exit 3")})
	if err == nil {
		t.Error("no error")
	}
	same(t, was, treeOf(t, dir))
	if !prepareInChild(t, dir, quick, "7") {
		t.Fatal("the child was not killed")
	}
	p, err := pluginbuild.Prepare(t.Context(), dir, lookup(t, "4.1.0"), pluginbuild.PrepareOptions{
		Env: env})
	if err != nil || !p.Recovered {
		t.Errorf("%+v, %v", p, err)
	}
	if found, err := pluginbuild.Recover(dir); found.Found || err != nil {
		t.Errorf("recover with nothing to do: %v, %v", found, err)
	}
}

// quickGo returns a directory with a go command that edits go.mod and gets modules as the real one
// does, and makes a vendor directory at once.
func quickGo(t *testing.T) string {
	t.Helper()
	real, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	script := "#!/bin/sh\ncase \"$*\" in\nmod\\ tidy*) exit 0;;\nmod\\ vendor*) mkdir vendor && exec " +
		"touch vendor/modules.txt;;\nesac\nexec " + real + " \"$@\"\n"
	if err := run.WriteProgram(filepath.Join(bin, "go"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return bin
}

const childEnv = "TYKUPGRADE_TEST_PREPARE"

// prepareInChild prepares dir for 4.1.0 in a process that kills itself with
// SIGKILL at the nth event. It reports whether the process was killed.
func prepareInChild(t *testing.T, dir string, env []string, n string) bool {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPrepareChild$")
	cmd.Env = append(append(os.Environ(), env...), childEnv+"="+n+" "+dir, "GORACE=atexit_sleep_ms=0")
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	if cmd.ProcessState == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).
		Signal() != syscall.SIGKILL {
		t.Fatalf("child: %v\n%s", err, out)
	}
	return true
}

func TestPrepareChild(t *testing.T) {
	var n int
	var dir string
	if _, err := fmt.Sscan(os.Getenv(childEnv), &n, &dir); err != nil {
		t.Skip("only runs as a child of TestPrepareKilled")
	}
	_, err := pluginbuild.Prepare(t.Context(), dir, lookup(t, "4.1.0"), pluginbuild.PrepareOptions{
		OnEvent: func(e pluginbuild.Event) {
			if e.Kind == pluginbuild.Output {
				return // how many lines go writes is its own affair
			}
			if n--; n == 0 {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}})
	if err != nil {
		t.Fatal(err)
	}
}

// A go command that outlives a killed Prepare keeps the module locked, because
// it could still write.
func TestPrepareOrphan(t *testing.T) {
	t.Parallel()
	env := offline(t, "4.0.3", "4.1.0")
	dir := before(t, env)
	was := treeOf(t, dir)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	// The wrapper is reached through PATH, as the child uses the defaults.
	real, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	script := "#!/bin/sh\ncase \"$*\" in mod\\ tidy*) echo waiting >" + fifo + "; read x <" + fifo +
		";; esac\nexec " + real + " \"$@\"\n"
	if err := run.WriteProgram(filepath.Join(bin, "go"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPrepareChild$")
	child.Env = append(append(os.Environ(), env...), childEnv+"=-1 "+dir, "PATH="+bin+":"+
		os.Getenv("PATH"))
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(fifo); err != nil { // the orphan-to-be is there
		t.Fatal(err)
	}
	_ = child.Process.Kill()
	_ = child.Wait()
	if _, err := pluginbuild.Recover(dir); !errors.Is(err, pluginbuild.ErrBusy) {
		t.Errorf("recover while the orphan runs: %v", err)
	}
	if _, err := pluginbuild.Prepare(t.Context(), dir, lookup(t, "4.1.0"), pluginbuild.PrepareOptions{
		Env: env}); !errors.Is(err, pluginbuild.ErrBusy) {
		t.Errorf("prepare while the orphan runs: %v", err)
	}
	if err := os.WriteFile(fifo, []byte("go on\n"), 0); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Open(filepath.Join(dir, ".tykupgrade-prepare", "lock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil { // waits for the orphan
		t.Fatal(err)
	}
	_ = lock.Close()
	if found, err := pluginbuild.Recover(dir); !found.Found || err != nil {
		t.Errorf("recover after the orphan: %v, %v", found, err)
	}
	same(t, was, treeOf(t, dir))
}
