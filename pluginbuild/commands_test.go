package pluginbuild_test

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/pluginbuild"
)

func shell(t *testing.T, r pluginbuild.Release, o pluginbuild.CommandOptions) string {
	t.Helper()
	commands, err := r.Commands(o)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, c := range commands {
		b.WriteString("# " + c.Why + "\n" + c.Shell() + "\n")
	}
	return b.String()
}

func TestCommands(t *testing.T) {
	t.Parallel()
	for _, v := range []string{"3.0.0", "4.0.3", "4.0.8", "4.1.0", "4.2.0", "4.3.8", "5.0.3", "5.0.15",
		"5.1.0", "5.2.1", "5.2.5",
		"5.3.0", "5.7.1", "5.8.13", "5.14.0"} {
		r := lookup(t, v)
		got := r.Path().String() + "\n" + shell(t, r, pluginbuild.CommandOptions{})
		if r.Path() == pluginbuild.Path3 {
			got += "\nwithout go get\n" + shell(t, r, pluginbuild.CommandOptions{NoGet: true})
		}
		golden(t, "commands/"+v+".txt", got)
	}
}

// What the module's own go.mod changes.
func TestCommandsForModule(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, version, mod string
		has, hasNot        []string
	}{
		{"an accepted go directive is kept", "5.2.5", "module example.org/p\n\ngo 1.18\n", nil,
			[]string{"-go="}},
		{"a too new one is not", "5.2.5", "module example.org/p\n\ngo 1.20\n", []string{"-go=1.19"}, nil},
		{"nor one of three numbers before 1.21", "5.2.5", "module example.org/p\n\ngo 1.19.0\n",
			[]string{"-go=1.19"}, nil},
		{"the compiler may be newer than the release's directive", "5.1.0",
			"module example.org/p\n\ngo 1.19\n", nil, []string{"-go="}},
		{"a patch level as in the release's go.mod is fine", "5.8.8",
			"module example.org/p\n\ngo 1.24.6\n", nil, []string{"-go="}},
		{"a newer one is not known to be there", "5.8.8", "module example.org/p\n\ngo 1.24.7\n",
			[]string{"-go=1.24.6"}, nil},
		{"no directive at all", "5.14.0", "module example.org/p\n", []string{"-go=1.25.0"}, nil},
		{
			"replaces of other releases go", "5.2.5", "module example.org/p\n\ngo 1.15\n\nreplace " +
				"gorm.io/gorm => github.com/TykTechnologies/gorm v1.20.7-0.20210409171139-b5c340f85ed0\n",
			[]string{"-dropreplace=gorm.io/gorm"}, nil,
		},
		{
			"the user's own stay", "5.2.5", "module example.org/p\n\ngo 1.15\n\nreplace gorm.io/gorm => " +
				"example.org/gorm v1.0.0\n",
			nil, []string{"-dropreplace"},
		},
		{
			"so do the release's", "5.1.0", "module example.org/p\n\ngo 1.15\n\nreplace gorm.io/gorm => " +
				"github.com/TykTechnologies/gorm v1.20.7-0.20210409171139-b5c340f85ed0\n",
			nil, []string{"-dropreplace"},
		},
		{
			"requirements that only an old replace could resolve go", "5.2.5",
			"module example.org/p\n\ngo 1.17\n\nrequire github.com/jensneuse/graphql-go-tools " +
				"v0.0.0-00010101000000-000000000000\n",
			[]string{"-droprequire=github.com/jensneuse/graphql-go-tools"}, nil,
		},
	} {
		edit := strings.Split(shell(t, lookup(t, c.version), pluginbuild.CommandOptions{
			GoMod: []byte(c.mod)}), "\n")[1]
		for _, want := range append(c.has, "-toolchain=none", "-droprequire="+pluginbuild.Module) {
			if !strings.Contains(edit, want) {
				t.Errorf("%s: no %s in %s", c.name, want, edit)
			}
		}
		for _, not := range c.hasNot {
			if strings.Contains(edit, not) {
				t.Errorf("%s: %s in %s", c.name, not, edit)
			}
		}
	}
}

func TestCommandsRefuses(t *testing.T) {
	t.Parallel()
	if _, err := lookup(t, "5.0.15").Commands(pluginbuild.CommandOptions{NoGet: true}); !errors.Is(err,
		pluginbuild.ErrNeedsGet) || !strings.Contains(err.Error(), "5.0.15") {
		t.Errorf("no get before 5.1: %v", err)
	}
	if _, err := lookup(t, "5.2.5").Commands(pluginbuild.CommandOptions{
		GoMod: []byte("nonsense")}); err == nil {
		t.Error("a go.mod that is none is taken")
	}
	r := lookup(t, "5.2.5")
	r.Commit = "main; reboot"
	if _, err := r.Commands(pluginbuild.CommandOptions{}); err == nil {
		t.Error("a commit that is none is taken")
	}
	if _, err := (pluginbuild.Release{}).Commands(pluginbuild.CommandOptions{}); err == nil {
		t.Error("an empty release is taken")
	}
}

// A shell reads back exactly the words that Shell wrote.
func FuzzShell(f *testing.F) {
	for _, s := range []string{"go", "", "a b", "it's", "$(reboot)", "a\nb", "-x=1", "é", "~root", "#",
		"a=b"} {
		f.Add(s)
	}
	// One shell for all of them: starting one takes far longer than reading a line.
	sh := exec.Command(lab.Program(f, "sh", "dash"))
	in, err := sh.StdinPipe()
	if err != nil {
		f.Fatal(err)
	}
	out, err := sh.StdoutPipe()
	if err != nil {
		f.Fatal(err)
	}
	if err := sh.Start(); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		_ = in.Close()
		_ = sh.Wait()
	})
	answers := bufio.NewReader(out)
	f.Fuzz(func(t *testing.T, s string) {
		if strings.ContainsRune(s, 0) {
			t.Skip()
		}
		line := pluginbuild.Command{Argv: []string{"printf", "%s", "[" + s, s, s + "]"}}.Shell()
		// A quote that stays open would wait for its end.
		_ = out.(*os.File).SetReadDeadline(time.Now().Add(time.Minute))
		_, werr := io.WriteString(in, line+"\nprintf '\\0'\n")
		got, err := answers.ReadString(0)
		if err = errors.Join(werr, err); err != nil || got != "["+s+s+s+"]\x00" {
			t.Fatalf("%q became %q, %v", s, got, err)
		}
	})
}
