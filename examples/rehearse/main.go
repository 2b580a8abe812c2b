// Command rehearse carries out a whole upgrade of a Tyk stack with a Go plugin on this machine, in
// a throwaway directory. It runs the packages of this module with the user's own parts, and with
// stubs for missing parts.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/Masterminds/semver/v3"
	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/pluginbuild"
)

const about = `Upgrades a small Tyk stack on this machine in a throwaway directory. It plans the
plugin's path to the new release, prepares and compiles it, checks that it will
load, bundles the old and the new build, and switches a gateway to the bundle and
back. Then it takes a verified backup, upgrades dashboard, gateway and pump with
apt, and waits for the health of each. Root is not needed, and nothing is left but
Go's build cache. Each step says what is real and what is a stub. A step that needs
what this machine lacks is skipped, with the reason. On two cores it takes about 25 seconds,
and a minute the first time, because Go compiles its library.`

const notes = `Give your own parts and they take the place of stubs: -plugin, -manifest, -gateway-from,
-gateway, -conf, -apis, -debs, or -file with an upgrade.yaml that names them. Your gateways run in a
network namespace whose only interface is loopback, with a Redis of the rehearsal and a
copy of the configuration in which every address, path and secret is replaced. That
needs root, or user namespaces.

-fail gateway makes the new gateway unable to start. The gate finds it, and packages,
configuration and databases are reverted and compared with what was before.

-fleet upgrades two gateway hosts in containers, behind HAProxy and under load, one
after the other. With -fail gateway the rollout stops at the first host and reverts
it. The hosts' image is made once, and stays.

It runs in any directory: go run ./examples/rehearse in this module, or an installed rehearse.
Only -fleet has to run inside this module, because it compiles stubs for the hosts.
`

// options are the flags.
type options struct {
	from, to    *semver.Version
	fail        string
	fleet       bool
	keep        bool
	json        bool
	verbose     bool
	report      string // file of the HTML page
	given       inputs
	debs        []debPair    // of -debs
	gates       []fleet.Gate // of -file
	stdout, err io.Writer
}

func main() {
	if child() {
		return
	}
	adopt()
	redis.SetLogger(quiet{})
	command().Main()
}

// quiet keeps the Redis client's own log off the terminal.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

func command() cli.Command {
	var o options
	var from, to string
	return cli.Command{Name: "rehearse", About: about, Notes: notes, Verbs: []cli.Verb{{
		Flags: func(f *flag.FlagSet) {
			f.StringVar(&from, "from", "", "`version` of gateway and dashboard that runs before "+
				"(default 4.0.8)")
			f.StringVar(&to, "to", "", "`version` to upgrade to (default 5.2.5)")
			f.StringVar(&o.fail, "fail", "", "`what` breaks: gateway, or nothing")
			f.BoolVar(&o.fleet, "fleet", false, "upgrade two hosts in containers under load instead; "+
				"needs Docker, HAProxy and redis-server")
			f.BoolVar(&o.keep, "keep", false, "keep the directory, to look at what was made")
			f.BoolVar(&o.json, "json", false, "print one JSON document")
			f.StringVar(&o.report, "report", "", "write the report as one HTML page to this `file`")
			f.BoolVar(&o.verbose, "v", false, "print commands, events and logs as well")
			f.StringVar(&o.given.plugin, "plugin", "", "your plugin: a `directory` with its module, or "+
				"with the .so files of both releases")
			f.StringVar(&o.given.manifest, "manifest", "", "the `manifest.json` of the bundle in use")
			f.StringVar(&o.given.gatewayFrom, "gateway-from", "", "your present gateway: a `binary`, .deb "+
				"or image:REF")
			f.StringVar(&o.given.gateway, "gateway", "", "your new gateway: a `binary`, .deb or image:REF")
			f.StringVar(&o.given.conf, "conf", "", "your gateway's configuration, a `tyk.conf`; a copy of "+
				"it is changed and used")
			f.StringVar(&o.given.apis, "apis", "", "a `directory` of your API definitions, as app_path "+
				"has them; copies are used")
			f.StringVar(&o.given.debs, "debs", "", "a `directory` with the present and the new .deb of your "+
				"packages; they are installed with their own scripts in a root of their own (as root)")
			f.StringVar(&o.given.file, "file", "", "an `upgrade.yaml`: versions, plugin, bundle and gates "+
				"are taken from it")
		},
		Needs: map[string]string{"manifest": "plugin"},
		Run: func(ctx context.Context, c *cli.Call) error {
			o := o // several calls of one command do not share what is filled in
			o.stdout, o.err = c.Out, c.Err
			if err := o.fill(ctx, c, from, to); err != nil {
				return err
			}
			return perform(ctx, c, o)
		},
	}}}
}

func perform(ctx context.Context, c *cli.Call, o options) error {
	r := newRehearsal(o)
	if !o.json {
		r.print.out = c.Out
	}
	rep, err := r.perform(ctx)
	if o.report != "" && len(rep.Steps) > 0 {
		err = errors.Join(err, writeHTML(o.report, rep))
	}
	if o.json {
		err = errors.Join(err, c.JSON(rep))
	} else if len(rep.Steps) > 0 {
		r.summary(rep)
		err = errors.Join(err, c.Out.Err()) // what nobody could read has not succeeded
	}
	if ctx.Err() != nil {
		return cli.Exit(cli.Interrupted, errors.New("interrupted"))
	}
	return err
}

// fill checks the flags and everything that they name before it creates anything.
func (o *options) fill(ctx context.Context, c *cli.Call, from, to string) error {
	if o.fail != "" && o.fail != "gateway" {
		return cli.Wrong("invalid -fail %q: want gateway", o.fail)
	}
	if o.fleet {
		for _, name := range []string{"plugin", "manifest", "gateway-from", "gateway", "conf", "apis",
			"debs", "file"} {
			if c.Given[name] {
				return cli.Wrong("-%s does not go with -fleet, whose hosts run stubs", name)
			}
		}
	}
	if o.given.file != "" {
		var err error
		if o.gates, err = o.given.readFile(&from, &to); err != nil {
			return cli.Exit(cli.Usage, err)
		}
	}
	if o.given.debs != "" {
		var err error
		if o.debs, err = o.given.readDebs(ctx, &from, &to); err != nil {
			return cli.Exit(cli.Usage, err)
		}
	}
	if err := o.given.check(); err != nil {
		return cli.Exit(cli.Usage, err)
	}
	for _, v := range []struct {
		name, text, fallback string
		to                   **semver.Version
	}{{"from", from, "4.0.8", &o.from}, {"to", to, "5.2.5", &o.to}} {
		if v.text == "" {
			v.text = v.fallback
		}
		release, err := parseRelease(v.text)
		if err != nil {
			return cli.Exit(cli.Usage, cli.Advice(err, "name a release, such as -"+v.name+" "+v.fallback+
				"; go run ./examples/buildplugin list shows all"))
		}
		*v.to = release
	}
	if !o.from.LessThan(o.to) {
		return cli.Wrong("-from %s -to %s is not an upgrade", o.from, o.to)
	}
	return nil
}

func parseRelease(text string) (*semver.Version, error) {
	v, err := pluginbuild.ParseVersion(text)
	if err != nil {
		return nil, err
	}
	r, err := pluginbuild.Lookup(v)
	if err != nil {
		return nil, err
	}
	return r.Version, nil
}

// out returns the output for people, which is discarded with -json.
func (o options) out() *cli.Out {
	if out, ok := o.stdout.(*cli.Out); ok && !o.json {
		return out
	}
	if o.json {
		return cli.NewOut(io.Discard)
	}
	return cli.NewOut(o.stdout)
}

// exists is an error if path is not what it should be.
func exists(flagName, path string, dir bool) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("invalid -%s: %w", flagName, err)
	case dir && !info.IsDir():
		return fmt.Errorf("invalid -%s %s: want a directory", flagName, path)
	case !dir && !info.Mode().IsRegular():
		return fmt.Errorf("invalid -%s %s: want a file", flagName, path)
	}
	return nil
}
