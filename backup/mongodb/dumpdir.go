package mongodb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/backup/mongodb/internal/dump"
)

// Dump is a dump of mongodump outside of a set: the directory of --out, with or without --gzip.
// Archives are not supported.
//
// A directory has no checksums. A changed byte inside a string, or documents that are missing at
// the end, cannot be detected.
type Dump struct {
	Path string
	data *source
}

// DumpOptions changes how a dump is read. The zero value is useful.
type DumpOptions struct {
	// NoPrelude accepts a directory without prelude.json. Set it for a dump of an older
	// mongodump, which wrote none, if that mongodump succeeded.
	NoPrelude bool
}

// OpenDump reads the whole dump at path. It checks that every collection has its documents and its
// metadata, and that every document is complete. path must be the directory that was given to
// mongodump --out.
func OpenDump(ctx context.Context, path string, o DumpOptions) (*Dump, error) {
	d := &Dump{Path: path}
	err := d.open(ctx, o)
	if e := step.Ended(ctx); e != nil {
		err = e
	}
	if err == nil {
		return d, nil
	}
	var ours *backup.Error
	if errors.As(err, &ours) {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if errors.Is(err, dump.ErrBSON) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = step.Damaged(err)
	}
	return nil, step.Fail("open", path, err)
}

func (d *Dump) open(ctx context.Context, o DumpOptions) error {
	info, err := os.Stat(d.Path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return &backup.Error{Op: "open", Object: d.Path,
			Err:  errors.New("it is not a directory; archives of mongodump --archive are not supported"),
			Next: "use mongorestore --archive, or dump with --out"}
	}
	t, err := dump.OpenTree(ctx, os.DirFS(d.Path), o.NoPrelude)
	if err != nil {
		return err
	}
	err = each(ctx, 4, len(t.All), func(ctx context.Context, i int) (err error) {
		if s := t.All[i]; s.Data != "" {
			s.Tally, err = t.Scan(ctx, s)
		}
		return err
	})
	d.data = &source{Tree: t}
	d.data.identify()
	return err
}

// Collections returns the collections of the dump, with digests as in a set's manifest.
func (d *Dump) Collections() []Collection {
	var all []Collection
	for _, s := range d.data.All {
		c := Collection{DB: s.DB, Name: s.Name, Type: s.Type, UUID: s.UUID, Indexes: s.IndexNames(),
			Count: s.Count, Bytes: s.Bytes}
		if s.Type != dump.TypeView {
			c.Digest = s.Sum.String()
		}
		all = append(all, c)
	}
	return all
}

// Restore restores the dump as [backup.Set.Restore] restores a component of a set: it plans,
// writes, compares, and undoes after a failed comparison. The report has every collection, whether
// or not there is an error. With o.Keep the caller must call [Dump.Accept] or [Dump.Undo], in this
// process or a later one.
func (d *Dump) Restore(ctx context.Context, o backup.RestoreOptions,
	to *Restore) (backup.ComponentReport, error) {
	report := backup.ComponentReport{Name: d.Path, State: backup.StatePlanned}
	items, err := to.plan(ctx, d.data)
	report.Items = items
	if err == nil && !o.DryRun {
		err = d.restore(ctx, o, to, &report)
	}
	if err != nil {
		report.Reason = err.Error()
		return report, step.Fail("restore", d.Path, err)
	}
	return report, nil
}

func (d *Dump) restore(ctx context.Context, o backup.RestoreOptions, to *Restore,
	report *backup.ComponentReport) (err error) {
	report.State = backup.StateFailed
	progress := step.Serial(o.Progress)
	if report.Items, err = to.restore(ctx, d.data, progress); err != nil {
		return err
	}
	report.State = backup.StateRestored
	progress(backup.Event{Component: to.Name(), Phase: backup.PhaseProve})
	if err := to.prove(ctx, d.data, false); err != nil {
		if to.Mode == Drop {
			return err
		}
		ctx, cancel := step.Undoing(ctx)
		defer cancel()
		_, undo := to.end(ctx, d.data, undoing)
		if undo == nil {
			report.State = backup.StateUndone
		}
		return errors.Join(err, undo)
	}
	report.State = backup.StateVerified
	progress(backup.Event{Component: to.Name(), Phase: backup.PhaseProve, Done: true})
	if o.Keep {
		return nil
	}
	return d.Accept(ctx, to)
}

// Accept drops the collections that [Dump.Restore] replaced, see [Restore.Accept].
func (d *Dump) Accept(ctx context.Context, to *Restore) error {
	_, err := to.end(ctx, d.data, accepting)
	return err
}

// Undo restores the collections that [Dump.Restore] replaced, see [Restore.Undo].
func (d *Dump) Undo(ctx context.Context, to *Restore) (undone bool, err error) {
	return to.end(ctx, d.data, undoing)
}
