package cli

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

type hinted struct{}

func (h hinted) Error() string { return "take host: it is locked; call Unlock" }
func (h hinted) Hint() string  { return "call Unlock" }

func TestGrammar(t *testing.T) {
	t.Parallel()
	var file, set string
	var yes bool
	var wait time.Duration
	var got *Call
	var fails error
	shared := func(f *flag.FlagSet) {
		f.StringVar(&file, "file", "", "the `file`")
		f.BoolVar(&yes, "yes", false, "do not ask")
	}
	run := func(_ context.Context, c *Call) error { got = c; return fails }
	c := Command{Name: "tool", About: "It works.", Verbs: []Verb{
		{Name: "apply", About: "do it", Required: []string{"file"}, Run: run, Needs: map[string]string{
			"wait": "set"},
			Flags: func(f *flag.FlagSet) {
				shared(f)
				f.StringVar(&set, "set", "", "a `set`")
				f.DurationVar(&wait, "wait", time.Second, "how long")
			}},
		{Name: "show", Args: "SET FILE", About: "show it", Flags: shared, Run: run},
		{Name: "ask", Args: "[HOST…]", About: "ask", Run: run},
	}}
	call := func(args string) (int, string, string) {
		var out, errs bytes.Buffer
		got = nil
		code := c.Run(t.Context(), strings.Fields(args), Streams{Out: &out, Err: &errs})
		return code, out.String(), errs.String()
	}
	// Flags and arguments in any order.
	for _, args := range []string{"apply -file x -yes", "-file x apply -yes", "-yes -file=x apply",
		"apply -yes --file x"} {
		file, yes = "", false
		if code, _, errs := call(args); code != Yes || file != "x" || !yes || got.Verb != "apply" ||
			!got.Given["file"] {
			t.Errorf("%s: code %d, file %q, %s", args, code, file, errs)
		}
	}
	if code, _, _ := call("show a -yes b"); code != Yes || fmt.Sprint(got.Args) != "[a b]" {
		t.Errorf("%d, %v", code, got)
	}
	if code, _, _ := call("ask -- -yes show"); code != Yes || fmt.Sprint(got.Args) != "[-yes show]" {
		t.Errorf("%d, %v", code, got)
	}
	// The value of a flag is not a verb.
	if code, _, _ := call("-file show apply"); code != Yes || file != "show" || got.Verb != "apply" {
		t.Errorf("%d, %v", code, got)
	}

	for _, x := range []struct {
		args string
		code int
		out  string // in stdout
		errs string // all of stderr
	}{
		{"-h", Yes, "usage: tool VERB", ""},
		{"help", Yes, "usage: tool VERB", ""},
		{"apply -h", Yes, "usage: tool apply [flags]", ""},
		{"-help show", Yes, "usage: tool show [flags] SET FILE", ""},
		{"-version", Yes, "tool ", ""},
		{"apply -version", Yes, "tool ", ""},
		{"", Usage, "", "tool: no verb given (want apply, show, ask)\n  tool -h shows what it can do\n"},
		{"aply", Usage, "", "tool: unknown verb \"aply\" (want apply, show, ask)\n  tool -h shows what " +
			"it can do\n"},
		{"apply", Usage, "", "tool apply: -file is missing\n  tool apply -h shows the flags\n"},
		{"apply -fiel x", Usage, "", "tool apply: unknown flag -fiel\n  tool apply -h shows the flags\n"},
		{"apply -file", Usage, "", "tool apply: -file needs a value\n  tool apply -h shows the flags\n"},
		{"apply -file x -set s -wait 5", Usage, "", "tool apply: invalid -wait \"5\": want a duration " +
			"such as 90s or 5m\n  tool apply -h shows the flags\n"},
		{"apply -file x -wait 5s", Usage, "", "tool apply: -wait needs -set\n  tool apply -h shows " +
			"the flags\n"},
		{"apply -file x more", Usage, "", "tool apply: unexpected argument \"more\"\n  tool apply -h " +
			"shows the flags\n"},
		{"apply -file x redis://:geheim@h:1/0", Usage, "", "tool apply: unexpected argument " +
			"\"redis://***@h:1/0\"\n  tool apply -h shows the flags\n"},
		{"apply -file x -set s -wait mongodb://u:ge/heim@h", Usage, "", "tool apply: invalid -wait " +
			"\"mongodb://***@h\": want a duration such as 90s or 5m\n  tool apply -h shows the flags\n"},
		{"show -set s a b", Usage, "", "tool show: -set goes with apply, not with show\n  tool show -h " +
			"shows the flags\n"},
		{"show a", Usage, "", "tool show: FILE is missing\n  tool show -h shows the flags\n"},
	} {
		code, out, errs := call(x.args)
		if code != x.code || !strings.Contains(out, x.out) || x.out == "" && out != "" || errs != x.errs {
			t.Errorf("tool %s: code %d\nstdout %q\nstderr %q", x.args, code, out, errs)
		}
	}
	for _, x := range []struct {
		err  error
		code int
		errs string
	}{
		{errors.New("no"), No, "tool ask: no\n"},
		{hinted{}, No, "tool ask: take host: it is locked\n  call Unlock\n"},
		{Exit(Busy, fmt.Errorf("look: %w", hinted{})), Busy,
			"tool ask: look: take host: it is locked\n  call Unlock\n"},
		{Advice(hinted{}, "give -unlock"), No, "tool ask: take host: it is locked\n  give -unlock\n"},
		{Refuse(errors.New("not now")), Refused, "tool ask: not now\n"},
		{Exit(Unknown, nil), Unknown, ""},
		{fmt.Errorf("wait: %w", context.Canceled), Interrupted, "tool ask: wait: context canceled\n"},
	} {
		fails = x.err
		if code, _, errs := call("ask"); code != x.code || errs != x.errs {
			t.Errorf("%v: code %d, stderr %q", x.err, code, errs)
		}
	}
}

// What a host says may not steer the terminal, and JSON stays the same document.
func TestControlCharacters(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	o := NewOut(&b)
	o.color = true
	o.Printf("%s", o.Paint(Good, "a")+"\x1b]0;title\x07\x1b[2J\r\u202eb\x9b\xff\n")
	if want := "\x1b[32ma\x1b[0m\\u001b]0;title\\u0007\\u001b[2J\\u000d\\u202eb\ufffd\ufffd\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

func TestTableBreaksBetweenWords(t *testing.T) {
	t.Parallel()
	o := &Out{narrow: true, width: func() int { return 60 }}
	long := "the host cannot be reached because nobody answers at port twenty-two"
	got := o.Table([][]string{{"HOST", "REMARK"}, {"gateway-1", long}})
	want := "HOST       REMARK\n" +
		"gateway-1  the host cannot be reached because nobody answers\n" +
		"           at port twenty-two\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	got = o.Table([][]string{{"HOST", "WHAT", "REMARK"}, {"gateway-1", strings.Repeat("x", 30), long}})
	want = "HOST       WHAT                            REMARK\n" +
		"gateway-1  " + strings.Repeat("x", 30) + "\n" +
		"    the host cannot be reached because nobody answers at\n" +
		"    port twenty-two\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, l := range strings.Split(got, "\n") {
		if len(l) > 60 {
			t.Errorf("too wide: %q", l)
		}
	}
}

type hint string

func (h hint) Error() string { return "ask host: no answer; " + string(h) }
func (h hint) Hint() string  { return string(h) }

// Errors of several hosts with the same next step show it once.
func TestExplainJoined(t *testing.T) {
	t.Parallel()
	host := func(name, next string) error { return fmt.Errorf("%s: %w", name, hint(next)) }
	for _, c := range []struct {
		err         error
		cause, next string
	}{
		{errors.Join(host("a", "start sshd"), host("b", "start sshd")),
			"a: ask host: no answer\nb: ask host: no answer", "start sshd"},
		{Refuse(errors.Join(errors.New("c: no hint"), host("a", "start sshd"), host("b", "wait"))),
			"c: no hint\na: ask host: no answer\nb: ask host: no answer; wait", "start sshd"},
		{Advice(errors.Join(host("a", "Call"), host("b", "Call")), "type call"),
			"a: ask host: no answer\nb: ask host: no answer", "type call"},
		{errors.Join(host("a", "wait")), "a: ask host: no answer", "wait"},
		{&os.PathError{Op: "open", Path: "x", Err: os.ErrNotExist}, "open x: file does not exist", ""},
	} {
		if cause, next := Explain(c.err); cause != c.cause || next != c.next {
			t.Errorf("%v: %q, %q", c.err, cause, next)
		}
	}
}
