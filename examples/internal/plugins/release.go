package plugins

import (
	"context"
	"errors"
	"os"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/pluginbuild"
)

// Releases says where a release comes from that the table lacks. The zero value
// has the table alone.
type Releases struct {
	Table string // a JSON file with more releases
	Repo  string // a git repository that is asked for the tag's commit
	GoMod string // with Repo: the tag's go.mod, a file, for its Go version and replaces
}

// All is the built-in table with what the file adds.
func (o Releases) All() (pluginbuild.Table, error) {
	t := pluginbuild.Releases()
	if o.Table == "" {
		return t, nil
	}
	f, err := os.Open(o.Table)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	more, err := pluginbuild.ReadTable(f)
	return append(t, more...), err
}

// Lookup finds a release. What nobody knows is a
// [pluginbuild.UnknownReleaseError].
func (o Releases) Lookup(ctx context.Context, v *semver.Version) (pluginbuild.Release, error) {
	t, err := o.All()
	if err != nil {
		return pluginbuild.Release{}, err
	}
	r, err := t.Lookup(v)
	if o.Repo == "" || !errors.As(err, new(*pluginbuild.UnknownReleaseError)) {
		return r, err
	}
	commit, err := pluginbuild.ResolveCommit(ctx, nil, o.Repo, v)
	if err != nil {
		return r, err
	}
	if r, err = pluginbuild.Derive(v, commit); err != nil || o.GoMod == "" {
		return r, err
	}
	f, err := os.Open(o.GoMod)
	if err != nil {
		return r, err
	}
	defer func() { _ = f.Close() }()
	return r.WithGoMod(f)
}
