// Package backuptest holds the conformance test that every backup source and
// restorer passes, and the tests of a whole set that are run for each source:
// killed while it is taken, damaged afterwards.
package backuptest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"example.com/tykupgrade/backup"
)

// Case is one source with all that its conformance test needs.
type Case struct {
	// Source reads a live system that holds something.
	Source func(t *testing.T) backup.Source
	// Restorer writes into an empty system of its own.
	Restorer func(t *testing.T) backup.Restorer
	// Change alters the live system, so that it no longer is as in a set taken
	// before. nil: the source is no Prover.
	Change func(t *testing.T)
	// Broken is a source that fails, with a Secret in its configuration.
	Broken func(t *testing.T) backup.Source
	Secret string
}

// Run runs the conformance test.
func Run(t *testing.T, c Case) {
	dir := t.TempDir()
	set := c.take(t, dir)
	t.Run("manifest", func(t *testing.T) { c.manifest(t, set) })
	t.Run("levels", func(t *testing.T) { c.levels(t, set) })
	t.Run("cancel", func(t *testing.T) { c.cancel(t) })
	t.Run("broken", func(t *testing.T) { c.broken(t) })
	t.Run("export", func(t *testing.T) { c.export(t, set) })
	t.Run("restore", func(t *testing.T) { c.restore(t, set) })
	t.Run("damage", func(t *testing.T) { Damage(t, set, 60) })
	if c.Change != nil {
		t.Run("differs", func(t *testing.T) { c.differs(t, set) })
	}
}

func (c Case) take(t *testing.T, dir string) *backup.Set {
	t.Helper()
	src := c.Source(t)
	var last backup.Event
	set, err := backup.Take(t.Context(), dir, backup.Options{Label: "conformance", Progress: func(e backup.Event) {
		if e.Component != src.Name() {
			t.Errorf("event of component %q", e.Component)
		}
		if e.Phase == backup.PhaseBackup {
			last = e
		}
	}}, src)
	if err != nil {
		t.Fatal(err)
	}
	if comp := set.Components[0]; !last.Done || last.Items != comp.Items || last.Bytes != comp.Bytes {
		t.Errorf("last event %+v, component has %d items, %d bytes", last, comp.Items, comp.Bytes)
	}
	if left := Leftovers(t, dir); len(left) > 0 {
		t.Errorf("left beside the set: %v", left)
	}
	return set
}

func (c Case) manifest(t *testing.T, set *backup.Set) {
	comp := set.Components[0]
	if comp.Kind == "" || comp.Consistency == "" || comp.Method == "" || comp.Topology == "" || comp.Items == 0 || comp.Bytes == 0 || comp.End.Before(comp.Start) {
		t.Errorf("incomplete: %+v", comp)
	}
	data, err := os.ReadFile(filepath.Join(set.Dir, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Secret != "" && bytes.Contains(data, []byte(c.Secret)) {
		t.Error("the manifest holds the secret")
	}
	err = filepath.WalkDir(set.Dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v", p, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	cmd := exec.Command("sha256sum", "--check", "--strict", "--quiet", "manifest.sha256")
	cmd.Dir = set.Dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("sha256sum: %v\n%s", err, out)
	}
}

func (c Case) levels(t *testing.T, set *backup.Set) {
	again, err := backup.Open(set.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []backup.Level{backup.LevelFiles, backup.LevelStructure} {
		if err := again.Verify(t.Context(), backup.VerifyOptions{Level: l}); err != nil {
			t.Errorf("level %v: %v", l, err)
		}
	}
	if p, ok := c.Source(t).(backup.Prover); ok {
		if err := again.Verify(t.Context(), backup.VerifyOptions{Level: backup.LevelLive, Against: []backup.Prover{p}}); err != nil {
			t.Errorf("level live: %v", err)
		}
	}
}

// cancel ends the context at many moments of a run: nothing may be left.
func (c Case) cancel(t *testing.T) {
	cause := errors.New("the operator pressed stop")
	for at := range 12 {
		dir := t.TempDir()
		ctx, cancel := context.WithCancelCause(t.Context())
		var events atomic.Int32
		if at == 0 {
			cancel(cause)
		}
		_, err := backup.Take(ctx, dir, backup.Options{Progress: func(backup.Event) {
			if int(events.Add(1)) == at {
				cancel(cause)
			}
		}}, c.Source(t))
		cancel(cause)
		sets, _ := backup.List(dir)
		if err == nil {
			if len(sets) == 0 {
				t.Error("no error and no set")
			}
			continue // the run was over before
		}
		if !errors.Is(err, context.Canceled) || !errors.Is(err, cause) {
			t.Errorf("cancelled at event %d: %v", at, err)
		}
		if left := Leftovers(t, dir); len(left) > 0 || len(sets) > 0 {
			t.Errorf("cancelled at event %d, left: %v %v", at, left, sets)
		}
	}
}

func (c Case) broken(t *testing.T) {
	dir := t.TempDir()
	_, err := backup.Take(t.Context(), dir, backup.Options{}, c.Broken(t))
	if err == nil {
		t.Fatal("a broken source was backed up")
	}
	t.Log(err)
	if c.Secret != "" && strings.Contains(err.Error(), c.Secret) {
		t.Errorf("the error shows the secret: %v", err)
	}
	var e *backup.Error
	if !errors.As(err, &e) {
		t.Errorf("%T is not an *Error", err)
	}
	if sets, _ := backup.List(dir); len(sets) > 0 || len(Leftovers(t, dir)) > 0 {
		t.Errorf("left: %v %v", sets, Leftovers(t, dir))
	}
}

func (c Case) export(t *testing.T, set *backup.Set) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]backup.ExportOptions{"set.tar.zst": {}, "set.tar.zst.age": {Recipients: []age.Recipient{id.Recipient()}}} {
		path := filepath.Join(t.TempDir(), name)
		if err := set.Export(t.Context(), path, o); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		in := t.TempDir()
		var ids []age.Identity
		if len(o.Recipients) > 0 {
			ids = append(ids, id)
		} else if _, err := backup.Import(t.Context(), t.TempDir(), bytes.NewReader(data), id); !errors.Is(err, backup.ErrUnsafe) {
			t.Errorf("an export that is not encrypted, with an identity: %v", err)
		}
		again, err := backup.Import(t.Context(), in, bytes.NewReader(data), ids...)
		if err != nil || again.ID != set.ID {
			t.Fatalf("%s: %v", name, err)
		}
		for range 20 {
			broken := bytes.Clone(data)
			if at := rand.IntN(len(broken)); rand.IntN(2) == 0 {
				broken[at] ^= 1 << rand.IntN(8)
			} else {
				broken = broken[:at]
			}
			in := t.TempDir()
			if s, err := backup.Import(t.Context(), in, bytes.NewReader(broken), ids...); err == nil && !sameSet(s, set) {
				t.Errorf("%s: a damaged export became another set", name)
			} else if err != nil && len(Leftovers(t, in)) > 0 {
				t.Errorf("%s: left %v", name, Leftovers(t, in))
			}
		}
	}
}

func sameSet(a, b *backup.Set) bool {
	x, _ := os.ReadFile(filepath.Join(a.Dir, "manifest.sha256"))
	y, _ := os.ReadFile(filepath.Join(b.Dir, "manifest.sha256"))
	return bytes.Equal(x, y)
}

func (c Case) restore(t *testing.T, set *backup.Set) {
	r := c.Restorer(t)
	st, ok := set.Component(r.Name())
	if !ok {
		t.Fatalf("no component %q", r.Name())
	}
	if err := r.Prove(t.Context(), st); !errors.Is(err, backup.ErrDiffers) {
		t.Errorf("the empty target equals the set: %v", err)
	}
	dry, err := set.Restore(t.Context(), backup.RestoreOptions{DryRun: true}, r)
	if err != nil || dry.Components[0].State != backup.StatePlanned || len(dry.Components[0].Items) == 0 {
		t.Fatalf("dry run: %+v %v", dry, err)
	}
	if err := r.Prove(t.Context(), st); !errors.Is(err, backup.ErrDiffers) {
		t.Errorf("a dry run restored: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := set.Restore(ctx, backup.RestoreOptions{}, r); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	report, err := set.Restore(t.Context(), backup.RestoreOptions{}, r)
	if err != nil || report.Components[0].State != backup.StateVerified || len(report.Components[0].Items) == 0 {
		t.Fatalf("restore: %+v %v", report, err)
	}
	if err := r.Prove(t.Context(), st); err != nil {
		t.Errorf("after the restore: %v", err)
	}
	// A second time it is refused, or finds nothing to do.
	if report, err := set.Restore(t.Context(), backup.RestoreOptions{}, r); err != nil && !errors.Is(err, backup.ErrNotEmpty) {
		t.Errorf("second restore: %+v %v", report, err)
	}
	// A damaged set changes nothing.
	damaged := copySet(t, set)
	path := filepath.Join(damaged, set.Files[0].Path)
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	bad, err := backup.Open(damaged)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bad.Restore(t.Context(), backup.RestoreOptions{}, c.Restorer(t)); set.Files[0].Size > 0 && !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("a damaged set was restored: %v", err)
	}
}

func (c Case) differs(t *testing.T, set *backup.Set) {
	p := c.Source(t).(backup.Prover)
	c.Change(t)
	err := set.Verify(t.Context(), backup.VerifyOptions{Level: backup.LevelLive, Against: []backup.Prover{p}})
	if !errors.Is(err, backup.ErrDiffers) {
		t.Errorf("a changed system equals the set: %v", err)
	}
	t.Log(err)
}

// Leftovers lists what a directory of sets holds beside sets and the lock.
func Leftovers(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		if e.Name() != ".lock" && strings.HasPrefix(e.Name(), ".") {
			left = append(left, e.Name())
		}
	}
	return left
}

// Damage flips or removes one byte at n random places of the set, one after
// the other. Verification finds every one.
func Damage(t *testing.T, set *backup.Set, n int) {
	dir := copySet(t, set)
	var files []string
	var sizes []int64
	var total int64
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > 0 {
			files, sizes = append(files, p), append(sizes, info.Size())
			total += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		// Every other time by file, so that small ones are hit as well.
		at := rand.IntN(len(files))
		off := rand.Int64N(sizes[at])
		if i%2 == 0 {
			off = rand.Int64N(total)
			for at = 0; off >= sizes[at]; at++ {
				off -= sizes[at]
			}
		}
		data, err := os.ReadFile(files[at])
		if err != nil {
			t.Fatal(err)
		}
		broken := bytes.Clone(data)
		how := "flipped"
		if rand.IntN(2) == 0 {
			broken[off] ^= 1 << rand.IntN(8)
		} else {
			how = "missing"
			broken = append(broken[:off], broken[off+1:]...)
		}
		if err := os.WriteFile(files[at], broken, 0o600); err != nil {
			t.Fatal(err)
		}
		bad, err := backup.Open(dir)
		if err == nil {
			err = bad.Verify(t.Context(), backup.VerifyOptions{Level: backup.LevelFiles})
		}
		if !errors.Is(err, backup.ErrDamaged) && !errors.Is(err, backup.ErrNotASet) {
			t.Errorf("byte %d of %s %s: %v", off, files[at], how, err)
		}
		if err := os.WriteFile(files[at], data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	good, err := backup.Open(dir)
	if err == nil {
		err = good.Verify(t.Context(), backup.VerifyOptions{})
	}
	if err != nil {
		t.Errorf("the repaired copy: %v", err)
	}
}

func copySet(t testing.TB, set *backup.Set) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), set.ID)
	if err := os.CopyFS(dir, os.DirFS(set.Dir)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// killEnv tells the helper process where to write sets.
const killEnv = "BACKUPTEST_KILL_DIR"

// Helper is what the test named in [Kill] calls first: in the helper process it
// takes one set after the other until it is killed, and does not return.
func Helper(sources func() []backup.Source) {
	dir := os.Getenv(killEnv)
	if dir == "" {
		return
	}
	for i := 0; ; i++ {
		if _, err := backup.Take(context.Background(), dir, backup.Options{Reserve: -1}, sources()...); err != nil {
			fmt.Println("FAILED", err)
			os.Exit(1)
		}
		fmt.Println("TAKEN")
	}
}

// Kill runs the test binary again n times with the named test, which must call
// [Helper], and kills it with SIGKILL at a random moment. Every set that opens
// then is complete, and the next run removes what was left. env is added to
// the helper's environment.
func Kill(t *testing.T, helper string, n int, env ...string) {
	dir := t.TempDir()
	sets, leftovers := 0, 0
	// More than n only where none of them hit a set that was being built.
	for i := 0; i < n || (leftovers == 0 && i < 10*n); i++ {
		cmd := exec.Command(os.Args[0], "-test.run=^"+helper+"$")
		cmd.Env = append(append(os.Environ(), killEnv+"="+dir), env...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// The first set shows that it works; the moment counts from there.
		line := make([]byte, 64)
		m, _ := out.Read(line)
		if !bytes.HasPrefix(line[:m], []byte("TAKEN")) {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			t.Fatalf("helper: %s", line[:m])
		}
		time.Sleep(time.Duration(rand.Int64N(int64(30 * time.Millisecond))))
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		left := Leftovers(t, dir)
		if leftovers += len(left); len(left) > 1 {
			t.Errorf("a run did not remove what the one before left: %v", left)
		}
		complete, err := backup.List(dir)
		if err != nil {
			t.Errorf("a set that looks complete does not open: %v", err)
		}
		for _, s := range complete {
			if err := s.Verify(t.Context(), backup.VerifyOptions{}); err != nil {
				t.Errorf("a set that opens is not complete: %v", err)
			}
			if err := os.RemoveAll(s.Dir); err != nil {
				t.Fatal(err)
			}
		}
		sets += len(complete)
	}
	t.Logf("%d kills: %d sets were complete, %d were cut off", n, sets, leftovers)
	if leftovers == 0 {
		t.Error("no kill hit a set that was being built: the test shows nothing")
	}
}
