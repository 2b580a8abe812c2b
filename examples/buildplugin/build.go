package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

func (c *command) plan(ctx context.Context, call *cli.Call) error {
	r, err := c.find(ctx)
	if err != nil {
		return err
	}
	p, err := c.planFor(r)
	if err != nil {
		return err
	}
	if c.json {
		err = call.JSON(p)
	} else {
		unknown := func(s string) string { return map[bool]string{true: "unknown"}[s == ""] + s }
		call.Out.Printf("%s\n%s\n%s\n", call.Out.Table([][]string{
			{"gateway " + p.Version.String(), p.Path.String()}, {"why", p.Why}, {"commit", p.Commit},
			{"in go.mod", unknown(p.ModuleVersion)},
			{"image", p.Image}, {"compiler's Go", unknown(p.CompilerGo)}, {"output", p.Output},
		}), call.Out.Paint(cli.Bold, "commands, in "+c.dir), p.Shell())
		show(call.Out, p.Findings)
	}
	if err == nil && p.Blocked() {
		return cli.Exit(cli.No, nil)
	}
	return err
}

// planFor plans, with what the bundle's other plugins add.
func (c *command) planFor(r pluginbuild.Release) (pluginbuild.Plan, error) {
	q := c.request
	o := pluginbuild.PlanOptions{NoGet: c.noGet, Name: q.Name, GOOS: q.GOOS, GOARCH: q.GOARCH,
		Image: q.Image}
	var err error
	if c.current != "" {
		if o.Current, err = pluginbuild.ParseVersion(c.current); err != nil {
			return pluginbuild.Plan{}, cli.Wrong("invalid -current %q: want a version such as 4.0.8",
				c.current)
		}
	}
	if c.sources.GoMod != "" {
		f, err := os.Open(c.sources.GoMod)
		if err != nil {
			return pluginbuild.Plan{}, err
		}
		defer func() { _ = f.Close() }()
		o.GatewayMod = f
	}
	// A root keeps links in the module from leading out of it.
	plugins := map[string]fs.FS{}
	for _, dir := range append([]string{c.dir}, c.with...) {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return pluginbuild.Plan{}, err
		}
		defer func() { _ = root.Close() }()
		plugins[dir] = root.FS()
	}
	p, err := pluginbuild.NewPlan(plugins[c.dir], r, o)
	if err != nil || len(c.with) == 0 {
		return p, err
	}
	more, err := pluginbuild.CheckBundle(plugins, r)
	p.Findings = append(p.Findings, more...)
	return p, err
}

func show(out *cli.Out, findings []pluginbuild.Finding) {
	styles := map[pluginbuild.Severity]cli.Style{pluginbuild.SeverityInfo: cli.Faint,
		pluginbuild.SeverityWarning: cli.Warn, pluginbuild.SeverityError: cli.Bad}
	for _, f := range findings {
		label, style, remedy := string(f.Severity), styles[f.Severity], f.Remedy
		if f.Prepare {
			label, style, remedy = "to do", cli.Warn, "preparing does this: "+remedy
		}
		out.Printf("%s %s: %s\n", out.Paint(style, fmt.Sprintf("%-7s", label)), f.Where, f.Message)
		if remedy != "" {
			out.Printf("        %s\n", remedy)
		}
	}
}

// result is what -json prints of preparing and compiling.
type result struct {
	Prepare *pluginbuild.Prepared `json:"prepare,omitempty"`
	Compile *compiled             `json:"compile,omitempty"`
	Error   *failure              `json:"error,omitempty"`
}

type compiled struct {
	compiler.Artifact
	LoadTest      *compiler.Verdict `json:"load_test,omitempty"`
	RemovedImages []string          `json:"removed_images,omitempty"`
}

type failure struct {
	Message   string `json:"message"`
	Hint      string `json:"hint,omitempty"`
	Retryable bool   `json:"retryable"`
}

// build prepares and compiles, or one of both.
func (c *command) build(prepare, compile bool) func(context.Context, *cli.Call) error {
	return func(ctx context.Context, call *cli.Call) error {
		r, err := c.find(ctx)
		var done result
		if err == nil && prepare {
			done.Prepare, err = c.prepare(ctx, call, r)
		}
		if err == nil && compile {
			done.Compile, err = c.compile(ctx, call, r)
		}
		if c.json {
			if err != nil {
				done.Error = &failure{Message: err.Error()}
				_, done.Error.Hint = cli.Explain(err)
				var retry interface{ Retryable() bool }
				done.Error.Retryable = errors.As(err, &retry) && retry.Retryable()
			}
			err = errors.Join(err, call.JSON(done))
		}
		if v := done.Compile; err == nil && v != nil && v.LoadTest != nil && !v.LoadTest.Loads {
			return cli.Exit(cli.No, nil)
		}
		return err
	}
}

func (c *command) prepare(ctx context.Context, call *cli.Call,
	r pluginbuild.Release) (*pluginbuild.Prepared, error) {
	// What an interrupted run left would only confuse the checks.
	old, err := pluginbuild.Recover(c.dir)
	if err != nil {
		return nil, err
	}
	if old.Aside != "" {
		call.Err.Printf("an interrupted run was undone; what was not as it had saved it (%s) is "+
			"now in %s\n", strings.Join(old.Moved, ", "), old.Aside)
	}
	plan, err := c.planFor(r)
	if err != nil {
		return nil, err
	}
	show(call.Err, plan.Findings)
	if plan.Blocked() && !c.force {
		return nil, cli.Refuse(cli.Advice(errors.New("the findings above stop the plugin; nothing "+
			"was changed"), "fix them, or give -force"))
	}
	p, err := pluginbuild.Prepare(ctx, c.dir, r, pluginbuild.PrepareOptions{NoGet: c.noGet,
		Go: c.goCmd, OnEvent: (&progress{out: call.Err}).event})
	if err != nil {
		return nil, err
	}
	changed := "nothing had to change"
	if len(p.Changed) > 0 {
		changed = "changed " + strings.Join(p.Changed, ", ")
	}
	if !c.json {
		call.Out.Printf("%s %s for gateway %s: %s\n", call.Out.Paint(cli.Good, "prepared"), c.dir,
			r.Version, changed)
	}
	return &p, nil
}

func (c *command) compile(ctx context.Context, call *cli.Call,
	r pluginbuild.Release) (*compiled, error) {
	b, closeEngine, err := c.engine(call)
	if err != nil {
		return nil, err
	}
	defer closeEngine()
	q := c.request
	q.Release, q.Dir = r, c.dir
	var done compiled
	if done.Artifact, err = b.Build(ctx, q); err == nil && c.loadTest != "" {
		var v compiler.Verdict
		if v, err = b.LoadTest(ctx, r, q.Image, done.Path, c.loadTest); err == nil {
			done.LoadTest = &v
		}
	}
	if c.removeImage {
		// Also after a failure or Ctrl-C: the image is of no more use.
		clean, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer stop()
		var rmErr error
		done.RemovedImages, rmErr = b.RemoveImages(clean)
		err = errors.Join(err, rmErr)
	}
	call.Err.Clear()
	if done.Path == "" {
		return nil, err
	}
	// The plugin is in place, even if what came afterwards failed.
	if !c.json {
		done.show(call.Out)
	}
	return &done, err
}

func (r compiled) show(out *cli.Out) {
	digest := r.ImageDigest
	if digest == "" {
		digest = r.ImageID
	}
	rows := [][]string{
		{"compiled", out.Paint(cli.Good, r.Path)}, {"size", cli.Bytes(r.Size)}, {"sha256", r.SHA256},
		{"for", "gateway " + r.Release + ", " + r.GOOS + "/" + r.GOARCH}, {"with", r.GoVersion},
		{"image", r.Image + " " + digest},
	}
	if v := r.LoadTest; v != nil && v.Loads {
		rows = append(rows, []string{"load test", out.Paint(cli.Good, "the gateway loads it")})
	} else if v != nil {
		rows = append(rows, []string{"load test", out.Paint(cli.Bad, "the gateway does not load it: "+
			v.Reason)})
	}
	for _, ref := range r.RemovedImages {
		rows = append(rows, []string{"removed", ref})
	}
	out.Printf("%s", out.Table(rows))
}
