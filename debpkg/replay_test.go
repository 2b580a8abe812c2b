package debpkg_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab/debs"
)

// The examples run anywhere: they replay a session with the real apt, which
// TestRecording records with -update.
const recording = "testdata/session.json"

type call struct {
	Command string
	Stdout  string `json:",omitempty"`
	Stderr  string `json:",omitempty"`
	Code    int    `json:",omitempty"`
}

type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }
func (e exitError) ExitCode() int { return int(e) }

// line is a command line with its scripts by their digests.
func line(argv []string) string {
	argv = slices.Clone(argv)
	for i := range argv {
		if i > 0 && argv[i-1] == "-c" {
			argv[i] = fmt.Sprintf("script-%.6x", sha256.Sum256([]byte(argv[i])))
		}
	}
	text, err := debpkg.Quote(argv)
	if err != nil {
		return err.Error()
	}
	return text
}

// session is a host that an example talks to. It fails on a command that was
// not recorded.
func session(name string) (debpkg.Runner, debpkg.Options) {
	var all map[string][]call
	data, err := os.ReadFile(recording)
	if err == nil {
		err = json.Unmarshal(data, &all)
	}
	calls := all[name]
	r := func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
		if err != nil {
			return err
		}
		if len(calls) == 0 || calls[0].Command != line(argv) {
			return fmt.Errorf("the recorded session %q does not have this command next; run TestRecording with -update: %s", name, line(argv))
		}
		c := calls[0]
		calls = calls[1:]
		if stdin != nil {
			_, _ = io.Copy(io.Discard, stdin)
		}
		if stdout != nil {
			_, _ = io.WriteString(stdout, c.Stdout)
		}
		if stderr != nil {
			_, _ = io.WriteString(stderr, c.Stderr)
		}
		if c.Code != 0 {
			return exitError(c.Code)
		}
		return nil
	}
	return r, debpkg.Options{Root: "/ROOT", AptConfig: "/ROOT/etc/apt/private.conf", LockWait: time.Minute}
}

// replay is the body of an example.
func replay(name string, do func(context.Context, debpkg.Runner, debpkg.Options, io.Writer) error) {
	r, o := session(name)
	if err := do(context.Background(), r, o, os.Stdout); err != nil {
		fmt.Println(err)
	}
}

// TestRecording checks that the recorded sessions still are what the code
// does, by real ones beside them; with -update it records those.
func TestRecording(t *testing.T) {
	t.Parallel()
	f := newFixture(t, gateway("4.0.8", debs.TykOptions{Config: conf1}), gateway("5.2.5", debs.TykOptions{Config: conf2}))
	f.install("tyk-gateway=4.0.8")
	f.install("tyk-gateway=5.2.5")
	// Hostname and free space are this machine's.
	neutral := strings.NewReplacer(f.root.Dir, "/ROOT", f.repo.Dir, "/REPO")
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	sessions := map[string][]call{}
	for _, s := range []struct {
		name   string
		before func()
		do     func(context.Context, debpkg.Runner, debpkg.Options, io.Writer) error
	}{
		{"history", nil, history},
		{"revert from history", nil, revertFromHistory},
		{"facts", nil, facts},
		{"upgrade", func() { f.write("/opt/tyk-gateway/tyk.conf", "edited") }, upgrade},
		{"plan", nil, plan},
		{"apply and revert", nil, applyAndRevert},
		{"stage", nil, stage},
		{"forget", nil, forget},
		{"repair", func() {
			f.raw("dpkg", "--root="+f.root.Dir, "--force-not-root", "--force-script-chrootless", "--unpack", f.repo.Dir+"/tyk-gateway_5.2.5_"+debs.Arch()+".deb")
		}, repair},
	} {
		if s.before != nil {
			s.before()
		}
		r := func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
			var out, errOut bytes.Buffer
			err := debpkg.Local()(ctx, argv, stdin, &out, &errOut)
			c := call{Command: neutral.Replace(line(argv))}
			text := strings.ReplaceAll(out.String(), "\x1c"+name+"\n", "\x1cgw1\n")
			if stdout != nil {
				_, _ = io.WriteString(stdout, text)
			}
			if stderr != nil {
				_, _ = stderr.Write(errOut.Bytes())
			}
			c.Stdout, c.Stderr = neutral.Replace(text), neutral.Replace(errOut.String())
			var e interface{ ExitCode() int }
			if errors.As(err, &e) {
				c.Code = e.ExitCode()
			}
			sessions[s.name] = append(sessions[s.name], c)
			return err
		}
		var live bytes.Buffer
		if err := s.do(t.Context(), r, debpkg.Options{Root: f.root.Dir, AptConfig: f.root.AptConfig, LockWait: time.Minute}, &live); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if *debpkg.Update {
			continue
		}
		var replayed bytes.Buffer
		r, o := session(s.name)
		if err := s.do(t.Context(), r, o, &replayed); err != nil {
			t.Fatal(err)
		}
		if replayed.String() != neutral.Replace(live.String()) {
			t.Errorf("the recorded session %q tells\n%s\nthe real one\n%s", s.name, &replayed, &live)
		}
	}
	if *debpkg.Update {
		data, err := json.MarshalIndent(sessions, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(recording, append(data, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
