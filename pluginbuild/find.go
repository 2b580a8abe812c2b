package pluginbuild

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/Masterminds/semver/v3"
)

// Sources names sources of releases in addition to this package's table. The zero value has the
// table alone.
type Sources struct {
	Table string // JSON file with more releases; see [ReadTable]
	Repo  string // git repository with the release's tag; see [ResolveCommit]
	GoMod string // with Repo: file with the tag's go.mod, for Go version and replaces
}

// Releases returns this package's table with the releases of the file appended.
func (s Sources) Releases() (Table, error) {
	t := Releases()
	if s.Table == "" {
		return t, nil
	}
	f, err := os.Open(s.Table)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	more, err := ReadTable(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Table, err)
	}
	return append(t, more...), nil
}

// Check reads the files. Its error says which of them is missing or malformed.
func (s Sources) Check() error {
	if _, err := s.Releases(); err != nil || s.GoMod == "" {
		return err
	}
	f, err := os.Open(s.GoMod)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if _, err = readGoMod(f); err != nil {
		return fmt.Errorf("%s: %w", s.GoMod, err)
	}
	return nil
}

// Lookup finds a release in the tables. If it is not there, Lookup derives it from the commit of
// the repository's tag. Without Repo the error for an unknown release is an
// [UnknownReleaseError].
func (s Sources) Lookup(ctx context.Context, v *semver.Version) (Release, error) {
	t, err := s.Releases()
	if err != nil {
		return Release{}, err
	}
	r, err := t.Lookup(v)
	if s.Repo == "" || !errors.As(err, new(*UnknownReleaseError)) {
		return r, err
	}
	commit, err := ResolveCommit(ctx, nil, s.Repo, v)
	if err != nil {
		return r, err
	}
	if r, err = Derive(v, commit); err != nil || s.GoMod == "" {
		return r, err
	}
	f, err := os.Open(s.GoMod)
	if err != nil {
		return r, err
	}
	defer func() { _ = f.Close() }()
	return r.WithGoMod(f)
}
