package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

// sources are the files of the flags, checked.
func sources(ctx context.Context, call *cli.Call) (pluginbuild.Sources, error) {
	s := pluginbuild.Sources{Table: call.Text("releases"), Repo: call.Text("repo"),
		GoMod: call.Text("release-mod")}
	return s, cli.OfFlag(ctx, s.Check())
}

// find returns the release that -release names.
func find(ctx context.Context, call *cli.Call) (r pluginbuild.Release, err error) {
	v, err := call.Version("release")
	if err != nil {
		return r, err
	}
	s, err := sources(ctx, call)
	if err != nil {
		return r, err
	}
	r, err = s.Lookup(ctx, v)
	if unknown := (*pluginbuild.UnknownReleaseError)(nil); errors.As(err, &unknown) {
		// The package's own table is never empty, so there is a nearest release.
		return r, cli.Advice(fmt.Errorf("release %s is not in the release table", v), fmt.Sprintf("the "+
			"nearest known release is %s; if the version is right, give -releases FILE, or -repo with the "+
			"gateway's repository", unknown.Nearest.Version))
	}
	return r, err
}

// planFor plans, with what the bundle's other plugins add.
func (c *command) planFor(call *cli.Call, r pluginbuild.Release) (pluginbuild.Plan, error) {
	current, err := call.Version("current")
	if err != nil {
		return pluginbuild.Plan{}, err
	}
	o := pluginbuild.DirOptions{PlanOptions: c.PlanOptions(), GoMod: call.Text("release-mod"),
		With: call.List("with")}
	o.Current, o.NoGet = current, call.On("no-get")
	return pluginbuild.PlanDir(call.Text("dir"), r, o)
}

func (c *command) plan(ctx context.Context, call *cli.Call) error {
	r, err := find(ctx, call)
	if err != nil {
		return err
	}
	p, err := c.planFor(call, r)
	if err != nil {
		return err
	}
	err = call.Show(p, fmt.Sprintf("%s\n%s\n%s\n%s", call.Out.Table(p.Rows()),
		call.Out.Paint(cli.Bold, "commands, in "+call.Text("dir")), p.Shell(), findings(call.Out, p)))
	if err == nil && p.Blocked() {
		return cli.Exit(cli.No, nil)
	}
	return err
}

func findings(out *cli.Out, p pluginbuild.Plan) (text string) {
	for _, f := range p.Findings {
		label, remedy := string(f.Severity), f.Remedy
		if f.Prepare {
			label, remedy = "to do", "preparing does this: "+remedy
		}
		text += finding(out, "", label, f.Where+": "+f.Message, remedy)
	}
	return text
}

// build prepares and compiles, or one of both.
func (c *command) build(ctx context.Context, call *cli.Call) error {
	var done struct {
		Prepare *pluginbuild.Prepared `json:"prepare,omitempty"`
		Compile *compiler.Built       `json:"compile,omitempty"`
		Error   *cli.Failure          `json:"error,omitempty"`
	}
	r, err := find(ctx, call)
	if err == nil && call.Verb != "compile" {
		done.Prepare, err = c.prepare(ctx, call, r)
	}
	if err == nil && call.Verb != "prepare" {
		done.Compile, err = c.compile(ctx, call, r)
	}
	if call.On("json") {
		done.Error = cli.Failed(err)
		err = errors.Join(err, call.JSON(done))
	}
	if err == nil && done.Compile != nil && done.Compile.Refused() {
		return cli.Exit(cli.No, nil)
	}
	return cli.Translate(err, cli.Cases{{pluginbuild.ErrBusy, cli.Busy, ""}})
}

func (c *command) prepare(ctx context.Context, call *cli.Call,
	r pluginbuild.Release) (*pluginbuild.Prepared, error) {
	dir := call.Text("dir")
	// The files of an interrupted run would only confuse the checks.
	old, err := pluginbuild.Recover(dir)
	if err != nil {
		return nil, err
	}
	if old.Found {
		call.Err.Printf("%s\n", old)
	}
	plan, err := c.planFor(call, r)
	if err != nil {
		return nil, err
	}
	call.Err.Printf("%s", findings(call.Err, plan))
	if plan.Blocked() && !call.On("force") {
		return nil, cli.Refuse(cli.Advice(errors.New("the findings above stop the plugin; nothing "+
			"was changed"), "fix them, or give -force"))
	}
	p, err := pluginbuild.Prepare(ctx, dir, r, pluginbuild.PrepareOptions{NoGet: call.On("no-get"),
		Go: call.Text("go"), OnEvent: call.Err.Steps()})
	if err != nil {
		return nil, err
	}
	call.Say("%s %s for gateway %s: %s", call.Out.Paint(cli.Good, "prepared"), dir, r.Version, p)
	return &p, nil
}

func (c *command) compile(ctx context.Context, call *cli.Call,
	r pluginbuild.Release) (*compiler.Built, error) {
	c.Options.Progress = call.Err.Steps()
	b, closeEngine, err := c.Open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = closeEngine() }()
	done, err := c.Build(ctx, b, r, call.Text("dir"), call.Text("load-test"), call.On("remove-image"))
	if done.Path == "" {
		return nil, err
	}
	// The plugin is in place, even if what came afterwards failed.
	styles := map[string]cli.Style{"compiled": cli.Good, "load test": cli.Good}
	if done.Refused() {
		styles["load test"] = cli.Bad
	}
	call.Say("%s", strings.TrimSuffix(call.Out.Labelled(done.Rows(), styles), "\n"))
	return &done, err
}
