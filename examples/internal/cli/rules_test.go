package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A verb's rules for its flags hold before it runs.
func TestRules(t *testing.T) {
	t.Parallel()
	const flags Table = `
T host=   a <host>
T root=/  a <directory>
T label=  any <text>
T export= a <file>
T to…     a <recipient>
T number# a <count>
V to…     a <recipient>
`
	needs, excludes := map[string]string{"to": "export"}, map[string]string{"root": "host"}
	ran := func(context.Context, *Call) error { return nil }
	c := Command{Name: "test", Verbs: []Verb{
		{Name: "t", Flags: flags.Flags("T"), Needs: needs, Excludes: excludes, Empty: []string{"label"},
			Run: ran},
		{Name: "v", Flags: Groups(flags.Flags("V")), Needs: needs, Run: ran}}}
	for args, want := range map[string]string{
		"t":                          "",
		"t -host h":                  "",
		"t -host=":                   "-host needs a value",
		"t -root= -host h":           "-root needs a value",
		"t -root / -host h":          "-root and -host exclude each other",
		"t -label= -number 0":        "",
		"t -to a":                    "-to needs -export",
		"t -to a -export f -label x": "",
		"v -to a":                    "", // the verb has no -export
	} {
		var out bytes.Buffer
		code := c.Run(t.Context(), strings.Fields(args), Streams{Out: &out, Err: &out})
		if !strings.Contains(out.String(), want) || (code == Yes) != (want == "") ||
			want != "" && code != Usage {
			t.Errorf("%s: exit code %d, %q, want %q", args, code, &out, want)
		}
	}
}

// Groups registers the flags of all functions.
func TestGroups(t *testing.T) {
	t.Parallel()
	f := (&Verb{Flags: Groups(Table("T a one thing").Flags("T"), Table("T b another thing").Flags(
		"T"))}).set("")
	if f.Lookup("a") == nil || f.Lookup("b") == nil {
		t.Error("a flag is missing")
	}
}

func TestTranslate(t *testing.T) {
	t.Parallel()
	busy, gone := errors.New("busy"), errors.New("gone")
	cases := Cases{{busy, Busy, "wait"}, {gone, No, "look"}, {busy, Refused, "never"}, {fs.ErrExist, Refused, ""}}
	for _, c := range []struct {
		err  error
		code int
		hint string
	}{
		{nil, Yes, ""},
		{fmt.Errorf("lock: %w", busy), Busy, "wait"},
		{gone, No, "look"},
		{errors.New("other"), No, ""},
		{Exit(Usage, busy), Usage, ""},
		{Advice(fs.ErrExist, "its own"), Refused, "its own"},
		{fmt.Errorf("%w: %w", busy, context.Canceled), Interrupted, ""},
	} {
		err := Translate(c.err, cases)
		hint := ""
		if err != nil {
			_, hint = Explain(err)
		}
		if Code(err) != c.code || hint != c.hint || !errors.Is(err, c.err) {
			t.Errorf("%v: code %d, hint %q, want %d, %q", c.err, Code(err), hint, c.code, c.hint)
		}
	}
}

func TestOfFlag(t *testing.T) {
	t.Parallel()
	for want, err := range map[int]error{Yes: nil, Usage: fs.ErrNotExist, Refused: Refuse(fs.ErrExist),
		Interrupted: context.Canceled} {
		if got := OfFlag(t.Context(), err); Code(got) != want || !errors.Is(got, err) {
			t.Errorf("%v: %v, code %d, want %d", err, got, Code(got), want)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("operator pressed stop")
	cancel(stopped)
	if got := OfFlag(ctx, stopped); Code(got) != No {
		t.Errorf("an interruption has the code %d", Code(got))
	}
}

func TestLinesAndLabels(t *testing.T) {
	t.Parallel()
	if got := Lines([]int{1, 20}) + Lines[string](nil); got != "1\n20\n" {
		t.Errorf("%q", got)
	}
	o := &Out{color: true, width: func() int { return 80 }}
	rows := [][]string{{"compiled", "x.so"}, {"size", "3"}}
	if got := o.Labelled(rows, map[string]Style{"compiled": Good}); !strings.Contains(got,
		o.Paint(Good, "x.so")) || rows[0][1] != "x.so" {
		t.Errorf("%q, %q", got, rows)
	}
}

func TestFileHint(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, through := os.Stat(file + "/more")
	_, list := os.ReadDir(file)
	for want, err := range map[string]error{"check the path, which leads through a file": through,
		"name a directory instead of a file": list} {
		if got := fileHint(err); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}
