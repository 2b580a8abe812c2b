package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"example.com/tykupgrade/pluginbuild"
)

// releaseOptions are the flags for releases that the table lacks.
type releaseOptions struct {
	table      string
	repo       string
	releaseMod string
}

func (o *releaseOptions) releaseFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.table, "releases", "", "JSON `file` with releases that the table lacks")
	fs.StringVar(&o.repo, "repo", "", "for a release that the table lacks: git `repository` to ask for its tag's commit")
	fs.StringVar(&o.releaseMod, "release-mod", "", "the release's own go.mod `file`, to find dependencies newer than the gateway's; with -repo also for its Go version and replaces")
}

// releases is the release table with the -releases file appended.
func (c *command) releases() (pluginbuild.Table, error) {
	t := pluginbuild.Releases()
	if c.table == "" {
		return t, nil
	}
	f, err := os.Open(c.table)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	more, err := pluginbuild.ReadTable(f)
	return append(t, more...), err
}

// release is the one that -version names.
func (c *command) release(ctx context.Context) (pluginbuild.Release, error) {
	v, err := pluginbuild.ParseVersion(c.version)
	if err != nil {
		return pluginbuild.Release{}, usageError(err.Error())
	}
	t, err := c.releases()
	if err != nil {
		return pluginbuild.Release{}, err
	}
	r, err := t.Lookup(v)
	var unknown *pluginbuild.UnknownReleaseError
	if !errors.As(err, &unknown) {
		return r, err
	}
	if c.repo == "" {
		return r, fmt.Errorf("%w; here that is -releases FILE or -repo URL", err)
	}
	commit, err := pluginbuild.ResolveCommit(ctx, nil, c.repo, v)
	if err != nil {
		return r, err
	}
	if r, err = pluginbuild.Derive(v, commit); err != nil || c.releaseMod == "" {
		return r, err
	}
	f, err := os.Open(c.releaseMod)
	if err != nil {
		return r, err
	}
	defer func() { _ = f.Close() }()
	return r.WithGoMod(f)
}

// targetOptions say what the plugin is and where it will run.
type targetOptions struct {
	name    string
	goos    string
	goarch  string
	edition string
	el7     bool
}

func (o *targetOptions) targetFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.name, "name", "plugin.so", "file `name` of the plugin, without the version suffix")
	fs.StringVar(&o.goos, "goos", "linux", "the gateway host's `system`")
	fs.StringVar(&o.goarch, "goarch", "amd64", "the gateway host's `architecture`")
	fs.StringVar(&o.edition, "edition", "std", "the gateway's `edition`: std, ee or fips")
	fs.BoolVar(&o.el7, "el7", false, "take the image with the suffix -el7, for gateways from packages for old distributions")
}
