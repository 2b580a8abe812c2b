package debpkg

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"example.com/tykupgrade/internal/run"
)

// What apt-cache policy 2.6 prints, and the phases of Ubuntu's.
func TestParsePolicy(t *testing.T) {
	t.Parallel()
	const text = `tyk-gateway:
  Installed: 4.0.8
  Candidate: 4.0.8
  Package pin: 4.0.8
  Version table:
     5.2.5 500 (phased 20%)
        500 file:/srv/repo ./ Packages
        -10 http://other stable/main amd64 Packages
 *** 4.0.8 1001
        500 file:/srv/repo ./ Packages
        100 /var/lib/dpkg/status
     1:3.0~rc1-1 500
        500 cdrom://[Disc 1] stable/main amd64 Packages
tyk-pump:
  Installed: 1.8.3
  Candidate: 1.9.0
  Version table:
     1.9.0 990
        990 https://packagecloud.io/tyk/tyk-pump/debian bookworm/main amd64 Packages
 *** 1.8.3 100
        100 /srv/root/var/lib/dpkg/status
tyk-lib:i386:
  Installed: (none)
  Candidate: (none)
  Version table:
     1.0 -1
        100 /var/lib/dpkg/status
`
	want := map[string]policy{
		"tyk-gateway":  {"4.0.8", []string{"5.2.5", "5.2.5", "4.0.8", "1:3.0~rc1-1"}},
		"tyk-pump":     {"1.9.0", []string{"1.9.0"}},
		"tyk-lib:i386": {},
	}
	if got := parsePolicy(text); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// The words of env(1) are taken from the command line where that is the same.
func TestWithoutEnv(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tool := filepath.Join(dir, "tool")
	if err := errors.Join(run.WriteProgram(tool, []byte("#!/bin/sh\necho \"$A $B $1\"\n"), 0o755),
		os.WriteFile(filepath.Join(dir, "data"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	path := "PATH=/nowhere:" + dir
	for _, c := range []struct{ argv, vars, rest []string }{
		{[]string{"env", "A=1", path, "B=x=y", "tool", "C=3"}, []string{"A=1", path, "B=x=y"},
			[]string{tool, "C=3"}},
		{[]string{"tool", "A=1"}, nil, []string{"tool", "A=1"}},
		{[]string{"env", "A=1", path}, nil, []string{"env", "A=1", path}},
		{[]string{"env", path, "data"}, nil, []string{"env", path, "data"}},
		{[]string{"env", path, "./tool"}, nil, []string{"env", path, "./tool"}},
		{[]string{"env", "-i", path, "tool"}, nil, []string{"env", "-i", path, "tool"}},
		{[]string{"env", "A=1", "tool"}, nil, []string{"env", "A=1", "tool"}},
		{[]string{"env", "PATH=.", "tool"}, nil, []string{"env", "PATH=.", "tool"}},
		{nil, nil, nil},
	} {
		if vars, rest := withoutEnv(c.argv); !slices.Equal(vars, c.vars) || !slices.Equal(rest, c.rest) {
			t.Errorf("%q is %q and %q", c.argv, vars, rest)
		}
	}
	var out strings.Builder
	if err := Local()(t.Context(), []string{"env", "A=1", path, "A=2", "B=x y", "tool", "3"}, nil, &out,
		nil); err != nil || out.String() != "2 x y 3\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	// Words that only env understands, and its own exit code.
	out.Reset()
	if err := Local()(t.Context(), []string{"env", "-u", "HOME", "A=1", "sh", "-c", "echo ${HOME-none} $A"},
		nil, &out, nil); err != nil || out.String() != "none 1\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	if err := Local()(t.Context(), []string{"env", path, "data"}, nil, nil, nil); exitCode(err) != 126 &&
		exitCode(err) != 127 {
		t.Errorf("a file that is not a program: %v", err)
	}
}
