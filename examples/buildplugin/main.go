// Command buildplugin brings a Go plugin's module to a gateway release and compiles
// it there: see -h.
package main

import (
	"context"
	"errors"
	"flag"
	"time"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

const notes = `The release table has the general releases. Others come from -releases FILE, in the
form of list -json, or from -repo URL, which is asked for the tag's commit. What the
compiler can do then follows from the version, and Go version and replaces from the
go.mod that -release-mod names.
`

// command holds the flags of one call.
type command struct {
	release, dir, current string
	json                  bool
	sources               pluginbuild.Sources
	with                  cli.List
	noGet, force          bool
	goCmd                 string

	compiler.Flags
	loadTest            string
	removeImage, remove bool
	older               time.Duration

	checkOptions
}

func main() { new(command).tool().Main() }

func (c *command) tool() cli.Command {
	all := func(groups ...func(*flag.FlagSet)) func(*flag.FlagSet) {
		return func(fs *flag.FlagSet) {
			fs.BoolVar(&c.json, "json", false, "print JSON")
			for _, add := range groups {
				add(fs)
			}
		}
	}
	need := []string{"release"}
	return cli.Command{Name: "buildplugin", About: "Brings a Go plugin to a gateway release and " +
		"compiles it.", Notes: notes, Verbs: []cli.Verb{
		{Name: "plan", About: "show path, commands, image and findings; exit code 1 if a finding " +
			"stops the plugin",
			Flags: all(c.releaseFlags, c.moduleFlags), Required: need, Run: c.plan},
		{Name: "build", About: "prepare the module, then compile it",
			Flags:    all(c.releaseFlags, c.moduleFlags, c.prepareFlags, c.Engine, c.compileFlags),
			Required: need, Run: c.build(true, true)},
		{Name: "prepare", About: "prepare the module: the previous state is restored if a step fails",
			Flags: all(c.releaseFlags, c.moduleFlags, c.prepareFlags), Required: need, Run: c.build(true,
				false)},
		{Name: "compile", About: "compile the module as it is",
			Flags: all(c.releaseFlags, c.moduleFlags, c.Engine, c.compileFlags), Required: need,
			Run: c.build(false, true)},
		{Name: "check", Args: "PLUGIN…", About: "predict whether plugins, or those of a bundle, load " +
			"in a gateway",
			Flags: all(c.checkFlags), Required: []string{"gateway"}, Run: c.check},
		{Name: "list", About: "show the release table, or one entry of it, ready to commit with -json",
			Flags: all(c.releaseFlags), Run: c.list},
		{Name: "caches", About: "list Go's caches on the Docker engine, or remove them", Run: c.caches,
			Flags: all(c.Engine, func(fs *flag.FlagSet) {
				fs.BoolVar(&c.remove, "remove", false,
					"remove them")
			})},
		{Name: "sweep", About: "remove containers that crashed runs left on the Docker engine",
			Required: []string{"older"}, Run: c.sweep,
			Flags: all(c.Engine, func(fs *flag.FlagSet) {
				fs.DurationVar(&c.older, "older", 0,
					"than this `age`")
			})},
	}}
}

func (c *command) releaseFlags(fs *flag.FlagSet) {
	fs.StringVar(&c.release, "release", "", "gateway `release`, such as 5.2.5")
	fs.StringVar(&c.sources.Table, "releases", "", "JSON `file` with releases that the table lacks")
	fs.StringVar(&c.sources.Repo, "repo", "", "git `repository` to ask for the commit of a release "+
		"that the table lacks")
	fs.StringVar(&c.sources.GoMod, "release-mod", "", "the release's own go.mod `file`, to find "+
		"dependencies newer than the gateway's; with -repo also for its Go version and replaces")
}

func (c *command) moduleFlags(fs *flag.FlagSet) {
	fs.StringVar(&c.dir, "dir", ".", "`directory` of the plugin's module")
	c.Plugin(fs)
	fs.StringVar(&c.current, "current", "", "`release` that runs now, to explain the path")
	fs.Var(&c.with, "with", "`directory` of another plugin for the same bundle; may be given again")
	fs.BoolVar(&c.noGet, "no-get", false, "from 5.1 on: leave the gateway's module to the compiler, "+
		"so that go.mod does not name it")
}

func (c *command) prepareFlags(fs *flag.FlagSet) {
	fs.BoolVar(&c.force, "force", false, "prepare in spite of findings that stop the plugin")
	fs.StringVar(&c.goCmd, "go", "go", "the go `program`")
}

func (c *command) compileFlags(fs *flag.FlagSet) {
	c.Compile(fs)
	fs.BoolVar(&c.removeImage, "remove-image", false,
		"remove the image afterwards if this call brought it")
	fs.StringVar(&c.loadTest, "load-test", "", "afterwards let the image's gateway (from 5.2.3) "+
		"load the plugin and look up this `symbol`")
}

// find returns the release that -release names.
func (c *command) find(ctx context.Context) (pluginbuild.Release, error) {
	v, err := pluginbuild.ParseVersion(c.release)
	if err != nil {
		return pluginbuild.Release{}, cli.Wrong("invalid -release %q: want a version such as 5.2.5",
			c.release)
	}
	r, err := c.sources.Lookup(ctx, v)
	if unknown := (*pluginbuild.UnknownReleaseError)(nil); errors.As(err, &unknown) {
		next := "if the version is right, give -releases FILE, or -repo with the gateway's repository"
		if unknown.Nearest != nil {
			next = "the nearest known release is " + unknown.Nearest.Version.String() + "; " + next
		}
		return r, cli.Advice(errors.New("release "+v.String()+" is not in the release table"), next)
	}
	return r, err
}
