// Command buildplugin brings a Go plugin's module to a gateway release and
// compiles it there: see -h.
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

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/examples/internal/plugins"
)

const usage = `Usage:
  buildplugin -version X.Y.Z [-dir DIR] -plan       show path, commands, image, findings; change nothing
  buildplugin -version X.Y.Z [-dir DIR]             prepare the module, then compile it
  buildplugin -version X.Y.Z [-dir DIR] -prepare    prepare the module only
  buildplugin -version X.Y.Z [-dir DIR] -compile    compile the module as it is
  buildplugin -check PLUGIN.so -gateway BINARY      will the plugin load in that gateway?
  buildplugin -list [-version X.Y.Z]                show the release table, or one entry of it
  buildplugin -list-caches | -remove-caches | -sweep AGE
                                                    what compiling leaves on the Docker engine

A release that the table lacks comes from -releases FILE, in the form of
-list -json, or from -repo URL, which is asked for the tag's commit; the rest
then follows from the version, and from the go.mod that -release-mod names.

Exit codes:
  0  done; with -check: the plugin loads
  1  failed, and the module is as it was; with -plan: a finding stops the
     plugin; with -check or -load-test: it will not load
  2  wrong usage
  3  -check cannot tell

Flags:
`

// command is one call: its flags, and where it prints. Every mode is a method
// in a file of its own; it prints for people unless json is set, and returns
// what -json prints.
type command struct {
	version string
	dir     string
	json    bool

	list    bool
	plan    bool
	prepare bool
	compile bool
	check   string

	releases plugins.Releases
	targetOptions
	planOptions
	prepareOptions
	compileOptions
	checkOptions

	stdout, stderr *cli.Out
}

func main() {
	cli.OutliveReader()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c := &command{stdout: cli.NewOut(stdout), stderr: cli.NewOut(stderr)}
	fs := flag.NewFlagSet("buildplugin", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() { _, _ = io.WriteString(fs.Output(), usage); fs.PrintDefaults() }
	fs.StringVar(&c.version, "version", "", "gateway `release` that the plugin is for, such as 5.2.5")
	fs.StringVar(&c.dir, "dir", ".", "`directory` of the plugin's module")
	fs.BoolVar(&c.json, "json", false, "print one JSON object")
	fs.BoolVar(&c.list, "list", false, "show the release table, or the entry of -version")
	fs.BoolVar(&c.plan, "plan", false, "show what would be done")
	fs.BoolVar(&c.prepare, "prepare", false, "prepare only")
	fs.BoolVar(&c.compile, "compile", false, "compile only")
	fs.StringVar(&c.check, "check", "", "check a compiled `plugin` against -gateway")
	c.releaseFlags(fs)
	c.targetFlags(fs)
	c.planFlags(fs)
	c.prepareFlags(fs)
	c.compileFlags(fs)
	c.checkFlags(fs)
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case fs.NArg() > 0:
		return c.fail(usageError(fmt.Sprintf("unexpected argument %q", fs.Arg(0))))
	}
	result, err := c.run(ctx)
	c.stderr.Clear()
	c.stdout.Clear()
	if c.json {
		err = errors.Join(err, c.printJSON(result, err))
	}
	return c.fail(err)
}

// printJSON prints the result; that of a failed call has an error member.
func (c *command) printJSON(result any, err error) error {
	var code exitCode
	if err != nil && !errors.As(err, &code) {
		failed, ok := result.(map[string]any)
		if !ok {
			failed = map[string]any{}
		}
		e := map[string]any{"message": err.Error()}
		var hint interface{ Hint() string }
		if errors.As(err, &hint) {
			e["hint"] = hint.Hint()
		}
		var retry interface{ Retryable() bool }
		if errors.As(err, &retry) {
			e["retryable"] = retry.Retryable()
		}
		failed["error"], result = e, failed
	}
	e := json.NewEncoder(c.stdout)
	e.SetIndent("", "  ")
	return e.Encode(result)
}

// run picks the mode. The result of several modes in one call is a map by
// their names.
func (c *command) run(ctx context.Context) (any, error) {
	switch {
	case c.list:
		return c.runList(ctx)
	case c.check != "":
		return c.runCheck(ctx)
	case c.keeping():
		return c.runKeeping(ctx)
	case c.version == "":
		return nil, usageError("-version is missing")
	}
	r, err := c.release(ctx)
	if err != nil {
		return nil, err
	}
	if c.plan {
		return c.runPlan(ctx, r)
	}
	both, results := c.prepare == c.compile, map[string]any{}
	if both || c.prepare {
		result, err := c.runPrepare(ctx, r)
		if err != nil {
			return results, err
		}
		results["prepare"] = result
	}
	if both || c.compile {
		result, err := c.runCompile(ctx, r)
		if result != nil {
			results["compile"] = result
		}
		if err != nil {
			return results, err
		}
	}
	return results, nil
}

// usageError is a wrong call: exit code 2.
type usageError string

func (e usageError) Error() string { return string(e) }

// exitCode ends the command with a code and without a message, because the
// mode has printed its verdict.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// fail prints err with its hint and returns the exit code.
func (c *command) fail(err error) int {
	var (
		code exitCode
		bad  usageError
	)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &bad):
		c.stderr.Printf("buildplugin: %v; -h shows the flags\n", err)
		return 2
	}
	c.stderr.Printf("%s %v\n", c.stderr.Paint(cli.Bad, "buildplugin:"), err)
	return 1
}
