package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const valueFlags Table = `
T v      log
T mode=a the <mode>
T key=   a <file>
`

// The first wrong value is the error, whatever is read after it.
func TestValues(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte(" text\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	read := func(path string) (int, error) {
		if path == file {
			return 7, nil
		}
		return 0, errors.New("not a key: " + path)
	}
	for args, want := range map[string]string{
		"":                  `a "" 0.`,
		"-mode b":           `b "" 0.`,
		"-mode c":           `unknown -mode "c" (want a, b or last)`,
		"-mode=":            "-mode needs a value",
		"-key " + file:      `a "" 7.`,
		"-key=":             "-key needs a value",
		"-key none":         "not a key: none",
		"-mode c -key none": `unknown -mode "c" (want`,
	} {
		var out bytes.Buffer
		command := Command{Name: "test", Verbs: []Verb{{Flags: valueFlags.Flags("T"),
			Run: func(_ context.Context, c *Call) error {
				mode := Word(c, "mode", "a", "b", "last")
				other := Word(c, "no-such-flag", "a", "b")
				c.Out.Printf("%s %q %d.\n", mode, other, Read(c, "key", read))
				c.Note(nil)
				return c.Noted()
			}}}}
		code := command.Run(t.Context(), strings.Fields(args), Streams{Out: &out, Err: &out})
		if !strings.Contains(out.String(), want) || code == Yes != strings.HasSuffix(want, ".") {
			t.Errorf("%s: exit code %d\n%swant %s", args, code, &out, want)
		}
	}
}

// Values of any type are known by their text.
func TestWordOfType(t *testing.T) {
	t.Parallel()
	c := &Call{flags: (&Verb{Flags: valueFlags.Flags("T")}).set("")}
	if err := c.flags.Parse([]string{"-mode", "warn"}); err != nil {
		t.Fatal(err)
	}
	if got := Word(c, "mode", level(1), level(2)); got != 2 || c.Noted() != nil {
		t.Errorf("%v, %v", got, c.Noted())
	}
}

type level int

func (l level) String() string { return map[level]string{1: "debug", 2: "warn"}[l] }

func TestLog(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{"": "", "-v": "level=INFO msg=done n=1"} {
		var out bytes.Buffer
		command := Command{Name: "test", Verbs: []Verb{{Flags: valueFlags.Flags("T"),
			Run: func(_ context.Context, c *Call) error {
				if log := c.Log(); log != nil {
					log.Info("done", "n", 1)
				}
				return nil
			}}}}
		if code := command.Run(t.Context(), strings.Fields(args), Streams{Out: &out,
			Err: &out}); code != Yes || !strings.Contains(out.String(), want) ||
			want == "" && out.Len() > 0 {
			t.Errorf("%s: %d %s", args, code, fmt.Sprint(&out))
		}
	}
}
