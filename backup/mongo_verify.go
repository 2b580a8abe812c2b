package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"

	"example.com/tykupgrade/backup/internal/step"
)

func init() { RegisterKind(KindMongo, mongoStructure) }

// mongoStructure reads a component of kind "mongo" from end to end: every file
// is accounted for, metadata can be read and says what the manifest says, every
// document is whole, and they add up to count, bytes and digests.
func mongoStructure(ctx context.Context, s *Stored) error {
	t, details, err := openStored(ctx, s)
	if err != nil {
		return err
	}
	wholes := map[string]string{}
	for _, c := range details.Collections {
		if details.Gzip { // otherwise it is the file's own, which has been compared
			wholes[c.DB+"."+c.Name] = c.SHA256
		}
	}
	var mu sync.Mutex
	var findings []error
	filled := slices.DeleteFunc(slices.Clone(t.all), func(d *dumped) bool { return d.data == "" })
	err = largestFirst(ctx, 4, filled, func(ctx context.Context, d *dumped) error {
		got, err := t.scan(ctx, d, details.Gzip)
		if e := step.Ended(ctx); e != nil {
			return e
		}
		if err == nil && (got.count != d.count || got.bytes != d.bytes || got.sum != d.sum || got.sha256() != wholes[d.namespace()]) {
			err = fmt.Errorf("%w: %s: %d documents of %d bytes with digest %s, the manifest says %d of %d with %s", ErrDamaged,
				d.data, got.count, got.bytes, got.sum, d.count, d.bytes, d.sum)
		}
		mu.Lock()
		defer mu.Unlock()
		findings = append(findings, err)
		return nil
	})
	if err != nil {
		return err
	}
	for _, db := range t.users {
		for _, a := range authFiles {
			findings = append(findings, t.feedAuth(ctx, db, a.file, checkBSON))
		}
	}
	return errors.Join(findings...)
}

// openStored is openTree for a component of a set: the manifest says which
// files there are, and what is in them.
func openStored(ctx context.Context, s *Stored) (*tree, *MongoDetails, error) {
	var details MongoDetails
	if err := s.DecodeDetails(&details); err != nil {
		return nil, nil, fmt.Errorf("%w: details of the component: %w", ErrDamaged, err)
	}
	t := &tree{gzip: details.Gzip, open: func(name string) (io.ReadCloser, error) { return s.Open(name) }}
	t.version = strings.TrimPrefix(s.Server, "MongoDB ")
	if len(details.Include) > 0 {
		t.asked = &patterns{details.Include, details.Exclude}
		if err := t.asked.check(); err != nil {
			return nil, nil, fmt.Errorf("%w: what was asked for: %w", ErrDamaged, err)
		}
	}
	expected := map[string]bool{path.Join(details.preludeDir(), preludeName) + t.suffix(): true}
	if details.Users {
		t.users = details.Databases
		for _, db := range t.users {
			for _, a := range authFiles {
				expected[path.Join(db, a.file+bsonSuffix)+t.suffix()] = true
			}
		}
	}
	if len(details.Collections) == 0 {
		return nil, nil, fmt.Errorf("%w: the manifest names no collections", ErrDamaged)
	}
	wholes := map[string]string{} // of uncompressed files
	for _, c := range details.Collections {
		if c.Data != "" && !details.Gzip {
			wholes[c.Data] = c.SHA256
		}
		for _, f := range []string{c.Metadata, c.Data} {
			if f != "" && expected[f] {
				return nil, nil, fmt.Errorf("%w: two collections share the file %s", ErrDamaged, f)
			}
			expected[f] = f != ""
		}
		m, err := t.metadata(ctx, c.DB, c.Metadata)
		if err != nil {
			return nil, nil, err
		}
		d := &dumped{mongoSpace: m, data: c.Data, count: c.Count, bytes: c.Bytes}
		if m.Name != c.Name || m.Type != c.Type || m.UUID != c.UUID || !slices.Equal(m.indexNames(), c.Indexes) || (c.Data == "") != (c.Type == typeView) {
			return nil, nil, fmt.Errorf("%w: %s does not say of %s.%s what the manifest says", ErrDamaged, c.Metadata, c.DB, c.Name)
		}
		if d.sum, err = parseDocSum(c.Digest); err != nil && c.Data != "" {
			return nil, nil, fmt.Errorf("%w: digest of %s: %w", ErrDamaged, m.namespace(), err)
		}
		t.all = append(t.all, d)
	}
	for _, f := range s.Files {
		if !expected[f.Path] {
			return nil, nil, fmt.Errorf("%w: %s belongs to no collection", ErrDamaged, f.Path)
		}
		if whole, ok := wholes[f.Path]; ok && whole != f.SHA256 {
			return nil, nil, fmt.Errorf("%w: the manifest gives two digests of %s", ErrDamaged, f.Path)
		}
		delete(expected, f.Path)
	}
	for f, wanted := range expected {
		if wanted {
			return nil, nil, fmt.Errorf("%w: %s is missing", ErrDamaged, f)
		}
	}
	return t, &details, nil
}

// preludeDir is where prelude.json stands: see dumping.prelude.
func (d *MongoDetails) preludeDir() string {
	if len(d.Databases) == 1 {
		return d.Databases[0]
	}
	return ""
}
