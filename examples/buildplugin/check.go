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
	"example.com/tykupgrade/examples/internal/plugins"
	"example.com/tykupgrade/pluginbuild/preflight"
)

// checkOptions are the flags of -check.
type checkOptions struct {
	gateway  string
	member   string
	distro   string
	goamd64  string
	manifest string
}

func (o *checkOptions) checkFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.gateway, "gateway", "", "with -check: the gateway's `binary`, /proc/PID/exe of a running one, its .deb, or a tar (docker cp, dpkg-deb --fsys-tarfile; /dev/stdin for a pipe)")
	fs.StringVar(&o.member, "gateway-file", "", "with -check: the binary's `path` inside a .deb (default "+plugins.DebMember+") or a tar (default: its first file)")
	fs.StringVar(&o.distro, "distro", "", "with -check: `distribution` of the gateway hosts, to check glibc: "+strings.Join(preflight.Distros(), ", "))
	fs.StringVar(&o.goamd64, "goamd64", "", "with -check: highest CPU `level` of the gateway hosts, v1 to v4")
	fs.StringVar(&o.manifest, "manifest", "", "with -check: manifest.json `file` whose functions the plugins must have")
}

// runCheck says whether the plugins named by -check, separated by commas, will
// load in a gateway. One of them may be a bundle, which brings its manifest;
// with -version only the files that this release takes from it are checked.
func (c *command) runCheck(ctx context.Context) (any, error) {
	if c.gateway == "" {
		return nil, usageError("-check needs -gateway")
	}
	target := preflight.Target{Distro: c.distro, GOAMD64: c.goamd64}
	if c.version != "" {
		v, err := semver.NewVersion(c.version)
		if err != nil {
			return nil, usageError(fmt.Sprintf("-version %q: %v", c.version, err))
		}
		target.Gateway = v
	}
	if c.manifest != "" {
		data, err := os.ReadFile(c.manifest)
		if err != nil {
			return nil, err
		}
		m, err := bundle.Parse(data)
		if err != nil {
			return nil, err
		}
		if target.Symbols, err = plugins.Symbols(m); err != nil {
			return nil, err
		}
	}
	gateway, err := plugins.Gateway(ctx, c.gateway, c.member)
	if err != nil {
		return nil, err
	}
	var binaries []*preflight.Binary
	for _, path := range strings.Split(c.check, ",") {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		found, named, err := c.inspectPlugin(path, target.Gateway)
		if err != nil {
			return nil, err
		}
		binaries = append(binaries, found...)
		target.Symbols = append(target.Symbols, named...)
	}
	report, err := preflight.CompareAll(binaries, gateway, target)
	if errors.Is(err, preflight.ErrTarget) {
		return nil, usageError(err.Error())
	} else if err != nil {
		return nil, err
	}
	if !c.json {
		c.printReport(report)
	}
	switch report.Verdict {
	case preflight.Loads:
		return report, nil
	case preflight.Fails:
		return report, exitCode(1)
	default:
		return report, exitCode(3)
	}
}

// inspectPlugin reads a plugin, or the plugins of a bundle with what its
// manifest names.
func (c *command) inspectPlugin(path string, release *semver.Version) ([]*preflight.Binary, []preflight.Symbol, error) {
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
	named, err := plugins.Symbols(m)
	if err != nil {
		return nil, nil, err
	}
	var members []string
	if release != nil {
		resolved, err := m.Resolve(release, c.goos, c.goarch)
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

var verdictStyle = map[preflight.Verdict]cli.Style{preflight.Loads: cli.Good, preflight.Fails: cli.Bad, preflight.Unknown: cli.Warn}

func (c *command) printReport(r preflight.Report) {
	o := c.stdout
	rows := [][]string{{"FILE", "VERDICT", "GO", "ARCH", "PACKAGES", "SIZE", "FUNCTIONS"}}
	for _, p := range r.Plugins {
		var funcs []string
		for _, f := range p.Plugin.Exports {
			funcs = append(funcs, fmt.Sprintf("%s (%s)", f.Name, f.Hook))
		}
		rows = append(rows, []string{p.Plugin.Name, o.Paint(verdictStyle[p.Verdict], string(p.Verdict)), orDash(p.Plugin.GoVersion), orDash(p.Plugin.Arch),
			fmt.Sprintf("%d of %d agree", p.Common-len(p.Mismatched), p.Common), cli.Bytes(p.Plugin.Size), orDash(strings.Join(funcs, ", "))})
	}
	g := r.Gateway
	rows = append(rows, []string{g.Name, "(gateway)", orDash(g.GoVersion), orDash(g.Arch), fmt.Sprint(len(g.Packages)), cli.Bytes(g.Size), ""})
	o.Printf("%s", o.Table(rows))
	for _, p := range r.Plugins {
		c.printFindings(p.Plugin.Name, p.Findings)
	}
	c.printFindings(g.Name, r.Findings)
}

func (c *command) printFindings(name string, findings []preflight.Finding) {
	o := c.stdout
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

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
