// Command rehearse carries out a whole upgrade of a Tyk stack with a Go plugin
// on this machine, in a throwaway directory: the packages of this module at
// work, with stand-ins for what cannot be had.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/Masterminds/semver/v3"
	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/pluginbuild"
)

const usage = `usage: rehearse [flags]

Upgrades a small Tyk stack on this machine in a throwaway directory: plans the
plugin's way to the new release, prepares and compiles it, checks that it will
load, bundles the old and the new build, takes a verified backup, upgrades
dashboard, gateway and pump with apt, and awaits the health of each. Root is not
needed, and nothing is left but Go's build cache. Each step says what is real and
what stands in for what cannot be had; what this machine lacks is left out, with
the reason. On two cores it takes a quarter of a minute, the first time a minute
and a half, as Go then compiles everything.

With -fail gateway the new gateway cannot start: the gate finds it, and packages,
configuration and databases are reverted and compared with what was before.

With -fleet two gateway hosts in containers, behind HAProxy and under load, are
upgraded one after the other; with -fail gateway as well, the rollout stops at
the first host and reverts it. The hosts' image is made once, and stays.

Run it inside this module: go run ./examples/rehearse

`

const exits = `
exit codes:
  0    every step is as it should be; with -fail: found and reverted
  1    a step failed
  2    wrong usage
  130  interrupted; everything is cleaned up
`

// options are the flags.
type options struct {
	from, to    *semver.Version
	fail        string
	fleet       bool
	keep        bool
	json        bool
	verbose     bool
	stdout, err io.Writer
}

func main() {
	adopt()
	cli.OutliveReader()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	redis.SetLogger(quiet{})
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// quiet keeps the Redis client's own log off the terminal.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

const (
	exitOK = iota
	exitFailed
	exitUsage
	exitInterrupted = 130
)

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stdout, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		_, _ = fmt.Fprintf(stderr, "rehearse: %v\n(rehearse -h shows the usage)\n", err)
		return exitUsage
	}
	r := newRehearsal(o)
	rep, err := r.perform(ctx)
	if o.json {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		err = errors.Join(err, enc.Encode(rep))
	} else if len(rep.Steps) > 0 {
		r.summary(rep)
		err = errors.Join(err, r.print.out.Err())
	}
	switch {
	case ctx.Err() != nil:
		_, _ = fmt.Fprintln(stderr, "rehearse: interrupted")
		return exitInterrupted
	case err != nil:
		_, _ = fmt.Fprintln(stderr, "rehearse:", err)
		return exitFailed
	}
	return exitOK
}

func parse(args []string, stdout, stderr io.Writer) (options, error) {
	o := options{stdout: stdout, err: stderr}
	var from, to string
	f := flag.NewFlagSet("rehearse", flag.ContinueOnError)
	f.SetOutput(io.Discard) // its errors are printed by run
	f.StringVar(&from, "from", "4.0.8", "`version` of gateway and dashboard that runs before")
	f.StringVar(&to, "to", "5.2.5", "`version` to upgrade to")
	f.StringVar(&o.fail, "fail", "", "`what` breaks: gateway, or nothing")
	f.BoolVar(&o.fleet, "fleet", false, "upgrade two hosts in containers under load instead; needs Docker, HAProxy and redis-server")
	f.BoolVar(&o.keep, "keep", false, "keep the directory, to look at what was made")
	f.BoolVar(&o.json, "json", false, "print one JSON document")
	f.BoolVar(&o.verbose, "v", false, "print commands, events and logs as well")
	err := f.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		f.SetOutput(stderr)
		_, _ = fmt.Fprint(stderr, usage)
		f.PrintDefaults()
		_, _ = fmt.Fprint(stderr, exits)
		return o, err
	case err != nil:
		return o, err
	case f.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case o.fail != "" && o.fail != "gateway":
		return o, fmt.Errorf("-fail %s: only the gateway can be made to fail", o.fail)
	}
	for _, v := range []struct {
		name, text string
		to         **semver.Version
	}{{"from", from, &o.from}, {"to", to, &o.to}} {
		release, err := parseRelease(v.text)
		if err != nil {
			return o, fmt.Errorf("-%s %s: %w", v.name, v.text, err)
		}
		*v.to = release
	}
	if !o.from.LessThan(o.to) {
		return o, fmt.Errorf("-from %s -to %s is no upgrade", o.from, o.to)
	}
	return o, nil
}

func parseRelease(text string) (*semver.Version, error) {
	v, err := pluginbuild.ParseVersion(text)
	if err != nil {
		return nil, err
	}
	r, err := pluginbuild.Lookup(v)
	if unknown := (*pluginbuild.UnknownReleaseError)(nil); errors.As(err, &unknown) {
		return nil, fmt.Errorf("not in the release table, whose nearest is %s; go run ./examples/buildplugin list shows all", unknown.Nearest.Version)
	}
	if err != nil {
		return nil, err
	}
	return r.Version, nil
}

// out is where people read; with -json nobody does.
func (o options) out() *cli.Out {
	if o.json {
		return cli.NewOut(io.Discard)
	}
	return cli.NewOut(o.stdout)
}
