package pluginbuild_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/tykmod"
	"example.com/tykupgrade/pluginbuild"
)

// A failure of any step, before or after the real command did its work, leaves
// the module as it was.
func TestPrepareFailsAtEveryStep(t *testing.T) {
	t.Parallel()
	env := offline(t, "4.0.3", "4.1.0")
	r := lookup(t, "4.1.0")
	dir := before(t, env)
	was := treeOf(t, dir)
	for _, step := range []string{"mod edit", "get github.com*", "mod tidy", "mod vendor"} {
		for _, late := range []bool{false, true} {
			do := "echo broken >&2; exit 42"
			if late {
				do = `go "$@"; rm -rf vendor/github.com; echo x >>go.mod; echo x >>go.sum; echo x >>go.work.sum; rm go.work; ` + do
			}
			script := fmt.Sprintf("case \"$*\" in %s*) %s;; esac", strings.ReplaceAll(step, " ", `\ `), do)
			_, err := pluginbuild.Prepare(t.Context(), dir, r, pluginbuild.PrepareOptions{Env: env,
				Go: wrapper(t, script)})
			var failed *pluginbuild.Error
			if !errors.As(err, &failed) {
				t.Fatalf("%s: error %v", step, err)
			}
			if !strings.HasPrefix(strings.Join(failed.Argv[1:], " "), strings.TrimSuffix(step, "*")) ||
				failed.ExitCode != 42 ||
				!strings.Contains(failed.Output, "broken") || !strings.HasPrefix(failed.Op,
				"go "+strings.Fields(step)[0]) {
				t.Errorf("%s: %+v", step, failed)
			}
			if !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "4.1.0") {
				t.Errorf("%s: error %q names neither what nor for what", step, err)
			}
			same(t, was, treeOf(t, dir))
		}
	}
}

// Bad input is refused before anything changes, and leaves nothing behind.
func TestPrepareRefuses(t *testing.T) {
	t.Parallel()
	r := lookup(t, "4.0.3")
	good := "module example.org/plugin\n"
	ended, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("operator pressed stop")
	cancel(cause)
	for name, c := range map[string]struct {
		ctx   context.Context
		r     pluginbuild.Release
		o     pluginbuild.PrepareOptions
		setup func(dir string) error
		want  string
	}{
		"no go.mod": {setup: func(dir string) error { return os.Remove(dir + "/go.mod") },
			want: "go mod init"},
		"go.mod is a link": {setup: func(dir string) error {
			return errors.Join(os.Rename(dir+"/go.mod", dir+"/x"), os.Symlink("x", dir+"/go.mod"))
		}, want: "not a regular file"},
		"vendor is a link": {setup: func(dir string) error { return os.Symlink("/tmp", dir+"/vendor") },
			want: "not a directory"},
		"unreadable go.mod": {setup: func(dir string) error {
			return os.WriteFile(dir+"/go.mod",
				[]byte("module x\nnonsense y\n"), 0o600)
		}, want: "go.mod:2"},
		"huge go.mod": {setup: func(dir string) error {
			return os.WriteFile(dir+"/go.mod", []byte(strings.Repeat("//\n", 1<<20)), 0o600)
		}, want: "larger than"},
		"backup is a file": {setup: func(dir string) error {
			return os.WriteFile(dir+
				"/.tykupgrade-prepare", nil, 0o600)
		}, want: "another file has this name"},
		"bad release":   {r: pluginbuild.Release{Version: r.Version}, want: "commit"},
		"no version":    {r: pluginbuild.Release{Commit: "x"}, want: "no version"},
		"get is needed": {o: pluginbuild.PrepareOptions{NoGet: true}, want: "5.1.0"},
		"ended context": {ctx: ended, want: cause.Error()},
		"no go program": {o: pluginbuild.PrepareOptions{Go: "no-such-go"},
			want: "install the program"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := newModule(t, good, nil)
			if c.setup != nil {
				if err := c.setup(dir); err != nil {
					t.Fatal(err)
				}
			}
			was := treeOf(t, dir)
			release, ctx := r, t.Context()
			if c.r.Version != nil || c.r.Commit != "" {
				release = c.r
			}
			if c.ctx != nil {
				ctx = c.ctx
			}
			_, err := pluginbuild.Prepare(ctx, dir, release, c.o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q in it", err, c.want)
			}
			if c.ctx != nil && (!errors.Is(err, context.Canceled) || !errors.Is(err, cause)) {
				t.Errorf("error %v does not match the context's", err)
			}
			same(t, was, treeOf(t, dir))
		})
	}
}

// Cancelling while any step runs ends the command and puts everything back.
func TestPrepareCancelled(t *testing.T) {
	t.Parallel()
	env := offline(t, "4.0.3", "4.1.0")
	dir := before(t, env)
	was := treeOf(t, dir)
	for _, step := range []string{"go mod edit", "go get", "go mod tidy", "go mod vendor"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("operator pressed stop")
		wrap := wrapper(t, `go "$@"; echo here; exec sleep 600`)
		if step != "go mod edit" {
			match := strings.ReplaceAll(strings.TrimPrefix(step, "go "), " ", `\ `)
			wrap = wrapper(t, `case "$*" in `+match+`*) go "$@"; echo here; exec sleep 600;; esac`)
		}
		_, err := pluginbuild.Prepare(ctx, dir, lookup(t, "4.1.0"), pluginbuild.PrepareOptions{Env: env,
			Go: wrap, OnEvent: func(e pluginbuild.Event) {
				if e.Kind == pluginbuild.Output && e.Line == "here" {
					cancel(cause)
				}
			}})
		var failed *pluginbuild.Error
		if !errors.Is(err, context.Canceled) || !errors.Is(err, cause) || !errors.As(err, &failed) ||
			failed.Op != step || failed.Retryable() {
			t.Errorf("%s: error %v", step, err)
		}
		same(t, was, treeOf(t, dir))
	}
}

// Of two calls at a time one works and one says that it is busy.
func TestPrepareConcurrently(t *testing.T) {
	t.Parallel()
	env := offline(t, "5.2.5")
	dir := newModule(t, "module example.org/plugin\n\ngo 1.19\n", nil)
	r := lookup(t, "5.2.5")
	var once sync.Once
	var inner error
	_, err := pluginbuild.Prepare(t.Context(), dir, r, pluginbuild.PrepareOptions{Env: env,
		OnEvent: func(e pluginbuild.Event) {
			once.Do(func() {
				_, inner = pluginbuild.Prepare(t.Context(), dir, r, pluginbuild.PrepareOptions{
					Env: env})
			})
		}})
	if err != nil || !errors.Is(inner, pluginbuild.ErrBusy) {
		t.Errorf("outer %v, inner %v", err, inner)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	done, busy := 0, 0
	for range 8 {
		wg.Go(func() {
			_, err := pluginbuild.Prepare(t.Context(), dir, r, pluginbuild.PrepareOptions{Env: env})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				done++
			case errors.Is(err, pluginbuild.ErrBusy):
				busy++
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if done == 0 || done+busy != 8 {
		t.Errorf("%d done, %d busy", done, busy)
	}
	if _, err := os.Stat(filepath.Join(dir, ".tykupgrade-prepare")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the backup directory is still there: %v", err)
	}
}

// On a full disk the module stays, and comes back, as it was.
func TestPrepareFullDisk(t *testing.T) {
	lab.SmallDisk(t, 256<<10, func(disk string) {
		dir := filepath.Join(disk, "plugin")
		m := tykmod.Module{Files: map[string]string{"go.mod": "module example.org/plugin\n\ngo 1.26.0\n",
			"main.go": pluginSource, "vendor/modules.txt": "# x\n"}}
		if err := m.Extract(dir); err != nil {
			t.Fatal(err)
		}
		was := treeOf(t, dir)
		fill := "head -c 1000000 /dev/zero >" + filepath.Join(disk, "fill")
		r := lookup(t, "4.0.8")
		// Full while a command runs.
		_, err := pluginbuild.Prepare(t.Context(), dir, r, pluginbuild.PrepareOptions{Go: wrapper(t,
			"echo broken >go.mod; mkdir vendor; "+fill)})
		var failed *pluginbuild.Error
		if !errors.As(err, &failed) {
			t.Errorf("error %v", err)
		}
		same(t, was, treeOf(t, dir))
		// Full from the beginning.
		_ = os.WriteFile(filepath.Join(disk, "fill2"), make([]byte, 1<<20), 0o600)
		_, err = pluginbuild.Prepare(t.Context(), dir, r, pluginbuild.PrepareOptions{})
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("error %v", err)
		}
		same(t, was, treeOf(t, dir))
	})
}
