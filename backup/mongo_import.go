package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"example.com/tykupgrade/backup/internal/step"
)

// MongoDump is what mongodump wrote, outside of a set: the directory of --out or
// the file of --archive, plain or compressed.
//
// A directory holds no checksums, so a byte that changed inside a string, or
// documents cut off at a boundary, cannot be seen there; an archive has them.
type MongoDump struct {
	Path string
	data dumpData
}

// MongoDumpOptions changes how a dump is read. The zero value is useful.
type MongoDumpOptions struct {
	// NoPrelude accepts a directory without prelude.json: one of an older
	// mongodump, which wrote none, that is known to have succeeded.
	NoPrelude bool
}

// OpenMongoDump reads the whole dump at path and checks what can be checked:
// that every collection has its documents and its metadata, that every document
// is whole, and in an archive that all checksums are right and none is missing.
// A path that is no dump, or a level too deep or too high, is an error.
func OpenMongoDump(ctx context.Context, path string, o MongoDumpOptions) (*MongoDump, error) {
	d := &MongoDump{Path: path}
	err := d.open(ctx, o)
	if e := step.Ended(ctx); e != nil {
		err = e
	}
	if err == nil {
		return d, nil
	}
	var ours *Error
	if errors.As(err, &ours) {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if errors.Is(err, errBSON) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = step.Damaged(err)
	}
	return nil, step.Fail("open", path, err)
}

func (d *MongoDump) open(ctx context.Context, o MongoDumpOptions) error {
	info, err := os.Stat(d.Path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		d.data, err = openArchive(ctx, d.Path)
		return err
	}
	t, err := openTree(ctx, os.DirFS(d.Path), o)
	if err != nil {
		return err
	}
	for _, s := range t.all {
		if s.data == "" {
			continue
		}
		sum, err := t.scan(ctx, s, false)
		if err != nil {
			return err
		}
		s.count, s.bytes, s.sum = sum.count, sum.bytes, sum.sum
	}
	for _, db := range t.users {
		for _, a := range authFiles {
			if err := t.feedAuth(ctx, db, a.file, checkBSON); err != nil {
				return err
			}
		}
	}
	d.data = t
	return nil
}

// Collections lists what the dump holds, with digests as in a set's manifest.
func (d *MongoDump) Collections() []MongoCollection {
	var all []MongoCollection
	for _, s := range d.data.spaces() {
		c := MongoCollection{DB: s.DB, Name: s.Name, Type: s.Type, UUID: s.UUID, Indexes: s.indexNames(), Count: s.count, Bytes: s.bytes}
		if s.Type != typeView {
			c.Digest = s.sum.String()
		}
		all = append(all, c)
	}
	return all
}

// Restore brings the dump back as [Set.Restore] does for a component of a set:
// plan, write, prove. The report tells of every collection, also where an error
// is returned.
func (d *MongoDump) Restore(ctx context.Context, o RestoreOptions, to *MongoRestore) (ComponentReport, error) {
	report := ComponentReport{Name: d.Path, State: StatePlanned}
	items, err := to.plan(ctx, d.data)
	report.Items = items
	if err == nil && !o.DryRun {
		report.State = StateFailed
		progress := step.Serial(o.Progress)
		if report.Items, err = to.restore(ctx, d.data, progress); err == nil {
			report.State = StateRestored
			progress(Event{Component: to.Name(), Phase: PhaseProve})
			if err = to.prove(ctx, d.data, false); err == nil {
				report.State = StateVerified
				progress(Event{Component: to.Name(), Phase: PhaseProve, Done: true})
			}
		}
	}
	if err != nil {
		report.Reason = err.Error()
		return report, step.Fail("restore", d.Path, err)
	}
	return report, nil
}
