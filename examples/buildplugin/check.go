package main

import (
	"cmp"
	"context"
	"fmt"
	"io"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/pluginbuild/preflight"
)

// check predicts whether plugins will load in a gateway. Some of them may be bundles, which bring
// their manifests.
func check(ctx context.Context, call *cli.Call) error {
	if len(call.Args) == 0 {
		return cli.Wrong("PLUGIN is missing")
	}
	target := preflight.Target{Distro: call.Text("distro"), GOAMD64: call.Text("goamd64")}
	var err error
	if target.Gateway, err = call.Version("release"); err != nil {
		return err
	}
	m, err := cli.File(call, "manifest", bundle.Parse)
	if err == nil && m != nil {
		err = m.EachSymbol(target.AddSymbol)
	}
	if err != nil {
		return err
	}
	gateway, err := preflight.InspectFile(ctx, call.Text("gateway"), call.Text("gateway-file"))
	if err != nil {
		return cli.OfFlag(ctx, err)
	}
	goarch := cmp.Or(call.Text("goarch"), gateway.Arch)
	if gateway.Arch != "" && goarch != gateway.Arch {
		return cli.Wrong("-goarch %s is not the architecture of -gateway, %s", goarch, gateway.Arch)
	}
	plugins, err := preflight.InspectPlugins(ctx, func(r io.ReaderAt, size int64) ([]string, error) {
		m, err := bundle.Verify(r, size, bundle.VerifyOptions{})
		if err == nil {
			err = m.EachSymbol(target.AddSymbol)
		}
		if err != nil || target.Gateway == nil {
			return nil, err
		}
		return m.LoadedFiles(target.Gateway, "linux", goarch)
	}, call.Args...)
	if err != nil {
		return err
	}
	report, err := preflight.CompareAll(plugins, gateway, target)
	if err == nil {
		err = call.Show(report, explain(call.Out, report))
	}
	if err != nil {
		return cli.Translate(err, cli.Cases{{preflight.ErrTarget, cli.Usage, ""}})
	}
	return cli.Exit(map[preflight.Verdict]int{preflight.Loads: cli.Yes, preflight.Fails: cli.No,
		preflight.Unknown: cli.Unknown}[report.Verdict], nil)
}

func explain(out *cli.Out, r preflight.Report) string {
	text := out.Marked(r.Rows(), 1, styles)
	for _, p := range append(r.Plugins, preflight.Result{Plugin: r.Gateway, Findings: r.Findings}) {
		for i, f := range p.Findings {
			if i == 0 {
				text += "\n" + out.Paint(cli.Bold, p.Plugin.Name) + "\n"
			}
			label := string(f.Verdict)
			if f.Verdict == preflight.Loads {
				label = "warning"
			}
			text += finding(out, "  ", label, f.Subject+": "+f.Detail, f.Remedy)
		}
	}
	return text
}

// styles are those of verdicts and of the labels of findings.
var styles = map[string]cli.Style{"loads": cli.Good, "fails": cli.Bad, "unknown": cli.Warn,
	"info": cli.Faint, "warning": cli.Warn, "error": cli.Bad, "to do": cli.Warn}

// finding is the text of a finding, and below it what to do.
func finding(out *cli.Out, indent, label, text, remedy string) string {
	text = indent + out.Paint(styles[label], fmt.Sprintf("%-7s", label)) + " " + text + "\n"
	if remedy != "" {
		text += indent + "        " + remedy + "\n"
	}
	return text
}
