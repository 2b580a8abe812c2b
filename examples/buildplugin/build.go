package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

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
	q := c.Request
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
	Compile *compiler.Built       `json:"compile,omitempty"`
	Error   *failure              `json:"error,omitempty"`
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
		Go: c.goCmd, OnEvent: shown(call.Err)})
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
	r pluginbuild.Release) (*compiler.Built, error) {
	b, closeEngine, err := c.engine(call)
	if err != nil {
		return nil, err
	}
	defer func() { _ = closeEngine() }()
	done, err := c.Build(ctx, b, r, c.dir, c.loadTest, c.removeImage)
	call.Err.Clear()
	if done.Path == "" {
		return nil, err
	}
	if c.json {
		return &done, err
	}
	// The plugin is in place, even if what came afterwards failed.
	rows := [][]string{
		{"compiled", call.Out.Paint(cli.Good, done.Path)}, {"size", cli.Bytes(done.Size)},
		{"sha256", done.SHA256}, {"for", "gateway " + done.Release + ", " + done.GOOS + "/" + done.GOARCH},
		{"with", done.GoVersion}, {"image", done.Image + " " + cmp.Or(done.ImageDigest, done.ImageID)},
	}
	if v := done.LoadTest; v != nil && v.Loads {
		rows = append(rows, []string{"load test", call.Out.Paint(cli.Good, "the gateway loads it")})
	} else if v != nil {
		rows = append(rows, []string{"load test", call.Out.Paint(cli.Bad,
			"the gateway does not load it: "+v.Reason)})
	}
	for _, ref := range done.RemovedImages {
		rows = append(rows, []string{"removed", ref})
	}
	call.Out.Printf("%s", call.Out.Table(rows))
	return &done, err
}
