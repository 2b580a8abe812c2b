package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"
)

const testFlags Table = `
AB json          print JSON
AB part          a part
A part-name=x    the <name>
                 of the part
B number#        a <count>
B wait~          how long
A settle2~=5s     how long
AB one…          may be repeated
A mode=          the <mode>: fast or safe
`

func tableCommand(run func(context.Context, *Call) error) Command {
	return Command{Name: "test", Verbs: []Verb{
		{Name: "a", Flags: testFlags.Flags("A"), Needs: PartNeeds(testFlags.Flags("A")), Run: run},
		{Name: "b", Flags: testFlags.Flags("B"), Run: run}}}
}

// The text of a table makes the flags of each verb, and a call has their values.
func TestTable(t *testing.T) {
	t.Parallel()
	var got string
	c := tableCommand(func(_ context.Context, c *Call) error {
		got = fmt.Sprintln(c.On("part"), c.Text("part-name"), c.Number("number"), c.Duration("wait"),
			c.List("one"), c.Text("none"), c.Duration("settle2"))
		return nil
	})
	for args, want := range map[string]string{
		"a": "false x 0 0s [] 5s",
		"a -part -part-name y -one 1 -one 2 -settle2 1m": "true y 0 0s [1 2] 1m0s",
		"b -number 3 -wait 5s -one 1 -part":              "true  3 5s [1] 0s",
		"b -part-name y":                                 "-part-name goes with a, not with b",
		"b -number many":                                 "-number",
		"a -part-name y":                                 "-part-name needs -part",
		"a -part -part-name y -one=4 -one 5 -h":          "the name of the part",
	} {
		var out bytes.Buffer
		got = ""
		code := c.Run(t.Context(), strings.Fields(args), Streams{Out: &out, Err: &out})
		if text := strings.Join(strings.Fields(got+out.String()), " "); !strings.Contains(text,
			strings.Join(strings.Fields(want), " ")) {
			t.Errorf("%s: %d: %s, want %s", args, code, text, want)
		}
	}
	f := flag.NewFlagSet("", flag.ContinueOnError)
	testFlags.Flags("A")(f)
	if usage := f.Lookup("part-name").Usage; usage != "the `name` of the part" {
		t.Errorf("usage %q", usage)
	}
}

type again struct{ error }

func (again) Retryable() bool { return true }

// With -json the answer is one object, also where it is an error.
func TestAnswer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args string
		err  error
		code int
		want string
	}{
		{"a -json", nil, Yes, `{"ok":true,"result":7}`},
		{"a -json", Advice(again{errors.New("busy")}, "wait"), No,
			`{"error":"busy","hint":"wait","ok":false,"result":7,"retryable":true}`},
		{"a", Advice(errors.New("busy"), "wait"), No, ""},
		// somebody ended a part of the work, and not this command
		{"a -json", context.Canceled, No, `{"error":"context canceled","hint":"","ok":false,"result":7,` +
			`"retryable":false}`},
	} {
		var out, errOut bytes.Buffer
		code := tableCommand(func(ctx context.Context, x *Call) error {
			x.Say("for people")
			return x.Answer(ctx, 7, c.err)
		}).Run(t.Context(), strings.Fields(c.args), Streams{Out: &out, Err: &errOut})
		var flat bytes.Buffer
		if c.want != "" {
			if err := json.Compact(&flat, out.Bytes()); err != nil {
				t.Errorf("%v in %s", err, &out)
			}
		} else if out.String() != "for people\n" {
			t.Errorf("%s: %s", c.args, &out)
		}
		if code != c.code || flat.String() != c.want {
			t.Errorf("%s, %v: %d %s", c.args, c.err, code, &flat)
		}
	}
}

// A version is read as gateways write it. A wrong one is a wrong call.
func TestVersion(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"a -mode v5.2.5":     "5.2.5",
		"a -mode 5.3.0~rc1":  "5.3.0-rc1",
		"a":                  "<nil>",
		"a -mode=":           "-mode needs a value",
		"a -mode latest":     `invalid -mode "latest": want a version such as 5.2.5`,
		"a -mode 5.2 -json ": `invalid -mode "5.2": want a version`,
	} {
		var out bytes.Buffer
		code := tableCommand(func(_ context.Context, c *Call) error {
			v, err := c.Version("mode")
			if err == nil {
				c.Out.Printf("%v", v)
			}
			return err
		}).Run(t.Context(), strings.Fields(args), Streams{Out: &out, Err: &out})
		if bad := strings.ContainsAny(want, " "); !strings.Contains(out.String(), want) ||
			bad != (code == Usage) {
			t.Errorf("%s: %d: %s, want %s", args, code, &out, want)
		}
	}
}

func TestShow(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{"a": "text", "a -json": "7\n"} {
		var out bytes.Buffer
		tableCommand(func(_ context.Context, c *Call) error { return c.Show(7, "text") }).Run(t.Context(),
			strings.Fields(args), Streams{Out: &out, Err: &out})
		if out.String() != want {
			t.Errorf("%s: %q, want %q", args, &out, want)
		}
	}
}

func TestFailed(t *testing.T) {
	t.Parallel()
	if f := Failed(nil); f != nil {
		t.Errorf("of no error: %+v", f)
	}
	err := fmt.Errorf("build: %w", Advice(again{errors.New("busy")}, "wait"))
	if f := Failed(err); *f != (Failure{"build: busy", "wait", true}) {
		t.Errorf("%+v", f)
	}
	if f := Failed(errors.New("full")); *f != (Failure{Message: "full"}) {
		t.Errorf("%+v", f)
	}
}
