package debpkg_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
)

// runsDir writes by hand what runs leave on a host.
type runsDir struct {
	*testing.T
	state string
	now   time.Time
}

func newRuns(t *testing.T) *runsDir {
	t.Helper()
	r := &runsDir{T: t, state: filepath.Join(t.TempDir(), "state"),
		now: time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)}
	if err := os.MkdirAll(filepath.Join(r.state, "runs"), 0o700); err != nil {
		t.Fatal(err)
	}
	return r
}

// change is one that ended well, this long ago.
func (r *runsDir) change(n int, age time.Duration) debpkg.Change {
	from, err := debpkg.ParseVersion("4.0.8")
	if err != nil {
		r.Fatal(err)
	}
	to, err := debpkg.ParseVersion("5.2.5")
	if err != nil {
		r.Fatal(err)
	}
	digest := fmt.Sprintf("%064x", n)
	return debpkg.Change{
		Plan: debpkg.Plan{Digest: digest, Requests: []debpkg.Request{{Package: "tyk-gateway", Version: to}},
			Actions: []debpkg.Action{{Kind: debpkg.Upgrade, Package: "tyk-gateway", From: from, To: to}}},
		Dir:     filepath.Join(r.state, "runs", fmt.Sprintf("%016x", n)),
		Started: r.now.Add(-age - time.Minute), Ended: r.now.Add(-age),
		After: []debpkg.Package{{Name: "tyk-gateway", Version: to, Want: "install", Status: "installed"}},
	}
}

// write makes the directory of a run: rc is its exit code, or empty. The times of its files
// say the contrary of what it recorded.
func (r *runsDir) write(dir string, c debpkg.Change, rc string) {
	r.Helper()
	data, err := json.Marshal(c)
	if err != nil {
		r.Fatal(err)
	}
	files := map[string]string{"change.json": string(data), "pid": "1\nno such process\n",
		"tyk-gateway_4.0.8_amd64.deb": strings.Repeat("x", 5000), "log": ""}
	if rc != "" {
		files["rc"] = rc + "\n"
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		r.Fatal(err)
	}
	other := r.now.Add(-10000 * time.Hour)
	if c.Ended.Before(r.now.Add(-720 * time.Hour)) {
		other = r.now
	}
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(file, []byte(text), 0o600),
			os.Chtimes(file, other, other)); err != nil {
			r.Fatal(err)
		}
	}
	if err := os.Chtimes(dir, other, other); err != nil {
		r.Fatal(err)
	}
}

// running makes a run one that is still running.
func (r *runsDir) running(dir string) {
	r.Helper()
	job := filepath.Join(dir, "job.sh")
	p := exec.Command("sh", "-c", "read x", job)
	in, err := p.StdinPipe()
	if err != nil {
		r.Fatal(err)
	}
	if err := p.Start(); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = in.Close(); _ = p.Wait() })
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "rc")), os.WriteFile(filepath.Join(dir, "pid"),
		fmt.Appendf(nil, "%d\n%s\n", p.Process.Pid, job), 0o600)); err != nil {
		r.Fatal(err)
	}
}

func (r *runsDir) host(run debpkg.Runner) *debpkg.Host {
	return debpkg.New(run, debpkg.Options{StateDir: r.state})
}

func (r *runsDir) prune(o debpkg.PruneOptions) map[string]debpkg.PruneState {
	r.Helper()
	if o.Before.IsZero() {
		o.Before = r.now.Add(-720 * time.Hour)
	}
	list, err := r.host(debpkg.Local()).Prune(r.Context(), o)
	if err != nil {
		r.Fatal(err)
	}
	states := map[string]debpkg.PruneState{}
	for i, p := range list {
		if i > 0 && p.Ended.Before(list[i-1].Ended) {
			r.Errorf("%s comes after %s", p, list[i-1])
		}
		states[p.Dir] = p.State
	}
	return states
}

// Age decides, as the changes recorded it, and nothing that may still be needed goes.
func TestPrune(t *testing.T) {
	t.Parallel()
	r := newRuns(t)
	if list := r.prune(debpkg.PruneOptions{}); len(list) != 0 {
		t.Errorf("a new host has %v", list)
	}
	const month = 720 * time.Hour
	n := 0
	want := map[string]debpkg.PruneState{}
	dirs := map[string]string{}
	add := func(name string, age time.Duration, state debpkg.PruneState, rc string,
		edit func(*debpkg.Change)) debpkg.Change {
		n++
		c := r.change(n, age)
		dir := c.Dir
		if edit != nil {
			edit(&c)
		}
		r.write(dir, c, rc)
		want[dir], dirs[dir] = state, name
		return c
	}
	failed := func(c *debpkg.Change) { c.After[0].Version = c.Plan.Actions[0].From }
	old := add("old", month+time.Second, debpkg.PruneForgotten, "0", nil)
	add("apt complained", month+time.Second, debpkg.PruneForgotten, "100", nil)
	add("just young enough", month, debpkg.PruneYoung, "0", nil)
	add("young", time.Hour, debpkg.PruneYoung, "0", nil)
	add("of the future", -time.Hour, debpkg.PruneYoung, "0", nil)
	kept := add("in use", 2*month, debpkg.PruneInUse, "0", nil)
	planned := add("in use by its plan", 2*month, debpkg.PruneInUse, "0", nil)
	add("failed", 2*month, debpkg.PruneUnfinished, "100", failed)
	add("vanished", 2*month, debpkg.PruneUnfinished, "", nil)
	add("not concluded", 2*month, debpkg.PruneUnfinished, "0",
		func(c *debpkg.Change) { c.Ended = time.Time{} })
	reverted := add("failed, then reverted", 2*month, debpkg.PruneForgotten, "100", failed)
	r.write(reverted.Dir+"-revert", reverted, "0")
	half := add("revert failed", 2*month, debpkg.PruneUnfinished, "0", nil)
	r.write(half.Dir+"-revert", half, "100")
	cut := add("revert vanished", 2*month, debpkg.PruneUnfinished, "0", nil)
	r.write(cut.Dir+"-revert", cut, "")
	// The same plan again, after a revert, which says nothing of this change.
	again := add("failed again", 2*month, debpkg.PruneUnfinished, "100", failed)
	earlier := again
	earlier.Started = again.Started.Add(-time.Hour)
	r.write(again.Dir+"-revert", earlier, "0")
	busy := add("running", 2*month, debpkg.PruneRunning, "0", nil)
	r.running(busy.Dir)
	back := add("revert running", 2*month, debpkg.PruneRunning, "0", nil)
	r.write(back.Dir+"-revert", back, "0")
	r.running(back.Dir + "-revert")
	add("of another directory", 2*month, debpkg.PruneUnreadable, "0",
		func(c *debpkg.Change) { c.Dir = "/etc" })
	damaged := add("damaged", 2*month, debpkg.PruneUnreadable, "0", nil)
	if err := os.WriteFile(filepath.Join(damaged.Dir, "change.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	half2 := add("half forgotten", 2*month, debpkg.PruneForgotten, "0", nil)
	for _, name := range []string{"log", "tyk-gateway_4.0.8_amd64.deb"} {
		if err := os.Remove(filepath.Join(half2.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	// What is not a run of a plan.
	runs := filepath.Dir(old.Dir)
	var others []string
	for _, name := range []string{"repair", "history-0123456789abcdef", "0123456789abcde",
		"0123456789abcdef.new.x12345", "0123456789abcdeg"} {
		others = append(others, filepath.Join(runs, name))
		r.write(others[len(others)-1], r.change(99, 2*month), "0")
	}
	if err := os.Symlink(t.TempDir(), filepath.Join(runs, "00000000000000ff")); err != nil {
		t.Fatal(err)
	}

	keep := []debpkg.Change{kept, {Plan: planned.Plan}, {}}
	for _, dry := range []bool{true, false} {
		got := r.prune(debpkg.PruneOptions{Keep: keep, DryRun: dry})
		if len(got) != len(want) {
			t.Errorf("%d changes, want %d: %v", len(got), len(want), got)
		}
		for dir, state := range want {
			if got[dir] != state {
				t.Errorf("%s: %s, want %s", dirs[dir], got[dir], state)
			}
			_, err := os.Stat(dir)
			if gone := errors.Is(err, os.ErrNotExist); gone != (state == debpkg.PruneForgotten && !dry) {
				t.Errorf("dry run %v, %s: gone %v", dry, dirs[dir], gone)
			}
		}
	}
	if _, err := os.Stat(reverted.Dir + "-revert"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the revert of a forgotten change stays: %v", err)
	}
	for _, dir := range others {
		if _, err := os.Stat(filepath.Join(dir, "log")); err != nil {
			t.Error(err)
		}
	}
	// Once no journal needs them, they go as well.
	if got := r.prune(debpkg.PruneOptions{}); got[kept.Dir] != debpkg.PruneForgotten ||
		got[planned.Dir] != debpkg.PruneForgotten {
		t.Errorf("not kept any more: %v", got)
	}
	if _, err := r.host(debpkg.Local()).Prune(t.Context(), debpkg.PruneOptions{}); err == nil ||
		!strings.Contains(err.Error(), "no time is set") {
		t.Errorf("without a time: %v", err)
	}
	if err := os.Chmod(runs, 0o777); err != nil {
		t.Fatal(err)
	}
	_, err := r.host(debpkg.Local()).Prune(t.Context(), debpkg.PruneOptions{Before: r.now})
	wantError(t, err, debpkg.ErrUnsafe, runs)
}

// A change that begins again after the list was made is not forgotten, and an interrupted
// Prune leaves what the next one finishes.
func TestPruneRaces(t *testing.T) {
	t.Parallel()
	r := newRuns(t)
	a, b := r.change(1, 2000*time.Hour), r.change(2, 1000*time.Hour)
	r.write(a.Dir, a, "0")
	r.write(b.Dir, b, "0")
	lost := errors.New("lost")
	begins, fails := true, false
	h := r.host(func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
		if strings.Contains(strings.Join(argv, " "), "debpkg-forget "+a.Dir) && begins {
			begins = false
			r.running(a.Dir)
		} else if strings.Contains(strings.Join(argv, " "), "debpkg-forget") && fails {
			return lost
		}
		return debpkg.Local()(ctx, argv, stdin, stdout, stderr)
	})
	o := debpkg.PruneOptions{Before: r.now}
	fails = true
	list, err := h.Prune(t.Context(), o)
	if !errors.Is(err, lost) || len(list) != 1 || list[0].State != debpkg.PruneRunning {
		t.Errorf("%v, %v", list, err)
	}
	fails = false
	list, err = h.Prune(t.Context(), o)
	if err != nil || len(list) != 2 || list[0].State != debpkg.PruneRunning ||
		list[1].State != debpkg.PruneForgotten || list[1].Kilobytes < 5 {
		t.Errorf("%v, %v", list, err)
	}
	wantError(t, h.Forget(t.Context(), debpkg.Change{Dir: a.Dir}), debpkg.ErrLocked)
	if _, err := os.Stat(filepath.Join(a.Dir, "tyk-gateway_4.0.8_amd64.deb")); err != nil {
		t.Error(err)
	}
	var text bytes.Buffer
	for _, p := range list {
		fmt.Fprintln(&text, p)
	}
	if !strings.Contains(text.String(), "tyk-gateway=5.2.5 of 2026-04-20 20:00 UTC (1 MiB): forgotten") ||
		!strings.Contains(text.String(), "kept: it is in progress") {
		t.Errorf("for people: %s", text.String())
	}
}
