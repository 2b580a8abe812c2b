package compiler

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"os"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/patternmatcher/ignorefile"

	"example.com/tykupgrade/pluginbuild"
)

// Flags registers all options of a build as flags, so that every command has the same names. The
// zero value is ready to use. Each method with a flag set registers a group of flags. A repeated
// flag adds to a map or list.
type Flags struct {
	Connect ConnectOptions
	Options Options
	Request Request // without Release and Dir
}

// Plugin registers the flags of the plugin and the image: -name, -goos, -goarch, -edition,
// -variant, -el7, -packages-for, -plain, -image, -digest.
func (f *Flags) Plugin(fs *flag.FlagSet) {
	q := &f.Request
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
	fs.BoolVar(&q.Image.EL7, "el7", false, "use the image with the suffix -el7, for gateways from "+
		"packages for old distributions")
	fs.StringVar(&q.Image.Distro, "packages-for", "", "`distribution` that the gateway's package is "+
		"for, such as ubuntu/xenial: picks the -el7 image if needed")
	fs.BoolVar(&q.Image.Plain, "plain", false,
		"use the image without -el7 for any -packages-for")
	fs.StringVar(&q.Image.Ref, "image", "", "compiler `image` instead of the official one")
	fs.StringVar(&q.Image.Digest, "digest", "", "`sha256:…` that the image must have, in its "+
		"registry or as its ID")
}

// Engine registers the flags of the engine: -engine, -context, -caches, -label.
func (f *Flags) Engine(fs *flag.FlagSet) {
	fs.StringVar(&f.Connect.Host, "engine", "", "Docker `engine`, such as ssh://user@build; "+
		"default: as the docker command finds it")
	fs.StringVar(&f.Connect.Context, "context", "", "docker `context` of the engine")
	fs.StringVar(&f.Options.Caches, "caches", "tykupgrade",
		"`prefix` of the volumes for Go's caches, or none")
	f.Options.Labels = map[string]string{}
	fs.Func("label", "`name=value` to put on all containers and volumes; narrows caches and sweep; "+
		"repeatable", func(s string) error {
		name, value, _ := strings.Cut(s, "=")
		f.Options.Labels[name] = value
		return nil
	})
}

// Compile registers flags for the remaining fields of Options and Request.
func (f *Flags) Compile(fs *flag.FlagSet) {
	q, o := &f.Request, &f.Options
	list := func(to *[]string, name, usage string) {
		fs.Func(name, usage+"; repeatable", func(s string) error {
			*to = append(*to, s)
			return nil
		})
	}
	fs.StringVar(&q.Image.Tar, "image-tar", "", "`file` of docker save to load the image from, "+
		"instead of pulling")
	fs.StringVar((*string)(&o.Pull), "pull", "missing",
		"`when` to pull the image: missing, always or never")
	fs.BoolVar(&o.RequireDigest, "require-digest", false, "refuse an image that -digest or its name "+
		"does not pin")
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
	list(&q.Exclude, "exclude", "`pattern` of files not to upload, as in .dockerignore")
	fs.Func("exclude-from", "`file` of such patterns, one per line", func(path string) error {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		patterns, err := ignorefile.ReadAll(file)
		q.Exclude = append(q.Exclude, patterns...)
		return errors.Join(err, file.Close())
	})
	o.Env = map[string]string{}
	fs.Func("env", "`NAME[=VALUE]` for the compiler; repeatable. Always passed on: GOPROXY "+
		"and the like, *_PROXY, and the proxies of docker's config.json", func(s string) error {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			value = os.Getenv(name)
		}
		o.Env[name] = value
		return nil
	})
	fs.StringVar(&o.Netrc, "netrc", "", "`file` with the credentials of private module hosts")
	list(&o.Mounts, "mount", "`source[:target]` on the engine's machine to mount read-only, such as "+
		"certificates")
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
}

// PlanOptions returns the options of a plan with the values of the flags.
func (f *Flags) PlanOptions() pluginbuild.PlanOptions {
	q := f.Request
	return pluginbuild.PlanOptions{Name: q.Name, GOOS: q.GOOS, GOARCH: q.GOARCH, Image: q.Image}
}

// Open returns a Builder for the engine, with the environment of [HostEnv] and [WithProxies]. It
// does not connect. Call closeEngine at the end.
func (f *Flags) Open() (b *Builder, closeEngine func() error, err error) {
	docker, err := Connect(f.Connect)
	if err != nil {
		return nil, nil, err
	}
	o := f.Options
	if o.Env, err = HostEnv(o.Env); err == nil {
		o.Env, err = WithProxies(o.Env, "", docker.DaemonHost())
	}
	if err != nil {
		return nil, nil, errors.Join(err, docker.Close())
	}
	return New(docker, o), docker.Close, nil
}

// Built is the result of [Flags.Build].
type Built struct {
	Artifact
	LoadTest      *Verdict `json:"load_test,omitempty"`
	RemovedImages []string `json:"removed_images,omitempty"`
}

// Rows returns the result as a table for people, with a name and a value in each row. A load test
// and each removed image have rows of their own.
func (b Built) Rows() [][]string {
	size := units.CustomSize("%.1f %s", float64(b.Size), 1024, []string{"B", "KiB", "MiB", "GiB"})
	rows := [][]string{{"compiled", b.Path}, {"size", size}, {"sha256", b.SHA256},
		{"for", "gateway " + b.Release + ", " + b.GOOS + "/" + b.GOARCH}, {"with", b.GoVersion},
		{"image", b.Image + " " + cmp.Or(b.ImageDigest, b.ImageID)}}
	if b.LoadTest != nil {
		result := "the gateway loads it"
		if b.Refused() {
			result = "the gateway does not load it: " + b.LoadTest.Reason
		}
		rows = append(rows, []string{"load test", result})
	}
	for _, ref := range b.RemovedImages {
		rows = append(rows, []string{"removed", ref})
	}
	return rows
}

// Refused reports whether there was a load test and the gateway did not load the plugin.
func (b Built) Refused() bool { return b.LoadTest != nil && !b.LoadTest.Loads }

// Build compiles a plugin. If symbol is not empty, it then runs [Builder.LoadTest]. With
// removeImage it finally removes the image if this call brought it, also after an error. If Path
// is not empty, the plugin is complete, even with an error.
func (f *Flags) Build(ctx context.Context, b *Builder, r pluginbuild.Release, dir, symbol string,
	removeImage bool) (done Built, err error) {
	q := f.Request
	q.Release, q.Dir = r, dir
	if done.Artifact, err = b.Build(ctx, q); err == nil && symbol != "" {
		var v Verdict
		if v, err = b.LoadTest(ctx, r, q.Image, done.Path, symbol); err == nil {
			done.LoadTest = &v
		}
	}
	if removeImage {
		// Also after a failure or Ctrl-C.
		clean, stop := context.WithTimeout(context.WithoutCancel(ctx), 2*cleanupTime)
		defer stop()
		var rmErr error
		done.RemovedImages, rmErr = b.RemoveImages(clean)
		err = join(err, rmErr)
	}
	return done, err
}
