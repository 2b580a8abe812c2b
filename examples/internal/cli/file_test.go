package cli

import (
	"bytes"
	"context"
	"errors"
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
		"-f " + dir:       "is a directory",
		"-f " + dir + "x": "no such file",
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
