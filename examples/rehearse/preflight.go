package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"example.com/tykupgrade/bundle"
	runner "example.com/tykupgrade/internal/run"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/preflight"
)

// preflight predicts whether each gateway loads its builds. For the user's gateways a later step
// compares the prediction with what happens.
func (r *rehearsal) preflight(ctx context.Context, s *Step) error {
	if err := r.readManifest(); err != nil {
		return err
	}
	if r.from.Real || r.to.Real {
		return r.preflightReal(s)
	}
	switch {
	case r.plugin.mine:
		s.skip("no gateway of yours is given, and a stub cannot be compared with your builds (-gateway)")
		return nil
	case r.plugin.new == "":
		s.skip("no plugin was compiled: " + r.parts.gcc)
		return nil
	}
	return r.preflightStub(ctx, s)
}

func (r *rehearsal) preflightReal(s *Step) error {
	for _, x := range []struct {
		g    *gatewayPart
		file func(builds) string
	}{{&r.from, func(b builds) string { return b.current }},
		{&r.to, func(b builds) string { return b.target }}} {
		if !x.g.Real {
			s.say("gateway %s is a stub: not compared", x.g.Version)
			continue
		}
		gateway, err := preflight.Inspect(x.g.Binary)
		if err != nil {
			return err
		}
		var plugins []*preflight.Binary
		for _, b := range r.plugin.pairs {
			in, err := preflight.Inspect(x.file(b))
			if err != nil {
				return err
			}
			plugins = append(plugins, in)
		}
		if len(plugins) == 0 {
			s.skip("no plugin was compiled: " + r.parts.gcc)
			return nil
		}
		var target preflight.Target
		if err := r.plugin.manifest.EachSymbol(target.AddSymbol); err != nil {
			return err
		}
		rep, err := preflight.CompareAll(plugins, gateway, target)
		if err != nil {
			return err
		}
		x.g.Verdict = string(rep.Verdict)
		s.say("in your gateway %s: %s", x.g.Version, rep.Verdict)
		findings := rep.Findings
		for _, p := range rep.Plugins {
			findings = append(findings, p.Findings...)
		}
		for _, f := range findings {
			r.print.event("%s", f)
			if rep.Verdict != preflight.Loads {
				s.say("%s", f)
			}
		}
	}
	return nil
}

// preflightStub compares the new build with a gateway that links the same packages, and lets that
// gateway load it.
func (r *rehearsal) preflightStub(ctx context.Context, s *Step) error {
	release, err := pluginbuild.Lookup(r.o.to)
	if err != nil {
		return err
	}
	if !release.Compiler.Trimpath {
		s.skip(fmt.Sprintf("the stub gateway is built as from 5.1.0 on, with -trimpath; plugins for %s "+
			"are not, and it would not load them", r.o.to))
		return nil
	}
	s.Stub = "a gateway of this machine's Go that can do nothing but load plugins"
	r.print.event("build the gateway")
	data, err := r.loader.wait()
	if err != nil {
		return err
	}
	path := filepath.Join(r.dir, "tyk")
	if err := runner.WriteProgram(path, data, 0o755); err != nil {
		return err
	}
	gateway, err := preflight.Inspect(path)
	if err != nil {
		return err
	}
	plugin, err := preflight.Inspect(r.plugin.new)
	if err != nil {
		return err
	}
	target := preflight.Target{Gateway: r.o.to}
	if err := r.plugin.manifest.EachSymbol(target.AddSymbol); err != nil {
		return err
	}
	rep, err := preflight.CompareAll([]*preflight.Binary{plugin}, gateway, target)
	if err != nil {
		return err
	}
	for _, x := range append(rep.Findings, rep.Plugins[0].Findings...) {
		r.print.event("%s", x)
	}
	if rep.Verdict != preflight.Loads {
		return fmt.Errorf("the plugin %s: %v", rep.Verdict, append(rep.Findings,
			rep.Plugins[0].Findings...))
	}
	var out bytes.Buffer
	var names []string
	for _, x := range target.Symbols {
		names = append(names, x.Name)
		if err := runner.Local(runner.Options{})(ctx, []string{path, "plugin", "load", "-f", r.plugin.new,
			"-s", x.Name}, nil, &out, nil); err != nil {
			return fmt.Errorf("the preflight says that the plugin loads, but: %w", err)
		}
	}
	s.say("verdict: %s; %d packages of plugin and gateway are the same", rep.Verdict,
		rep.Plugins[0].Common)
	s.say("the gateway's own plugin.Open agrees, and finds %s", strings.Join(names, ", "))
	return nil
}

// readManifest reads the manifest of the bundle in use, or makes one.
func (r *rehearsal) readManifest() (err error) {
	p, given := &r.plugin, &r.o.given
	switch {
	case p.manifest != nil:
		return nil
	case given.manifest != "":
		data, err := os.ReadFile(given.manifest)
		if err == nil {
			p.manifest, err = bundle.Parse(data)
		}
		if err == nil && p.manifest.Middleware.Driver != "goplugin" {
			err = fmt.Errorf("its driver is %q: want goplugin", p.manifest.Middleware.Driver)
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", given.manifest, err)
		}
		return nil
	case p.mine, given.plugin != "" && p.new != "":
		p.manifest, err = given.manifestOf(p.pairs)
		return err
	case given.plugin != "":
		return errors.New("your module was not compiled, so its hooks are unknown; name them " +
			"with -manifest")
	}
	p.manifest, err = bundle.Parse([]byte(exampleManifest))
	return err
}
