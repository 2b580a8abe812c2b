package installation

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/pluginbuild/compiler"
	"example.com/tykupgrade/pluginbuild/preflight"
)

// errNoGateway is the error of a preflight without a gateway to compare with.
var errNoGateway = errors.New("unknown whether the plugin will load; set plugin.gateway to the new " +
	"gateway's binary, its .deb or image:REF")

// preflight predicts whether everything that the new gateway takes from the bundle loads.
func (u *Upgrade) preflight(ctx context.Context, b Bundle) error {
	report, err := u.compare(ctx, b)
	note := preflightNote{Verdict: report.Verdict}
	if g := report.Gateway; g != nil {
		note.Gateway, note.SHA256 = g.Name, g.SHA256
	}
	for _, p := range report.Plugins {
		for _, f := range p.Findings {
			note.Findings = append(note.Findings, p.Plugin.Name+": "+f.String())
		}
	}
	for _, f := range report.Findings {
		note.Findings = append(note.Findings, f.String())
	}
	const most = 20 // the decisive ones come first; a plugin of another Go has hundreds
	if n := len(note.Findings); n > most {
		note.Findings = append(note.Findings[:most],
			fmt.Sprintf("and %d more; examples/buildplugin check shows all", n-most))
	}
	if err == nil && report.Verdict != preflight.Loads {
		why := "the plugin will not load in the new gateway"
		if report.Verdict == preflight.Unknown {
			why = "it is unknown whether the plugin will load in the new gateway"
		}
		err = u.refuse(CheckPreflight, fmt.Errorf("%s: %s", why, strings.Join(note.Findings, "; ")))
	}
	if err != nil && ctx.Err() == nil && u.without(CheckPreflight) {
		note.Overridden, err = overridden(CheckPreflight, err), nil
	}
	return errors.Join(rollout.Save(ctx, note), err)
}

func (u *Upgrade) compare(ctx context.Context, b Bundle) (preflight.Report, error) {
	if u.Plugin.Gateway == "" {
		return preflight.Report{}, u.refuse(CheckPreflight, errNoGateway)
	}
	a, err := u.arrange(ctx, b)
	if err != nil {
		return preflight.Report{}, err
	}
	files, err := a.manifest.LoadedFiles(a.upgrade.To, "linux", "amd64")
	if err != nil {
		return preflight.Report{}, err
	}
	t := preflight.Target{Distro: u.Plugin.Distro, Gateway: a.upgrade.To}
	if err := a.manifest.EachSymbol(t.AddSymbol); err != nil {
		return preflight.Report{}, err
	}
	u.event(u.part(TargetPlugin, b), "read "+u.Plugin.Gateway)
	gateway, err := u.gateway(ctx)
	if err != nil {
		return preflight.Report{}, err
	}
	var all []*preflight.Binary
	for _, file := range files {
		path := a.files[file]
		if source, ok := a.plan.Sources[file]; ok {
			path = a.files[source]
		}
		one, err := preflight.Inspect(path)
		if err != nil {
			return preflight.Report{}, err
		}
		one.Name = file
		all = append(all, one)
	}
	return preflight.CompareAll(all, gateway, t)
}

// gateway inspects the binary of the new version.
func (u *Upgrade) gateway(ctx context.Context) (*preflight.Binary, error) {
	ref, ok := strings.CutPrefix(u.Plugin.Gateway, imagePrefix)
	if !ok {
		return preflight.InspectFile(ctx, u.Plugin.Gateway, "")
	}
	docker, err := compiler.Connect(compiler.ConnectOptions{Host: u.Plugin.Compiler.Host,
		Context: u.Plugin.Compiler.Context})
	if err != nil {
		return nil, err
	}
	defer func() { _ = docker.Close() }()
	tar, err := compiler.Gateway(ctx, docker, ref)
	if err != nil {
		return nil, err
	}
	b, err := preflight.InspectTar(tar, "")
	return b, errors.Join(err, tar.Close())
}
