package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/debpkgtest"
	"example.com/tykupgrade/debpkg/rollout"
)

// withNotes is a host in memory whose cached bundles and notes are files below base.
func withNotes(fake *debpkgtest.Host, base string) debpkg.Runner {
	return func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
		argv = slices.Clone(argv)
		for i := range argv {
			argv[i] = strings.Replace(argv[i], notesDir, base+"/notes", 1)
		}
		if !slices.ContainsFunc(argv, func(a string) bool { return strings.HasPrefix(a, base+"/") }) {
			return fake.Run(ctx, argv, stdin, stdout, stderr)
		}
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
		return cmd.Run()
	}
}

// What swaps put aside is forgotten by the time that they recorded, unless a known journal or a
// change on the host may still put it back.
func TestPruneBundles(t *testing.T) {
	t.Parallel()
	base, fake := t.TempDir(), debpkgtest.New("g")
	run := withNotes(fake, base)
	swap, now := &Swap{Runner: run}, time.Now()
	put := func(id int, age time.Duration, change string) string {
		t.Helper()
		c := cached{Path: fmt.Sprintf("%s/bundles/%032x", base, id), Kept: true, At: now.Add(-age),
			Run: change}
		if err := errors.Join(os.MkdirAll(c.Path, 0o755), os.WriteFile(c.Path+"/so", []byte("x"),
			0o600)); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second call is that of a resumed run
			if _, err := swap.files(t.Context(), asideScript, []cached{c}); err != nil {
				t.Fatal(err)
			}
		}
		return c.Path
	}
	fake.Offer(debpkgtest.Tyk("tyk-gateway", "5.2.5"), debpkgtest.Tyk("tyk-gateway", "4.0.8"))
	fake.Install(debpkgtest.Tyk("tyk-gateway", "4.0.8"))
	host := debpkg.New(fake.Run, debpkg.Options{Settle: time.Millisecond})
	to, err := debpkg.ParseVersion("5.2.5")
	if err != nil {
		t.Fatal(err)
	}
	plan, err := host.Plan(t.Context(), debpkg.Request{Package: "tyk-gateway", Version: to})
	if err != nil {
		t.Fatal(err)
	}
	change, err := host.Apply(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	const hour = time.Hour
	old, young, used, stays, gone := put(1, 3*hour, "/gone"), put(2, hour, ""), put(3, 3*hour, ""),
		put(4, 3*hour, change.Dir), put(5, 3*hour, "")
	note := func(path string) string { return filepath.Join(base, "notes", cached{Path: path}.name()) }
	forged := base + "/bundles/x"
	if err := errors.Join(os.RemoveAll(aside(gone)), os.MkdirAll(aside(forged), 0o755),
		os.WriteFile(note(forged), []byte("2020-01-01T00:00:00Z\n\n"+forged+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	unreadable := filepath.Join(notesDir, filepath.Base(note(forged)))
	saved := fmt.Sprintf(`{"Plan": {}, "Cached": [{"Path": %q, "Kept": true}]}`, used)
	rep := &rollout.Report{Outcome: rollout.OutcomeDone, Targets: []rollout.TargetReport{{Name: "g",
		Steps: []rollout.StepReport{{Name: stepInstall, Note: []byte(saved)}}}}}
	inv := &Inventory{Hosts: []Host{{Name: "g", Address: "a"}}, Connect: func(Host) debpkg.Runner {
		return run
	}}
	for _, c := range []struct {
		dry  bool
		keep []*rollout.Report
		want map[string]debpkg.PruneState
	}{
		{true, []*rollout.Report{rep}, map[string]debpkg.PruneState{old: debpkg.PruneForgotten,
			young: debpkg.PruneYoung, used: debpkg.PruneInUse, stays: debpkg.PruneYoung,
			unreadable: debpkg.PruneUnreadable}},
		{false, []*rollout.Report{rep}, map[string]debpkg.PruneState{old: debpkg.PruneForgotten,
			young: debpkg.PruneYoung, used: debpkg.PruneInUse, stays: debpkg.PruneYoung,
			unreadable: debpkg.PruneUnreadable}},
		{false, nil, map[string]debpkg.PruneState{young: debpkg.PruneYoung, used: debpkg.PruneForgotten,
			stays: debpkg.PruneYoung, unreadable: debpkg.PruneUnreadable}},
	} {
		rows, err := inv.Prune(t.Context(), PruneOptions{Before: now.Add(-2 * hour), DryRun: c.dry,
			Keep: c.keep})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]debpkg.PruneState{}
		for _, b := range rows[0].Bundles {
			got[b.Dir] = b.State
			if b.Dir == old && (b.Kilobytes == 0 || !b.At.Equal(now.Add(-3*hour).Truncate(time.Second))) {
				t.Errorf("%+v", b)
			}
			if want := "cached bundle " + b.Dir; !strings.HasPrefix(b.String(), want) {
				t.Errorf("%s", b)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("dry %v, %d journals: %v, want %v", c.dry, len(c.keep), got, c.want)
		}
		for path, state := range c.want {
			if state == debpkg.PruneUnreadable {
				path = forged
			}
			if kept := c.dry || state != debpkg.PruneForgotten; holds(aside(path)) != kept ||
				holds(note(path)) != kept {
				t.Errorf("dry %v, %s is %s, its note %v", c.dry, path, state, holds(note(path)))
			}
		}
		if holds(note(gone)) != c.dry {
			t.Errorf("dry %v: the note of what is gone: %v", c.dry, holds(note(gone)))
		}
	}
	// A host whose Runner reaches debpkg's helper alone cannot swap, and has nothing to forget.
	swap.Runner = func(context.Context, []string, io.Reader, io.Writer, io.Writer) error {
		return debpkg.ErrHelper
	}
	if list, err := swap.prune(t.Context(), PruneOptions{}, nil, nil); err != nil || list != nil {
		t.Errorf("%v, %v", list, err)
	}
}
