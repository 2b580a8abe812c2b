package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/pluginbuild"
)

// Table holds the flags of all verbs as text. A line has the letters of the verbs, the flag's name
// and its usage, in which <word> names the value. A line that begins with a space continues the
// usage. The character after the name is the kind of flag:
//
//	none  a switch
//	=     a text, followed by its default
//	#     a number
//	~     a duration; "~=" and a default may follow
//	…     a repeatable flag
type Table string

// Flags returns the function that registers the flags of one verb. [Call] has their values.
func (t Table) Flags(letter string) func(*flag.FlagSet) {
	return func(f *flag.FlagSet) {
		for _, line := range t.lines() {
			words := strings.Fields(line)
			if len(words) < 3 || !strings.Contains(words[0], letter) {
				continue
			}
			usage := strings.NewReplacer("<", "`", ">", "`").Replace(strings.Join(words[2:], " "))
			name, otherwise, text := strings.Cut(words[1], "=")
			kind := strings.TrimLeft(name, "abcdefghijklmnopqrstuvwxyz0123456789-")
			name = strings.TrimSuffix(name, kind)
			switch {
			case kind == "~":
				d, _ := time.ParseDuration(otherwise) // none is 0
				f.Duration(name, d, usage)
			case text:
				f.String(name, otherwise, usage)
			case kind == "#":
				f.Int(name, 0, usage)
			case kind == "…":
				f.Var(&List{}, name, usage)
			default:
				f.Bool(name, false, usage)
			}
		}
	}
}

// lines are the flags, each on one line.
func (t Table) lines() (all []string) {
	for line := range strings.SplitSeq(string(t), "\n") {
		if strings.HasPrefix(line, " ") && len(all) > 0 {
			all[len(all)-1] += line
		} else if line != "" {
			all = append(all, line)
		}
	}
	return all
}

// PartNeeds returns the flags that require another flag: -NAME-x requires -NAME if the verb has
// that switch.
func PartNeeds(flags func(*flag.FlagSet)) map[string]string {
	f := flag.NewFlagSet("", flag.ContinueOnError)
	flags(f)
	with := map[string]string{}
	f.VisitAll(func(x *flag.Flag) {
		part, _, ok := strings.Cut(x.Name, "-")
		if ok && f.Lookup(part) != nil {
			with[x.Name] = part
		}
	})
	return with
}

// value returns the value of a flag, or the zero value if the verb has no such flag.
func value[T any](c *Call, name string) (v T) {
	if c.flags == nil {
		return v
	}
	if x := c.flags.Lookup(name); x != nil {
		if g, ok := x.Value.(flag.Getter); ok {
			v, _ = g.Get().(T)
		}
	}
	return v
}

// On reports whether a switch is on.
func (c *Call) On(name string) bool { return value[bool](c, name) }

// Text returns the value of a text flag.
func (c *Call) Text(name string) string { return value[string](c, name) }

// Version returns the gateway version that a flag has, or nil without the flag.
func (c *Call) Version(name string) (*semver.Version, error) {
	if !c.Given[name] {
		return nil, nil
	}
	v, err := pluginbuild.ParseVersion(c.Text(name))
	if err != nil {
		return nil, Wrong("invalid -%s %q: want a version such as 5.2.5", name, c.Text(name))
	}
	return v, nil
}

// Number returns the value of a number flag.
func (c *Call) Number(name string) int { return value[int](c, name) }

// Duration returns the value of a duration flag.
func (c *Call) Duration(name string) time.Duration { return value[time.Duration](c, name) }

// List returns the values of a repeatable flag.
func (c *Call) List(name string) []string { return value[[]string](c, name) }

// Any reports whether one of the flags was given.
func (c *Call) Any(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return c.Given[name] })
}

// Answer ends a verb that has a switch -json. With -json it prints the result, or the error with
// its hint. It returns the error with its exit code.
func (c *Call) Answer(ctx context.Context, result any, err error) error {
	c.Err.Clear()
	if Code(err) == Interrupted && ctx.Err() == nil {
		err = Exit(No, err) // a part of the work was cancelled, not the command
	}
	if !c.On("json") {
		return err
	}
	out := map[string]any{"ok": err == nil, "result": result}
	if f := Failed(err); f != nil {
		out["error"], out["hint"], out["retryable"] = f.Message, f.Hint, f.Retryable
	}
	return errors.Join(err, c.JSON(out))
}

// Failure is an error in JSON.
type Failure struct {
	Message   string `json:"message"` // the cause
	Hint      string `json:"hint,omitempty"`
	Retryable bool   `json:"retryable"`
}

// Failed describes an error for JSON. It returns nil for nil.
func Failed(err error) *Failure {
	if err == nil {
		return nil
	}
	var f Failure
	var again interface{ Retryable() bool }
	f.Message, f.Hint = Explain(err)
	f.Retryable = errors.As(err, &again) && again.Retryable()
	return &f
}

// Show prints text, or v as JSON with -json.
func (c *Call) Show(v any, text string) error {
	c.Err.Clear()
	if c.On("json") {
		return c.JSON(v)
	}
	c.Out.Printf("%s", text)
	return nil
}

// Say prints a line for people. It prints nothing with -json.
func (c *Call) Say(format string, a ...any) {
	c.Err.Clear()
	if !c.On("json") {
		c.Out.Printf("%s\n", c.Out.fill(fmt.Sprintf(format, a...)))
	}
}
