// Command buildplugin brings a Go plugin's module to a gateway release and compiles
// it there: see -h.
package main

import (
	"context"
	"errors"
	"flag"
	"os"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/patternmatcher/ignorefile"

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

	connect     compiler.ConnectOptions
	options     compiler.Options
	request     compiler.Request
	loadTest    string
	removeImage bool
	remove      bool
	older       time.Duration

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
			Flags:    all(c.releaseFlags, c.moduleFlags, c.prepareFlags, c.engineFlags, c.compileFlags),
			Required: need, Run: c.build(true, true)},
		{Name: "prepare", About: "prepare the module: the previous state is restored if a step fails",
			Flags: all(c.releaseFlags, c.moduleFlags, c.prepareFlags), Required: need, Run: c.build(true,
				false)},
		{Name: "compile", About: "compile the module as it is",
			Flags: all(c.releaseFlags, c.moduleFlags, c.engineFlags, c.compileFlags), Required: need,
			Run: c.build(false, true)},
		{Name: "check", Args: "PLUGIN…", About: "predict whether plugins, or those of a bundle, load " +
			"in a gateway",
			Flags: all(c.checkFlags), Required: []string{"gateway"}, Run: c.check},
		{Name: "list", About: "show the release table, or one entry of it, ready to commit with -json",
			Flags: all(c.releaseFlags), Run: c.list},
		{Name: "caches", About: "list Go's caches on the Docker engine, or remove them", Run: c.caches,
			Flags: all(c.engineFlags, func(fs *flag.FlagSet) {
				fs.BoolVar(&c.remove, "remove", false,
					"remove them")
			})},
		{Name: "sweep", About: "remove containers that crashed runs left on the Docker engine",
			Required: []string{"older"}, Run: c.sweep,
			Flags: all(c.engineFlags, func(fs *flag.FlagSet) {
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
	q := &c.request
	fs.StringVar(&c.dir, "dir", ".", "`directory` of the plugin's module")
	fs.StringVar(&q.Name, "name", "plugin.so", "file `name` of the plugin, without version "+
		"and platform")
	fs.StringVar(&q.GOOS, "goos", "linux", "`system` of the gateway hosts")
	fs.StringVar(&q.GOARCH, "goarch", "amd64", "`architecture` of the gateway hosts")
	fs.Func("edition", "`edition` of the gateway: std, ee or fips", func(s string) error {
		q.Image.Edition = pluginbuild.Edition(s)
		return nil
	})
	fs.Func("variant", "`compiler` of the release: classic or ng", func(s string) error {
		q.Image.Variant = pluginbuild.Variant(s)
		return nil
	})
	fs.BoolVar(&q.Image.EL7, "el7", false, "take the image with the suffix -el7, for gateways from "+
		"packages for old distributions")
	fs.StringVar(&q.Image.Distro, "packages-for", "", "`distribution` that the gateway's package is "+
		"for, such as ubuntu/xenial: picks the -el7 image if needed")
	fs.BoolVar(&q.Image.Plain, "plain", false,
		"take the image without -el7, whatever -packages-for says")
	fs.StringVar(&q.Image.Ref, "image", "", "compiler `image` instead of the official one")
	fs.StringVar(&q.Image.Digest, "digest", "", "`sha256:…` that the image must have, in its "+
		"registry or as its ID")
	fs.StringVar(&c.current, "current", "", "`release` that runs now, to explain the path")
	fs.Var(&c.with, "with", "`directory` of another plugin for the same bundle; may be given again")
	fs.BoolVar(&c.noGet, "no-get", false, "from 5.1 on: leave the gateway's module to the compiler, "+
		"so that go.mod does not name it")
}

func (c *command) prepareFlags(fs *flag.FlagSet) {
	fs.BoolVar(&c.force, "force", false, "prepare in spite of findings that stop the plugin")
	fs.StringVar(&c.goCmd, "go", "go", "the go `program`")
}

func (c *command) engineFlags(fs *flag.FlagSet) {
	fs.StringVar(&c.connect.Host, "engine", "", "Docker `engine`, such as ssh://user@build; "+
		"default: as the docker command finds it")
	fs.StringVar(&c.connect.Context, "context", "", "docker `context` of the engine")
	fs.StringVar(&c.options.Caches, "caches", "tykupgrade",
		"`prefix` of the volumes for Go's caches, or none")
	c.options.Labels = map[string]string{}
	fs.Func("label", "`name=value` to put on all containers and volumes; narrows caches and sweep; "+
		"may be given again", func(s string) error {
		name, value, _ := strings.Cut(s, "=")
		c.options.Labels[name] = value
		return nil
	})
}

func (c *command) compileFlags(fs *flag.FlagSet) {
	q, o := &c.request, &c.options
	fs.StringVar(&q.Image.Tar, "image-tar", "", "`file` of docker save to load the image from, "+
		"instead of pulling")
	fs.StringVar((*string)(&o.Pull), "pull", "missing",
		"`when` to pull the image: missing, always or never")
	fs.BoolVar(&o.RequireDigest, "require-digest", false, "refuse an image that -digest or its name "+
		"does not pin")
	fs.BoolVar(&c.removeImage, "remove-image", false,
		"remove the image afterwards if this call brought it")
	fs.StringVar(&q.OutputDir, "o", "", "`directory` for the compiled plugin; default: -dir")
	fs.StringVar(&q.ID, "id", "", "plugin `id`, to make the module name unique")
	fs.BoolVar(&q.Bind, "bind", false, "mount the directory instead of uploading a copy; local "+
		"engines only")
	fs.BoolVar(&q.Provenance, "provenance", false, "write an in-toto statement next to the plugin")
	fs.BoolVar(&q.GoGet, "go-get", false, "let the compiler get the gateway's module first "+
		"(from 5.2.3)")
	fs.BoolVar(&q.GoTidy, "go-tidy", false, "let the compiler tidy first (from 5.2.4)")
	fs.BoolVar(&q.Debug, "debug", false, "let the compiler print more (from 5.2.4)")
	fs.BoolVar(&q.NoValidate, "no-validate", false, "let the ng compiler skip its own checks "+
		"of the result")
	fs.Var((*cli.List)(&q.Exclude), "exclude", "`pattern` of what not to upload, as in "+
		".dockerignore; may be given again")
	fs.Func("exclude-from", "`file` of such patterns, one a line", func(path string) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		patterns, err := ignorefile.ReadAll(f)
		q.Exclude = append(q.Exclude, patterns...)
		return errors.Join(err, f.Close())
	})
	o.Env = map[string]string{}
	fs.Func("env", "`NAME[=VALUE]` for the compiler; may be given again. Always passed on: GOPROXY "+
		"and the like, *_PROXY, and the proxies of docker's config.json", func(s string) error {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			value = os.Getenv(name)
		}
		o.Env[name] = value
		return nil
	})
	fs.StringVar(&o.Netrc, "netrc", "", "`file` with the credentials of private module hosts")
	fs.Var((*cli.List)(&o.Mounts), "mount", "`source[:target]` on the engine's machine to show "+
		"read-only, such as certificates; may be given again")
	fs.Func("memory", "`limit` of memory, such as 4g; default 16g, -1 for none",
		func(s string) (err error) {
			if o.Limits.Memory = -1; s != "-1" {
				o.Limits.Memory, err = units.RAMInBytes(s)
			}
			return err
		})
	fs.Float64Var(&o.Limits.CPUs, "cpus", 0, "limit of `cores`")
	fs.Int64Var(&o.Limits.PIDs, "pids", 0, "limit of `processes`; default 4096, -1 for none")
	fs.StringVar(&o.Limits.Network, "network", "", "`network` of the compiler: none, host or a name")
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
