package main

import (
	"context"
	"flag"
	"fmt"
	"io/fs"
	"os"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/pluginbuild"
)

// planOptions are the flags that only the plan and its checks read.
type planOptions struct {
	current string
	with    []string
}

func (o *planOptions) planFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.current, "current", "", "`release` that runs now, to explain the path")
	fs.Func("with", "`directory` of another plugin for the same bundle; may be given again", func(dir string) error {
		o.with = append(o.with, dir)
		return nil
	})
}

// runPlan shows what would be done and what is wrong with the module.
func (c *command) runPlan(_ context.Context, r pluginbuild.Release) (any, error) {
	p, err := c.planFor(r)
	if err != nil {
		return nil, err
	}
	if !c.json {
		c.showPlan(p)
	}
	if p.Blocked() {
		return p, exitCode(1)
	}
	return p, nil
}

// planFor plans, with what the bundle's other plugins add.
func (c *command) planFor(r pluginbuild.Release) (pluginbuild.Plan, error) {
	o := pluginbuild.PlanOptions{
		NoGet: c.noGet, Name: c.name, GOOS: c.goos, GOARCH: c.goarch, Image: c.compilerImage(),
	}
	if c.current != "" {
		v, err := pluginbuild.ParseVersion(c.current)
		if err != nil {
			return pluginbuild.Plan{}, usageError(err.Error())
		}
		o.Current = v
	}
	if c.releases.GoMod != "" {
		f, err := os.Open(c.releases.GoMod)
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

func (c *command) showPlan(p pluginbuild.Plan) {
	c.stdout.Printf("%s", c.stdout.Table([][]string{
		{"gateway " + p.Version.String(), p.Path.String()},
		{"why", p.Why},
		{"commit", p.Commit},
		{"in go.mod", orUnknown(p.ModuleVersion)},
		{"image", p.Image},
		{"compiler's Go", orUnknown(p.CompilerGo)},
		{"output", p.Output},
	}))
	c.stdout.Printf("\n%s\n%s\n", c.stdout.Paint(cli.Bold, "commands, in "+c.dir), p.Shell())
	c.showFindings(c.stdout, p.Findings)
}

func orUnknown(s string) string {
	if s == "" {
		return "not known"
	}
	return s
}

func (c *command) showFindings(out *cli.Out, findings []pluginbuild.Finding) {
	styles := map[pluginbuild.Severity]cli.Style{
		pluginbuild.SeverityInfo: cli.Faint, pluginbuild.SeverityWarning: cli.Warn, pluginbuild.SeverityError: cli.Bad,
	}
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
