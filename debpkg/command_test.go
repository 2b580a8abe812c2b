package debpkg_test

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/tykupgrade/debpkg"
)

// answers is a Runner that prints two streams, byte by byte in turn, so that
// every line of one is torn apart by the other, and exits with a code.
func answers(stdout, stderr string, code int) debpkg.Runner {
	return func(_ context.Context, argv []string, _ io.Reader, out, errOut io.Writer) error {
		if code == 100 && !slices.Contains(argv, "apt-get") {
			return nil // whoever asks about locks and the like
		}
		for i := range max(len(stdout), len(stderr)) {
			if i < len(stdout) && out != nil {
				_, _ = io.WriteString(out, stdout[i:i+1])
			}
			if i < len(stderr) && errOut != nil {
				_, _ = io.WriteString(errOut, stderr[i:i+1])
			}
		}
		if code == 0 {
			return nil
		}
		return exitError(code)
	}
}

// apt's two streams are torn into each other, as on a loaded machine: the cause
// is read from standard error alone.
func TestStreamsInterleaved(t *testing.T) {
	t.Parallel()
	const talk = "Get:1 http://r stable InRelease\nE: Unable to locate package decoy\nReading " +
		"package lists...\n"
	h := debpkg.New(answers(talk, "W: Failed to fetch http://r/InRelease  Could not resolve 'r'\nE: "+
		"Unable to fetch some archives\n", 100), debpkg.Options{})
	err := h.Update(t.Context())
	wantError(t, err, debpkg.ErrNetwork, "http://r: Could not resolve 'r'")
	if errors.Is(err, debpkg.ErrNoPackage) {
		t.Errorf("standard output was judged: %v", err)
	}
	e := debpkg.Classify("plan", "Building dependency tree...Reading state information...\n",
		"E: Unable to locate package tyk-nix\n", nil)
	wantError(t, e, debpkg.ErrNoPackage, "tyk-nix")
	if want := "Building dependency tree...Reading state information...\nE: Unable to locate " +
		"package tyk-nix\n"; e.Output != want {
		t.Errorf("output %q", e.Output)
	}
	e = debpkg.Classify("plan", "The following packages have unmet dependencies:\n a : Depends: b\n "+
		"    Depends: c\nnext\n", "E: Unable to correct problems, you have held broken packages.\n", nil)
	wantError(t, e, debpkg.ErrDepends, "a : Depends: b\n     Depends: c")
	if strings.Contains(e.Detail, "next") {
		t.Errorf("detail %q", e.Detail)
	}
	// A maintainer script's standard output shows what other rows look for.
	e = debpkg.Classify("apply", "cp: No space left on device\nE: Unable to locate package decoy\n",
		"dpkg: error processing package tyk-gateway (--configure):\n installed tyk-gateway package "+
			"post-installation script subprocess returned error exit status 1\n", nil)
	wantError(t, e, debpkg.ErrScript, "exit status 1")
	// dpkg explains itself on the indented line.
	e = debpkg.Classify("apply", "", "dpkg: error processing archive /x.deb (--unpack):\n trying to "+
		"overwrite '/opt/a', which is also in package tyk-gateway-ee 5.7.0\nErrors were "+
		"encountered\nE: Sub-process /usr/bin/dpkg returned an error code (1)\n", nil)
	wantError(t, e, debpkg.ErrFileConflict, "which is also in package tyk-gateway-ee 5.7.0")
	e = debpkg.Classify("apply", "", "dpkg: error processing archive /x.deb (--unpack):\n something "+
		"new\n over two lines\nlast\n", nil)
	wantError(t, e, debpkg.ErrApt, "something new\n over two lines")
	if strings.Contains(e.Detail, "last") {
		t.Errorf("detail %q", e.Detail)
	}
}

// What a host prints neither fills the memory nor steers the terminal.
func TestOutputOfHost(t *testing.T) {
	t.Parallel()
	endless := func(ctx context.Context, _ []string, _ io.Reader, out, _ io.Writer) error {
		for ctx.Err() == nil {
			if _, err := out.Write(make([]byte, 4096)); err != nil {
				return err
			}
		}
		return ctx.Err()
	}
	for name, r := range map[string]debpkg.Runner{"a fake": endless,
		"a process": func(ctx context.Context, _ []string, in io.Reader, out, errOut io.Writer) error {
			return debpkg.Local()(ctx, []string{"cat", "/dev/zero"}, in, out, errOut)
		}} {
		h := debpkg.New(r, debpkg.Options{})
		h.Limit(1 << 20)
		_, err := h.Packages(t.Context(), "x")
		wantError(t, err, debpkg.ErrOutput, "more than")
		if errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	h := debpkg.New(answers("", "E: Unable to locate package \x1b]0;owned\a\u202etyk\r\n", 100),
		debpkg.Options{})
	if err := h.Update(t.Context()); err == nil || strings.ContainsAny(err.Error(),
		"\x1b\a\r\u202e") || !strings.Contains(err.Error(), `\x1b]0;owned\x07\u202etyk`) {
		t.Errorf("%q", err)
	}
	p := debpkg.Plan{KeptBack: []string{"x\x1b[2J"}, Problems: []debpkg.Problem{{Text: "a\u2066b"}}}
	if text := p.String(); strings.ContainsAny(text, "\x1b\u2066") {
		t.Errorf("%q", text)
	}
}

func TestSudoRefusals(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"sudo: a password is required\n", "sudo: sorry, you must have a tty to run sudo\n",
		"sudo: a terminal is required to read the password\n",
		"sudo: no tty present and no askpass program specified\n", "deploy is not in the sudoers file.\n",
		"deploy is not in the sudoers file.  This incident will be reported.\n",
		"Sorry, user deploy is not allowed to execute '/usr/bin/env' as root on gw1.\n",
		"sudo: The \"no new privileges\" flag is set, which prevents sudo from running as root.\n",
	} {
		_, err := debpkg.New(debpkg.Sudo(answers("", text, 1)), debpkg.Options{}).Sources(t.Context())
		wantError(t, err, debpkg.ErrNotRoot, strings.TrimSpace(text), "NOPASSWD")
	}
	// A command's own words are no refusal of sudo's.
	_, err := debpkg.New(debpkg.Sudo(answers("", "cat: sudo: password not allowed\n", 1)),
		debpkg.Options{}).Sources(t.Context())
	if err == nil || errors.Is(err, debpkg.ErrNotRoot) {
		t.Errorf("%v", err)
	}
}

func TestSSHCommandLine(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "with blank")
	o := debpkg.SSHOptions{Config: "/c d", Identity: "/my keys/100%", KnownHosts: "/known hosts",
		Jump: "jump@b", Port: 2222, ControlDir: dir}
	line := func(o debpkg.SSHOptions) []string {
		t.Helper()
		argv, err := o.Argv("ops@gw1")
		if err != nil {
			t.Fatal(err)
		}
		return argv
	}
	argv := line(o)
	for _, want := range [][]string{{"-F", "/c d"}, {"-i", "/my keys/100%%"}, {"-J", "jump@b"},
		{"-p", "2222"}, {"-o", `UserKnownHostsFile="/known hosts"`},
		{"-a", "-x", "-o", "ClearAllForwardings=yes"}, {"--", "ops@gw1"}} {
		found := false
		for i := range argv {
			found = found || slices.Equal(argv[i:min(i+len(want), len(argv))], want)
		}
		if !found {
			t.Errorf("no %q in %q", want, argv)
		}
	}
	master := func(o debpkg.SSHOptions) string {
		t.Helper()
		for _, a := range line(o) {
			if path, ok := strings.CutPrefix(a, "ControlPath="); ok {
				return path
			}
		}
		t.Fatal("no ControlPath")
		return ""
	}
	if path := master(o); !strings.HasPrefix(path, `"`+dir+"/") {
		t.Errorf("control path %s", path)
	}
	// Whoever trusts other keys, or logs in otherwise, gets a connection of his own.
	known := filepath.Join(t.TempDir(), "known")
	o.KnownHosts = known
	seen := map[string]bool{master(o): true}
	for name, change := range map[string]func(*debpkg.SSHOptions){
		"identity": func(o *debpkg.SSHOptions) { o.Identity = "/other" },
		"jump":     func(o *debpkg.SSHOptions) { o.Jump = "" },
		"config":   func(o *debpkg.SSHOptions) { o.Config = "" }, "forward": func(o *debpkg.SSHOptions) {
			o.Forward = true
		},
		"known hosts": func(o *debpkg.SSHOptions) { o.KnownHosts = "/other" },
		"another key": func(*debpkg.SSHOptions) {
			if err := os.WriteFile(known, []byte("gw1 ssh-ed25519 AAAA\n"), 0o600); err != nil {
				t.Error(err)
			}
		},
	} {
		other := o
		change(&other)
		if m := master(other); seen[m] {
			t.Errorf("%s: the connection is shared", name)
		} else if name != "another key" {
			seen[m] = true
		}
		_ = os.Remove(known)
	}
	o.Forward = true
	if slices.Contains(line(o), "-a") {
		t.Error("Forward has no effect")
	}
	o.ControlDir = filepath.Join(t.TempDir(), strings.Repeat("x", 60))
	if path := master(o); path != "none" {
		t.Errorf("a path that is too long: %s", path)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o777); err != nil {
		t.Fatal(err)
	}
	o.ControlDir = dir
	_, err := o.Argv("gw1")
	wantError(t, err, debpkg.ErrUnsafe, filepath.Dir(dir))
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for text, h := range map[string]*debpkg.Host{
		"no Runner is given":                  debpkg.New(nil, debpkg.Options{}),
		"option Root":                         debpkg.New(debpkg.Local(), debpkg.Options{Root: "x"}),
		"option StateDir":                     debpkg.New(debpkg.Local(), debpkg.Options{StateDir: "x"}),
		"duration in the options is negative": debpkg.New(debpkg.Local(), debpkg.Options{LockWait: -1}),
	} {
		if _, err := h.Facts(t.Context()); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzQuote(f *testing.F) {
	f.Add("echo", "a b", "'")
	f.Add("x=y", "", "\\'\"$`!\n")
	f.Add("-n", "~", "*?[a]{b,c}#")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		argv := []string{a, b, c}
		line, err := debpkg.Quote(append([]string{"printf", `%s\0`}, argv...))
		if err != nil {
			if !strings.ContainsRune(a+b+c, 0) {
				t.Errorf("%q: %v", argv, err)
			}
			return
		}
		out, err := exec.Command("sh", "-c", line).Output()
		if err != nil || string(out) != a+"\x00"+b+"\x00"+c+"\x00" {
			t.Errorf("%q became %q by %s (%v)", argv, out, line, err)
		}
		// As the command itself, a name is never taken for an assignment.
		if line, err := debpkg.Quote([]string{a}); err == nil && strings.Contains(a, "=") &&
			!strings.HasPrefix(line, "'") {
			t.Errorf("%q is %s", a, line)
		}
	})
}
