package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/preflight"
)

// checkOptions are the flags of -check.
type checkOptions struct {
	gateway, member, distro, goamd64, manifest string
	target, goarch                             string
}

func (o *checkOptions) checkFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.gateway, "gateway", "", "the gateway's `binary`, /proc/PID/exe of a running "+
		"one, its .deb, or a tar (docker cp, dpkg-deb --fsys-tarfile; /dev/stdin for a pipe)")
	fs.StringVar(&o.member, "gateway-file", "", "the binary's `path` inside a .deb (default "+
		preflight.GatewayFile+") or a tar (default: its first file)")
	fs.StringVar(&o.distro, "distro", "", "`distribution` of the gateway hosts, to check glibc: "+
		strings.Join(preflight.Distros(), ", "))
	fs.StringVar(&o.goamd64, "goamd64", "", "highest CPU `level` of the gateway hosts, v1 to v4")
	fs.StringVar(&o.manifest, "manifest", "", "manifest.json `file` whose functions the "+
		"plugins must have")
	fs.StringVar(&o.target, "release", "", "gateway `release`: of a bundle only the files that it "+
		"takes are checked")
	fs.StringVar(&o.goarch, "goarch", "amd64", "`architecture` of the gateway hosts")
}

// check says whether plugins will load in a gateway. One of them may be a bundle,
// which brings its manifest.
func (c *command) check(ctx context.Context, call *cli.Call) error {
	if len(call.Args) == 0 {
		return cli.Wrong("PLUGIN is missing")
	}
	target := preflight.Target{Distro: c.distro, GOAMD64: c.goamd64}
	if c.target != "" {
		v, err := pluginbuild.ParseVersion(c.target)
		if err != nil {
			return cli.Wrong("invalid -release %q: want a version such as 5.2.5", c.target)
		}
		target.Gateway = v
	}
	if c.manifest != "" {
		data, err := os.ReadFile(c.manifest)
		if err != nil {
			return err
		}
		m, err := bundle.Parse(data)
		if err != nil {
			return err
		}
		if target.Symbols, err = symbols(m); err != nil {
			return err
		}
	}
	gateway, err := preflight.InspectFile(ctx, c.gateway, c.member)
	if err != nil {
		return err
	}
	// Plugins side by side; those of a bundle are.
	binaries, err := preflight.InspectAll(ctx, call.Args...)
	if errors.Is(err, preflight.ErrNotELF) {
		binaries = nil
		for _, path := range call.Args {
			if err := ctx.Err(); err != nil {
				return err
			}
			found, named, err := c.inspectPlugin(path, target.Gateway)
			if err != nil {
				return err
			}
			binaries = append(binaries, found...)
			target.Symbols = append(target.Symbols, named...)
		}
	} else if err != nil {
		return err
	}
	report, err := preflight.CompareAll(binaries, gateway, target)
	switch {
	case errors.Is(err, preflight.ErrTarget):
		return cli.Exit(cli.Usage, err)
	case err == nil && c.json:
		err = call.JSON(report)
	case err == nil:
		printReport(call.Out, report)
	}
	if err != nil {
		return err
	}
	return cli.Exit(map[preflight.Verdict]int{preflight.Loads: cli.Yes, preflight.Fails: cli.No,
		preflight.Unknown: cli.Unknown}[report.Verdict], nil)
}

// inspectPlugin reads a plugin, or the plugins of a bundle with what its
// manifest names.
func (c *command) inspectPlugin(path string,
	release *semver.Version) ([]*preflight.Binary, []preflight.Symbol, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, 4)
	if _, err := io.ReadFull(f, head); err != nil || string(head) != "PK\x03\x04" {
		b, err := preflight.Inspect(path)
		return []*preflight.Binary{b}, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	m, err := bundle.Verify(f, info.Size(), bundle.VerifyOptions{})
	if err != nil {
		return nil, nil, err
	}
	named, err := symbols(m)
	if err != nil {
		return nil, nil, err
	}
	var members []string
	if release != nil {
		resolved, err := m.Resolve(release, "linux", c.goarch)
		if err != nil {
			return nil, nil, err
		}
		for _, r := range resolved {
			if !slices.Contains(members, r.File) {
				members = append(members, r.File)
			}
		}
	}
	found, err := preflight.InspectZip(f, info.Size(), members...)
	return found, named, err
}

// symbols are the functions that a manifest names.
func symbols(m *bundle.Manifest) ([]preflight.Symbol, error) {
	named, err := m.Symbols()
	var all []preflight.Symbol
	for _, s := range named {
		hook := preflight.HookRequest
		if s.Response {
			hook = preflight.HookResponse
		}
		all = append(all, preflight.Symbol{File: s.File, Name: s.Name, Hook: hook})
	}
	return all, err
}

var verdictStyle = map[preflight.Verdict]cli.Style{preflight.Loads: cli.Good,
	preflight.Fails: cli.Bad, preflight.Unknown: cli.Warn}

func printReport(o *cli.Out, r preflight.Report) {
	rows := r.Rows()
	for i, p := range r.Plugins {
		rows[i+1][1] = o.Paint(verdictStyle[p.Verdict], rows[i+1][1])
	}
	o.Printf("%s", o.Table(rows))
	for _, p := range r.Plugins {
		printFindings(o, p.Plugin.Name, p.Findings)
	}
	printFindings(o, r.Gateway.Name, r.Findings)
}

func printFindings(o *cli.Out, name string, findings []preflight.Finding) {
	for i, f := range findings {
		if i == 0 {
			o.Printf("\n%s\n", o.Paint(cli.Bold, name))
		}
		word := string(f.Verdict)
		style := verdictStyle[f.Verdict]
		if f.Verdict == preflight.Loads {
			word, style = "warning", cli.Warn
		}
		o.Printf("  %s  %s: %s\n", o.Paint(style, fmt.Sprintf("%-7s", word)), f.Subject, f.Detail)
		if f.Remedy != "" {
			o.Printf("           %s\n", f.Remedy)
		}
	}
}
