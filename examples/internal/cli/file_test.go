package cli

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good"), filepath.Join(dir, "bad")
	if err := errors.Join(os.WriteFile(good, []byte("42"), 0o600), os.WriteFile(bad, []byte("x"),
		0o600)); err != nil {
		t.Fatal(err)
	}
	parse := func(data []byte) (int, error) { return strconv.Atoi(string(data)) }
	for args, want := range map[string]string{
		"":                "0",
		"-f=":             "-f needs a value",
		"-f " + good:      "42",
		"-f " + bad:       "-f " + bad + ": strconv.Atoi",
		"-f " + dir:       "invalid -f: read " + dir + ": is a directory",
		"-f " + dir + "x": "invalid -f: open " + dir + "x: no such file",
	} {
		var out bytes.Buffer
		command := Command{Name: "test", Verbs: []Verb{{Flags: Table("T f= a <file>").Flags("T"),
			Run: func(_ context.Context, c *Call) error {
				n, err := File(c, "f", parse)
				c.Out.Printf("%d\n", n)
				return err
			}}}}
		command.Run(t.Context(), strings.Fields(args), Streams{Out: &out, Err: &out})
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s: %s, want %s", args, &out, want)
		}
	}
	all, err := ReadFiles(good, "", bad)
	if err != nil || len(all) != 3 || string(all[0]) != "42" || all[1] != nil || string(all[2]) != "x" {
		t.Error(all, err)
	}
	if _, err := ReadFiles(good, dir); err == nil {
		t.Error("a directory was read")
	}
}

// An error about the file of a flag names the flag, however the verb came to read the file.
func TestFlagOfFile(t *testing.T) {
	t.Parallel()
	none := filepath.Join(t.TempDir(), "none")
	_, missing := os.Open(none)
	_, denied := os.Open("/proc/1/mem/x")
	for _, x := range []struct {
		args string
		err  error
		code int
		want string
	}{
		{"-file " + none, missing, Usage, "tool: invalid -file: open " + none + ": no such file"},
		{"-file " + none, fmt.Errorf("read it: %w", missing), Usage, "tool: invalid -file: read it: open"},
		{"-file " + none, fmt.Errorf("invalid -file: %w", missing), Usage, "tool: invalid -file: open"},
		{"-file " + none, fmt.Errorf("a-file: %w", missing), Usage, "tool: invalid -file: a-file: open"},
		{"-list a -list " + none, missing, Usage, "tool: invalid -list: open " + none},
		{"-file /proc/1/mem/x", Exit(Refused, denied), Refused, "tool: invalid -file: open /proc/1/mem/x"},
		{"-file x", missing, No, "tool: open " + none},
		{"-file x", fmt.Errorf("inspect x: %w", fs.ErrNotExist), No, "tool: invalid -file: inspect x: file"},
		{"-file a/x", fmt.Errorf("stat a: %w", fs.ErrNotExist), No, "tool: invalid -file: stat a: file"},
		{"-file a,x", fmt.Errorf("read \"x\": %w", fs.ErrPermission), No, "tool: invalid -file: read"},
		{"-file x", errors.New("inspect x: it is damaged"), No, "tool: inspect x"},
		{"-file y", fmt.Errorf("inspect x: %w", fs.ErrNotExist), No, "tool: inspect x"},
		{"-file " + none + " " + none, missing, No, "tool: open " + none},
	} {
		var errs bytes.Buffer
		var list List
		code := Command{Name: "tool", Verbs: []Verb{{Args: "[SET]", Flags: func(f *flag.FlagSet) {
			f.String("file", "", "")
			f.Var(&list, "list", "")
		}, Run: func(context.Context, *Call) error { return x.err }}}}.Run(t.Context(),
			strings.Fields(x.args), Streams{Out: io.Discard, Err: &errs})
		if code != x.code || !strings.HasPrefix(errs.String(), x.want) {
			t.Errorf("%s, %v: exit code %d\n%s", x.args, x.err, code, &errs)
		}
	}
}

// A destination that ssh would take as an option is refused by every command.
func TestHostIsNoOption(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]int{"-host=-x": Usage, "-host gw1": Yes,
		"-host gw1 -host=-oProxyCommand=x": Usage} {
		var errs bytes.Buffer
		var hosts List
		code := Command{Name: "tool", Verbs: []Verb{{Flags: func(f *flag.FlagSet) {
			f.Var(&hosts, "host", "")
		}, Run: func(context.Context, *Call) error { return nil }}}}.Run(t.Context(),
			strings.Fields(args), Streams{Out: io.Discard, Err: &errs})
		if code != want || want == Usage && !strings.Contains(errs.String(),
			"want an SSH destination such as deploy@gw1") {
			t.Errorf("%s: exit code %d\n%s", args, code, &errs)
		}
	}
}
