// Command packbundle builds, verifies and explains Tyk plugin bundles. It shows
// package bundle at work: flags, values, calls, print.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/examples/internal/cli"
)

const usage = `usage:
  packbundle [-manifest FILE] [-dir DIR] [-o BUNDLE] [-key KEY] [-json]
        build BUNDLE from a manifest and the files it lists
  packbundle -verify BUNDLE [-pub KEY] [-json]
        check structure, checksum and, with -pub, the signature
  packbundle -which VERSION [-platform OS/ARCH] [-json] BUNDLE
        print the file that a gateway of VERSION loads for each hook, and the
        names it tries in order

Gateways keep bundles by file name and never fetch one name twice: publish
changed content under the new name that is printed after a build.

exit codes:
  0  fine
  1  the bundle, the manifest, a key or a file is bad or cannot be read or
     written, or an interrupt came; an earlier BUNDLE is then what it was
  2  wrong usage

flags:
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second one ends it at once
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// command is what the flags say, and where the answer goes. Every mode is a
// method in a file of its own; it prints for people unless json is set, and
// returns what -json prints.
type command struct {
	manifest, dir, out, key string
	verify, pub             string
	which, platform         string
	json                    bool

	bundle         string          // the one to verify or explain
	version        *semver.Version // what which says
	stdout, stderr *cli.Out
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c := &command{stdout: cli.NewOut(stdout), stderr: cli.NewOut(stderr)}
	fs := flag.NewFlagSet("packbundle", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() { _, _ = io.WriteString(fs.Output(), usage); fs.PrintDefaults() }
	fs.StringVar(&c.manifest, "manifest", "manifest.json", "the `file` to build from")
	fs.StringVar(&c.dir, "dir", "", "the `directory` of the files that it lists (default: the manifest's)")
	fs.StringVar(&c.out, "o", "bundle.zip", "the `bundle` to write")
	fs.StringVar(&c.key, "key", "", "sign with the RSA private `key` in this PEM file")
	fs.StringVar(&c.verify, "verify", "", "verify this `bundle`")
	fs.StringVar(&c.pub, "pub", "", "the RSA public `key`, a PEM file; the bundle must then be signed")
	fs.StringVar(&c.which, "which", "", "explain the bundle for a gateway of this `version`")
	fs.StringVar(&c.platform, "platform", "linux/amd64", "the gateway's `os/arch`, for -which")
	fs.BoolVar(&c.json, "json", false, "print one JSON object")
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	mode, err := c.choose(fs)
	if err != nil {
		c.stderr.Printf("packbundle: %v\nrun packbundle -h for help\n", err)
		return 2
	}
	result, err := mode(ctx)
	c.stderr.Clear()
	if err != nil {
		failure := c.fail(err)
		if partial, ok := result.(map[string]any); ok {
			maps.Copy(failure, partial)
		}
		result = failure
	}
	if c.json {
		e := json.NewEncoder(c.stdout)
		e.SetIndent("", "  ")
		if jerr := e.Encode(result); err == nil {
			err = jerr
		}
	}
	if lost := c.stdout.Err(); lost != nil {
		c.stderr.Printf("packbundle: %sprint the result: %v\n", c.stderr.Paint(cli.Bad, "failed: "), lost)
		return 1
	}
	if err != nil {
		return 1
	}
	return 0
}

// allowed lists the flags that go with each way to use the command.
var allowed = map[string][]string{
	"building": {"manifest", "dir", "o", "key", "json"},
	"-verify":  {"verify", "pub", "json"},
	"-which":   {"which", "platform", "json"},
}

func (c *command) choose(fs *flag.FlagSet) (func(context.Context) (any, error), error) {
	mode, do, rest := "building", c.runBuild, 0
	if given(fs, "verify") {
		mode, do, c.bundle = "-verify", c.runVerify, c.verify
	} else if given(fs, "which") {
		mode, do, rest, c.bundle = "-which", c.runWhich, 1, fs.Arg(0)
	}
	var err error
	fs.Visit(func(f *flag.Flag) {
		if !slices.Contains(allowed[mode], f.Name) {
			err = fmt.Errorf("-%s does not go with %s", f.Name, mode)
		}
	})
	if err == nil && fs.NArg() != rest {
		err = fmt.Errorf("%d arguments beside the flags, %s takes %d", fs.NArg(), mode, rest)
	}
	if mode == "-which" && err == nil {
		if c.version, err = semver.StrictNewVersion(strings.TrimPrefix(c.which, "v")); err != nil {
			err = fmt.Errorf("-which %q: %w; give all three numbers, as 5.2.5", c.which, err)
		} else if goos, goarch, _ := strings.Cut(c.platform, "/"); goos == "" || goarch == "" {
			err = fmt.Errorf("-platform %q is not os/arch", c.platform)
		}
	}
	return do, err
}

func given(fs *flag.FlagSet, name string) bool {
	found := false
	fs.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}

// fail prints err for people, with one line for each finding, and returns what
// -json prints.
func (c *command) fail(err error) map[string]any {
	var refused *bundle.Error
	errors.As(err, &refused)
	if errors.Is(err, bundle.ErrManifest) {
		c.printFindings(refused.Findings)
		err = errors.New("no gateway could use the bundle, see above")
	}
	c.stderr.Printf("packbundle: %s%v\n", c.stderr.Paint(cli.Bad, "failed: "), err)
	result := map[string]any{"error": err.Error()}
	if refused != nil && len(refused.Findings) > 0 {
		result["findings"] = refused.Findings
	}
	var detail interface {
		Hint() string
		Retryable() bool
	}
	if errors.As(err, &detail) {
		result["hint"], result["retryable"] = detail.Hint(), detail.Retryable()
	}
	return result
}

func (c *command) printFindings(findings []bundle.Finding) {
	for _, f := range findings {
		style := cli.Warn
		if f.Severity == bundle.Refused {
			style = cli.Bad
		}
		c.stderr.Printf("%s %s: %s\n  %s\n", c.stderr.Paint(style, string(f.Severity)+":"), f.Path, f.Problem, f.Remedy)
	}
}

// progress draws a bar on a terminal when there is enough to wait for.
func (c *command) progress(label string) func(bundle.Event) {
	const large = 16 << 20
	if !c.stderr.Live() {
		return nil
	}
	return func(e bundle.Event) {
		if e.Total >= large {
			c.stderr.Redraw(cli.Bar(label, e.Done, e.Total))
		}
	}
}
