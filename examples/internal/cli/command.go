// Package cli has the parts that all example commands share: flags and verbs, exit codes, live
// progress on a terminal, tables, and certificates from files.
//
// Every command has the grammar "command VERB [flags] [arguments]". Flags and arguments may come in
// any order. -h prints help to stdout, and -version prints the build. An error has two lines: the
// cause, and what to do.
//
// A flag has the same meaning in all commands:
//
//	-gateway      a gateway's binary, .deb file or image:REF
//	-gateway-url  a gateway's URL
//	-release      a gateway's version
//	-host         an SSH destination
//	-engine       the address of a Docker engine
//	-json         print JSON
//	-yes          do not ask
package cli

import (
	"context"
	"errors"
	"flag"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// Command is a program. Name and Verbs are required.
type Command struct {
	Name  string
	About string // what it does: the beginning of its help
	Notes string // the end of its help, before the exit codes
	Verbs []Verb // in the order of the help; a single one without a Name: no verbs
}

// Verb is one thing that a command does.
type Verb struct {
	Name  string
	Args  string // its arguments: "SET FILE", or "[HOST…]" for any number
	About string // one line

	// Flags registers the verb's flags. It may be called several times. The names h, help and
	// version are reserved.
	Flags    func(*flag.FlagSet)
	Required []string          // flags that must be given
	Needs    map[string]string // flags that require another flag, if the verb has that one
	Excludes map[string]string // flags that exclude another flag
	Empty    []string          // flags whose value may be empty

	Run func(context.Context, *Call) error
}

// Groups joins functions that register flags into one.
func Groups(all ...func(*flag.FlagSet)) func(*flag.FlagSet) {
	return func(f *flag.FlagSet) {
		for _, add := range all {
			add(f)
		}
	}
}

// Call is one invocation of a verb.
type Call struct {
	Verb     string
	Args     []string
	Given    map[string]bool // the flags that were given
	Env      func(string) string
	In       io.Reader
	Out, Err *Out

	flags *flag.FlagSet
	noted error // the first error of Note
}

// Streams are the input and the outputs of a command.
type Streams struct {
	Env      func(string) string
	In       io.Reader
	Out, Err io.Writer
}

// Main runs the command as this process and does not return. The first Ctrl-C, SIGTERM or SIGHUP
// ends the context of a verb; a second one ends the process. The process continues if the reader of
// its output ends, as in "upgrade apply | tee log".
func (c Command) Main() {
	OutliveReader()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM,
		syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	code := c.Run(ctx, os.Args[1:], Streams{Env: os.Getenv, In: os.Stdin, Out: os.Stdout,
		Err: os.Stderr})
	stop()
	os.Exit(code)
}

// Run runs the command and returns its exit code.
func (c Command) Run(ctx context.Context, args []string, s Streams) int {
	call := &Call{Env: s.Env, In: s.In, Out: NewOut(s.Out), Err: NewOut(s.Err)}
	if call.Env == nil {
		call.Env = func(string) string { return "" }
	}
	name := c.Name
	verb, help, err := c.parse(args, call)
	if verb != nil && verb.Name != "" {
		name += " " + verb.Name
	}
	switch {
	case help != "":
		call.Out.Printf("%s", help)
	case err == nil:
		err = verb.Run(ctx, call)
		call.Err.Clear()
		call.Out.Clear()
	}
	if werr := call.Out.Err(); werr != nil && Code(err) == Yes {
		err = Advice(werr, "the answer could not be printed; run it again")
	}
	code := Code(err)
	if err == nil || errors.Is(err, errSilent) {
		return code
	}
	cause, hint := Explain(err)
	flagName, exact := call.fileOf(err, cause)
	if code == No && exact && errors.Is(err, fs.ErrNotExist) {
		code = Usage
	}
	if code == No && ctx.Err() != nil {
		code = Interrupted
	}
	if hint == "" {
		hint = fileHint(err)
	}
	if hint == "" && code == Usage {
		hint = name + " -h shows the flags"
	}
	if flagName != "" && !slices.Contains(words(cause), "-"+flagName) {
		cause = "invalid -" + flagName + ": " + cause
	}
	text := call.Err.Paint(Bad, name+":") + " " + masked(cause) + "\n"
	if hint != "" {
		text += "  " + hint + "\n"
	}
	call.Err.Printf("%s", call.Err.fill(text))
	return code
}

// masked hides the password of a URI in an error, such as one about an unexpected argument.
func masked(text string) string {
	if !strings.Contains(text, ":/") || !strings.Contains(text, "@") {
		return text
	}
	return regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*:/+)[^\s"]*:[^\s"]*@`).ReplaceAllString(text,
		"${1}***@")
}

// parse finds the verb and sets its flags. If help is not empty, it is the command's answer.
func (c Command) parse(args []string, call *Call) (*Verb, string, error) {
	rest, verb, asked, err := c.verb(args)
	switch {
	case asked == "version":
		return nil, c.build(), nil
	case asked != "" && verb == nil:
		return nil, c.help(call.Out), nil
	case asked != "":
		return nil, c.verbHelp(call.Out, verb), nil
	case err != nil:
		return verb, "", Exit(Usage, err)
	}
	f := verb.set(c.Name)
	for len(rest) > 0 {
		if err := f.Parse(rest); err != nil {
			return verb, "", Exit(Usage, c.flagError(verb, err))
		}
		stopped := len(rest) > f.NArg() && rest[len(rest)-f.NArg()-1] == "--"
		rest = f.Args()
		if stopped {
			call.Args = append(call.Args, rest...)
			break
		}
		if len(rest) > 0 {
			call.Args, rest = append(call.Args, rest[0]), rest[1:]
		}
	}
	call.Verb, call.Given, call.flags = verb.Name, map[string]bool{}, f
	f.Visit(func(x *flag.Flag) { call.Given[x.Name] = true })
	return verb, "", verb.check(call)
}

// verb finds the verb, which is the first argument that is not a flag or its value.
func (c Command) verb(args []string) (rest []string, verb *Verb, asked string, err error) {
	takes := map[string]bool{} // whether a flag takes the next argument
	for _, v := range c.Verbs {
		v.set(c.Name).VisitAll(func(f *flag.Flag) {
			b, ok := f.Value.(interface{ IsBoolFlag() bool })
			takes[f.Name] = !(ok && b.IsBoolFlag())
		})
	}
	if c.Verbs[0].Name == "" {
		verb = &c.Verbs[0]
	}
	for i := 0; i < len(args); i++ {
		a := args[i]
		name := strings.TrimPrefix(strings.TrimPrefix(a, "-"), "-")
		switch {
		case a == "--":
			rest = append(rest, args[i:]...)
			i = len(args)
			continue
		case name == "h" && a != name, name == "help" && (a != name || verb == nil):
			asked = "help"
			continue
		case name == "version" && a != name:
			return nil, nil, "version", nil
		case a != name && a != "-":
			rest = append(rest, a)
			if takes[name] && i+1 < len(args) {
				i++
				rest = append(rest, args[i])
			}
			continue
		case verb == nil:
			at := slices.IndexFunc(c.Verbs, func(v Verb) bool { return v.Name == a })
			if at < 0 {
				return nil, nil, asked, Advice(errUnknown("verb", a, c.names()),
					c.Name+" -h shows what it can do")
			}
			verb = &c.Verbs[at]
			continue
		}
		rest = append(rest, a)
	}
	if verb == nil && asked == "" {
		err = Advice(errors.New("no verb given (want "+strings.Join(c.names(), ", ")+")"),
			c.Name+" -h shows what it can do")
	}
	return rest, verb, asked, err
}

func (c Command) names() []string {
	var all []string
	for _, v := range c.Verbs {
		all = append(all, v.Name)
	}
	return all
}

// set returns a new flag set of the verb.
func (v *Verb) set(name string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	if v.Flags != nil {
		v.Flags(f)
	}
	return f
}

// check compares the call with the verb's rules for flags and arguments.
func (v *Verb) check(call *Call) error {
	for _, name := range v.Required {
		if !call.Given[name] {
			return Wrong("-%s is missing", name)
		}
	}
	if call.Given["host"] {
		for dest := range strings.SplitSeq(call.flags.Lookup("host").Value.String(), ",") {
			if strings.HasPrefix(dest, "-") {
				return Wrong("invalid -host %q: want an SSH destination such as deploy@gw1", dest)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(call.Given)) {
		with, not := v.Needs[name], v.Excludes[name]
		switch {
		case call.isEmpty(name) && !slices.Contains(v.Empty, name):
			return Wrong("-%s needs a value", name)
		case with != "" && !call.Given[with] && call.flags.Lookup(with) != nil:
			return Wrong("-%s needs -%s", name, with)
		case not != "" && call.Given[not]:
			return Wrong("-%s and -%s exclude each other", name, not)
		}
	}
	want := strings.Fields(v.Args)
	if strings.Contains(v.Args, "…") || strings.HasPrefix(v.Args, "[") && len(call.Args) < len(want) {
		return nil
	}
	switch {
	case len(call.Args) < len(want):
		return Wrong("%s is missing", want[len(call.Args)])
	case len(call.Args) > len(want):
		return Wrong("unexpected argument %q", call.Args[len(want)])
	}
	return nil
}

// OutliveReader keeps a process alive after the reader of its output ends. [Command.Main] calls it.
func OutliveReader() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }
