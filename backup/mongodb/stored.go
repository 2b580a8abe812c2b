package mongodb

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/backup/mongodb/internal/dump"
)

// source is a dump that can be restored.
type source struct {
	*dump.Tree
	covers  *patterns // what the dump would have included; nil: unknown
	digest  string    // of its content, by which a later process finds its own run
	inASet  bool
	details Details
}

// otherwise returns the kind of the error if the dump has changed.
func (s *source) otherwise() error {
	if s.inASet {
		return backup.ErrDamaged
	}
	return backup.ErrChanged
}

func (s *source) identify() {
	h := sha256.New()
	for _, c := range s.All {
		fmt.Fprintf(h, "%q %s %s\n", c.Namespace(), c.UUID, c.Tally)
	}
	s.digest = hex.EncodeToString(h.Sum(nil)[:16])
}

// structure reads a whole component of kind "mongo". It checks that every file belongs to a
// collection, that metadata matches the manifest, and that every document is complete. The
// documents must match the manifest's counts, bytes and digests.
func structure(ctx context.Context, s *backup.Stored) error {
	t, err := openStored(ctx, s)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var findings []error
	filled := slices.DeleteFunc(slices.Clone(t.All),
		func(d *dump.Collection) bool { return d.Data == "" })
	err = each(ctx, 4, len(filled), func(ctx context.Context, i int) error {
		d := filled[i]
		got, err := t.Scan(ctx, d)
		if e := step.Ended(ctx); e != nil {
			return e
		}
		if err == nil && got != d.Tally {
			err = fmt.Errorf("%w: %s has %s, the manifest says %s", backup.ErrDamaged, d.Data, got,
				d.Tally)
		}
		mu.Lock()
		defer mu.Unlock()
		findings = append(findings, err)
		return nil
	})
	return errors.Join(err, errors.Join(findings...))
}

// openStored does the same as [dump.OpenTree] for a component of a set. The manifest lists the
// files and their content.
func openStored(ctx context.Context, s *backup.Stored) (*source, error) {
	damaged := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{backup.ErrDamaged}, args...)...)
	}
	t := &source{Tree: &dump.Tree{Open: func(name string) (io.ReadCloser,
		error) {
		return s.Open(name)
	}}, inASet: true}
	if err := s.DecodeDetails(&t.details); err != nil {
		return nil, damaged("details of the component: %w", err)
	}
	details := &t.details
	t.Gzip = details.Gzip
	t.Version = strings.TrimPrefix(s.Server, "MongoDB ")
	if len(details.Include) > 0 {
		t.covers = &patterns{details.Include, details.Exclude}
		if err := t.covers.check(); err != nil {
			return nil, damaged("what was requested: %w", err)
		}
	}
	expected := map[string]bool{path.Join(details.preludeDir(), dump.PreludeName) + t.Suffix(): true}
	if details.Users {
		t.Users = details.Databases
		for _, db := range t.Users {
			for _, a := range []string{"users", "roles", "version"} {
				expected[path.Join(db, "$admin.system."+a+dump.BSONSuffix)+t.Suffix()] = true
			}
		}
	}
	if len(details.Collections) == 0 {
		return nil, damaged("the manifest names no collections")
	}
	for _, c := range details.Collections {
		for _, f := range []string{c.Metadata, c.Data} {
			if f != "" && expected[f] {
				return nil, damaged("two collections share the file %s", f)
			}
			expected[f] = f != ""
		}
		m, err := t.Metadata(ctx, c.DB, c.Metadata)
		if err != nil {
			return nil, step.Damaged(err)
		}
		if m.Name != c.Name || m.Type != c.Type || m.UUID != c.UUID || !slices.Equal(m.IndexNames(),
			c.Indexes) || (c.Data == "") != (c.Type == dump.TypeView) {
			return nil, damaged("%s differs from the manifest about %s.%s", c.Metadata, c.DB, c.Name)
		}
		d := &dump.Collection{Space: m, Data: c.Data, Tally: dump.Tally{Count: c.Count, Bytes: c.Bytes}}
		if d.Sum, err = dump.ParseSum(c.Digest); err != nil && c.Data != "" {
			return nil, damaged("digest of %s: %w", m.Namespace(), err)
		}
		t.All = append(t.All, d)
	}
	for _, f := range s.Files {
		if !expected[f.Path] {
			return nil, damaged("%s belongs to no collection", f.Path)
		}
		delete(expected, f.Path)
	}
	for f, wanted := range expected {
		if wanted {
			return nil, damaged("%s is missing", f)
		}
	}
	t.identify()
	return t, nil
}

// preludeDir returns the directory of prelude.json, see dumping.prelude.
func (d *Details) preludeDir() string {
	if len(d.Databases) == 1 {
		return d.Databases[0]
	}
	return ""
}
