package cli

import (
	"errors"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/pluginbuild"
)

func TestSteps(t *testing.T) {
	t.Parallel()
	events := []pluginbuild.Event{
		{Stage: "go mod tidy", Kind: pluginbuild.Started},
		{Stage: "go mod tidy", Kind: pluginbuild.Output, Line: "go: downloading"},
		{Stage: "go mod tidy", Kind: pluginbuild.Done, Elapsed: 1500 * time.Microsecond},
		{Stage: "pull", Kind: pluginbuild.Started},
		{Stage: "pull", Kind: pluginbuild.Progress, Part: "layer", Line: "Downloading", Current: 1,
			Total: 4},
		{Stage: "pull", Kind: pluginbuild.Progress, Part: "other", Line: "Waiting"},
		{Stage: "compile", Kind: pluginbuild.Output, Line: "building"},
		{Stage: "compile", Kind: pluginbuild.Done, Elapsed: time.Second, Err: errors.New("exit code 1")},
	}
	show := func(live bool) string {
		var b strings.Builder
		o := &Out{w: &b, live: live, width: func() int { return 80 }}
		event := o.Steps()
		for _, e := range events {
			o.drawn = time.Time{} // no event waits for the next redraw
			event(e)
		}
		return b.String()
	}
	if got, want := show(false), "go mod tidy    ok  2ms\nbuilding\ncompile        failed  1s\n"; got !=
		want {
		t.Errorf("got %q, want %q", got, want)
	}
	// On a terminal the go command's line and the bars come, and go.
	got := show(true)
	for _, want := range []string{"go mod tidy …\n  go: downloading\n", "layer Downloading",
		" 25%  1 B of 4 B\n  other Waiting\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	if !strings.HasSuffix(got, "\x1b[Jcompile        failed  1s\n") {
		t.Errorf("the end is %q", got)
	}
}
