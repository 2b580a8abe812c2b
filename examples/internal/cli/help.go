package cli

import (
	"errors"
	"flag"
	"fmt"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
)

// errUnknown returns the error about a word that is not in the list of known words.
func errUnknown(what, got string, want []string) error {
	return fmt.Errorf("unknown %s %q (want %s)", what, got, strings.Join(want, ", "))
}

// Error texts of package flag (Go 1.26).
const (
	unknownFlag = `^flag provided but not defined: -(.+)$`
	missingArg  = `^flag needs an argument: -(.+)$`
	badValue    = `^invalid (?:boolean )?value (".*") for (?:flag )?-([^:]+): (.*)$`
)

// parts returns the parts of a text that an expression captures. It compiles the expression only
// then, because a command starts faster without.
func parts(expr, text string) []string { return regexp.MustCompile(expr).FindStringSubmatch(text) }

// flagError rewords an error of package flag.
func (c Command) flagError(verb *Verb, err error) error {
	text := err.Error()
	if m := parts(unknownFlag, text); m != nil {
		var with []string
		for _, v := range c.Verbs {
			if v.Name != verb.Name && v.set(c.Name).Lookup(m[1]) != nil {
				with = append(with, v.Name)
			}
		}
		if with != nil {
			return fmt.Errorf("-%s goes with %s, not with %s", m[1], strings.Join(with, ", "), verb.Name)
		}
		return fmt.Errorf("unknown flag -%s", m[1])
	}
	if m := parts(missingArg, text); m != nil {
		return fmt.Errorf("-%s needs a value", m[1])
	}
	if m := parts(badValue, text); m != nil {
		if m[3] == "parse error" {
			m[3] = "want " + verb.example(c.Name, m[2])
		}
		return fmt.Errorf("invalid -%s %s: %s", m[2], m[1], m[3])
	}
	return errors.New(text)
}

// example describes a valid value of a flag.
func (v *Verb) example(name, flagName string) string {
	f := v.set(name).Lookup(flagName)
	if f == nil {
		return "another value"
	}
	switch get, _ := f.Value.(flag.Getter); value := get.Get().(type) {
	case bool:
		return "true or false"
	case int, int64, uint, uint64:
		return "a number such as 3"
	case float64:
		return "a number such as 0.5"
	default:
		if strings.HasSuffix(fmt.Sprintf("%T", value), "Duration") {
			return "a duration such as 90s or 5m"
		}
	}
	return "another value"
}

// help returns the help of the whole command.
func (c Command) help(out *Out) string {
	if c.Verbs[0].Name == "" {
		return c.verbHelp(out, &c.Verbs[0])
	}
	var b strings.Builder
	fmt.Fprintf(&b, "usage: %s VERB [flags] [arguments]\n\n", c.Name)
	if c.About != "" {
		b.WriteString(prose(c.About, out) + "\n")
	}
	width := 0
	for _, v := range c.Verbs {
		width = max(width, len(v.Name))
	}
	for _, v := range c.Verbs {
		b.WriteString(indent(fmt.Sprintf("  %-*s  ", width, v.Name), v.About, out.Width()))
	}
	b.WriteString("\n" + prose(c.Name+" VERB -h shows the verb's flags, "+c.Name+" -version the build.", out))
	if c.Notes != "" {
		b.WriteString("\n" + prose(c.Notes, out))
	}
	return b.String() + "\n" + prose(Codes, out)
}

// verbHelp returns the help of one verb with its flags.
func (c Command) verbHelp(out *Out, v *Verb) string {
	var b strings.Builder
	line := "usage: " + c.Name
	if v.Name != "" {
		line += " " + v.Name
	}
	f := v.set(c.Name)
	flags := false
	f.VisitAll(func(*flag.Flag) { flags = true })
	if flags {
		line += " [flags]"
	}
	fmt.Fprintf(&b, "%s\n\n", strings.TrimSpace(line+" "+v.Args))
	for _, text := range []string{v.About, c.About} {
		if text != "" && (text == v.About || v.Name == "") {
			b.WriteString(prose(text, out) + "\n")
		}
	}
	f.VisitAll(func(x *flag.Flag) {
		arg, usage := flag.UnquoteUsage(x)
		head := "  -" + x.Name
		if arg != "" {
			head += " " + arg
		}
		if x.DefValue != "" && x.DefValue != "0" && x.DefValue != "0s" && x.DefValue != "false" &&
			!strings.Contains(usage, "default") {
			usage += " (default " + trimZeros(x) + ")"
		}
		if len(head) > 22 {
			b.WriteString(head + "\n")
			head = ""
		}
		b.WriteString(indent(fmt.Sprintf("%-24s", head), usage, out.Width()))
	})
	if v.Name == "" {
		if c.Notes != "" {
			b.WriteString("\n" + prose(c.Notes, out))
		}
		b.WriteString("\n" + prose(Codes, out))
	}
	return b.String()
}

// prose breaks the paragraphs of a help text between words. A line that begins with a space is a row
// of two columns, or stays as it is.
func prose(text string, out *Out) string {
	width := min(out.Width(), 90)
	var b, paragraph strings.Builder
	flush := func() {
		if paragraph.Len() > 0 {
			b.WriteString(indent("", paragraph.String(), width))
			paragraph.Reset()
		}
	}
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		if line != "" && line[0] != ' ' {
			paragraph.WriteString(line + " ")
			continue
		}
		flush()
		word := strings.TrimLeft(line, " ")
		_, text, columns := strings.Cut(word, "  ")
		if text = strings.TrimLeft(text, " "); columns && !strings.Contains(word[:len(word)-len(text)], "-") {
			b.WriteString(indent(strings.TrimSuffix(line, text), text, width))
			continue
		}
		b.WriteString(line + "\n")
	}
	flush()
	return b.String()
}

// trimZeros returns the default of a flag: 5m instead of 5m0s.
func trimZeros(f *flag.Flag) string {
	text := f.DefValue
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// build returns the version of this build.
func (c Command) build() string {
	version, revision := "(devel)", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" {
			version = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = " " + s.Value
			}
		}
	}
	return fmt.Sprintf("%s %s%s, %s %s/%s\n", c.Name, version, revision, runtime.Version(),
		runtime.GOOS, runtime.GOARCH)
}
