package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/internal/run"
)

func TestExec(t *testing.T) {
	t.Parallel()
	var local rollout.Runner = run.Local(run.Options{})
	var ran []string
	x := rollout.Exec{
		Run: func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
			ran = append(ran, strings.Join(argv, " "))
			return local(ctx, argv, stdin, stdout, stderr)
		},
		DrainCommand: []string{"true", "out", "{server}:8080"},
		ReadyCommand: []string{"false", "{server}"},
		StateCommand: []string{"echo", `{"up":true,"sessions":3}`},
	}
	if err := x.Drain(t.Context(), "h1"); err != nil {
		t.Error(err)
	}
	var code interface{ ExitCode() int }
	if err := x.Ready(t.Context(), "h1"); !errors.As(err, &code) || code.ExitCode() != 1 {
		t.Errorf("error %v", err)
	}
	if s, err := x.State(t.Context(), "h1"); err != nil || s != (rollout.State{Up: true,
		Sessions: 3}) {
		t.Errorf("%+v, %v", s, err)
	}
	if err := x.Kill(t.Context(), "h1"); err == nil {
		t.Error("a command that is not there succeeded")
	}
	want(t, "commands", strings.Join(ran, "; "),
		`true out h1:8080; false h1; echo {"up":true,"sessions":3}`)
	for _, out := range []string{"ok", `{"up":true,"typo":1}`, `{"up":true} {}`} {
		x.StateCommand = []string{"echo", out}
		if _, err := x.State(t.Context(), "h1"); !errors.Is(err, rollout.ErrInvalid) ||
			!strings.Contains(err.Error(), `"drained"`) {
			t.Errorf("%q: %v", out, err)
		}
	}
	// Without output the exit code tells; other codes are failures with what was said.
	for code, c := range map[int]rollout.State{
		rollout.ExitUp: {Up: true}, rollout.ExitDrained: {Drained: true},
		rollout.ExitDraining: {Drained: true, Sessions: 1}, rollout.ExitDown: {},
	} {
		x.StateCommand = []string{"sh", "-c", fmt.Sprint("exit ", code)}
		if s, err := x.State(t.Context(), "h1"); err != nil || s != c {
			t.Errorf("exit code %d: %+v, %v", code, s, err)
		}
	}
	x.StateCommand = []string{"sh", "-c", "echo no credentials >&2; exit 1"}
	if _, err := x.State(t.Context(), "h1"); err == nil || !strings.Contains(err.Error(),
		"no credentials") {
		t.Errorf("error %v", err)
	}
	x.StateCommand = []string{"head", "-c", "70000", "/dev/zero"}
	if _, err := x.State(t.Context(), "h1"); err == nil || !strings.Contains(err.Error(),
		"more than 65536 bytes") {
		t.Errorf("error %v", err)
	}
	for _, server := range []string{"", "-rf", "a\nb"} {
		if err := x.Drain(t.Context(), server); !errors.Is(err, rollout.ErrInvalid) {
			t.Errorf("server %q: %v", server, err)
		}
	}
}
