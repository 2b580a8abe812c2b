package backup_test

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/backuptest"
)

// A source that begins again leaves nothing of its first attempt, in the set and in
// what is counted.
func TestWriterReset(t *testing.T) {
	t.Parallel()
	src := plain{name: "a", backup: func(ctx context.Context, w *backup.Writer) error {
		put := func(name, text string) error {
			_, err := w.Create(ctx, name, nil, func(out io.Writer) error {
				_, err := io.WriteString(out,
					text)
				return err
			})
			w.Progress(name, 0, 1)
			return err
		}
		if err := put("first/attempt", "much longer"); err != nil {
			return err
		}
		if err := w.Reset(); err != nil {
			return err
		}
		if n := len(w.Stored().Files); n != 0 {
			t.Errorf("%d files after Reset", n)
		}
		return put("file", "x")
	}}
	var last backup.Event
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{Progress: func(e backup.Event) {
		if e.Phase == backup.PhaseBackup && !e.Done {
			last = e
		}
	}}, src)
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Files) != 1 || set.Files[0].Path != "a/file" || set.Bytes() != 1 || last.Bytes != 1 ||
		last.Items != 1 {
		t.Errorf("files %+v, %d bytes, last event %+v", set.Files, set.Bytes(), last)
	}
	if _, err := os.Stat(filepath.Join(set.Dir, "a/first")); err == nil {
		t.Error("the first attempt is left")
	}
}

// The age of a set is that of its moment, which is its start: a long run makes no set
// younger.
func TestPruneAge(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	slow := plain{name: "a", backup: func(ctx context.Context, w *backup.Writer) error {
		time.Sleep(30 * time.Millisecond)
		return text("a", "x").backup(ctx, w)
	}}
	old := takePlain(t, dir, slow)
	kept := takePlain(t, dir, text("a", "x"))
	now := func() time.Time { return old.Start.Add(time.Hour + 15*time.Millisecond) }
	out, err := backup.Prune(t.Context(), dir, backup.Policy{MaxAge: time.Hour, Now: now})
	if err != nil || !slices.Equal(out.Removed, []string{old.ID}) || !slices.Equal(out.Kept,
		[]string{kept.ID}) {
		t.Errorf("%+v %v", out, err)
	}
}

// A clock that is an hour off, in either direction, costs no set its place.
func TestClockAnHourOff(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{-time.Hour, time.Hour} {
		dir := t.TempDir()
		a := takePlain(t, dir, text("a", "x"))
		time.Sleep(2 * time.Millisecond)
		b := takePlain(t, dir, text("a", "x"))
		now := func() time.Time { return time.Now().Add(off) }
		out, err := backup.Prune(t.Context(), dir, backup.Policy{Keep: 1, MaxAge: 2 * time.Hour,
			Now: now})
		if off < 0 { // both are from the future: nobody knows which is the newest
			if err == nil || len(out.Removed) > 0 {
				t.Errorf("clock behind: %+v %v", out, err)
			}
			continue
		}
		if err != nil || !slices.Equal(out.Kept, []string{b.ID}) || !slices.Equal(out.Removed,
			[]string{a.ID}) {
			t.Errorf("clock ahead: %+v %v", out, err)
		}
	}
}

const exportEnv = "BACKUP_TEST_EXPORT"

// TestExportHelper exports one set again and again until it is killed.
func TestExportHelper(t *testing.T) {
	dir := os.Getenv(exportEnv)
	if dir == "" {
		t.Skip("runs on behalf of TestKilledExport")
	}
	set, err := backup.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for {
		if err := set.Export(t.Context(), dir+".tar.zst", backup.ExportOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// A killed Export leaves its file whole and at most one temporary file, which the next
// Export removes.
func TestKilledExport(t *testing.T) {
	t.Parallel()
	set := takePlain(t, t.TempDir(), text("a", "x"))
	dir := filepath.Dir(set.Dir)
	path := set.Dir + ".tar.zst"
	found := 0
	for range 5 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestExportHelper$")
		cmd.Env = append(os.Environ(), exportEnv+"="+set.Dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// The moment is one at which a temporary file is there.
		for range 60_000 {
			if len(temps(t, dir)) > 0 {
				break
			}
			time.Sleep(100 * time.Microsecond)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		found += len(temps(t, dir))
		if n := len(temps(t, dir)); n > 1 {
			t.Errorf("%d temporary files: the run did not remove what the one before left", n)
		}
		if data, err := os.Open(path); err == nil {
			if _, err := backup.Import(t.Context(), t.TempDir(), data,
				backup.ImportOptions{}); err != nil {
				t.Errorf("the export is not whole: %v", err)
			}
			_ = data.Close()
		}
	}
	if found == 0 {
		t.Error("no kill hit an export at work: the test shows nothing")
	}
	if err := set.Export(t.Context(), path, backup.ExportOptions{}); err != nil {
		t.Fatal(err)
	}
	if left := temps(t, dir); len(left) > 0 || len(backuptest.Leftovers(t, dir)) > 0 {
		t.Errorf("left %v", left)
	}
}

func temps(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, ".*.tmp-*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}
