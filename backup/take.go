package backup

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/internal/atomicfile"
	"example.com/tykupgrade/internal/lazyregexp"
)

// Options changes how a set is taken. The zero value is useful.
type Options struct {
	Label    string            // free text for the manifest: "before 5.3.0"
	Packages map[string]string // installed package versions, for the manifest
	Tool     string            // the program that takes the set; empty: this module and its version
	// bytes that must stay free on the file system; 0: 64 MiB, negative: none
	Reserve  int64
	Signer   crypto.Signer // signs the manifest as [Set.Sign] does; nil: no signature
	Log      *slog.Logger  // nil: silent
	Progress func(Event)   // called for one event at a time, from any goroutine
}

const defaultReserve = 64 << 20

// Take reads all sources concurrently into a new set below dir. It verifies the set up to
// [LevelStructure] before it gives it its name. After an error or the end of ctx, nothing is left.
// Take creates dir with mode 0700 if it is missing. Only one run at a time may write to dir
// ([ErrLocked]). Take first removes what a killed run left.
//
// If the estimates of the sources do not fit on the disk, the error matches [ErrNoSpace]. An error
// of a source stops the other sources.
func Take(ctx context.Context, dir string, o Options, sources ...Source) (*Set, error) {
	if err := checkSources(sources); err != nil {
		return nil, step.Fail("take", dir, err)
	}
	if err := step.Ended(ctx); err != nil {
		return nil, step.Fail("take", dir, err)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, step.Fail("take", dir, err)
	}
	if err := step.OutsideSets(dir); err != nil {
		return nil, step.Fail("take", dir, err)
	}
	t := &taking{o: o, log: step.Logger(o.Log), progress: step.Serial(o.Progress), dir: dir,
		start: time.Now().UTC()}
	estimates, err := t.plan(ctx, sources)
	if err != nil {
		return nil, step.WithEnd(ctx, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, step.Fail("take", dir, err)
	}
	unlock, err := lock(dir)
	if err != nil {
		return nil, step.Fail("take", dir, err)
	}
	defer unlock()
	if err := sweep(dir); err != nil {
		return nil, step.Fail("remove leftovers in", dir, err)
	}
	set, err := t.run(ctx, sources, estimates)
	if err != nil {
		return nil, step.WithEnd(ctx, err)
	}
	t.log.Info("backup set complete", "dir", set.Dir, "bytes", set.Bytes())
	return set, nil
}

type taking struct {
	o        Options
	log      *slog.Logger
	progress func(Event)
	dir      string
	start    time.Time
}

func (t *taking) run(ctx context.Context, sources []Source,
	estimates []Estimate) (_ *Set, err error) {
	if err := t.space(estimates); err != nil {
		return nil, err
	}
	id := newID(t.start)
	partial := partialDir(t.dir, id)
	if err := os.Mkdir(partial, 0o700); err != nil {
		return nil, step.Fail("take", t.dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(partial))
		}
	}()
	components, files, err := t.read(ctx, partial, sources, estimates)
	if err != nil {
		return nil, err
	}
	m := Manifest{Schema: Schema, ID: id, Tool: t.o.Tool, Label: t.o.Label, Packages: t.o.Packages,
		Start: t.start, End: time.Now().UTC(), Components: components, Files: files}
	if m.Tool == "" {
		m.Tool = step.Module()
	}
	if err := m.write(ctx, partial); err != nil {
		return nil, step.Fail("write the manifest of", t.dir, err)
	}
	if t.o.Signer != nil {
		data, err := readBounded(filepath.Join(partial, step.ManifestName))
		if err == nil {
			err = writeSignature(ctx, partial, t.o.Signer, data)
		}
		if err != nil {
			return nil, step.Fail("sign the manifest of", t.dir, err)
		}
	}
	return publish(ctx, t.dir, id, t.progress)
}

// publish verifies the set under its temporary name and renames it.
func publish(ctx context.Context, dir, id string, progress func(Event)) (*Set, error) {
	partial := partialDir(dir, id)
	set, err := open(partial)
	if err != nil {
		return nil, err
	}
	if err := set.Verify(ctx, VerifyOptions{Progress: progress}); err != nil {
		return nil, err
	}
	if err := syncTree(ctx, partial); err != nil {
		return nil, step.Fail("sync", partial, err)
	}
	if err := step.Ended(ctx); err != nil {
		return nil, step.Fail("take", dir, err)
	}
	final := filepath.Join(dir, id)
	if _, err := os.Lstat(final); !errors.Is(err, fs.ErrNotExist) {
		return nil, step.Fail("publish", final, fs.ErrExist)
	}
	if err := os.Rename(partial, final); err != nil {
		return nil, step.Fail("publish", final, err)
	}
	set.Dir = final
	if err := atomicfile.SyncDir(dir); err != nil {
		return nil, errors.Join(step.Fail("publish", final, err), os.RemoveAll(final))
	}
	return set, nil
}

func (t *taking) plan(ctx context.Context, sources []Source) ([]Estimate, error) {
	estimates := make([]Estimate, len(sources))
	err := step.Together(ctx, len(sources), func(ctx context.Context, i int) error {
		t.progress(Event{Component: sources[i].Name(), Phase: PhasePlan})
		var err error
		if estimates[i], err = sources[i].Plan(ctx); err != nil {
			return step.Fail("back up", sources[i].Name(), err)
		}
		t.progress(Event{Component: sources[i].Name(), Phase: PhasePlan, TotalBytes: estimates[i].Bytes,
			TotalItems: estimates[i].Items, Done: true})
		return nil
	})
	return estimates, err
}

// space checks that the estimates of the sources fit.
func (t *taking) space(estimates []Estimate) error {
	need := max(t.o.Reserve, 0)
	if t.o.Reserve == 0 {
		need = defaultReserve
	}
	for _, e := range estimates {
		need += max(e.Bytes, 0)
	}
	return step.CheckSpace(t.dir, need)
}

func (t *taking) read(ctx context.Context, partial string, sources []Source,
	estimates []Estimate) ([]Component, []File, error) {
	components := make([]Component, len(sources))
	writers := make([]*Writer, len(sources))
	err := step.Together(ctx, len(sources), func(ctx context.Context, i int) error {
		name := sources[i].Name()
		w := &Writer{component: name, dir: filepath.Join(partial, filepath.FromSlash(name)),
			report: t.progress, estimate: estimates[i]}
		writers[i] = w
		if err := os.MkdirAll(w.dir, 0o700); err != nil {
			return step.Fail("back up", name, err)
		}
		t.log.Info("backup started", "component", name)
		start := time.Now().UTC()
		c, err := sources[i].Backup(ctx, w)
		if err != nil {
			return step.Fail("back up", name, err)
		}
		if _, err := structure(c.Kind); err != nil {
			return step.Fail("back up", name, err)
		}
		c.Name, c.Start, c.End = name, start, time.Now().UTC()
		for _, f := range w.files {
			c.Bytes += f.Size
		}
		components[i] = c
		for _, warning := range c.Warnings {
			t.log.Warn("backup", "component", name, "warning", warning)
		}
		t.log.Info("backup finished", "component", name, "bytes", c.Bytes, "items", c.Items)
		t.progress(Event{Component: name, Phase: PhaseBackup, Bytes: c.Bytes, TotalBytes: c.Bytes,
			Items: c.Items, TotalItems: c.Items, Done: true})
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	var files []File
	for _, w := range writers {
		files = append(files, w.files...)
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return components, files, nil
}

func checkSources(sources []Source) error {
	if len(sources) == 0 {
		return errors.New("no source is given")
	}
	var names []string
	for _, s := range sources {
		names = append(names, s.Name())
	}
	return checkComponents(names)
}

// checkComponents refuses names that would share a directory.
func checkComponents(names []string) error {
	for i, name := range names {
		if err := checkName(name); err != nil {
			return err
		}
		if name == step.ManifestName || name == step.ChecksumName || strings.HasPrefix(name, ".") {
			return fmt.Errorf("component name %q is reserved", name)
		}
		for _, other := range names[:i] {
			if name == other || strings.HasPrefix(name, other+"/") || strings.HasPrefix(other, name+"/") {
				return fmt.Errorf("components %q and %q would share a directory; give each a name of its own",
					other, name)
			}
		}
	}
	return nil
}

var idForm = lazyregexp.New(`^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}$`)

func newID(start time.Time) string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return start.UTC().Format("20060102T150405Z") + "-" + hex.EncodeToString(b[:])
}

const (
	lockName      = ".lock"
	partialSuffix = ".partial" // being built
	removedSuffix = ".removed" // being removed
)

func partialDir(dir, id string) string { return filepath.Join(dir, "."+id+partialSuffix) }

// lock excludes other runs from dir. The kernel releases it whenever the process ends.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW,
		0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &Error{Op: "lock", Object: dir, Err: ErrLocked,
				Next: "wait until the other run is done", Retry: true}
		}
		return nil, err
	}
	return func() { _ = atomicfile.UnlockClose(f) }, nil
}

// sweep removes what killed runs left. The caller holds the lock.
func sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, hidden := strings.CutPrefix(e.Name(), ".")
		id, suffix := name[:max(0, len(name)-len(filepath.Ext(name)))], filepath.Ext(name)
		if hidden && idForm.MatchString(id) && (suffix == partialSuffix || suffix == removedSuffix) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// syncEach is the largest number of files to sync one by one. Syncfs is one call for any number,
// but also waits for other programs' writes to the file system.
const syncEach = 64

// syncTree makes everything below dir durable, before the set gets its name.
func syncTree(ctx context.Context, dir string) error {
	var paths []string
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		paths = append(paths, p)
		return err
	})
	if err != nil {
		return err
	}
	if len(paths) > syncEach {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
	}
	return step.Together(ctx, len(paths), func(_ context.Context, i int) error {
		f, err := os.Open(paths[i])
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}
