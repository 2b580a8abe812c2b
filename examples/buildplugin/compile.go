package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

// compileOptions are the flags of compiling.
type compileOptions struct {
	host, context string

	image   pluginbuild.Image
	pull    string
	options compiler.Options
	request compiler.Request

	loadTest    string
	removeImage bool

	sweep        time.Duration
	listCaches   bool
	removeCaches bool
}

// passed are the variables of the caller's environment that the compiler gets.
var passed = []string{
	"GOPROXY", "GOPRIVATE", "GONOPROXY", "GOSUMDB", "GONOSUMDB", "GOINSECURE", "GOVCS",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
}

func (o *compileOptions) compileFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.host, "host", "", "Docker `engine`, such as ssh://user@build; default: as the docker command finds it")
	fs.StringVar(&o.context, "context", "", "docker `context` of the engine")
	fs.StringVar(&o.image.Ref, "image", "", "compiler `image` instead of the official one")
	fs.StringVar(&o.image.Digest, "digest", "", "`sha256:…` that the image must have, in its registry or as its ID")
	fs.StringVar(&o.image.Tar, "image-tar", "", "`file` of docker save to load the image from, instead of pulling")
	fs.StringVar(&o.image.Distro, "packages-for", "", "`distribution` that the gateway's package is for, such as ubuntu/xenial: picks the -el7 image where it is needed")
	fs.BoolVar(&o.image.Plain, "plain", false, "take the image without -el7, whatever -packages-for says")
	fs.StringVar(&o.pull, "pull", "missing", "`when` to pull the image: missing, always or never")
	fs.BoolVar(&o.removeImage, "remove-image", false, "remove the image afterwards if this call brought it")

	fs.StringVar(&o.request.OutputDir, "o", "", "`directory` for the compiled plugin; default: -dir")
	fs.StringVar(&o.request.ID, "id", "", "plugin `id`, to make the module name unique")
	fs.BoolVar(&o.request.Bind, "bind", false, "mount the directory instead of uploading a copy; local engines only")
	fs.BoolVar(&o.request.GoGet, "go-get", false, "let the compiler get the gateway's module first (from 5.2.3)")
	fs.BoolVar(&o.request.GoTidy, "go-tidy", false, "let the compiler tidy first (from 5.2.4)")
	fs.BoolVar(&o.request.Debug, "debug", false, "let the compiler print more (from 5.2.4)")
	fs.Func("exclude", "`pattern` of what not to upload, as in .dockerignore; may be given again", func(s string) error {
		o.request.Exclude = append(o.request.Exclude, s)
		return nil
	})
	fs.Func("exclude-from", "`file` of such patterns, one a line", func(path string) error {
		patterns, err := readPatterns(path)
		o.request.Exclude = append(o.request.Exclude, patterns...)
		return err
	})

	fs.Func("env", "`NAME[=VALUE]` for the compiler; may be given again. Always passed on: "+strings.Join(passed[:7], ", ")+", *_PROXY, and the proxies of docker's config.json", func(s string) error {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			value = os.Getenv(name)
		}
		o.setEnv(name, value)
		return nil
	})
	fs.StringVar(&o.options.Netrc, "netrc", "", "`file` with the credentials of private module hosts")
	fs.Func("mount", "`source[:target]` on the engine's machine to show read-only, such as certificates; may be given again", func(s string) error {
		o.options.Mounts = append(o.options.Mounts, s)
		return nil
	})
	fs.Func("label", "`name=value` to put on all containers and volumes; narrows -sweep, -list-caches and -remove-caches; may be given again", func(s string) error {
		name, value, _ := strings.Cut(s, "=")
		if o.options.Labels == nil {
			o.options.Labels = map[string]string{}
		}
		o.options.Labels[name] = value
		return nil
	})
	fs.Func("memory", "`limit` of memory, such as 4g", func(s string) (err error) {
		o.options.Limits.Memory, err = parseBytes(s)
		return err
	})
	fs.Float64Var(&o.options.Limits.CPUs, "cpus", 0, "limit of `cores`")
	fs.Int64Var(&o.options.Limits.PIDs, "pids", 0, "limit of `processes`")
	fs.StringVar(&o.options.Limits.Network, "network", "", "`network` of the compiler: none, host or a name")
	fs.StringVar(&o.options.Caches, "caches", "tykupgrade", "`prefix` of the volumes for Go's caches, or none")

	fs.StringVar(&o.loadTest, "load-test", "", "afterwards let the image's gateway (from 5.2.3) load the plugin and look up this `symbol`")
	fs.DurationVar(&o.sweep, "sweep", 0, "remove containers that crashed runs left, older than this `age`")
	fs.BoolVar(&o.listCaches, "list-caches", false, "list the volumes with Go's caches")
	fs.BoolVar(&o.removeCaches, "remove-caches", false, "remove them")
}

func (o *compileOptions) setEnv(name, value string) {
	if o.options.Env == nil {
		o.options.Env = map[string]string{}
	}
	o.options.Env[name] = value
}

func readPatterns(path string) ([]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var patterns []string
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			patterns = append(patterns, line)
		}
	}
	return patterns, nil
}

// parseBytes reads a size as docker's --memory takes it.
func parseBytes(s string) (int64, error) {
	number, shift := strings.ToLower(s), 0
	number = strings.TrimSuffix(number, "b")
	for unit, by := range map[string]int{"k": 10, "m": 20, "g": 30, "t": 40} {
		if n, ok := strings.CutSuffix(number, unit); ok {
			number, shift = n, by
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > (1<<62)>>shift {
		return 0, fmt.Errorf("%q is no size; write 512m or 4g", s)
	}
	return n << shift, nil
}

// compiled is what -json prints of a compile.
type compiled struct {
	compiler.Artifact
	LoadTest      *compiler.Verdict `json:"load_test,omitempty"`
	RemovedImages []string          `json:"removed_images,omitempty"`
}

// builder connects to the engine; close releases it.
func (c *command) builder() (b *compiler.Builder, closeEngine func(), err error) {
	docker, err := compiler.Connect(compiler.ConnectOptions{Host: c.host, Context: c.context})
	if err != nil {
		return nil, nil, err
	}
	o := c.options
	o.Pull = compiler.PullPolicy(c.pull)
	o.Progress = (&compileProgress{out: c.stderr}).event
	for _, name := range passed {
		if _, given := o.Env[name]; !given && os.Getenv(name) != "" {
			c.setEnv(name, os.Getenv(name))
		}
	}
	if o.Env, err = compiler.WithProxies(c.options.Env, "", docker.DaemonHost()); err != nil {
		return nil, nil, errors.Join(err, docker.Close())
	}
	return compiler.New(docker, o), func() { _ = docker.Close() }, nil
}

func (c *command) compilerImage() pluginbuild.Image {
	i := c.image
	i.Edition, i.EL7 = pluginbuild.Edition(c.edition), c.el7
	return i
}

// runCompile compiles the plugin's module in the image of release r.
func (c *command) runCompile(ctx context.Context, r pluginbuild.Release) (any, error) {
	b, closeEngine, err := c.builder()
	if err != nil {
		return nil, err
	}
	defer closeEngine()
	q := c.request
	q.Release, q.Dir, q.Name, q.GOOS, q.GOARCH, q.Image = r, c.dir, c.name, c.goos, c.goarch, c.compilerImage()
	var result compiled
	if result.Artifact, err = b.Build(ctx, q); err == nil && c.loadTest != "" {
		var v compiler.Verdict
		if v, err = b.LoadTest(ctx, r, q.Image, result.Path, c.loadTest); err == nil {
			result.LoadTest = &v
		}
	}
	if c.removeImage {
		// Also after a failure or Ctrl-C: the image is of no more use.
		clean, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer stop()
		var rmErr error
		result.RemovedImages, rmErr = b.RemoveImages(clean)
		err = errors.Join(err, rmErr)
	}
	c.stderr.Clear()
	if result.Path == "" {
		return nil, err
	}
	// The plugin is in place, even if what came afterwards failed.
	if !c.json {
		c.showCompiled(result)
	}
	if err != nil {
		return result, err
	}
	if v := result.LoadTest; v != nil && !v.Loads {
		return result, exitCode(1)
	}
	return result, nil
}

func (c *command) showCompiled(r compiled) {
	image := r.Image + " " + r.ImageID
	if r.ImageDigest != "" {
		image = r.Image + " " + r.ImageDigest
	}
	rows := [][]string{
		{"compiled", c.stdout.Paint(cli.Good, r.Path)},
		{"size", cli.Bytes(r.Size)},
		{"sha256", r.SHA256},
		{"for", "gateway " + r.Release + ", " + r.GOOS + "/" + r.GOARCH},
		{"with", r.GoVersion},
		{"image", image},
	}
	if v := r.LoadTest; v != nil {
		verdict := c.stdout.Paint(cli.Good, "the gateway loads it")
		if !v.Loads {
			verdict = c.stdout.Paint(cli.Bad, "the gateway does not load it: "+v.Reason)
		}
		rows = append(rows, []string{"load test", verdict})
	}
	for _, ref := range r.RemovedImages {
		rows = append(rows, []string{"removed", ref})
	}
	c.stdout.Printf("%s", c.stdout.Table(rows))
}

// keeping says whether the call is about what compiling leaves on an engine.
func (c *command) keeping() bool { return c.sweep != 0 || c.listCaches || c.removeCaches }

// runKeeping sweeps containers and lists or removes caches.
func (c *command) runKeeping(ctx context.Context) (any, error) {
	b, closeEngine, err := c.builder()
	if err != nil {
		return nil, err
	}
	defer closeEngine()
	var result struct {
		Swept   []string         `json:"swept,omitempty"`
		Removed []string         `json:"removed_caches,omitempty"`
		Caches  []compiler.Cache `json:"caches,omitempty"`
	}
	if c.sweep != 0 {
		if result.Swept, err = b.Sweep(ctx, c.sweep); err != nil {
			return result, err
		}
	}
	if c.removeCaches {
		if result.Removed, err = b.RemoveCaches(ctx); err != nil {
			return result, err
		}
	}
	if c.listCaches {
		if result.Caches, err = b.ListCaches(ctx); err != nil {
			return result, err
		}
	}
	if c.json {
		return result, nil
	}
	for _, name := range append(result.Swept, result.Removed...) {
		c.stdout.Printf("removed %s\n", name)
	}
	if c.listCaches {
		rows := [][]string{{"VOLUME", "KIND", "CREATED"}}
		for _, v := range result.Caches {
			rows = append(rows, []string{v.Name, v.Kind, v.Created})
		}
		c.stdout.Printf("%s", c.stdout.Table(rows))
	}
	return result, nil
}

// compileProgress shows the stages: bars for what is transferred on a terminal,
// the compiler's lines as they come, and a line for each stage that has ended.
type compileProgress struct {
	out   *cli.Out
	parts []string
	bars  map[string]string
}

func (p *compileProgress) event(e pluginbuild.Event) {
	switch e.Kind {
	case pluginbuild.Started:
		p.parts, p.bars = nil, map[string]string{}
		p.out.Redraw(e.Stage + " …")
	case pluginbuild.Progress:
		if p.bars[e.Part] == "" {
			p.parts = append(p.parts, e.Part)
		}
		label := strings.TrimSpace(e.Part + " " + e.Line)
		if p.bars[e.Part] = label; e.Current > 0 {
			p.bars[e.Part] = cli.Bar(label, e.Current, e.Total)
		}
		// Images of many layers would scroll the terminal.
		lines := []string{e.Stage + " …"}
		for _, part := range p.parts[max(0, len(p.parts)-12):] {
			lines = append(lines, "  "+p.bars[part])
		}
		p.out.Redraw(lines...)
	case pluginbuild.Output:
		p.out.Printf("%s\n", p.out.Paint(cli.Faint, e.Line))
	case pluginbuild.Done:
		p.out.Clear()
		mark := p.out.Paint(cli.Good, "ok")
		if e.Err != nil {
			mark = p.out.Paint(cli.Bad, "failed")
		}
		p.out.Printf("%-14s %s  %s\n", e.Stage, mark, e.Elapsed.Round(time.Millisecond))
	}
}
