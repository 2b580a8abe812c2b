package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/cli"
)

// The exit codes that the commands have in common.
const (
	ExitOK = iota
	ExitFailed
	ExitUsage
	ExitStuck  // a host could not be undone
	ExitLocked // somebody else works on it
)

// invocation is one invocation of a command with verbs: its name and its streams.
type invocation struct {
	Name           string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Verb parses args. Flags may stand before and after the verb, which is one of
// verbs. Where done is true the command ends with the code: usage was asked for,
// or what is wrong was printed.
func (c *invocation) Verb(f *flag.FlagSet, usage string, args, verbs []string) (verb string, code int, done bool) {
	f.SetOutput(c.Stderr)
	f.Usage = func() { _, _ = fmt.Fprint(c.Stderr, usage); f.PrintDefaults() }
	for len(args) > 0 {
		if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
			return "", ExitOK, true
		} else if err != nil {
			return "", ExitUsage, true
		}
		if args = f.Args(); len(args) > 0 {
			if verb != "" {
				return "", c.Wrong("give one of %s; got %q and %q", strings.Join(verbs, ", "), verb, args[0]), true
			}
			verb, args = args[0], args[1:]
		}
	}
	if !slices.Contains(verbs, verb) {
		return "", c.Wrong("give one of %s", strings.Join(verbs, ", ")), true
	}
	return verb, ExitOK, false
}

// Journal is where the run of a file is recorded, unless the operator says so:
// beside the file, or for stdin under a name of its own.
func Journal(file, stdin string) string {
	if file == "-" {
		return stdin
	}
	return file + ".journal"
}

// Wrong says that the command was called wrongly.
func (c *invocation) Wrong(format string, a ...any) int {
	_, _ = fmt.Fprintf(c.Stderr, "%s: %s\n(%[1]s -h shows the usage)\n", c.Name, fmt.Sprintf(format, a...))
	return ExitUsage
}

// Fail prints an error.
func (c *invocation) Fail(err error) int {
	_, _ = fmt.Fprintf(c.Stderr, "%s: %v\n", c.Name, err)
	return ExitFailed
}

// Print prints JSON, and returns the code if that succeeds.
func (c *invocation) Print(v any, code int) int {
	enc := json.NewEncoder(c.Stdout)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return c.Fail(err)
	}
	return code
}

// Written returns the code if all that went to out could be written: an answer
// that nobody has is none.
func (c *invocation) Written(out *cli.Out, code int) int {
	if err := out.Err(); err != nil {
		return c.Fail(err)
	}
	return code
}

// Ended prints the error of a run, if it has one, and tells how bad it is.
func (c *invocation) Ended(rep *rollout.Report, err error) int {
	if err == nil {
		return ExitOK
	}
	code := c.Fail(err)
	switch {
	case errors.Is(err, rollout.ErrLocked):
		return ExitLocked
	case rep != nil && rep.Outcome == rollout.OutcomeNotRestored:
		return ExitStuck
	}
	return code
}

func agreed(in io.Reader, out io.Writer, question string) bool {
	return (&cli.Call{In: in, Err: cli.NewOut(out)}).Confirm(question)
}
