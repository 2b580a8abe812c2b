package debpkg_test

import (
	"bytes"
	"context"
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
	Argv           []string
	Stdout, Stderr string
	Code           int
}

type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }
func (e exitError) ExitCode() int { return int(e) }

// session is the host that the examples talk to. It fails on a command that
// was not recorded.
func session() (debpkg.Runner, debpkg.Options) {
	var calls []call
	data, err := os.ReadFile(recording)
	if err == nil {
		err = json.Unmarshal(data, &calls)
	}
	r := func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
		if err != nil {
			return err
		}
		if len(calls) == 0 || !slices.Equal(calls[0].Argv, argv) {
			return fmt.Errorf("the recorded session does not have this command next; run TestRecording with -update: %q", argv)
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
	return r, debpkg.Options{Root: "/ROOT", AptConfig: "/ROOT/etc/apt/private.conf"}
}

// TestRecording checks that the recorded session still is what the code does,
// by a real session beside it; with -update it records that.
func TestRecording(t *testing.T) {
	t.Parallel()
	f := newFixture(t, gateway("4.0.8", debs.TykOptions{Config: conf1}), gateway("5.2.5", debs.TykOptions{Config: conf2}))
	f.install("tyk-gateway=4.0.8")
	f.write("/opt/tyk-gateway/tyk.conf", "edited")
	// Hostname and free space are this machine's.
	neutral := strings.NewReplacer(f.root.Dir, "/ROOT", f.repo.Dir, "/REPO")
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	var calls []call
	r := func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
		var out, errOut bytes.Buffer
		err := debpkg.Local()(ctx, argv, stdin, &out, &errOut)
		c := call{}
		for _, a := range argv {
			c.Argv = append(c.Argv, neutral.Replace(a))
		}
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
		calls = append(calls, c)
		return err
	}
	var live bytes.Buffer
	if err := upgrade(t.Context(), r, debpkg.Options{Root: f.root.Dir, AptConfig: f.root.AptConfig, LockWait: time.Minute}, &live); err != nil {
		t.Fatal(err)
	}
	if *debpkg.Update {
		data, err := json.MarshalIndent(calls, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(recording, append(data, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var replayed bytes.Buffer
	r, o := session()
	o.LockWait = time.Minute
	if err := upgrade(t.Context(), r, o, &replayed); err != nil {
		t.Fatal(err)
	}
	if replayed.String() != live.String() {
		t.Errorf("the recorded session tells\n%s\nthe real one\n%s", &replayed, &live)
	}
}
