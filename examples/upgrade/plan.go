package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/pluginbuild"
)

// planned is all that will be done, before any of it is.
type planned struct {
	Plugin   *plannedPlugin  `json:"plugin,omitempty"`
	Backup   []string        `json:"backup,omitempty"` // components of the set
	Gates    []string        `json:"gates,omitempty"`
	Without  []string        `json:"without,omitempty"`
	Findings []fleet.Finding `json:"findings,omitempty"`
	Problems []string        `json:"problems,omitempty"`
	Hosts    []fleet.Planned `json:"hosts"`
}

type plannedPlugin struct {
	Build  *pluginbuild.Plan   `json:"build,omitempty"` // none: the plugin is compiled
	Target string              `json:"target"`
	Bundle *bundle.UpgradePlan `json:"bundle,omitempty"`
}

// plan shows what apply would do, and everything that it would refuse. It asks the hosts
// and changes nothing.
func (u *upgrade) plan(ctx context.Context, c *cli.Call) error {
	waves, err := u.waves()
	if err != nil {
		return err
	}
	p := planned{Without: u.options.without}
	problem := func(what string, err error) {
		if err != nil {
			p.Problems = append(p.Problems, what+": "+err.Error())
		}
	}
	if u.Plugin != nil {
		p.Plugin, err = u.planPlugin(ctx)
		problem("plugin", err)
		problem("preflight", u.lifted(withoutPreflight, u.Plugin.Gateway == "", errNoGateway))
	}
	problem("refused", u.refusals())
	if u.Backup != nil && !u.without[withoutBackup] {
		p.Backup = u.wanted()
		problem("backup", u.readable())
	}
	for _, g := range u.Gates {
		p.Gates = append(p.Gates, g.Name)
	}
	hosts := hostWaves(waves)
	p.Hosts = u.Plans(ctx, hosts)
	p.Findings, err = u.Findings(ctx, u.HostsOf(hosts))
	if fleet.Refused(p.Hosts) == nil { // otherwise it is said already that a host cannot be asked
		problem("findings", u.lifted(withoutFindings, err != nil, err))
	}
	for _, f := range p.Findings {
		problem("findings", u.lifted(withoutFindings, f.Refuse, errors.New(f.String())))
	}
	var answer error
	if len(p.Problems) > 0 || fleet.Refused(p.Hosts) != nil {
		answer = cli.Exit(cli.No, nil)
	}
	if u.json {
		if err := c.JSON(p); err != nil {
			return err
		}
		return answer
	}
	u.printPlan(c.Out, p)
	c.Out.Printf("%s\n%s\n", c.Plans(p.Hosts), u.Stops(hosts))
	for _, f := range p.Findings {
		if !f.Refuse {
			c.Out.Printf("%s %s\n", c.Out.Paint(cli.Warn, "note:"), f)
		}
	}
	for _, text := range p.Problems {
		c.Out.Printf("%s %s\n", c.Out.Paint(cli.Bad, "cannot:"), text)
	}
	c.Problems(p.Hosts)
	return answer
}

// lifted is the refusal that apply would give, unless it is lifted.
func (u *upgrade) lifted(name string, holds bool, why error) error {
	if !holds || u.without[name] {
		return nil
	}
	return refuse(name, why)
}

// planPlugin plans the compile and arranges the bundle.
func (u *upgrade) planPlugin(ctx context.Context) (*plannedPlugin, error) {
	target, err := u.target(ctx)
	if err != nil {
		return nil, err
	}
	p := &plannedPlugin{Target: target}
	if u.Plugin.Source != "" {
		r, err := u.lookup(ctx)
		if err != nil {
			return p, err
		}
		from, err := pluginbuild.ParseVersion(u.Plugin.From)
		if err != nil {
			return p, err
		}
		build, err := pluginbuild.NewPlan(os.DirFS(u.Plugin.Source), r, pluginbuild.PlanOptions{
			Current: from, Name: u.Plugin.name(), Image: u.image(),
		})
		if err != nil {
			return p, err
		}
		p.Build = &build
		for _, f := range build.Findings {
			if f.Blocks() || f.Prepare && !u.Plugin.Prepare {
				return p, fmt.Errorf("%s: %s; %s", filepath.Join(u.Plugin.Source, f.Where), f.Message, f.Remedy)
			}
		}
	}
	var missing []error
	for _, f := range []struct{ key, path string }{{"current", u.Plugin.Current}, {"so", u.Plugin.So}, {"gateway", u.Plugin.Gateway}} {
		if _, err := os.Stat(f.path); f.path != "" && !strings.HasPrefix(f.path, imagePrefix) && err != nil {
			missing = append(missing, fmt.Errorf("plugin.%s: %w", f.key, err))
		}
	}
	if len(missing) > 0 {
		return p, errors.Join(missing...)
	}
	a, err := u.arrange(ctx)
	if err != nil {
		return p, err
	}
	p.Bundle = a.plan
	if u.Plugin.So != "" { // otherwise it is still to be compiled
		for _, f := range a.manifest.Validate(a.plan.FS(a.files)) {
			if f.Severity == bundle.Refused {
				return p, fmt.Errorf("%s: %s; %s", f.Path, f.Problem, f.Remedy)
			}
		}
	}
	if u.Plugin.Bundle.Key != "" {
		_, err = privateKey(u.Plugin.Bundle.Key)
	}
	return p, err
}

// readable says whether the connection URIs and certificates are there.
func (u *upgrade) readable() error {
	var errs []error
	if u.Backup.Redis != nil {
		client, err := u.redis()
		if err == nil {
			err = client.Close()
		}
		errs = append(errs, err)
	}
	if u.Backup.Mongo != nil {
		_, err := u.mongo()
		errs = append(errs, err)
	}
	if u.Backup.Postgres != nil {
		_, err := u.postgres()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (u *upgrade) printPlan(out *cli.Out, p planned) {
	rows := [][]string{{"PREPARE", "WHAT"}}
	add := func(what, format string, a ...any) { rows = append(rows, []string{what, fmt.Sprintf(format, a...)}) }
	if p.Plugin != nil {
		if b := p.Plugin.Build; b != nil {
			if u.Plugin.Prepare {
				for _, cmd := range b.Commands {
					add("module", "%s", cmd.Shell())
				}
			} else {
				add("module", "checked only; prepare: true brings it to the release (%s)", b.Path)
			}
			add("compile", "%s in %s", p.Plugin.Target, b.Image)
		} else {
			add("plugin", "%s, as given", p.Plugin.Target)
		}
		text := "will it load in " + u.Plugin.Gateway + "?"
		if u.Plugin.Gateway == "" {
			text = "nothing to check it against"
		}
		add("preflight", "%s", u.either(withoutPreflight, text))
		if b := p.Plugin.Bundle; b != nil {
			signed := "unsigned"
			if u.Plugin.Bundle.Key != "" {
				signed = "signed"
			}
			add("bundle", "%s, %s", u.bundleFile(), signed)
			for _, one := range b.Plugins {
				add("", "%s loads %s, %s loads %s", u.Plugin.From, one.Current.File, u.Versions[fleet.Gateway], one.Target.File)
			}
			if s := b.Switch; s != nil {
				add("switch", "%s: a running gateway %s", s.Mode, s.Running.Text)
			}
		}
		switch b := u.Plugin.Bundle; {
		case b.Serve != "":
			add("publish", "%s in %s; the old file is kept until the run is accepted", u.publishedName(), b.Serve)
		case len(b.Publish) > 0:
			add("publish", "%s; the old file is kept until the run is accepted", strings.Join(b.Publish, " "))
		default:
			add("publish", "by hand, under the name %s", u.publishedName())
		}
		if b := u.Plugin.Bundle; b.URL != "" {
			at, _ := b.at(u.publishedName()) // checked with the file
			add("", "%s must have it before the first host", redacted(at))
		}
	}
	add("hosts", "can each be upgraded?")
	add("baseline", "%s", u.either(withoutBaseline, "is each healthy now?"))
	if len(p.Gates) > 0 {
		add("gates", "%s", u.either(withoutGates, strings.Join(p.Gates, ", ")+": before, and after each component"))
	}
	text := "none"
	if u.Backup != nil {
		text = strings.Join(p.Backup, ", ") + " into " + u.Backup.Dir
		if u.existing() != "" {
			text = strings.Join(p.Backup, ", ") + " in the existing set " + u.existing()
		}
	}
	add("backup", "%s", u.either(withoutBackup, text))
	out.Printf("%s\n", out.Table(rows))
}

// either says what is done, or that it was left out.
func (u *upgrade) either(name, text string) string {
	if u.without[name] {
		return "LEFT OUT by -without " + name
	}
	return text
}
