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

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/examples/internal/term"
	"example.com/tykupgrade/pluginbuild"
)

const usage = `Usage:
  buildplugin -version X.Y.Z [-dir DIR] -plan       show path, commands, image, findings; change nothing
  buildplugin -version X.Y.Z [-dir DIR]             prepare the module, then compile it
  buildplugin -version X.Y.Z [-dir DIR] -prepare    prepare the module only
  buildplugin -version X.Y.Z [-dir DIR] -compile    compile the module as it is
  buildplugin -check PLUGIN.so -gateway BINARY      will the plugin load in that gateway?
  buildplugin -list                                 show the release table

Exit codes: 0 done (with -check: it loads), 1 failed (with -check: it will not
load; with -plan: a finding is an error), 2 wrong usage, 3 -check cannot tell.

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

	releaseOptions
	prepareOptions
	compileOptions
	checkOptions

	stdout, stderr *term.Out
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c := &command{stdout: term.New(stdout), stderr: term.New(stderr)}
	fs := flag.NewFlagSet("buildplugin", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() { _, _ = io.WriteString(fs.Output(), usage); fs.PrintDefaults() }
	fs.StringVar(&c.version, "version", "", "gateway `release` that the plugin is for, such as 5.2.5")
	fs.StringVar(&c.dir, "dir", ".", "`directory` of the plugin's module")
	fs.BoolVar(&c.json, "json", false, "print one JSON object")
	fs.BoolVar(&c.list, "list", false, "show the release table")
	fs.BoolVar(&c.plan, "plan", false, "show what would be done")
	fs.BoolVar(&c.prepare, "prepare", false, "prepare only")
	fs.BoolVar(&c.compile, "compile", false, "compile only")
	fs.StringVar(&c.check, "check", "", "check a compiled `plugin` against -gateway")
	c.releaseFlags(fs)
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
	if c.json && result != nil {
		e := json.NewEncoder(c.stdout)
		e.SetIndent("", "  ")
		if jerr := e.Encode(result); jerr != nil {
			err = errors.Join(err, jerr)
		}
	}
	return c.fail(err)
}

// run picks the mode. The result of several modes in one call is a map by
// their names.
func (c *command) run(ctx context.Context) (any, error) {
	switch {
	case c.list:
		return c.runList()
	case c.check != "":
		return c.runCheck(ctx)
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
		if results["prepare"], err = c.runPrepare(ctx, r); err != nil {
			return results, err
		}
	}
	if both || c.compile {
		if results["compile"], err = c.runCompile(ctx, r); err != nil {
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
		hint interface{ Hint() string }
	)
	c.stderr.Clear()
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &bad):
		c.stderr.Printf("buildplugin: %v; -h shows the flags\n", err)
		return 2
	}
	c.stderr.Printf("%s %v\n", c.stderr.Paint(term.Bad, "buildplugin:"), err)
	if errors.As(err, &hint) && hint.Hint() != "" {
		c.stderr.Printf("%s %s\n", c.stderr.Paint(term.Bold, "next:"), hint.Hint())
	}
	return 1
}

// releaseOptions are the flags for releases that the table lacks.
type releaseOptions struct {
	table string
}

func (o *releaseOptions) releaseFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.table, "releases", "", "JSON `file` with releases that the table lacks")
}

// releases is the release table with the -releases file appended.
func (c *command) releases() (pluginbuild.Table, error) {
	t := pluginbuild.Releases()
	if c.table == "" {
		return t, nil
	}
	f, err := os.Open(c.table)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	more, err := pluginbuild.ReadTable(f)
	return append(t, more...), err
}

// release is the one that -version names.
func (c *command) release(ctx context.Context) (pluginbuild.Release, error) {
	v, err := semver.NewVersion(c.version)
	if err != nil {
		return pluginbuild.Release{}, usageError(fmt.Sprintf("-version %q: %v", c.version, err))
	}
	t, err := c.releases()
	if err != nil {
		return pluginbuild.Release{}, err
	}
	return t.Lookup(v)
}
