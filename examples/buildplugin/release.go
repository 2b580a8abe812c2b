package main

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"example.com/tykupgrade/pluginbuild"
)

func (c *command) releaseFlags(fs *flag.FlagSet) {
	fs.StringVar(&c.releases.Table, "releases", "", "JSON `file` with releases that the table lacks")
	fs.StringVar(&c.releases.Repo, "repo", "", "for a release that the table lacks: git `repository` to ask for its tag's commit")
	fs.StringVar(&c.releases.GoMod, "release-mod", "", "the release's own go.mod `file`, to find dependencies newer than the gateway's; with -repo also for its Go version and replaces")
}

// release is the one that -version names.
func (c *command) release(ctx context.Context) (pluginbuild.Release, error) {
	v, err := pluginbuild.ParseVersion(c.version)
	if err != nil {
		return pluginbuild.Release{}, usageError(err.Error())
	}
	r, err := c.releases.Lookup(ctx, v)
	if c.releases.Repo == "" && errors.As(err, new(*pluginbuild.UnknownReleaseError)) {
		return r, fmt.Errorf("%w; here that is -releases FILE or -repo URL", err)
	}
	return r, err
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
